"""Invariants of `SparseCoder`, over all presets."""

import copy

import pytest
import torch
import zoo

import saekit as sk


@pytest.fixture(params=zoo.PRESETS)
def coder(request):
    coder, _ = zoo.made(request.param)
    if hasattr(coder.nonlinearity, "calibrate"):
        coder.nonlinearity.calibrate([torch.randn(500, zoo.F)])
    return coder


def test_forward_is_decode_of_encode(coder):
    coder.eval()
    x = torch.randn(3, 7, zoo.D)
    y_hat, codes = coder(x)
    assert y_hat.shape == x.shape
    assert torch.equal(y_hat.flatten(0, 1), coder.decode(coder.encode(x), x))
    assert codes.n_rows == 21


def test_codes_are_the_dense_equation(coder):
    coder.eval()
    x = torch.randn(50, zoo.D)
    codes = coder.encode(x)
    a = (x - coder.b_pre) @ coder.W_enc + coder.b_enc
    on = codes.dense() != 0
    torch.testing.assert_close(codes.dense()[on], a[on])
    torch.testing.assert_close(coder.decode(codes), codes.dense() @ coder.W_dec + coder.b_dec)


def test_fold_changes_nothing_but_the_scale(coder):
    """fold(c, c) of a coder for c x reads raw x: same active set, codes and output divided by c."""
    coder.eval()
    scale = 3.7
    x = torch.randn(200, zoo.D)
    before, codes = coder(x * scale)
    coder.fold(scale, scale)
    after, folded = coder(x)
    assert torch.equal(folded.latents, codes.latents)
    torch.testing.assert_close(folded.values, codes.values / scale, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after, before / scale, rtol=1e-4, atol=1e-5)
    assert torch.equal(coder.b_pre, torch.zeros(zoo.D))


def test_fold_with_another_scale_out():
    torch.manual_seed(0)
    coder = sk.SparseCoder(zoo.D, zoo.F, sk.TopK(4), d_out=9, skip=True).eval()
    with torch.no_grad():
        coder.W_skip.normal_()
        coder.b_pre.normal_()
        coder.b_dec.normal_()
    x = torch.randn(100, zoo.D)
    before = coder(x * 2.0)[0]
    # the skip reads x itself, so only the encoder is centred
    coder.fold(2.0, 5.0)
    torch.testing.assert_close(coder(x)[0], before / 5.0, rtol=1e-4, atol=1e-5)


def test_bfloat16_selection_keeps_exact_values(coder):
    x = torch.randn(64, zoo.D)
    codes = coder.encoding(x, fast=True).codes
    a = (x - coder.b_pre) @ coder.W_enc + coder.b_enc
    on = codes.values != 0
    torch.testing.assert_close(codes.values[on], a[codes.rows, codes.latents][on])


def test_every_parameter_gets_a_gradient(coder):
    coder.train()
    x = torch.randn(256, zoo.D)
    y_hat, codes = coder(x)
    ((x - y_hat).square().sum() + codes.gate.sum()).backward()
    for name, parameter in coder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_unit_norm_stays_after_steps():
    coder, _ = zoo.made("topk")
    optimizer = torch.optim.Adam(coder.parameters(), lr=0.1, fused=True)
    for _ in range(5):
        x = torch.randn(64, zoo.D)
        (x - coder(x)[0]).square().mean().backward()
        optimizer.step()
        coder.constrain()
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(zoo.F))


def test_unit_norm_gradient_is_that_of_v_over_its_norm():
    coder, _ = zoo.made("topk")
    V = coder.W_dec.detach().clone().requires_grad_()
    weight = torch.randn_like(V)
    (expected,) = torch.autograd.grad((V / V.norm(dim=1, keepdim=True) * weight).sum(), V)
    (mine,) = torch.autograd.grad((coder.dictionary() * weight).sum(), coder.W_dec)
    torch.testing.assert_close(mine, expected)


def test_the_fused_optimiser_agrees_with_the_plain_one():
    """W_enc is stored transposed; a fused step must not mix up memory layouts."""
    coder, _ = zoo.made("relu")
    twin = copy.deepcopy(coder)
    assert twin.W_enc.stride() == coder.W_enc.stride() == (1, zoo.D)
    for c, fused in ((coder, True), (twin, False)):
        optimizer = torch.optim.Adam(c.parameters(), lr=0.01, fused=fused, foreach=False)
        for seed in range(3):
            x = torch.randn(64, zoo.D, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            (x - c(x)[0]).square().mean().backward()
            optimizer.step()
    for mine, expected in zip(coder.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: sk.SparseCoder(8, 4, sk.TopK(5)), "k=5 is more than d_sae=4"),
        (lambda: sk.SparseCoder(0, 4, sk.ReLU()), "d_in=0"),
        (lambda: sk.SparseCoder(8, 4, sk.ReLU())(torch.randn(3, 7)), "width 8.*width 7"),
        (lambda: sk.SparseCoder(8, 4, sk.ReLU(), skip=True).decode(sk.Codes.from_dense(torch.ones(2, 4))), "skip"),
        (lambda: sk.SparseCoder(8, 4, sk.ReLU()).decode(sk.Codes.from_dense(torch.ones(2, 5))), "4 latents.*have 5"),
    ],
)
def test_bad_input_is_named(act, words):
    with pytest.raises(ValueError, match=words):
        act()
