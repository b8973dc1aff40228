"""`Quiz`, for a question or a prediction, and `StatusBar`, a line of facts."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..viz.quiz import quiz, status
from .view import View

_ids = itertools.count()


class Quiz(View):
    """A question with choices. answer: the right one's place; None commits a prediction and judges nothing.

    `on_commit` is called with the choice. Raises ValueError for fewer than two options, and an answer or choice that
    is not among them.
    """

    def __init__(
        self, question: str, options: Sequence[str], answer: int | None = None, why: str = "", *,
        on_commit: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        if len(options) < 2 or answer not in (None, *range(len(options))):
            raise ValueError(
                f"{len(options)} options and answer={answer}: give two or more, and the place of one of them"
            )
        self.question, self.options, self.answer, self.why = question, list(options), answer, why
        self.on_commit, self._number = on_commit, next(_ids)
        super().__init__(choice=None, committed=False)

    def check(self) -> None:
        choice = self._state["choice"]
        if choice not in (None, *range(len(self.options))):
            raise ValueError(f"choice={choice!r}: there are choices 0 to {len(self.options) - 1}")
        if self._state["committed"] and choice is None:
            raise ValueError("nothing is chosen yet: choose one first")

    @property
    def correct(self) -> bool | None:
        """Whether the committed choice is right; None before that, and for a prediction."""
        return self._state["choice"] == self.answer if self._state["committed"] and self.answer is not None else None

    def compute(self) -> dict[str, Any]:
        return {
            "id": self._number, "question": self.question, "options": self.options, "answer": self.answer,
            "why": self.why, "correct": self.correct, **self._state,
        }  # fmt: skip

    def render(self, data: dict[str, Any]) -> str:
        return quiz(data)

    def act(self, name: str, arg: Any) -> None:
        if name == "commit":
            self.set_state(committed=True)
            if self.on_commit:
                self.on_commit(self._state["choice"])
        elif name == "again":
            self.set_state(committed=False, choice=None)
        else:
            self.set_state(choice=int(arg))


class StatusBar(View):
    """One line of facts, name and value; names in `warnings` are marked."""

    def __init__(self, facts: Mapping[str, str], warnings: Sequence[str] = ()) -> None:
        super().__init__(facts=dict(facts), warnings=tuple(warnings))

    def compute(self) -> dict[str, Any]:
        return {"facts": self._state["facts"], "warnings": frozenset(self._state["warnings"])}

    def render(self, data: dict[str, Any]) -> str:
        return status(data["facts"], data["warnings"])

    def act(self, name: str, arg: Any) -> None:
        raise ValueError(f"the status line has no control {name!r}")
