"""Exercises and quiz of notebook 04. The references have no annotations, so that a solution runs where it is pasted."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from .. import presets
from ..losses import Step
from ..viz.chart import Axes, text
from ..viz.html import Html, esc
from .exercise import Chapter, Exercise, NotYet, Question, Setting, blank, called, first_fault, not_a_function, tried
from .nb03 import _near

ROWS, LATENTS, D_IN, K = 40, 9, 6, 3  # of the tensors that answers are tried on
BANDWIDTH, SPARSITY = 0.4, 0.3


# -- 4.1


def topk(a, k):
    """The codes [..., latents]: the k largest of each row of a, and 0 elsewhere; what is negative becomes 0 too."""
    values, latents = a.topk(k, dim=-1)
    return torch.zeros_like(a).scatter(-1, latents, values.relu())


def _pre_activations() -> torch.Tensor:
    """[4, 10, latents]; one row is all but negative, one has equal values."""
    a = torch.randn(4, 10, LATENTS, generator=torch.Generator().manual_seed(0))
    a[0, 0] = -a[0, 0].abs()
    a[0, 0, 4] = 0.5
    a[1, 1] = torch.tensor([2.0, 1, 1, 1, 1, 0, 0, -1, -1])
    return a


def _topk_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "topk")
    a = _pre_activations()
    f = tried(answer, a.clone(), K)
    if f.shape == (*a.shape[:-1], K):
        yield "You return the k values alone. A code has a place for every latent, so put them back where they were."
    if f.shape != a.shape:
        yield f"The codes have the shape {tuple(f.shape)}, the pre-activations {tuple(a.shape)}; each has a place."
    if _near(f, torch.zeros_like(a).scatter(-1, *_pairs(a, a))):
        yield "Negative values are still there. Where fewer than k are positive, the rest of the k is 0."
    if (f < 0).any():
        yield "Some codes are negative. A latent is on with a positive value, or it is off."
    yield from _choice_faults(f, a)


def _pairs(a: torch.Tensor, by: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(latents, values of a) of the K largest of `by` in each row."""
    latents = by.topk(K, dim=-1).indices
    return latents, a.gather(-1, latents)


def _choice_faults(f: torch.Tensor, a: torch.Tensor) -> Iterator[str]:
    slips = (
        (_over_tokens(a, 0), "You chose among the tokens. Choose among the latents of one token, the last axis."),
        (_over_tokens(a, 1), "You chose among the tokens. Choose among the latents of one token, the last axis."),
        (_whole_batch(a), "The choice is over the whole batch. That is BatchTopK: here each token keeps its own k."),
        (torch.zeros_like(a).scatter(-1, *_pairs(a, a.abs())).relu(), "You chose by size without sign; a large "
         "negative value took the place of a positive one."),
        (a.relu(), "Nothing was left out: these are all positive values, as with ReLU."),
    )  # fmt: skip
    yield from (said for slip, said in slips if _near(f, slip))
    if ((f > 0).sum(-1) > K).any():
        yield "Some rows have more than k latents on: where values are equal, a bar lets all of them through."
    if not _near(f.sum(-1), topk(a, K).sum(-1)) or not _near(f, torch.where(f > 0, a, 0.0)):
        yield "Some rows do not hold their k largest values, unchanged and in place."


def _over_tokens(a: torch.Tensor, dim: int) -> torch.Tensor:
    values, places = a.topk(K, dim=dim)
    return torch.zeros_like(a).scatter(dim, places, values.relu())


