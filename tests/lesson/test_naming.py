"""The naming game, and what notebook 05 measures, against planted latents and independent counts."""

import inspect
import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score

import saekit as sk
from saekit import explain
from saekit.features import Example
from saekit.lesson import naming, nb05, reading
from saekit.lesson.exercise import Setting, judge
from saekit.viz.naming import naming as drawn
from tests.test_explain_inputs import indexed, is_token, labelled  # noqa: F401
from tests.test_features import collect, made, small_steps  # noqa: F401

EXERCISE = nb05.CHAPTER.exercises[-1]
NOWHERE = Setting(None, None)
DOC, TEXT, DEFINED, MIXED, STORY, NOISE = range(6)


@pytest.fixture(scope="module")
def features(tiny_models, labelled):  # noqa: F811
    has, mask = labelled.labels, labelled.mask
    rng = np.random.default_rng(0)
    noise, strength = rng.random(mask.shape) < 0.2, 1 + rng.random(mask.shape)
    columns = [has["docstring"], has["string"] | has["comment"], has["def name"], has["docstring"] ^ noise]
    columns = [(column & mask).astype(float) for column in columns]
    columns += [
        (noise * (strength + 8 * has["docstring"])) * mask,
        noise * mask,
    ]  # strongest in docstrings, on everywhere
    return indexed(tiny_models["gpt2"], labelled, columns)


@pytest.fixture(scope="module")
def game(features):
    return naming.Game(features, n=3)


# -- names


def test_names_are_predicates(features, labelled, tiny_models):  # noqa: F811
    has, places = labelled.labels, np.arange(labelled.mask.size)
    e = is_token(labelled, tiny_models["gpt2"], "e")
    doc, comment, string = (has[name] for name in ("docstring", "comment", "string"))
    wanted = {
        "docstring": doc,
        'docstring and not "e"': doc & ~e,
        "string or comment and 'e'": string | (comment & e),
        "(string or comment) and not (docstring or 'e')": (string | comment) & ~(doc | e),
        "not not docstring": doc,
        "not (docstring and not comment)": ~(doc & ~comment),
        "  def   name ": has["def name"],
    }
    for name, truth in wanted.items():
        np.testing.assert_array_equal(naming.parsed(name, features).holds(labelled, places), truth.reshape(-1), name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("docstrin", "no label 'docstrin'; there are docstring"),
        ("docstring and", "breaks off"),
        ("", "breaks off"),
        ("or comment", "breaks off"),
        ("(docstring", "not closed"),
        ("docstring)", r"'\)' is not expected"),
        ("docstring 'e'", "\"'e'\" is not expected"),
        ("'no such token'", "no token 'no such token'"),
        ("''", "no token ''"),
    ],
)
def test_names_that_say_nothing_are_refused(features, name, message):
    with pytest.raises(ValueError, match=message):
        naming.parsed(name, features)


# -- the game


def test_the_game_takes_latents_that_can_be_described(game, features):
    assert [*game.rules] == ["A", "B", "C"] and game.needed == 2
    chosen = [rule.latent for rule in game.rules.values()]
    assert len({*chosen}) == 3 and NOISE not in chosen
    for rule in game.rules.values():
        assert rule.test.f1 >= naming.WEAKEST and min(rule.train.on, rule.test.on) >= naming.FEWEST
    assert [rule.latent for rule in naming.Game(features, n=3).rules.values()] == chosen
    with pytest.raises(ValueError, match="no latent of"):
        naming.Game(features, n=0)


def test_a_guess_is_scored_on_test_documents(game, features, labelled):  # noqa: F811
    test = np.repeat(features.test_windows, labelled.mask.sum(1))
    usable = test & labelled.scored[labelled.mask]
    said = labelled.labels["docstring"][labelled.mask][usable]
    for letter, latent in game.latents.items():
        on = np.zeros(len(test), bool)
        on[features.index.sample.firings(latent.index)[0]] = True
        guess = game.guess(letter, "docstring")
        assert guess.test.f1 == pytest.approx(f1_score(on[usable], said))
        assert guess.share == pytest.approx(guess.test.f1 / game.rules[letter].test.f1)


def letter_of(game, latent):
    return next(letter for letter, rule in game.rules.items() if rule.latent == latent)


