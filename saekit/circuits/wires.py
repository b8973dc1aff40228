"""Edges of a sparse feature circuit: vector-Jacobian products from a site to those before it, past no other site."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..attribute.setting import Setting
from ..codes import dot, gather
from ..hooks import Site
from .sources import slopes

AT_ONCE = 2**26  # numbers in the seeds of one batch of products


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the prompts: their nodes, and dm/dx at each site, averaged over the way to the baseline or not."""

    start: Setting
    pairs: list[tuple[Site, Any]]
    place: Int[Tensor, " rows"]
    gradients: list[Float[Tensor, "rows d"]]
    ways: list[dict[str, float]] | None  # what integration said of each site

    def tables(self) -> list[pd.DataFrame]:
        """The nodes of each site, one row for each position."""
        place = self.place.numpy(force=True)
        found = [nodes.table(g) for nodes, g in zip(self.start.nodes, self.gradients, strict=True)]
        return [
            table.assign(site=site.name, place=place[table["row"]])
            for table, (site, _) in zip(found, self.pairs, strict=True)
        ]

    def total(self, i: int) -> float:
        """The sum of all effects at site i."""
        return float((self.start.nodes[i].total() * self.gradients[i]).sum())


class Direct:
    """A forward pass in which what each coder writes at is a leaf, so that a gradient ends at the first site it meets.

    read: what a coder reads; arrived: what comes to the hook it writes; leaves: what goes on from there.
    """

    def __init__(self, part: Part) -> None:
        model, target = part.start.model, part.start.target
        self.pairs, self.read, self.arrived, self.leaves = part.pairs, {}, {}, {}
        hooks = [(site.reads[0], partial(self._see, i=i)) for i, (site, _) in enumerate(part.pairs)]
        hooks += [(site.writes[0], partial(self._cut, i=i)) for i, (site, _) in enumerate(part.pairs)]
        hooks += [(target.read, partial(self._see, i=-1))]
        with torch.enable_grad(), model.hooks(hooks):
            model(part.start.tokens, return_type=None)
        self.m = target(self.read[-1]).sum()

    def _see(self, x: Tensor, hook: Any, i: int) -> None:
        self.read[i] = x.flatten(2)

    def _cut(self, x: Tensor, hook: Any, i: int) -> Tensor:
        self.arrived[i] = x.flatten(2)
        self.leaves[i] = x.flatten(2).detach().requires_grad_()
        return self.leaves[i].view_as(x)

    def pull(self, i: int, seeds: tuple[Float[Tensor, "n rows _"], Float[Tensor, "n rows _"]]) -> dict[int, Tensor]:
        """{an earlier site: d(<seeds, what coder i reads> + <seeds, what comes where it writes>)/dx [n, rows, d]}."""
        ends = [(y, v) for y, v in zip((self.read[i], self.arrived[i]), seeds, strict=True) if y.requires_grad]
        if not ends:
            return {}
        earlier = [*self.leaves][: [*self.leaves].index(i)]
        found = torch.autograd.grad(
            [y for y, _ in ends], [self.leaves[j] for j in earlier],
            [v.view(len(v), *y.shape).to(y.dtype) for y, v in ends],
            retain_graph=True, allow_unused=True, is_grads_batched=True,
        )  # fmt: skip
        return {j: g.flatten(1, 2) for j, g in zip(earlier, found, strict=True) if g is not None}

    def pull_target(self) -> dict[int, Tensor]:
        """{site: dm/dx [1, rows, d]} past no other site; not of the last, whose effects are known."""
        earlier = [*self.leaves][:-1]
        if not earlier:
            return {}
        found = torch.autograd.grad(self.m, [self.leaves[j] for j in earlier], allow_unused=True, retain_graph=True)
        return {j: g.flatten(0, 1)[None] for j, g in zip(earlier, found, strict=True) if g is not None}


