"""A lesson from start to end: what is returned, what is said, what is remembered."""

import dataclasses
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

import saekit as sk
from saekit import lesson
from saekit.lesson import frame, machine, nb00, nb03

SITE = sk.Site("blocks.1.hook_resid_post")


@pytest.fixture(scope="module")
def coder():
    torch.manual_seed(0)
    coder = sk.SparseCoder(32, 64, sk.TopK(6), unit_norm=True).eval().requires_grad_(False)
    coder.site = SITE
    return coder


@pytest.fixture
def nb(tiny_models, coder, tmp_path, capsys):
    nb = lesson.start("03", tiny_models["gpt2"], coder, progress=tmp_path)
    capsys.readouterr()
    return nb


def test_start_seeds_loads_and_tells(tiny_models, coder, tmp_path):
    draws = []
    for _ in range(2):
        nb = lesson.start("00", tiny_models["gpt2"], coder, seed=5, progress=tmp_path)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    assert draws[0] == draws[1]
    assert nb.model is tiny_models["gpt2"] and nb.coder is coder
    facts = nb.facts()
    assert list(facts) == ["model", "coder", "network", "threads", "memory", "seed", "checks passed"]
    assert facts["network"] == "offline" and facts["seed"] == "5" and facts["checks passed"] == "0 of 2"
    assert "64 latents" in facts["coder"] and SITE.name in facts["coder"]
    assert lesson.start("00", tiny_models["gpt2"], None, progress=tmp_path).facts()["coder"] == "none"


def test_a_lesson_about_toys_loads_no_model(tmp_path):
    code = f"""
import sys
from saekit import lesson
nb = lesson.start("01", progress={str(tmp_path)!r})
assert nb.model is None and nb.coder is None
assert nb.facts()["model"] == "none, toys only" and nb.facts()["coder"] == "none"
assert not {{"transformer_lens", "transformers"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names_that_do_not_exist_are_answered_with_those_that_do(nb):
    with pytest.raises(ValueError, match=f"no lesson '99'; there are {', '.join(frame.CHAPTERS)}"):
        lesson.start("99")
    for ask in (nb.check, nb.hint, nb.solution, nb.catch_up):
        with pytest.raises(ValueError, match=r"no exercise '9.9' in notebook 03; there are 3.1, 3.2, 3.3, 3.4"):
            ask("9.9")
    with pytest.raises(ValueError, match=r"no question '3.z'.* 3.a, 3.b"):
        nb.quiz("3.z")


# -- check


def test_a_right_answer_comes_back_and_counts(nb, capsys):
    def init(x, d_sae):
        return nb03.init(x, d_sae)

    assert nb.check("3.1", init) is init
    assert "passed" in capsys.readouterr().out
    assert nb.facts()["checks passed"] == "1 of 4"
    assert nb._bar.state["facts"]["checks passed"] == "1 of 4"
    assert repr(nb) == "Lesson(03, 1 of 4 checks passed)"


@pytest.mark.parametrize(
    "answer", [..., None, lambda x, d_sae: None, lambda x, d_sae: ...], ids="dots none nothing dots_back".split()
)
def test_not_yet_goes_on_with_the_reference_and_counts_nothing(answer, nb, capsys):
    assert nb.check("3.1", answer) is nb03.init
    assert "not yet" in capsys.readouterr().out
    assert nb.progress.of("3.1")["attempts"] == 0


def test_a_wrong_answer_goes_on_with_the_reference(nb, capsys):
    assert nb.check("3.1", lambda x, d_sae: (x, x, x)) is nb03.init
    said = capsys.readouterr().out
    assert "not right yet" in said and 'nb.hint("3.1")' in said
    assert nb.progress.of("3.1") == {"attempts": 1, "passed": False, "hints": 0, "seen": False, "guesses": []}


def test_a_passed_exercise_stays_passed(nb):
    nb.check("3.1", nb03.init)
    nb.check("3.1", lambda x, d_sae: 3)
    assert nb.progress.of("3.1")["passed"] and nb.progress.of("3.1")["attempts"] == 2


def test_a_reference_that_runs_is_made_once(nb, monkeypatch):
    made = []
    wrong = lesson.Verdict(False, "no")
    fake = dataclasses.replace(
        nb._exercises["3.3"], reference=lambda setting: made.append(setting) or "a run", check=lambda *_: wrong
    )
    monkeypatch.setitem(nb._exercises, "3.3", fake)
    assert nb.check("3.3", ...) == nb.check("3.3", "mine") == nb.catch_up("3.3") == "a run"
    assert made == [nb.setting]


def test_the_good_run_is_one(tiny_models, coder, tiny_corpus, monkeypatch):
    """At a tiny size: it trains at the lesson's site, is seeded, and is what `train` gives."""
    monkeypatch.setattr(nb03, "load_corpus", lambda model, split: tiny_corpus)
    monkeypatch.setattr(nb03.presets, "batch_topk", lambda d, n, k: (sk.SparseCoder(d, 64, sk.TopK(4)), sk.fvu()))
    monkeypatch.setattr(nb03, "train", lambda *args: sk.train(*args, batch_size=256, steps=5, progress=False))
    runs = [nb03.good_run(nb03.Setting(tiny_models["gpt2"], coder)) for _ in range(2)]
    assert runs[0].coder.site == SITE and len(runs[0].history) == 5
    assert torch.equal(runs[0].coder.W_dec, runs[1].coder.W_dec)


