"""`JudgeGame`: the reader as a judge of an explanation, beside judges that are no readers."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..explain import rules
from ..explain.judges import Constant, Human, Judge, Rules, listed, name_of
from ..explain.questions import Question, detection_questions, fuzzing_questions, intruder_questions
from ..explain.scores import graded, picked
from ..features import Features, Latent
from ..viz.judge import GAMES, judge_game
from .view import View

_ids = itertools.count()
PASSAGES, PER_QUESTION, INTRUDERS = 8, 4, 5  # of each kind; shown at once; questions of the intruder game
TRIES = 8  # latents that are tried for one with enough passages
MAKERS: dict[str, Callable[..., list[Question]]] = {
    "detection": detection_questions, "fuzzing": fuzzing_questions, "intruder": intruder_questions,
}  # fmt: skip


class JudgeGame(View):
    """Questions about an explanation, answered by clicks, and the score so far beside that of other judges.

    source: an index, or questions that `saekit.explain.questions` made, all of one kind. From an index the questions
    are about `latent`, or one of those that match a label best, and `explanation`, or what `explain.rules` says of it.
    game: detection (in which passages is the latent on?), fuzzing (which highlights are right?), intruder (which
    passage does not belong?). judges: who answers the same questions; the rules judge and the constant one unless
    given. One that cannot answer is named with its reason, and the game goes on.

    Scores are those of `saekit.explain.detection`, `fuzzing` and `intruder`, on the questions answered so far.
    State: game, latent, seed, marked (passages chosen), shown (the question whose answer is looked at, or None).
    Raises ValueError for another game, no questions, and a latent with too few passages.
    """

    def __init__(
        self, source: Features | Sequence[str], latent: int | None = None, *, explanation: Any = None,
        game: str = "detection", judges: Sequence[Judge] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self._number = next(_ids)
        self.judges = [Rules(), Constant(1)] if judges is None else list(judges)
        self.features = source if isinstance(source, Features) else None
        if self.features is None:
            self._take(list(source) if isinstance(source, Sequence) else [])
            game, latent = _game_of(self.human.questions[0]), self.human.questions[0].latent.index
        else:
            _check_game(game)
            latent = self._begin(latent, game, seed, explanation)
        super().__init__(game=game, latent=latent, seed=seed, marked=(), shown=None)

    def check(self) -> None:
        state, asked = self._state, len(self.human.answers)
        _check_game(state["game"])
        if state["shown"] not in (None, *range(asked)):
            raise ValueError(f"shown={state['shown']!r}: {asked} questions are answered, counted from 0")
        room = 0 if self.human.question is None else len(self.human.question.passages)
        if bad := [i for i in state["marked"] if i not in range(room)]:
            raise ValueError(f"marked={bad[0]!r}: this question shows {room} passages, counted from 0")

    def set_state(self, **values: Any) -> None:
        """Change settings and redraw; another game, latent or seed begins anew."""
        wanted = {key: values.get(key, self._state[key]) for key in ("game", "latent", "seed")}
        if any(wanted[key] != self._state[key] for key in wanted):
            _check_game(wanted["game"])
            if self.features is None:
                raise ValueError("these questions were given: make another game of other questions")
            said = self.explanation if wanted["latent"] == self._state["latent"] else None
            self._begin(wanted["latent"], wanted["game"], wanted["seed"], said)
            values = {"marked": (), "shown": None} | values
        super().set_state(**values)

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Judge -> its score on the questions that are answered, as `explain.detection` gives it; "you" is first.

        A judge that could not answer has only "problem", which says why.
        """
        count = picked if self._state["game"] == "intruder" else graded
        asked = self.human.questions[: len(self.human.answers)]
        found = {"you": count(asked, self.human.answers)}
        for judge, answers in zip(self.judges, self._answers, strict=True):
            problem = next((str(a) or type(a).__name__ for a in answers[: len(asked)] if isinstance(a, Exception)), "")
            found[name_of(judge)] = {"problem": problem} if problem else count(asked, answers)
        return found

    def compute(self) -> dict[str, Any]:
        state, human = self._state, self.human
        shown = state["shown"]
        question = human.question if shown is None else human.questions[shown]
        done = shown is None and question is None
        return {
            **state, "id": self._number, "games": list(GAMES) if self.features is not None else [state["game"]],
            "asked": len(human.answers), "n": len(human.questions), "done": done,
            "at": len(human.answers) if shown is None else shown, "maximum": human.questions[0].latent.max,
            "explanation": "" if state["game"] == "intruder" and not done else str(self.explanation or ""),
            "passages": [] if question is None else [_shown(p) for p in question.passages],
            "truth": None if shown is None else _right(question, state["game"]),
            "said": set() if shown is None else _right(question, state["game"], human.answers[shown]),
            "scores": self.scores if human.answers else {}, "label": self._label(),
        }  # fmt: skip

    def _label(self) -> str:
        """The latent's best label, where it is above a detector that always fires; told when the game is over."""
        if self.features is None:
            return ""
        row = self.features.table.loc[self._state["latent"]]
        return str(row.label) if row.f1 > row.always_fire else ""

    # -- making questions

    def _begin(self, latent: int | None, game: str, seed: int, explanation: Any) -> int:
        """Questions about a latent; about the first of some that has enough passages, where none is given."""
        tried = [latent] if latent is not None else _strong(self.features, seed)
        for last, each in zip(reversed(range(len(tried))), tried, strict=True):
            try:
                self._take(_questions(self.features[each], game, seed, explanation))
            except ValueError:
                if not last:
                    raise
            else:
                return int(each)
        raise ValueError(f"no latent is on in {self.features.corpus.source!r}: there is nothing to play with")

    def _take(self, questions: list[str]) -> None:
        if not questions or not all(isinstance(question, Question) for question in questions):
            raise ValueError("give an index, or questions that saekit.explain.questions made, at least one")
        self.human, self._answers = Human(questions), [[] for _ in self.judges]
        self.explanation = questions[0].explanation

    # -- the page

    def render(self, data: dict[str, Any]) -> str:
        return judge_game(data)

    def act(self, name: str, arg: Any) -> None:
        state = self._state
        if name == "mark":
            self._mark(int(arg))
        elif name == "number":
            self._mark(int(arg) - 1)
        elif name == "answer":
            self.answer(state["marked"])
        elif name == "next":
            self.set_state(shown=None)
        elif name == "game":
            self.set_state(game=arg)
        elif name == "again":
            self.set_state(seed=state["seed"] + 1)
        elif name == "another":
            others = [i for i in _strong(self.features, state["seed"] + 1) if i != state["latent"]]
            self._begin_another(others)
        else:
            super().act(name, arg)

    def _mark(self, passage: int) -> None:
        question = self.human.question
        if self._state["shown"] is not None or question is None or passage not in range(len(question.passages)):
            return
        marked = set(self._state["marked"])
        marked = {passage} if self._state["game"] == "intruder" else marked ^ {passage}
        self.set_state(marked=tuple(sorted(marked)))

    def answer(self, marked: Sequence[int]) -> None:
        """Answer the question by the passages that fit, counted from 0, or the one that does not belong.

        The other judges answer it too. Raises ValueError where all is answered, and for no intruder.
        """
        question = self.human.question
        if self._state["game"] == "intruder":
            if len(marked) != 1:
                raise ValueError("nothing is chosen yet: choose the passage that does not belong")
            said = [marked[0] + 1]
        else:
            said = [int(i in marked) for i in range(0 if question is None else question.slots)]
        self.human.answer(listed(said))
        for judge, answers in zip(self.judges, self._answers, strict=True):
            answers.append(_asked(judge, question))
        self.set_state(marked=(), shown=len(self.human.answers) - 1)

    def _begin_another(self, latents: Sequence[int]) -> None:
        for last, latent in zip(reversed(range(len(latents))), latents, strict=True):
            try:
                return self.set_state(latent=latent, seed=self._state["seed"] + 1)
            except ValueError:
                if not last:
                    raise

    def title(self) -> str:
        return f"A game of {self._state['game']}"


