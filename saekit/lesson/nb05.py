"""Exercises and quiz of notebook 05. The references have no annotations, so that a solution runs where it is pasted."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .exercise import Chapter, Exercise, NotYet, Question, Setting, Verdict, first_fault, not_a_function, tried
from .naming import names_by_code, naming_verdict

KEEP = 0.8


def _near(a: Any, b: Any, tolerance: float = 1e-6) -> bool:
    a, b = np.asarray(a, float), np.asarray(b, float)
    return a.shape == b.shape and bool((np.abs(a - b) <= tolerance * (1 + np.abs(b))).all())


def _numbers(got: Any) -> np.ndarray:
    """What was handed in, as one row of numbers. Raises ValueError for anything else."""
    found = np.asarray(got, float)
    if found.ndim != 1:
        raise ValueError(f"its shape is {found.shape}")
    return found


# -- 5.1


def strongest(place, latent, value, which, k, apart):
    """Places of the k strongest firings of latent `which`, strongest first, no two of them nearer than `apart`."""
    mine = latent == which
    place, value = place[mine], value[mine]
    found = []
    for i in np.argsort(-value):
        if len(found) < k and all(abs(place[i] - other) >= apart for other in found):
            found.append(place[i])
    return found


def _firings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(place, latent, value) of firings in the order of a text; those of latent 3 come in clusters."""
    rng = np.random.default_rng(0)
    near = [(p + d, 3, 5 + s + 0.1 * d) for s, p in enumerate((400, 90, 610, 250)) for d in (-6, -3, 0, 2, 6)]
    near += [(810, 3, 9.0), (820, 3, 8.9)]  # exactly 10 apart
    others = [(int(p), int(j), float(v)) for p, j, v in zip(
        rng.choice(900, 60, replace=False), rng.choice([1, 2, 5], 60), 20 * rng.random(60), strict=True)]  # fmt: skip
    place, latent, value = (np.array(column) for column in zip(*sorted(near + others), strict=True))
    return place, latent, value


def _picked(order: Any, place: np.ndarray, k: int, far: Callable[[Any, list], bool]) -> list:
    """Places in some order, each taken where it is far from those found."""
    found: list = []
    for i in order:
        if len(found) < k and far(place[i], found):
            found.append(place[i])
    return found


def _strongest_slips(which: int, k: int, apart: int) -> Iterator[tuple[Any, str]]:
    """What known slips come to, and what to say of each."""
    places, latent, values = _firings()
    place, value = places[latent == which], values[latent == which]
    down = np.argsort(-value)

    def apart_from(p: Any, found: list) -> bool:
        return all(abs(p - other) >= apart for other in found)

    def overlapping(p: Any, found: list) -> bool:
        return True

    right = _picked(down, place, k, apart_from)
    yield sorted(right), "The places are right, but in the order of the text. The strongest comes first."
    yield right[::-1], "The places are right, but the weakest comes first. Turn the order round."
    yield (
        _picked(down, place, k, overlapping),
        "Some windows overlap: two places are close together, so that one passage would be shown several times.",
    )
    yield _picked(down[::-1], place, k, apart_from), "You begin with the weakest firings. Sort from large to small."
    yield (
        _picked(down[::-1], place, k, overlapping),
        "These are the weakest firings, and some of their windows overlap.",
    )
    yield (
        _picked(np.argsort(-values), places, k, apart_from),
        "You took the firings of all latents. Keep those of `which` only.",
    )
    yield (
        _picked(range(k), place[down], k, apart_from),
        "You took the k strongest first and then dropped those that overlap, so fewer are left. Fill up to k.",
    )
    yield (
        _picked(down, place, k, lambda p, found: not found or abs(p - found[-1]) >= apart),
        "Each place is compared with the one before it only. It must be far from all that were found.",
    )
    yield (
        _picked(down, place, k, lambda p, found: all(abs(p - other) > apart for other in found)),
        "Two windows that just touch do not overlap: places may be exactly `apart` from each other.",
    )
    yield (
        _picked(range(len(place)), place, k, apart_from),
        "You go through the text and keep what is far enough, whatever its value. Go from strong to weak.",
    )
    sums = np.array([value[np.abs(place - p) < apart].sum() for p in place])
    yield (
        _picked(np.argsort(-sums), place, k, apart_from),
        "You rank windows by the sum of their activations. A long weak passage then beats one strong token.",
    )
    kept = [int(np.flatnonzero(place == p)[0]) for p in right]
    yield value[kept].tolist(), "These are activations. Wanted are the places they are at."
    yield kept, "These are numbers of firings within the latent. Look up `place` at them."
    among = [int(np.flatnonzero((places == p) & (latent == which))[0]) for p in right]
    yield among, "These are numbers of entries. Look up `place` at them."


