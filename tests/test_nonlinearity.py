"""Selections are exact, gradients are the estimators of the papers, and eval mode does not look at the neighbours."""

import pytest
import torch

from saekit.codes import Codes, support_of
from saekit.nonlinearity import JumpReLU, ReLU, TopK, largest_of_batch, largest_per_row, threshold_for


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


@pytest.mark.parametrize("nonlinearity", [ReLU(), TopK(4), TopK(4, along="batch"), JumpReLU(50, theta0=0.5)])
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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TopK(4, along="rows"), "along='rows'"),
        (lambda: TopK(0), "k=0"),
        (lambda: TopK(2.5), "k=2.5"),
        (lambda: TopK(9).support(torch.randn(2, 5)), "k=9 is more than the 5"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
