"""A graph from another tool's nodes and edges, which come in another order and without what makes rows add up."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from .graph import COLUMNS, KINDS, Graph


def assembled(
    rows: Sequence[tuple],
    targets: Int[np.ndarray, " edges"],
    sources: Int[np.ndarray, " edges"],
    weights: Float[np.ndarray, " edges"],
    totals: Mapping[int, float] | None = None,
    **told: Any,
) -> Graph:
    """A graph of nodes (tuples of `COLUMNS`) and edges between them, put in the order of the computation.

    totals: of the nodes that have a row, by their place in `rows`. None: a latent's total is its activation, so that
    `rest` is what the tool left out (biases, positions, pruned nodes); a logit's is the sum of its row, for want of
    better. told: the other fields of `Graph`. Raises ValueError for edges that run downwards.
    """
    order = sorted(range(len(rows)), key=lambda i: _stage(rows[i]))
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows))
    nodes = pd.DataFrame([rows[i] for i in order], columns=list(COLUMNS))
    matrix = csr_array((weights, (place[targets], place[sources])), shape=(len(rows),) * 2, dtype=np.float64)
    sums = np.asarray(matrix.sum(1))
    if totals is None:
        has_row = np.diff(matrix.indptr) > 0
        total = np.where(has_row, np.where(nodes["kind"] == "latent", nodes["activation"], sums), 0.0)
    else:
        total = np.zeros(len(rows))
        total[place[list(totals)]] = list(totals.values())
    return Graph(nodes, matrix, total, total - sums, **told)


def _stage(row: tuple) -> tuple[int, int]:
    """Sources, then each layer's latents and errors, then logits."""
    kind, layer = row[:2]
    return (layer if kind in ("latent", "error", "logit") else -1), KINDS.index(kind)