def _strongest_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "strongest")
    for k in (6, 3):
        got = _numbers(tried(answer, *(x.copy() for x in _firings()), 3, k, 10))
        right = strongest(*_firings(), 3, k, 10)
        if _near(got, right):
            continue
        yield from (said for slip, said in _strongest_slips(3, k, 10) if _near(got, slip))
        if k == 3:
            yield "Right for 6 places, but not for 3. Is the number k used?"
        if len(got) != k:
            yield f"{len(got)} places came back where {k} were asked for and there are enough."
        yield "These are other places. Which firings are the latent's, and in which order do you take them?"


# -- 5.2


def decile_edges(activations):
    """The 9 values that cut a latent's firings into ten groups of equal number, smallest first.

    activations: at every token of a text; 0 where the latent is off."""
    on = activations[activations > 0]
    return np.quantile(on, np.arange(1, 10) / 10)


def _activations() -> np.ndarray:
    """Of 20,000 tokens; on at a tenth of them, skewed as activations are."""
    rng = np.random.default_rng(1)
    return np.where(rng.random(20_000) < 0.1, 0.5 + rng.exponential(2.0, 20_000), 0.0)


def _edge_slips(a: np.ndarray) -> Iterator[tuple[Any, str]]:
    on, tenths = a[a > 0], np.arange(1, 10) / 10
    yield (
        np.quantile(a, tenths),
        "Tokens where the latent is off are in it. They are most of the text, so almost every edge is 0.",
    )
    yield (
        on.max() * tenths,
        "These cut the range of values into equal widths. Each group should hold equally many firings.",
    )
    yield (
        on.min() + (on.max() - on.min()) * tenths,
        "These are evenly spaced between the smallest and the largest firing. Cut by rank, not by value.",
    )
    yield (
        np.quantile(on, np.arange(11) / 10),
        "The smallest and the largest value are in it too. Between ten groups lie 9 edges.",
    )
    yield (
        np.quantile(on, np.arange(10) / 10),
        "It begins with the smallest value of all. The first edge ends the weakest tenth.",
    )
    yield (
        np.quantile(on, np.arange(1, 11) / 10),
        "The last of them is the maximum, which is no edge between two groups.",
    )
    yield np.quantile(on, tenths)[::-1], "The edges are right, but the largest comes first."
    yield np.percentile(on, np.arange(1, 10)), "These are the first nine percent. `np.percentile` counts from 0 to 100."
    yield np.quantile(on, [0.25, 0.5, 0.75]), "These are quartiles. Ten groups have 9 edges between them."
    groups = np.array_split(np.sort(on), 10)
    yield (
        [g.mean() for g in groups],
        "These are the means of the ten groups. Wanted is where one ends and the next begins.",
    )
    yield [len(g) for g in groups], "These are the sizes of the groups. Wanted are the values between them."


def _edge_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "decile_edges")
    a = _activations()
    got = _numbers(tried(answer, a.copy()))
    if not _near(got, decile_edges(a), 5e-3):
        yield from (said for slip, said in _edge_slips(a) if _near(got, slip, 5e-3))
        if len(got) != 9:
            yield f"{len(got)} values came back. Between ten groups there are 9 edges."
        yield "These are other values. Sort the firings: a tenth of them lies below the first edge."


