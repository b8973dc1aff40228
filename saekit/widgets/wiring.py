"""What a circuit view shows of a graph: which nodes and edges are kept, what they are called, what made one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.sparse import csr_array

from ..circuits import Graph
from ..circuits.influence import subgraph
from ..circuits.linear import run
from ..circuits.supernodes import between, suggest
from ..features import Features
from ..viz.card import in_short
from ..viz.html import named, percent
from ..viz.web import short

LOGITS = 5  # that are drawn, the likeliest
RANDOM = 20  # circuits, for the control
DRAWN = ("token", "latent", "error", "logit")
PLAIN = {"bias": "bias", "bos": "first token's MLPs", "position": "position"}  # sources that are not drawn
BALANCED = 0.02  # a row whose sum is a smaller part of what raises and lowers is not given in shares
Id = int | str  # the number of a node, or g0, g1, ... for a group


@dataclass(frozen=True, eq=False)
class Kept:
    """What is in the picture, in the numbers of the whole graph."""

    nodes: Bool[np.ndarray, " nodes"]
    weights: csr_array

    @cached_property
    def edges(self) -> frozenset[tuple[int, int]]:
        """(target, source)."""
        entries = self.weights.tocoo()
        return frozenset(zip(entries.row.tolist(), entries.col.tolist(), strict=True))


def strongest(graph: Graph, most: int) -> Graph:
    """At most so many latents and errors, those of the largest influence."""
    size = np.where(graph.nodes["kind"].isin(["latent", "error"]), graph.influence(), -1.0)
    if (size >= 0).sum() <= most:
        return graph
    return subgraph(graph, (size < 0) | (size >= np.sort(size)[-most]))


class Wiring:
    """A graph, read once. features: for each layer the `sk.Features` that name its latents, or None."""

    def __init__(self, graph: Graph, features: Any = None) -> None:
        self.graph, self.features, nodes = graph, features, graph.nodes
        self.kind, self.layer, self.pos, self.index, self.activation, self.probability = (
            nodes[name].to_numpy() for name in ("kind", "layer", "pos", "index", "activation", "probability")
        )
        if not (self.kind == "logit").any():
            raise ValueError("the graph has no logit, nothing that is explained: trace it with a target")
        self._check_features()
        likely = np.argsort(-np.where(self.kind == "logit", self.probability, -1.0), kind="stable")[:LOGITS]
        self.drawn, self.prunable = np.isin(self.kind, DRAWN), np.isin(self.kind, ("latent", "error"))
        self.drawn &= (self.kind != "logit") | np.isin(np.arange(len(graph)), likely)
        self.influence = graph.influence()
        self.summed = not (self.pos[self.kind == "latent"] >= 0).any()
        self.names = [self._name(i, str(label)) for i, label in enumerate(nodes["label"])]
        self._keys = _keys(graph)
        self._called = [self._call(i) for i in range(len(graph))]

    def _check_features(self) -> None:
        """Raise ValueError for features that are not a list of one index for each layer, or of other transcoders."""
        if isinstance(self.features, Features):
            raise ValueError("features: give a list with the index of each layer, or None for a layer without one")
        for layer, index in enumerate(self.features or ()):
            if index is None:
                continue
            mine = self.index[(self.kind == "latent") & (self.layer == layer)]
            at = index.coder.site.layer if index.coder.site else layer
            if at != layer or mine.max(initial=-1) >= index.coder.d_sae:
                raise ValueError(
                    f"features[{layer}] is of {index.coder.d_sae:,} latents at layer {at}; the graph has latents up to "
                    f"{mine.max(initial=-1):,} at layer {layer}: give the index of that layer's transcoder"
                )

    # -- words

    def _name(self, i: int, label: str) -> str:
        """What a latent is called without its number; a node of another kind, its label."""
        if self.kind[i] != "latent":
            return label
        if (index := self.indexed(i)) is not None:
            return in_short(index.table.loc[self.index[i]])
        return "" if label == str(self.index[i]) else label

    def indexed(self, i: int) -> Any:
        """The features of a node's layer, or None."""
        layer = int(self.layer[i])
        return None if self.features is None or layer >= len(self.features) else self.features[layer]

    def called(self, i: int) -> str:
        """A node in few words, for a row of the waterfall."""
        return self._called[i]

    def _call(self, i: int) -> str:
        if self.kind[i] == "latent":
            return f"{self.index[i]} {self.names[i] or self.place(i)}"
        if self.kind[i] in ("token", "logit"):
            return short(self.names[i], 24)
        return f"error, {self.place(i)}" if self.kind[i] == "error" else self.names[i]

    def site(self, i: int) -> str:
        """The layer of a node, or what the graph calls it."""
        sites = self.graph.about.get("sites")
        return str(sites[self.layer[i]]) if sites else f"layer {self.layer[i]}"

    def place(self, i: int) -> str:
        """Where a latent or an error is."""
        return self.site(i) if self.pos[i] < 0 else f"{self.site(i)}, {short(self.graph.tokens[self.pos[i]], 12)}"

    def said(self, i: int) -> str:
        """A node in words, for its title and for what is read aloud."""
        kind = self.kind[i]
        if kind == "logit":
            chance = f", {percent(self.probability[i])}" if self.index[i] >= 0 else ""
            return f"logit {named(self.names[i])}{chance}"
        if kind == "token":
            return f"token {self.pos[i] + 1}, {named(self.names[i])}"
        own = f"latent {self.index[i]}" + (f", {self.names[i]}" if self.names[i] else "")
        return f"{own if kind == 'latent' else 'error'}, {self.place(i)}, {percent(self.share(i))} of the influence"

    def share(self, i: int) -> float:
        """The share of a node in the influence of all latents and errors."""
        return float(self.influence[i] / max(self.influence[self.prunable].sum(), 1e-30))

    def group_name(self, nodes: Sequence[int]) -> str:
        """What most members are called; else where they are."""
        names = [self.names[i] for i in nodes if self.names[i]]
        common = max({*names}, key=names.count, default="")
        if common and 2 * names.count(common) > len(nodes):
            return common
        layers = sorted({int(self.layer[i]) for i in nodes})
        own = self.site(nodes[0]) if len(layers) == 1 else f"layers {layers[0]} to {layers[-1]}"
        places = {int(self.pos[i]) for i in nodes}
        return f"{own}, {short(self.graph.tokens[places.pop()], 9)}" if len(places) == 1 and not self.summed else own

    # -- what is kept

    def kept(self, node: float, edge: float, out: Bool[np.ndarray, " nodes"]) -> Kept:
        """`graph.prune(node, edge)` without what is `out`."""
        pruned = self.graph.prune(node, edge)
        numbers = np.flatnonzero(np.isin(self._keys, _keys(pruned)))
        entries = pruned.weights.tocoo()
        ends = numbers[entries.row], numbers[entries.col]
        there = np.zeros(len(self.graph), bool)
        there[numbers] = True
        there &= self.drawn & ~out
        among = there[ends[0]] & there[ends[1]]
        weights = csr_array((entries.data[among], (ends[0][among], ends[1][among])), self.graph.weights.shape)
        return Kept(there, weights)

    def shown(self, kept: Kept) -> Graph:
        """The graph with the edges in the picture, and those from sources that are not drawn; `rest` as it was."""
        return replace(self.graph, weights=csr_array(self._plain + kept.weights))

    @cached_property
    def _plain(self) -> csr_array:
        """Edges from sources that are not drawn."""
        entries = self.graph.weights.tocoo()
        plain = np.isin(self.kind, [*PLAIN])[entries.col]
        ends = entries.row[plain], entries.col[plain]
        return csr_array((entries.data[plain], ends), self.graph.weights.shape)

    def leads_through(self, kept: Kept) -> bool:
        """Whether a latent is left, and a logit is reached from a token (where there are none, from a latent)."""
        latents, tokens = kept.nodes & (self.kind == "latent"), self.kind == "token"
        reached = tokens if tokens.any() else latents
        pattern = csr_array((np.ones(kept.weights.nnz), kept.weights.indices, kept.weights.indptr), kept.weights.shape)
        for _ in range(len(np.unique(self.layer))):
            reached = reached | (pattern @ reached.astype(float) > 0)
        return bool(latents.any() and reached[self.kind == "logit"].any())

    def suggested(self, kept: Kept) -> tuple[dict[str, Any], ...]:
        """Groups of the latents in the picture, as `circuits.supernodes.suggest` finds them."""
        numbers = np.flatnonzero(kept.nodes)
        found = [tuple(int(numbers[i]) for i in nodes) for nodes in suggest(subgraph(self.graph, kept.nodes)).values()]
        return tuple({"name": self.group_name(nodes), "nodes": nodes} for nodes in found)

    # -- edges

    def edges(self, kept: Kept, ids: Mapping[int, Id]) -> list[dict[str, Any]]:
        """Edges between what is shown, the weakest first. ids: what each node in the picture is shown as.

        weight: of groups as in `circuits.supernodes.between`; share: of the influence, what flows along the edges."""
        groups, own = {}, {str(i): i for i in ids.values()}
        for node, i in ids.items():
            groups.setdefault(str(i), []).append(node)
        table = between(replace(self.graph, weights=kept.weights), groups)
        flows: dict[tuple[Id, Id], float] = {}
        entries = kept.weights.tocoo()
        flow = np.abs(entries.data) * self._through[entries.row]
        for t, s, along in zip(entries.row.tolist(), entries.col.tolist(), flow.tolist(), strict=True):
            key = ids[t], ids[s]
            flows[key] = flows.get(key, 0.0) + along
        sources, targets = ([own[i] for i in table[name].to_numpy(object)] for name in ("source", "target"))
        found = [
            {"source": s, "target": t, "weight": w, "share": flows[t, s]}
            for s, t, w in zip(sources, targets, table["weight"].tolist(), strict=True)
        ]
        return sorted(found, key=lambda edge: edge["share"])

    @cached_property
    def _through(self) -> Float64[np.ndarray, " nodes"]:
        """What flows through a node, for each unit of what its row adds up."""
        through = self.influence + self.probability
        return np.divide(through, self._sizes, out=np.zeros(len(through)), where=self._sizes > 0)

    @cached_property
    def _sizes(self) -> Float64[np.ndarray, " nodes"]:
        """What raises and lowers a row, signs aside, but for the rest."""
        return np.asarray(abs(self.graph.weights).sum(1)).ravel()

    # -- what made a node

    def parts(self, members: Sequence[int], kept: Kept, ids: Mapping[int, Id]) -> tuple[list[dict[str, Any]], bool]:
        """(the sources of a node, or the mean over the members of a group; whether in per cent of the total).

        Per cent, but where a total is a small part of what raises and lowers: then in units of it."""
        rows = [i for i in members if self.graph.expanded[i]]
        shares = all(abs(self.graph.totals[i]) > BALANCED * self._sizes[i] for i in rows)
        parts: dict[Any, dict[str, Any]] = {}
        for i in rows:
            scale = (abs(self.graph.totals[i]) / 100 if shares else 1.0) * len(rows)
            for s, weight in self._row(i):
                key, part = self._part(i, s, kept, ids)
                old = parts.setdefault(key, part | {"value": 0.0, "pale": False})
                old["value"] += weight / scale
                old["pale"] |= part["pale"]
        return [part for part in parts.values() if part["value"]], shares

    def _row(self, i: int) -> list[tuple[int, float]]:
        """(source, contribution) of a row; -1 for its rest."""
        span = slice(*self.graph.weights.indptr[i : i + 2])
        sources, values = self.graph.weights.indices[span], self.graph.weights.data[span]
        return [*zip(sources.tolist(), values.tolist(), strict=True), (-1, float(self.graph.rest[i]))]

    def _part(self, i: int, s: int, kept: Kept, ids: Mapping[int, Id]) -> tuple[Any, dict[str, Any]]:
        """(what is added up under one name, how it is shown)."""
        if s < 0:
            name = "left out before"
        elif self.kind[s] in PLAIN:
            name = PLAIN[self.kind[s]]
        elif isinstance(ids.get(s), str) and ids.get(s) == ids.get(i):
            name = "within the group"
        else:
            return s, {"name": self.called(s), "plain": False, "pale": (i, s) not in kept.edges}
        return name, {"name": name, "plain": True, "pale": False}

    # -- what the kept part can do

    def alone(self, kept: Kept, logit: int) -> dict[str, float | None]:
        """Faithfulness of the kept part, what is left without it, and the median of random circuits; None where latents
        and errors change the logit by nothing."""
        held = np.where(self.prunable, 0.0, np.nan)[:, None]
        chance = np.where(self._random(kept), np.nan, held)
        nothing, *others = run(self.graph, np.column_stack([held, chance]), rest=False)[logit]
        span = self.graph.totals[logit] - nothing
        if abs(span) < 1e-9 * self._sizes[logit]:
            return {"faithfulness": None, "random": None, "left": None}
        own = np.where(self.prunable & ~kept.nodes, 0.0, np.nan)
        with_it = run(self.shown(kept), own[:, None], rest=False)[logit, 0]
        without = np.where(self.prunable & kept.nodes, 0.0, np.nan)
        values = with_it, np.median(others), run(self.graph, without[:, None])[logit, 0]
        shares = [float((value - nothing) / span) for value in values]
        return dict(zip(("faithfulness", "random", "left"), shares, strict=True))

    def _random(self, kept: Kept) -> Bool[np.ndarray, "nodes runs"]:
        """As many latents in each layer as are kept, at random, and the same errors."""
        rng, latent = np.random.default_rng(0), self.kind == "latent"
        there = np.repeat((kept.nodes & (self.kind == "error"))[:, None], RANDOM, axis=1)
        for layer in np.unique(self.layer[latent]):
            here = np.flatnonzero(latent & (self.layer == layer))
            there[here] = rng.random((len(here), RANDOM)).argsort(0).argsort(0) < kept.nodes[here].sum()
        return there

    @cached_property
    def exact(self) -> float:
        """The largest error of a row's sum, as a share of what raises and lowers."""
        off = np.abs(np.asarray(self.graph.weights.sum(1)).ravel() + self.graph.rest - self.graph.totals)
        return float((off / np.maximum(self._sizes + np.abs(self.graph.rest), 1e-30))[self.graph.expanded].max())


def _keys(graph: Graph) -> np.ndarray:
    """One string for each node, which it keeps when others are dropped."""
    columns = [graph.nodes[name].to_numpy().astype(str) for name in ("kind", "layer", "pos", "index")]
    return np.array([" ".join(row) for row in zip(*columns, strict=True)])
