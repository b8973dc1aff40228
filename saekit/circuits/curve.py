"""Faithfulness and completeness of a sparse feature circuit by its size, beside random circuits."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from ..attribute.targets import AnyTarget, Custom, Each, Target, on, prompt_tokens
from .keep import Mean, averages, masks, only, values_of
from .sparse import FeatureCircuit, Prompts

ARMS = {"errors kept": True, "errors removed": False}
SIZES = (2, 5, 10, 20, 50, 100, 200, 500)


class Run(NamedTuple):
    """Which latents are kept: these nodes, or all but these."""

    nodes: pd.DataFrame
    others: bool = False


def faithfulness(
    model: Any,
    coders: Any,
    circuit: FeatureCircuit,
    prompts: Prompts,
    target: AnyTarget,
    *,
    patch: Prompts,
    sizes: Sequence[int] | None = None,
    random: int = 20,
    aligned: bool = True,
    seed: int = 0,
    batch: int = 256,
) -> pd.DataFrame:
    """How much of the target the n latents of the largest effects give on their own, for several n.

    `F = (m(C) - m(none)) / (m - m(none))`: m the target of the model itself, m(C) with all latents but those of C at
    their means over the `patch` prompts, m(none) with all there; means over prompts (Marks et al. 2024, arXiv
    2403.19647). In two arms: errors are kept, as each run makes them, or set to their mean, "removed"; m(none) is that
    of the same arm.

    One row for each arm and size: arm, latents, share (of those that are on), circuit (F) with low and high (95 %, by
    drawing prompts again), complement (F of all latents but C: what works without it), and of `random` circuits with as
    many latents at each site, drawn from those that are on: random (the median), random_low and random_high (all).
    attrs: model (m), and of each arm none and all, m with all latents.
    aligned: means at each position, for prompts of one form; else over all positions. `batch` prompts in a pass.

    Raises ValueError for sizes the circuit does not have, and where m and m(none) do not differ.
    """
    most = len(circuit.latents())
    sizes = [n for n in SIZES if n <= most] if sizes is None else sizes
    tables, active, rng = [circuit.latents(n) for n in sizes], circuit.active, np.random.default_rng(seed)
    drawn = [drawn_like(active, table, rng) for table in tables for _ in range(random)]
    nothing = circuit.nodes.iloc[:0]
    runs = [Run(nothing), Run(nothing, True)]
    runs += [Run(table) for table in tables] + [Run(table, True) for table in tables] + [Run(table) for table in drawn]
    bench = Bench(model, coders, circuit, prompts, target, averages(model, coders, patch, aligned=aligned), batch)
    m, k, rows, attrs = bench.own, len(tables), [], {"model": float(bench.own.mean())}
    for arm, errors in ARMS.items():
        none, every, *found = bench.run(runs, errors)
        if abs((m - none).mean()) < 1e-9 * max(abs(m.mean()), 1.0):
            raise ValueError(f"{arm}: with every latent and with none, the target is {m.mean():.4g}; nothing to share")
        shares = [share(one, none, m) for one in found]
        attrs[arm] = {"none": float(none.mean()), "all": float(every.mean())}
        for i, table in enumerate(tables):
            low, high = interval(found[i], none, m, seed)
            chance = shares[2 * k + i * random : 2 * k + (i + 1) * random] or [np.nan]
            rows.append(
                {"arm": arm, "latents": len(table), "share": len(table) / max(len(active), 1), "circuit": shares[i],
                 "low": low, "high": high, "complement": shares[k + i], "random": np.median(chance),
                 "random_low": min(chance), "random_high": max(chance)}
            )  # fmt: skip
    table = pd.DataFrame(rows)
    table.attrs = attrs
    return table


def share(circuit: np.ndarray, none: np.ndarray, m: np.ndarray) -> float:
    """F, from the targets of all prompts."""
    return float((circuit - none).mean() / (m - none).mean())


def interval(circuit: np.ndarray, none: np.ndarray, m: np.ndarray, seed: int, n: int = 500) -> tuple[float, float]:
    """Where 95 % of F lie when the prompts are drawn again, with replacement."""
    draw = np.random.default_rng(seed).integers(len(m), size=(n, len(m)))
    low, high = np.quantile((circuit - none)[draw].mean(1) / (m - none)[draw].mean(1), [0.025, 0.975])
    return float(low), float(high)


def drawn_like(active: pd.DataFrame, like: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """As many nodes at each site as `like` has, drawn from those that are active."""
    counts = like["site"].value_counts()
    found = [active[active["site"] == site] for site in counts.index]
    picked = [rng.permutation(len(some))[:n] for some, n in zip(found, counts, strict=True)]
    return pd.concat([active.iloc[:0], *(some.iloc[p] for some, p in zip(found, picked, strict=True))])


class Bench:
    """The target of some prompts with some latents kept, for many circuits."""

    def __init__(
        self, model: Any, coders: Any, circuit: FeatureCircuit, prompts: Prompts, target: AnyTarget, base: list[Mean],
        batch: int,
    ) -> None:  # fmt: skip
        self.model, self.coders, self.places, self.base, self.batch = model, coders, circuit.places, base, batch
        self.target: Target | Custom | Each = on(model, target)
        self.tokens = prompt_tokens(model, prompts, self.target)
        with torch.no_grad():
            own = values_of(model, self.tokens, self.target, torch.arange(len(self.tokens)))
        self.own: Float64[np.ndarray, " prompts"] = own.double().numpy(force=True)

    def run(self, runs: Sequence[Run], errors: bool) -> Float64[np.ndarray, "runs prompts"]:
        """m of each run and prompt."""
        found = []
        for prompts in torch.arange(len(self.tokens)).split(self.batch):
            step = max(1, self.batch // len(prompts))
            parts = [self._of(prompts, runs[first : first + step], errors) for first in range(0, len(runs), step)]
            found.append(torch.cat(parts))
        return torch.cat(found, 1).double().numpy(force=True)

    def _of(self, prompts: Tensor, runs: Sequence[Run], errors: bool) -> Tensor:
        tokens = self.tokens[prompts]
        target = self.target.take(prompts) if isinstance(self.target, Each) else self.target
        found = masks(self.model, self.coders, self.places, tokens, [run.nodes for run in runs])
        others = torch.tensor([run.others for run in runs], device=tokens.device)[:, None, None, None]
        keep = [mask ^ others for mask in found]
        return only(self.model, self.coders, tokens, target, keep, self.base, errors=errors)
