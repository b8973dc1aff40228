"""saekit's own format of graphs: one safetensors file, arrays of the rows and nodes and a JSON header for the rest."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.sparse import csr_array
from torch import Tensor

from ..files import replacing
from ..io.tensors import from_safetensors
from .graph import COLUMNS, Graph

FORMAT, HEADER = 1, "saekit_graph"
_NUMBERS = {"layer": np.int64, "pos": np.int64, "index": np.int64, "activation": float, "probability": float}


def claims(path: Path) -> bool:
    """Whether this file has our header."""
    try:
        with safe_open(path, "pt") as file:
            return HEADER in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def write(graph: Graph, path: Path) -> Path:
    """Write a graph, whole or not at all, and return the path; ".safetensors" is added where it is missing.

    All of it comes back exactly, but for the coders, which have files of their own. Raises ValueError where `about`
    or `model` holds what JSON has not, OSError when the folder cannot be written.
    """
    path = path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")
    tensors, header = packed(graph)
    with replacing(path) as temporary:
        save_file(tensors, temporary, {HEADER: header})
    return path


def read(path: Path, coders: Any = None) -> Graph:
    """The graph in the file. Raises ValueError for one that is cut short, foreign, of a later format or damaged."""
    tensors = from_safetensors(path)
    with safe_open(path, "pt") as file:
        found = file.metadata() or {}
    if HEADER not in found:
        raise ValueError(
            f"{str(path)!r} is no graph: expected the header {HEADER!r}, found {sorted(found) or 'none'}; was it "
            "written by graph.save?"
        )
    try:
        return unpacked(tensors, found[HEADER], coders)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a whole graph: {error}") from error


def packed(graph: Graph) -> tuple[dict[str, Tensor], str]:
    """A graph as arrays, and as JSON what they do not hold."""
    weights = graph.weights
    arrays = {
        "weights": weights.data, "columns": weights.indices, "rows": weights.indptr,
        "totals": graph.totals, "rest": graph.rest,
    } | {column: graph.nodes[column].to_numpy(dtype) for column, dtype in _NUMBERS.items()}  # fmt: skip
    words = {
        "format": FORMAT, "kind": graph.nodes["kind"].tolist(), "label": graph.nodes["label"].tolist(),
        "ids": [int(i) for i in graph.ids], "tokens": list(graph.tokens), "model": dict(graph.model),
        "bound": float(graph.bound), "about": dict(graph.about),
    }  # fmt: skip
    try:
        header = json.dumps(words, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"graph.model and graph.about hold plain data only, to be written: {error}") from error
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, header


def unpacked(tensors: dict[str, Tensor], header: str, coders: Any = None) -> Graph:
    """The graph that `packed` took apart. Raises ValueError, KeyError, TypeError or IndexError for another."""
    words = json.loads(header)
    if words["format"] > FORMAT:
        raise ValueError(f"format {words['format']}, this version reads up to {FORMAT}; update saekit")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise ValueError(f"{bad[0]!r} holds NaN or infinite values")
    nodes = pd.DataFrame({name: words[name] if name in words else arrays[name] for name in COLUMNS})
    weights = csr_array((arrays["weights"], arrays["columns"], arrays["rows"]), shape=(len(nodes),) * 2)
    weights.check_format()  # indices within the graph
    return Graph(
        nodes, weights, arrays["totals"], arrays["rest"], tuple(words["ids"]), tuple(words["tokens"]), words["model"],
        coders, words["bound"], words["about"],
    )  # fmt: skip
