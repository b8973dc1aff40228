"""What can be said of a token and of those before it, in words and as a test of every token of a corpus."""

from typing import NamedTuple, Union

import numpy as np
from jaxtyping import Bool, Int, Int64

from ..corpus import Corpus

Places = Int[np.ndarray, " n"]  # window * width + position

PHRASES = {
    "docstring": "inside a docstring", "comment": "inside a comment", "string": "inside a string",
    "bracket": "inside brackets", "depth 1": "at bracket depth 1", "depth 2+": "at bracket depth 2 or more",
    "depth 3+": "at bracket depth 3 or more", "call bracket": "in the arguments of a call",
    "def name": "in the name of a function", "class name": "in the name of a class",
    "argument": "in the name of a parameter", "decorator": "in a decorator line", "import line": "in an import",
    "indent 1": "in a block of depth 1", "indent 2": "in a block of depth 2",
    "indent 3+": "in a block of depth 3 or more",
    "constant": "at a constant", "control keyword": "at a control keyword", "keyword": "at a keyword",
    "definition keyword": "at a definition keyword", "import keyword": "at an import keyword", "number": "in a number",
    "operator": "at an operator", "operator keyword": "at an operator keyword",
}  # fmt: skip
BEFORE = ("", "the token before is ", "the second token before is ")


class Has(NamedTuple):
    """The token `at` places to the left has a label."""

    label: str
    at: int = 0

    def holds(self, corpus: Corpus, places: Places) -> Bool[np.ndarray, " n"]:
        there, left = _left(corpus, places, self.at)
        return there & corpus.labels_at(left)[self.label]

    def words(self, positive: bool = True) -> str:
        return BEFORE[self.at] + ("" if positive else "not ") + phrase(self.label)


class Begins(NamedTuple):
    """The token has a label, and the one before it has not."""

    label: str

    def holds(self, corpus: Corpus, places: Places) -> Bool[np.ndarray, " n"]:
        return Has(self.label).holds(corpus, places) & ~Has(self.label, 1).holds(corpus, places)

    def words(self, positive: bool = True) -> str:
        return f"{'' if positive else 'not '}the first token {phrase(self.label)}"


class OneOf(NamedTuple):
    """The token `at` places to the left is one of some ids."""

    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    at: int = 0

    def holds(self, corpus: Corpus, places: Places) -> Bool[np.ndarray, " n"]:
        return np.isin(ids_at(corpus, places, self.at), self.ids)

    def words(self, positive: bool = True) -> str:
        one, shown = len(self.ids) == 1, ", ".join(map(repr, self.pieces))
        which = ("" if one else "one of ") if positive else ("not " if one else "none of ")
        return (BEFORE[self.at] or "the token is ") + which + shown


class Not(NamedTuple):
    """The other does not hold."""

    of: Has | Begins | OneOf

    def holds(self, corpus: Corpus, places: Places) -> Bool[np.ndarray, " n"]:
        return ~self.of.holds(corpus, places)

    def words(self) -> str:
        return self.of.words(positive=False)


class Both(NamedTuple):
    """One and the other."""

    one: "Expression"
    other: "Expression"

    def holds(self, corpus: Corpus, places: Places) -> Bool[np.ndarray, " n"]:
        return self.one.holds(corpus, places) & self.other.holds(corpus, places)

    def words(self) -> str:
        return " and ".join(f"({p.words()})" if isinstance(p, Either) else p.words() for p in self)


class Either(NamedTuple):
    """One or the other."""

    one: "Expression"
    other: "Expression"

    def holds(self, corpus: Corpus, places: Places) -> Bool[np.ndarray, " n"]:
        return self.one.holds(corpus, places) | self.other.holds(corpus, places)

    def words(self) -> str:
        return " or ".join(f"({p.words()})" if isinstance(p, Both) else p.words() for p in self)


Expression = Union[Has, Begins, OneOf, Not, Both, Either]  # noqa: UP007 - Both and Either refer to it


def phrase(label: str) -> str:
    """A label as it is said."""
    return PHRASES.get(label, f"labelled {label!r}")


def ids_at(corpus: Corpus, places: Places, at: int) -> Int64[np.ndarray, " n"]:
    """The id of the token `at` places to the left of each, -1 where that is not text."""
    there, left = _left(corpus, places, at)
    ids = corpus.tokens.numpy()[np.divmod(left, corpus.tokens.shape[1])]
    return np.where(there, ids, -1)


def _left(corpus: Corpus, places: Places, at: int) -> tuple[Bool[np.ndarray, " n"], Places]:
    """(whether the token `at` places to the left is text of the same window, its place)."""
    window, pos = np.divmod(places, corpus.tokens.shape[1])
    there = pos >= at
    left = places - at * there
    return there & corpus.mask[window, pos - at * there], left
