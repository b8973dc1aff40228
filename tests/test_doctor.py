"""`evals.doctor` on coders that are perfect but for one fault, which it has to name; and its remedy has to work."""

import numpy as np
import pytest
import torch

import saekit as sk
from saekit import evals

SITE = sk.Site("blocks.1.hook_resid_post")
D = 32


@pytest.fixture
def model(tiny_models):
    return tiny_models["gpt2"]


@pytest.fixture
def corpus(tiny_corpus):
    return tiny_corpus[:6]


def rows(model, corpus, site=SITE, first=0):
    mask = torch.from_numpy(corpus.mask[:, first:])
    return sk.capture(model, corpus.tokens[:, first:], site)[site.read][mask]


def perfect(x, nonlinearity=None):
    """f = (relu(x - m), relu(m - x)), decoded to x; m is the mean of x."""
    coder = sk.SparseCoder(D, 2 * D, nonlinearity or sk.ReLU()).eval().requires_grad_(False)
    eye = torch.eye(D)
    coder.W_enc.copy_(torch.cat([eye, -eye], dim=1))
    coder.W_dec.copy_(torch.cat([eye, -eye]))
    coder.b_dec.copy_(x.mean(0) + 1)
    coder.b_enc.copy_(-coder.b_dec @ coder.W_enc)
    coder.site = SITE
    return coder


def memory(x):
    """One latent for each row of x, the nearest of which is on: reconstructs these rows and nothing else."""
    coder = sk.SparseCoder(D, len(x), sk.TopK(1)).eval().requires_grad_(False)
    size = x.square().sum(1)
    coder.W_enc.copy_(x.T)
    coder.b_enc.copy_(size.max() - size / 2)
    coder.W_dec.copy_(x / (size.max() + size / 2)[:, None])
    coder.site = SITE
    return coder


def test_a_healthy_coder_has_no_fault(model, corpus):
    found = evals.doctor(model, perfect(rows(model, corpus)), corpus, tokens=10**9)
    assert found.faults == []
    assert found.scores["fvu"] == pytest.approx(0, abs=1e-9)
    assert found.scores["n"] == corpus.n_tokens
    assert found.scores["l0"] == pytest.approx(D, abs=0.1)
    assert np.isnan(found.scores["declared_l0"])
    bos = sk.capture(model, corpus.tokens, SITE)[SITE.read][:, 0]
    assert found.scores["bos_norm"] == pytest.approx(
        float(bos.norm(dim=1).mean() / rows(model, corpus).norm(dim=1).mean()), rel=1e-4
    )
    assert all(isinstance(value, float) for value in found.scores.values())
    assert "no fault found" in repr(found)


def test_scores_are_those_of_fidelity(model, corpus):
    torch.manual_seed(0)
    coder = sk.SparseCoder(D, 64, sk.TopK(8)).eval()
    coder.site = SITE
    ours, theirs = evals.doctor(model, coder, corpus, tokens=10**9).scores, evals.fidelity(model, coder, corpus)
    for name in ("fvu", "l0", "dead"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-5)


def test_a_scale_is_found_and_its_remedy_works(model, corpus):
    x = rows(model, corpus)
    c = D**0.5 / x.norm(dim=1).mean().item()
    coder = memory(x)
    coder.fold(1 / c, 1 / c)  # now it is one of c x
    found = evals.doctor(model, coder, corpus, tokens=10**9)
    assert found.faults[0].startswith("it expects activations multiplied by")
    assert "mean norm sqrt(d), as" in found.faults[0]
    coder.fold(c, c)
    assert evals.doctor(model, coder, corpus, tokens=10**9).faults == []


def test_a_scale_that_was_folded_twice_is_found(model, corpus):
    x = rows(model, corpus)
    c = 1 / x.square().sum(1).mean().sqrt().item()
    coder = memory(x)
    coder.fold(1 / c, 1 / c)
    assert "mean square norm 1, as" in evals.doctor(model, coder, corpus, tokens=10**9).faults[0]
    coder = memory(x)
    coder.fold(c, c)
    assert "folded twice" in evals.doctor(model, coder, corpus, tokens=10**9).faults[0]


def test_thresholds_in_other_units_are_found(model, corpus):
    x = rows(model, corpus)
    coder = perfect(x, sk.JumpReLU(2 * D))
    coder.nonlinearity.threshold.fill_(64 * x.abs().max() / 256)
    assert "thresholds are in other units" in evals.doctor(model, coder, corpus).faults[0]


