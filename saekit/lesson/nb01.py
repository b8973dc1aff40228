"""Toys, exercises and quiz of notebook 01. References have no annotations: a solution runs where it is pasted."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from .. import evals, presets, toy
from ..nonlinearity import ReLU
from ..train import Run, train
from .exercise import (
    Chapter,
    Exercise,
    NotYet,
    Question,
    Setting,
    Verdict,
    blank,
    first_fault,
    not_a_function,
    tried,
)

D_IN, D_SAE, ROWS = 6, 15, 40  # of the tensors that answers are tried on
L0_OFF, EV_BAR, FOUND_BAR = 0.1, 0.7, 0.5


# -- the toys of the notebook


@cache
def hidden_states(seed: int = 0) -> toy.Superposition:
    """20 features in 8 dimensions, on 3 % of the time, along the directions that a bottleneck has learned for them."""
    squeezed = toy.Bottleneck(20, 8, frequencies=0.03, seed=seed).train()
    return toy.Superposition(20, 8, frequencies=0.03, dictionary=squeezed.W[0].T, tokens=200_000, seed=seed)


@cache
def trap(seed: int = 0) -> toy.Superposition:
    """256 features in 32 dimensions: a few are common, most are rare, and they come in pairs."""
    return toy.Superposition(256, 32, frequencies=toy.zipf(256, l0=6), correlation=0.5, tokens=200_000, seed=seed)


@cache
def family(seed: int = 0) -> toy.Superposition:
    """4 parents with 2 children each, in 16 dimensions."""
    return toy.hierarchy(4, 2, 16, parent=0.2, child=0.05, tokens=300_000, seed=seed)


def _near(a: Any, b: Any, tolerance: float = 1e-5) -> bool:
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * (1 + b.abs().max()))


def _draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- 1.1


def weighted_loss(x, x_hat, importance):
    """Mean over rows of: the squared errors, each times its feature's importance, summed over features."""
    return (importance * (x - x_hat) ** 2).sum(1).mean()


SLIPS: tuple[tuple[Callable[..., torch.Tensor], str], ...] = (
    (
        lambda x, y, i: (i * (x - y) ** 2).mean(),
        "You average over the features too, so a model with more of them looks better. Sum over the features of a row.",
    ),
    (lambda x, y, i: ((x - y) ** 2).mean(), "This is a plain mean: every feature counts alike. Use importance."),
    (lambda x, y, i: ((x - y) ** 2).sum(1).mean(), "Every feature counts alike here. Use importance."),
    (
        lambda x, y, i: (i[:, None] * (x - y) ** 2).sum(1).mean(),
        "importance went along the rows. It has one value for each feature, that is, for each column.",
    ),
    (lambda x, y, i: (i * (x - y) ** 2).sum(), "You sum over the rows, so the loss would grow with the batch."),
    (lambda x, y, i: ((i * (x - y)) ** 2).sum(1).mean(), "importance was squared too. Weigh the squared errors."),
    (lambda x, y, i: (i * (x - y).abs()).sum(1).mean(), "These are the sizes of the errors. Square them."),
    (
        lambda x, y, i: (i * (x - y)).sum(1).mean(),
        "Errors of both signs cancel here: nothing is squared.",
    ),
)


def _loss_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "weighted_loss")
    for seed, rows in ((0, D_IN), (1, ROWS), (2, D_SAE)):
        x, x_hat = _draw(rows, D_IN, seed=seed), _draw(rows, D_IN, seed=seed + 9)
        importance = 0.8 ** torch.arange(D_IN)
        got = torch.as_tensor(tried(answer, x.clone(), x_hat.clone(), importance.clone()))
        if got.numel() != 1:
            yield f"The loss has the shape {tuple(got.shape)}, but it is one number for the whole batch."
        if not _near(got.reshape(()), weighted_loss(x, x_hat, importance)):
            slips = (
                said for slip, said in SLIPS if rows == D_IN and _near(got.reshape(()), slip(x, x_hat, importance))
            )
            yield next(slips, "This is another number than the weighted loss of these rows.")


# -- 1.2


def forward(x, W_enc, b_enc, W_dec, b_dec):
    """(x_hat [rows, d_in], f [rows, d_sae]) of an SAE with ReLU."""
    f = torch.relu((x - b_dec) @ W_enc + b_enc)
    return f @ W_dec + b_dec, f


