"""Prefix arithmetic: `+ 3 ~ 4 ;`. An operator comes before its operands, so brackets are not needed.

Binary `+ - *`, unary `~`, digits, and `;` after a whole expression. Labels:
operator, number: what the token is (of no evidence: the token alone decides).
due 1, due 2, due 3+: operands that are still missing after the token. depth 1, depth 2, depth 3+: operators above it.
first operand, second operand: the token begins that operand of a binary operator. unary operand: of a unary one.
"""

import random

from .marked import Marked, level

ARITY = {"+": 2, "-": 2, "*": 2, "~": 1}
DIGITS = tuple("0123456789")
END = ";"
WORDS = (*ARITY, *DIGITS, END)
DEEPEST = 4


def make(rng: random.Random) -> list[Marked]:
    """An expression and its end."""
    found: list[Marked] = []
    waiting: list[tuple[int, str]] = [(0, "")]  # (depth, role) of the operands that are due, the next one last
    while waiting:
        depth, role = waiting.pop()
        operator = depth < DEEPEST and rng.random() < (0.9 if depth == 0 else 0.4)
        word = rng.choice(list(ARITY)) if operator else rng.choice(DIGITS)
        if operator:
            roles = ("unary operand",) if ARITY[word] == 1 else ("second operand", "first operand")
            waiting += [(depth + 1, role) for role in roles]
        labels = {"operator" if operator else "number", role} | level("depth", depth) | level("due", len(waiting))
        found.append(Marked(word, frozenset(labels - {""})))
    return [*found, Marked(END, frozenset())]


def recognises(words: list[str]) -> bool:
    """Whether every expression ends just where no operand is due."""
    due = 1
    for word in words:
        if (word == END) != (due == 0):
            return False
        due = 1 if word == END else due + ARITY.get(word, 0) - 1
    return words[-1] == END
