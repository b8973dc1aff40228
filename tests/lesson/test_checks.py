"""Every check: the reference passes, nothing is "not yet", and each wrong answer gets its own message."""

import inspect
import math

import pandas as pd
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import saekit as sk
from saekit import evals
from saekit.lesson import nb00, nb01, nb03, nb15
from saekit.lesson.exercise import Setting, judge
from saekit.losses import Step
from tests.lesson import answers

CHAPTERS = (nb00.CHAPTER, nb01.CHAPTER, nb03.CHAPTER, nb15.CHAPTER)
EXERCISES = {exercise.id: exercise for chapter in CHAPTERS for exercise in chapter.exercises}
FUNCTIONS = ["0.1", "1.1", "1.2", "1.3", "3.1", "3.2", "3.4", "15.1", "15.2", "15.3"]  # whose answer is a function
SITE = sk.Site("blocks.1.hook_resid_post")


@pytest.fixture(scope="module")
def setting(tiny_models) -> Setting:
    torch.manual_seed(0)
    coder = sk.SparseCoder(32, 64, sk.TopK(6), unit_norm=True).eval().requires_grad_(False)
    coder.site = SITE
    return Setting(tiny_models["gpt2"], coder)


def run_with(fvu: float, dead: float, l0: float = 32.0) -> sk.Run:
    history = pd.DataFrame([{"fvu": 0.9, "l0": l0, "dead": 0.0}, {"fvu": fvu, "l0": l0, "dead": dead}])
    return sk.Run(sk.SparseCoder(4, 8, sk.ReLU()), history, 2)


# -- right answers


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_reference_passes_and_its_printed_source_too(name, setting):
    names = {"torch": torch, "sk": sk, "splice": sk.splice, "silent": nb03.silent}
    answers.reference_passes(EXERCISES[name], setting, names | {"linear_sum_assignment": linear_sum_assignment})


def test_other_right_answers_pass(setting):
    def median_start(x, d_sae):
        W_dec = torch.nn.functional.normalize(torch.rand(d_sae, x.shape[1]) - 0.5, dim=1)
        return W_dec.T, W_dec, nb03.geometric_median(x)

    def by_hand(model, coder, tokens):
        def loss():
            picked = model(tokens)[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])
            return -picked.mean()

        def zero(x, hook):
            return torch.cat([x[:, :1], torch.zeros_like(x[:, 1:])], dim=1)

        ce = loss()
        with sk.splice(model, coder, keep_error=False):
            ce_coder = loss()
        with model.hooks([(coder.site.read, zero)]):
            return (loss() - ce_coder) / (loss() - ce)

    def autograd_step(W_enc, b_enc, W_dec, b_dec, x, lr, sparsity):
        f = torch.relu(x @ W_enc - b_dec @ W_enc + b_enc)
        loss = ((x - b_dec - f @ W_dec) ** 2).sum() / len(x) + sparsity * f.sum() / len(x)
        tensors = [W_enc, b_enc, W_dec, b_dec]
        grads = list(torch.autograd.grad(loss, tensors))
        for i, row in enumerate(W_dec.detach()):
            grads[2][i] = grads[2][i] - (grads[2][i] @ row) * row
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.data -= lr * grad
        W_dec.data /= W_dec.data.norm(dim=1, keepdim=True)
        return loss

    assert judge(EXERCISES["3.1"], median_start, setting).passed
    assert judge(EXERCISES["3.2"], autograd_step, setting).passed
    assert judge(EXERCISES["3.4"], by_hand, setting).passed


def test_the_references_against_independent_computations(setting):
    model, coder = setting
    assert nb00.count_tokens(model, "ab") == 3  # this tokenizer has one token a byte, after BOS
    x = torch.randn(50, 5)
    W_enc, W_dec, b_dec = nb03.init(x, 7)
    assert torch.equal(W_enc, W_dec.T)
    assert torch.allclose((W_dec**2).sum(1), torch.ones(7))
    assert torch.allclose(b_dec, x.sum(0) / 50)
    text = "def f(x):\n    return x"
    values = coder.encode(sk.capture(model, text, SITE)[SITE.read][0, 1:]).dense()
    latent = int(values.max(0).values.argmax())
    assert nb00.fires_at(model, coder, latent, text) == torch.nonzero(values[:, latent])[:, 0].tolist()


