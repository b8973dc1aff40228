"""The widgets without a browser: state, data, errors, exported pages. Clicks and keys go through `act`."""

import re

import numpy as np
import pytest
import torch
import traitlets

import saekit as sk
from saekit import presets, toy, widgets
from saekit.explain import rules, token_change, vocab_proj
from saekit.explain.output import mean_log_probs, prompts, random_direction
from saekit.viz.geometry import form
from saekit.viz.html import fixed, percent
from saekit.widgets.reading import below_threshold, end_of, read
from tests.test_viz import HOSTILE, is_harmless

SITE = sk.Site("blocks.1.hook_resid_post")
TEXT = 'def f(x):\n    """Say it."""\n    return (x)\n'


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models["gpt2"]


@pytest.fixture(scope="module")
def corpus(model):
    from saekit.corpus import python_spans

    sources = [f'def f{i}(a):\n    """Doc {i}."""\n    # note {i}\n    return ["s", a, {i}]\n' * 3 for i in range(12)]
    return sk.load_corpus(model, sources, labels=[python_spans(s) for s in sources])


@pytest.fixture(scope="module")
def acts(model, corpus):
    return sk.Activations(model, SITE, corpus)


@pytest.fixture(scope="module")
def coder(acts):
    torch.manual_seed(0)
    coder, objective = presets.batch_topk(acts.d_in, 64, k=6)
    return sk.train(coder, acts, objective, steps=30, batch_size=128, progress=False).coder


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("index") / "i"


@pytest.fixture(scope="module")
def features(model, coder, corpus, path):
    return sk.Features.collect(model, coder, corpus, path=path, progress=False)


@pytest.fixture
def strip(model, coder):
    return widgets.TokenStrip(model, coder, TEXT)


@pytest.fixture
def card(features):
    return widgets.FeatureCard(features, int(features.table.density.idxmax()), text=TEXT)


@pytest.fixture
def browser(features):
    return widgets.FeatureBrowser(features)


@pytest.fixture
def slider(model, coder):
    return widgets.SteerSlider(model, coder, 3, "def f(", maximum=2.0)


@pytest.fixture(scope="module")
def geometry():
    return widgets.ToyGeometry(5, 0.05)


@pytest.fixture
def every(strip, card, browser, slider, acts, geometry):
    others = [widgets.Quiz("q?", ["a", "b"], 0, "why"), widgets.StatusBar({"model": "m"}), widgets.TrainMonitor(acts)]
    others.append(geometry)
    return [strip, card, browser, slider, *others]


# -- all of them


def test_state_is_plain_data_and_sets_itself(every):
    for widget in every:
        before, html = widget.state, widget.html
        widget.set_state(**before)
        assert widget.state == before
        assert re.sub(r"[\d.]+ ms", "", widget.html) == re.sub(r"[\d.]+ ms", "", html)


def test_unknown_settings_are_refused_and_change_nothing(every):
    for widget in every:
        before = widget.state
        with pytest.raises(ValueError, match="no setting 'colour'"):
            widget.set_state(colour="red")
        assert widget.state == before


def test_what_is_chosen_in_one_widget_is_shown_in_those_linked_to_it(browser, card, strip, model, coder):
    microscope = widgets.PromptMicroscope(model, coder, strip.state["text"])
    for other in (card, strip, microscope):
        traitlets.link((browser, "latent"), (other, "latent"))
    rows = [row["latent"] for row in microscope.compute()["rows"]]
    browser.act("latent", str(rows[-1]))
    assert card.state["latent"] == strip.state["latent"] == rows[-1] == browser.state["latent"]
    assert microscope.compute()["cell"][0] == len(rows) - 1
    microscope.pick_cell(0, 0)
    assert card.state["latent"] == strip.state["latent"] == browser.state["latent"] == rows[0]
    off = next(i for i in range(coder.d_sae) if i not in rows)
    card.act("latent", str(off))  # the microscope has no row of it, and stays
    assert browser.state["latent"] == off and microscope.compute()["cell"] == (0, 0)


def test_an_exported_page_is_one_offline_document(every, tmp_path):
    for widget in every:
        page = widget.to_html()
        assert page.startswith("<!doctype html>")
        assert is_harmless(page)
        assert "http" not in page.replace("http-equiv", "")
        assert len(page) < 300_000


