"""Terms that ask for few latents at a time. They read the gate, and do not know which variant they penalise."""

from collections.abc import Callable

import torch
from torch import Tensor

from .objective import Objective, Schedule, Step, at


def l1() -> Objective:
    """`mean_rows sum_i gate_i n_i`, n_i the norm of latent i's decoder row (Anthropic, April 2024).

    Over several sites n_i is the sum of the norms at each of them (crosscoder, Lindsey et al. 2024).
    """
    return Objective((("l1", 1.0, lambda s: _sum(s, lambda f: f)),))


def lp(p: float | Schedule, shift: float = 0.01) -> Objective:
    """`mean_rows sum_i ((gate_i n_i + shift)^p - shift^p)`, in units of the L1 penalty of the same codes.

    p may be a function of progress: p-annealing (Karvonen et al. 2024, arXiv 2408.00113). The unit, a ratio without
    gradient, keeps the size of the penalty as p falls; the shift keeps its gradient finite at 0.
    """

    def term(s: Step) -> Tensor:
        power = at(p, s.progress)
        if power <= 0:
            raise ValueError(f"p={power}: the exponent of the penalty must stay above 0")
        penalty = _sum(s, lambda f: (f + shift) ** power - shift**power)
        unit = _sum(s, lambda f: f) / penalty.clamp(min=1e-12)
        return penalty * unit.detach()

    return Objective((("lp", 1.0, term),))


def l0() -> Objective:
    """`mean_rows sum_i gate_i`: the mean L0, where the gate is a step with a straight-through gradient (JumpReLU)."""
    return Objective((("l0_penalty", 1.0, lambda s: s.codes.gate.sum() / s.codes.n_rows),))


def tanh(c: float = 4.0) -> Objective:
    """`mean_rows sum_i tanh(c f_i n_i)`: a penalty that saturates (Anthropic, January 2025)."""
    return Objective((("tanh", 1.0, lambda s: _sum(s, lambda f: torch.tanh(c * f), s.codes.values)),))


def target_l0(k: float) -> Objective:
    """`log(mean L0 / k)^2`, with gradient through the gate's straight-through estimator. Raises ValueError for k <= 0.

    On the scale of the logarithm the pull is as strong below k as above it. `(mean L0 / k - 1)^2` is not: a run starts
    with half of all latents on, Adam remembers those huge gradients for a thousand steps, and the thresholds then stay
    where they overshot to. A thousandth of k is added to the L0, so that a batch without any latent on has a loss too.
    """
    if not k > 0:
        raise ValueError(f"k={k}: give the mean number of latents that are to be on, above 0")

    def term(s: Step) -> Tensor:
        return (s.codes.gate.sum() / (s.codes.n_rows * k) + 1e-3).log().square()

    return Objective((("target_l0", 1.0, term),))


def load_balance() -> Objective:
    """`experts * sum_e (share of rows sent to e) (mean probability of e)`: 1 when all experts have equal work.

    Raises ValueError for a coder that does not route (Switch, arXiv 2410.08201).
    """

    def term(s: Step) -> Tensor:
        if s.route is None:
            raise ValueError("load_balance is of coders that route: give the coder a Routed nonlinearity")
        p = s.route.probabilities
        sent = torch.bincount(s.route.expert, minlength=p.shape[1]) / len(p)
        return p.shape[1] * (sent * p.mean(0)).sum()

    return Objective((("load_balance", 1.0, term),))


def _sum(s: Step, shape: Callable[[Tensor], Tensor], values: Tensor | None = None) -> Tensor:
    """`mean_rows sum_i shape(value_i n_i)`; the values are the gate's unless given."""
    values = s.codes.gate if values is None else values
    return shape(values * s.coder.norms()[s.codes.latents]).sum() / s.codes.n_rows
