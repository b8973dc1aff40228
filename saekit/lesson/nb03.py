"""Exercises and quiz of notebook 03. The references have no annotations, so that a solution runs where it is pasted."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from .. import presets
from ..activations import Activations
from ..corpus import load_corpus
from ..hooks import capture, splice
from ..train import Run, train
from ..train.learner import geometric_median
from . import curves
from .exercise import (
    Chapter,
    Exercise,
    NotYet,
    Question,
    Setting,
    Verdict,
    blank,
    called,
    first_fault,
    not_a_function,
    tried,
)

D_IN, D_SAE, ROWS = 6, 15, 40  # of the tensors that answers are tried on
FVU_BAR, DEAD_BAR, L0_SPARSE = 0.2, 0.1, 64
LR, SPARSITY = 0.05, 0.3


def _near(a: Any, b: Any, tolerance: float = 1e-4) -> bool:
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * (1 + b.abs().max()))


def _rows(seed: int) -> torch.Tensor:
    """Rows [40, 6] that are not centred and not symmetric, so that a mean is no median."""
    return torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(seed)).exp() + 0.5


# -- 3.1


def init(x, d_sae):
    """W_enc [d_in, d_sae], W_dec [d_sae, d_in] and b_dec [d_in], from activations x [rows, d_in]."""
    W_dec = torch.randn(d_sae, x.shape[1])
    W_dec = W_dec / W_dec.norm(dim=1, keepdim=True)
    return W_dec.T.clone(), W_dec, x.mean(0)


def _init_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "init")
    x = _rows(0)
    with torch.random.fork_rng(devices=[]):
        W_enc, W_dec, b_dec = tried(answer, x.clone(), D_SAE)
    if W_dec.shape == (D_IN, D_SAE):
        yield "W_dec lies on its side: each latent has a row, as long as the activation is wide."
    if W_dec.shape != (D_SAE, D_IN):
        yield f"W_dec has the shape {tuple(W_dec.shape)}, but there are {D_SAE} latents and the width is {D_IN}."
    yield from _row_faults(W_dec)
    if W_enc.shape == W_dec.shape:
        yield "W_enc has the shape of W_dec. It reads activations, so its columns belong to the latents."
    if not _near(W_enc, W_dec.T):
        yield "W_enc is not the transpose: a latent should look for the very direction it adds."
    yield from _bias_faults(b_dec, x)


def _row_faults(W_dec: torch.Tensor) -> Iterator[str]:
    if not _near(W_dec.norm(dim=1), torch.ones(D_SAE)):
        if _near(W_dec.norm(dim=0), torch.ones(D_IN)):
            yield "The columns of W_dec have length 1, but its rows are the latents' directions. Mind the axis."
        if _near(W_dec.norm(), 1.0):
            yield "You divided by the length of the whole matrix. Each row should have length 1 on its own."
        yield "The rows of W_dec do not have length 1, so latents would start with different weight."
    if torch.linalg.matrix_rank(W_dec) < D_IN:
        yield "The rows of W_dec are too alike. Latents that start equal stay equal, so draw them at random."


def _bias_faults(b_dec: torch.Tensor, x: torch.Tensor) -> Iterator[str]:
    if b_dec.shape != (D_IN,):
        yield f"b_dec has the shape {tuple(b_dec.shape)}. It is one vector, as wide as an activation."
    if not b_dec.any():
        yield "b_dec is zero, so the latents would have to rebuild the centre of the cloud as well."
    if _near(b_dec, x.median(0).values):
        yield "That is the median of each coordinate alone, which depends on the axes. Take the centre of whole rows."
    if not any(_near(b_dec, centre, 1e-3) for centre in (x.mean(0), geometric_median(x))):
        yield "b_dec is not at the centre of the activations."


# -- 3.2


def step(W_enc, b_enc, W_dec, b_dec, x, lr, sparsity):
    """One step of gradient descent on the four tensors, in place. Returns the loss before the step, a number."""
    f = ((x - b_dec) @ W_enc + b_enc).relu()
    loss = (x - f @ W_dec - b_dec).square().sum(1).mean() + sparsity * f.sum(1).mean()
    loss.backward()
    with torch.no_grad():
        W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
        for tensor in (W_enc, b_enc, W_dec, b_dec):
            tensor -= lr * tensor.grad
            tensor.grad = None
        W_dec /= W_dec.norm(dim=1, keepdim=True)
    return loss.item()


def _tensors() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    W_dec = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=generator), dim=1)
    start = [W_dec.T.clone(), 0.1 * torch.randn(D_SAE, generator=generator), W_dec, _rows(1).mean(0)]
    return [tensor.requires_grad_() for tensor in start]


def _losses(x: torch.Tensor) -> Iterator[tuple[torch.Tensor, str]]:
    """The loss of known slips, and what to say of each."""
    W_enc, b_enc, W_dec, b_dec = (tensor.detach() for tensor in _tensors())
    f, g = ((x - b_dec) @ W_enc + b_enc).relu(), (x @ W_enc + b_enc).relu()
    square, penalty = (x - f @ W_dec - b_dec).square(), SPARSITY * f.sum(1).mean()
    yield square.sum(1).mean(), "The loss has no penalty on the activations, so nothing would keep the codes sparse."
    yield square.mean() + penalty, "You average the squared error over the width too. Sum it there, then average rows."
    yield square.sum() + SPARSITY * f.sum(), "You sum the loss over the rows, so it would grow with the batch."
    yield square.sum(1).mean() + SPARSITY * f.mean(), "The penalty is a mean over latents. Sum over the latents first."
    yield (
        (x - g @ W_dec - b_dec).square().sum(1).mean() + SPARSITY * g.sum(1).mean(),
        "The encoder reads x as it is. It should read how far x is from b_dec.",
    )
    yield (x - f @ W_dec).square().sum(1).mean() + penalty, "The reconstruction leaves b_dec out."


def _stepped(project: bool = True, before: bool = False, sign: float = 1.0) -> list[torch.Tensor]:
    """The tensors after one step, with one thing done otherwise."""
    tensors, x = _tensors(), _rows(2)
    W_enc, b_enc, W_dec, b_dec = tensors
    f = ((x - b_dec) @ W_enc + b_enc).relu()
    ((x - f @ W_dec - b_dec).square().sum(1).mean() + SPARSITY * f.sum(1).mean()).backward()
    along = (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec * project
    grads = [W_enc.grad, b_enc.grad, W_dec.grad - along, b_dec.grad]
    after = [(tensor - sign * LR * grad).detach() for tensor, grad in zip(tensors, grads, strict=True)]
    return after if before else [*after[:2], torch.nn.functional.normalize(after[2], dim=1), after[3]]


def _step_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "step")
    tensors, right, x = _tensors(), _tensors(), _rows(2)
    loss = called(answer, *tensors, x.clone(), LR, SPARSITY)
    moved = not all(_near(tensor, start, 0) for tensor, start in zip(tensors, right, strict=True))
    if not moved and blank(loss):
        raise NotYet
    if blank(loss):
        yield "The tensors moved, but your function returns nothing. Return the loss."
    yield from _loss_faults(torch.as_tensor(loss).detach(), step(*right, x, LR, SPARSITY), x)
    if not moved:
        yield "The loss is right, but the tensors are as they were. Change them in place: tensor -= ...."
    yield from _move_faults([tensor.detach() for tensor in tensors], [tensor.detach() for tensor in right])
    if any(tensor.grad is not None and tensor.grad.any() for tensor in tensors):
        yield "The gradients of this step are still there, and the next step would add its own to them."


def _loss_faults(loss: torch.Tensor, right: float, x: torch.Tensor) -> Iterator[str]:
    if loss.numel() != 1:
        yield f"The loss has the shape {tuple(loss.shape)}, but it is one number for the whole batch."
    if not _near(loss.reshape(()), right):
        yield next((said for slip, said in _losses(x) if _near(loss.reshape(()), slip)), "The loss is another one.")


def _move_faults(got: list[torch.Tensor], right: list[torch.Tensor]) -> Iterator[str]:
    W_dec = got[2]
    if all(_near(tensor, other) for tensor, other in zip(got[:2], _stepped(sign=-1.0)[:2], strict=True)):
        yield "You moved up the gradient, so the loss would grow. Go the other way."
    if _near(W_dec, _stepped(before=True)[2]) or _near(W_dec, _stepped(project=False, before=True)[2]):
        yield "After the step the rows of W_dec do not have length 1. Put them back last, once they have moved."
    if _near(W_dec, _stepped(project=False)[2]):
        yield "You did not take away the gradient's part along each row. That part only fights the length of 1."
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    for name, tensor, wanted in zip(names, got, right, strict=True):
        if not _near(tensor, wanted):
            yield f"The loss is right, but {name} is not where one step of gradient descent ends."


# -- 3.3


def good_run(setting):
    """A run that passes: the default rate, and enough text."""
    corpus = load_corpus(setting.model, split="train")
    acts = Activations(setting.model, setting.coder.site, corpus, tokens=500_000)
    torch.manual_seed(0)
    coder, objective = presets.batch_topk(acts.d_in, 1024, k=32)
    return train(coder, acts, objective)


def _run_verdict(answer: Any, _: Setting) -> Verdict:
    if not isinstance(answer, Run) or not len(answer.history):
        return Verdict(False, f"Hand over what sk.train returned; this is of type {type(answer).__name__}.")
    last = answer.history.iloc[-1]
    found = f"FVU is {last.fvu:.3f}, and {last.dead:.0%} of the latents are dead, at {last.l0:.0f} latents per token. "
    poor, dying = not last.fvu < FVU_BAR, not last.dead < DEAD_BAR
    if not (poor or dying):
        dense = f"It passes, but {last.l0:.0f} latents per token is hardly sparse."
        return Verdict(True, found + (dense if last.l0 > L0_SPARSE else "Both are within the bars."))
    return Verdict(False, found + _advice(poor, dying, last.l0))


def _advice(poor: bool, dying: bool, l0: float) -> str:
    if poor and dying:
        return "Both bars are missed. When latents die and little is explained, suspect the size of the steps."
    if dying:
        return (
            "The dead latents are what is missing: smaller steps lose fewer of them, and so does a smaller dictionary."
        )
    if l0 < 16:
        return "FVU is what is missing: so few latents per token cannot say more. Allow more of them."
    return "FVU is what is missing: look whether the curve jumps, crawls, or was cut off while it still fell."


# -- 3.4


def ce_recovered(model, coder, tokens):
    """Of the loss that zeros at the site add, the share that the coder's reconstruction avoids."""
    ce = model(tokens, return_type="loss").item()
    with splice(model, coder, keep_error=False):
        ce_coder = model(tokens, return_type="loss").item()
    with splice(model, silent(coder), keep_error=False):
        ce_zero = model(tokens, return_type="loss").item()
    return (ce_zero - ce_coder) / (ce_zero - ce)