def _whole_batch(a: torch.Tensor) -> torch.Tensor:
    flat = a.flatten()
    places = flat.topk(K * flat.numel() // LATENTS).indices
    return torch.zeros_like(flat).scatter(0, places, flat[places].relu()).view_as(a)


# -- 4.2


def jumprelu(z, theta, bandwidth, grad):
    """f [rows, latents]; and of grad, the slope of the loss by f, what is passed on to z [rows, latents] and theta."""
    on = (z > theta).float()
    near = ((z - theta).abs() < bandwidth / 2).float()
    to_theta = -(grad * near * theta / bandwidth).sum(0)
    return z * on, grad * on, to_theta


class _Jump(NamedTuple):
    z: torch.Tensor
    theta: torch.Tensor
    bandwidth: float
    grad: torch.Tensor


def _jump() -> _Jump:
    draw = torch.Generator().manual_seed(1)
    theta = 0.3 + torch.rand(LATENTS, generator=draw)
    z = theta + 0.5 * torch.randn(ROWS, LATENTS, generator=draw)
    return _Jump(z, theta, BANDWIDTH, torch.randn(ROWS, LATENTS, generator=draw))


def _jump_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "jumprelu")
    given = _jump()
    f, to_z, to_theta = tried(answer, given.z.clone(), given.theta.clone(), given.bandwidth, given.grad.clone())
    on = (given.z > given.theta).float()
    if _near(f, (given.z - given.theta).relu()):
        yield "f is z minus theta where it is on: that is a ReLU with a bias. JumpReLU lets z pass unchanged."
    if _near(f, on):
        yield "f says only whether the latent is on. It should be z where z is above theta."
    if not _near(f, given.z * on):
        yield "The forward pass is another one: z where z is above theta, and 0 elsewhere."
    yield from _to_z_faults(to_z, given, on)
    yield from _to_theta_faults(to_theta, given, on)


def _to_z_faults(to_z: torch.Tensor, given: _Jump, on: torch.Tensor) -> Iterator[str]:
    near = ((given.z - given.theta).abs() < given.bandwidth / 2).float()
    slips = (
        (given.grad, "z gets all of the gradient, also where the latent is off and its value does not count."),
        (on, "What is passed on to z leaves out grad, the slope that comes from the loss."),
        (given.grad * (on + near * given.theta / given.bandwidth), "z gets a gradient through the step as well. "
         "The stand-in is for theta only; z is passed on where the latent is on, and nothing more."),
        (given.grad * near, "z gets its gradient only near theta. It counts wherever the latent is on."),
    )  # fmt: skip
    yield from (said for slip, said in slips if _near(to_z, slip))
    if not _near(to_z, given.grad * on):
        yield "What is passed on to z is another quantity. With theta held still, what is the slope of f by z?"


def _to_theta_faults(got: torch.Tensor, given: _Jump, on: torch.Tensor) -> Iterator[str]:
    z, theta, width, grad = given
    near, far = (((z - theta).abs() < half).float() for half in (width / 2, width))
    each = grad * near * theta / width
    slips = (
        (-each, "There is a slope for every row. All rows share one theta, so theirs are added up."),
        (-each.mean(0), "You average over the rows. All rows share one theta, so their slopes are added up."),
        (each.sum(0), "The sign is turned. A higher theta can only switch a value off, so f falls."),
        (-(grad * near * theta).sum(0), "The bandwidth is missing: a narrower kernel must be as much higher, "
         "or it would stand for less and less of the step."),
        (-(grad * far * theta / width).sum(0), "The kernel is twice as wide as its height allows: it reaches half "
         "a bandwidth to each side."),
        (-(grad * near / width).sum(0), "That is the slope of the step alone. At theta f falls by theta, not by 1."),
        (-(grad * near * z / width).sum(0), "You take z for the height of the jump. It is close, but the jump is at "
         "theta."),
        (-(grad * on).sum(0), "That is what a ReLU's bias gets: every value that is on. Only those near theta count."),
        (torch.zeros_like(theta), "theta gets no gradient at all. That is what the true slope gives; use the kernel."),
    )  # fmt: skip
    yield from (said for slip, said in slips if got.shape == slip.shape and _near(got, slip))
    if got.shape != theta.shape or not _near(got, -each.sum(0)):
        yield "What is passed on to theta is another quantity. Which rows count, how much each, and with which sign?"


# -- 4.3


def gated_loss(x, pi_gate, f, W_dec, b_dec, sparsity):
    """The loss of a Gated SAE, a number; pi_gate [rows, latents] is the gate before its step, f the codes."""
    gate = pi_gate.relu()
    error = (x - f @ W_dec - b_dec).square().sum(1).mean()
    penalty = gate.sum(1).mean()
    through_gate = (x - gate @ W_dec.detach() - b_dec.detach()).square().sum(1).mean()
    return error + sparsity * penalty + through_gate


def _gated() -> list[torch.Tensor]:
    """x, pi_gate, f, W_dec and b_dec; all but x are leaves."""
    draw = torch.Generator().manual_seed(2)
    x, pi_gate = torch.randn(ROWS, D_IN, generator=draw), torch.randn(ROWS, LATENTS, generator=draw)
    f = torch.where(pi_gate > 0, 1 + torch.rand(ROWS, LATENTS, generator=draw), 0.0)
    W_dec, b_dec = torch.randn(LATENTS, D_IN, generator=draw), torch.randn(D_IN, generator=draw)
    return [x, *(tensor.requires_grad_() for tensor in (pi_gate, f, W_dec, b_dec))]


