"""The index of a tiny coder against its codes written out as one dense matrix."""

import copy
import dataclasses
import math
import os
import signal
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import saekit as sk
from saekit.codes import Codes
from saekit.corpus import pieces, python_spans
from saekit.features import Example, forward, index, label_scores
from saekit.features.kept import Entries, Kept
from saekit.features.store import Index
from saekit.features.tally import Tally, random_scores

SITE = sk.Site("blocks.1.hook_resid_post")
CODE = '''def area(width, height):
    """Return a number."""
    return width * height  # in metres

class Box:
    sides = [1, 2, 3]
    def grow(self, by=2):
        self.sides = [by * side for side in self.sides]  # <img src=x onerror=alert(1)>
        return "</script>" + str(self.sides)
'''
WORDS = ["area", "size", "volume", "f", "measure", "of_all", "x", "compute"]
SOURCES = [CODE.replace("area", word) for word in WORDS] + [CODE, "x = 1  # short\n"]
TOP, DEAD = 5, 3


@pytest.fixture(autouse=True)
def small_steps(monkeypatch, tmp_path):
    """Sort often enough for thresholds to matter, and keep the cache of this machine out of it."""
    monkeypatch.setattr("saekit.features.kept.WAITING", 100)
    monkeypatch.setattr("saekit.features.tokens.WAITING", 100)
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SAEKIT_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models["gpt2"]


@pytest.fixture(scope="module")
def corpus(model):
    return sk.load_corpus(model, SOURCES, labels=[python_spans(source) for source in SOURCES])


def made(nonlinearity=None, d_sae=64):
    torch.manual_seed(0)
    coder = sk.SparseCoder(32, d_sae, nonlinearity or sk.TopK(6), unit_norm=True).eval().requires_grad_(False)
    coder.b_enc[DEAD] = -1e4
    coder.site = SITE
    return coder


@pytest.fixture(scope="module", params=["topk", "relu"])
def coder(request, model, corpus):
    """Centred, so that most of its latents fire."""
    coder = made({"topk": sk.TopK(6), "relu": sk.ReLU()}[request.param])
    coder.b_pre.copy_(sk.capture(model, corpus.tokens, SITE)[SITE.read][torch.from_numpy(corpus.mask)].mean(0))
    return coder


@pytest.fixture(scope="module")
def dense(model, coder, corpus):
    """[doc, pos, d_sae], zero at BOS and padding."""
    codes = np.zeros((*corpus.tokens.shape, coder.d_sae), np.float32)
    for start in range(0, len(corpus), forward.WINDOWS):
        part = corpus[start : start + forward.WINDOWS]
        x = sk.capture(model, part.tokens, SITE)[SITE.read][torch.from_numpy(part.mask)]
        codes[start : start + forward.WINDOWS][part.mask] = coder.encode(x).dense().numpy()
    return codes


