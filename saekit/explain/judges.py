"""Who answers questions about explanations. A judge is any function from a prompt to an answer, text to text; `name`
says who it is. Those here answer without a language model; `local` and `endpoint` have one."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..files import replacing
from .questions import Question

Judge = Callable[[str], str]


class JudgeError(ValueError):
    """A judge that cannot be reached, takes too long, or whose answers cannot be read."""


def name_of(judge: Any) -> str:
    """A judge's `name`, or that of its function or class."""
    return str(getattr(judge, "name", None) or getattr(judge, "__name__", None) or type(judge).__name__)


def listed(numbers: Sequence[float]) -> str:
    """Numbers in the form that questions ask for."""
    return "[" + ", ".join(f"{number:.9g}" for number in numbers) + "]"


class Oracle:
    """Knows the truth: every score of it must be 1."""

    name = "oracle"

    def __call__(self, question: Question) -> str:
        return listed(question.truth)

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """A vector for the explanation and what it is true of, another for the rest."""
        return np.array([[1.0, 0.0] if text.truth[0] else [0.0, 1.0] for text in texts])


class Constant:
    """Says the same number always: it must score as chance does."""

    def __init__(self, answer: float = 1) -> None:
        self.answer, self.name = answer, f"constant {answer}"

    def __call__(self, question: Question) -> str:
        return listed([self.answer] * question.slots)

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        return np.ones((len(texts), 1))


class Rules:
    """Answers from where the explanation holds, by `Explanation.predicate`: offline, exact and at once.

    A passage fits if a token of it does; highlights fit if half of them or more do; a token's level is 10 or 0; the
    intruder is the passage with the smallest share of fitting highlights. Raises ValueError for words that rules
    cannot decide.
    """

    name = "rules"

    def __call__(self, question: Question) -> str:
        if question.explanation is None:
            raise ValueError("rules judge by the explanation: give one, here too")
        fits = self._fits(question)
        if not question.exact:
            return listed((10.0 * fits[0]).tolist())
        shares = [fit[list(p.marked)].mean() if p.marked else float(fit.any()) for fit, p in zip(
            fits, question.passages, strict=True)]  # fmt: skip
        if question.slots == 1 and len(shares) > 1:
            return listed([int(np.argmin(shares)) + 1])
        return listed([float(share >= 0.5) for share in shares])

    @staticmethod
    def _fits(question: Question) -> list[np.ndarray]:
        features = question.latent.features
        windows = np.array([p.window for p in question.passages])
        holds = np.asarray(question.explanation.predicate(features)(features.corpus[windows]))
        return [row[p.start : p.start + len(p.tokens)] for row, p in zip(holds, question.passages, strict=True)]


class Human:
    """A judge who takes questions one at a time, whenever there is an answer: what a game in a widget serves.

    `question`, the first that is not answered, or None; `answer(text)` answers it; then `scores.graded(human.questions,
    human.answers)`, at any time. Called with a prompt, it gives the answer to it.
    """

    name = "human"

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions, self.answers = list(questions), []

    @property
    def question(self) -> Question | None:
        """What is asked now."""
        return self.questions[len(self.answers)] if len(self.answers) < len(self.questions) else None

    def answer(self, text: str) -> None:
        """Raises ValueError for what is no answer, and where all questions are answered; nothing is lost then."""
        if self.question is None:
            raise ValueError(f"all {len(self.questions)} questions are answered")
        if self.question.read(text) is None:
            ends = f"from {self.question.choices[0]} to {self.question.choices[-1]}"
            raise ValueError(f"{text!r:.60} is no answer: give {self.question.slots} numbers {ends}")
        self.answers.append(text)

    def __call__(self, prompt: str) -> str:
        known = dict(zip(map(str, self.questions), self.answers, strict=False))
        if str(prompt) not in known:
            raise JudgeError("this question waits for its human answer")
        return known[str(prompt)]


class Cached:
    """A judge that is asked every prompt once: answers are kept on disk, each in a file of its own, written whole.

    path: a folder, `$SAEKIT_CACHE/judges` or `~/.cache/saekit/judges` unless given. Another name is another judge; a
    damaged file is asked for again. Raises what the judge raises; what was answered before stays.
    """

    def __init__(self, judge: Judge, path: str | os.PathLike | None = None) -> None:
        self.judge, self.name = judge, name_of(judge)
        home = Path(os.environ.get("SAEKIT_CACHE") or Path("~/.cache/saekit").expanduser()) / "judges"
        self.path = home if path is None else Path(path).expanduser()

    def __call__(self, prompt: str) -> str:
        file = self.file(prompt)
        answer = _kept(file, self.name, str(prompt))
        if answer is None:
            answer = self.judge(prompt)
            with replacing(file) as temporary:
                kept = {"judge": self.name, "prompt": str(prompt), "answer": answer}
                temporary.write_text(json.dumps(kept), "utf-8")
        return answer

    def file(self, prompt: str) -> Path:
        """Where the answer to a prompt is kept."""
        name = hashlib.blake2b(f"{self.name}\0{prompt}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return self.path / name[:2] / f"{name}.json"


def _kept(file: Path, name: str, prompt: str) -> str | None:
    """The answer in a file, if there is one to this prompt by this judge."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(found, dict) and (found.get("judge"), found.get("prompt")) == (name, prompt)
    return found["answer"] if same and isinstance(found.get("answer"), str) else None