def _values() -> Iterator[tuple[torch.Tensor, str]]:
    """The loss of known slips, and what to say of each."""
    x, pi, f, W, b = (tensor.detach() for tensor in _gated())
    gate = pi.relu()
    error, through = (x - f @ W - b).square(), (x - gate @ W - b).square()
    mse, aux, penalty = error.sum(1).mean(), through.sum(1).mean(), SPARSITY * gate.sum(1).mean()
    yield mse + penalty, "The third term is missing. Without it the gate would learn from the penalty alone, and close."
    yield mse + aux, "There is no penalty, so nothing would keep the gate closed."
    yield penalty + aux, "The error of the codes f themselves is missing."
    yield (
        mse + SPARSITY * f.sum(1).mean() + aux,
        ("The penalty is on the codes f. Then they would shrink again; it belongs on the gate."),
    )
    yield mse + SPARSITY * f.sum(1).mean() + mse, "Both the penalty and the third term read f. They are about the gate."
    yield mse + penalty + mse, "The third term rebuilds x from f once more. It is the gate that should rebuild x there."
    yield (
        mse + SPARSITY * pi.sum(1).mean() + aux,
        ("The penalty reads pi_gate also where it is negative, which pays for closing it further."),
    )
    yield (
        mse + SPARSITY * pi.abs().sum(1).mean() + aux,
        ("The penalty is on |pi_gate|, so a closed gate pays too. Only what is above 0 should."),
    )
    yield (
        mse + penalty + (x - pi @ W - b).square().sum(1).mean(),
        "The third term rebuilds from pi_gate as it is. A closed gate adds nothing, so take its positive part.",
    )
    yield (
        mse + penalty + (x - (pi > 0).float() @ W - b).square().sum(1).mean(),
        ("The third term rebuilds from the step. A step has no gradient, so the gate would learn nothing from it."),
    )
    yield mse + penalty + (x - gate @ W).square().sum(1).mean(), "The third term leaves b_dec out."
    yield (
        error.mean() + penalty + through.mean(),
        ("You average the squared errors over the width too. Sum over the width, then average the rows."),
    )
    yield error.sum() + SPARSITY * gate.sum() + through.sum(), "You sum over the rows. Take the mean of the rows."


def _gated_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "gated_loss")
    tensors = _gated()
    loss = called(answer, *tensors, SPARSITY)
    if blank(loss):
        raise NotYet
    if not torch.is_tensor(loss) or loss.numel() != 1:
        yield "The loss should be one number, a tensor that backward() can start from."
    right = gated_loss(*_gated(), SPARSITY)
    if not _near(loss.detach().reshape(()), right.detach()):
        yield next(
            (said for slip, said in _values() if _near(loss.detach().reshape(()), slip)), "The loss is another one."
        )
    if not loss.requires_grad:
        yield "The value is right, but no gradient comes through. Detach the decoder in the third term, nothing else."
    yield from _gradient_faults(loss, tensors)


def _gradient_faults(loss: torch.Tensor, tensors: list[torch.Tensor]) -> Iterator[str]:
    names = ("pi_gate", "f", "W_dec", "b_dec")
    got = torch.autograd.grad(loss.reshape(()), tensors[1:], allow_unused=True)
    again = _gated()
    right = torch.autograd.grad(gated_loss(*again, SPARSITY), again[1:])
    wrong = [
        name
        for name, a, b in zip(names, got, right, strict=True)
        if not _near(torch.zeros_like(b) if a is None else a, b)
    ]
    if {"W_dec", "b_dec"} <= {*wrong} and "pi_gate" not in wrong:
        yield "The value is right, but the third term moves the decoder. It teaches the gate: detach W_dec and b_dec."
    if wrong == ["b_dec"]:
        yield "W_dec is detached in the third term, but b_dec is not, so the gate's error moves it."
    if wrong == ["W_dec"]:
        yield "b_dec is detached in the third term, but W_dec is not, so the gate's error moves the decoder."
    if "pi_gate" in wrong:
        yield "The value is right, but the gate does not learn from it. Detach the decoder there, not the gate."
    if wrong:
        yield f"The value is right, but the gradient of {wrong[0]} is not. What may each term move?"


