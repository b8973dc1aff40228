"""Explanations from inputs, against planted answers and independent counts."""

import random

import numpy as np
import planted
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score

import saekit as sk
from saekit import explain
from saekit.codes import Codes
from saekit.corpus import python_spans
from saekit.explain.predicates import Begins, Both, Either, Has, Not, OneOf
from saekit.explain.rules import Rule, best_set
from saekit.features.store import Index
from saekit.features.tally import Tally

LATENTS = [("a", "b"), ("", "c"), ("", ""), ("ae", "f")]
BIGRAM, TOKEN, DEAD, EITHER = range(4)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def model():
    return planted.Bigrams()


@pytest.fixture(scope="module")
def features(model, tmp_path_factory):
    rng = random.Random(0)
    corpus = sk.load_corpus(model, ["".join(rng.choices("abcdefgh ", k=150)) for _ in range(24)])
    coder = planted.coder(model, LATENTS)
    return sk.Features.collect(model, coder, corpus, path=tmp_path_factory.mktemp("index"), progress=False)


# -- examples


def test_max_act(features):
    table = explain.max_act(features[BIGRAM], 6)
    assert list(table.token) == ["b"] * 6 and (table.value == 0.5).all() and table.value.is_monotonic_decreasing
    assert not table.text.duplicated().any() and not table.window.duplicated().any()
    for row in table.itertuples():
        assert features.corpus.tokens[row.window, row.pos - 1] == planted.ids(features.model, "a")[0]
        assert "ab" in row.text and row.line == 1 and row.source == features.corpus.names[row.window]
    assert not features.test_windows[explain.max_act(features[BIGRAM], documents="train").window].any()


@pytest.mark.parametrize("by", ["value", "rank"])
def test_quantiles(features, by):
    table = explain.quantiles(features[BIGRAM], 4, 3, by=by)
    assert ((table.low < table.value) & (table.value <= table.high)).all() and len(table)
    assert table["quantile"].is_monotonic_decreasing and (table.groupby("quantile").size() <= 3).all()
    ranges = {"value": features[BIGRAM].value_quantiles, "rank": features[BIGRAM].rank_quantiles}[by](4, 3)
    for row in table.itertuples():
        found = ranges[row.quantile - 1]
        assert (row.low, row.high, row.share) == (found.low, found.high, found.count / features[BIGRAM].count)
        assert (row.window, row.pos) in {(e.window, e.pos) for e in found.examples}


def test_tokens(features):
    c = explain.tokens(features[TOKEN])
    assert list(c.token) == ["c"] and c.precision[0] == c.recall[0] == c.f1[0] == 1
    b = explain.tokens(features[BIGRAM]).iloc[0]
    ids = features.corpus.tokens.numpy()[features.corpus.mask]
    assert b.token == "b" and b.recall == 1
    truth = np.concatenate([[False], (ids[1:] == b.id) & (ids[:-1] == planted.ids(features.model, "a")[0])])
    assert b.precision == pytest.approx(truth.sum() / (ids == b.id).sum(), abs=0.02)  # a window's first has none before
    assert b.f1 == pytest.approx(2 / (1 / b.precision + 1))


# -- pruned


@pytest.mark.parametrize("mask", ["unigram", "mean", 5])
def test_pruned_to_what_matters(features, mask):
    found = explain.pruned(features[BIGRAM], mask=mask)
    assert found.text == "ab" and (found.value, found.original, found.whole) == (0.5, 0.5, False)
    assert min(found.importance) > (0.4 if mask == "unigram" else 0.9)  # one draw in eight is the token itself
    alone = explain.pruned(features[TOKEN], mask=mask)
    assert alone.text == "c" and len(alone.importance) == 1
    example = features[EITHER].top(20)[-1]
    assert explain.pruned(features[EITHER], example).text == "".join(
        example.tokens[example.peak - 1 : example.peak + 1]
    )


