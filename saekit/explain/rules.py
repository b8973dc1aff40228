"""Rules: the labels, tokens and contexts that tell best where a latent is on, joined by and, or and not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Int64, UInt64

from ..corpus import Corpus
from ..features import Features, Latent
from ..features.table import known
from .agreement import Agreement
from .examples import live
from .predicates import Begins, Both, Either, Expression, Has, Not, OneOf, ids_at

LEFT = 2  # tokens to the left that a rule may name
BEAM, MOST = 12, 8  # rules that are extended in each round, tokens in a set
GAIN = 0.005  # of F1 on the train documents that a further term must be worth


@dataclass(frozen=True, eq=False)
class Rule:
    """Where a latent is said to be on. train, test: how well that agrees, on the sampled tokens of either half.

    label: the single label of best F1 on the train documents, and its agreement there and on the test documents.
    """

    latent: int
    expression: Expression
    train: Agreement
    test: Agreement
    label: tuple[str, Agreement, Agreement] | None

    @property
    def words(self) -> str:
        """The rule, said."""
        return self.expression.words()

    def fires(self, corpus: Corpus) -> Bool[np.ndarray, "doc pos"]:
        """Where the rule says so, in a corpus with these labels, which may be another one; never at BOS or padding."""
        places = np.arange(corpus.mask.size).reshape(corpus.mask.shape)
        return self.expression.holds(corpus, places.reshape(-1)).reshape(places.shape) & corpus.mask

    def __repr__(self) -> str:
        return f"Rule({self.latent}: {self.words}; F1 {self.train.f1:.2f} train, {self.test.f1:.2f} test)"


def rules(
    latents: Latent | Features,
    *,
    labels: Sequence[str] | None = None,
    terms: int = 4,
    above: float = 0.0,
    least: int = 5,
) -> Rule | pd.DataFrame:
    """The rule of largest F1 for where a latent is on; of all latents, a row for each.

    Terms are "has this label" of a token or the one before, "is the first with this label", and "is one of these
    tokens" of it or of one of the two before, with their negations. A beam search joins up to `terms` of them: F1 on
    the train documents less 0.005 for each further term is maximised, so that no single label does better there. The
    token set that goes best with a rule is found exactly (fractional programming, Dinkelbach 1967), up to 8 tokens.
    Scores are on the scored ones of the sampled tokens of the index; those on the test documents were not looked at.
    above: the share of its maximum from which on the latent counts as on. labels: those that may be named; all.

    Returns a `Rule`; or a table with words, terms, precision, recall and f1 with those on the test documents, and the
    best single label, for every latent on at `least` sampled tokens of the train documents and at one of the test ones.
    Raises ValueError for a dead latent, one on at fewer, a label that the corpus has not, and fewer than one term.
    """
    features = latents if isinstance(latents, Features) else latents.features
    if terms < 1:
        raise ValueError(f"terms={terms}: give at least 1")
    ground = Ground.of(features, labels)
    if isinstance(latents, Latent):
        return _rule(ground, live(latents), terms, above, least)
    alive = (features[i] for i in features.search().index)
    found = [_rule(ground, one, terms, above, least) for one in alive if _enough(ground, one, above, least)]
    return pd.DataFrame([_row(rule) for rule in found], columns=_COLUMNS).set_index("latent").sort_index()


_COLUMNS = ["latent", "words", "terms", "precision", "recall", "f1", "test_precision", "test_recall", "test_f1"]
_COLUMNS += ["label", "label_f1", "label_test_f1"]


def _row(rule: Rule) -> tuple:
    label = ("", np.nan, np.nan) if rule.label is None else (rule.label[0], rule.label[1].f1, rule.label[2].f1)
    return (rule.latent, rule.words, _size(rule.expression), *rule.train[:3], *rule.test[:3], *label)


def _size(rule: Expression) -> int:
    return sum(map(_size, rule)) if isinstance(rule, Both | Either) else 1


def _price(rule: Expression) -> float:
    """What a rule's F1 must make up for: its terms after the first, and a little for each id of a set."""
    if isinstance(rule, Both | Either):
        return sum(map(_price, rule)) + GAIN
    one = rule.of if isinstance(rule, Not) else rule
    return GAIN * 0.02 * len(one.ids) if isinstance(one, OneOf) else 0.0


