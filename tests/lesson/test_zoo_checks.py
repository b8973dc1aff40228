"""Notebook 04: references against the package's own classes, a message for each wrong answer, pictures and tables."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from saekit import SparseCoder, TopK, presets
from saekit.lesson import nb04
from saekit.lesson.exercise import Setting, judge
from saekit.nonlinearity import JumpReLU
from tests.lesson import answers

EXERCISES = {exercise.id: exercise for exercise in nb04.CHAPTER.exercises}
NOWHERE = Setting(None, None)


# -- right answers


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes_and_its_printed_source_too(name):
    answers.reference_passes(EXERCISES[name], NOWHERE, {"torch": torch})


def test_topk_is_the_packages():
    a = torch.randn(50, 20)
    nonlinearity = TopK(4)
    support = nonlinearity.support(a)
    codes = nonlinearity(a[support.rows, support.latents], support)
    assert torch.equal(nb04.topk(a, 4), codes.dense())


def test_jumprelu_is_the_packages():
    z, theta, bandwidth, grad = nb04._jump()
    own = JumpReLU(len(theta), bandwidth)
    own.threshold.data.copy_(theta)
    z = z.requires_grad_()
    support = own.support(z.detach())
    f = own(z[support.rows, support.latents], support).dense()
    f.backward(grad)
    wanted = f.detach(), z.grad, own.threshold.grad
    for ours, theirs in zip(nb04.jumprelu(z.detach(), theta, bandwidth, grad), wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_gated_loss_is_the_presets():
    example = nb04.gated_example(torch.randn(200, 16) + 1, d_sae=32)
    assert nb04.gated_loss(*example.given).item() == pytest.approx(example.loss, rel=1e-5)


def test_other_right_answers_pass():
    def by_rank(a, k):
        rank = a.argsort(dim=-1, descending=True).argsort(dim=-1)
        return torch.where((rank < k) & (a > 0), a, torch.zeros(()))

    class Jump(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, theta, bandwidth):
            ctx.save_for_backward(z, theta)
            ctx.bandwidth = bandwidth
            return z * (z > theta)

        @staticmethod
        def backward(ctx, grad):
            z, theta = ctx.saved_tensors
            near = ((z - theta).abs() < ctx.bandwidth / 2) * theta / ctx.bandwidth
            return grad * (z > theta), -(grad * near).sum(0), None

    def by_autograd(z, theta, bandwidth, grad):
        z, theta = z.requires_grad_(), theta.requires_grad_()
        f = Jump.apply(z, theta, bandwidth)
        f.backward(grad)
        return f.detach(), z.grad, theta.grad

    def without_grad(x, pi_gate, f, W_dec, b_dec, sparsity):
        gate = pi_gate.clamp(min=0)
        with torch.no_grad():
            W, b = W_dec.clone(), b_dec.clone()
        parts = ((x - f @ W_dec - b_dec) ** 2).sum() + sparsity * gate.sum() + ((x - gate @ W - b) ** 2).sum()
        return parts / len(x)

    for name, answer in (("4.1", by_rank), ("4.2", by_autograd), ("4.3", without_grad)):
        assert judge(EXERCISES[name], answer, NOWHERE).passed, name


# -- nothing written yet, and anything at all


@pytest.mark.parametrize("name", EXERCISES)
def test_a_stub_is_not_yet(name):
    answers.stubs_are_not_yet(EXERCISES[name], NOWHERE)


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("thing", [7, "text", (1, 2), [], {}, torch.zeros(2), torch.zeros(3, 3, dtype=torch.int)])
def test_nothing_breaks_a_check(name, thing):
    answers.is_refused(EXERCISES[name], NOWHERE, thing)


@pytest.mark.parametrize("name", EXERCISES)
def test_a_check_leaves_no_trace(name):
    answers.leaves_no_trace(EXERCISES[name], NOWHERE)


# -- wrong answers


def chosen(dim=-1, by=lambda a: a, after=torch.relu):
    def topk(a, k):
        places = by(a).topk(k, dim=dim).indices
        return after(torch.zeros_like(a).scatter(dim, places, a.gather(dim, places)))

    return topk


def whole_batch(a, k):
    flat = torch.zeros(a.numel())
    best = a.flatten().topk(k * a.numel() // a.shape[-1]).indices
    flat[best] = a.flatten()[best].relu()
    return flat.view_as(a)


def jumped(f=None, to_z=None, to_theta=None):
    """A way to get 4.2 wrong: one of the three made otherwise, from (z, theta, width, grad, on, near)."""

    def answer(z, theta, width, grad):
        on, near = (z > theta).float(), ((z - theta).abs() < width / 2).float()
        given = (z, theta, width, grad, on, near)
        right = (z * on, grad * on, -(grad * near * theta / width).sum(0))
        return tuple(
            value if make is None else make(*given) for value, make in zip(right, (f, to_z, to_theta), strict=True)
        )

    return answer


def gated(
    penalty=torch.relu,
    through=torch.relu,
    on_f=False,
    aux_f=False,
    W=True,
    b=True,
    parts=(1, 1, 1),
    how="rows",
    gate=True,
    bias=1,
):
    """A way to get 4.3 wrong. W, b: detached in the third term; how: what is averaged."""

    def loss(x, pi_gate, f, W_dec, b_dec, sparsity):
        W_aux, b_aux = (W_dec.detach() if W else W_dec), (b_dec.detach() if b else b_dec)
        source = f if aux_f else through(pi_gate if gate else pi_gate.detach())
        error = (x - f @ W_dec - b_dec).square()
        aux = (x - source @ W_aux - bias * b_aux).square()
        paid = f if on_f else penalty(pi_gate)
        mean = {"rows": lambda e: e.sum(1).mean(), "all": lambda e: e.mean(), "none": lambda e: e.sum()}[how]
        rows = len(x) if how == "none" else 1
        terms = (mean(error), sparsity * paid.sum(1).mean() * rows, mean(aux))
        return sum(weight * term for weight, term in zip(parts, terms, strict=True))

    return loss


WRONG = {
    "4.1": {
        "over the batch": chosen(dim=0),
        "over everything": whole_batch,
        "negatives kept": chosen(after=lambda f: f),
        "by size": chosen(by=torch.abs),
        "some negative": chosen(by=torch.abs, after=lambda f: f),
        "values alone": lambda a, k: a.topk(k, dim=-1).values.relu(),
        "a bar": lambda a, k: torch.where(a >= a.topk(k, dim=-1).values[..., -1:], a, 0.0).relu(),
        "all positive": lambda a, k: a.relu(),
        "a mask": lambda a, k: (nb04.topk(a, k) > 0).float(),
        "transposed": lambda a, k: nb04.topk(a, k).transpose(0, 1),
        "for two axes": lambda a, k: torch.stack([row.topk(k).values for row in a.unbind(2)]).unflatten(9, (1, 1)),
        "a number": 3,
    },
    "4.2": {
        "shifted": jumped(f=lambda z, theta, *_: (z - theta).relu()),
        "a step": jumped(f=lambda z, theta, width, grad, on, near: on),
        "all of z": jumped(f=lambda z, *_: z),
        "all of grad": jumped(to_z=lambda z, theta, width, grad, on, near: grad),
        "no grad": jumped(to_z=lambda z, theta, width, grad, on, near: on),
        "through the step": jumped(to_z=lambda z, theta, width, grad, on, near: grad * (on + near * theta / width)),
        "near only": jumped(to_z=lambda z, theta, width, grad, on, near: grad * near),
        "another for z": jumped(to_z=lambda z, theta, width, grad, on, near: 2 * grad * on),
        "each row": jumped(to_theta=lambda z, theta, width, grad, on, near: -grad * near * theta / width),
        "mean of rows": jumped(to_theta=lambda z, theta, width, grad, on, near: -(grad * near * theta / width).mean(0)),
        "sign": jumped(to_theta=lambda z, theta, width, grad, on, near: (grad * near * theta / width).sum(0)),
        "no bandwidth": jumped(to_theta=lambda z, theta, width, grad, on, near: -(grad * near * theta).sum(0)),
        "wide": jumped(
            to_theta=lambda z, theta, width, grad, on, near: (
                -(grad * ((z - theta).abs() < width) * theta / width).sum(0)
            )
        ),
        "the gate": jumped(to_theta=lambda z, theta, width, grad, on, near: -(grad * near / width).sum(0)),
        "z for theta": jumped(to_theta=lambda z, theta, width, grad, on, near: -(grad * near * z / width).sum(0)),
        "a bias": jumped(to_theta=lambda z, theta, width, grad, on, near: -(grad * on).sum(0)),
        "nothing": jumped(to_theta=lambda z, theta, *_: torch.zeros_like(theta)),
        "another for theta": jumped(to_theta=lambda z, theta, *_: theta),
        "two results": lambda z, theta, width, grad: (z, z),
    },
    "4.3": {
        "no third term": gated(parts=(1, 1, 0)),
        "no penalty": gated(parts=(1, 0, 1)),
        "no error": gated(parts=(0, 1, 1)),
        "penalty on f": gated(on_f=True),
        "all on f": gated(on_f=True, aux_f=True),
        "third term on f": gated(aux_f=True, W=False, b=False),
        "penalty below 0": gated(penalty=lambda pi: pi),
        "penalty on size": gated(penalty=torch.abs),
        "open gate": gated(through=lambda pi: pi),
        "a step": gated(through=lambda pi: (pi > 0).float()),
        "no b_dec": gated(bias=0),
        "mean over all": gated(how="all"),
        "sum over rows": gated(how="none"),
        "decoder moves": gated(W=False, b=False),
        "b_dec moves": gated(b=False),
        "W_dec moves": gated(W=False),
        "gate detached": gated(gate=False),
        "no gradient": lambda *given: nb04.gated_loss(*given).detach(),
        "a vector": lambda x, pi_gate, *_: pi_gate.sum(1),
        "twice": gated(parts=(2, 1, 1)),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_get_messages_of_their_own(name):
    answers.wrong_answers_differ(EXERCISES[name], NOWHERE, WRONG[name])


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_is_complete(name):
    answers.is_complete(EXERCISES[name])


# -- the quiz, and the tables


def test_pictures_do_not_tell_and_differ():
    pictures = [nb04.picture(name) for name in nb04.PICTURED]
    assert [re.search("<b>(.)</b>", picture)[1] for picture in pictures] == list("ABCD")
    assert len({picture[8:] for picture in pictures}) == 4
    for name, picture in zip(nb04.PICTURED, pictures, strict=True):
        assert name not in picture and 'role="img"' in picture and "nan" not in picture
    assert [question.answer for question in nb04.QUESTIONS] != sorted(question.answer for question in nb04.QUESTIONS)
    for question in nb04.QUESTIONS:
        assert 0 <= question.answer < len(question.options()) == 4
        assert question.why.endswith(".") and question.question.endswith("?")


def test_a_line_is_read_where_it_crosses():
    l0 = np.array([10.0, 40.0, 20.0, 30.0, 5.0])
    table = pd.DataFrame({"variant": ["a", "a", "b", "b", "c"], "l0": l0, "fvu": 2 * l0**-0.5, "seed": 0})
    table.loc[2:3, "fvu"] *= 3
    table = pd.concat([table, table[:1].assign(seed=1, fvu=99.0)])
    found = nb04.at_l0(table, 32.0)
    assert list(found.index) == ["a", "b"]  # c has one point only
    assert found.fvu.to_numpy() == pytest.approx([2 * 32**-0.5, 6 * 32**-0.5])
    assert found.between.tolist() == [True, False]


def test_the_zoo_names_every_preset():
    table = nb04.zoo()
    assert {"relu", "gated", "switch", "cross_layer_transcoder", "meta_sae"} <= set(table.preset)
    assert all(callable(getattr(presets, name)) for name in table.preset)
    assert table["in one line"].str.len().between(20, 160).all()


def test_the_ratio_finds_what_was_shrunk():
    torch.manual_seed(0)
    eye = torch.eye(8)
    coder = SparseCoder(8, 16, TopK(16)).eval()
    with torch.no_grad():
        coder.W_enc.copy_(torch.cat([eye, -eye], 1))
        coder.b_dec.fill_(3.0)
        coder.b_enc.copy_(-torch.cat([eye, -eye], 1).sum(0) * 3)
        x = 3 + torch.randn(500, 8)
        for factor in (1.0, 0.7):
            coder.W_dec.copy_(factor * torch.cat([eye, -eye]))
            assert nb04.size_ratio(coder, x) == pytest.approx(factor, rel=1e-4)
