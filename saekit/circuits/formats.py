"""`read`: a graph from a file of any format."""

import os
from pathlib import Path
from typing import Any

from . import circuit_tracer, neuronpedia, own
from .graph import Graph


def read(path: str | os.PathLike, coders: Any = None, model: Any = None) -> Graph:
    """The graph in a file that saekit, circuit-tracer (`.pt`, JSON) or Neuronpedia wrote; its contents tell which.

    coders: its transcoders, which no file holds. model: tells the text of tokens, which circuit-tracer's `.pt` has as
    ids only. Raises ValueError for a file that is missing, cut short, or of none of these.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    if not own.claims(path) and circuit_tracer.claims(path):
        return circuit_tracer.read(path, coders, model)
    if not own.claims(path) and neuronpedia.claims(path):
        return neuronpedia.read(path, coders)
    return own.read(path, coders)