@dataclass(frozen=True, eq=False)
class Ground:
    """What every rule of an index is made of: terms that name labels, and ids, at the scored sampled tokens."""

    features: Features
    sampled: Int64[np.ndarray, " n"]  # numbers of the sampled tokens: first the train documents, then the test ones
    n_train: int
    terms: list[Expression]
    bits: UInt64[np.ndarray, "terms words"]  # which of the train tokens each term holds at
    ids: list[Int64[np.ndarray, " n_train"]]  # of each train token, of the one before, ...

    @staticmethod
    def of(features: Features, labels: Sequence[str] | None) -> "Ground":
        place = features.index.sample.place
        test = features.test_windows[place // features.corpus.tokens.shape[1]]
        usable = features.scored if features.meetings.labels else np.ones(len(place), bool)
        halves = [np.flatnonzero(usable & (test == half)) for half in (False, True)]
        train = place[halves[0]]
        terms = list(_terms(features, labels))
        bits = np.stack([packed(np.zeros(len(train), bool)), *(packed(t.holds(features.corpus, train)) for t in terms)])
        ids = [ids_at(features.corpus, train, at) for at in range(LEFT + 1)]
        return Ground(features, np.concatenate(halves), len(train), terms, bits[1:], ids)

    def truth(self, latent: Latent, above: float) -> Bool[np.ndarray, " n"]:
        """Which of the tokens a latent is on at."""
        tokens, values = self.features.index.sample.firings(latent.index)
        on = np.zeros(len(self.features.index.sample.place), bool)
        on[tokens[values > above * latent.max]] = True
        return on[self.sampled]

    def agreement(self, rule: Expression, truth: Bool[np.ndarray, " n"], half: slice) -> Agreement:
        """Of a rule, on the train or on the test tokens."""
        places = self.features.index.sample.place[self.sampled[half]]
        return Agreement.of(rule.holds(self.features.corpus, places), truth[half])

    @property
    def halves(self) -> tuple[slice, slice]:
        return slice(0, self.n_train), slice(self.n_train, None)


def _terms(features: Features, labels: Sequence[str] | None) -> Iterator[Expression]:
    context = dict(zip(features.meetings.labels, features.meetings.context.tolist(), strict=True))
    for label in context if labels is None else [known(label, features.meetings.labels) for label in labels]:
        found = [Has(label), Has(label, 1), *([Begins(label)] if context[label] else [])]
        yield from found
        yield from map(Not, found)


class Found(NamedTuple):
    """A rule during the search: its F1 less the price of its terms, and the train tokens it holds at."""

    worth: float
    rule: Expression
    holds: Bool[np.ndarray, " n_train"]


def _enough(ground: Ground, latent: Latent, above: float, least: int) -> bool:
    truth = ground.truth(latent, above)
    return bool(truth[: ground.n_train].sum() >= least and truth[ground.n_train :].any())


def _rule(ground: Ground, latent: Latent, terms: int, above: float, least: int) -> Rule:
    truth = ground.truth(latent, above)
    if not _enough(ground, latent, above, least):
        raise ValueError(
            f"latent {latent.index} is on at {truth[: ground.n_train].sum()} sampled tokens of the train documents and "
            f"{truth[ground.n_train :].sum()} of the test documents; a rule needs {least} and 1: collect more text"
        )
    search = Search(ground, truth[: ground.n_train])
    best = beam = search.first()
    for _ in range(terms - 1):
        beam = _best([new for found in beam for new in search.extended(found)])
        best = _best([*best, *beam])
    rule = best[0].rule
    train, test = (ground.agreement(rule, truth, half) for half in ground.halves)
    return Rule(latent.index, rule, train, test, _alone(ground, search, truth))


def _alone(ground: Ground, search: "Search", truth: Bool[np.ndarray, " n"]) -> tuple[str, Agreement, Agreement] | None:
    """The best single label."""
    f1 = search.f1(ground.bits)
    labels = [i for i, term in enumerate(ground.terms) if isinstance(term, Has) and term.at == 0]
    if not labels:
        return None
    term = ground.terms[max(labels, key=lambda i: f1[i])]
    return (term.label, *(ground.agreement(term, truth, half) for half in ground.halves))


def _best(found: list[Found]) -> list[Found]:
    """The `BEAM` worthiest that do not hold at the same tokens."""
    kept: dict[bytes, Found] = {}
    for one in sorted(found, key=lambda f: -f.worth):
        kept.setdefault(np.packbits(one.holds).tobytes(), one)
        if len(kept) == BEAM:
            break
    return list(kept.values())


class Search:
    """Rules for one latent, by their F1 on the train tokens."""

    def __init__(self, ground: Ground, truth: Bool[np.ndarray, " n_train"]) -> None:
        self.ground, self.truth, self.bits, self.on = ground, truth, packed(truth), int(truth.sum())

    def f1(self, bits: UInt64[np.ndarray, "rules words"]) -> np.ndarray:
        """2 hits / (said + on), by counting bits."""
        hits = np.bitwise_count(bits & self.bits).sum(1, dtype=np.int64)
        return 2 * hits / (np.bitwise_count(bits).sum(1, dtype=np.int64) + self.on)

    def first(self) -> list[Found]:
        """The best rules of one term."""
        nothing = Found(0.0, OneOf((), ()), np.zeros(len(self.truth), bool))
        sets = [self._set(nothing, at, +1) for at in range(LEFT + 1)]
        return _best([*self._terms(self.ground.bits, lambda term: term), *(s for s in sets if s)])

    def extended(self, found: Found) -> Iterator[Found]:
        """The best rules with one term more: and, or, and-not, with a label or with the tokens that go best with it."""
        mine = packed(found.holds)
        yield from self._terms(self.ground.bits & mine, lambda term: Both(found.rule, term))
        yield from self._terms(self.ground.bits | mine, lambda term: Either(found.rule, term))
        for at in range(LEFT + 1):
            for sign in (+1, -1, 0):
                if (new := self._set(found, at, sign)) is not None:
                    yield new

    def _terms(self, bits: UInt64[np.ndarray, "terms words"], rule_of) -> Iterator[Found]:
        f1 = self.f1(bits)
        for i in np.argsort(-f1, kind="stable")[:BEAM]:
            rule = rule_of(self.ground.terms[i])
            yield Found(float(f1[i]) - _price(rule), rule, unpacked(bits[i], len(self.truth)))

    def _set(self, found: Found, at: int, sign: int) -> Found | None:
        """A rule with the best set of tokens: that also fire (+1), that do not (-1), or that alone do (0)."""
        ids = self.ground.ids[at]
        among = (ids >= 0) & (~found.holds if sign == 1 else found.holds)
        said = np.bincount(ids[among])
        hits = np.bincount(ids[among & self.truth], minlength=len(said))
        start = (0, 0) if sign == 0 else (int((found.holds & self.truth).sum()), int(found.holds.sum()))
        chosen = best_set((sign or 1) * hits, (sign or 1) * said, *start, self.on)
        if not len(chosen):
            return None
        pieces = self.ground.features.excerpts.pieces
        term = OneOf(tuple(chosen.tolist()), tuple(pieces[i] for i in chosen), at)
        inside = np.isin(ids, chosen)
        holds = found.holds | inside if sign == 1 else found.holds & (~inside if sign else inside)
        rule = _joined(found.rule, term, sign)
        f1 = 2 * (holds & self.truth).sum() / (holds.sum() + self.on)
        return Found(float(f1) - _price(rule), rule, holds)


def _joined(rule: Expression, term: OneOf, sign: int) -> Expression:
    if sign == 1:
        return term if rule == OneOf((), ()) else Either(rule, term)
    return Both(rule, term if sign == 0 else Not(term))


def best_set(
    hits: Int[np.ndarray, " ids"], said: Int[np.ndarray, " ids"], hits0: int, said0: int, on: int
) -> Int64[np.ndarray, " chosen"]:
    """The up to `MOST` ids that maximise F1 = 2 (hits0 + sum hits) / (said0 + sum said + on), the weightiest first.

    At the best F1 = t an id is worth `2 hits - t said`; t is raised until it no longer changes (Dinkelbach 1967).
    Negative counts take tokens away. Ids that change fewer than 2 firings or 2 others are left out.
    """
    t, chosen = 2 * hits0 / max(said0 + on, 1), np.empty(0, np.int64)
    often = np.flatnonzero(np.where(said > 0, hits, hits - said) >= 2)
    for _ in range(20):
        worth = 2 * hits[often] - t * said[often]
        best = np.argsort(-worth, kind="stable")[:MOST]
        chosen = often[best[worth[best] > 1e-9]]
        f1 = 2 * (hits0 + hits[chosen].sum()) / max(said0 + said[chosen].sum() + on, 1)
        if f1 <= t + 1e-12:
            break
        t = f1
    return chosen


def packed(flags: Bool[np.ndarray, " n"]) -> UInt64[np.ndarray, " words"]:
    """64 flags to a word."""
    packed = np.packbits(flags)
    return np.pad(packed, (0, -len(packed) % 8)).view(np.uint64)


def unpacked(bits: UInt64[np.ndarray, " words"], n: int) -> Bool[np.ndarray, " n"]:
    """The first n flags."""
    return np.unpackbits(np.ascontiguousarray(bits).view(np.uint8), count=n).astype(bool)
