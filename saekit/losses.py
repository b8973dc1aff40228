"""`Objective`: a sum of named, weighted terms. Each term is a function of one read-only `Step`.

    objective = mse() + warmup(5, over=0.05) * l1()

A weight is a number or a function of progress in [0, 1]. The names of the terms become columns of the history.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .coder import SparseCoder
from .codes import Codes, decode, encode
from .nonlinearity import largest_per_row

Schedule = Callable[[float], float]


class Step(NamedTuple):
    """What a term may look at. Everything is at the training scale: activations have mean norm sqrt(width)."""

    coder: SparseCoder
    x: Float[Tensor, "rows d_in"]
    y: Float[Tensor, "rows d_out"]
    y_hat: Float[Tensor, "rows d_out"]
    codes: Codes
    pre: Float[Tensor, "rows d_sae"]  # no gradient
    dead: Bool[Tensor, " d_sae"]
    progress: float


Term = Callable[[Step], Float[Tensor, ""]]


@dataclass(frozen=True)
class Objective:
    """`sum_i weight_i(progress) * term_i(step)`; build it with `+` and `*`."""

    terms: tuple[tuple[str, float | Schedule, Term], ...]

    def __add__(self, other: "Objective") -> "Objective":
        return Objective(self.terms + other.terms)

    def __mul__(self, weight: float | Schedule) -> "Objective":
        return Objective(tuple((name, _times(weight, w), term) for name, w, term in self.terms))

    __rmul__ = __mul__

    def __call__(self, step: Step) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """(the weighted sum, each term's own value without its weight)."""
        values = {name: term(step) for name, _, term in self.terms}
        total = sum(at(weight, step.progress) * values[name] for name, weight, _ in self.terms)
        return total, {name: value.detach() for name, value in values.items()}


def at(weight: float | Schedule, progress: float) -> float:
    return weight(progress) if callable(weight) else weight


def _times(a: float | Schedule, b: float | Schedule) -> float | Schedule:
    if callable(a) or callable(b):
        return lambda progress: at(a, progress) * at(b, progress)
    return a * b


# --- schedules ---------------------------------------------------------------------------------------------------


class warmup:
    """Linear from 0 to `value` over the first share `over` of the run, then constant. `warmup(5, over=0.05) * l1()`."""

    def __init__(self, value: float, over: float = 0.05) -> None:
        self.value, self.over = value, over

    def __call__(self, progress: float) -> float:
        return self.value * min(1.0, progress / self.over) if self.over else self.value

    def __mul__(self, objective: Objective) -> Objective:
        return objective * self


# --- terms -------------------------------------------------------------------------------------------------------


def mse() -> Objective:
    """`mean_rows |y - y_hat|^2`, summed over the width."""
    return Objective((("mse", 1.0, lambda s: (s.y - s.y_hat).square().sum(1).mean()),))


def fvu() -> Objective:
    """`sum |y - y_hat|^2 / sum |y - mean y|^2` over the batch: the squared error in units of the variance."""

    def term(s: Step) -> Tensor:
        return (s.y - s.y_hat).square().sum() / variance(s.y)

    return Objective((("fvu", 1.0, term),))


def l1() -> Objective:
    """`mean_rows sum_i gate_i |W_dec_i|`: the norm-weighted L1 penalty (Anthropic, April 2024)."""

    def term(s: Step) -> Tensor:
        norms = torch.linalg.vector_norm(s.coder.dictionary(), dim=1)
        return (s.codes.gate * norms[s.codes.latents]).sum() / s.codes.n_rows

    return Objective((("l1", 1.0, term),))


def target_l0(k: float) -> Objective:
    """`(mean L0 / k - 1)^2`, with gradient through the gate's straight-through estimator."""

    def term(s: Step) -> Tensor:
        return (s.codes.gate.sum() / (s.codes.n_rows * k) - 1).square()

    return Objective((("target_l0", 1.0, term),))


def auxk(k_aux: int | None = None) -> Objective:
    """`sum |e - relu(TopK(a at dead latents)) W_dec|^2 / sum |e - mean e|^2`, e the error, without gradient.

    Dead latents are fitted to what the living leave over (Gao et al. 2024, arXiv 2406.04093). k_aux is half the
    width unless given. Zero while nothing is dead.
    """

    def term(s: Step) -> Tensor:
        dead = torch.nonzero(s.dead).squeeze(1)
        if not len(dead):
            return s.y_hat.new_zeros(())
        error = (s.y - s.y_hat).detach()
        k = min(k_aux or max(1, s.coder.d_in // 2), len(dead))
        codes = dead_codes(s, dead, k)
        return (error - decode(codes, s.coder.dictionary()[dead])).square().sum() / variance(error)

    return Objective((("auxk", 1.0, term),))


def dead_codes(s: Step, dead: Tensor, k: int) -> Codes:
    """The k largest pre-activations of each row among the dead latents, rectified; latents count within `dead`."""
    support = largest_per_row(s.pre[:, dead].float(), k)
    a = encode(s.x - s.coder.b_pre, s.coder.W_enc[:, dead], s.coder.b_enc[dead], support)
    return Codes(support, a.relu())


def variance(y: Tensor) -> Tensor:
    return (y - y.mean(0)).square().sum().clamp(min=1e-12)
