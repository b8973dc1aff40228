"""Output-based explanation against independent computations and planted answers."""

import numpy as np
import pytest
import torch
from scipy import stats

import saekit as sk
from saekit import explain
from saekit.corpus import pieces
from saekit.explain.enrichment import _kind as kind
from saekit.explain.lens import ends, layers_after, lens
from saekit.explain.output import mean_log_probs
from tests.test_features import SITE, collect, made

LAST = sk.Site("blocks.2.hook_resid_post")


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models["gpt2"]


@pytest.fixture(scope="module")
def coder():
    coder = made()
    coder.b_enc.zero_()
    return coder


@pytest.fixture
def last(coder):
    coder = made()
    coder.site = LAST
    return coder


# -- by weights


def test_vocab_proj_is_the_direct_effect_under_the_frozen_norm(tiny_model):
    """At the last layer, up to the scale of the norm, which the z-scores leave away."""
    coder = made()
    coder.site = LAST
    table = explain.vocab_proj(tiny_model, coder, 5, n=4)
    tokens = torch.arange(1, 9)[None]
    seen = {}

    def see(x, hook):
        seen["x"] = x.detach().requires_grad_()
        return seen["x"]

    with sk.frozen(tiny_model), tiny_model.hooks([(LAST.read, see)]), torch.enable_grad():
        logits = tiny_model(tokens)[0, -1]
        cap = getattr(tiny_model.cfg, "output_logits_soft_cap", 0) or 0
        before_cap = cap * torch.atanh(logits / cap) if cap > 0 else logits
        effect = torch.stack(
            [
                torch.autograd.grad(logit, seen["x"], retain_graph=True)[0][0, -1] @ coder.W_dec[5]
                for logit in before_cap
            ]
        ).double()
    effect -= effect.mean()
    np.testing.assert_allclose(table.z, effect[table.id.tolist()] / effect.std(), atol=2e-3)


def test_a_constant_on_every_logit_changes_nothing_and_shape_is_scipys(model, last):
    table = explain.vocab_proj(model, last, 7)
    logits = lens(model, last.W_dec[[7]])[0]
    assert float(logits.mean()) == pytest.approx(0, abs=1e-9)
    assert table.attrs["skew"] == pytest.approx(float(stats.skew(logits.numpy())))
    assert table.attrs["kurtosis"] == pytest.approx(float(stats.kurtosis(logits.numpy())))
    assert table.attrs["layers_after"] == 0
    with model.hooks([("unembed.hook_out", lambda x, hook: x + 3 * x[..., :1])]):  # the same for the whole vocabulary
        again = explain.vocab_proj(model, last, 7)
    assert again.id.tolist() == table.id.tolist()
    np.testing.assert_allclose(again.logit, table.logit, atol=1e-4)


def test_an_early_layer_is_warned_of(model, coder):
    early = made()
    early.site = sk.Site("blocks.0.hook_resid_post")
    with pytest.warns(UserWarning, match="2 of the 3 layers"):
        explain.vocab_proj(model, early, 1)
    assert layers_after(model, SITE) == 1 and layers_after(model, sk.Site("embed.hook_out")) is None
    assert explain.vocab_proj(model, coder, 1).attrs["layers_after"] == 1  # no warning, which would be an error


def test_de_embedding_is_the_embedding_read_by_the_encoder(tiny_model):
    coder = made()
    seen = []
    with tiny_model.hooks([("embed.hook_out", lambda x, hook: seen.append(x))]):
        tiny_model(torch.arange(60)[None])
    table = explain.de_embedding(tiny_model, coder, 4, n=tiny_model.cfg.d_vocab)
    scores = dict(zip(table.id, table.score, strict=True))
    expected = seen[0][0] @ coder.W_enc[:, 4]
    got = torch.tensor([scores[i] for i in range(60)])
    torch.testing.assert_close(got - got[0], expected - expected[0], atol=1e-4, rtol=1e-4)
    assert table.score.mean() == pytest.approx(0, abs=1e-6)