@pytest.mark.parametrize(("sign", "words"), [(1, "expects b_dec to be taken away"), (-1, "which it does not expect")])
def test_a_bias_folded_never_or_twice_is_found_and_its_remedy_works(sign, words, model, corpus):
    coder = perfect(rows(model, corpus))
    coder.W_enc[:, D:] = 0  # so that a shift cannot be made good by the other half
    coder.W_dec[D:] = 0
    coder.b_enc += 50  # everything on
    coder.b_dec -= 50 * coder.W_dec.sum(0)
    y = coder(rows(model, corpus))[0]
    assert torch.allclose(y, rows(model, corpus), atol=1e-3)
    coder.b_enc += sign * coder.b_dec @ coder.W_enc * (coder.b_enc > 0)
    faults = evals.doctor(model, coder, corpus).faults
    assert any(words in fault for fault in faults)


def test_transposed_square_matrices_are_found_and_the_remedy_works(model, corpus):
    torch.manual_seed(0)
    Q = torch.linalg.qr(torch.randn(D, D)).Q
    for name in ("W_enc", "W_dec"):
        coder = sk.SparseCoder(D, D, sk.ReLU()).eval().requires_grad_(False)
        coder.W_enc.copy_(Q)
        coder.W_dec.copy_(Q.T)
        coder.b_enc.fill_(200)
        coder.b_dec.copy_(-200 * Q.T.sum(0))
        coder.site = SITE
        assert evals.doctor(model, coder, corpus).faults == []
        setattr(coder, name, torch.nn.Parameter(getattr(coder, name).T.contiguous(), requires_grad=False))
        faults = evals.doctor(model, coder, corpus).faults
        assert faults[0].startswith(f"{name} is transposed")
        setattr(coder, name, torch.nn.Parameter(getattr(coder, name).T, requires_grad=False))
        assert evals.doctor(model, coder, corpus).faults == []


def test_a_coder_of_text_without_bos_is_found(model, corpus):
    coder = memory(rows(model, corpus, first=1))
    found = evals.doctor(model, coder, corpus, tokens=10**9)
    assert found.faults[0].startswith("it was trained on text without BOS")
    assert found.scores["fvu_best"] == pytest.approx(0, abs=1e-6)


def test_another_layers_coder_is_found(model, corpus):
    other = sk.Site("blocks.2.hook_resid_post")
    found = evals.doctor(model, memory(rows(model, corpus, other)), corpus, tokens=10**9)
    assert "it belongs at 'blocks.2.hook_resid_post', not at 'blocks.1.hook_resid_post'" in found.faults[0]


def test_tokens_that_should_be_centred_or_standardised_are_found(model, corpus):
    """Tokens whose mean says where they are, and a coder that saw them without it."""

    def shifted(x, hook):
        return x + torch.arange(x.shape[1])[:, None]

    with model.hooks([(SITE.read, shifted)]):
        x = rows(model, corpus)
        centred = x - x.mean(1, keepdim=True)
        found = evals.doctor(model, memory(centred), corpus, tokens=10**9)
        assert found.faults[0].startswith("it expects every token to have mean 0")
        found = evals.doctor(model, memory(centred / x.std(dim=1, keepdim=True)), corpus, tokens=10**9)
        assert any("standardised" in fault for fault in found.faults)


def test_an_l0_that_is_not_as_declared_is_said(model, corpus):
    coder = perfect(rows(model, corpus), sk.TopK(4, along="batch"))  # its threshold was never calibrated
    found = evals.doctor(model, coder, corpus)
    assert found.scores["declared_l0"] == 4
    assert any("L0 is 32, but the coder declares 4" in fault for fault in found.faults)


def test_a_stranger_is_called_one(model, corpus):
    torch.manual_seed(0)
    coder = sk.SparseCoder(D, 64, sk.ReLU()).eval().requires_grad_(False)
    coder.W_dec.mul_(100)
    coder.site = SITE
    assert "another model" in evals.doctor(model, coder, corpus).faults[-1]


def test_what_cannot_fit_is_refused(model, tiny_models, corpus):
    coder = perfect(rows(model, corpus))
    coder.site = None
    with pytest.raises(ValueError, match="no site"):
        evals.doctor(model, coder, corpus)
    coder.site, coder.tokenizer = SITE, "0123"
    with pytest.raises(ValueError, match="0123"):
        evals.doctor(model, coder, corpus)
