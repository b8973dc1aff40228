"""`evals.fidelity` against closed forms, and against losses computed by hand."""

import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import saekit as sk
from saekit import evals, presets
from saekit.evals.fidelity import _fvu, batch_of, drawn

SITE = sk.Site("blocks.1.hook_resid_post")
D = 32


@pytest.fixture
def model(tiny_models):
    return tiny_models["gpt2"]


def coder_at(site=SITE, nonlinearity=None, d_sae=64):
    torch.manual_seed(0)
    coder = sk.SparseCoder(D, d_sae, nonlinearity or sk.TopK(8), unit_norm=True).eval()
    coder.site = site
    return coder


def perfect():
    """f = (relu(x), relu(-x)), decoded to x."""
    coder = coder_at(nonlinearity=sk.ReLU(), d_sae=2 * D)
    eye = torch.eye(D)
    with torch.no_grad():
        coder.W_enc.copy_(torch.cat([eye, -eye], dim=1))
        coder.W_dec.copy_(torch.cat([eye, -eye]))
    return coder


def test_a_perfect_coder(model, tiny_corpus):
    scores = evals.fidelity(model, perfect(), tiny_corpus, tokens=500)
    assert scores["fvu"] == pytest.approx(0, abs=1e-9)
    assert scores["ce_recovered"] == pytest.approx(1, abs=1e-5)
    assert scores["kl"] == pytest.approx(0, abs=1e-6)
    assert scores["cosine"] == pytest.approx(1, abs=1e-6)
    assert scores["l0"] == D
    assert scores["fvu_low"] <= scores["fvu"] <= scores["fvu_high"]


def test_a_coder_that_always_says_the_mean_has_fvu_one(model, tiny_corpus):
    x = sk.capture(model, tiny_corpus.tokens, SITE)[SITE.read][torch.from_numpy(tiny_corpus.mask)]
    coder = coder_at()
    with torch.no_grad():
        coder.W_dec.zero_()
        coder.b_dec.copy_(x.mean(0))
    scores = evals.fidelity(model, coder, tiny_corpus, tokens=10**9)
    assert scores["n"] == tiny_corpus.n_tokens
    assert scores["fvu"] == pytest.approx(1, rel=1e-5)
    assert scores["ce_coder"] == pytest.approx(scores["ce_mean"], rel=1e-5)
    assert scores["ce_recovered_mean"] == pytest.approx(0, abs=1e-4)


def test_losses_and_sums_are_those_computed_by_hand(model, tiny_corpus):
    coder, corpus = coder_at(), tiny_corpus[:6]
    scores = evals.fidelity(model, coder, corpus, tokens=10**9)
    mask = torch.from_numpy(corpus.mask)
    x = sk.capture(model, corpus.tokens, SITE)[SITE.read]
    y_hat = coder(x)[0]

    def loss(replacement):
        def swap(t, hook):
            return torch.where(mask[..., None], replacement, t)

        logits = model.run_with_hooks(corpus.tokens, fwd_hooks=[(SITE.read, swap)])
        each = F.cross_entropy(logits[:, :-1].transpose(1, 2), corpus.tokens[:, 1:], reduction="none")
        return each[mask[:, 1:]].mean().item()

    rows, rebuilt = x[mask].double(), y_hat[mask].double()
    fvu = (rows - rebuilt).square().sum() / (rows - rows.mean(0)).square().sum()
    assert scores["fvu"] == pytest.approx(fvu.item(), rel=1e-6)
    assert scores["l2_ratio"] == pytest.approx((rebuilt.norm(dim=1) / rows.norm(dim=1)).mean().item(), rel=1e-6)
    assert scores["ce"] == pytest.approx(loss(x), rel=1e-5)
    assert scores["ce_coder"] == pytest.approx(loss(y_hat), rel=1e-5)
    assert scores["ce_zero"] == pytest.approx(loss(torch.zeros_like(x)), rel=1e-5)
    assert scores["ce_mean"] == pytest.approx(loss(rows.mean(0).float().expand_as(x)), rel=1e-5)
    codes = coder.encode(x[mask])
    assert scores["l0"] == pytest.approx(len(codes.values) / len(rows))
    assert scores["dead"] == (codes.counts() == 0).float().mean().item()


def test_fvu_sees_shift_and_scale():
    """A constant offset in the reconstruction is an error; large means and scales cost no precision."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(500, 8)) * 20 + 1000
    e = rng.normal(size=(500, 8)) + 3
    sums = {
        "sse": np.array([(e**2).sum()]), "ss": np.array([(y**2).sum()]), "n": np.array([500.0]),
        "y_dot": y.sum(0, keepdims=True),
    }  # fmt: skip
    assert _fvu(sums, y.mean(0)) == pytest.approx((e**2).sum() / ((y - y.mean(0)) ** 2).sum(), rel=1e-6)


def test_chunks_do_not_matter(model, tiny_corpus, monkeypatch):
    whole = evals.fidelity(model, coder_at(), tiny_corpus[:10])
    monkeypatch.setattr(sys.modules["saekit.evals.fidelity"], "WINDOWS", 3)  # the name is the function's in the package
    for key, value in evals.fidelity(model, coder_at(), tiny_corpus[:10]).items():
        assert value == pytest.approx(whole[key], rel=1e-5), key


def test_a_transcoder_is_scored_at_what_it_writes(model, tiny_corpus):
    coder = coder_at(sk.Site("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"))
    scores = evals.fidelity(model, coder, tiny_corpus[:6])
    assert scores["ce_coder"] != pytest.approx(scores["ce"], abs=1e-4)
    assert all(np.isfinite(v) for v in scores.values())


def test_a_stack_is_scored_with_all_its_layers_in_place(model, tiny_corpus):
    reads, writes = ["blocks.0.mlp.hook_in", "blocks.1.mlp.hook_in"], ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]
    torch.manual_seed(0)
    stack, _ = presets.per_layer_transcoders(D, 64, 2, k=8)
    stack.place(sk.Site(reads, writes), None, None)
    stack.eval()
    scores = evals.fidelity(model, stack, tiny_corpus, tokens=500)
    assert scores["l0"] == pytest.approx(sum(evals.fidelity(model, b, tiny_corpus, tokens=500)["l0"] for b in stack))

    def nothing(x, hook):
        keep = torch.zeros(x.shape[1]).index_fill(0, torch.tensor([0]), 1.0)  # BOS
        return x * keep[None, :, None]

    chosen = drawn(tiny_corpus, 500, 0)
    tokens, mask = batch_of(tiny_corpus, chosen)
    with torch.no_grad(), model.hooks(fwd_hooks=[(name, nothing) for name in writes]):
        log_probs = model(tokens).log_softmax(-1)
    losses = F.nll_loss(log_probs[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    assert scores["ce_zero"] == pytest.approx(losses[mask[:, 1:]].mean().item(), rel=1e-4)


def test_bad_input_is_named(model, tiny_models, tiny_corpus):
    with pytest.raises(ValueError, match="no site"):
        evals.fidelity(model, coder_at(site=None), tiny_corpus)
    wrong = sk.SparseCoder(D + 1, 64, sk.TopK(8)).eval()
    wrong.site = SITE
    with pytest.raises(ValueError, match="33"):
        evals.fidelity(model, wrong, tiny_corpus)
    other = coder_at()
    other.tokenizer = "0123"
    with pytest.raises(ValueError, match="0123"):
        evals.fidelity(model, other, tiny_corpus)