def test_what_is_wrong_with_a_name_is_said(features, labelled):  # noqa: F811
    game = naming.Game(features, n=9)
    letter, tokens = letter_of(game, TEXT), features.excerpts.tokens(np.arange(labelled.mask.size))
    narrow, broad = game.guess(letter, "comment"), game.guess(letter, "string or comment or docstring")
    assert not narrow.broad and "too narrow" in narrow.fault and broad.broad and "too broad" in broad.fault
    places = np.arange(labelled.mask.size).reshape(labelled.mask.shape)
    outside = labelled.labels["docstring"] & labelled.scored & features.test_windows[:, None]
    counts = {token: [tokens[p] for p in places[outside]].count(token) for token in {*tokens}}
    assert counts[broad.token] == max(counts.values())
    assert repr(broad.token) in broad.fault


def verdict(game, names):
    return judge(EXERCISE, (game, names), NOWHERE)


def test_right_names_pass_and_the_printed_reference_too(game):
    names = naming.names_by_code(game)
    assert verdict(game, names).passed and "3 of 3" in verdict(game, names).message
    pasted = {}
    exec(inspect.getsource(EXERCISE.reference), pasted)
    assert pasted["names_by_code"](game) == names
    two = dict.fromkeys(names, ...) | dict([*names.items()][:2])
    assert verdict(game, two).passed
    table = game.table(two)
    assert table["F1 of your name"].isna().tolist() == [False, False, True]
    assert [*table["best rule found"]] == [rule.words for rule in game.rules.values()]


def test_nothing_named_is_not_yet(game):
    for names in ({}, dict.fromkeys("ABC", ...), {"A": None}):
        assert verdict(game, names).passed is None


def test_wrong_names_get_messages_of_their_own(game):
    right = naming.names_by_code(game)
    a, b, c = right
    wrong = {
        "one of three": {a: right[a], b: ..., c: ...},
        "too broad": dict.fromkeys(right, f"{right[a]} or not {right[a]}"),
        "too narrow": dict.fromkeys(right, "number and docstring"),
        "no label": {a: "docstrings", b: ...},
        "breaks off": {a: "docstring and"},
        "no token": {a: "'zzz'"},
        "no letter": {"Z": "docstring"},
        "no tuple": None,
    }
    messages = {name: verdict(game, names) for name, names in wrong.items() if names is not None}
    messages |= {"no tuple": judge(EXERCISE, right, NOWHERE), "a list": judge(EXERCISE, (game, [*right]), NOWHERE)}
    assert all(found.passed is False for found in messages.values()), messages
    assert len({found.message for name, found in messages.items() if name != "a list"}) == len(wrong)
    assert "too broad" in messages["too broad"].message and "too narrow" in messages["too narrow"].message
    assert "2 are needed" in messages["one of three"].message
    for found in messages.values():
        assert "!" not in found.message and not any(rule.words in found.message for rule in game.rules.values())


def test_the_game_is_blind_and_escapes_what_it_shows(game):
    html = game._repr_html_()
    assert html.count("Latent ") == 3 and not any(f">{rule.words}<" in html for rule in game.rules.values())
    example = Example(0, 1, 2.0, ("<script>", "<img onerror=x>"), (0.0, 2.0), 1, "<b>", 1)
    shown = drawn({"A": [("strongest", [example]), ("at random", [])]}, {"A": 2.0})
    assert "<script>" not in shown and "<img" not in shown and "&lt;script&gt;" in shown and "none was kept" in shown


# -- what the notebook measures


def test_the_illusion_is_found(features, monkeypatch):
    monkeypatch.setattr(reading, "FEWEST", 100)
    found = reading.illusions(features, 5)
    assert (found.latent[0], found.label[0]) == (STORY, "docstring")
    scores = features.label_scores()
    assert {*found.latent} <= {*scores.latent} and found.precision.is_monotonic_increasing and found.context.all()
    for row in found.itertuples():
        held = features.index.top
        places = held.place[held.slice_of(row.latent)][:5]
        assert features.corpus.labels_at(places)[row.label].all()
    monkeypatch.setattr(reading, "FEWEST", 10**6)
    assert reading.illusions(features, 5).empty


