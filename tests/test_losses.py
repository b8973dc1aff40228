"""Objectives and their terms: the sparse path equals the equations written out densely, in value and gradient."""

import pytest
import torch
import zoo

import saekit as sk
from saekit import codes as c
from saekit.losses import at


@pytest.mark.parametrize("name", zoo.WITHOUT_MODEL)
@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("dead_share", [0.0, 0.1, 0.5])
def test_objective_equals_the_dense_equations(name, path, dead_share, monkeypatch):
    monkeypatch.setattr(c, "DENSE_ABOVE", 2.0 if path == "sparse" else -1.0)
    coder, objective = zoo.made(name)
    x, y = zoo.inputs(coder)
    dead = torch.arange(coder.d_sae) % zoo.F < dead_share * zoo.F
    total, terms = objective(zoo.step_of(coder, x, y, dead))
    expected = zoo.dense_loss(name, coder, x, y, dead)
    torch.testing.assert_close(total, expected)
    parameters = {name: p for name, p in coder.named_parameters() if p.requires_grad}
    mine = torch.autograd.grad(total, list(parameters.values()), allow_unused=True, materialize_grads=True)
    dense = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True, materialize_grads=True)
    for parameter, a, b in zip(parameters, mine, dense, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5, msg=lambda m, p=parameter: f"{p}: {m}")
    assert set(terms) == {term for term, _, _ in objective.terms}


@pytest.mark.parametrize("name", zoo.PRESETS)
def test_gradient_reaches_the_input(name):
    """Needed where what is upstream learns too; off-support entries get none, on both paths."""
    coder, _ = zoo.made(name)
    x = zoo.inputs(coder)[0].requires_grad_()
    y_hat, _ = coder(x)
    weight = torch.randn_like(y_hat)
    (mine,) = torch.autograd.grad((y_hat * weight).sum(), x)
    dense = zoo._Dense(coder, x, y_hat.detach(), torch.zeros(coder.d_sae, dtype=torch.bool), 0.5)
    (expected,) = torch.autograd.grad((dense.y_hat * weight).sum(), x)
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_auxk_is_zero_while_nothing_is_dead_and_does_not_touch_the_error():
    coder, _ = zoo.made("topk")
    x = torch.randn(zoo.ROWS, zoo.D)
    nothing = torch.zeros(zoo.F, dtype=torch.bool)
    assert sk.auxk()(zoo.step_of(coder, x, x, nothing))[0] == 0
    dead = torch.arange(zoo.F) < 20
    total, _ = sk.auxk()(zoo.step_of(coder, x, x, dead))
    total.backward()
    assert coder.W_enc.grad[:, :20].abs().sum() > 0  # the encoder learns
    assert coder.W_enc.grad[:, 20:].abs().sum() == 0  # and only that of dead latents
    assert coder.b_dec.grad is None  # the error is detached and there is no bias


def test_objectives_add_up_and_scale():
    coder, _ = zoo.made("topk")
    x = torch.randn(zoo.ROWS, zoo.D)
    step = zoo.step_of(coder, x, x, torch.zeros(zoo.F, dtype=torch.bool))
    a, b = sk.mse()(step)[0], sk.fvu()(step)[0]
    total, terms = (2 * sk.mse() + sk.warmup(4, over=1.0) * sk.fvu() * 3)(step)
    torch.testing.assert_close(total, 2 * a + 0.5 * 4 * 3 * b)
    torch.testing.assert_close(terms["mse"], a.detach())


def test_fvu_is_shift_and_scale_free_and_right_at_its_ends():
    coder, _ = zoo.made("topk")
    y = torch.randn(zoo.ROWS, zoo.D) * 7 + 100
    step = zoo.step_of(coder, y, y, torch.zeros(zoo.F, dtype=torch.bool))
    assert sk.fvu()(step._replace(y_hat=y))[0] == 0
    torch.testing.assert_close(sk.fvu()(step._replace(y_hat=y.mean(0).expand_as(y)))[0], torch.tensor(1.0))


def test_warmup():
    weight = sk.warmup(5, over=0.05)
    assert [at(weight, p) for p in (0.0, 0.025, 0.05, 1.0)] == [0, 2.5, 5, 5]
    assert at(sk.warmup(5, over=0), 0.0) == 5