def test_widths_and_numbers_are_checked(model, coder, tiny_corpus):
    wide = sk.SparseCoder(96, 8, sk.TopK(2)).eval()
    wide.site = sk.Site(tuple(f"blocks.{i}.hook_resid_post" for i in range(3)))
    with pytest.raises(ValueError, match="reads width 96"):
        explain.de_embedding(model, wide, 0)
    wide = sk.SparseCoder(32, 8, sk.TopK(2), d_out=64).eval()
    wide.site = sk.Site("blocks.0.hook_resid_post", ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post"))
    with pytest.raises(ValueError, match="writes width 64"):
        explain.vocab_proj(model, wide, 0)
    with pytest.raises(ValueError, match="n=0"):
        ends(model, torch.zeros(4), 0, "x")
    for call in (
        lambda: explain.vocab_proj(model, coder, 64),
        lambda: explain.de_embedding(model, coder, -1),
        lambda: explain.mutual_information(model, coder, [0, 64]),
        lambda: explain.output_score(model, coder, [64]),
        lambda: explain.token_change(model, coder, 64, tiny_corpus),
    ):
        with pytest.raises(ValueError, match="is not in"):
            call()


# -- by measurement


def test_token_change_at_the_last_layer_is_vocab_proj_where_the_norm_is_held(model):
    """Up to the scale of the norm and what is the same for all tokens, which the z-scores leave away."""
    coder, ids, held = made(), torch.arange(1, 17).view(2, 8), {}
    coder.site = LAST
    LAST.check(model)  # a pass of its own, on other tokens
    with model.hooks([("ln_final.hook_scale", lambda x, hook: held.setdefault("scale", x))]):
        change = -mean_log_probs(model, ids)
        change += mean_log_probs(model, ids, coder, 3 * coder.W_dec[[5]])[0]
    z = ((change - change.mean()) / change.std()).numpy()
    table = explain.vocab_proj(model, coder, 5, n=4)
    np.testing.assert_allclose(table.z, z[table.id.tolist()], atol=2e-3)
    assert np.argmax(z) == table.id[0]


def test_token_change_in_units_of_the_maximum(model, coder, tiny_corpus):
    part = tiny_corpus[:24]  # fewer windows than are looked at
    features = collect(model, part, coder)
    latent = int(features.table.density.idxmax())
    by_times = explain.token_change(model, coder, latent, part, times=2.0)
    by_strength = explain.token_change(model, coder, latent, part, strength=2 * features[latent].max)
    np.testing.assert_allclose(by_times.change, by_strength.change, atol=1e-5)
    assert explain.token_change(model, coder, latent, part, times=0.0).change.abs().max() == 0
    up, down = (
        explain.token_change(model, coder, latent, part, strength=s, n=250).drop_duplicates("id").set_index("id").change
        for s in (0.02, -0.02)
    )
    np.testing.assert_allclose(up, -down[up.index], atol=0.05 * up.abs().max())
    silent = made()  # its latent 3 is never on
    with pytest.raises(ValueError, match="latent 3 is never on in 24 windows"):
        explain.token_change(model, silent, 3, part)


def test_output_score_in_a_batch_is_one_at_a_time(model, coder):
    prompt = "in my view"
    scores = explain.output_score(model, coder, [3, 9, 20], prompt=prompt)
    tokens = model.to_tokens(prompt)
    codes = coder.encode(sk.capture(model, tokens, SITE)[SITE.read][0, -1:])
    for latent in scores.index:
        with torch.no_grad(), sk.splice(model, coder, edit=sk.add(latent, 10 * float(codes.values.max()))):
            p = model(tokens)[0, -1].softmax(0)
        named = explain.vocab_proj(model, coder, latent, n=20).id[:20].tolist()
        order = p.argsort(descending=True).tolist()
        rank = min(order.index(i) for i in named)
        assert scores["rank"][latent] == rank
        assert scores.p[latent] == pytest.approx(float(p[named].max()), rel=1e-4)
        assert scores.output_score[latent] == pytest.approx((1 - rank / len(p)) * float(p[named].max()), rel=1e-4)
    with pytest.raises(ValueError, match="no latent is on at the end of prompt='x'"):
        off = made(sk.ReLU())
        off.b_enc.fill_(-1e6)
        explain.output_score(model, off, [0], prompt="x")
    with pytest.raises(ValueError, match="no latents"):
        explain.output_score(model, coder, [])


def test_a_row_that_is_an_unembedding_has_a_high_output_score(model):
    coder = made()
    coder.site = LAST
    token = 77
    coder.W_dec[5] = model.W_U[:, token] / model.W_U[:, token].norm()
    scores = explain.output_score(model, coder, prompt="in my view", times=100.0)
    assert scores.output_score[5] > scores.output_score.median()
    assert scores.output_score.min() >= 0 and scores.output_score.max() <= 1


def test_input_score_is_the_share_of_peaks_at_raised_tokens(model, coder, tiny_corpus):
    features = collect(model, tiny_corpus, coder, top=12)
    scores = explain.input_score(features)
    assert len(scores) == 64 and scores.n.max() == 12
    for latent in scores.index[scores.n >= 10]:
        named = set(explain.vocab_proj(model, coder, latent, n=20).token[:20])
        held = features.index.top.place[features.index.top.slice_of(latent)]
        peaks = [features.excerpts.tokens(np.array([place]))[0] for place in held]
        assert scores.input_score[latent] == np.mean([token in named for token in peaks])
    assert scores.input_score[scores.n < 10].isna().all()
    assert scores.input_score.max() > 0


# -- mutual information


def dense_information(S, alpha=1.0, beta=1.0):
    return S.div(alpha).softmax(1) * (S.div(beta).log_softmax(0) + np.log(len(S)))


@pytest.mark.parametrize("chunk", [7, 256])
def test_mutual_information_is_the_dense_formula(model, coder, monkeypatch, chunk):
    monkeypatch.setattr("saekit.explain.lens.CHUNK", chunk)
    table = explain.mutual_information(model, coder, [2, 40], n=model.cfg.d_vocab, alpha=0.7, beta=1.3)
    S = lens(model, coder.W_dec)
    expected = dense_information(S, 0.7, 1.3)
    assert table.groupby("latent").p.sum().to_list() == pytest.approx([1, 1])
    for latent in (2, 40):
        best = expected[latent].sort(descending=True)
        np.testing.assert_allclose(table[table.latent == latent].score, best.values, atol=1e-6)
        assert table[table.latent == latent].word.iloc[0] == pieces(model.tokenizer, [int(best.indices[0])])[0]
    literal = explain.mutual_information(model, coder, 2, n=3, literal=True)
    expected = (S.softmax(1) * S.log_softmax(0))[2].sort(descending=True).values[:3]
    np.testing.assert_allclose(literal.score, expected, atol=1e-6)


def test_words_are_the_mean_of_their_tokens(model, coder):
    words = ["red", "blue", "o"]
    table = explain.mutual_information(model, coder, 6, words, n=3)
    S = lens(model, coder.W_dec)
    spelled = [model.tokenizer(" " + word, add_special_tokens=False).input_ids for word in words]
    expected = dense_information(torch.stack([S[:, ids].mean(1) for ids in spelled], 1))[6]
    assert dict(zip(table.word, table.score, strict=True)) == pytest.approx(
        dict(zip(words, expected.tolist(), strict=True))
    )


@pytest.mark.parametrize("scale", [0.3, 1, 5, 16, 60])
def test_a_planted_word_is_first_at_every_scale(model, scale):
    """Latents i < 100 point at the unembedding of token 20 + i; the published score loses them where logits grow."""
    coder = made(d_sae=300)
    W_U = model.W_U - model.W_U.mean(1, keepdim=True)
    gain = model.ln_final.weight
    for i in range(100):
        coder.W_dec[i] = W_U[:, 20 + i] / gain
    table = explain.mutual_information(model, coder, range(100), n=1, alpha=1 / scale, beta=1 / scale)
    named = pieces(model.tokenizer, range(20, 120))
    assert np.mean([word == name for word, name in zip(table.word, named, strict=True)]) > 0.95


def test_questions_that_make_no_sense(model, coder):
    for options in ({"words": []}, {"alpha": 0.0}, {"beta": -1.0}, {"words": ["a", ""]}):
        with pytest.raises(ValueError, match=r"alpha|empty"):
            explain.mutual_information(model, coder, 1, **options)


# -- all rows at once, and the control


def test_shapes_are_those_of_each_row(model, last, monkeypatch):
    monkeypatch.setattr("saekit.explain.lens.CHUNK", 7)
    shapes = explain.shapes(model, last)
    assert len(shapes) == last.d_sae
    for latent in (0, 6, 7, 63):
        logits = lens(model, last.W_dec[[latent]])[0].numpy()
        z = (logits - logits.mean()) / logits.std()
        assert shapes["skew"][latent] == pytest.approx((z**3).mean(), abs=1e-4)
        assert shapes["kurtosis"][latent] == pytest.approx((z**4).mean() - 3, abs=1e-4)


def test_random_rows_are_on_alike_and_as_long(coder):
    control = explain.random_rows(coder)
    x = torch.randn(20, 32)
    assert torch.equal(control.encode(x).dense(), coder.encode(x).dense())
    torch.testing.assert_close(control.W_dec.norm(dim=1), coder.W_dec.norm(dim=1))
    assert torch.cosine_similarity(control.W_dec, coder.W_dec).abs().mean() < 0.3
    assert not torch.equal(control.W_dec, explain.random_rows(coder, seed=1).W_dec)
    assert torch.equal(control.W_dec, explain.random_rows(coder).W_dec)
    assert control.site == coder.site and not control.W_dec.requires_grad


def test_enrichment_is_fishers_exact_test_and_finds_a_planted_set(model, last):
    V, n = model.cfg.d_vocab, 12
    planted = list(range(40, 50))
    W_U = model.W_U - model.W_U.mean(1, keepdim=True)
    last.W_dec[9] = (W_U[:, planted] / W_U[:, planted].norm(dim=0)).sum(1) / model.ln_final.weight
    sets = {"planted": planted, "others": range(100, 160)}
    table = explain.enrichment(model, last, sets, n=n)
    assert len(table) == 2 * last.d_sae
    for row in table[table.latent.isin([3, 9])].itertuples():
        raised = set(explain.vocab_proj(model, last, row.latent, n=n).id[:n])
        members = set(sets[row.set])
        both = len(raised & members)
        cells = [[both, n - both], [len(members) - both, V - n - len(members) + both]]
        assert row.found == both and row.expected == pytest.approx(n * len(members) / V)
        assert row.p == pytest.approx(stats.fisher_exact(cells, "greater").pvalue)
        assert row.enriched == (row.p * len(table) < 0.05)
    assert table[(table.set == "planted") & table.enriched].latent.tolist() == [9]


def test_bad_sets_are_named(model, last):
    for sets, n in (
        ({}, 5),
        ({"none": []}, 5),
        ({"far": [3, model.cfg.d_vocab]}, 5),
        ({"a": [1]}, 0),
        ({"a": [-1]}, 5),
    ):
        with pytest.raises(ValueError, match=f"n={n}, sets"):
            explain.enrichment(model, last, sets, n=n)


def test_tokens_are_sorted_into_kinds(model):
    sets = explain.token_sets(model)
    named = {name: set(pieces(model.tokenizer, ids)) for name, ids in sets.items()}
    assert named == {"closer": set(")]}"), "number": set("0123456789"), "line start": {"\n"}}
    pairs = [("return", "keyword"), (" nam", "name"), ("\n    ", "line start"), ("x", ""), (" ", ""), ("])", "closer")]
    assert [kind(piece) for piece, _ in pairs] == [name for _, name in pairs]