def silent(coder: Any, value: Any = 0.0) -> Any:
    """A copy of a coder that always writes zeros, or one vector `value` [d_out]; for ablation through `splice`."""
    quiet = deepcopy(coder)
    with torch.no_grad():
        for weight in (quiet.W_dec, quiet.b_dec, quiet.W_skip):
            if weight is not None:
                weight.zero_()
        quiet.b_dec += value
    return quiet


def _windows(model: Any) -> torch.Tensor:
    """Two windows of our own source [2, pos], each after a BOS; after an end of text where there is no BOS."""
    tokenizer, n = model.tokenizer, min(96, model.cfg.n_ctx) - 1
    ids = tokenizer(Path(__file__).read_text("utf-8")[:3_000], add_special_tokens=False).input_ids
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    windows = torch.tensor(ids[: 2 * n]).view(2, n)
    return torch.nn.functional.pad(windows, (1, 0), value=first).to(model.cfg.device)


@torch.no_grad()
def _log_probs(model: Any, tokens: torch.Tensor, *spliced: Any, where: Any = None) -> torch.Tensor:
    with splice(model, spliced, keep_error=False, where=where):
        return model(tokens).log_softmax(-1)


def _ce(log_probs: torch.Tensor, tokens: torch.Tensor, first: int = 0, ahead: int = 1) -> float:
    """Mean loss of the predictions from position `first` on, each of the token `ahead` of it."""
    upto = tokens.shape[1] - ahead
    return -log_probs[:, first:upto].gather(2, tokens[:, first + ahead :, None]).mean().item()


