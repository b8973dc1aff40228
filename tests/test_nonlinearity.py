"""Selections are exact, gradients are the estimators of the papers, and eval mode does not look at the neighbours."""

import pytest
import torch

from saekit import SparseCoder
from saekit.codes import Codes, support_of
from saekit.nonlinearity import (
    Gated,
    JumpReLU,
    ProLU,
    ReLU,
    Routed,
    TopK,
    largest_of_batch,
    largest_per_latent,
    largest_per_row,
    threshold_for,
)


def mask(support):
    return Codes(support, torch.ones(len(support.latents))).dense() > 0


@pytest.mark.parametrize("k", [1, 5, 40])
def test_largest_per_row(k):
    pre = torch.randn(30, 40)
    expected = torch.zeros(30, 40).scatter(1, pre.topk(k, dim=1).indices, 1.0) > 0
    assert torch.equal(mask(largest_per_row(pre, k)), expected)


@pytest.mark.parametrize(("rows", "d_sae", "n"), [(3, 5, 1), (3, 5, 15), (200, 300, 800), (1500, 700, 3000)])
def test_largest_of_batch_is_exact(rows, d_sae, n):
    pre = torch.randn(rows, d_sae)
    pre[:, :3] += 3  # a few latents take most of the budget
    pre[0] += 5  # so does one row
    expected = torch.zeros(rows * d_sae).scatter(0, pre.flatten().topk(n).indices, 1.0).view(rows, d_sae) > 0
    assert torch.equal(mask(largest_of_batch(pre, n)), expected)


