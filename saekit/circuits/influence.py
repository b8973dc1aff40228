"""Influence: how much of the targets each node explains, through all paths; pruning and scores by it."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy.sparse import csr_array

from .graph import Graph

INPUTS = ("bias", "bos", "token", "position")


class Block(NamedTuple):
    """The rows of some nodes of one layer, as far as their last column."""

    nodes: Int[np.ndarray, " rows"]
    weights: csr_array


def flow(blocks: Iterable[Block], start: Float64[np.ndarray, " nodes"]) -> Float64[np.ndarray, " nodes"]:
    """`start (1 + A + A^2 + ...)` with rows of absolute weights that sum to 1, in one sweep.

    Edges run upwards, so with blocks from the last layer to the first, what a node gets is complete when its turn
    comes. The power series needs a product with the whole of A for every layer.
    """
    total = start.astype(np.float64)
    for nodes, weights in blocks:
        size = csr_array((np.abs(weights.data), weights.indices, weights.indptr), weights.shape)
        sums = size @ np.ones(size.shape[1])
        share = np.divide(total[nodes], sums, out=np.zeros(len(nodes)), where=sums > 0)
        total[: size.shape[1]] += share @ size
    return total


def by_layer(graph: Graph) -> Iterator[Block]:
    """The rows of a graph, from the last layer to the first."""
    layer = graph.nodes["layer"].to_numpy()
    rows = np.flatnonzero(np.diff(graph.weights.indptr))
    for one in np.unique(layer[rows])[::-1]:
        mine = rows[layer[rows] == one]
        yield Block(mine, graph.weights[mine])


def influence(graph: Graph) -> Float64[np.ndarray, " nodes"]:
    """`p (A + A^2 + ...)`: p the probabilities of the targets, A the rows' absolute weights, each row summing to 1.

    What p flows down to a node along all paths (Ameisen et al. 2025). Of what it is normalised by, `rest` is no part.
    """
    start = graph.nodes["probability"].to_numpy()
    return flow(by_layer(graph), start) - start


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
    return subgraph(graph_of_nodes, _connected(graph_of_nodes, weights), weights)


def subgraph(graph: Graph, keep: Bool[np.ndarray, " nodes"], weights: csr_array | None = None) -> Graph:
    """The graph of the nodes in `keep`, numbered anew, with only these weights; `rest` takes what is dropped."""
    from dataclasses import replace

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
    size = np.abs(graph.weights.data)
    through = influence(graph) + graph.nodes["probability"].to_numpy()
    rows = np.repeat(np.arange(len(graph)), np.diff(graph.weights.indptr))
    sums = np.bincount(rows, size, len(graph))
    return size * np.divide(through, sums, out=np.zeros(len(graph)), where=sums > 0)[rows]


def _connected(graph: Graph, weights: csr_array) -> Bool[np.ndarray, " nodes"]:
    """Without the latents and errors that have lost their last edge on a side, one after the other."""
    kind = graph.nodes["kind"].to_numpy()
    first = [_degrees(graph.weights, np.ones(len(graph), bool))]
    keep = np.ones(len(graph), bool)
    while True:
        into, out = _degrees(weights, keep)
        lost_in, lost_out = (first[0][0] > 0) & (into == 0), (first[0][1] > 0) & (out == 0)
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
    weights = graph.weights[rows]
    size = csr_array((np.abs(weights.data), weights.indices, weights.indptr), weights.shape)
    wrong = (size @ (kind == "error").astype(float)) / np.maximum(size.sum(axis=1), 1e-300)
    return {
        "replacement": inputs / (inputs + errors) if inputs + errors else 1.0,
        "completeness": float(((1 - wrong) * through).sum() / through.sum()) if len(through) else 1.0,
    }
