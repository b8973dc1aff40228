"""Interventions: what happens when nodes of a graph are changed, as the graph predicts it and as the model does it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..codes import Codes
from ..hooks import splice
from .frozen import LOGITS, Frozen
from .graph import Graph
from .influence import influence
from .linear import run
from .sources import Sources

Latent = tuple[int, int, int]  # layer, position, latent
Changes = Mapping[int | Latent, float]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Before and after an intervention.

    before, after: of each latent of the graph its pre-activation (the gate's state apart), of each target its value;
      0 for other nodes
    logits_before, logits_after: of the next token, before a soft cap
    """

    before: Float64[np.ndarray, " nodes"]
    after: Float64[np.ndarray, " nodes"]
    logits_before: Float64[np.ndarray, " vocab"]
    logits_after: Float64[np.ndarray, " vocab"]


def intervene(
    graph: Graph,
    model: Any,
    changes: Changes | Sequence[Changes],
    *,
    constrained: bool = True,
    freeze_attention: bool = True,
) -> Any:
    """Change nodes and run the model: an `Outcome`, or a list of them for a list of changes, all in one pass.

    changes: {node: factor} for a node of the graph, or {(layer, position, latent): value} for any latent, on or off.
      What they write changes in proportion.
    constrained: patterns, norm scales and the outputs of all MLPs are held, so that only direct effects remain. They
      are the graph's own: doubling node s changes target t by `weights[t, s]`
    otherwise the model goes on from `x + (g - f) W_dec`, as in `sk.splice`, and latents downstream are computed
      again; with `freeze_attention` the patterns stay those of the prompt

    Raises ValueError for a graph without coders, a change of no node, and, when not constrained, of nodes other than
    latents.
    """
    batch = [changes] if isinstance(changes, Mapping) else list(changes)
    bench = Bench(graph, model)
    run = bench.constrained if constrained else partial(bench.free, freeze_attention=freeze_attention)
    taps = run([bench.resolved(one) for one in batch])
    before, after = bench.values(bench.frozen.taps)[0], bench.values(taps)
    logits = [t[LOGITS].detach()[:, 0].double().cpu().numpy() for t in (bench.frozen.taps, taps)]
    outcomes = [Outcome(before, one, logits[0][0], its) for one, its in zip(after, logits[1], strict=True)]
    return outcomes[0] if isinstance(changes, Mapping) else outcomes