def test_an_error_in_a_callback_is_shown_and_the_picture_stays(strip):
    before = strip.html
    strip._hear(strip, {"act": "latent", "arg": 64}, [])
    assert "latent 64 is not in [0, 64)" in strip.html
    assert 'role="alert"' in strip.html
    assert before.removeprefix("<div>")[:200] in strip.html
    assert strip.served == 1
    strip._hear(strip, {"act": "latent", "arg": 5}, [])
    assert 'role="alert"' not in strip.html


def test_a_fault_of_ours_is_shown_with_its_traceback(strip, monkeypatch):
    monkeypatch.setattr(strip, "compute", lambda: 1 / 0)
    strip._hear(strip, {"act": "cursor", "arg": 1}, [])
    assert "ZeroDivisionError" in strip.html
    assert "Traceback" in strip.html


# -- reading a text


def test_a_reading_is_what_the_coder_says(model, coder):
    reading = read(model, coder, TEXT)
    assert "".join(reading.tokens) == TEXT
    ids = model.to_tokens(TEXT, prepend_bos=True)
    with torch.no_grad():
        x = sk.capture(model, ids, SITE)[SITE.name][0, 1:]
        dense = coder.encode(x).dense().numpy()
    for latent in range(64):
        np.testing.assert_allclose(reading.values(latent), dense[:, latent], atol=1e-5)
    latents, values = zip(*reading.strongest(4, 3), strict=True)
    np.testing.assert_allclose(values, np.sort(dense[4])[::-1][: len(values)], atol=1e-5)
    assert [dense[4, i] for i in latents] == pytest.approx(list(values))
    assert reading.labels["docstring"].sum() == len('"""Say it."""')
    top = model(ids)[0, 1:].softmax(-1).max(-1).values
    assert [expects[0][1] for expects in reading.expects] == pytest.approx(top.tolist(), abs=1e-6)


def test_texts_that_cannot_be_read(model, coder):
    with pytest.raises(ValueError, match="empty"):
        read(model, coder, "")
    long = "x" * 100
    with pytest.raises(ValueError, match="100 tokens long; the model reads 63") as problem:
        read(model, coder, long)
    assert "Use the last 63" in problem.value.actions
    assert len(read(model, coder, end_of(model, long)).tokens) == 63
    assert read(model, coder, "not ( python").labels.keys() <= read(model, coder, TEXT).labels.keys()


def test_the_distance_of_a_silent_latent_to_its_threshold(model, coder):
    reading = read(model, coder, TEXT)
    silent = next(i for i in range(64) if not reading.values(i).any())
    at, distance = below_threshold(coder, reading, silent)
    assert distance == pytest.approx(float(coder.nonlinearity.threshold - reading.pre[:, silent].max()))
    assert distance >= 0
    assert reading.pre[at, silent] == reading.pre[:, silent].max()


# -- one by one


def test_the_strip_moves(strip):
    strip.set_state(cursor=0)
    for key, place in (("ArrowRight", 1), ("End", len(TEXT) - 1), ("ArrowLeft", len(TEXT) - 2), ("Home", 0)):
        strip.act("move", key)
        assert strip.state["cursor"] == place
    strip.act("move", "ArrowDown")
    second = TEXT.index("\n") + 1
    assert strip.state["cursor"] == second
    strip.act("move", "ArrowUp")
    assert strip.state["cursor"] == 0
    strip.act("move", "ArrowUp")
    assert strip.state["cursor"] == 0
    strip.act("place", [7.4, 0.5])
    assert strip.state["cursor"] == 7
    strip.act("lane", ["docstring", False])
    assert "docstring" not in strip.state["lanes"]
    strip.act("text", "x = 1\n")
    assert "".join(strip.compute()["tokens"]) == "x = 1\n"


def test_the_strip_says_why_a_latent_is_silent(model, coder):
    reading = read(model, coder, TEXT)
    silent = next(i for i in range(64) if not reading.values(i).any())
    strip = widgets.TokenStrip(model, coder, TEXT, silent)
    assert f"Latent {silent} does not fire on this text" in strip.html
    assert "below its threshold" in strip.html
    act = re.search(r'data-act="latent" data-arg="(\d+)"', strip.html)
    strip.act("latent", act[1])
    assert "does not fire" not in strip.html


def test_a_guess_is_scored_by_overlap(model, coder):
    strip = widgets.TokenStrip(model, coder, TEXT, guess=True)
    with pytest.raises(ValueError, match="nothing is revealed"):
        _ = strip.overlap
    truth = {i for i, v in enumerate(read(model, coder, TEXT).values(strip.state["latent"])) if v > 0}
    assert not re.search(r"sk-tok a\d", strip.html)
    wrong = next(i for i in range(len(TEXT)) if i not in truth)
    right = next(iter(truth))
    for i in (wrong, right, wrong, wrong):
        strip.act("cursor", i)
    assert set(strip.state["marked"]) == {wrong, right}
    strip.act("reveal", "")
    assert strip.overlap == pytest.approx(1 / (len(truth) + 1))
    strip.act("cursor", next(iter(truth - {right}), right))
    assert set(strip.state["marked"]) == {wrong, right}