@pytest.fixture(scope="module")
def features(model, coder, corpus, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("saekit.features.kept.WAITING", 100)
        return collect(model, corpus, coder, path=tmp_path_factory.mktemp("index"))


def busiest(features):
    return features[int(features.table.density.idxmax())]


def collect(model, corpus, coder=None, **options):
    return sk.Features.collect(model, coder or made(), corpus, **{"top": TOP, "progress": False} | options)


def assert_same(a: Index, b: Index) -> None:
    assert a.n == b.n
    for name, expected in a.arrays().items():
        if name in ("total", "tokens.total"):  # the order of a sum
            np.testing.assert_allclose(b.arrays()[name], expected, rtol=1e-12)
        else:
            np.testing.assert_array_equal(b.arrays()[name], expected, name)


# -- numbers


def test_count_mean_and_max(features, dense, corpus):
    assert features.n == corpus.mask.sum() and len(features) == 64
    for latent in features:
        on = dense[..., latent.index][dense[..., latent.index] != 0].astype(np.float64)
        assert latent.count == len(on) and latent.density == len(on) / features.n
        assert latent.max == on.max(initial=0) and latent.dead is (len(on) == 0)
        assert latent.mean == pytest.approx(on.mean() if len(on) else 0, rel=1e-12)


@pytest.mark.parametrize("bins", [1, 3, 10])
def test_histogram(features, dense, bins):
    """Each firing goes where the centre of its sixteenth of an octave lies; none is lost."""
    for latent in features:
        on = dense[..., latent.index][dense[..., latent.index] != 0].astype(np.float64)
        centre = 2 ** ((np.floor(16 * np.log2(on)) + 0.5) / 16)
        edges = np.linspace(0, latent.max, bins + 1)
        expected = np.histogram(np.minimum(centre, latent.max), edges)[0] if len(on) else np.zeros(bins)
        found = latent.histogram(bins)
        assert found.sum() == latent.count and found.shape == (bins,)
        np.testing.assert_array_equal(found, expected)


def test_values_out_of_range_are_counted_at_the_ends(model, corpus):
    small, large = made(), made()
    small.W_enc.mul_(1e-9)
    large.W_enc.mul_(1e9)
    for coder in (small, large):
        features = collect(model, corpus, coder)
        latent = busiest(features)
        assert latent.histogram(4).sum() == latent.count > 0
        assert sum(row.any() for row in features.index.histogram.T) == 1
        assert all(0 < e.value <= latent.max for e in latent.sample(5))


def test_scores_are_those_counted_by_hand(model, coder, corpus, dense, features):
    table = label_scores(model, coder, corpus)
    scored = corpus.scored
    on = dense[scored] != 0
    for row in table.itertuples():
        truth, fires = corpus.labels[row.label][scored], on[:, row.latent]
        hits = (truth & fires).sum()
        assert row.precision == pytest.approx(hits / fires.sum())
        assert row.recall == pytest.approx(hits / truth.sum())
        assert row.f1 == pytest.approx(2 / (1 / row.precision + 1 / row.recall))
        assert row.density == pytest.approx(fires.mean())
        assert row.always_fire == pytest.approx(2 * truth.sum() / (truth.sum() + len(truth)))
    met = sum((on & corpus.labels[label][scored, None]).any(0).sum() for label in corpus.labels if label != "mixed")
    assert len(table) == met
    assert not table[table.label == "keyword"].context.any()
    assert table[table.label == "docstring"].context.all()
    pd.testing.assert_frame_equal(features.label_scores(), table)


def test_labels_of_a_latent(features, corpus):
    table = features.label_scores()
    for i in (0, 7, DEAD):
        rows, met = features[i].labels(), table[table.latent == i].set_index("label")
        assert {*rows.label} == {*corpus.labels} - {"mixed"} and rows.f1.is_monotonic_decreasing
        columns = ["label", "context", "base", "precision", "recall", "f1", "always_fire"]
        assert list(rows) == [*columns, "auc", "neuron_auc", "neuron_f1"]
        for row in rows.itertuples():
            assert row.base == pytest.approx(corpus.labels[row.label][corpus.scored].mean())
            expected = met.loc[row.label] if row.label in met.index else dict(precision=0, recall=0, f1=0)
            assert all(getattr(row, name) == expected[name] for name in ("precision", "recall", "f1"))


def test_table(features):
    table = features.table
    assert list(table.index) == list(range(64)) and table is features.table
    for latent in features:
        row, rows = table.loc[latent.index], latent.labels()
        best = rows[rows.f1 > 0].assign(above=lambda r: r.f1 - r.always_fire).nlargest(1, "above")
        assert (row.density, row["max"]) == (latent.density, latent.max) and row["mean"] == pytest.approx(latent.mean)
        assert row.label == (best.label.item() if len(best) else "")
        if len(best):
            assert all(
                row[name] == best[name].item() for name in ("context", "precision", "recall", "f1", "always_fire")
            )
        held = features.index.top.place[features.index.top.slice_of(latent.index)]
        ids = features.corpus.tokens.flatten()[torch.from_numpy(np.array(held))].tolist()
        peaks = Counter(pieces(features.model.tokenizer, ids))
        assert [peaks[token] for token in row.tokens] == sorted(peaks.values(), reverse=True)[:4]


# -- firings


def around(codes: np.ndarray, mask: np.ndarray, pos: int) -> tuple[list[int], np.ndarray]:
    """(positions shown, their values) by walking away from `pos` one token at a time."""
    start, stop = pos, pos + 1
    while start > max(0, pos - 20) and mask[start - 1]:
        start -= 1
    while stop < min(len(mask), pos + 11) and mask[stop]:
        stop += 1
    return list(range(start, stop)), codes[start:stop]


def test_top_is_each_windows_peak_sorted(features, dense):
    width = dense.shape[1]
    for latent in features:
        codes, held = dense[..., latent.index], features.index.top
        best = sorted((-row.max(), w * width + int(row.argmax())) for w, row in enumerate(codes) if row.any())[:TOP]
        chosen = held.slice_of(latent.index)
        assert [(-v, p) for v, p in zip(held.values[chosen, 20], held.place[chosen], strict=True)] == best
        shown = [(e.value, e.window * width + e.pos) for e in latent.top(99)]
        assert set(shown) <= {(-v, p) for v, p in best} and len({e.text for e in latent.top(99)}) == len(shown)
        assert [v for v, _ in shown] == sorted((v for v, _ in shown), reverse=True)
        assert {e.text for e in latent.top(99)} == {features.excerpts.text(p) for _, p in best}
        assert latent.top(2) == latent.top(99)[:2]


def test_examples_are_the_text_and_the_models_values_there(features, dense, corpus):
    """Bytes are tokens here, so that the place in the source is known."""
    room = corpus.tokens.shape[1] - 1
    for latent in features:
        for e in latent.top(4) + latent.sample(4):
            positions, values = around(dense[e.window, :, latent.index], corpus.mask[e.window], e.pos)
            assert e.values == tuple(values.tolist()) and e.value == e.values[e.peak] > 0
            assert positions[e.peak] == e.pos
            text = SOURCES[corpus.text_ids[e.window]]
            first = room * (e.window - int(np.searchsorted(corpus.text_ids, corpus.text_ids[e.window]))) - 1
            assert e.text == text[first + positions[0] : first + positions[-1] + 1]
            assert e.line == 1 + text[: first + e.pos].count("\n")
            assert e.source == corpus.texts[corpus.text_ids[e.window]]


def test_values_around_are_those_of_the_whole_window(model, coder, corpus, features):
    for e in [e for latent in features for e in latent.sample(1)][:20]:
        x = sk.capture(model, corpus.tokens[e.window], SITE)[SITE.read][0]
        first = e.pos - e.peak
        assert first >= 1  # BOS is not shown
        codes = coder.encode(x).dense().numpy()[first : first + len(e.values)]
        assert any(np.allclose(codes[:, i], e.values, rtol=1e-3, atol=1e-3) for i in range(coder.d_sae))


def test_drawn_firings_fill_their_strata(features, dense):
    """All firings of a quarter-octave where there are up to four, else four; each is a firing, with its context."""
    held, flat = features.index.drawn, dense.reshape(-1, dense.shape[-1])
    for latent in features:
        chosen = held.slice_of(latent.index)
        places, values = held.place[chosen], held.values[chosen, 20]
        assert len({*places.tolist()}) == len(places)
        np.testing.assert_array_equal(values, flat[places, latent.index])
        on = flat[:, latent.index][flat[:, latent.index] != 0]
        there = Counter(math.floor(4 * math.log2(v)) for v in on.tolist())
        assert Counter(math.floor(4 * math.log2(v)) for v in values.tolist()) == {
            k: min(4, n) for k, n in there.items()
        }


def test_a_special_token_inside_a_text_is_a_border(model, coder):
    text = "def f(x): return x<|bos|>" + "def g(y): return y" * 2
    corpus = sk.load_corpus(model, [text])
    features = collect(model, corpus, coder)
    assert features.n == len(text) - len("<|bos|>")
    examples = [e for latent in features for e in latent.sample(99)]
    assert all(e.text in text and "<|bos|>" not in e.text for e in examples)
    assert any(e.text.startswith("def g") for e in examples) and any(e.text.endswith("return x") for e in examples)


def test_repeated_texts_are_shown_once(model, coder):
    """Equal windows have equal values: the tie goes to the first, and top() shows it alone."""
    corpus = sk.load_corpus(model, ["the same words again and again"] * 8)
    features = collect(model, corpus, coder)
    for latent in features:
        assert [e.window for e in latent.top()] == ([] if latent.dead else [0])
        assert (
            latent.dead or len(np.diff(features.index.top.place[features.index.top.slice_of(latent.index)])) == TOP - 1
        )


# -- streams


@pytest.mark.parametrize("levels", [5, 10**9])
@pytest.mark.parametrize("size", [1, 17, 400, 10_000])
def test_kept_is_the_dense_top_k_however_the_stream_is_cut(levels, size):
    """With few levels most scores are ties; the smaller place wins them."""
    rng = np.random.default_rng(0)
    group, score = rng.integers(0, 30, 4000), rng.integers(0, levels, 4000).astype(np.float64)
    place, values = rng.permutation(4000), rng.random((4000, 2), np.float32)
    kept = Kept(31, 7, 2)
    for i in range(0, 4000, size):
        chosen = i + np.flatnonzero(kept.may_hold(group[i : i + size], score[i : i + size]))
        kept.add(Entries(group[chosen], score[chosen], place[chosen], values[chosen]))
    found = kept.entries()
    dense = np.full((30, 4000), -np.inf)
    dense[group, place] = score  # so that topk's columns are places
    expected = np.argsort(-dense, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(found.place, expected.flatten())
    np.testing.assert_array_equal(found.score, torch.from_numpy(dense).topk(7).values.flatten())
    np.testing.assert_array_equal(found.values, values[np.argsort(place)[found.place]])
    assert size == 10_000 or (kept.threshold[:30] > 0).all()  # candidates were left out


def test_a_tally_does_not_depend_on_the_batches(corpus, dense):
    """The same codes, one window at a time, a few, or all at once."""
    made_of = {}
    for size in (1, 3, len(corpus)):
        tally = Tally(corpus, dense.shape[-1], TOP, 100, seed=0)
        for start in range(0, len(corpus), size):
            part = corpus[start : start + size]
            rows = torch.from_numpy(dense[start : start + size][part.mask])
            tally.add(start, part, Codes.from_dense(rows), rows)
        made_of[size] = Index.of(tally)
    assert_same(made_of[1], made_of[3])
    assert_same(made_of[1], made_of[len(corpus)])


def test_draws_are_uniform():
    """4 of 200 firings, for 3,000 seeds: chi-square of how often each is drawn, and of each with its neighbour."""
    keys, n, k = np.arange(200) * 64 + 9, 3000, 4
    drawn = np.array([np.argsort(-random_scores(keys, seed))[:k] for seed in range(n)])
    counts = np.bincount(drawn.flatten(), minlength=200)
    # without replacement a count varies less, by 1 - k / 200
    assert 0.01 < stats.chi2.sf(((counts - n * k / 200) ** 2 / (n * k / 200)).sum() / (1 - k / 200), 199) < 0.99
    together = sum(abs(a - b) == 1 for row in drawn for i, a in enumerate(row) for b in row[:i])
    assert stats.binomtest(together, n * k * (k - 1) // 2, 199 / math.comb(200, 2)).pvalue > 0.01
    assert stats.kstest(random_scores(np.arange(5000), 1), "uniform").pvalue > 0.01
    assert not np.array_equal(random_scores(keys, 0), random_scores(keys, -1))


def test_every_firing_of_a_stratum_is_drawn_equally_often(corpus):
    """A synthetic stream through the whole tally: one latent, all values in one quarter-octave."""
    mask = torch.from_numpy(corpus[:4].mask)
    codes = Codes.from_dense(torch.linspace(1.0, 1.1, int(mask.sum()))[:, None])
    counts = np.zeros(mask.numel())
    for seed in range(1000):
        tally = Tally(corpus, 1, 1, 9, seed)
        tally.add(0, corpus[:4], codes, codes.values[:, None])
        counts[Index.of(tally).drawn.place] += 1
    counts = counts[mask.flatten().numpy()]
    assert counts.sum() == 4000
    assert 0.01 < stats.chisquare(counts).pvalue < 0.999


# -- samples


def test_sample_is_within_its_interval_and_never_repeats(features, dense):
    for latent in [latent for latent in features if latent.count > 30]:
        low, high = latent.max / 4, latent.max / 2
        for examples in (latent.sample(6, low, high), latent.sample(10**6, low, high)):
            values = [e.value for e in examples]
            assert all(low < v <= high for v in values) and values == sorted(values, reverse=True)
            assert len({(e.window, e.pos) for e in examples}) == len(examples)
            assert all(e.value == dense[e.window, e.pos, latent.index] for e in examples)
        assert latent.sample(6) == latent.sample(6) and len(latent.sample(6)) == 6
        assert latent.sample(1, high=latent.max, low=latent.max * 0.999)[0].value == latent.max
    assert any(latent.sample(6) != latent.sample(6, seed=1) for latent in features)
    assert features[0].sample(0) == []


def test_a_sample_stands_for_all_firings(features, dense):
    """What is kept weighs as much as what fired, stratum by stratum, so that half of all draws are above the median."""
    for latent in features:
        on = dense[..., latent.index][dense[..., latent.index] != 0]
        _, values, weights = latent._pool()
        there = Counter(math.floor(4 * math.log2(v)) for v in on.tolist())
        kept = Counter()
        for value, weight in zip(values[:, 20].tolist(), weights.tolist(), strict=True):
            kept[math.floor(4 * math.log2(value))] += weight
        assert kept == pytest.approx(there)
    latent = busiest(features)
    on = dense[..., latent.index][dense[..., latent.index] != 0]
    above = sum(latent.sample(1, seed=seed)[0].value > np.median(on) for seed in range(400))
    assert abs(above / 400 - 0.5) < 0.12


# -- edges


def test_a_dead_latent(features):
    latent = features[DEAD]
    assert latent.dead and (latent.count, latent.density, latent.max, latent.mean) == (0, 0, 0, 0)
    assert latent.top() == [] and latent.sample(5) == [] and not latent.histogram().any()
    assert (latent.labels().f1 == 0).all()
    row = features.table.loc[DEAD]
    assert (row.density, row["max"], row.f1, row.label, row.tokens) == (0, 0, 0, "", ())
    assert DEAD not in features.search().index and features.search(DEAD).empty
    assert "0 of" in repr(latent)


def test_a_corpus_without_labels(model, tiny_corpus):
    features = collect(model, tiny_corpus)
    assert (features.table.label == "").all() and (features.table.f1 == 0).all() and not features.table.context.any()
    assert features[0].labels().empty and features.label_scores().empty
    assert len(features.search()) == sum(not latent.dead for latent in features)
    assert busiest(features).top()[0].line == 1
    with pytest.raises(ValueError, match="no labelled tokens"):
        label_scores(model, made(), tiny_corpus)
    with pytest.raises(ValueError, match="no labels"):
        features.search(label="docstring")


def test_search(features):
    table = features.table[features.table["max"] > 0]
    assert list(features.search().index) == list(table.sort_values("f1", ascending=False, kind="stable").index)
    part = table.label.mode()[0][1:4]
    found = features.search(f"  {part.upper()} ")
    expected = [i for i, row in table.iterrows() if any(part in text.lower() for text in (row.label, *row.tokens))]
    assert sorted(found.index) == expected and len(expected) and found.f1.is_monotonic_decreasing
    letter = next(t for tokens in table.tokens for t in tokens if t.isalpha())
    assert {i for i, tokens in table.tokens.items() if letter in tokens} <= {*features.search(letter).index}
    assert list(features.search("7").index) == [7] == list(features.search(7).index)
    assert features.search("640").empty
    label, token = table.iloc[0].label, table.iloc[0].tokens[0]
    assert (features.search(label=label).label == label).all()
    with_token = [i for i, tokens in table.tokens.items() if token in tokens or token in {t.strip() for t in tokens}]
    assert sorted(features.search(token=token).index) == with_token
    shown = {i for i in table.index if any("onerror" in e.text for e in features[i].top(99))}
    assert {*features.search(regex=r"on\w{5}").index} == shown != set()
    assert {*features.search(label=label, regex="one?rror").index} == shown & {*features.search(label=label).index}


def test_hostile_text_survives_as_text(features):
    texts = [e.text for latent in features for e in latent.top(99)]
    assert any("<img src=x onerr" in text for text in texts) and any("</script>" in text for text in texts)
    assert isinstance(busiest(features).top()[0], Example)


def test_pieces_keep_their_blanks(model):
    text = "if x:\n\treturn <b> é"
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert pieces(model.tokenizer, ids) == [*text[:-1], "\ufffd", "\ufffd"]
    assert pieces(model.tokenizer, torch.tensor(ids[:2])) == pieces(model.tokenizer, np.array(ids[:2])) == ["i", "f"]
    words = Tokenizer(models.WordLevel({"▁a": 0, "▁the": 1, "ing": 2, "<unk>": 3}, unk_token="<unk>"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    words.enable_padding(length=5)
    assert pieces(PreTrainedTokenizerFast(tokenizer_object=words), [1, 2, 0]) == [" the", "ing", " a"]


# -- on disk


@pytest.fixture
def never_again(monkeypatch):
    def encoded(*args, **options):
        raise AssertionError("the model ran again")

    return lambda: monkeypatch.setattr(index, "encoded", encoded)


@pytest.mark.parametrize("where", ["path", "cache"])
def test_reopened_is_collected(model, coder, corpus, features, never_again, tmp_path, where):
    options = {"path": tmp_path / "here"} if where == "path" else {}
    first = collect(model, corpus, coder, **options)
    never_again()
    again = collect(model, corpus, coder, **options)
    assert_same(first.index, again.index)
    assert_same(features.index, again.index)
    if where == "path":
        opened = sk.Features.open(tmp_path / "here", model, coder, corpus)
        assert opened[5].top() == features[5].top() and opened[5].sample(7) == features[5].sample(7)
    else:
        assert [*tmp_path.glob("cache/features/*/index.safetensors")]
    pd.testing.assert_frame_equal(again.table, features.table)


def nudged(model, tiny_folders):
    other = sk.load_model(tiny_folders["gpt2"])
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.001)
    return other


def test_an_index_of_something_else_is_not_taken_for_this(model, corpus, tmp_path, tiny_folders, monkeypatch):
    coder = made()
    collect(model, corpus, coder, path=tmp_path)
    threshold, weight, relabelled = made(sk.TopK(6)), made(), dataclasses.replace(corpus, bits=corpus.bits & ~4)
    threshold.nonlinearity.threshold.fill_(1e-6)
    weight.W_dec[-1, -1] += 1e-6
    runs = []
    monkeypatch.setattr(index, "encoded", lambda *a, **k: runs.append(1) or forward.encoded(*a, **k))
    others = [(model, threshold, corpus), (model, weight, corpus), (model, coder, relabelled)]
    others += [(model, coder, corpus[:-1]), (nudged(model, tiny_folders), coder, corpus)]
    for i, other in enumerate(others):
        with pytest.raises(ValueError, match=r"was made for .* this one is .*Features.collect"):
            sk.Features.open(tmp_path, *other)
        fresh = sk.Features.collect(*other, path=tmp_path, top=TOP, progress=False)
        assert len(runs) == i + 1  # replaces it
        collect(model, corpus, coder, path=tmp_path)
        runs.pop()
        assert fresh.n
    for n, settings in enumerate([{"top": 3}, {"seed": 1}, {"seed": 1}]):
        collect(model, corpus, coder, path=tmp_path, **settings)
        assert len(runs) == len(others) + min(n, 1) + 1


def test_both_sides_are_named(model, corpus, tmp_path):
    collect(model, corpus, path=tmp_path)
    with pytest.raises(ValueError, match=r"a coder of 64 latents .* this one is a coder of 96 latents"):
        sk.Features.open(tmp_path, model, made(d_sae=96), corpus)
    with pytest.raises(ValueError, match="no index in .*nowhere"):
        sk.Features.open(tmp_path / "nowhere", model, made(), corpus)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "other format"])
def test_a_damaged_file_is_made_again_by_collect_and_refused_by_open(model, corpus, tmp_path, damage, monkeypatch):
    whole = collect(model, corpus, path=tmp_path)
    file = tmp_path / "index.safetensors"
    content = file.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    bad = {"cut": content[: len(content) // 2], "flipped": flipped, "empty": b"", "text": b"hello" * 99}
    if damage == "other format":
        monkeypatch.setattr("saekit.features.store.FORMAT", 1)
    else:
        file.unlink()  # `whole` has it mapped
        file.write_bytes(bad[damage])
    with pytest.raises(ValueError, match="index.safetensors.*makes it anew"):
        sk.Features.open(tmp_path, model, made(), corpus)
    assert_same(collect(model, corpus, path=tmp_path).index, whole.index)
    assert_same(sk.Features.open(tmp_path, model, made(), corpus).index, whole.index)


def test_no_room_costs_nothing_but_the_cache(model, corpus, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        collect(model, corpus, path=tmp_path / "file")
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot keep the index.*SAEKIT_CACHE"):
        features = collect(model, corpus)
    assert busiest(features).top()


# -- interruption


@pytest.mark.parametrize("how", ["raised", "signal"])
def test_an_interrupt_keeps_what_was_seen(model, corpus, monkeypatch, tmp_path, how):
    """Raised in the third pass, two are kept; the signal lets the third one end."""
    before = signal.getsignal(signal.SIGINT)  # ignored where a shell started us in the background
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3 and how == "raised":
            raise KeyboardInterrupt
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return sk.capture(*args)

    monkeypatch.setattr(forward, "capture", interrupted)
    seen = corpus[: forward.WINDOWS * (2 if how == "raised" else 3)]
    with pytest.warns(UserWarning, match=rf"interrupted: this index holds {seen.n_tokens:,} of {corpus.n_tokens:,}"):
        features = collect(model, corpus, path=tmp_path)
    assert not (tmp_path / "index.safetensors").exists()
    monkeypatch.undo()
    monkeypatch.setattr("saekit.features.kept.WAITING", 100)
    assert_same(features.index, collect(model, seen, path=tmp_path / "seen").index)
    assert features.n == seen.n_tokens and busiest(features).top() and len(features.table) == 64
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_before_anything_was_seen_is_one(model, corpus, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(forward, "capture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(model, corpus)


# -- refusals


def test_what_does_not_belong_together_is_refused(model, corpus):
    wide, elsewhere, training, homeless, of_others = made(), made(), made(), made(), made()
    wide.d_in, elsewhere.site, homeless.site = 48, sk.Site("blocks.9.hook_resid_post"), None
    training.train()
    of_others.tokenizer = "0" * 16
    deeper = copy.deepcopy(made())
    deeper.model = {"name": "big", "processing": "raw", "d_model": 32, "n_layers": 12}
    messages = {
        "width 48": wide, "no hook 'blocks.9": elsewhere, "training mode": training, "no site": homeless,
        "tokenizer 0000": of_others, "trained on": deeper,
    }  # fmt: skip
    for message, coder in messages.items():
        with pytest.raises(ValueError, match=message):
            collect(model, corpus, coder)
    with pytest.raises(ValueError, match="tokenized by"):
        collect(model, dataclasses.replace(corpus, fingerprint="f" * 16))
    with pytest.raises(ValueError, match="0 tokens"):
        collect(model, corpus[:0])
    with pytest.raises(ValueError, match="top=0"):
        collect(model, corpus, top=0)


def test_activations_that_are_not_finite_are_refused(model, corpus, monkeypatch, tmp_path):
    def broken(*args):
        return {name: x * torch.nan for name, x in sk.capture(*args).items()}

    monkeypatch.setattr(forward, "capture", broken)
    with pytest.raises(ValueError, match="NaN or infinite"):
        collect(model, corpus, path=tmp_path)
    assert not [*tmp_path.glob("index*")]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda f: f[64], r"latent 64 is not in \[0, 64\)"),
        (lambda f: f[-1], r"latent -1 is not in \[0, 64\)"),
        (lambda f: f["docstring"], "latent 'docstring' is not a whole number"),
        (lambda f: f[1.5], "latent 1.5 is not a whole number"),
        (lambda f: f.search(label="docstrin"), "no label 'docstrin'; there are docstring"),
        (lambda f: f.search(regex="("), r"regex='\(' is not a regular expression"),
        (lambda f: f[0].sample(3, low=2.0, high=2.0), "low=2.0, high=2.0"),
        (lambda f: f[0].sample(-1), "n=-1"),
        (lambda f: f[0].histogram(0), "bins=0"),
    ],
)
def test_bad_questions_are_answered_with_what_is_wrong(features, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(features)


def test_numbers_of_other_kinds_are_numbers(features):
    assert features[np.int64(3)].index == features[torch.tensor(3)].index == 3
    assert "64 latents" in repr(features) and "Latent(1:" in repr(features[1])