def _weights(d_sae: int) -> list[torch.Tensor]:
    shapes = ((ROWS, D_IN), (D_IN, d_sae), (d_sae,), (d_sae, D_IN), (D_IN,))
    return [_draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def _forward_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "forward")
    for d_sae in (D_IN, D_SAE):  # as many latents as dimensions first: there a matrix on its side can be multiplied
        weights = _weights(d_sae)
        got = tried(answer, *(weight.clone() for weight in weights))
        if not isinstance(got, tuple) or len(got) != 2:
            yield "Return two things, x_hat and f, in this order."
        (x_hat, f), (right, code) = got, forward(*weights)
        if _near(x_hat, code) and _near(f, right):
            yield "The two results are right but the other way round: x_hat comes first."
        if not _near(f, code):
            yield next((said for slip, said in _code_slips(*weights) if _near(f, slip)), "f is another code.")
        if not _near(x_hat, right):
            yield next(
                (said for slip, said in _output_slips(code, *weights) if _near(x_hat, slip)),
                "f is right, but x_hat is not what the decoder makes of it.",
            )


def _code_slips(x: Any, W_enc: Any, b_enc: Any, W_dec: Any, b_dec: Any) -> Iterator[tuple[torch.Tensor, str]]:
    pre = (x - b_dec) @ W_enc + b_enc
    yield (x @ W_enc + b_enc).relu(), "The encoder reads x as it is. It should read how far x is from b_dec."
    yield pre, "f has negative entries: the ReLU is missing."
    yield (pre - b_enc).relu(), "b_enc is missing: it decides how strong a direction must be to count."
    if W_enc.shape == W_enc.T.shape:
        turned = (x - b_dec) @ W_enc.T + b_enc
        yield turned.relu(), "W_enc lies on its side here: its columns belong to the latents, so do not turn it."


def _output_slips(f: Any, x: Any, W_enc: Any, b_enc: Any, W_dec: Any, b_dec: Any) -> Iterator[tuple[Any, str]]:
    yield f @ W_dec, "What was taken away before the encoder, b_dec, has to come back in x_hat."
    yield ((x - b_dec) @ W_enc + b_enc) @ W_dec + b_dec, "x_hat is made of values before the ReLU. Decode f."
    if W_dec.shape == W_dec.T.shape:
        yield f @ W_dec.T + b_dec, "W_dec lies on its side here: its rows belong to the latents, so do not turn it."


# -- 1.3


def recovered(W_dec, true):
    """Share of the true features [features, d] with a latent of its own at a cosine above 0.95."""
    cos = (true / true.norm(dim=1, keepdim=True)) @ (W_dec / W_dec.norm(dim=1, keepdim=True)).T
    features, latents = linear_sum_assignment(cos, maximize=True)
    return (cos[features, latents] > 0.95).sum().item() / len(true)