@pytest.mark.parametrize("latent", [-1, 64, 10**6])
def test_latents_out_of_range_are_refused(model, coder, features, latent):
    for make in (
        lambda: widgets.TokenStrip(model, coder, TEXT, latent),
        lambda: widgets.SteerSlider(model, coder, latent, "x", maximum=1.0),
        lambda: vocab_proj(model, coder, latent),
        lambda: widgets.FeatureCard(features, 0).set_state(latent=latent),
    ):
        with pytest.raises(ValueError, match=r"64|range"):
            make()


def test_a_card_shows_the_index(card, features):
    data = card.compute()
    latent = features[data["latent"]]
    assert sum(data["histogram"]) == latent.count
    for group, (low, high) in zip(data["groups"], [(9, 10), (5, 9), (2, 5), (0, 2)], strict=False):
        for example in group["examples"]:
            assert latent.max * low / 10 - 1e-5 < example.value <= latent.max * high / 10 + 1e-5
    for tab in ("examples", "output", "labels", "neighbours", "tokens", "try"):
        card.act("tab", tab)
        assert card.state["tab"] == tab
    assert card.compute()["tried"]["tokens"]
    card.act("tabkey", "ArrowRight")
    assert card.state["tab"] == "examples"
    card.act("slice", "2")
    for group in card.compute()["groups"]:
        assert all(latent.max * 0.2 < e.value <= latent.max * 0.3 + 1e-5 for e in group["examples"])
    card.act("slice", "2")
    assert card.state["slice"] is None
    card.act("step", "-1")
    card.act("key", "]")
    assert card.state["latent"] == data["latent"]


def test_a_dead_latent_gets_advice(model, coder, corpus, tmp_path):
    import copy

    dead = copy.deepcopy(coder)
    with torch.no_grad():
        dead.b_enc[0] = -1e6
    index = sk.Features.collect(model, dead, corpus, path=tmp_path / "i", progress=False)
    card = widgets.FeatureCard(index, 0, text=TEXT)
    assert "Latent 0 was never on" in card.html
    card.act("alive", "")
    assert not index[card.state["latent"]].dead
    card.act("latent", 0)
    card.act("tab", "try")
    assert "silent" in card.html
    assert is_harmless(card.to_html())


def test_an_unreadable_text_is_answered_in_the_card(card):
    card.act("tab", "try")
    card.act("text", "")
    assert "The text is empty" in card.html
    card.act("text", "x" * 80)
    assert "80 tokens long" in card.html
    card.act("last", "")
    assert card.compute()["tried"]["n"] == 63
    card.act("text", "x = 1")
    card.act("wrap", "comment")
    assert card.state["text"] == "# x = 1"


def test_the_browser_filters_sorts_and_selects(browser, features):
    table = features.table
    alive = table[table.density > 0]
    assert browser.compute()["found"] == len(alive)
    label = alive.label.mode()[0]
    browser.act("label", label)
    assert set(browser.matching().label) == {label}
    browser.act("sort", "density")
    shown = [row["density"] for row in browser.compute()["rows"]]
    assert shown == sorted(shown, reverse=True)
    browser.act("sort", "density")
    assert [row["density"] for row in browser.compute()["rows"]] == sorted(browser.matching().density)[:14]
    browser.act("clear", "")
    browser.act("low", -1.0)
    assert (browser.matching().density >= 0.1 - 1e-6).all()
    browser.act("clear", "")
    chosen = int(alive.index[5])
    browser.act("point", [float(np.log10(alive.density.iloc[5])), float(alive.f1.iloc[5])])
    assert (
        alive.loc[browser.state["latent"], ["density", "f1"]].tolist() == alive.loc[chosen, ["density", "f1"]].tolist()
    )
    browser.act("query", "no such thing")
    assert "No latent matches these filters" in browser.html
    assert "the search for" in browser.html


