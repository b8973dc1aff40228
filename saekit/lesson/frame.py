"""`start` and the `Lesson` it returns: the checks, hints, predictions and the status line of one notebook."""

import inspect
import json
import random
from collections.abc import Callable, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import io
from ..hooks import hub_answers, load_model
from . import glossary, machine, nb00, nb01, nb02, nb03, nb04, nb05, nb06, nb09, nb10, nb15
from .exercise import Exercise, Setting, judge
from .progress import Progress

LESSONS = (nb00, nb01, nb02, nb03, nb04, nb05, nb06, nb09, nb10, nb15)
CHAPTERS = {lesson.CHAPTER.number: lesson.CHAPTER for lesson in LESSONS}
MEASURED = Path(__file__).parents[1] / "assets" / "measured.json"
SOLUTION_AFTER = 2  # failed checks


class Shown(NamedTuple):
    """What a cell puts out: HTML for a notebook, text for everything else."""

    html: str
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        from .. import viz

        return viz.show(viz.Html(f'<section class="sk" style="border: 0">{self.html}</section>'))._repr_html_()


def note(kind: str, title: str, body: str = "", code: str = "") -> Shown:
    """A boxed message; kind: plain, good, warn or bad."""
    from .. import viz

    return Shown(viz.note(kind, title, body, code), "\n".join(part for part in (title, body, code) if part))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Shown:
    """A small table of text, which breaks between words only: a number is not cut in two."""
    from ..viz import esc

    style = "text-align: left; white-space: normal; overflow-wrap: break-word"

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f'<{tag} style="{style}">{esc(c)}</{tag}>' for c in cells) + "</tr>"

    drawn = f"<thead>{line(head, 'th')}</thead><tbody>{''.join(line(row, 'td') for row in rows)}</tbody>"
    return Shown(f"<table>{drawn}</table>", "\n".join("  ".join(row) for row in rows))


def start(
    notebook: str,
    model: Any = None,
    coder: Any = "tiny-python/resid.2/batch_topk",
    *,
    seed: int = 0,
    progress: str | PathLike | None = None,
) -> "Lesson":
    """Load model and coder, set every seed, choose the number of threads, and show the status line.

    notebook: its number, "03". model: what `sk.load_model` takes, or a model; coder: what `sk.load` takes, a coder, or
    None. A notebook about toys loads neither. progress: the folder of the progress file, `$SAEKIT_HOME` or `~/.saekit`
    unless given.
    Raises ValueError for a notebook without exercises, and what loading raises.
    """
    if notebook not in CHAPTERS:
        raise ValueError(f"no lesson {notebook!r}; there are {', '.join(CHAPTERS)}")
    import huggingface_hub  # noqa: F401  here, so that the thread below and the model do not import it at once

    asking = Thread(target=hub_answers, daemon=True)
    asking.start()
    model, coder = (None, None) if CHAPTERS[notebook].toys else _loaded(model, coder)
    with torch.no_grad():
        machine.choose_threads(_work(model))
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  for cells that use the global generator
    torch.manual_seed(seed)
    asking.join()
    lesson = Lesson(notebook, Setting(model, coder), Progress(notebook, progress), seed, hub_answers())
    lesson.show_status()
    return lesson


def _loaded(model: Any, coder: Any) -> tuple[Any, Any]:
    model = model if hasattr(model, "cfg") else load_model(model)
    return model, io.load(coder) if isinstance(coder, str | PathLike) else coder


def _work(model: Any) -> Callable[[], Any]:
    """Something as heavy as what the notebook does, to choose the number of threads by."""
    if model is None:
        x = torch.zeros(1024, 256)
        return lambda: [x @ x.T for _ in range(8)]
    tokens = torch.zeros(2, min(128, model.cfg.n_ctx), dtype=torch.long)
    return lambda: model(tokens, return_type=None)


