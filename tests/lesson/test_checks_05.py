"""Notebook 05: references against the package's own functions, and a message for each wrong answer."""

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from saekit.lesson import nb05
from saekit.lesson.exercise import Setting, judge
from saekit.lesson.reading import best_threshold
from tests.lesson import answers

EXERCISES = {exercise.id: exercise for exercise in nb05.CHAPTER.exercises}
FUNCTIONS = ["5.1", "5.2", "5.3", "5.4"]  # 5.5, the game, is in test_naming.py
NOWHERE = Setting(None, None)
functions = pytest.mark.parametrize("name", FUNCTIONS)


# -- right answers


@functions
def test_the_reference_passes_and_its_printed_source_too(name):
    answers.reference_passes(EXERCISES[name], NOWHERE, {"np": np})


def test_scores_are_scikit_learns():
    value, label, test = nb05._tokens()
    for threshold in (0.0, 1.1, 2.0):
        theirs = precision_recall_fscore_support(label[test], value[test] > threshold, average="binary")[:3]
        assert nb05.scores(value, label, test, threshold) == pytest.approx(theirs)


def test_the_best_threshold_is_the_best_of_all():
    value, label, _ = nb05._tokens()
    everywhere = np.ones(len(value), bool)
    tried = [nb05.scores(value, label, everywhere, t)[2] for t in [-1.0, *np.unique(value)[:-1]]]
    assert nb05.scores(value, label, everywhere, best_threshold(value, label))[2] == pytest.approx(max(tried))


def test_deciles_hold_equally_many():
    a = nb05._activations()
    groups = np.bincount(np.searchsorted(nb05.decile_edges(a), a[a > 0]), minlength=10)
    assert len(groups) == 10 and groups.max() - groups.min() <= 1


def test_the_strongest_places_are_those_of_all_subsets_tried_in_order():
    """Each place is the strongest that is left once what is too near to those before it is taken away."""
    place, latent, value = nb05._firings()
    found, left = (
        nb05.strongest(place, latent, value, 3, 6, 10),
        dict(zip(place[latent == 3], value[latent == 3], strict=True)),
    )
    for p in found:
        assert p == max(left, key=left.get)
        left = {q: v for q, v in left.items() if abs(q - p) >= 10}


def test_other_right_answers_pass():
    def by_striking_out(place, latent, value, which, k, apart):
        place, value = torch.tensor(place[latent == which]), torch.tensor(value[latent == which])
        found = []
        while len(found) < k and len(place):
            found.append(place[value.argmax()])
            far = (place - found[-1]).abs() >= apart
            place, value = place[far], value[far]
        return torch.stack(found)

    def by_sorting(activations):
        on = np.sort(activations[activations > 0])
        return [float(on[round(len(on) * i / 10)]) for i in range(1, 10)]

    def by_comprehension(ids, activation, keep=0.8):
        return next(list(ids[i:]) for i in reversed(range(len(ids))) if activation(ids[i:]) >= keep * activation(ids))

    def by_rates(value, label, test, threshold):
        value, label = torch.tensor(value[test]), torch.tensor(label[test])
        precision, recall = label[value > threshold].double().mean(), (value[label] > threshold).double().mean()
        return precision, recall, 2 / (1 / precision + 1 / recall)

    answers = {"5.1": by_striking_out, "5.2": by_sorting, "5.3": by_comprehension, "5.4": by_rates}
    for name, answer in answers.items():
        assert judge(EXERCISES[name], answer, NOWHERE).passed, judge(EXERCISES[name], answer, NOWHERE)


# -- nothing written yet, and anything at all


@functions
def test_a_stub_is_not_yet(name):
    answers.stubs_are_not_yet(EXERCISES[name], NOWHERE)


@functions
@pytest.mark.parametrize("thing", [7, "text", (1, 2), [], {}, np.zeros(2), np.zeros((3, 3), int), [["a"], 2]])
def test_nothing_breaks_a_check(name, thing):
    answers.is_refused(EXERCISES[name], NOWHERE, thing)


@functions
def test_a_check_leaves_no_trace(name):
    answers.leaves_no_trace(EXERCISES[name], NOWHERE)


# -- wrong answers