@pytest.mark.parametrize("mode", ["top", "value", "rank", "random", "weighted"])
def test_every_way_to_choose_examples(card, features, mode):
    card.act("mode", mode)
    latent, groups = features[card.state["latent"]], card.compute()["groups"]
    for group in groups:
        assert group["examples"]
        assert all(group["low"] - 1e-5 <= e.value <= group["high"] + 1e-5 for e in group["examples"])
        assert f"{percent(group['share'])} of firings" in card.html
    if mode in ("value", "rank"):
        assert sum(group["share"] for group in groups) == pytest.approx(1)
    if mode == "rank":
        assert [group["title"] for group in groups] == [f"Part {n} of 5" for n in (5, 4, 3, 2, 1)]
        assert all(group["share"] == pytest.approx(0.2, abs=0.1) for group in groups)
    if mode == "top":
        assert [e.value for e in groups[0]["examples"]] == [e.value for e in latent.top(10)]


def test_labels_stand_beside_both_controls(card, features):
    card.act("tab", "labels")
    latent = features[card.state["latent"]]
    rows = card.compute()["labels"]
    for row, truth in zip(rows, latent.labels().to_dict("records"), strict=True):
        assert row == pytest.approx(truth, nan_ok=True)
        neuron = row["neuron_f1"]
        controls = fixed(row["always_fire"]), "not known" if np.isnan(neuron) else fixed(neuron)
        assert f"always-fire {controls[0]}; best neuron {controls[1]}" in card.html or row not in rows[:12]
    above = sum(r["context"] and r["f1"] > max(r["always_fire"], r["neuron_f1"]) for r in rows[:12])
    assert card.html.count("above both</span>") == above


def test_neighbours_lead_on(card, features):
    card.act("tab", "neighbours")
    latent = features[card.state["latent"]]
    for table in (latent.similar(8), latent.neighbours(8)):
        for other in table.index:
            assert f'data-act="latent" data-arg="{other}"' in card.html
    other = int(latent.neighbours(1).index[0])
    card.act("latent", str(other))
    assert card.state["latent"] == other and card.state["tab"] == "neighbours"


def test_tokens_of_a_latent(card, features):
    card.act("tab", "tokens")
    table = features[card.state["latent"]].tokens(12)
    assert f"{percent(table.recall.sum())} of the firings are at these {len(table)} tokens" in card.html
    for row in table.itertuples():
        assert f"{fixed(row.precision)} of its occurrences, {fixed(row.recall)} of the firings" in card.html


def test_a_rule_is_said_when_asked_for(card, features):
    card.act("tab", "labels")
    assert card.compute()["rule"] is None and "Say it as a rule" in card.html
    card.act("rule", "")
    rule = rules(features[card.state["latent"]])
    assert card.compute()["rule"] == {"words": rule.words, "train": rule.train.f1, "test": rule.test.f1, "problem": ""}
    assert f"F1 {fixed(rule.test.f1)} on documents held back" in card.html
    rare = int(features.table.density[features.table.density > 0].idxmin())
    card.act("latent", rare)
    assert not card.state["rule"]
    card.act("rule", "")
    assert "On at:" in card.html or "No rule was found" in card.html


def test_notes_and_stars_are_kept(card, browser, features, monkeypatch):
    latent = card.state["latent"]
    card.act("star", str(latent))
    card.act(f"note {latent}", '<b>mine</b> "')
    assert features[latent].star and features[latent].note == '<b>mine</b> "'
    assert 'aria-pressed="true" aria-label="Star' in card.html and is_harmless(card.to_html())
    assert "&lt;b&gt;mine" in card.to_html()
    browser.act("starred", True)
    assert list(browser.matching().index) == [latent] and "✎" in browser.html
    browser.act("clear", "")
    browser.act("query", "MINE>")
    assert "No latent matches" in browser.html
    browser.act("query", "<b>mine")
    assert list(browser.matching().index) == [latent]
    browser.act("clear", "")
    browser.act("query", str(latent))
    browser.act("key", "s")
    assert not features[latent].star and browser.state["latent"] == latent
    browser.act("clear", "")
    other = next(i for i in browser.matching().index if i != latent)
    browser.act("query", str(other))
    browser.act("key", "s")
    assert features[other].star and browser.state["latent"] == other
    browser.act("key", "s")
    browser.act("clear", "")
    browser.act("star", str(latent))
    browser.act(f"note {latent}", "")
    assert features[latent].star and features[latent].note == ""
    monkeypatch.setattr(type(features.notes), "put", lambda *a, **k: (_ for _ in ()).throw(OSError("no room")))
    card._hear(card, {"act": "star", "arg": str(latent)}, [])
    assert "no room" in card.html and 'role="alert"' in card.html
    monkeypatch.undo()
    card.act("star", str(latent))


