"""Terms that run the model on the reconstruction, against the same pass made with a splice."""

import pytest
import torch

import saekit as sk
from saekit.losses import Passes, Step
from saekit.train.learner import Scale

SITE = sk.Site("blocks.0.hook_resid_post")
D = 32


@pytest.fixture
def model(tiny_models):
    return tiny_models["gpt2"]


@pytest.fixture
def step(model, tiny_corpus):
    """One step on whole windows, at a scale that is not 1."""
    torch.manual_seed(0)
    acts = sk.Activations(model, SITE, tiny_corpus, sequences=True)
    raw = next(acts.batches(3 * 60))
    batch = Scale(2.5, 2.5)(raw)
    coder = sk.SparseCoder(D, 64, sk.TopK(6))
    encoding = coder.encoding(batch.x)
    nothing = torch.zeros(64, dtype=torch.bool)
    return Step(coder, batch.x, batch.y, coder.decode(encoding.codes), encoding, nothing, 0.3, passes=Passes(batch))


def spliced(model, step, y_hat, *hooks):
    """(logits, activations) at the tokens of the batch, of a model that a stand-in for the coder writes into."""
    windows = step.passes.windows

    class Given:
        d_in, d_out, site, model, W_dec = D, D, SITE, None, torch.zeros(1)

        def encode(self, x):
            return sk.Codes.from_dense(torch.zeros(len(x), 1))

        def decode(self, codes, x):
            rows = torch.zeros(len(x), D)
            rows[windows.mask.flatten()] = y_hat.detach() / 2.5
            return rows

    with torch.no_grad(), sk.splice(model, Given(), keep_error=False, where=windows.mask):
        seen = sk.capture(model, windows.tokens, *hooks) if hooks else {}
        return model(windows.tokens)[windows.mask], {k: v[windows.mask] for k, v in seen.items()}


def test_whole_windows_come_in_the_order_of_their_tokens(model, tiny_corpus):
    acts = sk.Activations(model, SITE, tiny_corpus, sequences=True)
    windows = next(acts.batches(200))
    seen = sk.capture(model, windows.tokens, SITE)[SITE.read]
    assert torch.equal(windows.x, seen[windows.mask])
    assert len(windows.tokens) == round(200 / float(windows.mask.sum(1).float().mean()))
    later = [w.tokens for _, w in zip(range(5), acts.batches(200), strict=False)]
    entered = next(acts.batches(200, start=3 * 200))
    assert torch.equal(later[3], entered.tokens)


def test_kl_is_that_of_a_splice(model, step):
    windows = step.passes.windows
    with torch.no_grad():
        clean = model(windows.tokens)[windows.mask].log_softmax(-1)
    dirty = spliced(model, step, step.y_hat)[0].log_softmax(-1)
    expected = (clean.exp() * (clean - dirty)).sum(-1).mean()
    torch.testing.assert_close(sk.kl()(step)[0], expected, rtol=1e-4, atol=1e-6)


def test_a_perfect_reconstruction_changes_nothing(step):
    perfect = step._replace(y_hat=step.y)
    total, terms = (sk.kl() + sk.downstream())(perfect)
    assert terms["kl"].abs() < 1e-5
    assert terms["downstream"] < 1e-6
    assert total < 1e-4


def test_downstream_is_the_fvu_at_later_layers(model, step):
    names = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
    windows = step.passes.windows
    clean = sk.capture(model, windows.tokens, *names)
    dirty = spliced(model, step, step.y_hat, *names)[1]
    fvus = []
    for name in names:
        y = clean[name][windows.mask]
        fvus.append((y - dirty[name]).square().sum() / (y - y.mean(0)).square().sum())
    torch.testing.assert_close(sk.downstream()(step)[0], sum(fvus) / 2, rtol=1e-3, atol=1e-5)


def test_causal_mixes_windows_position_by_position(model, step):
    windows = step.passes.windows
    mask = windows.mask
    full = torch.zeros(*mask.shape, D)
    full[mask] = step.y_hat.detach()
    both = mask & mask.roll(1, 0)
    b = float(torch.rand((), generator=step.draw()))
    mixed = torch.where(both[..., None], b * full + (1 - b) * full.roll(1, 0), full)
    logits = torch.zeros(*mask.shape, model.cfg.d_vocab)
    logits[mask] = spliced(model, step, step.y_hat)[0]
    at_mixture = torch.zeros_like(logits)
    at_mixture[mask] = spliced(model, step, mixed[mask])[0]
    gap = (b * logits + (1 - b) * logits.roll(1, 0) - at_mixture)[both]
    expected = gap.square().sum() / (logits[both] - logits[both].mean(0)).square().sum()
    torch.testing.assert_close(sk.causal()(step)[0], expected, rtol=1e-3, atol=1e-5)
    assert float(expected) > 0


@pytest.mark.parametrize("term", [sk.kl, sk.downstream, sk.causal])
def test_the_gradient_reaches_every_parameter_and_not_the_model(term, step, model):
    term()(step)[0].backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in step.coder.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_passes_are_shared_between_terms(step, monkeypatch):
    passes = []
    run = Passes._run
    monkeypatch.setattr(Passes, "_run", lambda self, replaced: passes.append(len(replaced)) or run(self, replaced))
    (sk.kl() + sk.downstream() + sk.causal())(step)
    assert sorted(passes) == [0, 1, 1]  # clean, on the reconstruction, on the mixture


def test_hooks_are_gone_afterwards(model, step):
    with pytest.raises(ValueError, match="no hook 'blocks.9.hook_resid_post'"):
        step.passes._run({"blocks.9.hook_resid_post": torch.zeros(*step.passes.windows.mask.shape, D)})
    sk.kl()(step)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_bad_input_is_named(model, tiny_corpus, step):
    one = step.passes.windows._replace(mask=step.passes.windows.mask[:1])
    with pytest.raises(ValueError, match="a batch holds 1"):
        sk.causal()(step._replace(passes=Passes(one)))
    last = step.passes.windows._replace(site=sk.Site("blocks.2.hook_resid_post"))
    with pytest.raises(ValueError, match="no layer comes after 'blocks.2.hook_resid_post'"):
        sk.downstream()(step._replace(passes=Passes(last)))
    with pytest.raises(ValueError, match="one site"):
        sk.Activations(model, [SITE, sk.Site("blocks.1.hook_resid_post")], tiny_corpus, sequences=True)
