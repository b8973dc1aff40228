"""A word of a formal language with its labels, and the labels that count."""

from typing import NamedTuple


class Marked(NamedTuple):
    """A word, and the names of what is true at it."""

    word: str
    labels: frozenset[str]


def level(name: str, n: int, most: int = 3) -> set[str]:
    """`{"name n"}`, with everything from `most` on under "name most+"; nothing at 0."""
    return {f"{name} {n}" if n < most else f"{name} {most}+"} if n > 0 else set()
