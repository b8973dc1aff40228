"""The game of judging an explanation: the player's score is that of any judge, and so are the others'."""

import re

import pytest

from saekit import explain, widgets
from saekit.explain.judges import Constant, JudgeError, Rules, listed
from saekit.explain.questions import detection_questions, intruder_questions, simulation_questions
from saekit.explain.scores import answered, graded
from saekit.widgets.judge import PASSAGES, PER_QUESTION
from tests.test_judges import corpus as corpus  # the fixtures
from tests.test_judges import features as features
from tests.test_judges import latent as latent
from tests.test_judges import model as model
from tests.test_viz import HOSTILE, is_harmless

DIGIT = explain.Explanation(", ".join(f"`{d}`" for d in range(10)))


def play(game, answer=None):
    """Answer every question; rightly, unless it is said how."""
    while (question := game.human.question) is not None:
        truth = [int(question.truth[0]) - 1] if game.state["game"] == "intruder" else [
            i for i, right in enumerate(question.truth) if right]  # fmt: skip
        for i in truth if answer is None else answer:
            game.act("mark", str(i))
        game.act("answer", "")
        assert game.state["shown"] is not None
        game.act("next", "")
    return game.scores


@pytest.mark.parametrize("kind", ["detection", "fuzzing", "intruder"])
def test_the_scores_are_those_of_explain(features, latent, kind):
    game = widgets.JudgeGame(features, 0, explanation=DIGIT, game=kind)
    scores = play(game)
    assert scores["you"]["score"] == pytest.approx(1)
    sizes = {"n": 5} if kind == "intruder" else {"n": PASSAGES, "per_question": PER_QUESTION}
    for judge in (Rules(), Constant(1)):
        truth = getattr(explain, kind)(DIGIT, latent, judge, **sizes)
        assert scores[judge.name]["score"] == truth["score"] and scores[judge.name]["n"] == truth["n"]
    assert scores["constant 1"]["score"] == 0.5
    assert "Your score is 1.00; chance is 0.50" in game.html and "`0`" in game.html


def test_the_score_so_far_is_of_the_questions_so_far(features, latent):
    game = widgets.JudgeGame(features, 0, explanation=DIGIT)
    assert game.compute()["scores"] == {}
    for chosen, n in (((0,), 1), ((), 2)):
        for i in chosen:
            game.act("mark", i)
        game.act("answer", "")
        game.act("next", "")
        asked = game.human.questions[:n]
        truth = graded(asked, answered(asked, Rules()))
        assert game.scores["rules"]["score"] == pytest.approx(truth["score"], nan_ok=True)
        assert game.scores["you"]["n"] == game.scores["constant 1"]["n"] == n * PER_QUESTION
    assert f"Scores after 2 of {len(game.human.questions)}" in game.html


def test_an_answer_is_judged_passage_by_passage(features):
    game = widgets.JudgeGame(features, 0, explanation=DIGIT)
    question = game.human.question
    truth = [int(t) for t in question.truth]
    assert not re.search(r"sk-tok a\d", game.html)
    game.act("mark", "0")
    game.act("number", "2")
    game.act("number", "2")
    game.act("number", "9")
    assert game.state["marked"] == (0,)
    game.act("answer", "")
    right = sum(bool(t) == (i == 0) for i, t in enumerate(truth))
    assert f"{right} of {len(truth)} right." in game.html
    assert game.html.count("wrong</span>") == len(truth) - right
    assert bool(re.search(r"sk-tok a\d", game.html)) == any(truth)
    game.act("mark", "1")
    assert game.state["marked"] == ()  # it is answered


def test_the_intruder_has_no_description_and_one_choice(features):
    game = widgets.JudgeGame(features, 0, explanation=DIGIT, game="intruder")
    assert "`0`" not in game.html and "No description this time" in game.html
    with pytest.raises(ValueError, match="nothing is chosen"):
        game.answer(())
    game.act("mark", "0")
    game.act("mark", "3")
    assert game.state["marked"] == (3,)
    game.act("answer", "")
    assert game.human.answers == [listed([4])]
    game.act("next", "")
    play(game)
    assert "`0`" in game.html