# -- 5.3


def shortest(ids, activation, keep=0.8):
    """The shortest end of the context ids on which the latent keeps at least `keep` of its activation on all of ids.

    activation(some ids): the latent's activation at the last of them, read behind BOS."""
    whole = activation(ids)
    for n in range(1, len(ids) + 1):
        if activation(ids[-n:]) >= keep * whole:
            return ids[-n:]


class _Context:
    """A made-up latent on one context: its activation at the last token, by the length of the end that is there."""

    ids = np.array([71, 12, 40, 12, 33, 95, 8, 57, 12, 64, 5, 88, 23])
    # From one token to all 13. It is not monotone, and on four tokens it keeps just the share asked for.
    values = (0.9, 2.0, 4.0, 6.4, 5.0, 7.0, 4.0, 7.8, 5.5, 7.9, 8.2, 9.5, 8.0)

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def activation(self, ids: Any) -> float:
        given = tuple(int(i) for i in ids)
        self.asked.append(given)
        n = len(given)
        return self.values[n - 1] if 0 < n <= len(self.ids) and given == self.end(n) else 0.0

    def end(self, n: int) -> tuple[int, ...]:
        return tuple(self.ids[len(self.ids) - n :].tolist())

    def first(self, reaches: Callable[[float], bool]) -> int:
        """The length of the shortest end whose activation is enough."""
        return next((n for n, value in enumerate(self.values, 1) if reaches(value)), len(self.ids))


def _ends(c: _Context, keep: float) -> Iterator[tuple[int, str]]:
    """The length that known slips come to, and what to say of each."""
    bar = keep * c.values[-1]
    below = [n for n, value in enumerate(c.values, 1) if value < bar]
    yield (
        max(below, default=0) + 1,
        "You cut from the left until it first falls too low. It is not monotone: a shorter end may be enough again.",
    )
    yield (
        c.first(lambda v: v >= keep * max(c.values)),
        "You compare with the most it reaches on any end. Compare with its activation on all of ids.",
    )
    yield c.first(lambda v: v >= keep), "You compare with `keep` itself. It is a share of the activation on all of ids."
    yield c.first(lambda v: v > bar), "It may keep exactly that share: at least `keep` includes it."
    yield c.first(lambda v: v >= c.values[-1]), "Nothing may be lost in yours. A share of `keep` is enough."
    yield int(np.argmax(c.values)) + 1, "That is the end where it is strongest. A shorter one keeps enough."
    yield c.first(lambda v: v >= bar) - 1, "Too short by one token: on this end too little is left."
    yield c.first(lambda v: v >= bar) + 1, "Too long by one token: the next shorter end still keeps enough."


def _shortest_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "shortest")
    for keep in (KEEP, 0.5):
        context = _Context()
        result = tried(answer, context.ids.copy(), context.activation, keep)
        if np.ndim(result) == 0:
            yield "One number came back. Wanted are the ids themselves, the end of the context."
        got = tuple(int(i) for i in result)
        right = context.end(context.first(lambda v: v >= keep * context.values[-1]))  # noqa: B023 - used at once
        if got != right:
            if keep != KEEP:
                yield f"Right for a share of {KEEP}, but not for {keep}. Is `keep` used?"
            yield from _cut_faults(context, got)
            yield from (said for n, said in _ends(context, keep) if got == context.end(n))
            yield "This is an end of the context, but not the shortest that keeps enough."