class Bench:
    """A graph's prompt, ready to run under changes."""

    def __init__(self, graph: Graph, model: Any) -> None:
        if graph.coders is None:
            raise ValueError("this graph has no coders to run; give them: Graph.load(path, coders=...)")
        self.graph, ids = graph, torch.tensor([graph.ids], device=model.cfg.device)
        self.frozen = Frozen(model, graph.coders, ids)
        self.sources = Sources(self.frozen)
        self.bank = {bank.site.layer: i for i, bank in enumerate(self.frozen.banks)}
        self.at = {row[:4]: node for node, row in enumerate(self.sources.rows)}

    def source(self, key: tuple) -> int:
        """The number of a node, given as (kind, layer, pos, index), among all nodes of the prompt."""
        if key not in self.at:
            raise ValueError(f"{key} is no node of this prompt on {self.frozen.model.cfg.model_name!r}")
        return self.at[key]

    def resolved(self, changes: Changes) -> tuple[dict[Latent, float], dict[tuple, float]]:
        """({latent: value}, {any other node, as (kind, layer, pos, index): factor}) of changes."""
        latents, factors = {}, {}
        for key, number in changes.items():
            if not isinstance(key, int | np.integer):
                latents[self._latent(*map(int, key))] = float(number)
                continue
            if not 0 <= key < len(self.graph):
                raise ValueError(f"node {key}: the graph has nodes 0 to {len(self.graph) - 1}")
            kind, layer, pos, index, activation = self.graph.nodes.iloc[key][:5]
            if kind == "logit":
                raise ValueError(f"node {key} is a target: change what makes it")
            if kind == "latent":
                latents[int(layer), int(pos), int(index)] = float(number * activation)
            else:
                factors[kind, layer, pos, index] = float(number)
        return latents, factors

    def _latent(self, layer: int, pos: int, latent: int) -> Latent:
        """Checked: a latent that a transcoder has, at a position where it is on."""
        coded = torch.nonzero(self.frozen.coded)[:, 0].tolist()
        if layer not in self.bank or pos not in coded or latent not in range(self.frozen.banks[self.bank[layer]].d_sae):
            raise ValueError(
                f"(layer, position, latent) = {(layer, pos, latent)}: the transcoders read layers {[*self.bank]}, are "
                f"on at positions {coded[0]} to {coded[-1]} but not at BOS, have {self.frozen.banks[0].d_sae} latents"
            )
        return layer, pos, latent

    def values(self, taps: Mapping[str, Tensor]) -> Float64[np.ndarray, "batch nodes"]:
        """Pre-activations of the graph's latents and values of its targets."""
        nodes = self.graph.nodes
        found = np.zeros((len(taps[LOGITS]), len(nodes)))
        for layer, i in self.bank.items():
            mine = np.flatnonzero((nodes["kind"] == "latent") & (nodes["layer"] == layer))
            keys = nodes.iloc[mine][["kind", "layer", "pos", "index"]].itertuples(index=False, name=None)
            rows = torch.tensor([self.source(key) - self.sources.first[i] for key in keys], dtype=torch.long)
            pos, _, _, seed, offset = (column[rows] for column in self.sources.active[i])
            x = taps[self.frozen.banks[i].site.read].detach()
            found[:, mine] = ((x[:, pos] * seed).sum(2) + offset).double().cpu().numpy()
        logits = taps[LOGITS].detach()[:, 0]
        target = np.flatnonzero(nodes["kind"] == "logit")
        found[:, target] = (logits @ directions(self.graph, logits).T).double().cpu().numpy()
        return found

    def constrained(self, batch: Sequence[tuple[dict, dict]]) -> dict[str, Tensor]:
        """The taps under changes, everything held but what they write."""
        leaves = {name: leaf.detach().repeat(len(batch), 1, 1) for name, leaf in self.frozen.leaves.items()}
        for row, (latents, factors) in enumerate(batch):
            for (layer, pos, latent), value in latents.items():
                self._write(leaves, row, layer, pos, latent, value)
            for key, factor in factors.items():
                node = self.source(key)
                for name, part in self.sources.parts.items():
                    mine = part.node == node
                    leaves[name][row].index_add_(0, part.pos[mine], part.vectors[mine], alpha=factor - 1)
        return self.frozen.replay(leaves)

    def _write(self, leaves: dict[str, Tensor], row: int, layer: int, pos: int, latent: int, value: float) -> None:
        i = self.bank[layer]
        node = self.at.get(("latent", layer, pos, latent))
        now = 0.0 if node is None else float(self.sources.active[i].value[node - self.sources.first[i]])
        for name, writers in self.frozen.writers.items():
            for j, columns in writers:
                if i == j:
                    leaves[name][row, pos] += (value - now) * self.frozen.banks[i].W_dec[latent, columns]

    @torch.no_grad()
    def free(self, batch: Sequence[tuple[dict, dict]], freeze_attention: bool) -> dict[str, Tensor]:
        """The taps of the model that goes on from the changed latents."""
        if others := [key for _, factors in batch for key in factors]:
            raise ValueError(f"{others[0]} is no latent; other nodes can only be changed with constrained=True")
        taps: dict[str, Tensor] = {}

        def tap(x, hook, name):
            taps[name] = x

        frozen, length = self.frozen, len(self.graph.ids)
        edits = [_sets(batch, bank.site.layer, length) for bank in frozen.banks]
        hooks = [(name, partial(tap, name=name)) for name in (*(bank.site.read for bank in frozen.banks), LOGITS)]
        hooks += frozen.hold(patterns_only=True) if freeze_attention else []
        with splice(frozen.model, frozen.banks, edit=edits), frozen.model.hooks(hooks):
            frozen.model(frozen.tokens.expand(len(batch), -1))
        return taps | {LOGITS: taps[LOGITS][:, -1:]}