def test_what_fires_nearly_everywhere_can_be_hidden(browser, features):
    alive = features.table[features.table.density > 0]
    browser.act("dense", True)
    assert set(browser.matching().index) == set(alive.index[alive.density <= 0.1])


def test_the_scatter_is_walked_by_keys(browser, features):
    order = list(browser.matching().sort_values("density", kind="stable").index)
    browser.act("latent", order[3])
    for key, at in (("ArrowRight", 4), ("ArrowLeft", 3), ("ArrowLeft", 2)):
        browser.act("along", key)
        assert browser.state["latent"] == order[at]
        assert browser.state["latent"] in [row["latent"] for row in browser.compute()["rows"]]
    order = list(browser.matching().sort_values("f1", kind="stable").index)
    browser.act("latent", order[-1])
    browser.act("along", "ArrowUp")
    assert browser.state["latent"] == order[-1]
    browser.act("along", "Enter")
    assert browser.state["open"]


def test_a_corpus_without_labels_is_said(model, coder, tmp_path):
    plain = sk.load_corpus(model, ["red green blue, round and square " * 4] * 3)
    index = sk.Features.collect(model, coder, plain, path=tmp_path / "i", progress=False)
    card = widgets.FeatureCard(index, int(index.table.density.idxmax()))
    card.act("tab", "labels")
    assert "This corpus has no labels" in card.html
    card.act("rule", "")
    assert "On at:" in card.html or "No rule was found" in card.html
    assert is_harmless(card.to_html()) and is_harmless(widgets.FeatureBrowser(index).to_html())


def test_an_open_card_follows_the_selection(browser, features):
    browser.act("key", "Enter")
    order = list(browser.matching().index)
    browser.act("key", "ArrowDown")
    assert browser.state["latent"] == browser.card.state["latent"] == order[1]
    browser.act("card/step", "1")
    assert browser.state["latent"] == browser.card.state["latent"]
    assert f"Latent {browser.state['latent']}" in browser.html


def test_an_index_of_another_coder_is_refused(features, path, model, corpus, coder):
    import copy

    other = copy.deepcopy(coder)
    with torch.no_grad():
        other.W_dec.mul_(2)
    with pytest.raises(ValueError, match="coder"):
        sk.Features.open(path, model, other, corpus)


def test_the_slider_steers(slider, model, coder):
    assert slider.compute()["kl"] == pytest.approx(0, abs=1e-6)
    slider.act("strength", 4.0)
    data = slider.compute()
    ids = model.to_tokens("def f(", prepend_bos=True)
    with torch.no_grad(), sk.splice(model, coder, edit=sk.add(3, 8.0)):
        truth = model(ids)[0, -1].softmax(-1)
    assert max(after for _, _, after in data["rows"]) == pytest.approx(float(truth.max()), abs=1e-6)
    assert data["kl"] > 0 < data["kl_random"]
    with pytest.raises(ValueError, match="strength=9"):
        slider.set_state(strength=9.0)
    with pytest.raises(ValueError, match="maximum"):
        widgets.SteerSlider(model, coder, 3, "x", maximum=0.0)


def test_quiz(capsys):
    quiz = widgets.Quiz("Which?", ["this", "that"], 1, "because", on_commit=lambda choice: print("chose", choice))
    assert quiz.correct is None
    with pytest.raises(ValueError, match="nothing is chosen"):
        quiz.act("commit", "")
    quiz.act("choice", "0")
    quiz.act("commit", "")
    assert quiz.correct is False
    assert "because" not in quiz.html
    quiz.act("again", "")
    quiz.act("choice", "1")
    quiz.act("commit", "")
    assert quiz.correct is True
    assert "because" in quiz.html
    assert capsys.readouterr().out == "chose 0\nchose 1\n"
    guess = widgets.Quiz("How many?", ["1", "2"])
    guess.act("choice", "0")
    guess.act("commit", "")
    assert guess.correct is None
    for options, answer in ((["one"], 0), (["a", "b"], 2)):
        with pytest.raises(ValueError, match="options"):
            widgets.Quiz("q", options, answer)


# -- hostile text


