"""Influence: how much of the targets each node explains, through all paths; pruning and scores by it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy.sparse import csr_array

from .graph import Graph

INPUTS = ("bias", "bos", "token", "position")


FULL = 1 / 3  # edges per pair of nodes above which a matrix is faster than a list of edges


class Block(NamedTuple):
    """The rows of some nodes of one layer, as far as their last column."""

    nodes: Int[np.ndarray, " rows"]
    weights: csr_array | Float64[np.ndarray, "rows columns"]

    def compact(self) -> "Block":
        """The same as a matrix, where there are edges between most of the pairs."""
        rows = self.weights
        size, width = rows.shape[0], int(rows.indices.max(initial=-1)) + 1
        if rows.nnz <= FULL * size * width:
            return self
        narrow = csr_array((rows.data, rows.indices, rows.indptr), (size, width), copy=False)
        return Block(self.nodes, narrow.toarray())


def flow(blocks: Iterable[Block], start: Float64[np.ndarray, " nodes"]) -> Float64[np.ndarray, " nodes"]:
    """`start (1 + A + A^2 + ...)` for rows of A from the last layer to the first, in one sweep.

    Edges run upwards, so what a node gets is complete when its turn comes. The power series needs a product with the
    whole of A for every layer.
    """
    total = start.astype(np.float64)
    for nodes, rows in blocks:
        total[: rows.shape[1]] += total[nodes] @ rows
    return total


def by_layer(graph: Graph, weights: csr_array) -> Iterator[Block]:
    """The rows of a graph from the last to the first, those of a layer at once where no edge runs within it."""
    layer, edges = graph.nodes["layer"].to_numpy(), weights.indptr
    starts = np.flatnonzero(np.diff(layer, prepend=np.nan))
    for first, last in zip(starts[::-1], [len(layer), *starts[:0:-1]], strict=True):
        columns = weights.indices[edges[first] : edges[last]]
        if not len(columns):
            continue
        size = last - first if columns.max() < first else 1
        for start in range(last - size, first - 1, -size):
            span, rows = slice(edges[start], edges[start + size]), edges[start : start + size + 1] - edges[start]
            parts = weights.data[span], weights.indices[span], rows
            yield Block(np.arange(start, start + size), csr_array(parts, (size, len(layer)), copy=False))


def influence(graph: Graph) -> Float64[np.ndarray, " nodes"]:
    """`p (A + A^2 + ...)`: p the probabilities of the targets, A the rows' absolute weights, each row summing to 1.

    What p flows down to a node along all paths (Ameisen et al. 2025). Of what it is normalised by, `rest` is no part.
    """
    start = graph.nodes["probability"].to_numpy()
    return flow(graph.blocks, start) - start


def prune(graph: Graph, node: float = 0.8, edge: float = 0.98) -> Graph:
    """The nodes that hold `node` of the influence, and of the edges between them those that hold `edge` of it.

    Inputs (bias, BOS, tokens, positions) and targets stay. Then a latent that lost its last edge to or from it goes,
    and an error that lost its last edge, until none does. Each row's `rest` takes what was dropped. An edge counts
    as much as flows along it, `A[t, s] (influence of t + its probability)`, in the graph of the nodes that stay.

    Raises ValueError for thresholds outside 0 to 1.
    """
    if not (0 <= node <= 1 and 0 <= edge <= 1):
        raise ValueError(f"node={node}, edge={edge}: shares of the influence, from 0 to 1")
    fixed = graph.nodes["kind"].isin([*INPUTS, "logit"]).to_numpy()
    graph_of_nodes = subgraph(graph, fixed | _largest(influence(graph), node))
    weights = graph_of_nodes.weights.copy()
    weights.data = np.where(_largest(_edge_flow(graph_of_nodes), edge), weights.data, 0.0)
    weights.eliminate_zeros()
    small = subgraph(graph_of_nodes, _connected(graph_of_nodes, weights), weights)
    return replace(small, about={**graph.about, "pruning": {"node_threshold": node, "edge_threshold": edge}})


def subgraph(graph: Graph, keep: Bool[np.ndarray, " nodes"], weights: csr_array | None = None) -> Graph:
    """The graph of the nodes in `keep`, numbered anew, with only these weights; `rest` takes what is dropped."""
    weights = (graph.weights if weights is None else weights)[keep][:, keep]
    had = np.asarray(graph.weights[keep].sum(axis=1)).ravel()
    rest = graph.rest[keep] + had - np.asarray(weights.sum(axis=1)).ravel()
    same = np.diff(graph.weights[keep].indptr) == np.diff(weights.indptr)
    rest = np.where(same, graph.rest[keep], rest)
    nodes = graph.nodes[keep].reset_index(drop=True)
    return replace(graph, nodes=nodes, weights=weights, totals=graph.totals[keep], rest=rest)


def _largest(size: Float64[np.ndarray, " n"], share: float) -> Bool[np.ndarray, " n"]:
    """The fewest entries that sum to `share` of all."""
    if share >= 1:
        return np.ones(len(size), bool)
    order = np.argsort(-size, kind="stable")
    before = np.cumsum(size[order]) - size[order]
    keep = np.zeros(len(size), bool)
    keep[order[before < share * size.sum()]] = True
    return keep


def _edge_flow(graph: Graph) -> Float64[np.ndarray, " edges"]:
    through = influence(graph) + graph.nodes["probability"].to_numpy()
    return graph.shares.data * np.repeat(through, np.diff(graph.weights.indptr))


def _connected(graph: Graph, weights: csr_array) -> Bool[np.ndarray, " nodes"]:
    """Without the latents and errors that have lost their last edge on a side, one after the other."""
    kind = graph.nodes["kind"].to_numpy()
    keep = np.ones(len(graph), bool)
    had_in, had_out = _degrees(graph.weights, keep)
    while True:
        into, out = _degrees(weights, keep)
        lost_in, lost_out = (had_in > 0) & (into == 0), (had_out > 0) & (out == 0)
        gone = keep & (((kind == "latent") & (lost_in | lost_out)) | ((kind == "error") & lost_out))
        if not gone.any():
            return keep
        keep &= ~gone


def _degrees(weights: csr_array, keep: Bool[np.ndarray, " nodes"]) -> tuple[np.ndarray, np.ndarray]:
    """Edges into and out of each node, among the nodes in `keep`."""
    pattern = csr_array((keep[weights.indices].astype(float), weights.indices, weights.indptr), weights.shape)
    return pattern.sum(axis=1), pattern.T @ keep.astype(float)


def scores(graph: Graph) -> dict[str, float]:
    """How much the latents explain (Ameisen et al. 2025).

    replacement: of the influence that ends in embeddings or in errors, the share that ends in embeddings
    completeness: of all rows, weighed by what flows through them, the share that does not come from errors
    """
    kind = graph.nodes["kind"].to_numpy()
    through = influence(graph)
    inputs, errors = (float(through[np.isin(kind, kinds)].sum()) for kinds in (("token", "position"), ("error",)))
    rows = np.diff(graph.weights.indptr) > 0
    through = (through + graph.nodes["probability"].to_numpy())[rows]
    wrong = (graph.shares @ (kind == "error").astype(float))[rows]
    return {
        "replacement": inputs / (inputs + errors) if inputs + errors else 1.0,
        "completeness": float(((1 - wrong) * through).sum() / through.sum()) if len(through) else 1.0,
    }