def _sets(batch: Sequence[tuple[dict, dict]], layer: int, length: int) -> Callable[[Codes], Codes] | None:
    """The edit that sets the latents of one layer in each row of a batch; None where there are none."""
    chosen = [(row * length + p, i, value) for row, (latents, _) in enumerate(batch)
              for (at, p, i), value in latents.items() if at == layer]  # fmt: skip
    if not chosen:
        return None
    rows, latents, values = zip(*chosen, strict=True)

    def edit(codes: Codes) -> Codes:
        row, latent = (torch.tensor(t, device=codes.latents.device) for t in (rows, latents))
        key, keys = row * codes.d_sae + latent, codes.rows * codes.d_sae + codes.latents
        left = codes.where(~torch.isin(keys, key))
        value = torch.cat([left.values, left.values.new_tensor(values)])
        return Codes.from_entries(torch.cat([left.rows, row]), torch.cat([left.latents, latent]), value,
                                  codes.n_rows, codes.d_sae)  # fmt: skip

    return edit


def directions(graph: Graph, like: Float[Tensor, "_ vocab"]) -> Float[Tensor, "targets vocab"]:
    """Each target as a vector over the vocabulary: as `about` has it, or a token's logit less the mean."""
    ids = graph.nodes["index"][graph.nodes["kind"] == "logit"]
    own = graph.about.get("directions") or [None] * len(ids)
    out = like.new_zeros(len(ids), like.shape[1])
    for row, i, given in zip(out, ids, own, strict=True):
        if given is None and i < 0:
            raise ValueError("this graph does not say what its target is; only targets that are tokens can be run")
        row[given["ids"] if given else i] = row.new_tensor(given["weights"] if given else 1.0)
        row -= 0.0 if given else 1 / len(row)
    return out


def predict(graph: Graph, changes: Changes, *, constrained: bool = True) -> Float64[np.ndarray, " nodes"]:
    """By how much rows change when nodes are, by the graph alone.

    constrained: `weights @ r`, with r the relative changes of the nodes: direct effects, exact
    otherwise latents pass it on, `r_t = change_t / total_t`, with all gates, patterns and norms as they are
    """
    r, changed = np.zeros(len(graph)), np.zeros(len(graph), bool)
    activation = graph.nodes["activation"].to_numpy()
    at = {key: node for node, key in enumerate(zip(*(graph.nodes[c] for c in ("layer", "pos", "index")), strict=True))}
    for key, number in changes.items():
        node = key if isinstance(key, int | np.integer) else at.get(tuple(key))
        if node is None or not 0 <= node < len(graph):
            raise ValueError(f"{key} is no node of this graph; graph.intervene(model, ...) takes any latent")
        r[node], changed[node] = (number if node == key else number / activation[node]) - 1, True
    if constrained:
        return graph.weights @ r
    held = np.full((len(graph), 2), np.nan)  # with the changes, and without
    held[:, 0] = np.where(changed, 1 + r, np.nan)
    z = run(graph, held)
    return z[:, 0] - z[:, 1]


def check(graph: Graph, model: Any, top: int = 20, *, constrained: bool = False) -> pd.DataFrame:
    """Predicted beside actual: each of the `top` latents by influence is set to zero, all in one pass.

    Columns: node, layer, pos, label, influence, predicted and actual change of the targets (weighed by probability),
    agree (the same sign). `.attrs` has the share that agrees and the correlation of both.
    """
    size = np.where(graph.nodes["kind"] == "latent", influence(graph), 0)
    nodes = np.argsort(-size, kind="stable")[: min(top, int((size > 0).sum()))]
    if not len(nodes):
        raise ValueError("no latent has influence on the targets of this graph")
    p = graph.nodes["probability"].to_numpy() / graph.nodes["probability"].sum()
    batch = [{int(node): 0.0} for node in nodes]
    outcomes = intervene(graph, model, batch, constrained=constrained)
    predicted = np.array([p @ predict(graph, one, constrained=constrained) for one in batch])
    actual = np.array([p @ (o.after - o.before) for o in outcomes])
    table = graph.nodes.iloc[nodes][["layer", "pos", "label"]].assign(
        node=nodes,
        influence=size[nodes],
        predicted=predicted,
        actual=actual,
        agree=np.sign(predicted) == np.sign(actual),
    )
    table = table[["node", "layer", "pos", "label", "influence", "predicted", "actual", "agree"]].reset_index(drop=True)
    table.attrs["agree"] = float(table["agree"].mean())
    table.attrs["correlation"] = float(np.corrcoef(predicted, actual)[0, 1]) if len(nodes) > 2 else float("nan")
    return table