def _outcomes(model: Any, coder: Any, tokens: torch.Tensor) -> list[tuple[float, str]]:
    """What the right answer and known slips come to, and what to say of each; nothing of the right one."""
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    mean = coder.site.targets(capture(model, tokens, coder.site))[:, 1:].mean((0, 1))
    clean, rebuilt = _log_probs(model, tokens), _log_probs(model, tokens, coder)
    zero, at_mean = (_log_probs(model, tokens, silent(coder, value)) for value in (0.0, mean))
    all_rebuilt, all_zero = (_log_probs(model, tokens, c, where=everywhere) for c in (coder, silent(coder)))

    def share(coder: torch.Tensor, worst: torch.Tensor, *count: int) -> float:
        ce, ce_coder, ce_worst = (_ce(log_probs, tokens, *count) for log_probs in (clean, coder, worst))
        return (ce_worst - ce_coder) / (ce_worst - ce)

    right, ratio = share(rebuilt, zero), _ce(clean, tokens) / _ce(rebuilt, tokens)
    two = "That compares two losses, but says nothing of how bad it could get. A third pass gives the worst case."
    bos = "BOS was replaced too. The coder was not trained on it, so leave it to the model in every pass."
    return [
        (right, ""),
        (1.0, "You get exactly 1, because the splice kept the coder's error: nothing was lost. Leave the error out."),
        (1 / right, "The ratio is upside down: what was avoided goes above the line, what could be lost below."),
        (1 - right, "That is the share that is lost, not the share that is avoided."),
        (-right, "The sign is turned: one of the two differences is the wrong way round."),
        (ratio, two),
        (1 / ratio, two),
        (share(rebuilt, at_mean), "That compares with the mean at the site. The worst case meant here is zeros."),
        (share(rebuilt, all_zero), bos),
        (share(all_rebuilt, zero), bos),
        (share(all_rebuilt, all_zero), bos),
        (
            share(rebuilt, zero, 1),
            "The prediction made at BOS is missing. It is the one of the first token, and counts.",
        ),
        (
            share(rebuilt, zero, 0, 0),
            "Each prediction is compared with the token it was made at, not with the next one.",
        ),
    ]