@pytest.mark.parametrize("token", [t for t in HOSTILE if t.isprintable() and len(t) < 60])
def test_hostile_text_is_text_in_every_widget(model, coder, features, token, tmp_path):
    corpus = sk.load_corpus(model, [token * 2, token])
    index = sk.Features.collect(model, coder, corpus, path=tmp_path / "i", progress=False)
    made = [
        widgets.TokenStrip(model, coder, token), widgets.FeatureBrowser(index),
        widgets.FeatureCard(index, 0, text=token),
        widgets.SteerSlider(model, coder, 1, token, maximum=1.0), widgets.Quiz(token, [token, token]),
        widgets.StatusBar({token: token}),
    ]  # fmt: skip
    made[1].act("query", token)
    made[2].act("tab", "try")
    for widget in made:
        assert is_harmless(widget.html)
        assert is_harmless(widget.to_html())


# -- training


def test_a_monitor_follows_a_run_and_stops_it(acts):
    monitor = widgets.TrainMonitor(acts, startable=False)
    coder, objective = presets.batch_topk(acts.d_in, 64, k=6)

    def stop(moment):
        if moment.step == 12:
            monitor._hear(monitor, {"act": "stop"}, [])

    run = sk.train(coder, acts, objective, steps=40, batch_size=128, on_step=stop, progress=monitor)
    assert run.stopped
    assert run.steps == 12
    assert not run.coder.training
    assert run.coder.site == SITE
    data = monitor.compute()
    assert data["state"] == "stopped"
    assert data["history"]["fvu"] == run.history.fvu.tolist()
    assert "Stopped at step 12 of 40" in monitor.html
    assert set(data["labels"]) <= set(acts.corpus.labels)


def test_a_stop_in_the_middle_of_a_harvest_is_heard(acts):
    monitor = widgets.TrainMonitor(acts, startable=False)
    coder, objective = presets.topk(acts.d_in, 64, k=6)
    passes = []
    capture = sk.activations.stream.capture

    def counted(*args, **kwargs):
        passes.append(1)
        monitor.stop()
        return capture(*args, **kwargs)

    begin = monitor.begin
    monitor.begin = lambda *a: (begin(*a), setattr(sk.activations.stream, "capture", counted))
    try:
        run = sk.train(coder, acts, objective, steps=40, batch_size=128, progress=monitor)
    finally:
        sk.activations.stream.capture = capture
    assert run.stopped
    assert run.steps == 0
    assert len(passes) == 1
    assert not run.coder.training


def test_a_run_started_by_hand_keeps_the_last_one_behind(acts):
    monitor = widgets.TrainMonitor(acts)
    monitor.set_state(d_sae=0, steps=0, batch_size=0, k=1)
    assert monitor.settings() == {"lr": 3e-3, "k": 8, "d_sae": 256, "batch_size": 512, "steps": 60}
    monitor.act("start", "")
    assert monitor.run.coder.d_sae == 256
    first = monitor.run.history.fvu.tolist()
    assert monitor.compute()["state"] == "done"
    monitor.act("start", "")
    assert monitor.compute()["ghost"]["fvu"] == first
    with pytest.raises(ValueError, match="lr=9"):
        monitor.set_state(lr=9)


def test_a_loss_that_is_not_finite_is_said(acts):
    monitor = widgets.TrainMonitor(acts, startable=False)
    coder, objective = presets.topk(acts.d_in, 64, k=6)

    def break_it(moment):
        if moment.step == 3:
            with torch.no_grad():
                moment.coder.W_dec.fill_(torch.nan)

    with pytest.warns(UserWarning, match="not finite"):
        run = sk.train(coder, acts, objective, steps=10, batch_size=128, on_step=break_it, progress=monitor)
    assert run.steps == 3
    assert monitor.compute()["state"] == "failed"
    assert "NaN after step 3" in monitor.html


def test_the_pca_of_the_monitor_is_sklearns(acts):
    from sklearn.decomposition import PCA

    probe = widgets.TrainMonitor(acts)._probe
    x = probe.rows().numpy()
    truth = 1 - PCA(6, svd_solver="full").fit(x).explained_variance_ratio_.sum()
    assert probe.pca(6) == pytest.approx(truth, rel=1e-4)


def test_a_monitor_of_a_toy_shows_its_answer_key():
    source = toy.Superposition(16, 8, frequencies=0.1, tokens=40_000)
    monitor = widgets.TrainMonitor(source, startable=False)
    torch.manual_seed(0)
    coder, objective = presets.topk(8, 24, k=2)
    run = sk.train(coder, source, objective, batch_size=400, progress=monitor)
    data = monitor.compute()
    best = (source.dictionary @ torch.nn.functional.normalize(run.coder.W_dec, dim=1).T).max(1).values
    assert data["cosines"][-1][1] == pytest.approx(best.quantile(0.5).item(), abs=1e-4)
    assert data["probe"]["found"] == (best > 0.95).sum()
    assert f"{data['probe']['found']} of 16 true features are found" in monitor.html
    assert monitor.html.count("<figure") == 6
    assert data["best"] is None and data["labels"] == {}
    assert "token" not in monitor.html and "rows/s" in monitor.html


