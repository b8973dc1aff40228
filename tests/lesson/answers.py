"""What every check is held to, for the test files of the notebooks: each asserts, and gives what it found."""

import inspect
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from saekit.lesson.exercise import Exercise, Question, Setting, judge

HURRY = re.compile(r"\b(easy|easily|simply|just|obviously)\b")


def reference_passes(exercise: Exercise, setting: Setting, names: Mapping[str, Any]) -> None:
    """The reference passes within two seconds, and so does its printed source where these names are known."""
    start = time.process_time()
    verdict = judge(exercise, exercise.reference, setting)
    assert verdict.passed, verdict.message
    assert time.process_time() - start < 2
    pasted = dict(names)
    exec(inspect.getsource(exercise.reference), pasted)
    assert judge(exercise, pasted[exercise.reference.__name__], setting).passed


def stubs_are_not_yet(exercise: Exercise, setting: Setting) -> None:
    """Nothing written so far is neither right nor wrong."""

    def raising(*args):
        raise NotImplementedError

    stubs = [..., None, lambda *args: None, lambda *args: ..., lambda *args: (..., ..., ...), raising]
    assert [judge(exercise, stub, setting).passed for stub in stubs] == [None] * len(stubs)


def is_refused(exercise: Exercise, setting: Setting, thing: Any) -> None:
    """Any object, and a function that returns it, is wrong, with words."""
    for answer in (thing, lambda *args: thing):
        verdict = judge(exercise, answer, setting)
        assert verdict.passed is False and verdict.message


def leaves_no_trace(exercise: Exercise, setting: Setting) -> None:
    """A check draws from no generator of the learner's, and says the same again."""

    def draws() -> tuple[float, float]:
        return float(torch.rand(1)), np.random.rand()  # noqa: NPY002

    torch.manual_seed(3), np.random.seed(3)  # noqa: NPY002
    expected = draws()
    torch.manual_seed(3), np.random.seed(3)  # noqa: NPY002
    first = judge(exercise, exercise.reference, setting)
    assert draws() == expected
    assert judge(exercise, exercise.reference, setting) == first


def wrong_answers_differ(exercise: Exercise, setting: Setting, wrong: Mapping[str, Any]) -> dict[str, str]:
    """Each wrong answer gets a message of its own, which does not tell the answer. Returns {name: message}."""
    verdicts = {name: judge(exercise, answer, setting) for name, answer in wrong.items()}
    assert [name for name, verdict in verdicts.items() if verdict.passed is not False] == []
    texts: dict[str, list[str]] = {}
    for name, verdict in verdicts.items():
        texts.setdefault(verdict.message, []).append(name)
    assert [names for names in texts.values() if len(names) > 1] == []
    code = [line.strip() for line in inspect.getsource(exercise.reference).splitlines()[2:]]
    for text in texts:
        assert not [line for line in code if len(line) > 12 and line in text]
        assert text.count(". ") <= 2 and "!" not in text
    return {name: verdict.message for name, verdict in verdicts.items()}


def is_complete(exercise: Exercise) -> None:
    """Three hints that are no solution, a short reference, plain words."""
    assert len(exercise.hints) == 3 == len({*exercise.hints}) and 1 <= exercise.minutes <= 15
    source = inspect.getsource(exercise.reference)
    assert not [hint for hint in exercise.hints if hint in source]
    assert len(source.splitlines()) <= 14
    words = " ".join([exercise.title, *exercise.hints])
    assert "!" not in words and not HURRY.search(words)


def questions_are_sound(questions: Sequence[Question], n: int = 3) -> None:
    """One right answer of n, and a reason."""
    assert len({question.id for question in questions}) == len(questions) >= 3
    for question in questions:
        options = question.options()
        assert 0 <= question.answer < len(options) == len({*options}) == n
        assert question.why.endswith(".") and question.question.endswith("?")