def picking(order, far=None, then=lambda found, place, value: found):
    """A way to get 5.1 wrong. order: of the latent's entries; far: whether a place may join those found."""

    def answer(place, latent, value, which, k, apart):
        place, value = place[latent == which], value[latent == which]
        allowed = far or (lambda p, found, apart: all(abs(p - q) >= apart for q in found))
        found = []
        for i in order(place, value, apart):
            if len(found) < k and allowed(place[i], found, apart):
                found.append(i)
                found[-1] = place[i]
        return then(found, place, value)

    return answer


def down(place, value, apart):
    return np.argsort(-value)


def by_sum(place, value, apart):
    return np.argsort([-value[abs(place - p) < apart].sum() for p in place])


def every(place, latent, value, which, k, apart):
    return nb05.strongest(place, np.full_like(latent, which), value, which, k, apart)


def dropped(place, latent, value, which, k, apart):
    best = place[latent == which][np.argsort(-value[latent == which])[:k]]
    return [p for i, p in enumerate(best) if all(abs(p - q) >= apart for q in best[:i])]


def entries(place, latent, value, which, k, apart):
    right = nb05.strongest(place, latent, value, which, k, apart)
    return [next(i for i in range(len(place)) if place[i] == p and latent[i] == which) for p in right]


def edges(of=lambda a: a[a > 0], shares=tuple(i / 10 for i in range(1, 10)), then=lambda e, on: e):
    """A way to get 5.2 wrong: quantiles of something else, at other shares, or something else of them."""
    return lambda a: then(np.quantile(of(a), shares), a[a > 0])


def ending(length, then=lambda ids, n: ids[len(ids) - n :]):
    """A way to get 5.3 wrong. length(values of all ends, shortest first; keep): how long yours is."""

    def answer(ids, activation, keep=0.8):
        values = [activation(ids[-n:]) for n in range(1, len(ids) + 1)]
        return then(ids, length(np.array(values), keep))

    return answer


def enough(values, keep):
    return int(np.argmax(values >= keep * values[-1])) + 1


def on_the_right(ids, activation, keep=0.8):
    for n in range(1, len(ids) + 1):
        if activation(ids[:n]) >= keep * activation(ids):
            return ids[:n]


def from_zero(ids, activation, keep=0.8):
    for n in range(len(ids)):
        if activation(ids[-n:]) >= keep * activation(ids):
            return ids[-n:]


def greedy(ids, activation, keep=0.8):
    whole = activation(ids)
    while len(ids) > 1 and activation(ids[1:]) >= keep * whole:
        ids = ids[1:]
    return ids


def scoring(
    where=lambda test: test, over=lambda v, t: v > t, swap=False, f1=lambda p, r: 2 * p * r / (p + r), own=lambda *x: x
):
    """A way to get 5.4 wrong: other tokens, another comparison, another F1; own: (p, r, F1, said, true) -> result."""

    def answer(value, label, test, threshold):
        said, true = over(value[where(test)], threshold), label[where(test)]
        p, r = (said & true).sum() / said.sum(), (said & true).sum() / true.sum()
        found = (r, p, f1(p, r)) if swap else (p, r, f1(p, r))
        return own(*found, said, true)[:3]

    return answer


