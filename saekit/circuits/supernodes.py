"""Supernodes: nodes that are looked at as one, by hand or as suggested. Groups are plain data: {label: nodes}."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from .graph import Graph

Groups = Mapping[str, Sequence[int]]


def between(graph: Graph, groups: Groups) -> pd.DataFrame:
    """The edges between groups: what all members of the source add to a member of the target, on average.

    `weight[T, S] = mean over t in T of sum over s in S of weights[t, s]`. Members without a row of their own do not
    count. Columns source, target, weight; the strongest first. Edges within a group are left out.

    Raises ValueError for a node that is in two groups, or not in the graph.
    """
    member = _members(graph, groups)
    has_row = graph.expanded
    rows = member[:, has_row] / np.maximum(member[:, has_row].sum(axis=1), 1)[:, None]
    weight = rows @ (graph.weights[has_row] @ member.T)
    labels = [*groups]
    found = [(labels[s], labels[t], float(weight[t, s])) for t, s in zip(*np.nonzero(weight), strict=True) if t != s]
    table = pd.DataFrame(found, columns=["source", "target", "weight"])
    return table.sort_values("weight", key=np.abs, ascending=False, ignore_index=True)


def _members(graph: Graph, groups: Groups) -> Float64[np.ndarray, "groups nodes"]:
    member = np.zeros((len(groups), len(graph)))
    for i, nodes in enumerate(groups.values()):
        if bad := [node for node in nodes if not 0 <= node < len(graph)]:
            raise ValueError(f"node {bad[0]}: the graph has nodes 0 to {len(graph) - 1}")
        member[i, [*nodes]] = 1
    if (twice := np.flatnonzero(member.sum(axis=0) > 1)).size:
        raise ValueError(f"node {twice[0]} is in more than one group")
    return member


def suggest(graph: Graph, distance: float = 0.5, most: int = 300) -> dict[str, list[int]]:
    """Groups of latents that write alike and sit alike, of two members or more.

    The likeness of two latents is the mean of the cosine of what they write (where the graph has coders), that of
    their rows and columns of weights, and `1 / (1 + distance in positions)`; groups are those of average linkage with
    a mean distance `1 - likeness` below `distance`, among the `most` latents with the largest influence.
    """
    latents = np.flatnonzero(graph.nodes["kind"] == "latent")
    latents = np.sort(latents[np.argsort(-graph.influence()[latents], kind="stable")[:most]])
    if len(latents) < 2:
        return {}
    pos = graph.nodes["pos"].to_numpy()[latents]
    parts = [_cosines(graph.weights[latents].toarray()), _cosines(graph.weights[:, latents].T.toarray()),
             1 / (1 + np.abs(pos[:, None] - pos[None]))]  # fmt: skip
    if graph.coders is not None:
        parts.append(_cosines(_writes(graph, latents)))
    apart = np.clip(1 - np.mean(parts, axis=0), 0, None)
    np.fill_diagonal(apart, 0.0)
    group = fcluster(linkage(squareform(apart, checks=False), "average"), distance, "distance")
    found = [latents[group == one].tolist() for one in np.unique(group)]
    return {_name(graph, nodes): nodes for nodes in found if len(nodes) > 1}


def _cosines(rows: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n n"]:
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, size, out=np.zeros_like(rows), where=size > 0)
    return unit @ unit.T


def _writes(graph: Graph, latents: Int[np.ndarray, " n"]) -> Float64[np.ndarray, "n d"]:
    """What each latent writes, summed over the layers it writes."""
    several = graph.coders if isinstance(graph.coders, list | tuple) else [graph.coders]
    banks = {bank.site.layer: bank for coder in several for bank in coder.banks}
    found = []
    for layer, index in zip(*(graph.nodes[c].to_numpy()[latents] for c in ("layer", "index")), strict=True):
        row = banks[layer].W_dec[int(index)].detach()
        found.append(row.view(len(banks[layer].site.writes), -1).sum(0).double().cpu().numpy())
    return np.stack(found)


def _name(graph: Graph, nodes: Sequence[int]) -> str:
    first, last = graph.nodes.iloc[nodes[0]], graph.nodes.iloc[nodes[-1]]
    layers = f"layer {first.layer}" if first.layer == last.layer else f"layers {first.layer} to {last.layer}"
    return f"{len(nodes)} latents, {layers}, from {nodes[0]}"
