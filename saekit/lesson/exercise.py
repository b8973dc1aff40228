"""What an exercise is, and how an answer to it is judged."""

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, NamedTuple


class Verdict(NamedTuple):
    """passed: None where there is nothing to judge yet. message: why not, without the answer; or what was shown."""

    passed: bool | None
    message: str


class Setting(NamedTuple):
    """What a check may use beside the answer: the lesson's model and coder."""

    model: Any
    coder: Any


Check = Callable[[Any, Setting], Verdict]


@dataclass(frozen=True)
class Exercise:
    """A task with a reference and a check.

    reference: a function that solves it, printed as the solution. check: (answer, setting) -> Verdict, pure, under two
    seconds. hints: where to look, the formula, almost the code. runs: the answer is what the reference returns for a
    Setting, not the reference itself.
    """

    id: str
    title: str
    minutes: int
    reference: Callable[..., Any]
    check: Check
    hints: tuple[str, str, str]
    runs: bool = False


class Question(NamedTuple):
    """One question of a quiz: `answer` is the place of the right option, `why` is said after the choice."""

    id: str
    question: str
    options: Callable[[], list[str]]
    answer: int
    why: str


class Chapter(NamedTuple):
    """What the lesson frame knows about one notebook. toys: it needs no model and no coder, so none is loaded."""

    number: str
    exercises: tuple[Exercise, ...]
    questions: tuple[Question, ...] = ()
    toys: bool = False


class NotYet(Exception):
    """Nothing was written so far."""


class Broke(Exception):
    """The learner's function raised; the error is the cause."""


def tried(function: Any, *args: Any) -> Any:
    """What the learner's function returns. Raises NotYet where it is a stub, Broke where it fails."""
    result = called(function, *args)
    if blank(result):
        raise NotYet
    return result


def blank(result: Any) -> bool:
    """Whether a result still has an `...` or None in it."""
    return any(part is None or part is ... for part in (result if isinstance(result, tuple) else (result,)))


def called(function: Any, *args: Any) -> Any:
    """The same, but a function that returns nothing may have done something."""
    try:
        return function(*args)
    except NotImplementedError as error:
        raise NotYet from error
    except Exception as error:
        raise Broke from error


def first_fault(faults: Callable[[Any, Setting], Iterator[str]], praise: str) -> Check:
    """A check from a generator of messages: the first one that comes is the verdict, none means passed."""

    def check(answer: Any, setting: Setting) -> Verdict:
        fault = next(faults(answer, setting), None)
        return Verdict(fault is None, fault or praise)

    return check


def not_a_function(answer: Any, name: str) -> Iterator[str]:
    """The message for a value where the function itself is wanted."""
    if not callable(answer):
        kind = type(answer).__name__
        yield f"The check calls your function itself, so hand it over by its name, {name}. This is of type {kind}."


def judge(exercise: Exercise, answer: Any, setting: Setting) -> Verdict:
    """The verdict on any object, whatever it is. Only Ctrl-C comes through."""
    if isinstance(answer, EllipsisType | None):
        return Verdict(None, "")
    try:
        return exercise.check(answer, setting)
    except NotYet:
        return Verdict(None, "")
    except Broke as broken:
        return Verdict(False, _raised(broken.__cause__, answer))
    except Exception as error:  # what was handed in can be any object, and reading it can fail in any way
        task = (exercise.reference.__doc__ or "").partition("\n")[0]
        return Verdict(False, f"The check cannot read your answer ({type(error).__name__}: {error}). Wanted: {task}")


def _raised(error: BaseException | None, function: Any) -> str:
    """An exception of the learner's function: type, message, and the line of theirs it came from."""
    frames = traceback.extract_tb(error.__traceback__ if error else None)
    own = getattr(getattr(function, "__code__", None), "co_filename", None)
    mine = [frame for frame in frames if frame.filename == own] or list(frames)[-1:]
    place = f" Line {mine[-1].lineno}: {mine[-1].line}" if mine and mine[-1].line else ""
    return f"Your function raised {type(error).__name__}: {error}.{place}"