def _recovered_faults(answer: Any, setting: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "ce_recovered")
    tokens = _windows(setting.model)
    got = float(tried(answer, *setting, tokens.clone()))
    value, said = min(_outcomes(*setting, tokens), key=lambda outcome: abs(outcome[0] - got))
    if not _near(got, value, 1e-4):
        yield f"You get {got:.3f}, which is another quantity. Which three losses do you compare, and how?"
    if said:
        yield said


# -- quiz


def _pictures() -> list[str]:
    return [curves.picture(name) for name in curves.RUNS]


def _question(name: str, words: str, right: str, why: str) -> Question:
    return Question(name, words, _pictures, list(curves.RUNS).index(right), why)


QUESTIONS = (
    _question(
        "3.a",
        "Which run took steps that were too large?",
        "large steps",
        "Its error shoots up at the start, far above 1, and it ends well above a good run.",
    ),
    _question(
        "3.b",
        "Which run took steps that were too small?",
        "small steps",
        "Its error falls so slowly that it is still far up when the run ends. Nothing else is wrong with it.",
    ),
    _question(
        "3.c",
        "Which run lost a large part of its dictionary?",
        "dying",
        "The share of dead latents climbs and stays up, while FVU and L0 alone would look fine.",
    ),
    _question(
        "3.d",
        "Which run explains most of the variance, and is still no good as an SAE?",
        "dense",
        "Its error is the lowest of all, but hundreds of latents are on at each token, so nothing is easier to read.",
    ),
)

CHAPTER = Chapter(
    "03",
    (
        Exercise(
            "3.1",
            "Start the weights",
            5,
            init,
            first_fault(_init_faults, "Right: unit rows, each latent looks for what it adds, and the centre is b_dec."),
            (
                "W_dec has a row for each latent. Draw it at random first, then see to the length of each row.",
                "The length of a row is the root of its summed squares. norm takes dim= and keepdim=.",
                "torch.randn(d_sae, ...), divided by its norm over one axis; W_enc is W_dec turned; x.mean(...)",
            ),
        ),
        Exercise(
            "3.2",
            "One step of training",
            8,
            step,
            first_fault(
                _step_faults, "Right: the loss, the direction and the length of every row are those of one step."
            ),
            (
                "Codes, reconstruction, loss, backward() come first. The rest is bookkeeping without gradients.",
                "The part of a gradient g along a unit row w is (g . w) w. Take it away, step, set lengths back to 1.",
                "along = (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec; for all four: tensor -= lr * ...",
            ),
        ),
        Exercise(
            "3.3",
            "A run within the bars",
            8,
            good_run,
            _run_verdict,
            (
                "Compare with the failed run above: which one of its settings would you change first?",
                "Adam's rate for a coder like this is a few thousandths. Too large kills, too small crawls.",
                "sk.train(coder, acts, objective, lr=...), or leave lr out: train has a default for each width.",
            ),
            runs=True,
        ),
        Exercise(
            "3.4",
            "How much loss is recovered",
            6,
            ce_recovered,
            first_fault(_recovered_faults, "Right: three losses, BOS left alone, the error left out."),
            (
                "Three passes over the same tokens: the model as it is, with the coder, and with zeros at the site.",
                "(what the coder avoids) / (what could be lost); both are differences to the loss with zeros.",
                "with splice(model, coder, keep_error=...): model(tokens, return_type='loss'); so too silent(coder)",
            ),
        ),
    ),
    QUESTIONS,
)