# -- hints and solutions


def test_hints_come_in_order_and_stop_at_the_last(nb, capsys):
    hints = nb._exercises["3.1"].hints
    for level in (0, 1, 2, 2):
        nb.hint("3.1")
        said = capsys.readouterr().out
        assert f"Hint {level + 1} of 3" in said and hints[level] in said
        assert not [hint for i, hint in enumerate(hints) if i != level and hint in said]
    assert nb.progress.of("3.1")["hints"] == 3
    nb.hint("3.2")
    assert "Hint 1 of 3 for exercise 3.2" in capsys.readouterr().out


def test_the_solution_waits_for_two_failed_checks(nb, capsys):
    for failed in (0, 1):
        nb.solution("3.1")
        said = capsys.readouterr().out
        assert f"there were {failed};" in said and "torch.randn" not in said
        nb.check("3.1", lambda x, d_sae: 3)
    assert 'nb.solution("3.1") shows' in capsys.readouterr().out
    nb.solution("3.1")
    assert "def init(x, d_sae)" in capsys.readouterr().out
    assert nb.progress.of("3.1")["seen"]
    nb.check("3.2", ...)
    nb.check("3.2", ...)
    capsys.readouterr()
    nb.solution("3.2")
    assert "def step" not in capsys.readouterr().out
    nb.solution("3.2", force=True)
    assert "def step" in capsys.readouterr().out


def test_catching_up_is_seen_not_passed(nb, capsys):
    assert nb.catch_up("3.2") is nb03.step
    assert nb.progress.of("3.2")["seen"] and not nb.progress.of("3.2")["passed"]
    assert nb.facts()["checks passed"] == "0 of 4"
    assert "3.2" in capsys.readouterr().out


# -- predictions and questions


def test_a_guess_stands_beside_the_truth(nb, capsys):
    quiz = nb.predict("3.p", "How many?", ["few", "many"])
    nb.reveal("3.p", "There are 12.")
    said = capsys.readouterr().out
    assert "There are 12." in said and "no guess" in said
    quiz.set_state(choice=1)
    nb.reveal("3.p", "There are 12.")
    said = capsys.readouterr().out
    assert "There are 12." in said and "Your guess was: many" in said
    assert nb.progress.of("3.p")["guesses"] == ["many"]
    nb.reveal("3.q", "Never asked.")
    assert "no guess" in capsys.readouterr().out


def test_a_quiz_answer_is_remembered(nb):
    from saekit.lesson import curves

    quiz = nb.quiz("3.a")
    wrong, right = list(curves.RUNS).index("good"), list(curves.RUNS).index("large steps")
    for choice, passed in ((wrong, False), (right, True)):
        quiz.set_state(choice=choice, committed=False)
        quiz.act("commit", None)
        assert quiz.correct is passed and nb.progress.of("3.a")["passed"] is passed
    assert nb.progress.of("3.a")["attempts"] == 2


