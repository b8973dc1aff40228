"""The naming game: a few latents without their labels, named by predicates that are scored on documents held back."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from ..explain import rules
from ..explain.agreement import Agreement
from ..explain.predicates import Both, Either, Expression, Has, Not, OneOf
from ..explain.rules import GAIN, Ground, Rule, Search
from ..features import Example, Features, Latent
from ..features.table import known
from ..viz.naming import naming
from .exercise import Verdict

ENOUGH = 0.8  # of the F1 of the best rule found
WEAKEST, FEWEST = 0.4, 40  # a rule's F1, and firings in either half, that a latent of the game needs
ABOVE = 0.15  # and how far above the F1 of saying "on" everywhere
PARTS = re.compile(r"\"[^\"]*\"|'[^']*'|[()]|\b(?:and|or|not)\b|[^\s()\"']+")


# -- names


def parsed(name: str, features: Features) -> Expression:
    """A predicate from words: labels of the corpus and quoted tokens, joined by and, or, not and brackets.

    `docstring and not "."`; `and` binds more than `or`. A quoted token is meant with and without blanks around it.
    Raises ValueError for a label or token that there is not, and for a name that breaks off.
    """
    words = _Words(str(name), features)
    found = words.either()
    if words.left:
        raise ValueError(f"{words.left[0]!r} is not expected there: join labels and tokens by and, or, not")
    return found


class _Words:
    """The words of a name that are still to be read."""

    def __init__(self, name: str, features: Features) -> None:
        self.features, self.left = features, PARTS.findall(name)

    def taken(self, word: str) -> bool:
        """Whether this word comes next; it is read then."""
        if self.left[:1] == [word]:
            self.left.pop(0)
            return True
        return False

    def either(self) -> Expression:
        found = self.both()
        while self.taken("or"):
            found = Either(found, self.both())
        return found

    def both(self) -> Expression:
        found = self.one()
        while self.taken("and"):
            found = Both(found, self.one())
        return found

    def one(self) -> Expression:
        if self.taken("not"):
            return negated(self.one())
        if self.taken("("):
            found = self.either()
            if not self.taken(")"):
                raise ValueError("a bracket is not closed")
            return found
        return self.leaf()

    def leaf(self) -> Expression:
        if not self.left or self.left[0] in ("and", "or", ")"):
            raise ValueError("the name breaks off: after and, or, not and ( comes a label or a quoted token")
        if self.left[0][0] in "\"'":
            return _token(self.left.pop(0)[1:-1], self.features)
        words = []
        while self.left and self.left[0] not in ("and", "or", "not", "(", ")") and self.left[0][0] not in "\"'":
            words.append(self.left.pop(0))
        return Has(known(" ".join(words), self.features.meetings.labels))


def _token(text: str, features: Features) -> OneOf:
    pieces = features.excerpts.pieces
    ids = tuple(i for i, piece in enumerate(pieces) if text in (piece, piece.strip()))
    if not ids or not text:
        raise ValueError(f"no token {text!r} is in this text: copy one as it is shown, without its blanks")
    return OneOf(ids, (text,))


def negated(of: Expression) -> Expression:
    """Where it does not hold."""
    if isinstance(of, Both):
        return Either(negated(of.one), negated(of.other))
    if isinstance(of, Either):
        return Both(negated(of.one), negated(of.other))
    return of.of if isinstance(of, Not) else Not(of)


# -- the game


@dataclass(frozen=True)
class Guess:
    """A name, how well it does on the test documents, and a token where it goes wrong most often."""

    name: str
    test: Agreement
    share: float  # of the F1 of the best rule found
    broad: bool  # holds at more tokens than the latent is on at
    token: str

    @property
    def fault(self) -> str:
        """What is wrong, with an example."""
        words = (
            "too broad: it holds where the latent is off" if self.broad else "too narrow: the latent is on elsewhere"
        )
        return f"{words}, most often at {self.token!r}"


class Game:
    """Up to n latents that a predicate describes well, under letters, beside the best rule that was found for each.

    rules: letter -> `explain.rules`. They are drawn from those that follow a context label best and that two labels
    alone name well enough. Raises ValueError where no latent of the index can be described so.
    """

    def __init__(self, features: Features, n: int = 6, seed: int = 0) -> None:
        self.features, self.ground = features, Ground.of(features, None)
        drawn = np.random.default_rng(seed).permutation(candidates(features))
        fair = filter(self._fair, (rules(features[int(i)]) for i in drawn))
        chosen = list(islice(fair, n))
        if not chosen:
            raise ValueError(f"no latent of {features!r} can be described by its labels well enough: read more text")
        self.rules: dict[str, Rule] = {chr(ord("A") + i): rule for i, rule in enumerate(chosen)}

    @property
    def latents(self) -> dict[str, Latent]:
        return {letter: self.features[rule.latent] for letter, rule in self.rules.items()}

    @property
    def needed(self) -> int:
        """How many must be named."""
        return math.ceil(2 / 3 * len(self.rules))

    def guess(self, letter: str, name: str) -> Guess:
        """A name, scored. Raises ValueError for a letter that is not in the game, and as `parsed`."""
        if letter not in self.rules:
            raise ValueError(f"no letter {letter!r}; there are {', '.join(self.rules)}")
        rule, half = self.rules[letter], self.ground.halves[1]
        said, truth = parsed(name, self.features), self.ground.truth(self.features[rule.latent], 0.0)
        test = self.ground.agreement(said, truth, half)
        places = self.features.index.sample.place[self.ground.sampled[half]]
        holds, broad = said.holds(self.features.corpus, places), test.predicted > test.on
        wrong = places[holds & ~truth[half] if broad else truth[half] & ~holds]
        return Guess(name, test, test.f1 / rule.test.f1, broad, _commonest(self.features, wrong))

    def plain(self, letter: str) -> str:
        """The name of one or two labels that has the largest F1 on the train documents."""
        return two_labels(self.ground, self.ground.truth(self.latents[letter], 0.0))

    def _fair(self, rule: Rule) -> bool:
        base = rule.test.on / rule.test.n
        enough = max(WEAKEST, 2 * base / (1 + base) + ABOVE)
        if not (rule.test.f1 >= enough and min(rule.train.on, rule.test.on) >= FEWEST):
            return False
        truth = self.ground.truth(self.features[rule.latent], 0.0)
        name = parsed(two_labels(self.ground, truth), self.features)
        return self.ground.agreement(name, truth, self.ground.halves[1]).f1 >= ENOUGH * rule.test.f1

    def table(self, names: Mapping[str, Any]) -> pd.DataFrame:
        """The answer: number, the best rule found in words, its F1 on the test documents, the F1 of each name."""
        given = {letter: self.guess(letter, name).test.f1 for letter, name in names.items() if isinstance(name, str)}
        rows = [
            (rule.latent, rule.words, rule.test.f1, given.get(letter, np.nan)) for letter, rule in self.rules.items()
        ]
        return pd.DataFrame(rows, [*self.rules], ["latent", "best rule found", "its F1", "F1 of your name"])

    def shown(self) -> dict[str, list[tuple[str, list[Example]]]]:
        """Letter -> what is shown of it: its strongest firings, and some at random."""
        return {
            letter: [("strongest", latent.top(4)), ("at random", latent.sample(4))]
            for letter, latent in self.latents.items()
        }

    def _repr_html_(self) -> str:
        return naming(self.shown(), {letter: latent.max for letter, latent in self.latents.items()})._repr_html_()

    def __repr__(self) -> str:
        return f"Game({', '.join(self.rules)})"


def candidates(features: Features) -> list[int]:
    """The latent that follows each context label best, above a detector that always fires."""
    table = features.label_scores()
    table = table[table.context & (table.density * features.index.base[0] >= 2 * FEWEST)]
    above = (table.f1 - table.always_fire).groupby(table.label).idxmax()
    return list(dict.fromkeys(table.latent[above]))


def two_labels(ground: Ground, truth: Bool[np.ndarray, " n"]) -> str:
    """The name of one or two labels, each with or without "not", of largest F1 on the train documents."""
    labels = {_said(term): i for i, term in enumerate(ground.terms) if _said(term)}
    words, bits = [*labels], ground.bits[[*labels.values()]]
    search = Search(ground, truth[: ground.n_train])
    tables = {"and": [search.f1(bits & row) for row in bits], "or": [search.f1(bits | row) for row in bits]}
    found = {name: float(f1) for name, f1 in zip(words, search.f1(bits), strict=True)}
    for join, table in tables.items():
        i, j = np.unravel_index(np.argmax(table), (len(words), len(words)))
        found.setdefault(f"{words[i]} {join} {words[j]}", float(table[i][j]) - GAIN)
    return max(found, key=found.get)


def _said(term: Expression) -> str:
    """A label or its negation as it is written in a name; nothing for other terms."""
    one = term.of if isinstance(term, Not) else term
    if not isinstance(one, Has) or one.at:
        return ""
    return f"not {one.label}" if isinstance(term, Not) else one.label


def _commonest(features: Features, places: np.ndarray) -> str:
    """The token that occurs most often at some places; nothing where there are none."""
    if not len(places):
        return ""
    tokens, counts = np.unique(features.excerpts.tokens(places), return_counts=True)
    return str(tokens[counts.argmax()])


# -- as an exercise


def names_by_code(game):
    """A name for each letter: the one or two labels that tell best, on the train documents, where the latent is on."""
    return {letter: game.plain(letter) for letter in game.rules}


def naming_verdict(game: Game, names: Mapping[str, Any]) -> Verdict:
    """Passed where two thirds of the letters have a name that reaches 80 % of the best rule's F1."""
    guesses, faults = {}, []
    for letter, name in names.items():
        if isinstance(name, str):
            try:
                guesses[letter] = game.guess(letter, name)
            except ValueError as error:
                faults.append(f"{letter}: {error}.")
    good = [letter for letter, guess in guesses.items() if guess.share >= ENOUGH]
    found = f"{len(good)} of {len(game.rules)} named well enough"
    found += f" ({', '.join(good)})." if good else "."
    if len(good) >= game.needed:
        return Verdict(True, found)
    return Verdict(False, " ".join([found, *faults, *_advice(game, guesses)][:3]))


def _advice(game: Game, guesses: Mapping[str, Guess]) -> Iterator[str]:
    for letter, guess in guesses.items():
        if guess.share < ENOUGH:
            yield f"{letter}: F1 {guess.test.f1:.2f} where {game.rules[letter].test.f1:.2f} is possible; {guess.fault}."
    yield f"{game.needed} are needed."
