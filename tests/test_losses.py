"""Objectives and their terms: the sparse path equals the equations written out densely, in value and gradient."""

import math

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


NOTHING = torch.zeros(zoo.F, dtype=torch.bool)


def step_of(name, dead=NOTHING, **fields):
    coder, _ = zoo.made(name)
    x, y = zoo.inputs(coder)
    return zoo.step_of(coder, x, y, dead)._replace(**fields)


def value(objective, step):
    return objective(step)[0]


def test_lp_with_p_1_is_l1_but_for_the_shift():
    step = step_of("relu")
    torch.testing.assert_close(value(sk.lp(1.0), step), value(sk.l1(), step))
    grads = [torch.autograd.grad(value(o, step), step.coder.W_enc, retain_graph=True)[0] for o in (sk.lp(1.0), sk.l1())]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("p", [0.2, 0.05, 1e-3])
def test_lp_keeps_its_size_and_stays_finite_as_p_falls(p):
    step = step_of("relu")
    values = step.codes.values.detach().clone()
    values[:50] = 1e-30  # where the gradient of f^p without a shift would not be finite
    values.requires_grad_()
    encoding = step.encoding._replace(codes=step.codes.with_values(values))
    penalty = value(sk.lp(p), step._replace(encoding=encoding))
    (grad,) = torch.autograd.grad(penalty, values)
    assert bool(torch.isfinite(grad).all())
    torch.testing.assert_close(penalty, value(sk.l1(), step._replace(encoding=encoding)))
    assert grad[values < 0.01].min() > grad[values > 1].max()  # it pulls hardest at what is nearly off


def test_lp_with_a_power_that_reaches_0_is_refused():
    with pytest.raises(ValueError, match="p=0"):
        value(sk.lp(sk.anneal(1.0, 0.0, 0.0, 0.5)), step_of("relu"))


def test_l0_counts_and_tanh_saturates():
    step = step_of("jumprelu")
    counted = (step.codes.values > 0).sum() / zoo.ROWS
    torch.testing.assert_close(value(sk.l0(), step), counted)
    large = step.encoding._replace(codes=step.codes.with_values(step.codes.values * 1e6))
    torch.testing.assert_close(value(sk.tanh(), step._replace(encoding=large)), counted)


@pytest.mark.parametrize("factor", [1 / 4, 1 / 2, 2.0, 4.0])
def test_the_pull_to_a_target_l0_is_as_strong_from_below_as_from_above(factor):
    """Adam remembers the pull from far above: a weaker one from below would not bring the thresholds back."""
    step = step_of("jumprelu")
    counted = ((step.codes.values > 0).sum() / zoo.ROWS).item()
    loss = value(sk.target_l0(counted * factor), step)
    assert loss.item() == pytest.approx(math.log(1 / factor) ** 2, abs=2e-2)
    (pull,) = torch.autograd.grad(loss, step.codes.gate)
    # d loss / d gate = 2 log(L0 / k) / (L0 rows), the same at k / 2 and 2 k but for its sign
    expected = 2 * math.log(1 / factor) / (counted * zoo.ROWS)
    torch.testing.assert_close(pull, torch.full_like(pull, expected), rtol=1e-2, atol=0)


def test_load_is_balanced_at_1():
    step = step_of("switch")
    p = torch.full((zoo.ROWS, 4), 0.25)
    route = sk.nonlinearity.Route(p, torch.arange(zoo.ROWS) % 4)
    balanced = step._replace(encoding=step.encoding._replace(route=route))
    torch.testing.assert_close(value(sk.load_balance(), balanced), torch.tensor(1.0))
    alone = sk.nonlinearity.Route(torch.eye(4)[[1] * zoo.ROWS], torch.ones(zoo.ROWS, dtype=torch.long))
    torch.testing.assert_close(
        value(sk.load_balance(), step._replace(encoding=step.encoding._replace(route=alone))), torch.tensor(4.0)
    )


def test_tilted_is_fvu_without_tilt_and_the_worst_row_with_much_of_it():
    step = step_of("topk")
    torch.testing.assert_close(value(sk.tilted(1e-3), step), value(sk.fvu(), step), rtol=1e-2, atol=0)
    (grad,) = torch.autograd.grad(value(sk.tilted(200.0), step), step.y_hat)
    worst = (step.y - step.y_hat).square().sum(1).argmax()
    assert grad[worst].norm() > 0.9 * grad.norm(dim=1).sum()