def test_distances_penalties_and_shares_are_the_packages_own(tiny_models, tiny_corpus):
    sites = [sk.Site(f"blocks.{i}.hook_resid_post") for i in (0, 2)]
    seen = sk.capture(tiny_models["gpt2"], tiny_corpus.tokens[:16], *sites)
    a, b = (site.inputs(seen)[torch.from_numpy(tiny_corpus.mask[:16])] for site in sites)
    theirs = sk.activations.angular_distances(tiny_models["gpt2"], tiny_corpus, sites)[0, 1]
    assert nb15.angular_distance(a, b).item() == pytest.approx(theirs, rel=1e-4)
    f, W = nb15._codes()
    coder = sk.SparseCoder(12, 9, sk.ReLU(), n_sites=2)
    coder.W_dec.data.copy_(W)
    step = Step(coder, f, f, f, coder.encoding(torch.randn(50, 12))._replace(codes=sk.Codes.from_dense(f)), None, 0.5)
    torch.testing.assert_close(nb15.norm_penalty(f, W), sk.l1()(step)[0].detach())
    rows = sk.Rows(torch.cat([torch.eye(6)[:2] * 2, torch.eye(6)[:2] * 7], dim=1))
    torch.testing.assert_close(nb15.share_of_b(W, 2.0, 7.0), evals.relative_norms(coder, rows)[:, 1])


def greedy(W_dec, true):
    """Recovery by taking the best pair that is left, again and again."""
    cos = torch.nn.functional.cosine_similarity(true[:, None], W_dec[None], dim=2)
    found = 0
    while cos.max() > 0.95:
        row, column = divmod(int(cos.argmax()), cos.shape[1])
        cos[row], cos[:, column] = -1, -1
        found += 1
    return found / len(true)


def test_other_right_answers_about_toys_pass(setting):
    def einsum_loss(x, x_hat, importance):
        return torch.einsum("rf,f->", (x - x_hat) ** 2, importance) / len(x)

    def expanded(x, W_enc, b_enc, W_dec, b_dec):
        f = torch.nn.functional.relu(x @ W_enc - b_dec @ W_enc + b_enc)
        return torch.addmm(b_dec, f, W_dec), f

    for name, answer in {"1.1": einsum_loss, "1.2": expanded, "1.3": greedy}.items():
        assert judge(EXERCISES[name], answer, setting).passed


def test_recovered_of_the_lesson_is_that_of_evals():
    source = nb01.hidden_states()
    coder = toy_coder(source, sk.TopK(1), noise=0.12)
    share = evals.recovery(coder, source, rows=1_000)["recovered"]
    assert 0.1 < share < 0.9
    assert nb01.recovered(coder.W_dec, source.dictionary) == pytest.approx(share)


def test_recovered_is_what_fidelity_says(setting, tiny_models):
    model, coder = setting
    text = "def area(width, height):\n    return width * height  # in metres, both of them\n"[:63]
    corpus = sk.load_corpus(model, [text])
    scores = evals.fidelity(model, coder, corpus)
    ours = nb03.ce_recovered(model, coder, corpus.tokens[:, : int(corpus.mask.sum()) + 1])
    assert ours == pytest.approx(scores["ce_recovered"], rel=1e-4)