class Chosen:
    """The chosen nodes of one site in one part: which of its entries and errors belong to which node."""

    def __init__(self, part: Part, i: int, numbers: Int[Tensor, "latents places"]) -> None:
        self.nodes, self.gradient = part.start.nodes[i], part.gradients[i]
        codes = self.nodes.codes
        self.node = numbers[codes.latents, part.place[codes.rows]]
        of_error = torch.tensor([kind == "error" for kind in self.nodes.kinds], device=numbers.device)
        self.of_error = numbers[-1, part.place[self.nodes.rows]].where(of_error, -1)

    def collect(self, g: Float[Tensor, "rows d"], out: Float[Tensor, " nodes"]) -> None:
        """Add `<g, change of x when the node goes to its baseline>` of each node."""
        mine, error, nodes = self.node >= 0, self.of_error >= 0, self.nodes
        change = nodes.change.where(mine)
        out.index_add_(0, self.node[mine], (dot(g.contiguous(), nodes.W_dec, change.support) * change.values).to(out))
        moved = (g[nodes.rows] * nodes.moved).sum(1)
        out.index_add_(0, self.of_error[error], moved[error].to(out))

    def seeds(self, coder: Any, x: Float[Tensor, "rows d_in"], some: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
        """What each of some nodes is, as vectors: dm/dd dd/dx at what the coder reads, and at what it writes."""
        found = coder.encoding(x)
        on, slope = found.codes.values != 0, slopes(coder, found)
        codes = found.codes.with_values(slope * dot(self.gradient.contiguous(), self.nodes.W_dec, found.codes.support))
        codes = codes.where(on)
        node, W_enc = self._at(codes), coder.W_enc.T
        reads = [gather(part.values, W_enc, part.support) for part in (codes.where(node == n) for n in some)]
        whole, written = gather(codes.values, W_enc, codes.support), []
        if coder.W_skip is not None:
            whole = whole + self.gradient @ coder.W_skip.T
        for k, n in enumerate(some):
            rows = self.nodes.rows[self.of_error == n]
            at = torch.zeros_like(self.gradient[:, :1]).index_fill(0, rows, 1.0)
            reads[k] = reads[k] - at * whole
            written.append(at * self.gradient)
        return torch.stack(reads), torch.stack(written)

    def _at(self, codes: Any) -> Int[Tensor, " nnz"]:
        """The node of each entry; the nodes' own entries are those that are on in the prompt or in the patch."""
        own = self.nodes.codes
        keys, mine = (c.rows * c.d_sae + c.latents for c in (own, codes))
        place = torch.searchsorted(keys, mine).clamp_max(max(len(keys) - 1, 0))
        return torch.where(keys[place] == mine, self.node[place], -1)


def edges_of(parts: Sequence[Part], nodes: pd.DataFrame, some: pd.DataFrame, places: int) -> pd.DataFrame:
    """source, target, weight among some of the nodes, and to the target of the circuit, -1; means over prompts."""
    numbers, prompts = some.index.to_numpy(), sum(len(part.start.tokens) for part in parts)
    weights = torch.zeros(len(some) + 1, len(some), dtype=torch.float64)
    for part in parts if len(some) else ():
        _add(part, some, places, weights)
    weights = (weights / prompts).numpy()
    last = (some["site"] == parts[0].pairs[-1][0].name).to_numpy()
    weights[-1, last] = some["effect"][last]
    ends = np.nonzero(weights)
    found = {"source": numbers[ends[1]], "target": np.append(numbers, -1)[ends[0]], "weight": weights[ends]}
    return pd.DataFrame(found).sort_values("weight", key=np.abs, ascending=False, ignore_index=True)


def _add(part: Part, some: pd.DataFrame, places: int, weights: Float[Tensor, "targets nodes"]) -> None:
    """The edges of one part, added."""
    direct = Direct(part)
    chosen = [
        Chosen(part, i, _numbers(some, site.name, coder.d_sae, places)) for i, (site, coder) in enumerate(part.pairs)
    ]
    for j, g in direct.pull_target().items():
        chosen[j].collect(g[0], weights[-1])
    for i, (site, coder) in enumerate(part.pairs):
        x = direct.read[i].detach().flatten(0, 1).to(coder.W_dec.dtype)
        mine = torch.tensor(np.flatnonzero(some["site"] == site.name))
        for few in mine.split(max(1, AT_ONCE // x.numel())):
            if not len(few):
                continue
            for j, g in direct.pull(i, chosen[i].seeds(coder, x, few)).items():
                for k, n in enumerate(few.tolist()):
                    chosen[j].collect(g[k], weights[n])


def _numbers(some: pd.DataFrame, site: str, d_sae: int, places: int) -> Int[Tensor, "latents places"]:
    """The row in `some` of each latent at each place, -1 where it has none; the last row is the error's."""
    numbers = torch.full((d_sae + 1, places), -1)
    mine = np.flatnonzero(some["site"] == site)
    latent, place = (torch.tensor(some[name].to_numpy()[mine]) for name in ("latent", "place"))
    numbers[latent, place] = torch.tensor(mine)  # an error's latent is -1, the last row
    return numbers