WRONG = {
    "5.1": {
        "overlapping": picking(down, lambda p, found, apart: True),
        "ascending": picking(down, then=lambda found, *_: found[::-1]),
        "text order": picking(down, then=lambda found, *_: sorted(found)),
        "weakest": picking(lambda p, v, a: np.argsort(v)),
        "weakest, overlapping": picking(lambda p, v, a: np.argsort(v), lambda p, found, apart: True),
        "all latents": every,
        "not filled up": dropped,
        "the one before": picking(down, lambda p, found, apart: not found or abs(p - found[-1]) >= apart),
        "touching": picking(down, lambda p, found, apart: all(abs(p - q) > apart for q in found)),
        "first come": picking(lambda p, v, a: range(len(p))),
        "by sum": picking(by_sum),
        "values": picking(down, then=lambda found, place, value: [value[list(place).index(p)] for p in found]),
        "numbers": picking(down, then=lambda found, place, value: [list(place).index(p) for p in found]),
        "entries": entries,
        "one too few": lambda *given: nb05.strongest(*given[:4], given[4] - 1, given[5]),
        "always six": lambda *given: nb05.strongest(*given[:4], 6, given[5]),
        "half as far": lambda *given: nb05.strongest(*given[:5], 4),
        "a table": lambda *given: np.zeros((6, 2)),
        "a number": 3,
    },
    "5.2": {
        "zeros": edges(of=lambda a: a),
        "value bins": edges(then=lambda e, on: on.max() * np.arange(1, 10) / 10),
        "even": edges(then=lambda e, on: np.linspace(on.min(), on.max(), 11)[1:-1]),
        "both ends": edges(shares=np.arange(11) / 10),
        "first end": edges(shares=np.arange(10) / 10),
        "last end": edges(shares=np.arange(1, 11) / 10),
        "descending": edges(then=lambda e, on: e[::-1]),
        "percent": edges(shares=np.arange(1, 10) / 100),
        "quartiles": edges(shares=(0.25, 0.5, 0.75)),
        "means": edges(then=lambda e, on: [part.mean() for part in np.array_split(np.sort(on), 10)]),
        "sizes": edges(then=lambda e, on: [len(part) for part in np.array_split(on, 10)]),
        "eight": edges(shares=np.arange(1, 9) / 9),
        "others": edges(then=lambda e, on: e**2),
        "a number": 3,
    },
    "5.3": {
        "right": on_the_right,
        "from zero": from_zero,
        "greedy": greedy,
        "largest": ending(lambda v, keep: int(np.argmax(v >= keep * v.max())) + 1),
        "keep itself": ending(lambda v, keep: int(np.argmax(v >= keep)) + 1),
        "more than": ending(lambda v, keep: int(np.argmax(v > keep * v[-1])) + 1),
        "all of it": ending(lambda v, keep: int(np.argmax(v >= v[-1])) + 1),
        "strongest": ending(lambda v, keep: int(v.argmax()) + 1),
        "too short": ending(lambda v, keep: enough(v, keep) - 1),
        "too long": ending(lambda v, keep: enough(v, keep) + 1),
        "its length": ending(enough, lambda ids, n: n),
        "last lost": ending(enough, lambda ids, n: ids[-n:-1]),
        "turned": ending(enough, lambda ids, n: ids[-n:][::-1]),
        "keep not used": ending(lambda v, keep: enough(v, 0.8)),
        "another": ending(lambda v, keep: 7),
        "a number": 3,
    },
    "5.4": {
        "all documents": scoring(where=lambda test: test | True),
        "train documents": scoring(where=lambda test: ~test),
        "swapped": scoring(swap=True),
        "plain mean": scoring(f1=lambda p, r: (p + r) / 2),
        "geometric mean": scoring(f1=lambda p, r: (p * r) ** 0.5),
        "half": scoring(f1=lambda p, r: p * r / (p + r)),
        "accuracy": scoring(own=lambda p, r, f, said, true: ((said == true).mean(), r, f)),
        "accuracies": scoring(own=lambda p, r, f, said, true: ((said == true).mean(),) * 3),
        "recall of all": scoring(own=lambda p, r, f, said, true: (p, (said & true).mean(), f)),
        "precision of all": scoring(own=lambda p, r, f, said, true: ((said & true).mean(), r, f)),
        "no threshold": scoring(over=lambda v, t: v > 0),
        "at least": scoring(over=lambda v, t: v >= t),
        "below": scoring(over=lambda v, t: v < t),
        "not above": scoring(over=lambda v, t: v <= t),
        "percent": scoring(own=lambda p, r, f, said, true: (100 * p, 100 * r, 100 * f)),
        "two": lambda *given: nb05.scores(*given)[:2],
        "others": scoring(own=lambda p, r, f, said, true: (p / 2, r, f)),
        "a number": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_get_messages_of_their_own(name):
    answers.wrong_answers_differ(EXERCISES[name], NOWHERE, WRONG[name])


# -- words


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_is_complete(name):
    answers.is_complete(EXERCISES[name])


def test_questions_have_one_right_answer_and_a_reason():
    answers.questions_are_sound(nb05.QUESTIONS)
