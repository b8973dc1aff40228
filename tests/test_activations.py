"""The stream is a pure function of its seed and position, and holds every row once an epoch."""

import itertools

import numpy as np
import pytest
import torch

import saekit as sk

SITE = sk.Site("blocks.1.hook_resid_post")


@pytest.fixture
def model(tiny_models):
    return tiny_models["gpt2"]


@pytest.fixture
def acts(model, tiny_corpus):
    return sk.Activations(model, SITE, tiny_corpus, block=500)


def take(acts, n, size=128, start=0):
    return [b.x for b in itertools.islice(acts.batches(size, start), n)]


def test_rows_are_the_models_own(model, tiny_corpus, acts):
    epoch = torch.cat(take(acts, len(acts) // 8, size=8))
    windows = np.sort(acts._train)
    seen = sk.capture(model, tiny_corpus.tokens[windows], SITE.read)[SITE.read]
    expected = seen[torch.from_numpy(tiny_corpus.mask[windows])]
    assert len(epoch) == len(expected) // 8 * 8
    # each served row is one of the model's, up to the rounding of another batch size, and all of them are served
    nearest = torch.cdist(epoch, expected).min(dim=1)
    assert nearest.values.max() < 1e-3 * expected.norm(dim=1).max()
    assert len(nearest.indices.unique()) > 0.9 * len(epoch)  # windows that begin alike have rows alike
    torch.testing.assert_close(epoch.sum(0), expected.sum(0), rtol=1e-2, atol=20)


def test_bos_is_left_out(model, tiny_corpus, acts):
    bos = sk.capture(model, tiny_corpus.tokens[:1], SITE.read)[SITE.read][0, 0]
    assert (torch.cat(take(acts, 5)) - bos).norm(dim=1).min() > 1e-3


def test_the_same_seed_gives_the_same_stream_and_another_one_does_not(model, tiny_corpus, acts):
    again = sk.Activations(model, SITE, tiny_corpus, block=500)
    other = sk.Activations(model, SITE, tiny_corpus, block=500, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(take(acts, 6), take(again, 6), strict=True))
    assert not torch.equal(take(acts, 1)[0], take(other, 1)[0])


@pytest.mark.parametrize("skipped", [1, 4, 17, 30])
def test_a_stream_entered_in_the_middle_is_the_same(acts, skipped):
    """Across borders of blocks, and into the second epoch."""
    whole = take(acts, skipped + 3)
    assert all(torch.equal(a, b) for a, b in zip(whole[skipped:], take(acts, 3, start=skipped * 128), strict=True))


def test_the_second_epoch_has_another_order(acts):
    n = len(acts)
    (first,), (second,) = take(acts, 1, size=n), take(acts, 1, size=n, start=n)
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.sum(0), second.sum(0), rtol=1e-4, atol=1e-2)


def test_held_out_rows_are_never_served(acts):
    served = torch.cat(take(acts, len(acts) // 64, size=64))
    nearest = torch.cdist(acts.held_out(50).x, served).min(dim=1).values
    assert (nearest > 1e-2).float().mean() > 0.8  # windows that begin alike have rows alike
    assert not set(acts._held_out) & set(acts._train)
    assert torch.equal(acts.held_out(50).x, acts.held_out(50).x)


def test_tokens_limits_the_windows(model, tiny_corpus):
    assert 300 <= len(sk.Activations(model, SITE, tiny_corpus, tokens=300)) < 300 + tiny_corpus.tokens.shape[1]


def test_a_cache_serves_the_same_rows_without_the_model(model, tiny_corpus, acts, tmp_path, monkeypatch):
    cached = sk.Activations(model, SITE, tiny_corpus, block=500, cache=tmp_path)
    first = take(cached, 8)
    assert all(torch.equal(a, b) for a, b in zip(first, take(acts, 8), strict=True))
    monkeypatch.setattr("saekit.activations.stream.capture", lambda *_: pytest.fail("the model was asked again"))
    assert all(torch.equal(a, b) for a, b in zip(first, take(cached, 8), strict=True))


def test_a_damaged_shard_is_harvested_again(model, tiny_corpus, tmp_path):
    cached = sk.Activations(model, SITE, tiny_corpus, block=500, cache=tmp_path)
    first = take(cached, 2)
    for shard in tmp_path.rglob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:100])
    assert all(torch.equal(a, b) for a, b in zip(first, take(cached, 2), strict=True))


def test_transcoder_and_side_by_side_and_pooled_sites(model, tiny_corpus):
    width = model.cfg.d_model
    mlp = sk.Site("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    both = sk.Site(("blocks.0.hook_resid_post", "blocks.1.hook_resid_post"))
    pooled = [sk.Site("blocks.0.hook_resid_post"), sk.Site("blocks.1.hook_resid_post")]
    x, y = next(sk.Activations(model, mlp, tiny_corpus).batches(64))
    assert x.shape == y.shape == (64, width)
    assert not torch.equal(x, y)
    assert next(sk.Activations(model, both, tiny_corpus).batches(64)).x.shape == (64, 2 * width)
    assert len(sk.Activations(model, pooled, tiny_corpus)) == 2 * len(sk.Activations(model, SITE, tiny_corpus))


def test_bad_input_is_named(model, tiny_models, tiny_corpus):
    with pytest.raises(ValueError, match="resid_pots"):
        sk.Activations(model, sk.Site("blocks.1.hook_resid_pots"), tiny_corpus)
    with pytest.raises(ValueError, match="same width"):
        sk.Activations(model, [SITE, sk.Site("blocks.1.mlp.hook_post")], tiny_corpus)
    with pytest.raises(ValueError, match="at least 2"):
        sk.Activations(model, SITE, tiny_corpus[:1])
    with pytest.raises(ValueError, match="tokens=0"):
        sk.Activations(model, SITE, tiny_corpus, tokens=0)
    broken = model.hooks([("blocks.0.hook_resid_post", lambda x, hook: x * float("nan"))])
    with broken, pytest.raises(ValueError, match="NaN or infinite"):
        next(sk.Activations(model, SITE, tiny_corpus).batches(8))


def test_a_cache_that_cannot_be_written_is_an_error(model, tiny_corpus, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder is wanted")
    with pytest.raises(OSError, match="file"):
        sk.Activations(model, SITE, tiny_corpus, cache=blocked)