def _questions(latent: Latent, game: str, seed: int, explanation: Any) -> list[Question]:
    explanation = rules(latent) if explanation is None else explanation
    if game == "intruder":
        return intruder_questions(explanation, latent, n=INTRUDERS, seed=seed)
    return MAKERS[game](explanation, latent, n=PASSAGES, per_question=PER_QUESTION, seed=seed)


def _strong(features: Features, seed: int) -> list[int]:
    """Some latents that match a label well, in an order drawn by seed; any that are on, where none does."""
    table = features.table[features.table.density > 0]
    best = (table.f1 - table.always_fire).sort_values(ascending=False, kind="stable").index[: 4 * TRIES]
    return np.random.default_rng(seed).permutation(best)[:TRIES].tolist()


def _asked(judge: Judge, question: Question) -> str | Exception:
    """A judge's answer; what went wrong, where it has none. A judge may be a function of the reader's own."""
    try:
        answer = str(judge(question))
    except Exception as error:
        return error
    return answer if question.read(answer) is not None else ValueError(f"no answer can be read in {answer!r:.60}")


def _shown(passage: Any) -> dict[str, Any]:
    return {"tokens": passage.tokens, "values": passage.values, "marked": set(passage.marked)}


def _right(question: Question, game: str, answer: str | None = None) -> set[int]:
    """The passages that are rightly chosen; or those that an answer chooses."""
    numbers = list(question.truth) if answer is None else question.read(answer)
    return {int(numbers[0]) - 1} if game == "intruder" else {i for i, number in enumerate(numbers) if number}


def _game_of(question: Question) -> str:
    if question.slots == 1 and len(question.passages) > 1:
        return "intruder"
    if not question.exact:
        raise ValueError("these are questions of simulation: give those of detection, fuzzing or intruder")
    return "fuzzing" if any(p.marked for p in question.passages) else "detection"


def _check_game(game: str) -> None:
    if game not in GAMES:
        raise ValueError(f"game={game!r}: choose one of {', '.join(GAMES)}")