class GatedExample(NamedTuple):
    """A Gated coder on one batch: what `gated_loss` is given, and what the preset's objective says."""

    given: tuple
    loss: float


def gated_example(x: torch.Tensor, d_sae: int = 512) -> GatedExample:
    """`presets.gated` at its start, on activations x [rows, d_in], at the end of its warm-up."""
    coder, objective = presets.gated(x.shape[1], d_sae, sparsity=SPARSITY)
    x = x * x.shape[1] ** 0.5 / x.norm(dim=1).mean()
    coder.centre(x.mean(0), x.mean(0))
    encoding = coder.encoding(x)
    silent = torch.zeros(d_sae, dtype=torch.bool)
    loss, _ = objective(Step(coder, x, x, coder.decode(encoding.codes, x), encoding, silent, progress=1.0))
    given = (x, encoding.pre, encoding.codes.dense(), coder.dictionary(), coder.b_dec, SPARSITY)
    return GatedExample(given, loss.item())


# -- reading the sweep


def at_l0(table: pd.DataFrame, l0: float = 32.0, metric: str = "fvu") -> pd.DataFrame:
    """{variant: the metric where its line crosses this L0}, lowest first; seed 0 only, logarithms on both axes.

    Between two points, along the line through them; beyond them, along the same line, and then `between` is False.
    """
    rows = {}
    for variant, part in table[table.seed == 0].groupby("variant"):
        part = part.sort_values("l0")
        if len(part) < 2:
            continue
        x, y = np.log(part.l0.to_numpy()), np.log(part[metric].to_numpy())
        i = int(np.clip(np.searchsorted(x, np.log(l0)), 1, len(x) - 1))
        share = (np.log(l0) - x[i - 1]) / (x[i] - x[i - 1])
        value = float(np.exp(y[i - 1] + share * (y[i] - y[i - 1])))
        rows[variant] = {metric: value, "between": bool(x[0] <= np.log(l0) <= x[-1])}
    return pd.DataFrame.from_dict(rows, orient="index").sort_values(metric)


def zoo() -> pd.DataFrame:
    """Every preset with the first sentence of its docstring."""
    made = {name: f for name, f in vars(presets).items() if getattr(f, "__module__", "") == presets.__name__}
    functions = {name: f for name, f in made.items() if callable(f) and not name.startswith("_")}
    lines = {name: " ".join((f.__doc__ or "").partition("\n\n")[0].split()) for name, f in functions.items()}
    return pd.DataFrame({"preset": list(lines), "in one line": list(lines.values())})


@torch.no_grad()
def size_ratio(coder: Any, x: torch.Tensor) -> float:
    """`|r|^2 / (r . x)` over all rows, r and x about b_dec: 1 where a scale would not help, below 1 is shrinkage.

    The relative reconstruction bias of Rajamanoharan et al. 2024 (arXiv 2404.16014), about the coder's own bias.
    """
    rebuilt, wanted = coder(x)[0] - coder.b_dec, x - coder.b_dec
    return float(rebuilt.square().sum() / (rebuilt * wanted).sum())


# -- quiz


PICTURED = ("JumpReLU", "TopK", "ReLU", "Gated")  # in the order of the pictures A to D


def _pictures() -> list[str]:
    return [picture(name) for name in PICTURED]


def picture(variant: str) -> Html:
    """A nonlinearity and its gradients on one small pair of axes; its letter, not its name, is shown."""
    from ..widgets.explorer import curves

    found, letter = curves(variant, 1.0, 4), "ABCD"[PICTURED.index(variant)]
    upper, lower = Axes((20, 190, 22, 92), (-3, 3), (0, 3)), Axes((20, 122, 112, 182), (-3, 3), (-2.2, 1.4))
    drawn = upper.grid([(0, "0"), (3, "3")]) + upper.floor([]) + lower.grid([(-2, "−2"), (0, "0"), (1, "1")])
    drawn += text(24, 30, "f(z)") + _broken(upper, found.z, found.f)
    parts = (
        ("f_by_z", "∂f/∂z", "c1", ""),
        ("f_by_theta", "∂f/∂θ", "c2", "6 3"),
        ("gate_by_theta", "∂gate/∂θ", "c3", "2 3"),
    )
    for row, (key, words, colour, dash) in enumerate(parts):
        slopes = getattr(found, key).tolist()
        drawn += lower.line(found.z.tolist(), slopes, f"var(--sk-{colour})", f'stroke-dasharray="{dash}"')
        y = 124 + 20 * row
        drawn += f'<path d="M128 {y}h12" stroke="var(--sk-{colour})" stroke-width="2" stroke-dasharray="{dash}"/>'
        drawn += text(144, y + 4, words)
    alt = esc(_alt(letter, found))
    svg = f'<svg viewBox="0 0 194 190" width="194" role="img" aria-label="{alt}">{drawn}</svg>'
    return Html(f"<b>{letter}</b>{svg}")


