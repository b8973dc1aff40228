"""What judges are asked, in plain text, and how their answers are read."""

import re
from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from typing import Any

import numpy as np

from ..features import Latent
from .explanation import Explanation
from .passages import Passage, halves

CALM = "A unit inside a language model is on at some tokens of a text and off at all others."
LIST = re.compile(r"\[([^\[\]]*)\]")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
WORDS = {"yes": "1", "no": "0"}


class Question(str):
    """A prompt, with what it was made from for judges that are no readers, and how its answer is read.

    passages: what is shown. truth: the right answer, `slots` numbers. choices: what each number may be; None where
    any number between 0 and 10 may be. explanation: what is judged, also where the prompt does not tell it.
    """

    passages: tuple[Passage, ...]
    truth: tuple[float, ...]
    choices: tuple[str, ...]
    explanation: Explanation | None
    latent: Latent
    exact: bool  # whether only the choices themselves are answers

    def __new__(cls, text: str, **about: Any) -> "Question":
        question = super().__new__(cls, text)
        question.__dict__.update({"explanation": None, "exact": True} | about)
        return question

    @property
    def slots(self) -> int:
        return len(self.truth)

    def read(self, answer: str) -> list[float] | None:
        """The numbers of an answer, its last [list] where it has one; None unless there are as many as asked for."""
        lists = LIST.findall(answer)
        words = re.sub(
            r"\b(yes|no)\b", lambda found: WORDS[found[0].lower()], lists[-1] if lists else answer, flags=re.I
        )
        found = NUMBER.findall(words)
        low, high = float(self.choices[0]), float(self.choices[-1])
        fits = all(n in self.choices if self.exact else low <= float(n) <= high for n in found)
        return [float(n) for n in found] if fits and len(found) == self.slots else None


def batched(latent: Latent, about: str, task: str, explanation: Explanation, passages: Sequence[Passage],
            truth: Sequence[float], per_question: int) -> Iterator[Question]:  # fmt: skip
    """Questions with a 0 or 1 for each of a few passages."""
    for first in range(0, len(passages), per_question):
        some, answers = passages[first : first + per_question], truth[first : first + per_question]
        form = "[" + ", ".join("01"[i % 2] for i in range(len(some))) + "]"
        text = (
            f"{CALM} {about}\nDescription: {explanation.text}\n{task}\n"
            f"Answer with a list of {len(some)} digits in this form and nothing else: {form}\n"
            f"{numbered(some)}\nAnswer:"
        )
        yield Question(text, passages=tuple(some), truth=tuple(map(float, answers)), choices=("0", "1"),
                       explanation=explanation, latent=latent)  # fmt: skip


def numbered(passages: Sequence[Passage]) -> str:
    """Passages below each other, each with its number."""
    return "\n".join(f"--- Passage {i}\n{passage.text}" for i, passage in enumerate(passages, 1))


def detection_questions(
    explanation: Any, latent: Latent, *, n: int = 50, per_question: int = 5, seed: int = 0
) -> list[Question]:
    """Is the latent on somewhere in this passage? For up to n passages that it fires in, and as many that it does not.

    Raises ValueError where the test documents hold fewer than two of either.
    """
    firing, silent = sides(latent, n, seed)
    passages, truth = mixed(firing, silent, seed)
    task = "For each passage say 1 if some of it fits the description, so that the unit should be on in it, else 0."
    about = "Someone has described what it is on at."
    return list(batched(latent, about, task, Explanation.of(explanation), passages, truth, per_question))


def fuzzing_questions(
    explanation: Any, latent: Latent, *, n: int = 50, per_question: int = 5, seed: int = 0
) -> list[Question]:
    """Are the highlighted tokens those that the latent is on at? Passages that it fires in, half of them highlighted
    rightly, half at as many other tokens, other ones in each passage. Raises ValueError as `detection_questions`."""
    firing = [p for p in sides(latent, 2 * n, seed)[0] if len(p.on) < len(p.tokens)]
    if len(firing) < 2:
        raise ValueError(
            f"latent {latent.index} is on at every token of its passages: no other token can be highlighted"
        )
    rng = np.random.default_rng([seed, latent.index, 3])
    half = rng.permutation(np.arange(len(firing)) % 2)
    shown = [p._replace(marked=p.on if right else elsewhere(p, rng)) for p, right in zip(firing, half, strict=True)]
    task = "For each passage say 1 if the tokens between << and >> fit the description, else 0."
    about = "Someone has described what it is on at."
    return list(batched(latent, about, task, Explanation.of(explanation), shown, half.tolist(), per_question))