def test_largest_of_batch_where_the_sample_misleads():
    pre = torch.zeros(2048, 512)
    pre.view(-1)[:: (2048 * 512 // 2**18) | 1] = 1.0 + torch.rand(len(pre.view(-1)[:: (2048 * 512 // 2**18) | 1]))
    n = 400_000  # more than the sampled entries that stand out
    assert len(largest_of_batch(pre, n).latents) == n


def test_threshold_gives_the_mean_l0():
    batches = [torch.randn(300, 200), 2 * torch.randn(500, 200)]
    threshold = threshold_for(batches, k=7.5)
    on = sum((b > threshold).sum().item() for b in batches)
    assert on / 800 == pytest.approx(7.5, abs=1 / 800)


def test_threshold_is_never_negative():
    assert threshold_for([-torch.rand(10, 20)], k=4) == 0


@pytest.mark.parametrize(
    "nonlinearity",
    [ReLU(), Gated(50), ProLU(50), TopK(4), TopK(4, along="batch"), TopK(4, "feature", 50), JumpReLU(50, theta0=0.5)],
)
def test_in_eval_mode_a_row_does_not_depend_on_the_others(nonlinearity):
    nonlinearity.eval()
    pre = torch.randn(20, 50)
    together = mask(nonlinearity.support(pre))
    alone = torch.cat([mask(nonlinearity.support(row[None])) for row in pre])
    assert torch.equal(together, alone)


def test_jumprelu_forward_is_its_equation():
    jump = JumpReLU(50, bandwidth=0.4)
    with torch.no_grad():
        jump.threshold.uniform_(0, 1)
    pre = torch.randn(20, 50)
    support = jump.support(pre)
    codes = jump(pre[support.rows, support.latents], support)
    on = pre > jump.threshold
    assert torch.equal(codes.dense(), pre * on)
    assert torch.equal(codes.gate.sum(), on.sum().float())


def test_jumprelu_gradients_are_those_of_the_smoothed_function():
    """The expected derivative under a rectangle of noise around the threshold, by a finite difference of the mean."""
    theta, eps, n = 0.5, 0.2, 400_000
    a = torch.linspace(0, 1, n, dtype=torch.float64)
    support = support_of(torch.ones(n, 1, dtype=torch.bool))
    jump = JumpReLU(1, bandwidth=eps, theta0=theta).double()
    codes = jump(a, support)
    d_value, d_gate = (
        torch.autograd.grad(t.mean(), jump.threshold, retain_graph=True)[0].item() for t in (codes.values, codes.gate)
    )
    h = eps / 2  # over a uniform density, the kernel estimate is a central difference of this width
    mean_value = lambda t: (a * (a > t)).mean().item()  # noqa: E731
    mean_gate = lambda t: (a > t).double().mean().item()  # noqa: E731
    assert d_gate == pytest.approx((mean_gate(theta + h) - mean_gate(theta - h)) / (2 * h), rel=1e-3)
    assert d_value == pytest.approx((mean_value(theta + h) - mean_value(theta - h)) / (2 * h), rel=1e-3)


def test_jumprelu_support_covers_the_reach_of_the_kernel():
    jump = JumpReLU(50, bandwidth=0.4, theta0=0.5)
    pre = torch.randn(20, 50)
    assert torch.equal(mask(jump.support(pre)), pre > 0.5 - 0.2)


def test_thresholds_stay_at_or_above_zero():
    jump = JumpReLU(3)
    with torch.no_grad():
        jump.threshold.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    jump.constrain()
    assert jump.threshold.tolist() == [0, 0, 2]


def test_jumprelu_through_its_input_is_the_threshold_turned_round():
    """A shift of a and of theta by the same amount moves neither side of the step, so the kernels cancel."""
    jump = JumpReLU(50, bandwidth=0.6, theta0=0.4, through_input=True)
    a = torch.randn(20, 50).flatten().requires_grad_()
    codes = jump(a, support_of(torch.ones(20, 50, dtype=torch.bool)))
    for values, own in ((codes.values, (a > 0.4).float()), (codes.gate, torch.zeros_like(a))):
        d_a, d_theta = torch.autograd.grad(values.sum(), (a, jump.threshold), retain_graph=True)
        torch.testing.assert_close((d_a - own).view(20, 50).sum(0), -d_theta)
        assert d_theta.abs().sum() > 0


def with_all(nonlinearity, pre):
    """The codes when every entry is on the support."""
    support = support_of(torch.ones_like(pre, dtype=torch.bool))
    return nonlinearity(pre.flatten(), support)


def test_gated_is_the_two_paths_of_the_paper_and_a_jumprelu():
    d_sae, x_enc = 30, torch.randn(40, 30)
    b_gate, b_mag, r = torch.randn(d_sae) * 0.3, torch.randn(d_sae) * 0.3, torch.randn(d_sae) * 0.3
    gated = Gated(d_sae)
    with torch.no_grad():
        gated.log_gain.copy_(r)
        gated.bias.copy_(b_mag - r.exp() * b_gate)
    paper = (x_enc + b_gate > 0) * (x_enc * r.exp() + b_mag).relu()
    mine = with_all(gated, x_enc + b_gate)
    torch.testing.assert_close(mine.dense(), paper)
    torch.testing.assert_close(mine.gate, (x_enc + b_gate).relu().flatten())
    a, theta = x_enc * r.exp() + b_mag, (b_mag - r.exp() * b_gate).clamp(min=0)
    torch.testing.assert_close(paper, a * (a > theta))


def test_prolu_is_a_jumprelu_with_the_gradients_of_its_paper():
    pre = torch.randn(40, 30)
    for straight in (True, False):
        prolu = ProLU(30, straight)
        with torch.no_grad():
            prolu.bias.normal_()
        a = pre.flatten().requires_grad_()
        codes = prolu(a, support_of(torch.ones_like(pre, dtype=torch.bool)))
        on = pre > (-prolu.bias).clamp(min=0)
        torch.testing.assert_close(codes.dense(), pre * on)
        assert torch.equal(mask(prolu.support(pre)), on)
        grad = torch.randn_like(pre)
        d_a, d_b = torch.autograd.grad((codes.values * grad.flatten()).sum(), (a, prolu.bias))
        torch.testing.assert_close(d_a.view_as(pre), grad * on * (1 + pre if straight else 1))
        torch.testing.assert_close(d_b, (grad * on * (pre if straight else 1)).sum(0))


def test_the_encoder_of_a_prolu_has_no_bias_beside_it():
    coder = SparseCoder(8, 20, ProLU(20))
    assert not coder.b_enc.requires_grad
    assert SparseCoder(8, 20, ReLU()).b_enc.requires_grad


def test_largest_per_latent_is_exact():
    pre = torch.randn(60, 40)
    budget = torch.randint(0, 70, (40,))
    rank = pre.argsort(dim=0, descending=True).argsort(dim=0)
    assert torch.equal(mask(largest_per_latent(pre, budget)), rank < budget)


@pytest.mark.parametrize("zipf", [0.0, 1.0])
def test_feature_choice_gives_every_latent_its_share(zipf):
    topk = TopK(6, along="feature", d_sae=50, zipf=zipf)
    pre = torch.randn(400, 50) + torch.linspace(-0.5, 0.5, 50)
    budget = topk.budget(pre)
    assert budget.sum() == 6 * 400
    assert budget.min() >= 1
    chosen = mask(topk.support(pre))
    assert torch.equal(chosen.sum(0), budget)
    if zipf:  # the latents that win most often get most
        wins = mask(largest_of_batch(pre, 6 * 400)).sum(0)
        assert (budget[wins.argsort(descending=True, stable=True)].diff() <= 0).all()
        assert budget.max() > 2 * budget.min()
    else:
        assert budget.max() - budget.min() <= 1


@pytest.mark.parametrize("zipf", [0.0, 1.0])
def test_feature_choice_keeps_its_l0_outside_training(zipf):
    topk = TopK(6, along="feature", d_sae=50, zipf=zipf)
    topk.calibrate([torch.randn(500, 50) + 1 for _ in range(4)])
    topk.eval()
    l0 = len(topk.support(torch.randn(2000, 50) + 1).latents) / 2000
    assert l0 == pytest.approx(6, rel=0.05)


def test_only_the_routed_expert_is_computed():
    torch.manual_seed(0)
    coder = SparseCoder(8, 400, Routed(8, 400, 4, TopK(3)))  # so sparse that no product is dense
    x = torch.randn(60, 8)
    expert = coder.nonlinearity.route(x).expert
    chosen = x[expert == 2]
    assert len(expert.unique()) > 1
    assert torch.equal(coder.encode(chosen).latents // 100, torch.full((3 * len(chosen),), 2))
    before = coder(chosen)[0]
    with torch.no_grad():  # what belongs to the other experts is never read
        coder.W_enc[:, :200] = coder.W_enc[:, 300:] = float("nan")
        coder.W_dec[:200] = coder.W_dec[300:] = float("nan")
    assert torch.equal(coder(chosen)[0], before)
    assert coder.encoding(x).pre.shape == (60, 100)


def test_the_router_learns_through_the_share_of_the_chosen_expert():
    torch.manual_seed(0)
    coder = SparseCoder(8, 40, Routed(8, 40, 4, TopK(3)))
    x = torch.randn(60, 8)
    share = torch.softmax(x @ coder.nonlinearity.W_router, dim=1).max(1).values
    codes = coder.encode(x)
    a = x @ coder.W_enc + coder.b_enc
    torch.testing.assert_close(codes.values, a[codes.rows, codes.latents].relu() * share[codes.rows])
    codes.values.sum().backward()
    assert coder.nonlinearity.W_router.grad.abs().sum() > 0


def test_latents_that_start_again_have_the_parameters_of_the_start():
    for made in (JumpReLU(6, theta0=0.2), Gated(6), ProLU(6)):
        fresh = [p.detach().clone() for p in made.parameters()]
        with torch.no_grad():
            for p in made.parameters():
                p.add_(1)
        made.reset(torch.tensor([1, 4]))
        for p, start in zip(made.parameters(), fresh, strict=True):
            assert torch.equal(p[[1, 4]], start[[1, 4]])
            assert torch.equal(p[[0, 2]], start[[0, 2]] + 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TopK(4, along="rows"), "along='rows'"),
        (lambda: TopK(0), "k=0"),
        (lambda: TopK(4, along="feature"), "d_sae=None"),
        (lambda: TopK(4, along="feature", d_sae=90).support(torch.randn(20, 90)), "80 entries.*90 latents.*23 rows"),
        (lambda: JumpReLU(4, bandwidth=0), "bandwidth=0"),
        (lambda: Routed(8, 20, 3, TopK(2)), "d_sae=20.*experts=3"),
        (lambda: Routed(8, 20, 4, TopK(6)), "k=6 is more than the 5"),
        (lambda: TopK(2.5), "k=2.5"),
        (lambda: TopK(9).support(torch.randn(2, 5)), "k=9 is more than the 5"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
