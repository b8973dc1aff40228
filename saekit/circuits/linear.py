"""A graph run as the linear model that it is: what its nodes become when some are left out or changed."""

import numpy as np
from jaxtyping import Bool, Float64
from scipy.sparse import csr_array

from .graph import Graph


def blocks(graph: Graph) -> list[slice]:
    """Runs of nodes without an edge among them, in the order of the computation: one after the other can be computed."""
    starts, indptr, sources = [0], graph.weights.indptr, graph.weights.indices
    for t in np.flatnonzero(np.diff(indptr)):
        if sources[indptr[t] : indptr[t + 1]].max() >= starts[-1]:
            starts.append(int(t))
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(graph)], strict=True)]


def run(
    graph: Graph, on: Bool[np.ndarray, "nodes runs"], *, edges: Bool[np.ndarray, " edges"] | None = None,
    factors: Float64[np.ndarray, " nodes"] | None = None, rest: bool = False,
) -> Float64[np.ndarray, "nodes runs"]:  # fmt: skip
    """Pre-activations `z_t = sum_s weights[t, s] r_s [+ rest_t]`, where `r_s = on_s factors_s z_s / totals_s`.

    r is the share of its value that a node keeps; z_s / totals_s counts as 1 for what has no row. Gates, attention and
    norms stay as they were, so a latent can fall below its threshold, or below 0, without being cut off.
    on: which nodes are there, for each run; edges: which entries of `weights`; rest: whether what had been left out of
    the graph adds to the rows all the same.
    """
    weights = graph.weights
    if edges is not None:
        weights = csr_array((weights.data * edges, weights.indices, weights.indptr), weights.shape)
    z, r = np.zeros(on.shape), on * (1.0 if factors is None else factors[:, None])
    rows = graph.expanded & (graph.totals != 0)
    scale = np.where(rows, graph.totals, 1.0)[:, None]
    for block in blocks(graph):
        z[block] = weights[block] @ r + (graph.rest[block, None] if rest else 0.0)
        r[block] *= np.where(rows[block, None], z[block] / scale[block], 1.0)
    return z