def test_multi_topk_is_the_fvu_of_a_larger_k():
    step = step_of("topk")
    coder = step.coder
    a = (step.x - coder.b_pre) @ coder.W_enc + coder.b_enc
    f = a.relu() * torch.zeros_like(a).scatter(1, a.topk(4 * zoo.K, dim=1).indices, 1.0)
    expected = value(sk.fvu(), step._replace(y_hat=f @ coder.W_dec + coder.b_dec))
    torch.testing.assert_close(value(sk.multi_topk(4 * zoo.K), step), expected)
    value(sk.multi_topk(4 * zoo.K), step).backward()
    assert coder.W_enc.grad.abs().sum() > 0  # the encoder learns from it


def test_pre_act_of_the_dead_alone():
    dead = torch.arange(zoo.F) < 20
    step = step_of("jumprelu", dead)
    coder = step.coder
    a = (step.x - coder.b_pre) @ coder.W_enc + coder.b_enc
    low = ((coder.nonlinearity.threshold - a).relu() * coder.W_dec.norm(dim=1))[:, dead].sum(1).mean()
    torch.testing.assert_close(value(sk.pre_act(dead_only=True), step), low)


def test_ghosts_have_half_the_norm_of_the_error_and_the_size_of_the_mse():
    dead = torch.arange(zoo.F) < 20
    step = step_of("relu", dead)
    coder, error = step.coder, (step.y - step.y_hat).detach()
    g = (((step.x - coder.b_pre) @ coder.W_enc + coder.b_enc).exp() * dead) @ coder.W_dec
    g = g * (error.norm(dim=1) / (2 * g.norm(dim=1))).detach()[:, None]
    torch.testing.assert_close(g.norm(dim=1), error.norm(dim=1) / 2)
    misfit = (error - g).square().sum(1).mean()
    expected = misfit * (error.square().sum(1).mean() / misfit).detach()
    mine = value(sk.ghost(), step)
    torch.testing.assert_close(mine, error.square().sum(1).mean())
    for p in (coder.W_enc, coder.W_dec):
        a, b = (torch.autograd.grad(t, p, retain_graph=True)[0] for t in (mine, expected))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert a.abs().sum() > 0
    assert value(sk.ghost(), step_of("relu")) == 0


def test_the_gate_reconstructs_through_a_decoder_it_does_not_move():
    step = step_of("gated")
    value(sk.losses.gate_mse(), step).backward()
    assert step.coder.W_dec.grad is None
    assert step.coder.b_dec.grad is None
    assert step.coder.W_enc.grad.abs().sum() > 0


def test_matryoshka_levels_weigh_the_same():
    """Two levels of which the first is everything: the mean of two fvu's; and a scale that is free of their number."""
    step = step_of("matryoshka")
    whole = value(sk.fvu(), step)
    torch.testing.assert_close(value(sk.losses.matryoshka((zoo.F,)), step), whole)
    first = step.codes.where(step.codes.latents < 8)
    narrow = value(sk.fvu(), step._replace(y_hat=step.coder.decode(first)))
    torch.testing.assert_close(value(sk.losses.matryoshka((8, zoo.F)), step), (whole + narrow) / 2)


def test_resampling_changes_the_dead_and_what_adam_knows_of_them():
    dead = torch.arange(zoo.F) < 6
    step = step_of("jumprelu", dead)
    coder = step.coder
    optimizer = torch.optim.Adam(coder.parameters(), fused=True)
    value(sk.fvu() + sk.l0(), step).backward()
    optimizer.step()
    before = {k: p.detach().clone() for k, p in coder.named_parameters()}
    moments = {k: optimizer.state[p]["exp_avg_sq"].clone() for k, p in coder.named_parameters()}
    (between,) = sk.resample(every=0.25, until=0.5).between
    assert not len(between(step._replace(progress=0.3), 0.4, optimizer))
    assert not len(between(step._replace(progress=0.7), 0.8, optimizer))
    assert torch.equal(between(step._replace(progress=0.2), 0.25, optimizer), torch.arange(6))
    for key, p in coder.named_parameters():
        axis = {"W_enc": 1, "b_dec": None}.get(key, 0)
        if axis is None:
            assert torch.equal(p, before[key])
            continue
        now, was, moment = (t.movedim(axis, 0) for t in (p, before[key], optimizer.state[p]["exp_avg_sq"]))
        assert torch.equal(now[6:], was[6:])
        assert not torch.equal(now[:6], was[:6])
        assert not moment[:6].any()
        assert torch.equal(moment[6:], moments[key].movedim(axis, 0)[6:])
    alive = before["W_enc"][:, 6:].norm(dim=0).mean()
    torch.testing.assert_close(coder.W_enc[:, :6].norm(dim=0), (0.2 * alive).expand(6))
    cosines = torch.nn.functional.cosine_similarity(coder.W_enc[:, :6].T[:, None], (step.x - coder.b_pre)[None], dim=2)
    torch.testing.assert_close(cosines.max(1).values, torch.ones(6))


