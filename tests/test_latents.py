"""What a latent is asked, against the same counted from its codes written out as one dense matrix."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score
from test_features import DEAD, SITE, busiest, collect, corpus, dense, made, model, small_steps  # noqa: F401

import saekit as sk
from saekit.codes import Codes
from saekit.features import Notes
from saekit.features.auc import auc
from saekit.features.neurons import best_f1, best_neurons
from saekit.features.sample import Sample, Sampled
from saekit.features.tokens import Pairs


@pytest.fixture(scope="module")
def coder(model, corpus):  # noqa: F811
    coder = made(sk.ReLU())
    coder.b_pre.copy_(sk.capture(model, corpus.tokens, SITE)[SITE.read][torch.from_numpy(corpus.mask)].mean(0))
    coder.b_enc.sub_(0.5)
    return coder


@pytest.fixture(scope="module")
def features(model, coder, corpus, tmp_path_factory):  # noqa: F811
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("saekit.features.tokens.WAITING", 100)
        return collect(model, corpus, coder, path=tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def few(model, coder, corpus, tmp_path_factory):  # noqa: F811
    """Of the same, with 300 tokens sampled."""
    return collect(model, corpus, coder, path=tmp_path_factory.mktemp("few"), sample=300)


# -- documents


def test_train_and_test_documents_are_disjoint_and_the_same_every_time(corpus):  # noqa: F811
    test = corpus.test_windows()
    assert not {*corpus[test].names} & {*corpus[~test].names}
    assert len({*corpus[test].names}) == round(len(corpus.texts) / 2)
    np.testing.assert_array_equal(test, corpus.test_windows())
    assert any((test != corpus.test_windows(seed=seed)).any() for seed in range(1, 5))
    backwards = corpus[np.arange(len(corpus))[::-1].copy()]
    assert {*backwards[backwards.test_windows()].names} == {*corpus[test].names}
    for share in (0.01, 0.99):
        assert 0 < corpus.test_windows(share).sum() < len(corpus)


@pytest.mark.parametrize("share", [0, 1, -1, 2])
def test_what_cannot_be_split_is_refused(corpus, share):  # noqa: F811
    with pytest.raises(ValueError, match=f"share={share}"):
        corpus.test_windows(share)
    with pytest.raises(ValueError, match="1 texts"):
        corpus[corpus.text_ids == 0].test_windows()


def test_examples_of_one_half_of_the_documents(features):
    test = features.test_windows
    np.testing.assert_array_equal(test, features.corpus.test_windows())
    seen = {"train": 0, "test": 0}
    for latent in features:
        for documents in seen:
            examples = latent.top(9, documents=documents) + latent.sample(9, documents=documents)
            for part in latent.value_quantiles(3, documents=documents) + latent.rank_quantiles(3, documents=documents):
                examples += part.examples
            assert all(test[e.window] == (documents == "test") for e in examples)
            seen[documents] += len(examples)
    assert min(seen.values()) > 100
    with pytest.raises(ValueError, match="documents='held out'"):
        features[0].top(documents="held out")


# -- ranges


@pytest.mark.parametrize("n", [1, 4, 10])
def test_value_quantiles(features, n):
    for latent in features:
        ranges = latent.value_quantiles(n, each=3)
        if latent.dead:
            assert ranges == []
            continue
        np.testing.assert_allclose([r.low for r in ranges], np.arange(n) / n * latent.max)
        assert ranges[-1].high == latent.max and sum(r.count for r in ranges) == latent.count
        assert all(r.low < e.value <= r.high for r in ranges for e in r.examples)
        assert all(len(r.examples) <= 3 for r in ranges) and ranges[-1].examples


@pytest.mark.parametrize("n", [1, 4, 10])
def test_rank_quantiles_hold_equally_many(features, dense, n):  # noqa: F811
    for latent in features:
        ranges = latent.rank_quantiles(n, each=3)
        if latent.dead:
            assert ranges == []
            continue
        on = dense[..., latent.index][dense[..., latent.index] > 0]
        assert sum(r.count for r in ranges) == latent.count == len(on)
        assert max(r.count for r in ranges) - min(r.count for r in ranges) <= 1
        assert ranges[0].low == 0 and ranges[-1].high == latent.max
        assert all(r.low < e.value <= r.high for r in ranges for e in r.examples)
        for r in ranges[:-1]:  # as many firings lie below each border, to a bin of a sixteenth of an octave
            before = sum(other.count for other in ranges if other.high <= r.high)
            assert (on <= r.high * 2 ** (-1 / 16)).sum() <= before <= (on <= r.high * 2 ** (1 / 16)).sum()
    with pytest.raises(ValueError, match="n=0"):
        features[0].rank_quantiles(0)


def test_importance_weighted_draws(features, dense):  # noqa: F811
    """The first firing drawn is the strong one of two halves as often as its share of the sum of value**power."""
    latent = busiest(features)
    on = dense[..., latent.index][dense[..., latent.index] > 0].astype(np.float64)
    median = np.median(on)
    for power in (0.0, 1.0, 2.0):
        above = sum(latent.sample(1, seed=seed, power=power)[0].value > median for seed in range(300))
        expected = (on**power)[on > median].sum() / (on**power).sum()
        assert abs(above / 300 - expected) < 0.1


# -- the sample


def test_the_sample_has_all_codes_of_its_tokens(features, few, dense):  # noqa: F811
    flat = dense.reshape(-1, dense.shape[-1])
    assert len(few.index.sample.place) == 300 and len(features.index.sample.place) == features.n
    for sampled in (features.index.sample, few.index.sample):
        codes = np.zeros((len(sampled.place), flat.shape[1]), np.float32)
        for i in range(flat.shape[1]):
            tokens, values = sampled.firings(i)
            assert (np.diff(tokens) > 0).all()
            codes[tokens, i] = values
        np.testing.assert_array_equal(codes, flat[sampled.place])
        rows = np.repeat(np.arange(len(sampled.place)), np.diff(sampled.offsets))
        np.testing.assert_array_equal(sampled.values, codes[rows, sampled.latents])
        for i in (0, 5, DEAD):
            np.testing.assert_array_equal(sampled.together(i), ((codes > 0) & (codes[:, [i]] > 0)).sum(0))


def test_every_token_is_sampled_equally_often_however_the_stream_is_cut(monkeypatch):
    monkeypatch.setattr("saekit.features.sample.INPUTS", 20)
    codes = Codes.from_dense(torch.arange(1.0, 401.0)[:, None])
    counts, n = np.zeros(400), 100
    for seed in range(n):
        found = []
        for size in (37, 400):
            sample = Sample(40, seed)
            for start in range(0, 400, size):
                rows = torch.arange(start, min(start + size, 400))
                sample.add(rows.numpy(), Codes.from_dense(codes.dense()[rows]), rows[:, None].float())
            found.append(sample)
        one, other = (s.sampled(1) for s in found)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(one.values, one.place + 1)
        places, x = found[0].inputs()
        assert len(places) == 20 and {*places} <= {*one.place}
        np.testing.assert_array_equal(x[:, 0], places)
        counts[one.place] += 1
    chi2 = ((counts - n / 10) ** 2 / (n / 10)).sum() / 0.9
    assert 320 < chi2 < 480  # 399 degrees of freedom


def test_neighbours(features, few, dense):  # noqa: F811
    for asked in (features, few):
        codes = dense.reshape(-1, dense.shape[-1])[asked.index.sample.place] > 0
        for i in (0, 7, 20):
            table = asked[i].neighbours(8)
            assert len(table) == 8 and table.jaccard.is_monotonic_decreasing and i not in table.index
            jaccard = (codes & codes[:, [i]]).sum(0) / np.maximum((codes | codes[:, [i]]).sum(0), 1)
            jaccard[i] = 0
            np.testing.assert_allclose(table.jaccard, np.sort(jaccard)[::-1][:8])
            for j, row in table.iterrows():
                both = (codes[:, i] & codes[:, j]).mean()
                assert row.together == (codes[:, i] & codes[:, j]).sum() and row.jaccard == pytest.approx(jaccard[j])
                assert row.lift == pytest.approx(both / codes[:, i].mean() / codes[:, j].mean())
                rows = torch.nn.functional.cosine_similarity(asked.coder.W_dec[i], asked.coder.W_dec[j], dim=0)
                assert row.cosine == pytest.approx(float(rows), abs=1e-6) and row.label == asked.table.label[j]
    assert features[DEAD].neighbours().empty


def test_similar_latents(features):
    gram = torch.nn.functional.normalize(features.coder.W_dec, dim=1)
    for i in (0, DEAD):
        table = features[i].similar(5)
        cosine = gram @ gram[i]
        cosine[i] = -2
        assert list(table.index) == cosine.topk(5).indices.tolist()
        np.testing.assert_allclose(table.cosine, cosine.topk(5).values, atol=1e-6)
        near = features[i].neighbours(63).jaccard
        assert table.jaccard.tolist() == [near.get(j, 0.0) for j in table.index]
    assert len(features[0].similar(10**6)) == 63


# -- tokens


def assert_tokens(features, dense):  # noqa: F811
    mask, ids = features.corpus.mask, features.corpus.tokens.numpy()
    for latent in features:
        table, codes = latent.tokens(), dense[..., latent.index][mask].astype(np.float64)
        tokens = ids[mask]
        assert {*table.id} == {*tokens[codes > 0]} and table.fires.is_monotonic_decreasing
        for row in table.itertuples():
            here = codes[tokens == row.id]
            assert (row.seen, row.fires) == (len(here), (here > 0).sum())
            assert row.precision == (here > 0).mean() and row.recall == (here > 0).sum() / (codes > 0).sum()
            assert row.mean == pytest.approx(here.mean()) and row.mean_on == pytest.approx(here[here > 0].mean())
            assert row.token == features.excerpts.pieces[row.id]
        assert len(latent.tokens(3)) == min(3, len(table))


def test_tokens_of_a_latent(features, dense):  # noqa: F811
    assert_tokens(features, dense)
    assert features[DEAD].tokens().empty and not features.index.tokens.missed.any()


def test_pairs_past_the_most_lose_their_smallest_shares_and_say_how_much(monkeypatch):
    monkeypatch.setattr("saekit.features.tokens.MOST", 200)
    monkeypatch.setattr("saekit.features.tokens.WAITING", 50)
    rng = np.random.default_rng(0)
    latent = rng.integers(0, 10, 5000)
    token = np.minimum(rng.geometric(0.08, 5000), 99) + latent  # 10 latents of some 50 ids each
    latent[:5], token[:5] = 10, 7  # a rare one
    pairs = Pairs(11, 200)
    for start in range(0, 5000, 100):
        part = slice(start, start + 100)
        pairs.add(latent[part], token[part], np.ones(100, np.float32))
    found = pairs.at_tokens()
    assert 0 < len(found.token) <= 200 and found.missed.any()
    for i in range(11):
        true = np.bincount(token[latent == i], minlength=200)
        held = dict(zip(found.token[found.slice_of(i)], found.count[found.slice_of(i)], strict=True))
        assert all(true[v] - found.missed[i] <= n <= true[v] for v, n in held.items())
        assert all(n <= found.missed[i] for v, n in enumerate(true) if v not in held)
    assert (found.count[found.slice_of(10)] == [5]).all()  # all of its firings are at one token


# -- labels


def test_auc_is_scikit_learns(features, few, dense):  # noqa: F811
    for asked in (features, few):
        place = asked.index.sample.place
        scored = asked.corpus.scored.reshape(-1)[place]
        for label in ("docstring", "bracket", "keyword", "def name"):
            truth = asked.corpus.labels[label].reshape(-1)[place][scored]
            for i in (0, 3, 7, 30):
                values = dense.reshape(-1, dense.shape[-1])[place][scored][:, i]
                expected = roc_auc_score(truth, values) if truth.any() else np.nan
                assert asked.auc[label][i] == pytest.approx(expected, nan_ok=True)
                row = asked[i].labels().set_index("label").loc[label]
                assert row.auc == pytest.approx(expected, nan_ok=True)


def test_auc_with_ties():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (500, 3)).astype(np.float32)  # few values: most comparisons are ties
    truth, scored = rng.random((500, 2)) < 0.3, rng.random(500) < 0.8
    entries = Codes.from_dense(torch.from_numpy(codes))
    counts = entries.offsets.diff().numpy()
    sampled = Sampled.of(np.arange(500), counts, entries.latents.int().numpy(), entries.values.numpy(), 3)
    found = auc(sampled, truth, scored)
    for i in range(3):
        for label in range(2):
            assert found[i, label] == pytest.approx(roc_auc_score(truth[scored, label], codes[scored, i]))
    truth[:, 0] = False
    assert np.isnan(auc(sampled, truth, scored)[:, 0]).all() and (auc(sampled, truth, scored, 1) > 0)[0, 1]


def test_the_best_neuron_is_the_best_of_all(features):
    """Against scikit-learn, dimension by dimension."""
    sampled = features.index.sample.place[features.scored]
    windows, pos = np.divmod(sampled, features.corpus.tokens.shape[1])
    x = sk.capture(features.model, features.corpus.tokens, SITE)[SITE.read][windows, pos].numpy()
    for label in ("docstring", "bracket"):
        truth = features.corpus.labels[label].reshape(-1)[sampled]
        each = np.array([roc_auc_score(truth, column) for column in x.T])
        row = features.neurons.loc[label]
        best = np.abs(each - 0.5).argmax()
        assert row.dimension == best and row.auc == pytest.approx(max(each[best], 1 - each[best]), abs=1e-4)
        precision, recall, _ = precision_recall_curve(truth, row.sign * x[:, best])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        assert row.f1 == pytest.approx(f1.max(), abs=1e-4)
        listed = features[0].labels().set_index("label").loc[label]
        assert (listed.neuron_auc, listed.neuron_f1) == (row.auc, row.f1)


def test_best_neuron_of_planted_answers():
    rng = np.random.default_rng(0)
    x, truth = rng.random((300, 6), np.float32), rng.random((300, 3)) < 0.2
    x[:, 4] = ~truth[:, 0]
    truth[:, 1] = False
    found = best_neurons(x, truth)
    assert (found.dimension[0], found.sign[0], found.auc[0], found.f1[0]) == (4, -1, 1, 1)
    assert found.dimension[1] == -1 and np.isnan(found.auc[1]) and np.isnan(found.f1[1])
    score = rng.integers(0, 5, 300)
    every = [f1_score(truth[:, 2], score >= t) for t in range(5)]
    assert best_f1(score.astype(float), truth[:, 2]) == pytest.approx(max(every))


# -- again


def test_reencoded_windows_give_the_stored_activations(features):
    table = features.reencode(100)
    assert len(table) == 100 and table.latent.nunique() > 10 and table.error.max() < 1e-5
    assert (table.again > 0).all()
    pd.testing.assert_frame_equal(table, features.reencode(100))
    assert list(features.reencode(20, seed=1).pos) != list(table.pos[:20])
    with pytest.raises(ValueError, match="n=0"):
        features.reencode(0)


def test_reencoding_notices_another_coder(model, corpus, coder, features, tmp_path):  # noqa: F811
    other = made(sk.ReLU())
    other.load_state_dict(coder.state_dict())
    other.b_enc.add_(0.01)
    stale = sk.Features(model, other, corpus, features.index)
    assert stale.reencode(30).error.median() > 1e-3


# -- notes


def test_notes_and_stars_are_kept_and_found(features, model, coder, corpus):  # noqa: F811
    features = sk.Features(model, coder, corpus, features.index)
    assert (features[5].note, features[5].star) == ("", False) and features.notes.all() == {}
    features[5].note, features[9].star = "opening <b>quotes</b>", True
    features[9].note = "QUOTES é \ud83d"
    again = sk.Features(model, coder, corpus, features.index)
    assert again[5].note == "opening <b>quotes</b>" and not again[5].star and again[9].star
    shown = {i for i in (5, 9) if not features[i].dead}
    assert {*again.search("uotes").index} >= shown
    assert {*again.search(starred=True).index} == shown & {9} and again.search("<b>quo", starred=True).empty
    features[9].star = False
    assert again.search(starred=True).empty and again[9].note.startswith("QUOTES")


def test_notes_belong_to_the_coder_not_to_the_corpus(features, model, coder, corpus):  # noqa: F811
    features = sk.Features(model, coder, corpus, features.index)
    features[1].note = "mine"
    assert sk.Features(model, coder, corpus[:4], features.index).notes[1]["text"] == "mine"
    assert sk.Features(model, made(), corpus, features.index).notes[1]["text"] == ""


def test_what_other_versions_wrote_is_kept(tmp_path):
    notes = Notes("abc", tmp_path)
    notes.path.parent.mkdir()
    notes.path.write_text(json.dumps({"version": 7, "latents": {"3": {"text": "a", "colour": "red"}, "x": {}}}))
    notes.put(3, star=True)
    notes.put(4, text="b")
    found = json.loads(notes.path.read_text())
    assert found["version"] == 7 and found["latents"]["3"] == {"text": "a", "colour": "red", "star": True}
    assert "x" in found["latents"] and {*notes.all()} == {3, 4}
    assert not [p for p in notes.path.parent.iterdir() if p != notes.path]


@pytest.mark.parametrize(
    "bad", ["", "{", "[]", '{"latents": []}', '{"latents": {"1": 3}}', '{"latents": {"1": {"star": 2}}}']
)
def test_a_damaged_file_of_notes_is_moved_aside(tmp_path, bad):
    notes = Notes("abc", tmp_path)
    notes.path.parent.mkdir()
    for n in (1, 2):
        notes.path.write_text(bad)
        with pytest.warns(UserWarning, match="damaged"):
            assert notes[3] == {"star": False, "text": ""}
        notes.put(3, text="new")
        assert (notes.path.parent / f"abc.damaged-{n}.json").read_text() == bad and notes[3]["text"] == "new"


def test_notes_that_cannot_be_written_say_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        Notes("abc", tmp_path / "file").put(1, star=True)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert Notes("abc", tmp_path / "file").all() == {}