def test_a_judge_that_fails_is_named_and_the_game_goes_on(features):
    def gone(prompt):
        raise JudgeError("cannot reach http://nowhere: <script>")

    def silly(prompt):
        return "perhaps"

    game = widgets.JudgeGame(features, 0, explanation=DIGIT, judges=[gone, silly, Rules()])
    scores = play(game)
    assert "cannot reach" in scores["gone"]["problem"] and "perhaps" in scores["silly"]["problem"]
    assert scores["rules"]["score"] == scores["you"]["score"] == 1
    assert "gone" in game.html and "! no answer" in game.html and is_harmless(game.html)
    mute = explain.Explanation("something about the mood of it")
    assert "rules cannot" in play(widgets.JudgeGame(features, 0, explanation=mute))["rules"]["problem"]


def test_from_an_index_alone_a_latent_and_its_rule_are_found(features):
    game = widgets.JudgeGame(features)
    assert not features[game.state["latent"]].dead
    assert str(game.explanation) == explain.rules(features[game.state["latent"]]).words
    assert play(game)["you"]["score"] == 1
    before = game.human.questions
    game.act("again", "")
    assert game.human.questions != before and game.human.answers == [] and game.state["seed"] == 1
    latent = game.state["latent"]
    game.act("another", "")
    assert game.state["latent"] != latent and game.human.questions[0].latent.index == game.state["latent"]
    game.act("game", "fuzzing")
    assert game.state["game"] == "fuzzing" and all(p.marked for p in game.human.question.passages)


def test_questions_of_ones_own(latent):
    for kind, made in (("detection", detection_questions), ("intruder", intruder_questions)):
        game = widgets.JudgeGame(made(DIGIT, latent, n=5))
        assert game.state["game"] == kind and game.state["latent"] == 0
        assert play(game)["you"]["score"] == 1
        with pytest.raises(ValueError, match="these questions were given"):
            game.set_state(seed=1)
        assert "Another latent" not in game.html
    for bad, words in (
        ([], "at least one"),
        (["text"], "questions"),
        (simulation_questions(DIGIT, latent), "simulation"),
    ):
        with pytest.raises(ValueError, match=words):
            widgets.JudgeGame(bad)


def test_what_cannot_be_played_is_refused(features):
    with pytest.raises(ValueError, match="game='chess'"):
        widgets.JudgeGame(features, 0, game="chess")
    with pytest.raises(ValueError, match="dead"):
        widgets.JudgeGame(features, 1)
    game = widgets.JudgeGame(features, 0, explanation=DIGIT)
    before, asked = game.state, game.human.questions
    bad = [({"game": "chess"}, "chess"), ({"latent": 1}, "dead"), ({"latent": 99}, "not in")]
    bad += [({"marked": (7,)}, "counted from 0"), ({"shown": 0}, "0 questions are answered")]
    for values, words in bad:
        with pytest.raises(ValueError, match=words):
            game.set_state(**values)
        assert game.state == before and game.human.questions == asked


def test_state_sets_itself_and_a_page_is_offline(features):
    game = widgets.JudgeGame(features, 0, explanation=DIGIT)
    for _ in range(2):
        before, html = game.state, game.html
        game.set_state(**before)
        assert game.state == before and game.html == html
        page = game.to_html()
        assert is_harmless(page) and "http" not in page and len(page) < 300_000
        game.act("answer", "")


@pytest.mark.parametrize("token", [t for t in HOSTILE if t.isprintable() and len(t) < 60])
def test_hostile_words_are_words(features, token):
    game = widgets.JudgeGame(features, 0, explanation=explain.Explanation(f"{token} `1`"))
    game.judges[0].name = token
    play(game, answer=(0,))
    assert is_harmless(game.html) and is_harmless(game.to_html())