def _cut_faults(context: _Context, got: tuple[int, ...]) -> Iterator[str]:
    """What is no end of the context, or none at all was tried."""
    whole = context.end(len(context.ids))
    ends = {context.end(n) for n in range(len(whole) + 1)}
    starts = {whole[:n] for n in range(1, len(whole))}
    if starts & {*context.asked}:
        yield "You cut on the right, and the token that the latent is on at goes first. Cut on the left."
    if got == whole and {*context.asked} == {whole}:
        yield "Only the whole context was tried. Mind that ids[-0:] is all of it: begin with one token."
    if got not in ends and got[::-1] in ends:
        yield "The end is turned round. Keep the tokens in the order of the text."
    if got not in ends:
        yield "What came back is no end of ids. The last token must stay, and nothing in between may go."


# -- 5.4


def scores(value, label, test, threshold):
    """(precision, recall, F1) of "value > threshold" as a sign of the label, over the tokens where test holds."""
    said, true = value[test] > threshold, label[test]
    hits = (said & true).sum()
    return hits / said.sum(), hits / true.sum(), 2 * hits / (said.sum() + true.sum())


def _tokens() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(value, label, test) of 400 tokens; the latent does better on the train documents."""
    rng = np.random.default_rng(2)
    test, label = rng.random(400) < 0.4, rng.random(400) < 0.3
    on = np.where(label, rng.random(400) < np.where(test, 0.5, 0.9), rng.random(400) < np.where(test, 0.1, 0.02))
    return np.where(on, np.round(4 * rng.random(400), 1) + 0.1, 0.0), label, test


def _rates(said: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    hits = (said & true).sum()
    return hits / said.sum(), hits / true.sum(), 2 * hits / (said.sum() + true.sum())


def _score_slips(threshold: float) -> Iterator[tuple[Any, str]]:
    value, label, test = _tokens()
    said, true = value[test] > threshold, label[test]
    p, r, f1 = _rates(said, true)
    yield (
        _rates(value > threshold, label),
        "All documents are in it. Those that a name was made on flatter it: use `test`.",
    )
    yield _rates(value[~test] > threshold, label[~test]), "These are the train documents. Score where `test` holds."
    yield (r, p, f1), "Precision and recall are swapped. Precision is about the firings, recall about the label."
    yield (p, r, (p + r) / 2), "Your F1 is the plain mean of the two. The harmonic mean is low where one of them is."
    yield (p, r, (p * r) ** 0.5), "Your F1 is the geometric mean. It is 2 p r / (p + r)."
    yield (p, r, p * r / (p + r)), "Your F1 is half of what it should be: the harmonic mean has a 2 in it."
    right = (said == true).mean()
    yield (right, r, f1), "Your precision is accuracy. Where a label is rare, saying no everywhere gets that high."
    yield (right, right, right), "That is accuracy three times. It counts the many tokens where both say no."
    yield (p, (said & true).mean(), f1), "Your recall divides by all tokens. Divide by those that have the label."
    yield ((said & true).mean(), r, f1), "Your precision divides by all tokens. Divide by those it is said of."
    if threshold:
        yield _rates(value[test] > 0, true), "The threshold is not used: every firing counts, however weak."
    yield _rates(value[test] >= threshold, true), "Off counts as on: at a threshold of 0, `>=` holds at every token."
    yield _rates(value[test] <= threshold, true), "You count the tokens that are not above the threshold."
    yield (*(100 * x for x in (p, r, f1)),), "These are percentages. Give shares between 0 and 1."


def _score_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "scores")
    for threshold in (0.0, 1.1):
        with np.errstate(all="ignore"):  # a slip may divide by nothing
            got = _numbers(tried(answer, *(x.copy() for x in _tokens()), threshold))
            if len(got) != 3:
                yield f"{len(got)} numbers came back. Give three: precision, recall and F1."
            if not np.isfinite(got).all():
                yield "Nothing is said at a threshold of 0, so a share is no number. Do you count what is above?"
            if not _near(got, scores(*_tokens(), threshold)):
                yield from (said for slip, said in _score_slips(threshold) if _near(got, slip))
                yield "These are other numbers. How many tokens are hit, how many are said, how many have the label?"


# -- 5.5


def _naming_check(answer: Any, _: Setting) -> Verdict:
    """`answer`: (the game, {letter: name})."""
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict)):
        return Verdict(False, 'Hand over both: nb.check("5.5", (game, names)), where names is a dict of letters.')
    game, names = answer
    if all(name is ... or name is None for name in names.values()):
        raise NotYet
    return naming_verdict(game, names)


# -- quiz


def _said(*options: str) -> Any:
    return lambda: list(options)


QUESTIONS = (
    Question(
        "5.a",
        "All twenty strongest examples of a latent are in comments. What do you know?",
        _said(
            "It is on in comments and nowhere else",
            "Its strongest firings are in comments; what most of its firings are, is open",
            "It is on in most comments",
        ),
        1,
        "Twenty firings out of thousands are no sample. Precision needs firings of every strength, and recall needs "
        "the comments where it is off.",
    ),
    Question(
        "5.b",
        "A latent's best F1 is 0.5, for 'bracket', and a third of all tokens are in brackets. Is that much?",
        _said(
            "Yes, half of the time it is right",
            "No: a latent that is always on gets as much",
            "One cannot say without its density",
        ),
        1,
        "Always on has recall 1 and precision 1/3, which is an F1 of 2p / (1 + p) = 0.5.",
    ),
    Question(
        "5.c",
        "An explanation scores 0.9 by detection. What should be asked first?",
        _said(
            "Which score a shuffled explanation and a model that learned nothing get",
            "Whether a larger judge gives more",
            "Whether the words are short enough",
        ),
        0,
        "A judge can be right for reasons that have nothing to do with the explanation, and latents of a model "
        "without training can often be explained too.",
    ),
)

CHAPTER = Chapter(
    "05",
    (
        Exercise(
            "5.1",
            "The strongest windows",
            6,
            strongest,
            first_fault(_strongest_faults, "Right: strongest first, and no passage twice."),
            (
                "Keep the entries of one latent. Then go from strong to weak and look at what you have found so far.",
                "Take a place if abs(place - other) >= apart for every other one found; stop at k.",
                "for i in np.argsort(-value): append place[i] if all(abs(place[i] - p) >= apart for p in found)",
            ),
        ),
        Exercise(
            "5.2",
            "Ten groups of equal number",
            4,
            decile_edges,
            first_fault(_edge_faults, "Right: firings only, cut by rank."),
            (
                "Where the latent is off there is no firing to be put into a group.",
                "The edges are the 10 %, 20 %, ... 90 % quantiles of the values above 0.",
                "np.quantile(the values above 0, nine shares from 0.1 to 0.9)",
            ),
        ),
        Exercise(
            "5.3",
            "The context a latent needs",
            8,
            shortest,
            first_fault(_shortest_faults, "Right: from one token upwards, against the activation on all of it."),
            (
                "Try the last token alone, then the last two, and so on. The first that is enough is the shortest.",
                "Enough means: activation(end) >= keep * activation(ids).",
                "for n in range(1, len(ids) + 1): end = ids[-n:]; return it where it is enough",
            ),
        ),
        Exercise(
            "5.4",
            "Precision, recall, F1",
            6,
            scores,
            first_fault(_score_faults, "Right, on documents that were held back."),
            (
                "Count three things where test holds: what is said, what is true, and both at once.",
                "precision = hits / said, recall = hits / true, F1 = 2 hits / (said + true).",
                "said = value[test] > threshold; true = label[test]; hits = (said & true).sum()",
            ),
        ),
        Exercise(
            "5.5",
            "The naming game",
            12,
            names_by_code,
            _naming_check,
            (
                "Look at what strong and weak examples share. Begin with one label, and read what the check says.",
                "Too broad: add `and` or `and not`. Too narrow: add `or`. A quoted token is a predicate as well.",
                'docstring and not "."     import line or decorator     (string or comment) and not number',
            ),
        ),
    ),
    QUESTIONS,
)
