"""Crosscoders of two models, their sides, and where their latents live."""

import itertools

import pytest
import torch

import saekit as sk
from saekit import evals, presets

SITE = sk.Site("blocks.1.hook_resid_post")
D, F = 32, 48


@pytest.fixture(scope="module")
def models(tiny_models, tiny_folders):
    """A tiny model, and one whose last layer before the site is another."""
    other = sk.load_model(tiny_folders["gpt2"])
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "blocks.1." in name or "h.1." in name:
                parameter.copy_(
                    parameter.flatten()[torch.randperm(parameter.numel(), generator=draw)].view_as(parameter)
                )
    other.cfg.model_name = "other"
    return tiny_models["gpt2"], other


@pytest.fixture(scope="module")
def acts(models, tiny_corpus):
    return sk.SideBySide(models, SITE, tiny_corpus, block=500)


@pytest.fixture(scope="module")
def coder(acts):
    torch.manual_seed(0)
    coder, objective = presets.crosscoder(D, F, k=6)
    run = sk.train(
        coder, acts, objective, steps=80, batch_size=128, lr=5e-3, threads=1, precision="float32", progress=False
    )
    assert run.history.fvu.iloc[-1] < run.history.fvu.iloc[0] / 2
    return run.coder


def test_the_models_own_rows_lie_side_by_side(models, tiny_corpus, acts):
    """Each half is what that model's own stream gives; the models differ, the tokens do not."""
    x = torch.cat([b.x for b in itertools.islice(acts.batches(128), 6)])
    for model, half in zip(models, x.split(D, dim=1), strict=True):
        alone = sk.Activations(model, SITE, tiny_corpus, block=500)
        assert torch.equal(half, torch.cat([b.x for b in itertools.islice(alone.batches(128), 6)]))
    assert not torch.equal(x[:, :D], x[:, D:])
    same = sk.SideBySide([models[0], models[0]], SITE, tiny_corpus)
    x, y = next(same.batches(64))
    assert torch.equal(x[:, :D], x[:, D:])
    assert y is x
    assert isinstance(acts, sk.activations.Source)


def test_a_stream_entered_in_the_middle_is_the_same(acts):
    whole = [b.x for b in itertools.islice(acts.batches(128), 9)]
    rest = [b.x for b in itertools.islice(acts.batches(128, 5 * 128), 4)]
    assert all(torch.equal(a, b) for a, b in zip(whole[5:], rest, strict=True))
    assert torch.equal(acts.held_out(50).x, acts.held_out(50).x)


def test_every_model_is_remembered_and_saved(models, acts, coder, tmp_path):
    again = sk.load(sk.save(coder, tmp_path / "two"))
    for each in (coder, again):
        assert [m["name"] for m in each.model["models"]] == ["gpt2", "other"]
        assert each.site.reads == ("gpt2: blocks.1.hook_resid_post", "other: blocks.1.hook_resid_post")
    x = acts.held_out(50).x
    assert torch.equal(again(x)[0], coder(x)[0])
    twice = sk.SideBySide([models[0], models[0]], SITE, acts.corpus)
    assert twice.site.reads == ("gpt2 0: blocks.1.hook_resid_post", "gpt2 1: blocks.1.hook_resid_post")


def test_a_splice_of_two_models_is_refused_and_told_which_it_is_not(models, acts, coder, tiny_corpus):
    for act in (
        lambda: sk.splice(models[0], coder).__enter__(),
        lambda: sk.splice(models[0], {SITE: coder}).__enter__(),
        lambda: sk.Features.collect(models[0], coder, tiny_corpus),
    ):
        with pytest.raises(ValueError, match=r"reads 2 models side by side \(gpt2 \+ other\).*sk.side"):
            act()
    tokens = tiny_corpus.tokens[:1]
    for i, model in enumerate(models):
        part = sk.side(coder, i)
        assert part.model["name"] == ("gpt2", "other")[i]
        assert part.site == SITE
        with sk.splice(model, part, edit=sk.add(3, 2.0)):
            moved = sk.capture(model, tokens, SITE)[SITE.read]
        moved = moved - sk.capture(model, tokens, SITE)[SITE.read]
        expected = 2.0 * coder.W_dec[3, i * D : (i + 1) * D]
        torch.testing.assert_close(moved[0, 1:], expected.expand(moved.shape[1] - 1, -1), rtol=1e-3, atol=1e-4)


