"""Faithfulness: what a pruned graph's latents give on their own, beside random ones."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..codes import Codes
from ..hooks import capture, not_bos
from .frozen import LAST, LOGITS, banks_of
from .graph import Graph
from .intervene import Bench, directions

Keep = Sequence[Int[Tensor, "_ 2"]] | None  # for each bank the (position, latent) pairs that stay; None: all


def faithfulness(
    graph: Graph,
    model: Any,
    *,
    means: Sequence[Float[Tensor, " d_sae"]] | None = None,
    random: int = 20,
    freeze_attention: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """How much of the target the latents of a graph give when all others are held at their baseline.

    The transcoders stand in for the MLPs at every position but BOS. Latents that are nodes of the graph are computed
    from what they read in this run; every other latent, on or off, is held at its mean (`means`, one vector a bank, in
    the order of the layers), or at 0. Norms are computed again; patterns stay those of the prompt with
    `freeze_attention`. With m the targets, weighed by their probabilities:
      faithfulness = (m(graph) - m(none)) / (m(all) - m(none))
    in two arms: what the transcoders leave of the MLPs, their errors on the prompt itself, is added back ("kept"; then
    m(all) is the model's own), or not ("removed"). Random circuits have as many latents in every layer, drawn from
    those that are on.

    Returns latents, active, share = latents / active, and for each arm: circuit, random (a list), median of these,
    all and none (m, not shares).
    """
    bench = Bench(graph, model)
    circuit, active = _circuit(bench), [torch.stack([a.pos, a.latent], 1) for a in bench.sources.active]
    none, generator = [pairs[:0] for pairs in active], torch.Generator().manual_seed(seed)
    runs: list[Keep] = [circuit, None, none]
    for _ in range(random):
        runs.append([on[torch.randperm(len(on), generator=generator)[: len(mine)].to(on.device)]
                     for on, mine in zip(active, circuit, strict=True)])  # fmt: skip
    counts = [sum(map(len, pairs)) for pairs in (circuit, active)]
    result: dict[str, Any] = {"latents": counts[0], "active": counts[1], "share": counts[0] / counts[1]}
    for arm, errors in (("kept", True), ("removed", False)):
        m = _Circuits(bench, runs, means, errors).run(freeze_attention)
        shares = (m - m[2]) / (m[1] - m[2])
        result[arm] = {
            "circuit": float(shares[0]),
            "random": shares[3:].tolist(),
            "all": float(m[1]),
            "none": float(m[2]),
        }
        result[arm]["median"] = float(np.median(shares[3:])) if random else float("nan")
    return result


def _circuit(bench: Bench) -> list[Int[Tensor, "_ 2"]]:
    nodes = bench.graph.nodes[bench.graph.nodes["kind"] == "latent"]
    layers = [bank.site.layer for bank in bench.frozen.banks]
    return [torch.tensor(nodes[nodes["layer"] == layer][["pos", "index"]].to_numpy()) for layer in layers]


class _Circuits:
    """Several circuits in one batch, a row each."""

    def __init__(self, bench: Bench, runs: Sequence[Keep], means: Sequence[Tensor] | None, errors: bool) -> None:
        self.bench, self.frozen, self.runs = bench, bench.frozen, runs
        self.length = len(bench.graph.ids)
        self.errors = bench.sources.errors() if errors else {}
        self.kept = [self._keys(i) for i in range(len(self.frozen.banks))]
        self.base = [self._base(i, None if means is None else means[i]) for i in range(len(self.frozen.banks))]

    def _keys(self, i: int) -> Int[Tensor, " n"]:
        """Flat places (row, position, latent) of the latents of bank i that stay; not of the rows where all do."""
        d_sae = self.frozen.banks[i].d_sae
        places = [(row * self.length + keep[i][:, 0]) * d_sae + keep[i][:, 1]
                  for row, keep in enumerate(self.runs) if keep is not None]  # fmt: skip
        return torch.cat(places).to(self.frozen.tokens.device)

    def _base(self, i: int, mean: Tensor | None) -> Float[Tensor, "rows d_out"]:
        """What bank i writes before the latents that stay: its bias, and the others' means."""
        bank, n = self.frozen.banks[i], len(self.runs) * self.length
        base = bank.b_dec.detach().repeat(n, 1)
        if mean is None:
            return base
        mean = mean.to(bank.W_dec)
        ablated = torch.tensor([keep is not None for keep in self.runs], device=base.device).repeat_interleave(
            self.length
        )
        stay = self.kept[i]
        values = Codes.from_entries(stay // bank.d_sae, stay % bank.d_sae, mean[stay % bank.d_sae], n, bank.d_sae)
        return base + ablated[:, None] * (mean @ bank.W_dec.detach()) - bank.written(values).detach()

    @torch.no_grad()
    def run(self, freeze_attention: bool) -> Float64[np.ndarray, " runs"]:
        """The targets, weighed by their probabilities."""
        frozen, self.taps, self.written = self.frozen, {}, {}
        hooks: list = [(bank.site.read, partial(self._read, i=i)) for i, bank in enumerate(frozen.banks)]
        hooks += [(name, partial(self._write, name=name)) for name in frozen.writers]
        hooks += [(LAST, lambda x, hook: x[:, -1:]), (LOGITS, self._logits)]
        hooks += frozen.hold(patterns_only=True) if freeze_attention else []
        with frozen.model.hooks(hooks):
            frozen.model(frozen.tokens.expand(len(self.runs), -1))
        values = self.taps[LOGITS][:, 0] @ directions(self.bench.graph, self.taps[LOGITS][:, 0]).T
        p = self.bench.graph.nodes["probability"][self.bench.graph.nodes["kind"] == "logit"].to_numpy()
        return values.double().cpu().numpy() @ (p / p.sum())

    def _logits(self, x: Tensor, hook: Any) -> None:
        self.taps[LOGITS] = x

    def _read(self, x: Tensor, hook: Any, i: int) -> None:
        bank = self.frozen.banks[i]
        self.taps[bank.site.read] = x
        codes = bank.encode(x.flatten(0, 1).to(bank.W_dec.dtype))
        whole = torch.tensor([keep is None for keep in self.runs], device=x.device)[codes.rows // self.length]
        codes = codes.where(whole | torch.isin(codes.rows * codes.d_sae + codes.latents, self.kept[i]))
        self.written[i] = bank.written(codes) + self.base[i]

    def _write(self, x: Tensor, hook: Any, name: str) -> Tensor:
        columns = self.frozen.writers[name]
        y = sum(self.written[i][:, part] for i, part in columns).view_as(x).to(x.dtype) + self.frozen.skip(
            name, self.taps
        )
        y = y + self.errors.get(name, 0.0)
        return torch.where(self.frozen.coded[:, None], y, x)


@torch.no_grad()
def means(model: Any, coders: Any, tokens: Int[Tensor, "batch pos"]) -> list[Float[Tensor, " d_sae"]]:
    """The mean activation of every latent over some text, BOS left out: a baseline for `faithfulness`."""
    banks, coded = banks_of(model, coders), not_bos(model, tokens.to(model.cfg.device))
    total = [torch.zeros_like(bank.b_enc) for bank in banks]
    for batch, mask in zip(tokens.split(16), coded.split(16), strict=True):
        seen = capture(model, batch, *(bank.site.read for bank in banks))
        for i, bank in enumerate(banks):
            codes = bank.encode(seen[bank.site.read][mask].to(bank.W_dec.dtype))
            total[i].index_add_(0, codes.latents, codes.values)
    return [one / int(coded.sum()) for one in total]