def test_when_nothing_shorter_will_do_all_is_kept(features):
    latent = features[BIGRAM]
    example = latent.top(1)[0]._replace(value=5.0)  # it never was that strong
    found = explain.pruned(latent, example)
    lead = features.corpus.lead
    assert found.whole and found.ids == tuple(features.corpus.tokens[example.window, lead : example.pos + 1].tolist())
    assert found.value == 0.5


# -- n2g


@pytest.mark.parametrize("augment", ["model", "embedding", None])
def test_a_planted_bigram_is_a_trie_of_two_nodes(features, augment):
    graph = explain.n2g(features[BIGRAM], augment=augment)
    assert len(graph) == 2 and graph.words() == ["ab"]
    assert graph.train.f1 == graph.test.f1 == 1 and graph.test.on > 10
    tokens = features.corpus.tokens.numpy()
    a, b = (planted.ids(features.model, t)[0] for t in "ab")
    expected = np.zeros(tokens.shape, bool)
    expected[:, 1:] = (tokens[:, 1:] == b) & (tokens[:, :-1] == a)
    np.testing.assert_array_equal(graph.fires(features.corpus.tokens), expected)
    assert explain.n2g(features[TOKEN], augment=augment).words() == ["c"]


def test_substitutes_widen_a_trie(features):
    """One example shows one of the two contexts; the model's own expectations show the other."""
    narrow = explain.n2g(features[EITHER], 1, augment=None)
    wide = explain.n2g(features[EITHER], 1, augment="model")
    assert len(narrow) == 2 and {*wide.words()} == {"af", "ef"} and len(wide) == 3
    assert narrow.test.precision == 1 and narrow.test.recall < 1 and wide.test.f1 == wide.train.f1 == 1


def test_a_wildcard_is_any_one_token(features):
    from saekit.explain.n2g import ANY, Graph, _trie

    graph = Graph(_trie({(7, ANY, 5), (7, 8), (7, 8, 9)}), {5: "x", 7: "y", 8: "z"})
    assert graph.paths == [(7, ANY, 5), (7, 8)] and len(graph) == 4 and graph.words() == ["x…y", "zy"]
    tokens = np.array([[5, 1, 7, 5, 7, 8, 7, 7], [7, 5, 7, 7, 8, 8, 7, 0]])
    expected = np.zeros(tokens.shape, bool)
    for w, row in enumerate(tokens.tolist()):
        for p in range(len(row)):
            expected[w, p] = row[p] == 7 and ((p > 1 and row[p - 2] == 5) or (p > 0 and row[p - 1] == 8))
    np.testing.assert_array_equal(graph.fires(tokens), expected)
    assert expected.sum() == 4


# -- rules

CODE = '''def area_{0}(width, height):
    """Return a number, for {0}."""
    return width * height  # in metres, {0}

class Box{0}:
    sides = [1, 2, {1}]
    def grow(self, by={1}):
        """Grow; return it. It is {0}."""
        self.sides = [by * side for side in self.sides]
        return "text {0}" + str(self.sides)
'''