def test_a_token_is_shown_in_its_text(features, labelled):  # noqa: F811
    table = explain.max_act(features[DEFINED], 3)
    shown = reading.around(features, table)
    assert [*shown] == ["value", "text"] and len(shown) == 3
    for row, text in zip(table.itertuples(), shown.text, strict=True):
        inside = re.search("«(.*)»", text)[1]
        assert inside == row.token and "\n" not in text
        assert len(text) <= reading.BEFORE + reading.AFTER + len(inside) + 20
        assert features.excerpts.tokens(np.array([row.window * labelled.tokens.shape[1] + row.pos])) == [row.token]
    assert [*reading.around(features, explain.quantiles(features[DEFINED], 2, 1))] == ["quantile", "value", "text"]


def test_a_table_is_escaped_and_says_nothing_for_nan():
    table = pd.DataFrame({"n": [1, 2], "f": [0.123, np.nan], "words": ["<b>", "x"]}, ["A", "B"])
    shown = reading.listed(table)
    assert shown.text == "A  1  0.12  <b>\nB  2    x"
    assert "<b>" not in shown.html and "&lt;b&gt;" in shown.html and "text-align: left" in shown.html


def test_labels_by_decile(features):
    shares = reading.label_by_decile(features[STORY], "docstring", nb05.decile_edges)
    tokens, values = features.index.sample.firings(STORY)
    has = features.truth[tokens, features.meetings.labels.index("docstring")]
    assert shares[10] == has[values > np.quantile(values, 0.9)].mean() == 1.0
    assert shares.index.name == "decile" and shares.min() < 0.5


def test_the_best_of_some_latents(features):
    every = reading.best_f1(features, len(features))
    assert every["docstring"] == 1.0 and every["def name"] == 1.0
    assert (reading.best_f1(features, 2).reindex(every.index).fillna(0) <= every).all()
    assert reading.best_f1(features, 2, seed=1).equals(reading.best_f1(features, 2, seed=1))


@pytest.fixture(scope="module")
def real(tiny_models, labelled, tmp_path_factory):  # noqa: F811
    """Of a coder that reads the model."""
    coder = made(sk.ReLU(), d_sae=16)
    x = sk.capture(tiny_models["gpt2"], labelled.tokens, coder.site)[coder.site.read][torch.from_numpy(labelled.mask)]
    coder.b_pre.copy_(x.mean(0))
    return collect(tiny_models["gpt2"], labelled, coder, path=tmp_path_factory.mktemp("index"))


def test_the_context_of_an_example(real):
    latent = real[int(real.table.density.idxmax())]
    example = latent.top(1)[0]
    ids, activation = reading.context_of(latent, example)
    assert len(ids) == example.pos + 1 - real.corpus.lead
    assert activation(ids) == pytest.approx(example.value, rel=1e-4)
    assert activation(ids[-2:].tolist()) == activation(torch.tensor(ids[-2:]))


def test_rivals_are_chosen_on_train_documents(real, labelled):  # noqa: F811
    latent = int(real.table.density.idxmax())
    found = reading.rivals(real, latent, "docstring", windows=len(labelled))
    usable = labelled.scored[labelled.mask]
    np.testing.assert_array_equal(found.truth, labelled.labels["docstring"][labelled.mask][usable])
    np.testing.assert_array_equal(found.test, np.repeat(real.test_windows, labelled.mask.sum(1))[usable])
    own = np.zeros(len(usable))
    tokens, values = real.index.sample.firings(latent)
    own[tokens] = values
    value, threshold = found.found[f"latent {latent}"]
    assert threshold == 0 and np.allclose(value, own[usable], atol=1e-5)
    assert [*found.found][2:] == ["best of 32 neurons", "best of 32 random directions", "always on"]
    train = ~found.test
    for name, (value, threshold) in found.found.items():
        f1 = f1_score(found.truth[train], value[train] > threshold)
        if name != f"latent {latent}":
            assert f1 >= f1_score(found.truth[train], np.ones(train.sum(), bool)) - 1e-9, name
    again = reading.rivals(real, latent, "docstring", windows=len(labelled))
    assert all(np.array_equal(again.found[name][0], value) for name, (value, _) in found.found.items())
