"""A small English grammar with probabilities. Some words are of two classes, so that only the context tells.

noun, verb, adjective; subject, object; prepositional phrase, relative clause, subordinate clause: every word in one.
clause 2, clause 3+: how deep the clause lies.
"""

import random
from functools import cache

from .marked import Marked, level

LEXICON = {
    "Det": "the a every this".split(),
    "Name": "alice bob carol".split(),
    "Noun": "dog garden house teacher letter light saw felt rose bit".split(),
    "Adj": "old small red light left".split(),
    "Intransitive": "slept arrived waited rose fell".split(),
    "Transitive": "saw liked felt bit left found".split(),
    "Says": "said thought knew".split(),
    "Prep": "in near behind with".split(),
    "that": ["that"],
    ".": ["."],
}
CLASSES = {"Noun": "noun", "Adj": "adjective", "Intransitive": "verb", "Transitive": "verb", "Says": "verb"}
# symbol -> (weight, parts); "part:label" marks all below the part. The first alternative is the one without recursion.
GRAMMAR = {
    "Text": [(1, "Clause .")],
    "Clause": [(1, "NP:subject VP")],
    "NP": [(4, "Det Noun"), (3, "Det Adj Noun"), (3, "Name"), (2, "Det Noun PP:prepositional_phrase"),
           (2, "Det Noun Relative:relative_clause")],
    "Relative": [(1, "that VP")],
    "PP": [(1, "Prep NP")],
    "VP": [(3, "Intransitive"), (5, "Transitive NP:object"), (1, "Intransitive PP:prepositional_phrase"),
           (2, "Says that Clause:subordinate_clause")],
}  # fmt: skip
WORDS = tuple(sorted({word for words in LEXICON.values() for word in words}))
DEEPEST = 6  # expansions, after which only first alternatives are taken


def make(rng: random.Random) -> list[Marked]:
    """A sentence with its full stop."""
    return _expanded("Text", rng, frozenset(), 0, 0)


def _expanded(symbol: str, rng: random.Random, labels: frozenset[str], depth: int, clause: int) -> list[Marked]:
    if symbol in LEXICON:
        own = {CLASSES[symbol]} if symbol in CLASSES else set()
        return [Marked(rng.choice(LEXICON[symbol]), labels | own | (level("clause", clause) if clause > 1 else set()))]
    clause += symbol in ("Clause", "Relative")
    weights, alternatives = zip(*(GRAMMAR[symbol] if depth < DEEPEST else GRAMMAR[symbol][:1]), strict=True)
    found = []
    for part in rng.choices(alternatives, weights)[0].split():
        name, _, label = part.partition(":")
        below = labels | ({label.replace("_", " ")} if label else set())
        found += _expanded(name, rng, below, depth + 1, clause)
    return found


def recognises(words: list[str]) -> bool:
    """Whether the words are sentences, one after another."""

    @cache
    def ends(symbol: str, start: int) -> frozenset[int]:
        """Where a `symbol` that starts here can end."""
        if symbol in LEXICON:
            return frozenset({start + 1} if start < len(words) and words[start] in LEXICON[symbol] else ())
        return frozenset().union(*(_through(parts.split(), start) for _, parts in GRAMMAR[symbol]))

    def _through(parts: list[str], start: int) -> set[int]:
        at = {start}
        for part in parts:
            at = {end for place in at for end in ends(part.partition(":")[0], place)}
        return at

    reached = {0}
    while reached and len(words) not in reached:
        reached = {end for place in reached for end in ends("Text", place)}
    return bool(reached)
