"""What a circuit view shows of a graph: which nodes and edges are kept, how they are named, what made one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from ..circuits import Graph
from ..circuits.linear import blocks, run
from ..viz.card import in_short
from ..viz.html import fixed, named, percent
from ..viz.web import short

RANDOM = 20  # circuits, for the control
DRAWN = ("token", "latent", "error", "logit")
PLAIN = {"bias": "bias", "bos": "first token's MLPs", "position": "position"}  # sources that are not drawn
Id = int | str  # the number of a node, or g0, g1, ... for a group


@dataclass(frozen=True)
class Kept:
    """Which nodes and which entries of `weights` are in the picture."""

    nodes: Bool[np.ndarray, " nodes"]
    edges: Bool[np.ndarray, " edges"]


class Wiring:
    """A graph, read once. features: for each layer the `sk.Features` that name its latents, or None."""

    def __init__(self, graph: Graph, features: Sequence[Any] | None = None) -> None:
        self.graph, self.features, nodes = graph, features, graph.nodes
        self.kind, self.layer, self.pos, self.index, self.activation, self.probability = (
            nodes[name].to_numpy() for name in ("kind", "layer", "pos", "index", "activation", "probability")
        )
        if not (self.kind == "logit").any():
            raise ValueError("the graph has no logit, nothing that is explained: trace it with a target")
        entries = graph.weights.tocoo()
        self.targets, self.sources, self.weights = entries.row, entries.col, entries.data
        self.drawn, self.prunable = np.isin(self.kind, DRAWN), np.isin(self.kind, ("latent", "error"))
        self.influence, self.flow = influence(graph)
        self.summed = not (self.pos[self.kind == "latent"] >= 0).any()
        self.names = [self._name(i) for i in range(len(graph))]

    # -- words

    def _name(self, i: int) -> str:
        """What a latent is called without its number; a node of another kind, its label."""
        label = str(self.graph.nodes["label"].iloc[i])
        if self.kind[i] != "latent":
            return label
        if (index := self.indexed(i)) is not None:
            return in_short(index.table.loc[self.index[i]])
        return "" if label == str(self.index[i]) else label

    def indexed(self, i: int) -> Any:
        """The features of a latent's layer, or None."""
        layer = int(self.layer[i])
        return None if self.features is None or layer >= len(self.features) else self.features[layer]

    def called(self, i: int) -> str:
        """A node in few words, for a row of the waterfall."""
        if self.kind[i] == "latent":
            return f"{self.index[i]} {self.names[i] or self.place(i)}"
        if self.kind[i] == "token":
            return short(self.names[i], 24)
        return f"error {self.place(i)}" if self.kind[i] == "error" else self.names[i]

    def site(self, i: int) -> str:
        sites = self.graph.about.get("sites")
        return str(sites[self.layer[i]]) if sites else f"layer {self.layer[i]}"

    def place(self, i: int) -> str:
        """Where a latent or an error is."""
        return self.site(i) if self.pos[i] < 0 else f"{self.site(i)}, {short(self.graph.tokens[self.pos[i]], 12)}"

    def said(self, i: int) -> str:
        """A node in words, for its title and for what is read aloud."""
        kind = self.kind[i]
        if kind in ("token", "logit"):
            return f"{kind} {named(self.names[i])}" + (f", {percent(self.probability[i])}" if kind == "logit" and self.probability[i] else "")
        name = f"latent {self.index[i]}" + (f", {self.names[i]}" if self.names[i] else "") if kind == "latent" else "error"
        return f"{name}, {self.place(i)}, {percent(self.share(i))} of the influence"

    def share(self, i: int) -> float:
        """The share of a node in the influence of all latents and errors."""
        return float(self.influence[i] / max(self.influence[self.prunable].sum(), 1e-30))

    # -- what is kept

    def kept(self, node: float, edge: float, out: Bool[np.ndarray, " nodes"]) -> Kept:
        """The fewest latents and errors that hold a share `node` of the influence, less those that are `out`, and the
        fewest edges among them, tokens and logits that hold a share `edge` of what flows there. Then what leads nowhere
        is taken away: a latent without an edge in or out, an error without one out."""
        nodes = self.drawn & ~self.prunable | _largest(np.where(self.prunable, self.influence, 0.0), node) & ~out
        among = nodes[self.targets] & nodes[self.sources]
        edges = _largest(np.where(among, self.flow, 0.0), edge)
        while True:
            into, from_ = (np.bincount(end[edges], minlength=len(nodes)) > 0 for end in (self.targets, self.sources))
            stranded = nodes & self.prunable & ~(from_ & (into | (self.kind == "error") | ~self.graph.expanded))
            if not stranded.any():
                return Kept(nodes, edges)
            nodes, edges = nodes & ~stranded, edges & ~stranded[self.targets] & ~stranded[self.sources]

    def leads_through(self, kept: Kept) -> bool:
        """Whether a logit is reached from a token, or where there are no tokens, from a latent."""
        reached = self.kind == "token" if (self.kind == "token").any() else kept.nodes & self.prunable
        for _ in range(len(blocks(self.graph))):
            reached = reached | (np.bincount(self.targets[kept.edges], reached[self.sources[kept.edges]], len(reached)) > 0)
        return bool((kept.nodes & (self.kind == "latent")).any() and reached[self.kind == "logit"].any())

    # -- what made a node

    def parts(self, members: Sequence[int], kept: Kept, ends: Mapping[int, Id]) -> tuple[list[dict[str, Any]], bool]:
        """(the sources of a node, or the mean over the members of a group; whether they are shares of 1).

        Shares, but where what is added up is under a fiftieth of what raises and lowers: then units."""
        rows = [i for i in members if self.graph.expanded[i]]
        shares = all(abs(self.graph.totals[i]) > 0.02 * self._size(i) for i in rows)
        sums: dict[tuple[str, str], float] = {}
        pale: set[tuple[str, str]] = set()
        for i in rows:
            scale = (abs(self.graph.totals[i]) / 100 if shares else 1.0) * len(rows)
            here = slice(*self.graph.weights.indptr[i : i + 2])
            for s, weight, shown in zip(self.graph.weights.indices[here], self.graph.weights.data[here], kept.edges[here], strict=True):
                inside = ends.get(int(s)) is not None and ends.get(int(s)) == ends.get(i)
                key = ("plain", "within the group" if inside else PLAIN[self.kind[s]]) if inside or self.kind[s] in PLAIN else (str(s), self.called(int(s)))
                sums[key] = sums.get(key, 0.0) + weight / scale
                if not shown:
                    pale.add(key)
            if self.graph.rest[i]:
                sums["plain", "left out before"] = sums.get(("plain", "left out before"), 0.0) + self.graph.rest[i] / scale
        parts = [{"name": name, "value": value, "plain": i == "plain", "pale": i != "plain" and (i, name) in pale} for (i, name), value in sums.items()]
        return parts, shares

    def _size(self, i: int) -> float:
        return float(np.abs(self.graph.weights.data[slice(*self.graph.weights.indptr[i : i + 2])]).sum() + abs(self.graph.rest[i]))

    # -- what the kept part can do

    def alone(self, kept: Kept, logit: int) -> dict[str, float | None]:
        """Faithfulness of the kept part, what is left without it, and the median of random circuits; None where latents
        and errors change the logit by nothing."""
        base = ~self.prunable
        circuit = kept.nodes | base
        drawn = self._random(kept)
        there = np.column_stack([base, drawn | base[:, None]])
        nothing, *chance = run(self.graph, there)[logit]
        span = self.graph.totals[logit] - nothing
        if abs(span) < 1e-9 * self._size(logit):
            return {"faithfulness": None, "random": None, "left": None}
        own = ~self.drawn[self.sources] | kept.edges
        with_it = run(self.graph, circuit[:, None], edges=own)[logit, 0]
        without = run(self.graph, (~circuit | base)[:, None], rest=True)[logit, 0]
        shares = [float((value - nothing) / span) for value in (with_it, np.median(chance), without)]
        return dict(zip(("faithfulness", "random", "left"), shares, strict=True))

    def _random(self, kept: Kept) -> Bool[np.ndarray, "nodes runs"]:
        """As many latents in each layer as are kept, at random, and the same errors."""
        rng, latent = np.random.default_rng(0), self.kind == "latent"
        there = np.repeat((kept.nodes & (self.kind == "error"))[:, None], RANDOM, axis=1)
        for layer in np.unique(self.layer[latent]):
            here = np.flatnonzero(latent & (self.layer == layer))
            there[here] = rng.random((len(here), RANDOM)).argsort(0) < kept.nodes[here].sum()
        return there

    def changed(self, changes: Mapping[int, float]) -> Float64[np.ndarray, " nodes"]:
        """What the graph predicts of every row when latents are multiplied."""
        factors = np.ones(len(self.graph))
        factors[list(changes)] = list(changes.values())
        return run(self.graph, np.ones((len(self.graph), 1), bool), factors=factors, rest=True)[:, 0]

    @cached_property
    def exact(self) -> float:
        """The largest error of a row's sum, as a share of what raises and lowers."""
        off = np.abs(self.graph.weights.sum(1) + self.graph.rest - self.graph.totals)
        return float((off / np.maximum([self._size(i) for i in range(len(off))], 1e-30)).max())


def _largest(values: Float64[np.ndarray, " n"], share: float) -> Bool[np.ndarray, " n"]:
    """The fewest of the values that sum to a share of all of them; none that is 0."""
    order = np.argsort(-values, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(values[order])[:-1]])
    chosen = np.zeros(len(values), bool)
    chosen[order[before < share * values.sum() * (1 - 1e-12)]] = True
    return chosen & (values > 0)


def influence(graph: Graph) -> tuple[Float64[np.ndarray, " nodes"], Float64[np.ndarray, " edges"]]:
    """Stand-in until graph.influence is there."""
    weights = abs(graph.weights)
    sums = np.asarray(weights.sum(1)).ravel()
    rows = np.repeat(np.arange(len(graph)), np.diff(weights.indptr))
    share = weights.data / np.where(sums > 0, sums, 1)[rows]
    from scipy.sparse import csr_array
    normal = csr_array((share, weights.indices, weights.indptr), weights.shape)
    start = graph.nodes["probability"].to_numpy(float)
    if not start.any():
        start = (graph.nodes["kind"] == "logit").to_numpy(float)
    total = start.copy()
    for block in reversed(blocks(graph)):
        total += normal[block].T @ total[block]
    return total - start, share * total[rows]