def test_a_step_lowers_the_loss_and_keeps_the_rows():
    tensors, x = nb03._tensors(), nb03._rows(5)
    losses = [nb03.step(*tensors, x, 0.02, 0.1) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert torch.allclose(tensors[2].norm(dim=1), torch.ones(nb03.D_SAE), atol=1e-5)


# -- nothing written yet


def named(answer):
    return getattr(answer, "__name__", str(answer))


def stub(*args):
    """A stub."""


def ellipsis(*args):
    return ...


def stubs(*args):
    return ..., ..., ...


def raising(*args):
    raise NotImplementedError


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("answer", [..., None, stub, ellipsis, stubs, raising], ids=named)
def test_a_stub_is_not_yet(name, answer, setting):
    assert judge(EXERCISES[name], answer, setting).passed is None


def test_no_run_and_no_clicks_are_not_yet(setting):
    assert judge(EXERCISES["3.3"], ..., setting).passed is None
    assert judge(EXERCISES["0.2"], ([], [3, 4]), setting).passed is None


# -- wrong answers


def start(
    rows=lambda W: W / W.norm(dim=1, keepdim=True), enc=lambda W: W.T, bias=lambda x: x.mean(0), fill=torch.randn
):
    def init(x, d_sae):
        W_dec = rows(fill(d_sae, x.shape[1]))
        return enc(W_dec), W_dec, bias(x)

    return init


def stepped(
    centred=True, restored=True, summed=False, width=False, penalty=True, projected=True, renormed="after", sign=1.0,
    cleared=True, moves=True, returns=True,
):  # fmt: skip
    def step(W_enc, b_enc, W_dec, b_dec, x, lr, sparsity):
        f = torch.relu((x - b_dec * centred) @ W_enc + b_enc)
        square = (x - f @ W_dec - b_dec * restored) ** 2
        loss = square.mean() if width else square.sum() if summed else square.sum(1).mean()
        loss = loss + sparsity * f.sum() / (1 if summed else len(x)) * penalty
        loss.backward()
        if moves:
            with torch.no_grad():
                if projected:
                    W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
                for tensor in (W_enc, b_enc, W_dec, b_dec):
                    tensor -= sign * lr * tensor.grad
                    if cleared:
                        tensor.grad = None
                if renormed == "after":
                    W_dec /= W_dec.norm(dim=1, keepdim=True)
        return loss.item() if returns else None

    return step


def recovered(
    keep_error=False, worst=lambda model, coder, tokens: 0.0, where=None, zeroed=None, final=None, first=0, ahead=1
):
    """A way to get 3.4 wrong; `final` makes the answer from the three losses."""

    def answer(model, coder, tokens):
        def loss():
            lp = model(tokens).log_softmax(-1)[:, first : tokens.shape[1] - ahead]
            return -lp.gather(2, tokens[:, first + ahead :, None]).mean().item()

        masks = [None if everywhere is None else torch.ones_like(tokens).bool() for everywhere in (where, zeroed)]
        ce = loss()
        with sk.splice(model, coder, keep_error=keep_error, where=masks[0]):
            ce_coder = loss()
        with sk.splice(model, nb03.silent(coder, worst(model, coder, tokens)), keep_error=False, where=masks[1]):
            ce_zero = loss()
        return final(ce, ce_coder, ce_zero) if final else (ce_zero - ce_coder) / (ce_zero - ce)

    return answer


def mean_at_site(model, coder, tokens):
    return sk.capture(model, tokens, SITE)[SITE.read][:, 1:].mean((0, 1))


def apart(centre=0, final=lambda angle, cosine: (angle / torch.pi).mean(), dim=1):
    """A way to get 15.1 wrong: the axis of the mean, the axis of the angle, what is made of angles and cosines."""

    def angular_distance(a, b):
        a, b = (a, b) if centre is None else (a - a.mean(centre, True), b - b.mean(centre, True))
        cosine = torch.cosine_similarity(a, b, dim=dim)
        return final(cosine.arccos(), cosine)

    return angular_distance


def paid(pay, final=lambda rows: rows.sum(1).mean(), halves=lambda W: W.chunk(2, dim=1)):
    """A way to get 15.2 wrong: what a latent pays for its two norms."""
    return lambda f, W: final(pay(f, *(part.norm(dim=1) for part in halves(W))))


def shared(share, weigh=lambda n, length: n / length, dim=1):
    """A way to get 15.3 wrong: what is made of the two norms."""

    def share_of_b(W_dec, length_a, length_b):
        A, B = (part.norm(dim=dim) for part in W_dec.chunk(2, dim=1))
        return share(weigh(A, length_a), weigh(B, length_b))

    return share_of_b


def forwarded(centred=True, turned=False, rectified=True, biased=True, restored=True, decoded="f", swapped=False):
    def forward(x, W_enc, b_enc, W_dec, b_dec):
        pre = (x - b_dec * centred) @ (W_enc.T if turned and W_enc.shape == W_enc.T.shape else W_enc) + b_enc * biased
        f = pre.clamp(min=0) if rectified else pre
        x_hat = (pre if decoded == "pre" else f) @ (W_dec.T if decoded == "turned" else W_dec) + b_dec * restored
        return (f, x_hat) if swapped else (x_hat, f)

    return forward


def recovery_by(normal="both", sign=lambda cos: cos, matching=True, final=lambda chosen, cos: None):
    """A way to get 1.3 wrong; `final` makes the answer from the cosines that were chosen and the whole table."""

    def answer(W_dec, true):
        V, W = (torch.nn.functional.normalize(M, dim=1) if normal == "both" else M for M in (true, W_dec))
        cos = sign(V @ W.T)
        chosen = cos[linear_sum_assignment(cos, maximize=True)] if matching else cos.max(1).values
        wrong = final(chosen, cos)
        return (chosen > 0.95).sum().item() / len(true) if wrong is None else wrong

    return answer


def toy_coder(source, nonlinearity, bias=0.0, noise=0.0):
    """A finished coder whose dictionary is the true one, or near it."""
    torch.manual_seed(0)
    coder = sk.SparseCoder(source.d_in, source.n_features, nonlinearity).eval().requires_grad_(False)
    W = torch.nn.functional.normalize(source.dictionary + noise * torch.randn_like(source.dictionary), dim=1)
    coder.W_dec.copy_(W)
    coder.W_enc.copy_(W.T)
    coder.b_enc.fill_(bias)
    return coder


def toy_run(source, nonlinearity, l0=9.0, **options):
    history = pd.DataFrame([{"fvu": 0.2, "l0": l0, "dead": 0.0}])
    return sk.Run(toy_coder(source, nonlinearity, **options), history, 1)


HIDDEN, TRAP = nb01.hidden_states(), nb01.trap()
TRAPPED = toy_run(TRAP, sk.TopK(8), noise=0.1)


def explained(run, centre=True):
    x = TRAP.features(20_000)[1]
    y = x - x.mean(0) * centre
    return 1 - float((x - run.coder(x)[0]).square().sum() / y.square().sum())


WRONG = {
    "1.1": {
        "weighted mean": lambda x, y, i: (i * (x - y) ** 2).mean(),
        "plain mean": lambda x, y, i: ((x - y) ** 2).mean(),
        "unweighted": lambda x, y, i: ((x - y) ** 2).sum(1).mean(),
        "rows weighted": lambda x, y, i: ((x - y) ** 2 * i[: len(x)].view(-1, 1)).sum(1).mean(),
        "sum over rows": lambda x, y, i: (i * (x - y) ** 2).sum(),
        "importance squared": lambda x, y, i: ((i * (x - y)) ** 2).sum(1).mean(),
        "absolute": lambda x, y, i: (i * (x - y).abs()).sum(1).mean(),
        "not squared": lambda x, y, i: (i * (x - y)).sum(1).mean(),
        "a loss for each row": lambda x, y, i: (i * (x - y) ** 2).sum(1),
        "half": lambda x, y, i: (i * (x - y) ** 2).sum(1).mean() / 2,
        "raises": lambda x, y, i: x @ y,
        "a number": 0.5,
    },
    "1.2": {
        "not centred": forwarded(centred=False),
        "turned": forwarded(turned=True),
        "no relu": forwarded(rectified=False),
        "no b_enc": forwarded(biased=False),
        "not restored": forwarded(restored=False),
        "decodes the inputs of the relu": forwarded(decoded="pre"),
        "decoder turned": lambda x, W, b, V, c: forwarded(decoded="turned" if V.shape == V.T.shape else "f")(
            x, W, b, V, c
        ),
        "the other way round": forwarded(swapped=True),
        "one thing": lambda x, W_enc, b_enc, W_dec, b_dec: x,
        "another code": lambda x, W_enc, b_enc, W_dec, b_dec: (x, (x @ W_enc).sigmoid()),
        "another output": lambda x, W, b, V, c: (2 * nb01.forward(x, W, b, V, c)[0], nb01.forward(x, W, b, V, c)[1]),
        "raises": lambda x, W_enc, b_enc, W_dec, b_dec: x @ x,
        "a value": 3,
    },
    "1.3": {
        "not normalised": recovery_by(normal="none"),
        "used twice": recovery_by(matching=False),
        "rows for columns": recovery_by(final=lambda chosen, cos: (cos.max(0).values > 0.95).float().mean()),
        "out of the latents": recovery_by(final=lambda chosen, cos: (chosen > 0.95).sum() / cos.shape[1]),
        "a number of features": recovery_by(final=lambda chosen, cos: (chosen > 0.95).sum()),
        "mean": recovery_by(final=lambda chosen, cos: chosen.mean()),
        "no sign": recovery_by(sign=torch.abs),
        "something else": lambda W_dec, true: 0.123,
        "raises": lambda W_dec, true: W_dec @ true,
        "a share": 0.5,
    },
    "1.4": {
        "too many": toy_run(HIDDEN, sk.ReLU()),
        "too few": toy_run(HIDDEN, sk.ReLU(), bias=-1.0),
        "nothing on": toy_run(HIDDEN, sk.ReLU(), bias=-20.0),
        "right on one batch": toy_run(HIDDEN, sk.ReLU(), bias=-0.9, l0=HIDDEN.l0),
        "told its L0": toy_run(HIDDEN, sk.TopK(1)),
        "another source": toy_run(TRAP, sk.ReLU()),
        "a number": 5.0,
    },
    "1.5": {
        "not centred": (TRAPPED, explained(TRAPPED, centre=False)),
        "unexplained": (TRAPPED, 1 - explained(TRAPPED)),
        "percent": (TRAPPED, 100 * explained(TRAPPED)),
        "another number": (TRAPPED, 0.123),
        "finds all": (toy_run(TRAP, sk.TopK(8)), explained(toy_run(TRAP, sk.TopK(8)))),
        "explains little": (toy_run(TRAP, sk.TopK(1), noise=0.5), explained(toy_run(TRAP, sk.TopK(1), noise=0.5))),
        "only the run": TRAPPED,
        "another width": (toy_run(HIDDEN, sk.TopK(1)), 0.8),
    },
    "0.1": {
        "characters": lambda model, text: len(text),
        "words": lambda model, text: len(text.split()),
        "BOS twice": lambda model, text: nb00.count_tokens(model, text) + 1,
        "a constant": lambda model, text: 5,
        "a tensor": lambda model, text: model.to_tokens(text),
        "a number": 7,
        "raises": lambda model, text: text.count(1),
        "lines": lambda model, text: text.count("\n") + 1,
    },
    "3.1": {
        "on its side": start(enc=lambda W: W, rows=lambda W: (W / W.norm(dim=1, keepdim=True)).T),
        "columns": start(rows=lambda W: W / W.norm(dim=0)),
        "not normalised": start(rows=lambda W: W),
        "whole matrix": start(rows=lambda W: W / W.norm()),
        "all alike": start(fill=torch.ones),
        "own encoder": start(enc=lambda W: torch.randn_like(W.T)),
        "encoder not turned": start(enc=lambda W: W),
        "no centre": start(bias=lambda x: torch.zeros(x.shape[1])),
        "rows' means": start(bias=lambda x: x.mean(1)),
        "each median": start(bias=lambda x: x.median(0).values),
        "sum": start(bias=lambda x: x.sum(0)),
        "two tensors": lambda x, d_sae: (x, x),
        "raises": lambda x, d_sae: x @ x,
    },
    "3.2": {
        "no penalty": stepped(penalty=False),
        "mean over width": stepped(width=True),
        "sum over rows": stepped(summed=True),
        "not centred": stepped(centred=False),
        "b_dec left out": stepped(restored=False),
        "no projection": stepped(projected=False),
        "not renormed": stepped(renormed="never"),
        "uphill": stepped(sign=-1.0),
        "too far": stepped(sign=2.0),
        "gradients kept": stepped(cleared=False),
        "nothing moves": stepped(moves=False),
        "nothing returned": stepped(returns=False),
        "a vector": lambda W_enc, b_enc, W_dec, b_dec, x, lr, sparsity: x,
        "raises": lambda W_enc, b_enc, W_dec, b_dec, x, lr, sparsity: x @ W_dec,
    },
    "3.3": {
        "poor": run_with(0.4, 0.0),
        "dying": run_with(0.1, 0.3),
        "both": run_with(0.5, 0.5),
        "starved": run_with(0.5, 0.0, l0=2.0),
        "not a number": run_with(math.nan, 0.0, l0=33.0),
        "a coder": sk.SparseCoder(4, 8, sk.ReLU()),
    },
    "3.4": {
        "error kept": recovered(keep_error=True),
        "upside down": recovered(final=lambda ce, coder, zero: (zero - ce) / (zero - coder)),
        "lost": recovered(final=lambda ce, coder, zero: (coder - ce) / (zero - ce)),
        "sign": recovered(final=lambda ce, coder, zero: (coder - zero) / (zero - ce)),
        "two losses": recovered(final=lambda ce, coder, zero: ce / coder),
        "mean": recovered(worst=mean_at_site),
        "BOS zeroed": recovered(zeroed=True),
        "BOS's prediction": recovered(first=1),
        "not ahead": recovered(ahead=0),
        "something else": recovered(final=lambda ce, coder, zero: ce),
        "a value": 0.98,
    },
    "15.1": {
        "not centred": apart(centre=None),
        "centred over the width": apart(centre=1),
        "radians": apart(final=lambda angle, cosine: angle.mean()),
        "degrees": apart(final=lambda angle, cosine: angle.rad2deg().mean()),
        "one minus cosine": apart(final=lambda angle, cosine: 1 - cosine.mean()),
        "cosine": apart(final=lambda angle, cosine: cosine.mean()),
        "one angle": apart(final=lambda angle, cosine: cosine.mean().arccos() / torch.pi),
        "columns": apart(dim=0),
        "length": lambda a, b: (a - a.mean(0) - b + b.mean(0)).norm(dim=1).mean(),
        "every row": apart(final=lambda angle, cosine: angle / torch.pi),
        "something else": apart(final=lambda angle, cosine: angle.max()),
        "a value": 0.2,
        "raises": lambda a, b: a @ b,
    },
    "15.2": {
        "one norm": lambda f, W: (f * W.norm(dim=1)).sum(1).mean(),
        "squares": paid(lambda f, a, b: f * (a**2 + b**2)),
        "codes alone": paid(lambda f, a, b: f),
        "sum over rows": paid(lambda f, a, b: f * (a + b), torch.sum),
        "mean over latents": paid(lambda f, a, b: f * (a + b), torch.mean),
        "half": paid(lambda f, a, b: f * (a + b) / 2),
        "product": paid(lambda f, a, b: f * a * b),
        "norms alone": paid(lambda f, a, b: a + b, torch.sum),
        "in turn": paid(lambda f, a, b: f * (a + b), halves=lambda W: (W[:, 0::2], W[:, 1::2])),
        "every row": paid(lambda f, a, b: f * (a + b), lambda rows: rows.sum(1)),
        "something else": paid(lambda f, a, b: f * a),
        "a value": 3.0,
        "raises": lambda f, W: f @ W.T,
    },
    "15.3": {
        "no lengths": shared(lambda a, b: b / (a + b), lambda n, length: n),
        "times the lengths": shared(lambda a, b: b / (a + b), lambda n, length: n * length),
        "times, of A": shared(lambda a, b: a / (a + b), lambda n, length: n * length),
        "share of A": shared(lambda a, b: a / (a + b)),
        "ratio": shared(lambda a, b: b / a),
        "squares": shared(lambda a, b: b**2 / (a**2 + b**2)),
        "difference": shared(lambda a, b: b - a),
        "over all latents": shared(lambda a, b: b / (a + b).sum()),
        "columns": shared(lambda a, b: b / (a + b), dim=0),
        "one number": shared(lambda a, b: (b / (a + b)).mean()),
        "something else": shared(lambda a, b: b),
        "a value": 0.5,
        "raises": lambda W, a, b: W @ W,
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_get_messages_of_their_own(name, setting):
    answers.wrong_answers_differ(EXERCISES[name], setting, WRONG[name])


def test_bos_replaced_in_any_pass_is_the_same_mistake(setting):
    slips = [recovered(where=True), recovered(zeroed=True), recovered(where=True, zeroed=True)]
    said = {judge(EXERCISES["3.4"], slip, setting).message for slip in slips}
    assert len(said) == 1 and "BOS was replaced" in said.pop()


def test_an_error_is_told_with_its_type_its_message_and_its_line(setting):
    def count_tokens(model, text):
        return {}["characters"]  # here

    message = judge(EXERCISES["0.1"], count_tokens, setting).message
    line = inspect.getsourcelines(count_tokens)[1] + 1
    assert "KeyError" in message and "'characters'" in message
    assert f"Line {line}: return" in message


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("result", [7, "text", (1, 2), [], {}, torch.zeros(2), torch.zeros(3, 3, dtype=torch.int)])
def test_no_result_breaks_a_check(name, result, setting):
    verdict = judge(EXERCISES[name], lambda *args: result, setting)
    assert verdict.passed is False and verdict.message


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [7, "text", [], object()], ids=lambda answer: type(answer).__name__)
def test_no_answer_breaks_a_check(name, answer, setting):
    assert judge(EXERCISES[name], answer, setting).passed is False


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_check_leaves_no_trace(name, setting):
    """Checks are pure: the generator, the model and the coder are as before."""
    before = [parameter.clone() for parameter in setting.coder.parameters()]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = judge(EXERCISES[name], EXERCISES[name].reference, setting)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(before, setting.coder.parameters(), strict=True))
    assert judge(EXERCISES[name], EXERCISES[name].reference, setting) == first


# -- what never fails, and runs


def test_clicks_are_scored_by_their_overlap(setting):
    good = judge(EXERCISES["0.2"], ([1, 2, 3], [2, 3, 4]), setting)
    assert good.passed and "0.50" in good.message and "second snippet" not in good.message
    bad = judge(EXERCISES["0.2"], ([1, 2, 3, 7], [3, 4]), setting)
    assert bad.passed and "0.20" in bad.message and "second snippet" in bad.message


def test_clicks_are_read_from_a_strip(setting):
    from saekit.widgets import TokenStrip

    strip = TokenStrip(*setting, "def f(x):", latent=5, guess=True)
    assert judge(EXERCISES["0.2"], strip, setting).passed is None
    truth = [i for i, value in enumerate(strip.compute()["values"]) if value > 0]
    assert truth == nb00.fires_at(*setting, 5, "def f(x):")
    strip.set_state(marked=(0, 1))
    expected = len({0, 1} & {*truth}) / len({0, 1} | {*truth})
    assert f"Overlap: {expected:.2f}" in judge(EXERCISES["0.2"], strip, setting).message


def test_a_run_is_judged_by_where_it_ends(setting):
    passed = judge(EXERCISES["3.3"], run_with(0.19, 0.09), setting)
    assert passed.passed and "0.190" in passed.message and "9%" in passed.message
    dense = judge(EXERCISES["3.3"], run_with(0.05, 0.0, l0=300.0), setting)
    assert dense.passed and "hardly sparse" in dense.message
    assert not judge(EXERCISES["3.3"], run_with(0.2, 0.0), setting).passed
    assert not judge(EXERCISES["3.3"], run_with(0.1, 0.1), setting).passed


def test_a_toy_run_is_judged_on_fresh_rows(setting):
    right = toy_run(HIDDEN, sk.ReLU(), bias=-0.5)
    assert judge(EXERCISES["1.4"], ..., setting).passed is None
    assert judge(EXERCISES["1.5"], (..., ...), setting).passed is None
    assert judge(EXERCISES["1.5"], (TRAPPED, ...), setting).passed is None
    l0 = right.coder.encode(HIDDEN.features(50_000)[1]).counts().sum().item() / 50_000
    message = judge(EXERCISES["1.4"], right, setting).message
    assert f"{l0:.2f} latents" in message and f"{HIDDEN.l0:.1f}" in message


@pytest.mark.long
@pytest.mark.parametrize("name", ["1.4", "1.5"])
def test_the_references_that_train_pass(name, setting):
    assert judge(EXERCISES[name], EXERCISES[name].reference(setting), setting).passed


# -- the texts


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_is_complete(name):
    answers.is_complete(EXERCISES[name])