def _broken(axes: Axes, z: torch.Tensor, values: torch.Tensor) -> str:
    """A line that is not drawn across a jump."""
    jumps = (values.diff().abs() > 0.3).nonzero().flatten() + 1
    parts = zip(z.tensor_split(jumps), values.tensor_split(jumps), strict=True)
    return "".join(axes.line(a.tolist(), b.tolist(), "var(--sk-pos)") for a, b in parts if len(a) > 1)


def _alt(letter: str, found: Any) -> str:
    def span(values: torch.Tensor) -> str:
        where = found.z[values != 0]
        return f"{values[values != 0].min():.1f} from z = {where[0]:.1f} to {where[-1]:.1f}" if len(where) else "0"

    at = found.z[found.f > 0][0]
    return (
        f"{letter}: on from z = {at:.1f} on, where f is {found.f[found.f > 0][0]:.1f}; slope by theta "
        f"{span(found.f_by_theta)}; slope of the gate by theta {span(found.gate_by_theta)}"
    )


def _question(name: str, loss: str, right: str, why: str) -> Question:
    return Question(name, f"Which picture is trained with {loss}?", _pictures, PICTURED.index(right), why)


QUESTIONS = (
    _question(
        "4.a",
        "the error plus a penalty on the sum of the activations, and nothing else",
        "ReLU",
        "There the penalty acts on f itself, and f lies below z: the bias that switches off also shrinks.",
    ),
    _question(
        "4.b",
        "the error plus log(L0 / target)², through a kernel around each threshold",
        "JumpReLU",
        "The slope by θ is zero except in a band around θ. That is the kernel.",
    ),
    _question(
        "4.c",
        "the error alone, with a budget of latents per token",
        "TopK",
        "No slope by θ at all: the threshold is where the other latents put it, so there is nothing to penalise.",
    ),
    _question(
        "4.d",
        "the error, a penalty on the gate, and the error of a reconstruction from the gate",
        "Gated",
        "The value does not depend on θ, but the gate does wherever it is open. The two extra terms teach it.",
    ),
)

CHAPTER = Chapter(
    "04",
    (
        Exercise(
            "4.1",
            "Keep the k largest",
            4,
            topk,
            first_fault(_topk_faults, "Right: k of each token, in place, none negative, whatever the leading axes."),
            (
                "torch has a function of this name. It gives the values and where they were.",
                "zeros everywhere, then the k values at their places along the last axis; relu on the values.",
                "values, latents = a.topk(k, dim=-1); torch.zeros_like(a).scatter(-1, ..., ...)",
            ),
        ),
        Exercise(
            "4.2",
            "A threshold that learns",
            8,
            jumprelu,
            first_fault(_jump_faults, "Right: the value unchanged, z where it is on, and theta through the kernel."),
            (
                "Three results: the value, the part for z, the part for theta. Two need only whether it is on.",
                "Where |z - theta| < bandwidth / 2, the slope of f by theta is -theta / bandwidth. Elsewhere it is 0.",
                "on = (z > theta).float(); near = (...).float(); z * on, grad * on, -(grad * ...).sum(0)",
            ),
        ),
        Exercise(
            "4.3",
            "What teaches the gate",
            8,
            gated_loss,
            first_fault(_gated_faults, "Right: three terms, and the third one moves the gate only."),
            (
                "Let gate be the positive part of pi_gate. Two of the three terms read it; only one reads f.",
                "|x - f W_dec - b_dec|^2 + sparsity * sum gate + |x - gate sg(W_dec) - sg(b_dec)|^2; sg: no gradient.",
                "gate = pi_gate.relu(); in the third term W_dec.detach() and b_dec.detach(); .square().sum(1).mean()",
            ),
        ),
    ),
    QUESTIONS,
)