def test_a_side_is_the_crosscoder_with_the_other_site_at_its_bias(acts, coder):
    x = acts.held_out(100).x.clone()
    for i, rest in ((0, slice(D, None)), (1, slice(0, D))):
        held = x.clone()
        held[:, rest] = coder.b_dec[rest]
        mine = x[:, i * D : (i + 1) * D]
        y_hat, codes = sk.side(coder, i)(mine)
        torch.testing.assert_close(codes.dense(), coder.encode(held).dense(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(y_hat, coder(held)[0][:, i * D : (i + 1) * D], rtol=1e-4, atol=1e-3)


def test_a_side_of_two_layers_belongs_to_its_layer(models, tiny_corpus):
    both = sk.Site(("blocks.0.hook_resid_post", "blocks.1.hook_resid_post"))
    coder, objective = presets.crosscoder(D, F, k=6)
    source = sk.Activations(models[0], both, tiny_corpus)
    sk.train(coder, source, objective, steps=2, batch_size=64, threads=1, precision="float32", progress=False)
    assert [sk.side(coder, i).site.read for i in (0, 1)] == list(both.reads)
    with sk.splice(models[0], sk.side(coder, 1), keep_error=False):
        models[0](tiny_corpus.tokens[:1])


PLANTED = sk.Rows(torch.tensor([[3.0, 4.0, 30.0, 40.0], [4.0, -3.0, -50.0, 0.0]]))  # the second site: 10 times as long


def test_relative_norms_are_free_of_the_sites_scale():
    coder = sk.SparseCoder(4, 4, sk.ReLU(), n_sites=2).eval()
    with torch.no_grad():
        coder.W_dec.copy_(torch.tensor([[1.0, 0, 10, 0], [0, 1, 0, 0], [0, 0, 0, 2], [3, 4, 150, 0]]))
    shares = evals.relative_norms(coder, PLANTED)
    torch.testing.assert_close(shares[:, 1], torch.tensor([0.5, 0.0, 1.0, 0.75]))
    torch.testing.assert_close(shares.sum(1), torch.ones(4))
    with torch.no_grad():
        coder.W_dec.zero_()
    assert bool((evals.relative_norms(coder, PLANTED) == 0.5).all())


def test_what_two_equal_models_share_is_everything(models, tiny_corpus):
    acts = sk.SideBySide([models[0], models[0]], SITE, tiny_corpus)
    torch.manual_seed(0)
    coder, objective = presets.crosscoder(D, F, k=6)
    options = {"steps": 60, "batch_size": 128, "lr": 5e-3, "threads": 1, "precision": "float32", "progress": False}
    shares = evals.relative_norms(sk.train(coder, acts, objective, **options).coder, acts)
    assert (shares[:, 1] - 0.5).abs().mean() < 0.15


def test_bad_input_is_named(models, tiny_models, tiny_corpus, coder, acts):
    single = sk.SparseCoder(4, 8, sk.ReLU()).eval()
    for act, words in (
        (lambda: sk.SideBySide(models[:1], SITE, tiny_corpus), "1 model: lay at least 2"),
        (lambda: sk.SideBySide(models, SITE, tiny_corpus, sequences=True), "leave out sequences"),
        (lambda: sk.SideBySide(models, "blocks.1.hook_nothing", tiny_corpus), "hook_nothing"),
        (lambda: sk.side(single, 0), "n_sites=1"),
        (lambda: sk.side(coder, 2), "i=2: this crosscoder has the sites 0 to 1"),
        (lambda: evals.relative_norms(single, acts), "one site"),
        (lambda: evals.relative_norms(coder, PLANTED), "writes width 64, but .* width 4"),
    ):
        with pytest.raises(ValueError, match=words):
            act()