def test_a_toy_run_is_started_by_hand_with_a_penalty():
    monitor = widgets.TrainMonitor(toy.Superposition(6, 3))
    monitor.set_state(d_sae=1, steps=0, batch_size=0, sparsity=4)
    assert monitor.settings() == {"lr": 1e-2, "sparsity": 10, "d_sae": 10, "batch_size": 256, "steps": 100}
    monitor.act("start", "")
    assert monitor.run.coder.d_sae == 10 and isinstance(monitor.run.coder.nonlinearity, sk.ReLU)
    assert monitor.compute()["state"] == "done"


def test_a_monitor_of_rows_and_of_a_stack_stops_as_any():
    rows = sk.Rows(torch.randn(60, 8))
    stack = sk.CoderStack([sk.SparseCoder(4, 12, sk.TopK(2)) for _ in range(2)], [0, 4])
    monitor = widgets.TrainMonitor(rows, startable=False)

    def stop(moment):
        if moment.step == 7:
            monitor._hear(monitor, {"act": "stop"}, [])

    run = sk.train(stack, rows, sk.fvu(), steps=20, batch_size=30, on_step=stop, progress=monitor)
    assert run.stopped and run.steps == 7 and monitor.run is run
    assert "2 coders" in monitor.html and "24 latents" in monitor.html and "a matrix of rows" in monitor.html
    assert monitor.compute()["target_l0"] == 4  # 2 of each
    assert monitor.html.count("<figure") == 5