class Lesson:
    """The state of one notebook: `nb.model`, `nb.coder`, the learner's progress, the predictions made so far.

    Every method that takes the id of an exercise raises ValueError, with the ids there are, for an unknown one.
    """

    def __init__(
        self, notebook: str, setting: Setting, progress: Progress, seed: int = 0, online: bool = False
    ) -> None:
        self.chapter, self.setting, self.progress = CHAPTERS[notebook], setting, progress
        self.model, self.coder = setting
        self.seed, self.online = seed, online
        self._exercises = {exercise.id: exercise for exercise in self.chapter.exercises}
        self._failed = dict.fromkeys(self._exercises, 0)
        self._hinted = dict.fromkeys(self._exercises, 0)
        self._made: dict[str, Any] = {}  # what references returned
        self._asked: dict[str, Any] = {}  # prediction -> its Quiz
        self._bar: Any = None

    def __repr__(self) -> str:
        return f"Lesson({self.chapter.number}, {self._passed()} checks passed)"

    # -- exercises

    def check(self, name: str, answer: Any = None) -> Any:
        """Judge an answer and say what was found. Returns it where it is right, else the reference.

        `...`, None, and a function that returns one of them or raises NotImplementedError, are "not yet".
        """
        exercise = self._exercise(name)
        verdict = judge(exercise, answer, self.setting)
        title = f"Exercise {name}, {exercise.title.lower()}"
        if verdict.passed is None:
            self.say(f"{title}: not yet.", f'nb.hint("{name}") helps. Until then the notebook uses the reference.')
            return self._reference(exercise)
        record = self.progress.of(name)
        self._put(name, attempts=record["attempts"] + 1, passed=record["passed"] or verdict.passed)
        if verdict.passed:
            self.say(f"{title}: passed.", verdict.message, kind="good")
            return answer
        self._failed[name] += 1
        more = f'nb.solution("{name}") shows a solution.' if self._may_see(name) else f'nb.hint("{name}") helps.'
        self.say(f"{title}: not right yet.", verdict.message, more, kind="warn")
        return self._reference(exercise)

    def hint(self, name: str) -> None:
        """Show the next of three hints: where to look, the formula, almost the code."""
        exercise = self._exercise(name)
        level = min(self._hinted[name], len(exercise.hints) - 1)
        self._hinted[name] = level + 1
        self._put(name, hints=max(level + 1, self.progress.of(name)["hints"]))
        self.say(f"Hint {level + 1} of {len(exercise.hints)} for exercise {name}", exercise.hints[level])

    def solution(self, name: str, force: bool = False) -> None:
        """Show the source of the reference, once two checks have failed or one has passed, or with force=True."""
        exercise = self._exercise(name)
        if not (force or self._may_see(name)):
            how = f"It is shown after {SOLUTION_AFTER} failed checks, and there were {self._failed[name]}; "
            how += f'or with nb.solution("{name}", force=True).'
            self.say(f"The solution of exercise {name} is not shown yet.", f'{how} nb.hint("{name}") helps.')
            return
        self._put(name, seen=True)
        self.say(f"A solution of exercise {name}", code=inspect.getsource(exercise.reference))

    def catch_up(self, name: str) -> Any:
        """The reference, to go on with; the exercise is marked as seen, not as passed."""
        exercise = self._exercise(name)
        self._put(name, seen=True)
        self.say(f"Exercise {name} is left for later.", "The notebook goes on with the reference.")
        return self._reference(exercise)

    # -- predictions and questions

    def predict(self, name: str, question: str, options: Sequence[str]) -> Any:
        """A `widgets.Quiz` that takes a guess before the result is shown. Nothing is judged; `reveal` compares."""
        from ..widgets import Quiz

        self._asked[name] = Quiz(question, list(options))
        return self._asked[name]

    def reveal(self, name: str, truth: str) -> None:
        """Show the guess beside what is true, and keep it in the progress file."""
        quiz = self._asked.get(name)
        choice = None if quiz is None else quiz.state["choice"]
        if choice is None:
            self.say(truth, "You made no guess this time. A guess first makes the result stick.")
            return
        guess = str(quiz.options[choice])
        self._put(name, guesses=[*self.progress.of(name)["guesses"], guess])
        self.say(truth, f"Your guess was: {guess}")

    def quiz(self, name: str) -> Any:
        """A `widgets.Quiz` of this notebook. Raises ValueError, with those there are, for an unknown one."""
        from ..widgets import Quiz

        questions = {question.id: question for question in self.chapter.questions}
        if name not in questions:
            raise ValueError(f"no question {name!r} in notebook {self.chapter.number}; {_listed(questions)}")
        asked = questions[name]

        def keep(choice: int) -> None:
            record = self.progress.of(name)
            passed = record["passed"] or choice == asked.answer
            self._put(name, attempts=record["attempts"] + 1, passed=passed)

        return Quiz(asked.question, asked.options(), asked.answer, asked.why, on_commit=keep)

    # -- words

    def say(self, title: str, body: str = "", code: str = "", kind: str = "plain") -> None:
        """Show a boxed message, such as a finding with its numbers."""
        _display(note(kind, title, body, code))

    def glossary(self, term: str | None = None) -> None:
        """Show what a term means, or all terms. Raises ValueError, with the nearest terms, for an unknown one."""
        if term is None:
            _display(table(("term", "meaning"), list(glossary.TERMS.items())))
        else:
            self.say(*glossary.entry(term))

    def self_check(self) -> None:
        """Show what this machine offers, and what to do where something is missing."""
        rows = machine.self_check(self.progress.path.parent, self.online)
        shown = [(row.what, row.found, "! " + row.advice if row.advice else "✓ OK") for row in rows]
        _display(table(("what", "found", "state"), shown))

    @cached_property
    def measured(self) -> dict[str, Any]:
        """The numbers that were measured on what ships: `nb.measured["coders"][name]["fidelity"]["fvu"]`."""
        return json.loads(MEASURED.read_text("utf-8"))

    # -- status

    def facts(self) -> dict[str, str]:
        """What the status line shows, in order."""
        site = getattr(self.coder, "site", None)
        reads = (
            (site.name if len(site.reads) == 1 else f"{site.reads[0]} and {len(site.reads) - 1} more") if site else None
        )
        return {
            "model": str(self.model.cfg.model_name) if self.model else "none, toys only",
            "coder": f"{self.coder.d_sae:,} latents at {reads}".replace(",", "\u202f") if self.coder else "none",
            "network": "online" if self.online else "offline",
            "threads": str(torch.get_num_threads()),
            "memory": machine.memory(),
            "seed": str(self.seed),
            "checks passed": self._passed(),
        }

    def show_status(self) -> None:
        """Show the status line; it follows the checks."""
        from ..widgets import StatusBar

        self._bar = StatusBar(self.facts(), self._warnings())
        _display(self._bar)
        self._news()

    def _warnings(self) -> list[str]:
        """Facts to be marked: memory, before the kernel is killed for it."""
        return ["memory"] if machine.memory_used() > 0.75 * machine.memory_limit() else []

    def _passed(self) -> str:
        passed = sum(self.progress.of(name)["passed"] for name in self._exercises)
        return f"{passed} of {len(self._exercises)}"

    def _put(self, name: str, **changes: Any) -> None:
        self.progress.put(name, **changes)
        self._news()
        if self._bar is not None:
            self._bar.set_state(facts=self.facts(), warnings=self._warnings())

    def _news(self) -> None:
        for title, body in self.progress.told():
            self.say(title, body, kind="warn")

    def _exercise(self, name: str) -> Exercise:
        if name not in self._exercises:
            raise ValueError(f"no exercise {name!r} in notebook {self.chapter.number}; {_listed(self._exercises)}")
        return self._exercises[name]

    def _may_see(self, name: str) -> bool:
        return self._failed[name] >= SOLUTION_AFTER or self.progress.of(name)["passed"]

    def _reference(self, exercise: Exercise) -> Any:
        """The reference function, or what it returns, made once."""
        if not exercise.runs:
            return exercise.reference
        if exercise.id not in self._made:
            self._made[exercise.id] = exercise.reference(self.setting)
        return self._made[exercise.id]


def _listed(names: Any) -> str:
    return "there are " + ", ".join(names) if names else "it has none"


def _display(shown: Any) -> None:
    from IPython.display import display

    display(shown)