def test_resampling_a_stack_puts_each_bank_on_its_own_rows():
    """The dead of each bank, on the inputs it reads and along the columns it writes; nothing else moves."""
    coder, _ = zoo.made("relu stack")
    x, y = zoo.inputs(coder)
    dead = torch.arange(coder.d_sae) % zoo.F < 6
    step = zoo.step_of(coder, x, y, dead)
    value(sk.mse(), step).backward()
    optimizer = torch.optim.Adam(coder.parameters(), fused=True)
    optimizer.step()
    before = {k: p.detach().clone() for k, p in coder.named_parameters()}
    (between,) = sk.resample(every=0.25, until=0.5).between
    moved = between(step._replace(progress=0.2), 0.25, optimizer)
    assert torch.equal(moved, torch.nonzero(dead).squeeze(1))
    bias = torch.cat([coder.banks[0].b_dec[: zoo.D], coder.banks[0].b_dec[zoo.D :] + coder.banks[1].b_dec]).detach()
    for i, (bank, read) in enumerate(zip(coder, coder.inputs(x), strict=True)):
        assert torch.equal(bank.W_enc[:, 6:], before[f"stacked.{i}.W_enc"][:, 6:])
        assert torch.equal(bank.W_dec[6:], before[f"stacked.{i}.W_dec"][6:])
        assert torch.equal(bank.b_dec, before[f"stacked.{i}.b_dec"])
        along_x = torch.nn.functional.cosine_similarity(bank.W_enc[:, :6].T[:, None], (read - bank.b_pre)[None], dim=2)
        along_y = torch.nn.functional.cosine_similarity(bank.W_dec[:6, None], (y - bias)[None, :, i * zoo.D :], dim=2)
        torch.testing.assert_close(along_x.max(1).values, torch.ones(6))
        assert torch.equal(along_x.argmax(1), along_y.argmax(1))  # the same rows
        assert not optimizer.state[bank.W_dec]["exp_avg_sq"][:6].any()
        assert optimizer.state[bank.W_dec]["exp_avg_sq"][6:].any()


def test_stacks_are_aligned_bank_by_bank():
    (coder, _), (other, _) = zoo.made("relu stack"), zoo.made("relu stack", seed=3)
    x, y = zoo.inputs(coder)
    step = zoo.step_of(coder, x, y, torch.zeros(coder.d_sae, dtype=torch.bool))
    expected = []
    for a, b in zip(coder, other, strict=True):
        cosines = torch.nn.functional.normalize(a.W_dec, dim=1) @ torch.nn.functional.normalize(b.W_dec, dim=1).T
        expected.append(1 - (cosines.max(1).values.mean() + cosines.max(0).values.mean()) / 2)
    torch.testing.assert_close(value(sk.align(), step._replace(peers=(other,))), torch.stack(expected).mean())


def test_aux_zipf_of_used_and_dead_latents_alone_is_auxk():
    dead = torch.arange(zoo.F) < 20
    step = step_of("mutual_choice", dead, density=(~dead).float())
    torch.testing.assert_close(value(sk.aux_zipf(zoo.K), step), value(sk.auxk(), step))


def test_anneal():
    p = sk.anneal(1.0, 0.2, begin=0.2, finish=0.6)
    assert [round(p(t), 6) for t in (0.0, 0.2, 0.4, 0.6, 1.0)] == [1.0, 1.0, 0.6, 0.2, 0.2]


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: value(sk.align(), step_of("topk")._replace(peers=())), "needs peers"),
        (lambda: value(sk.load_balance(), step_of("topk")), "Routed"),
        (lambda: value(sk.auxk(), step_of("switch")), "auxk ranks all latents"),
        (lambda: value(sk.pre_act(), step_of("topk")), "learned threshold"),
        (lambda: value(sk.losses.matryoshka((4, 8)), step_of("topk")), r"end at 8.*d_sae=64"),
        (lambda: value(sk.losses.matryoshka((4, zoo.F)), step_of("relu stack", torch.zeros(128).bool())), "use fvu"),
        (lambda: sk.tilted(-1.0), "t=-1"),
        (lambda: sk.target_l0(0), "k=0"),
        (lambda: sk.resample(every=0), "every=0"),
        (lambda: sk.anneal(1, 0.2, 0.5, 0.5), "begin=0.5, finish=0.5"),
        (lambda: value(sk.kl(), step_of("topk")), "whole sequences"),
    ],
)
def test_bad_input_is_named(act, words):
    with pytest.raises(ValueError, match=words):
        act()
