"""Invariants of `SparseCoder`, over all presets."""

import copy

import pytest
import torch
import zoo

import saekit as sk


@pytest.fixture(params=zoo.PRESETS)
def coder(request):
    coder, _ = zoo.made(request.param)
    coder.calibrate(zoo.inputs(coder, 500)[0])
    return coder


def test_forward_is_decode_of_encode(coder):
    coder.eval()
    x = torch.randn(3, 7, coder.d_in)
    y_hat, codes = coder(x)
    assert y_hat.shape == (3, 7, coder.d_out)
    assert torch.equal(y_hat.flatten(0, 1), coder.decode(coder.encode(x), x))
    assert codes.n_rows == 21


@pytest.mark.parametrize("training", [True, False])
def test_codes_are_the_dense_equation(coder, training):
    coder.train(training)
    x, y = zoo.inputs(coder)
    y_hat, codes = coder(x)
    dense = zoo._Dense(coder, x, y, torch.zeros(coder.d_sae, dtype=torch.bool), 0.5)
    torch.testing.assert_close(codes.dense(), dense.f, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y_hat, dense.y_hat, rtol=1e-4, atol=1e-5)


def test_in_eval_mode_a_row_does_not_depend_on_the_others(coder):
    coder.eval()
    x, _ = zoo.inputs(coder, 30)
    alone = torch.cat([coder.encode(row[None]).dense() for row in x])
    torch.testing.assert_close(coder.encode(x).dense(), alone, rtol=1e-4, atol=1e-5)


def test_fold_changes_nothing_but_the_scale(coder):
    """fold(c, c) of a coder for c x reads raw x: same active set, codes and output divided by c."""
    coder.eval()
    scale = 3.7
    x, _ = zoo.inputs(coder, 200)
    before, codes = coder(x * scale)
    coder.fold(scale, scale)
    after, folded = coder(x)
    assert torch.equal(folded.latents, codes.latents)
    torch.testing.assert_close(folded.values, codes.values / scale, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after, before / scale, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(bank.b_pre, torch.zeros(bank.d_in)) for bank in coder.banks)


def test_fold_with_a_scale_for_each_column(coder):
    """What several sites need: each has a mean norm of its own."""
    coder.eval()
    into, out = torch.rand(coder.d_in) + 0.5, torch.rand(coder.d_out) + 0.5
    x, _ = zoo.inputs(coder, 200)
    before, codes = coder(x * into)
    coder.fold(into, out)
    after, folded = coder(x)
    assert torch.equal(folded.latents, codes.latents)
    torch.testing.assert_close(after, before / out, rtol=1e-4, atol=1e-4)


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
    x, _ = zoo.inputs(coder, 64)
    encoding = coder.encoding(x, fast=True)
    exact = coder.entries(x, encoding.codes.support)
    torch.testing.assert_close(encoding.a, exact)
    routed = encoding.route is not None
    factor = encoding.route.share[encoding.codes.rows] if routed else torch.ones(())
    kinds = {type(bank.nonlinearity) for bank in coder.banks}
    on = encoding.codes.values != 0
    if sk.Gated not in kinds:
        torch.testing.assert_close(encoding.codes.values[on], (exact * factor)[on])


def test_every_parameter_gets_a_gradient(coder):
    coder.train()
    x, y = zoo.inputs(coder, 256)
    y_hat, codes = coder(x)
    ((y - y_hat).square().sum() + codes.gate.sum()).backward()
    for name, parameter in coder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_entries_and_what_latents_write_agree_with_the_whole(coder):
    x, _ = zoo.inputs(coder)
    encoding = coder.encoding(x)
    torch.testing.assert_close(coder.entries(x, encoding.codes.support), encoding.a)
    nothing = encoding.codes.where(torch.zeros_like(encoding.codes.latents, dtype=torch.bool))
    torch.testing.assert_close(
        coder.written(encoding.codes) + coder.decode(nothing, x), coder.decode(encoding.codes, x), rtol=1e-4, atol=1e-5
    )


def test_a_stack_is_the_sum_of_its_banks():
    stack, _ = zoo.made("cross_layer_transcoder")
    stack.eval()
    x, _ = zoo.inputs(stack)
    y_hat, codes = stack(x)
    first, second = stack.banks[0](x[:, : zoo.D])[0], stack.banks[1](x[:, zoo.D :])[0]
    torch.testing.assert_close(y_hat[:, : zoo.D], first[:, : zoo.D])
    torch.testing.assert_close(y_hat[:, zoo.D :], first[:, zoo.D :] + second)
    torch.testing.assert_close(codes.columns(zoo.F, 2 * zoo.F).dense(), stack.banks[1].encode(x[:, zoo.D :]).dense())


def test_a_stack_starts_from_the_mean_of_its_target():
    stack, _ = zoo.made("cross_layer_transcoder")
    mean = torch.randn(stack.d_out)
    stack.centre(torch.zeros(stack.d_in), mean)
    nothing = sk.Codes.from_dense(torch.zeros(1, stack.d_sae))
    torch.testing.assert_close(stack.decode(nothing)[0], mean)


def test_norms_add_up_over_sites():
    coder, _ = zoo.made("crosscoder")
    parts = coder.W_dec.split(zoo.D, dim=1)
    torch.testing.assert_close(coder.norms(), sum(part.norm(dim=1) for part in parts))


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
        (lambda: sk.SparseCoder(8, 4, sk.ReLU(), n_sites=3), "d_out=8 columns cannot be n_sites=3"),
        (lambda: sk.SparseCoder(8, 4, sk.JumpReLU(5)), "5 latents .*d_sae=4"),
        (lambda: sk.CoderStack([], []), "0 banks"),
        (lambda: sk.CoderStack([sk.SparseCoder(8, 4, sk.ReLU())] * 2, [0, 9]), "leave a gap"),
        (lambda: sk.CoderStack([sk.SparseCoder(8, 4, sk.ReLU())], [0])(torch.randn(3, 7)), "width 8.*width 7"),
        (lambda: sk.SparseCoder(8, 4, sk.ReLU())(torch.randn(3, 7)), "width 8.*width 7"),
        (lambda: sk.SparseCoder(8, 4, sk.ReLU(), skip=True).decode(sk.Codes.from_dense(torch.ones(2, 4))), "skip"),
        (lambda: sk.SparseCoder(8, 4, sk.ReLU()).decode(sk.Codes.from_dense(torch.ones(2, 5))), "4 latents.*have 5"),
    ],
)
def test_bad_input_is_named(act, words):
    with pytest.raises(ValueError, match=words):
        act()