# -- words


def test_say_and_glossary(nb, capsys):
    nb.say("FVU fell by 0.5.", "On 20 windows.")
    assert capsys.readouterr().out == "FVU fell by 0.5.\nOn 20 windows.\n"
    nb.glossary("l0")
    assert capsys.readouterr().out.startswith("L0\nThe number of latents")
    nb.glossary()
    assert "superposition" in capsys.readouterr().out
    with pytest.raises(ValueError, match="superposition"):
        nb.glossary("superpositoin")


def test_what_is_shown_is_escaped():
    from saekit.lesson import frame

    hostile = '<script>alert("x")</script>'
    for shown in (frame.note("plain", hostile, hostile, hostile), frame.table([hostile], [[hostile]])):
        assert "<script>" not in shown._repr_html_() and "&lt;script&gt;" in shown._repr_html_()


def test_measured_numbers_are_those_that_ship(nb):
    assert nb.measured["coders"]["tiny-python/resid.2/batch_topk"]["fidelity"]["fvu"] < 0.2


# -- the machine


def test_self_check_says_what_to_do(nb, tmp_path, monkeypatch, capsys):
    nb.self_check()
    assert "write access" in capsys.readouterr().out
    (tmp_path / "file").touch()
    rows = {row.what: row for row in machine.self_check(tmp_path / "file" / "home", online=False)}
    assert "SAEKIT_HOME" in rows["write access"].advice
    assert "make lab" in rows["widgets"].advice  # no kernel here
    assert rows["memory"].advice == rows["library text"].advice == rows["network"].advice == ""
    monkeypatch.setattr(machine, "memory_limit", lambda: machine.memory_used() + (100 << 20))
    monkeypatch.setattr(machine.sysconfig, "get_path", lambda name: str(tmp_path))
    rows = {row.what: row for row in machine.self_check(tmp_path, online=True)}
    assert "Shut down" in rows["memory"].advice and "python3-full" in rows["library text"].advice
    assert nb._warnings() == ["memory"]


def test_a_containers_limit_is_read(tmp_path, monkeypatch):
    machines = machine.memory_limit()
    for words, expected in (("1073741824\n", 1 << 30), ("max\n", machines), (str(1 << 60), machines)):
        (tmp_path / "memory.max").write_text(words)
        monkeypatch.setattr(machine, "LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "absent")))
        assert machine.memory_limit() <= expected if words[0] == "9" else machine.memory_limit() == expected
    assert 0 < machine.memory_used() < machines
    assert machine.memory().endswith("MB")


@pytest.mark.parametrize(("many", "chosen"), [(1.0, 4), (2.9, 4), (3.1, 1)])
def test_many_threads_are_kept_unless_they_are_clearly_slower(many: float, chosen: int, monkeypatch):
    now = torch.get_num_threads()
    clock, cost = [0.0], {1: 2.0, 4: many}
    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock[0])

    def work():
        clock[0] += cost[torch.get_num_threads()]

    try:
        torch.set_num_threads(4)
        assert machine.choose_threads(work) == torch.get_num_threads() == chosen
    finally:
        torch.set_num_threads(now)


def test_the_progress_file_is_written_as_one_goes(nb, tmp_path):
    nb.check("3.1", nb03.init)
    nb.hint("3.2")
    stored = json.loads((tmp_path / "progress.json").read_text())
    assert stored["03"]["3.1"]["passed"] and stored["03"]["3.2"]["hints"] == 1
    assert nb00.CHAPTER.number not in stored


def test_trouble_with_the_file_is_said_once(tiny_models, coder, tmp_path, capsys):
    (tmp_path / "file").touch()
    nb = lesson.start("03", tiny_models["gpt2"], coder, progress=tmp_path / "file" / "home")
    said = capsys.readouterr().out
    nb.check("3.1", nb03.init)
    nb.hint("3.1")
    said += capsys.readouterr().out
    assert said.count("for this session only") == 1 and "SAEKIT_HOME" in said
    assert nb.facts()["checks passed"] == "1 of 4"
