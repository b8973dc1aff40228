"""`Objective`, the `Step` its terms look at, and the schedules of its weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..coder import CoderStack, Encoding, SparseCoder
from ..codes import Codes, Support
from ..nonlinearity import Route

Schedule = Callable[[float], float]


class Step(NamedTuple):
    """What a term may look at. Everything is at the training scale: activations have mean norm sqrt(width)."""

    coder: SparseCoder | CoderStack
    x: Float[Tensor, "rows d_in"]
    y: Float[Tensor, "rows d_out"]
    y_hat: Float[Tensor, "rows d_out"]
    encoding: Encoding
    dead: Bool[Tensor, " d_sae"]
    progress: float
    density: Float[Tensor, " d_sae"] | None = None  # how often each latent was on of late
    peers: tuple[SparseCoder, ...] = ()  # the other coders on the stream
    passes: Any = None  # forward passes of the model, where the source gives whole sequences

    @property
    def codes(self) -> Codes:
        return self.encoding.codes

    @property
    def a(self) -> Float[Tensor, " nnz"]:
        """The pre-activations at the entries of the codes, with gradient."""
        return self.encoding.a

    @property
    def pre(self) -> Float[Tensor, "rows _"]:
        """The pre-activations the codes were chosen from, without gradient."""
        return self.encoding.pre

    @property
    def route(self) -> Route | None:
        return self.encoding.route

    def rectified(self, support: Support) -> Codes:
        """The codes `max(a, 0)` at entries that a term adds to those of the step."""
        return Codes(support, self.coder.entries(self.x, support).relu())

    def draw(self) -> torch.Generator:
        """Random numbers that are a function of the progress, so that a resumed run draws the same."""
        return torch.Generator().manual_seed(round(self.progress * 1e9))


Term = Callable[[Step], Float[Tensor, ""]]
Between = Callable[[Step, float, torch.optim.Optimizer], Int[Tensor, " n"]]


@dataclass(frozen=True)
class Objective:
    """`sum_i weight_i(progress) * term_i(step)`; build it with `+` and `*`.

    `between` are changes of the weights between two steps (`resample`): functions of the step, of the progress of the
    next one and of the optimiser, that give the latents they have started again.
    """

    terms: tuple[tuple[str, float | Schedule, Term], ...]
    between: tuple[Between, ...] = ()

    def __add__(self, other: "Objective") -> "Objective":
        return Objective(self.terms + other.terms, self.between + other.between)

    def __mul__(self, weight: float | Schedule) -> "Objective":
        return Objective(tuple((name, _times(weight, w), term) for name, w, term in self.terms), self.between)

    __rmul__ = __mul__

    def __call__(self, step: Step) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """(the weighted sum, each term's own value without its weight)."""
        values = {name: term(step) for name, _, term in self.terms}
        total = sum(at(weight, step.progress) * values[name] for name, weight, _ in self.terms)
        return total, {name: value.detach() for name, value in values.items()}


def at(weight: float | Schedule, progress: float) -> float:
    """The value of a weight, a number or a schedule."""
    return weight(progress) if callable(weight) else weight


def _times(a: float | Schedule, b: float | Schedule) -> float | Schedule:
    if callable(a) or callable(b):
        return lambda progress: at(a, progress) * at(b, progress)
    return a * b


class warmup:
    """Linear from 0 to `value` over the first share `over` of the run, then constant. `warmup(5, over=0.05) * l1()`."""

    def __init__(self, value: float, over: float = 0.05) -> None:
        self.value, self.over = value, over

    def __call__(self, progress: float) -> float:
        return self.value * min(1.0, progress / self.over) if self.over else self.value

    def __mul__(self, objective: Objective) -> Objective:
        return objective * self


def anneal(start: float, end: float, begin: float = 0.2, finish: float = 0.9) -> Schedule:
    """`start` until the progress `begin`, then linear to `end` at `finish`. Raises ValueError unless begin < finish."""
    if not 0 <= begin < finish <= 1:
        raise ValueError(f"begin={begin}, finish={finish}: give 0 <= begin < finish <= 1")
    return lambda progress: start + (end - start) * min(1.0, max(0.0, (progress - begin) / (finish - begin)))