def simulation_questions(explanation: Any, latent: Latent, *, n: int = 20, seed: int = 0) -> list[Question]:
    """How strong is the latent at each token, from 0 to 10, its maximum? A question for each of up to n passages, three
    quarters of which it fires in. Raises ValueError as `detection_questions`."""
    explanation = Explanation.of(explanation)
    firing, silent = sides(latent, n, seed)
    passages, _ = mixed(firing[: max(n - n // 4, 1)], silent[: max(n // 4, 1)], seed)
    questions = []
    for passage in passages:
        listed = "\n".join(f"{i}: {token!r}" for i, token in enumerate(passage.tokens, 1))
        text = (
            f"{CALM} Someone has described what it is on at.\nDescription: {explanation.text}\n"
            "How strongly is it on at each token of this text? 0 is off, 10 is its maximum; most tokens are 0.\n"
            f"Answer with a list of {len(passage.tokens)} numbers, [first, second, ...], and nothing else.\n"
            f"{listed}\nAnswer:"
        )
        truth = tuple(10 * value / latent.max for value in passage.values)
        choices = tuple(map(str, range(11)))
        questions.append(Question(text, passages=(passage,), truth=truth, choices=choices, explanation=explanation,
                                  latent=latent, exact=False))  # fmt: skip
    return questions


def intruder_questions(explanation: Any, latent: Latent, *, n: int = 20, seed: int = 0) -> list[Question]:
    """Which of five passages does not belong? Four that the latent fires in, of one quarter of its firings, and one
    that it does not, all with highlights: what it is on at, and as many random tokens. Each place holds the intruder
    equally often. Raises ValueError as `detection_questions`, and where no quarter has four passages."""
    explanation = None if explanation is None else Explanation.of(explanation)
    firing, silent = sides(latent, ALL_OF_THEM, seed)
    rng = np.random.default_rng([seed, latent.index, 4])
    places = rng.permutation(np.arange(n) % 5)
    questions = []
    for place, own, other in zip(places, _fours(firing, n, rng, latent), _cycled(silent, n), strict=True):
        marks = rng.choice([len(p.on) for p in own])
        shown = [p._replace(marked=p.on) for p in own]
        shown.insert(int(place), other._replace(marked=at_random(range(len(other.tokens)), int(marks), rng)))
        text = (
            f"{CALM} Four of these five passages were chosen because it is on in them, at the tokens between << and "
            ">>. One is of another kind, with tokens highlighted at random.\nWhich one? "
            f"Answer with its number in this form, and nothing else: [1]\n{numbered(shown)}\nAnswer:"
        )
        questions.append(Question(text, passages=tuple(shown), truth=(float(place + 1),), latent=latent,
                                  choices=("1", "2", "3", "4", "5"), explanation=explanation))  # fmt: skip
    return questions


ALL_OF_THEM = 10**6


def sides(latent: Latent, n: int, seed: int) -> tuple[list[Passage], list[Passage]]:
    """Up to n passages of test documents that the latent fires in, evenly over its quarters, and up to n others."""
    if n < 2:
        raise ValueError(f"n={n}: give at least 2")
    _, test = halves(latent.features)
    firing, silent = test.firing(latent, seed), test.silent(latent, seed)
    if min(len(firing), len(silent)) < 2:
        raise ValueError(
            f"latent {latent.index} fires in {len(firing)} passages of the test documents and is off in {len(silent)}, "
            "but 2 of each are needed: choose another latent, or collect the features on more text"
        )
    return evenly(firing, n), silent[:n]


def evenly(passages: list[Passage], n: int) -> list[Passage]:
    """n of them, as nearly as possible equally many of each part."""
    seen: dict[str, int] = {}
    turns = []
    for passage in passages:
        seen[passage.part] = seen.get(passage.part, 0) + 1
        turns.append(seen[passage.part])
    return [passages[i] for i in sorted(np.argsort(turns, kind="stable")[:n].tolist())]


def mixed(firing: list[Passage], silent: list[Passage], seed: int) -> tuple[list[Passage], list[int]]:
    """(all of them in random order, 1 for those of the first kind)."""
    every = [*firing, *silent]
    order = np.random.default_rng([seed, 5]).permutation(len(every)).tolist()
    return [every[i] for i in order], [int(i < len(firing)) for i in order]


def elsewhere(passage: Passage, rng: np.random.Generator) -> tuple[int, ...]:
    """As many tokens as the latent is on at, drawn from those that it is off at."""
    off = [i for i in range(len(passage.tokens)) if i not in passage.on]
    return at_random(off, len(passage.on), rng)


def at_random(among: Iterable[int], n: int, rng: np.random.Generator) -> tuple[int, ...]:
    """n of these numbers, at least one, in order."""
    return tuple(sorted(rng.permutation(list(among))[: max(n, 1)].tolist()))


def _fours(firing: list[Passage], n: int, rng: np.random.Generator, latent: Latent) -> list[list[Passage]]:
    """n times four different passages of one quarter, the quarters in turn."""
    quarters: dict[str, list[Passage]] = {}
    for passage in firing:
        quarters.setdefault(passage.part, []).append(passage)
    large = [some for some in quarters.values() if len(some) >= 4]
    if not large:
        raise ValueError(
            f"latent {latent.index} has no quarter with four passages in the test documents: collect the features on "
            "more text, or with a larger top="
        )
    return [[some[i] for i in rng.permutation(len(some))[:4]] for some in _cycled(large, n)]


def _cycled(items: list, n: int) -> list:
    return [items[i % len(items)] for i in range(n)]


def level(value: float, maximum: float) -> int:
    """An activation as a whole number from 0 to 10: `ceil(10 value / maximum)`."""
    return min(ceil(10 * value / maximum), 10) if value > 0 else 0
