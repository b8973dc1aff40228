"""Dyck-2: balanced brackets of two types. Labels count what is open after a bracket is read.

depth 1, depth 2, depth 3+; in round, in square: the innermost open bracket.
closes far: the partner lies 8 or more back.
"""

import random

from .marked import Marked, level

CLOSING = {"(": ")", "[": "]"}
NAMES = {"(": "in round", "[": "in square"}
WORDS = (*CLOSING, *CLOSING.values())
DEEPEST = 5
LONGEST = 40  # brackets of one item
FAR = 8


def make(rng: random.Random) -> list[Marked]:
    """A balanced string: at each step it opens, unless it is deep or long, or closes, if there is something open."""
    found: list[Marked] = []
    open_at: list[int] = []
    while open_at or not found:
        room = len(open_at) < DEEPEST and len(found) + len(open_at) < LONGEST - 1
        if not open_at or (room and rng.random() < 0.5):
            open_at.append(len(found))
            found.append(Marked(rng.choice("(["), frozenset()))
            far = False
        else:
            far = len(found) - open_at[-1] >= FAR
            found.append(Marked(CLOSING[found[open_at.pop()].word], frozenset()))
        inside = {NAMES[found[open_at[-1]].word]} if open_at else set()
        labels = level("depth", len(open_at)) | inside | ({"closes far"} if far else set())
        found[-1] = Marked(found[-1].word, frozenset(labels))
    return found


def recognises(words: list[str]) -> bool:
    """Whether every bracket is closed by its own kind, in order."""
    due: list[str] = []
    for word in words:
        if word in CLOSING:
            due.append(CLOSING[word])
        elif not due or due.pop() != word:
            return False
    return not due