@pytest.fixture(scope="module")
def labelled(tiny_models):
    texts = [CODE.format("xyzvw"[i % 5] * (1 + i // 5), i) for i in range(20)]
    return sk.load_corpus(tiny_models["gpt2"], texts, labels=[python_spans(text) for text in texts])


def indexed(model, corpus, columns):
    """An index of latents that are on where they are said to be."""
    coder = sk.SparseCoder(32, len(columns), sk.ReLU()).eval().requires_grad_(False)
    coder.site = planted.SITE
    dense = torch.from_numpy(np.stack([c[corpus.mask] for c in columns], -1).astype(np.float32))
    tally = Tally(corpus, len(columns), 8, 10**6, seed=0)
    tally.add(0, corpus, Codes.from_dense(dense), torch.zeros(len(dense), 3))
    return sk.Features(model, coder, corpus, Index.of(tally))


def is_token(corpus, model, text):
    return corpus.tokens.numpy() == model.tokenizer(text, add_special_tokens=False)["input_ids"][0]


def shifted(flags):
    return np.pad(flags, ((0, 0), (1, 0)))[:, :-1]


@pytest.fixture(scope="module")
def rules_of(tiny_models, labelled):
    model, has = tiny_models["gpt2"], labelled.labels
    e, r = (is_token(labelled, model, t) for t in "er")
    doc = has["docstring"] & labelled.mask
    columns = [doc & ~e, doc & ~shifted(doc), (has["string"] | has["comment"]) & labelled.mask]
    columns += [e & shifted(r) & labelled.mask, doc & e, np.zeros_like(doc), has["def name"] & ~e & ~r & labelled.mask]
    noise = np.random.default_rng(0).random(doc.shape) < 0.1
    columns += [(doc ^ noise) & labelled.mask, noise & labelled.mask]
    return indexed(model, labelled, columns)


SAID = {
    0: {"inside a docstring", "the token is not 'e'"},
    3: {"the token is 'e'", "the token before is 'r'"},
    4: {"inside a docstring", "the token is 'e'"},
}


@pytest.mark.parametrize("latent", [0, 1, 2, 3, 4, 6])
def test_planted_rules_are_found_exactly(rules_of, labelled, latent):
    rule = explain.rules(rules_of[latent])
    assert rule.train.f1 == rule.test.f1 == 1 and rule.test.on > 5
    truth = np.zeros(labelled.mask.size, bool)
    tokens, _ = rules_of.index.sample.firings(latent)
    truth[rules_of.index.sample.place[tokens]] = True
    scored = labelled.scored
    np.testing.assert_array_equal(rule.fires(labelled)[scored], truth.reshape(labelled.mask.shape)[scored])
    if latent in SAID:
        assert {*rule.words.split(" and ")} == SAID[latent]


def test_a_rule_is_never_worse_than_the_best_label_and_its_scores_are_scikit_learns(rules_of, labelled):
    table = explain.rules(rules_of)
    assert 5 not in table.index and {7, 8} <= {*table.index}
    assert (table.f1 >= table.label_f1).all() and (table.terms <= 4).all()
    places = rules_of.index.sample.place
    for latent in (7, 8):
        rule = explain.rules(rules_of[latent])
        assert isinstance(rule, Rule) and table.words[latent] == rule.words
        truth = np.zeros(len(places), bool)
        truth[rules_of.index.sample.firings(latent)[0]] = True
        said = rule.fires(labelled).reshape(-1)[places]
        test = rules_of.test_windows[places // labelled.tokens.shape[1]]
        for half, agreement in ((~test, rule.train), (test, rule.test)):
            half = half & rules_of.scored
            assert agreement.f1 == pytest.approx(f1_score(truth[half], said[half]))
            assert agreement.precision == pytest.approx(precision_score(truth[half], said[half]))
            assert agreement.recall == pytest.approx(recall_score(truth[half], said[half]))
            best = max(
                f1_score(truth[half], flags.reshape(-1)[places][half])
                for name, flags in labelled.labels.items()
                if name != "mixed"
            )
            assert agreement is rule.test or table.label_f1[latent] == pytest.approx(best)
    assert table.label[7] == "docstring" and table.f1[8] > table.test_f1[8]  # noise: what was found does not hold


def test_one_term_is_one_term_and_labels_can_be_chosen(rules_of):
    assert explain.rules(rules_of[0], terms=1).words == "inside a docstring"
    rule = explain.rules(rules_of[2], labels=["string", "comment"])
    assert {*rule.words.split(" or ")} == {"inside a string", "inside a comment"}


def test_rules_take_well_under_a_second(rules_of):
    import time

    explain.rules(rules_of[7])
    start = time.process_time()
    explain.rules(rules_of[7])
    assert time.process_time() - start < 1


def test_words_and_truth_of_expressions(labelled):
    places = np.flatnonzero(labelled.mask.reshape(-1))
    flat = {name: flags.reshape(-1)[places] for name, flags in labelled.labels.items()}
    ids = labelled.tokens.numpy().reshape(-1)
    before = np.where(labelled.mask.reshape(-1)[places - 1], ids[places - 1], -1)
    doc, one = Has("docstring"), OneOf((int(ids[places[3]]), int(ids[places[5]])), ("x", "y"), 1)
    rule = Either(Both(doc, Not(one)), Begins("comment"))
    assert rule.words() == (
        "(inside a docstring and the token before is none of 'x', 'y') or the first token inside a comment"
    )
    begins = flat["comment"] & ~(labelled.labels["comment"] & labelled.mask).reshape(-1)[places - 1]
    expected = flat["docstring"] & ~np.isin(before, one.ids) | begins
    np.testing.assert_array_equal(rule.holds(labelled, places), expected)
    assert Both(rule, Has("odd", 1)).words().endswith(") and the token before is labelled 'odd'")
    assert Not(OneOf((1,), ("a",))).words() == "the token is not 'a'"


@pytest.mark.parametrize("sign", [1, -1])
def test_the_best_set_is_the_best_of_all(sign):
    rng = np.random.default_rng(0)
    for _ in range(20):
        said = rng.integers(2, 30, 7)
        hits = rng.integers(2, 30, 7).clip(max=said) if sign == 1 else rng.integers(0, 30, 7).clip(max=said - 2)
        hits0, said0, on = (hits.sum() + 5, said.sum() + 10, hits.sum() + 40) if sign < 0 else (3, 9, hits.sum() + 20)

        def f1(chosen, hits=hits, said=said, hits0=hits0, said0=said0, on=on):
            return 2 * (hits0 + sign * hits[chosen].sum()) / (said0 + sign * said[chosen].sum() + on)

        every = [np.flatnonzero([i >> j & 1 for j in range(7)]) for i in range(128)]
        found = best_set(sign * hits, sign * said, int(hits0), int(said0), int(on))
        assert f1(found) == pytest.approx(max(map(f1, every)))


# -- refusals


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda f: explain.max_act(f[DEAD]), "latent 2 is dead"),
        (lambda f: explain.quantiles(f[DEAD]), "latent 2 is dead"),
        (lambda f: explain.tokens(f[DEAD]), "latent 2 is dead"),
        (lambda f: explain.pruned(f[DEAD]), "latent 2 is dead"),
        (lambda f: explain.n2g(f[DEAD]), "latent 2 is dead"),
        (lambda f: explain.rules(f[DEAD]), "latent 2 is dead"),
        (lambda f: explain.quantiles(f[BIGRAM], by="size"), "by='size'"),
        (lambda f: explain.pruned(f[BIGRAM], keep=0), "keep=0"),
        (lambda f: explain.pruned(f[BIGRAM], mask="none"), "mask='none'"),
        (lambda f: explain.pruned(f[BIGRAM], mask=10**6), "mask=1000000"),
        (lambda f: explain.pruned(f[TOKEN], f[BIGRAM].top(1)[0]), "latent 1 is off at this example"),
        (lambda f: explain.n2g(f[BIGRAM], augment="bert"), "augment='bert'"),
        (lambda f: explain.rules(f[BIGRAM], labels=["docstring"]), "no label 'docstring'"),
        (lambda f: explain.rules(f[BIGRAM], terms=0), "terms=0"),
        (lambda f: explain.rules(f[BIGRAM], least=10**6), "a rule needs 1000000"),
    ],
)
def test_bad_questions_are_answered_with_what_is_wrong(features, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(features)


def test_without_labels_rules_are_made_of_tokens(features):
    rule = explain.rules(features[BIGRAM])
    assert rule.label is None and rule.test.f1 == 1
    assert {*rule.words.split(" and ")} == {"the token is 'b'", "the token before is 'a'"}