def _dictionaries(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(W_dec, true): 11 features of which 6 are found; what makes each slip show.

    Feature 10 is close to feature 0 and shares its latent; feature 1 has two latents; 6 is nearly found; 7 and 8 are
    found with the wrong sign; lengths differ.
    """
    axes = torch.linalg.qr(_draw(16, 16, seed=seed))[0]
    true = torch.cat([axes[:10], F.normalize(axes[:1] + 0.2 * axes[10:11], dim=1)])
    signs = torch.tensor([1, 1, 1, 1, 1, 1, 1, -1, -1])[:, None]
    found = true[:9] * signs + 0.05 * axes[11:12]
    found[0] = true[0] + true[10]
    found[6] = true[6] + 0.5 * axes[12]
    rest = torch.cat([found[1:2], axes[13:16], axes[12:13] + axes[13:14], axes[9:10] + axes[14:15]])
    W_dec = F.normalize(torch.cat([found, rest]), dim=1)
    lengths = torch.linspace(0.2, 1.1, len(W_dec))[
        torch.randperm(len(W_dec), generator=torch.Generator().manual_seed(3))
    ]
    return W_dec * lengths[:, None], true * torch.linspace(0.5, 1.5, 11)[:, None]


def _match_slips(W_dec: torch.Tensor, true: torch.Tensor) -> Iterator[tuple[float, str]]:
    cos = F.normalize(true, dim=1) @ F.normalize(W_dec, dim=1).T
    pairs = linear_sum_assignment(cos, maximize=True)
    shared = "One latent stands for two features here. Use each latent once: that is what the matching is for."
    yield float((cos.max(1).values > 0.95).float().mean()), shared
    turned = "This is a share of the latents: the matrix is turned. Ask for each true feature whether it has a latent."
    yield float((cos.max(0).values > 0.95).float().mean()), turned
    yield float((cos[pairs] > 0.95).sum()) / len(W_dec), "You divide by the latents. Divide by the true features."
    yield float((cos[pairs] > 0.95).sum()), "That is how many are found. Wanted is the share."
    yield float(cos[pairs].mean()), "That is a mean cosine. Count the pairs above 0.95."
    signless = cos.abs()
    chosen = linear_sum_assignment(signless, maximize=True)
    signs = "A latent that points the other way is not the feature: codes are never negative. Keep the sign."
    yield float((signless[chosen] > 0.95).float().mean()), signs
    long = "Long rows win here: divide every row, of both matrices, by its length before you multiply."
    for a, b in ((true, W_dec), (F.normalize(true, dim=1), W_dec), (true, F.normalize(W_dec, dim=1))):
        raw = a @ b.T
        chosen = linear_sum_assignment(raw, maximize=True)
        yield float((raw[chosen] > 0.95).sum()) / len(true), long
        yield float((raw.max(1).values > 0.95).float().mean()), long


def _match_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "recovered")
    for seed in range(2):
        W_dec, true = _dictionaries(seed)
        got, right = float(tried(answer, W_dec.clone(), true.clone())), recovered(W_dec, true)
        if abs(got - right) > 0.02:
            slips = (said for slip, said in _match_slips(W_dec, true) if abs(got - slip) < 1e-4)
            yield next(slips, f"You get {got:.3f} for two dictionaries where the matching gives another share.")


# -- 1.4


def sparse_run(setting):
    """A run of an L1 coder on the hidden states whose L0 is within 10 % of the truth."""
    torch.manual_seed(0)
    coder, objective = presets.relu(8, 20, sparsity=5.0)
    return train(coder, hidden_states(), objective, batch_size=1024, lr=0.01)


def _run_fault(answer: Any, d_in: int) -> str:
    """What is wrong with an answer that should be a run on a toy of this width; empty where nothing is."""
    if not isinstance(answer, Run) or not len(answer.history):
        return f"Hand over what sk.train returned; this is of type {type(answer).__name__}."
    if answer.coder.d_in != d_in:
        return f"This coder reads width {answer.coder.d_in}, but the source of this exercise has width {d_in}."
    return ""


def _l0_verdict(answer: Any, _: Setting) -> Verdict:
    if fault := _run_fault(answer, 8):
        return Verdict(False, fault)
    if not isinstance(answer.coder.nonlinearity, ReLU):
        return Verdict(False, "This coder is told how many latents to use. Take presets.relu, and find λ for it.")
    scores = evals.recovery(answer.coder, hidden_states(), rows=50_000)
    l0, true, last = scores["l0"], scores["true_l0"], float(answer.history.l0.iloc[-1])
    found = f"On fresh rows {l0:.2f} latents are on, and in truth {true:.2f} features. "
    if abs(l0 / true - 1) <= L0_OFF:
        return Verdict(True, found + f"{scores['recovered']:.0%} of the features are recovered.")
    if abs(last / true - 1) <= L0_OFF:
        return Verdict(False, found + "Only the last batch of training was within the bar. One batch varies; use many.")
    if l0 < 0.1 * true:
        return Verdict(False, found + "The penalty has turned everything off, so λ is far too large.")
    way = "Too many are on: the penalty is too weak." if l0 > true else "Too few are on: the penalty is too strong."
    return Verdict(False, found + way)


# -- 1.5


def trapped_run(setting):
    """(run, its explained variance): well above 0.7, while less than half of the features are recovered."""
    torch.manual_seed(0)
    coder, objective = presets.batch_topk(32, 256, k=6)
    run = train(coder, trap(), objective, batch_size=1024, lr=0.01)
    x = trap().held_out(20_000).x
    return run, 1 - ((x - run.coder(x)[0]) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()


def _trap_verdict(answer: Any, _: Setting) -> Verdict:
    if isinstance(answer, tuple) and blank(answer):
        raise NotYet
    if not isinstance(answer, tuple) or len(answer) != 2:
        return Verdict(False, "Hand over two things in brackets: the run, and its explained variance.")
    run, told = answer[0], float(answer[1])
    if fault := _run_fault(run, 32):
        return Verdict(False, fault)
    scores = evals.recovery(run.coder, trap(), rows=20_000)
    ev, share = 1 - scores["fvu"], scores["recovered"]
    if said := _ev_slip(run.coder, told, ev):
        return Verdict(False, said)
    found = f"Explained variance {ev:.2f}, recovered {share:.0%}. "
    if ev <= EV_BAR:
        return Verdict(False, found + f"The first must be above {EV_BAR}: let it train longer, or use more latents.")
    if share >= FOUND_BAR:
        return Verdict(False, found + "This one is not trapped. Ask for more latents at a time, or train less.")
    return Verdict(True, found + "The one score alone would have told you that all is well.")


def _ev_slip(coder: Any, told: float, ev: float) -> str:
    x = trap().held_out(20_000).x
    uncentred = 1 - float((x - coder(x)[0]).square().sum() / x.square().sum())
    if abs(told - ev) < 0.015:
        return ""
    if abs(told - uncentred) < 0.015:
        return "You compare with zero. The mean alone explains that much; take it away from x below the line."
    if abs(told - (1 - ev)) < 0.015:
        return "That is the share that is left unexplained."
    if abs(told - 100 * ev) < 1.5:
        return "That is in percent. Give a share between 0 and 1."
    return f"You say {told:.3f} of the variance is explained, and on fresh rows it is another share."


# -- quiz


def _options(*options: str) -> Callable[[], list[str]]:
    return lambda: list(options)


QUESTIONS = (
    Question(
        "1.a",
        "In the trap the SAE has as many latents as there are features. Why does it explain much and find little?",
        _options(
            "The cosine of 0.95 is so strict that no SAE passes it",
            "A few common features carry most of the variance, and rare ones are rebuilt from other directions",
            "The explained variance was measured on the rows it was trained on",
            "The sparsity penalty shrank the directions",
        ),
        1,
        "Reconstruction pays for variance. A rare feature adds little of it, and can be rebuilt from what is there.",
    ),
    Question(
        "1.b",
        "A parent's latent is off where a child is on, yet the reconstruction is good. Where did its direction go?",
        _options(
            "In the decoder row of the child's latent",
            "In b_dec",
            "In the error that the SAE leaves",
            "In the encoder column of the parent's latent",
        ),
        0,
        "The child's latent writes both. One latent in place of two is sparser, and costs no error.",
    ),
    Question(
        "1.c",
        "Why does TopK not shrink its codes as the L1 penalty does?",
        _options(
            "Its decoder rows have length 1",
            "It has fewer latents",
            "Nothing in its loss becomes smaller when a code that is on becomes smaller",
            "It subtracts b_dec twice",
        ),
        2,
        "Its sparsity is given by k. The loss is only the error, which is smallest where codes have their true size.",
    ),
)

CHAPTER = Chapter(
    "01",
    (
        Exercise(
            "1.1",
            "A loss with importance",
            5,
            weighted_loss,
            first_fault(_loss_faults, "Right: squared errors, weighted by feature, summed, averaged over rows."),
            (
                "importance has one value for each feature, x has one column for each. Broadcasting does the rest.",
                "Square the errors, multiply by importance, sum over axis 1, then average over axis 0.",
                "(importance * (...) ** 2).sum(...).mean()",
            ),
        ),
        Exercise(
            "1.2",
            "The forward pass",
            6,
            forward,
            first_fault(_forward_faults, "Right: centred, encoded, rectified, decoded, and the centre put back."),
            (
                "Two lines: one for f, one for x_hat. b_dec is in both of them.",
                "f = relu((x - b_dec) W_enc + b_enc), x_hat = f W_dec + b_dec.",
                "f = torch.relu((...) @ W_enc + ...); return f @ ... + ..., f",
            ),
        ),
        Exercise(
            "1.3",
            "Score against the answer key",
            5,
            recovered,
            first_fault(_match_faults, "Right: lengths do not count, signs do, and each latent is used once."),
            (
                "A table of cosines, features by latents, comes first. For it all rows must have length 1.",
                "linear_sum_assignment(table, maximize=True) gives the rows and columns of the best matching.",
                "cos = ... @ ....T; i, j = linear_sum_assignment(cos, ...); count cos[i, j] > 0.95, over len(true)",
            ),
        ),
        Exercise(
            "1.4",
            "Find the penalty",
            4,
            sparse_run,
            _l0_verdict,
            (
                "Train with two values of λ and compare evals.recovery(...)['l0'] of both with ['true_l0'].",
                "A larger λ turns latents off. Between a value with too many on and one with too few lies the answer.",
                "presets.relu(8, 20, sparsity=...), between 2 and 10; then sk.train as in the cell above",
            ),
            runs=True,
        ),
        Exercise(
            "1.5",
            "A good score for a poor dictionary",
            5,
            trapped_run,
            _trap_verdict,
            (
                "Train a BatchTopK coder on the trap. One pass over the source is enough.",
                "Explained variance: 1 - (sum of squared errors) / (sum of squares of x minus its mean).",
                "presets.batch_topk(32, 256, k=...); 1 - ((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()",
            ),
            runs=True,
        ),
    ),
    QUESTIONS,
    toys=True,
)