def test_a_stack_on_text_is_scored_by_labels_and_a_transcoder_has_no_pca(model):
    from saekit.corpus import python_spans

    sources = [f'def g{i}(a):\n    """Doc {i}."""\n    # a note, {i}\n    return ["s", a]\n' * 3 for i in range(99)]
    corpus = sk.load_corpus(model, sources, labels=[python_spans(s) for s in sources])
    site = sk.Site(("blocks.0.mlp.hook_in", "blocks.1.mlp.hook_in"), ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"))
    acts = sk.Activations(model, site, corpus)
    monitor = widgets.TrainMonitor(acts, startable=False)
    stack, objective = presets.per_layer_transcoders(acts.d_in // 2, 48, 2, k=4)
    sk.train(stack, acts, objective, steps=8, batch_size=128, progress=monitor)
    data = monitor.compute()
    assert data["labels"] and data["best"]["latent"] < 96
    assert data["pca"] is None
    assert monitor.html.count("<figure") == 6


# -- toy geometry


def test_a_pentagon_is_found_and_named(geometry):
    data = geometry.compute()
    assert "All 5 features are kept, as a pentagon" in geometry.html
    W = geometry.model.W[0]
    torch.testing.assert_close(torch.tensor(data["gram"]), W.T @ W)
    assert sum(data["dimensionality"]) == pytest.approx(2, abs=0.02)
    assert data["kept"] > data["two"] == pytest.approx(0.4)


def test_a_setting_trains_on_and_the_same_one_does_not(geometry):
    model = geometry.model
    geometry.draw()
    geometry.to_html()
    assert geometry.model is model
    geometry.act("n_features", 1)
    assert geometry.state["n_features"] == 3 and geometry.model.n_features == 3
    before = geometry.model.W
    geometry.act("frequency", 5)
    assert geometry.state["frequency"] == 0.02
    # Trained on: the three directions have not been dealt anew.
    near = torch.nn.functional.cosine_similarity(before[0], geometry.model.W[0], dim=0)
    assert near.min() > 0.8
    geometry.act("again", "")
    assert geometry.state["seed"] == 1 and not torch.equal(geometry.model.W, before)
    geometry.set_state(n_features=5, frequency=0.05, seed=0)


def test_a_decoder_is_matched_to_the_columns():
    geometry = widgets.ToyGeometry(4, 0.02, sae=True)
    data = geometry.compute()
    W, rows = geometry.model.W[0], geometry.dictionary
    kept = int((W.norm(dim=0) > 0.5).sum())
    assert len(rows) == 4 and len(data["pairs"]) == kept
    assert len({latent for _, latent, _ in data["pairs"]}) == kept
    for feature, latent, near in data["pairs"]:
        assert near == pytest.approx(float(torch.cosine_similarity(W[:, feature], rows[latent], dim=0)), abs=1e-5)
    found = sum(near > 0.95 for _, _, near in data["pairs"])
    assert f"SAE: {found} of {kept} kept directions found" in geometry.html
    model = geometry.model
    geometry.act("sae", False)
    assert geometry.dictionary is None and geometry.model is model
    assert "dashed" not in geometry.html


def test_shapes_have_names_only_where_they_hold():
    def lying(*degrees):
        angles = np.radians(degrees)
        return form([[float(np.cos(a)), float(np.sin(a))] for a in angles])

    assert lying(10, 100) == ", at a right angle"
    assert lying(10, 190) == ", as an opposite pair"
    assert lying(10, 60) == ""
    assert lying(0, 120, 240) == ", as a triangle"
    assert lying(5, 95, 185, 275) == ", as two opposite pairs"
    assert lying(*(72 * i - 30 for i in range(5))) == ", as a pentagon"
    assert lying(0, 60, 180, 240) == ", not evenly spread"
    assert lying(20) == lying() == ""


@pytest.mark.parametrize(
    ("setting", "words"),
    [({"n_features": 9}, "n_features=9"), ({"frequency": 0.07}, "0.05"), ({"importance": 2}, "choose one of 1")],
)
def test_a_geometry_that_cannot_be_is_refused(setting, words, geometry):
    before = geometry.state
    with pytest.raises(ValueError, match=words):
        widgets.ToyGeometry(**setting)
    with pytest.raises(ValueError, match=words):
        geometry.set_state(**setting)
    assert geometry.state == before


# -- what a latent does to the output


def test_vocab_proj_is_the_logit_lens_of_the_row(model, coder):
    table = vocab_proj(model, coder, 3, n=5)
    row = coder.W_dec[3]
    norm = (row - row.mean()) / torch.sqrt(row.var(unbiased=False) + model.cfg.eps) * model.ln_final.weight
    logits = (norm @ model.W_U).detach()
    logits -= logits.mean()
    order = logits.argsort(descending=True)
    assert table.id.tolist() == order[:5].tolist() + order[-5:].tolist()
    np.testing.assert_allclose(table.logit, logits[table.id.tolist()], atol=1e-4)
    np.testing.assert_allclose(table.z, table.logit / logits.double().std().item(), atol=1e-4)


def test_token_change_is_the_mean_difference_of_log_probabilities(model, coder, corpus):
    ids = prompts(corpus)
    with torch.no_grad(), sk.splice(model, coder, edit=sk.add(3, 5.0)):
        after = model(ids).log_softmax(-1).double().mean((0, 1))
    with torch.no_grad():
        change = after - model(ids).log_softmax(-1).double().mean((0, 1))
    table = token_change(model, coder, 3, corpus, strength=5.0, n=4)
    np.testing.assert_allclose(table.change, change[table.id.tolist()], atol=1e-5)
    assert table.change.iloc[0] == pytest.approx(float(change.max()), abs=1e-5)
    assert token_change(model, coder, 3, corpus, strength=0.0).change.abs().max() == 0


def test_the_random_control_is_as_long_and_never_on(model, coder, corpus):
    control = random_direction(coder, 3)
    assert float(control.W_dec.norm()) == pytest.approx(float(coder.W_dec[3].norm()), rel=1e-5)
    ids = prompts(corpus)
    same, moved = mean_log_probs(model, ids, control, torch.cat([0 * control.W_dec, 3 * control.W_dec]))
    torch.testing.assert_close(same, mean_log_probs(model, ids))
    assert not torch.allclose(moved, same)


def test_a_monitor_says_when_a_run_is_worse_than_the_mean(acts):
    monitor = widgets.TrainMonitor(acts, startable=False)
    coder, objective = presets.batch_topk(acts.d_in, 64, k=6)
    run = sk.train(coder, acts, objective, steps=8, batch_size=128, lr=3.0, progress=monitor)
    assert run.history.fvu.iloc[-1] > 1
    assert "worse than always giving the mean" in monitor.html
    assert "of the variance explained" not in monitor.html


@pytest.mark.parametrize("text", ["x", " ", "\n", "(", "é"])
def test_the_shortest_texts_are_read(model, coder, text):
    reading = read(model, coder, text)
    assert len(reading.tokens) == len(reading.expects) == reading.codes.n_rows >= 1
    strip = widgets.TokenStrip(model, coder, text, 3)
    assert 'role="alert"' not in strip.html
    assert widgets.SteerSlider(model, coder, 3, text, maximum=1.0).compute()["n"] == len(reading.tokens)
