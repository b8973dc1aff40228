"""Sparse feature circuits: the latents and errors that a number rests on, over prompts, and who acts on whom."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from scipy.sparse import csr_array
from torch import Tensor

from ..attribute.gradients import integrate, warn_of
from ..attribute.nodes import Mean
from ..attribute.setting import setting
from ..attribute.targets import AnyTarget, Each, on, prompt_tokens
from ..corpus import pieces
from ..hooks import Site, at_sites, check_fit, fires_after, model_record
from .graph import COLUMNS, Graph
from .places import By, Places, places_of
from .wires import Part, edges_of

METHODS = ("integrated", "gradient")
Prompts = str | Int[Tensor, "_ _"] | Int[Tensor, " _"]


@dataclass(frozen=True, eq=False)
class FeatureCircuit:
    """A sparse feature circuit (Marks et al. 2024, arXiv 2403.19647): every node, and the edges among the largest.

    nodes: one row a node, the largest |effect| first; the index is 0, 1, ...
      site, kind  latent, error (one for each site and place), or off (with a mean: all latents that are off)
      latent      -1 for error and off
      place       its number in `places.names`
      on          at how many positions of the prompts the latent is on
      activation  summed over the positions of the place, mean over prompts; of an error, its norm
      effect      likewise: by what the target changes when the node goes to its baseline
    edges: source, target (numbers of nodes, -1 for the target of the circuit), weight: the part of the target node's
      effect that comes from the source without passing another site on its way
    sums: for each site the sum of its nodes' effects; with integrated gradients also the change of the target when all
      of them go to their baselines, and order and residual as in `sk.integrated_gradients`, means over prompts
    value: the target itself, mean over prompts; tokens, ids: of the first prompt
    """

    nodes: pd.DataFrame
    edges: pd.DataFrame
    sums: pd.DataFrame
    places: Places
    target: str
    value: float
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    model: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        kinds, edges = self.nodes["kind"].value_counts(), f"{len(self.edges):,} edges"
        found = ", ".join(f"{n:,} {kind}" for kind, n in kinds.items())
        return f"FeatureCircuit({found}; {len(self.sums)} sites, {edges}; {self.target})"

    @property
    def active(self) -> pd.DataFrame:
        """The latents that are on in the prompts."""
        return self.nodes[self.nodes["on"] > 0]

    def latents(self, n: int | None = None) -> pd.DataFrame:
        """The n latents of the largest effects; all unless told. Raises ValueError for more than there are."""
        table = self.nodes[self.nodes["kind"] == "latent"]
        if n is not None and not 0 <= n <= len(table):
            raise ValueError(f"{n} latents, but the circuit has {len(table)}; give 0 to {len(table)}")
        return table if n is None else table.head(n)

    def graph(self) -> Graph:
        """The nodes that have edges as a `Graph`; weights and totals are what a node adds, minus its effect.

        A row adds up to what its node gives the target; what has no node here is its `rest`. The layers are the sites,
        named in short in `about["sites"]`; a position is a place, -1 where all are summed.

        Raises ValueError without edges.
        """
        if self.edges.empty:
            raise ValueError("this circuit has no edges; find it again with edges=30, the number of nodes among them")
        mine = self.nodes.loc[sorted({*self.edges["source"], *self.edges["target"]} - {-1})]
        mine = mine.assign(layer=mine["site"].map({name: i for i, name in enumerate(self.sums["site"])}))
        mine = mine.sort_values(["layer", "place", "kind", "latent"], kind="stable")
        row = {number: i for i, number in enumerate([*mine.index, -1])}
        ends = self.edges["target"].map(row).to_numpy(int), self.edges["source"].map(row).to_numpy(int)
        weights = csr_array((-self.edges["weight"].to_numpy(float), ends), (len(row), len(row)))
        totals = np.where(np.diff(weights.indptr) > 0, -np.append(mine["effect"], self.sums["effects"].iloc[-1]), 0.0)
        of_positions = self.places.by == "position"
        names = self.tokens if of_positions else self.places.names
        return Graph(
            self._table(mine), weights, totals, totals - np.asarray(weights.sum(axis=1)).ravel(),
            self.ids if of_positions else (-1,) * len(names), names, self.model,
            about={"sites": [short(site) for site in self.sums["site"]]},
        )  # fmt: skip

    def _table(self, mine: pd.DataFrame) -> pd.DataFrame:
        """The nodes as a graph has them, the target last."""
        table = mine.rename(columns={"place": "pos", "latent": "index"}).assign(
            pos=-1 if self.places.summed else mine["place"],
            probability=0.0,
            label=np.where(mine["kind"] == "latent", mine["latent"].astype(str), mine["kind"]),
        )
        table.loc[-1] = {
            "kind": "logit", "layer": len(self.sums), "pos": -1 if self.places.summed else len(self.places.names) - 1,
            "index": -1, "activation": 0.0, "probability": 1.0, "label": self.target,
        }  # fmt: skip
        table = table[[*COLUMNS]].reset_index(drop=True)
        return table.astype({"layer": int, "pos": int, "index": int})


def feature_circuit(
    model: Any,
    coders: Any,
    prompt: Prompts,
    target: AnyTarget,
    *,
    patch: Prompts | None = None,
    mean: Mean | Sequence[Mean] | None = None,
    by: By = "sum",
    method: str = "integrated",
    edges: int = 30,
    batch: int = 8,
) -> FeatureCircuit:
    """The sparse feature circuit of prompts of one length: what each latent and error does to the target, and through
    whom.

    Effects are those of `sk.integrated_gradients`, or with method="gradient" of `sk.attribute`: of going to what the
    node is in the `patch` prompts, to its mean, or to 0. They are summed over the positions of a place and averaged
    over prompts. by: "sum" (all positions are one place), "position" (prompts of one form), or {token: category} with
    other tokens as "other". target: one for all prompts, or a list, one for each.

    Edges are `(dm/dd) (dd/du) Δu` among so many of the largest latents and errors, the gradient stopped at every other
    site, gates as in the prompt; of the last site, the edge to the target is the effect. `batch` prompts at a time.

    Raises ValueError as `sk.attribute`, for another method, and for coders that are not in the order of the
    computation.
    """
    if method not in METHODS or edges < 0 or batch < 1:
        raise ValueError(f"method={method!r}, edges={edges}, batch={batch}: methods are {METHODS}; no negative numbers")
    pairs, target = in_order(model, coders), on(model, target)
    tokens = prompt_tokens(model, prompt, target)
    other = None if patch is None else prompt_tokens(model, patch, target)
    if other is not None and other.shape != tokens.shape:
        raise ValueError(f"the patch has shape {(*other.shape,)}, the prompts {(*tokens.shape,)}; give the same")
    places, parts = places_of(model, by, tokens), []
    for rows in torch.arange(len(tokens), device=tokens.device).split(batch):
        own = target.take(rows) if isinstance(target, Each) else target
        start = setting(model, dict(pairs), tokens[rows], own, None if other is None else other[rows], mean, "position")
        where = places.of(model, tokens[rows]).expand(len(rows), -1).flatten()
        ways = [integrate(start, nodes) for nodes in start.nodes] if method == "integrated" else None
        parts.append(Part(start, pairs, where, start.gradients if ways is None else [g for g, _ in ways],
                          None if ways is None else [found for _, found in ways]))  # fmt: skip
    nodes, sums = _nodes(parts, len(tokens)), _sums(parts, len(tokens))
    some = nodes[nodes["kind"] != "off"].head(edges)
    ids, value = tokens[0].tolist(), torch.cat([part.start.values for part in parts]).mean().item()
    return FeatureCircuit(
        nodes, edges_of(parts, nodes, some, len(places.names)), sums, places, target.label, value,
        tuple(pieces(model.tokenizer, ids)), tuple(ids), model_record(model),
    )  # fmt: skip


def short(site: str) -> str:
    """A site in few letters, where it is one of the usual ones: resid.2 for blocks.2.hook_resid_post."""
    parts = re.fullmatch(r"blocks\.(\d+)\.hook_(resid|attn|mlp)_(post|out)", site)
    return f"{parts[2]}.{parts[1]}" if parts else site


def in_order(model: Any, coders: Any) -> list[tuple[Site, Any]]:
    """(site, coder), those of a stack one by one.

    Raises ValueError unless each reads one hook and writes one, in the order of the computation.
    """
    pairs = [
        (site if coder.banks == (coder,) else bank.site, bank)
        for site, coder in at_sites(coders)
        for bank in coder.banks
    ]
    for site, coder in pairs:
        if site is not None and (len(site.reads) != 1 or len(site.writes) != 1):
            raise ValueError(f"the coder at {site.name!r} reads or writes several hooks; a circuit needs one of each")
        check_fit(model, site, coder, writes=True)
    for (a, _), (b, _) in pairwise(pairs):
        if not fires_after(model, b.writes[0], a.writes[0]):
            raise ValueError(f"{b.name!r} comes after {a.name!r} in the list, but not in the model; give them in order")
    return pairs


def _nodes(parts: Sequence[Part], prompts: int) -> pd.DataFrame:
    """Every node of every site, the largest effect first."""
    keys = ["site", "kind", "latent", "place"]
    table = pd.concat([table for part in parts for table in part.tables()], ignore_index=True)
    table["on"] = ((table["kind"] == "latent") & (table["activation"] != 0)).astype(int)
    found = table.groupby(keys, as_index=False, sort=False)[["on", "activation", "effect"]].sum()
    found[["activation", "effect"]] /= prompts
    return found.sort_values("effect", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def _sums(parts: Sequence[Part], prompts: int) -> pd.DataFrame:
    """For each site the sum of effects, and how that compares with the change of the target."""
    rows = []
    for i, (site, _) in enumerate(parts[0].pairs):
        effects = sum(part.total(i) for part in parts) / prompts
        row: dict[str, Any] = {"site": site.name, "effects": effects}
        if parts[0].ways is not None:
            ways, sizes = [part.ways[i] for part in parts], [len(part.start.tokens) for part in parts]
            change = np.average([way["change"] for way in ways], weights=sizes)
            order, residual = (
                max(way["order"] for way in ways),
                np.average([w["residual"] for w in ways], weights=sizes),
            )
            row |= {"change": float(change), "order": order, "residual": float(residual)}
            warn_of(site.name, row, stacklevel=4)
        rows.append(row)
    return pd.DataFrame(rows)
