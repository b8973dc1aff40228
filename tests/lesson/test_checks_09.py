"""Notebook 09: references, a message for each wrong answer, pairs of prompts, and what the notebook shows."""

import json

import numpy as np
import pytest
import torch

import saekit as sk
from saekit.lesson import known, nb09
from saekit.lesson import nb09_shown as shown
from saekit.lesson.exercise import Setting, judge
from saekit.lesson.frame import MEASURED
from tests.lesson import answers

EXERCISES = {exercise.id: exercise for exercise in nb09.CHAPTER.exercises}
FUNCTIONS = [name for name, exercise in EXERCISES.items() if not exercise.runs]
functions = pytest.mark.parametrize("name", FUNCTIONS)


@pytest.fixture(scope="module")
def setting() -> Setting:
    """What the notebook has: whether an answer flips depends on the model."""
    return Setting(sk.load_model(), None)


@functions
def test_the_reference_passes_and_its_printed_source_too(name, setting):
    answers.reference_passes(EXERCISES[name], setting, {"torch": torch})


@functions
def test_a_stub_is_not_yet(name, setting):
    answers.stubs_are_not_yet(EXERCISES[name], setting)


@functions
@pytest.mark.parametrize(
    "thing", [-1, 0.5, "text", "x = f(a", (1, 2), [], {}, torch.zeros(2), torch.zeros(5, 9), [["a"], 2]]
)
def test_nothing_breaks_a_check(name, thing, setting):
    answers.is_refused(EXERCISES[name], setting, thing)


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_is_complete(name):
    answers.is_complete(EXERCISES[name])


def test_questions():
    answers.questions_are_sound(nb09.QUESTIONS)


def test_other_right_answers_pass(setting):
    def by_list(text):
        places = [i for i, character in enumerate(text) if character in "([{"]
        characters = [*text]
        characters[places[-1]] = next(mark for mark in "{[(" if mark != text[places[-1]])
        return "".join(characters)

    def by_einsum(gradient, f, f_patch, error, error_patch, W_dec):
        slope = torch.einsum("pd,ld->pl", gradient, W_dec)
        return [slope * f_patch - slope * f, torch.einsum("pd,pd->p", gradient, error_patch - error)]

    def by_gauss(gradient_at, x, x_patch, n):
        points, weights = np.polynomial.legendre.leggauss(n)
        grads = [w / 2 * gradient_at(x + (p + 1) / 2 * (x_patch - x)) for p, w in zip(points, weights, strict=True)]
        return sum(grads) * (x_patch - x)

    def by_linspace(gradient_at, x, x_patch, n):
        grads = torch.stack([gradient_at(x + a * (x_patch - x)) for a in torch.linspace(0, 1, n)])
        return torch.trapezoid(grads, dx=1 / (n - 1), dim=0) * (x_patch - x)

    def by_array(m_of, latents, sizes):
        m = np.array([m_of(latents[:n]) for n in (0, len(latents), *sizes)])
        return (m[2:] - m[0]) / (m[1] - m[0])

    for name, answer in (
        ("9.1", by_list),
        ("9.2", by_einsum),
        ("9.3", by_gauss),
        ("9.3", by_linspace),
        ("9.4", by_array),
    ):
        verdict = judge(EXERCISES[name], answer, setting)
        assert verdict.passed, (name, verdict.message)


def last_as(mark):
    """A way to get 9.1 wrong: something else in the place of the last bracket."""

    def answer(text):
        last = max(text.rfind(bracket) for bracket in "([{")
        return text[:last] + mark + text[last + 1 :]

    return answer


def swapped_first(text):
    first = min(i for i, character in enumerate(text) if character in "([{")
    return text[:first] + {"(": "[", "[": "{", "{": "("}[text[first]] + text[first + 1 :]


def effects(latents, error=lambda g, e, p: ((p - e) * g).sum(-1)):
    """A way to get 9.2 wrong."""
    return lambda g, f, p, e, ep, W: (latents(g @ W.T, f, p), error(g, e, ep))


def right(slope, f, p):
    return (p - f) * slope


def way(points, step=lambda x, p: p - x, over=lambda g: g.mean(0), start=lambda x: x):
    """A way to get 9.3 wrong."""

    def answer(gradient_at, x, x_patch, n):
        line = x_patch - start(x)
        grads = torch.stack([gradient_at(start(x) + a * line) for a in points(n)])
        return step(x, x_patch) * over(grads)

    return answer


def middles(n):
    return [(i + 0.5) / n for i in range(n)]


def shares(kept=lambda latents, n: latents[:n], of=lambda m, none, whole: (m - none) / (whole - none)):
    """A way to get 9.4 wrong."""
    return lambda m_of, latents, sizes: [of(m_of(kept(latents, n)), m_of([]), m_of(latents)) for n in sizes]


WRONG = {
    "9.1": {
        "unchanged": lambda text: text,
        "a number": lambda text: 3,
        "longer": lambda text: text + " and more",
        "first bracket": swapped_first,
        "every bracket": lambda text: text.translate(str.maketrans("([{", "[{(")),
        "closed": last_as(")"),
        "no bracket": last_as("="),
    },
    "9.2": {
        "latents only": lambda g, f, p, e, ep, W: (p - f) * (g @ W.T),
        "one number": lambda g, f, p, e, ep, W: 3.0,
        "sign": effects(lambda s, f, p: (f - p) * s),
        "to zero": effects(lambda s, f, p: -f * s),
        "activation": effects(lambda s, f, p: f * s),
        "patch": effects(lambda s, f, p: p * s),
        "slope": effects(lambda s, f, p: s),
        "change": effects(lambda s, f, p: p - f),
        "absolute slope": effects(lambda s, f, p: (p - f) * s.abs()),
        "absolute": effects(lambda s, f, p: ((p - f) * s).abs()),
        "summed": effects(lambda s, f, p: ((p - f) * s).sum(0)),
        "on in both": effects(lambda s, f, p: (p - f) * s * (f > 0) * (p > 0)),
        "on here": effects(lambda s, f, p: (p - f) * s * (f > 0)),
        "something": effects(lambda s, f, p: s * s),
        "error by dimension": effects(right, lambda g, e, p: (p - e) * g),
        "error as one": effects(right, lambda g, e, p: ((p - e) * g).sum()),
        "error to zero": effects(right, lambda g, e, p: -(e * g).sum(-1)),
        "other error": effects(right, lambda g, e, p: g.sum(-1)),
    },
    "9.3": {
        "turned": way(middles, step=lambda x, p: x - p),
        "start": way(lambda n: [0.0]),
        "end": way(lambda n: [1.0]),
        "middle": way(lambda n: [0.5]),
        "no step": way(middles, step=lambda x, p: 1.0),
        "sum": way(middles, over=lambda g: g.sum(0)),
        "left": way(lambda n: [i / n for i in range(n)]),
        "right": way(lambda n: [(i + 1) / n for i in range(n)]),
        "from zero": way(middles, step=lambda x, p: p - x, start=lambda x: 0 * x),
        "always 50": lambda gradient_at, x, p, n: way(middles)(gradient_at, x, p, 50),
        "patch times gradient": way(middles, step=lambda x, p: p),
    },
    "9.4": {
        "none above": shares(of=lambda m, none, whole: m / whole),
        "none below": shares(of=lambda m, none, whole: (m - none) / whole),
        "difference": shares(of=lambda m, none, whole: m - none),
        "m": shares(of=lambda m, none, whole: m),
        "missing": shares(of=lambda m, none, whole: (whole - m) / (whole - none)),
        "complement": shares(lambda latents, n: latents[n:]),
        "weakest": shares(lambda latents, n: latents[len(latents) - n :]),
        "one more": shares(lambda latents, n: latents[: n + 1]),
        "alone": shares(lambda latents, n: latents[:n][-1:]),
        "percent": shares(of=lambda m, none, whole: 100 * (m - none) / (whole - none)),
        "one size": lambda m_of, latents, sizes: shares()(m_of, latents, sizes[:1]),
        "something": shares(of=lambda m, none, whole: m * m),
    },
}  # fmt: skip


@functions
def test_a_wrong_answer_gets_a_message_of_its_own(name, setting):
    said = answers.wrong_answers_differ(EXERCISES[name], setting, WRONG[name])
    assert len(said) == len(WRONG[name])


def test_each_message_is_about_its_slip(setting):
    said = {name: answers.wrong_answers_differ(EXERCISES[name], setting, WRONG[name]) for name in FUNCTIONS}
    for name, slip, word in (
        ("9.1", "longer", "tokens"), ("9.1", "first bracket", "not the last"), ("9.1", "every bracket", "2 tokens"),
        ("9.1", "unchanged", "as it was"), ("9.1", "closed", "closed"), ("9.2", "latents only", "errors are missing"),
        ("9.2", "sign", "sign is turned"), ("9.2", "to zero", "to 0"), ("9.2", "error to zero", "not to 0"),
        ("9.3", "turned", "turned"), ("9.3", "left", "begin at 0"), ("9.3", "sum", "mean"),
        ("9.3", "always 50", "n used"),
        ("9.4", "none above", "not taken away"), ("9.4", "complement", "complement"), ("9.4", "weakest", "strongest"),
    ):  # fmt: skip
        assert word in said[name][slip], (name, slip, said[name][slip])


# -- 9.5


def test_a_prompt_that_fails_is_found_and_others_are_named(setting):
    exercise = EXERCISES["9.5"]
    text, said = exercise.reference(setting)
    assert nb09.closer(setting.model, text) == said != nb09.stack(text)[-1]
    assert judge(exercise, (text, said), setting).passed and judge(exercise, [text, said], setting).passed
    third = next(mark for mark in ")]}" if mark not in (said, nb09.stack(text)[-1]))
    wrong = {
        "passes": ("x = f(a[b", ")"), "other closer": (text, third), "no closer": (text, "("), "a text": text,
        "not open": ("f(a)]", ")"), "nothing open": ("f(a)", ")"), "numbers": (1, 2), "long": ("(a, " * 40, ")"),
    }  # fmt: skip
    verdicts = {name: judge(exercise, answer, setting) for name, answer in wrong.items()}
    assert not [name for name, verdict in verdicts.items() if verdict.passed is not False]
    words = {
        "passes": "correctly", "other closer": "another closer", "no closer": "no closing", "a text": "two texts",
        "not open": "not open", "nothing open": "nothing to close", "numbers": "two texts", "long": "at most 60",
    }  # fmt: skip
    for name, word in words.items():
        assert word in verdicts[name].message, (name, verdicts[name].message)
    assert judge(exercise, ..., setting).passed is None


def test_a_stack_of_brackets():
    assert nb09.stack("f(a[b{c") == [")", "]", "}"] and nb09.stack("f(a[b]") == [")"] and nb09.stack("a") == []
    for text in ("a)", "f(a]"):
        with pytest.raises(ValueError, match="not open"):
            nb09.stack(text)


# -- pairs


@pytest.mark.parametrize("make", [*known.TASKS.values(), known.copying_few, known.induction_few])
def test_pairs_have_one_answer_each(make, setting):
    pairs = make(setting.model, 12)
    assert pairs.clean.shape == pairs.patch.shape == (12, pairs.clean.shape[1])
    assert ((pairs.clean != pairs.patch).sum(1) == 1).all() and (pairs.right != pairs.wrong).all()
    again = make(setting.model, 12)
    assert all(torch.equal(a, b) for a, b in zip(pairs, again, strict=True))
    assert not torch.equal(pairs.clean, make(setting.model, 12, seed=1).clean)
    clean = known.margins(setting.model, pairs.clean, pairs.right, pairs.wrong)
    patch = known.margins(setting.model, pairs.patch, pairs.right, pairs.wrong)
    assert (clean > 0).float().mean() > 0.7 > 0.3 > (patch > 0).float().mean()
    logits = setting.model(pairs.clean[:1])[0, -1]
    assert clean[0] == pytest.approx(float(logits[pairs.right[0]] - logits[pairs.wrong[0]]), abs=1e-3)


def test_pairs_that_do_not_match_are_refused(setting):
    for row in (("a b", "a b c", ")", "]"), ("a", "b", "two words", "]")):
        with pytest.raises(ValueError, match="different lengths"):
            known.pairs(setting.model, [row])


# -- what is shown


def test_at_site_gives_what_attribute_adds_up(setting):
    coder, pairs = sk.load("tiny-python/resid.1/batch_topk"), known.brackets(setting.model, 2)
    latents, errors = nb09.attribution(*shown.at_site(setting.model, coder, pairs))
    table = sk.attribute(setting.model, coder, pairs.clean[0], pairs.targets[0], patch=pairs.patch[0])
    sums = table.groupby("kind")["effect"].sum()
    assert float(latents.sum()) == pytest.approx(sums["latent"], rel=1e-3)
    assert float(errors.sum()) == pytest.approx(sums["error"], rel=1e-3, abs=1e-3)


def test_kinds_of_brackets_are_told_apart(setting):
    assert [*shown.last_opened(["f", "(", "a", "[", "b"])] == ["", "(", "(", "[", "["]
    coder, pairs = sk.load("tiny-python/resid.2/batch_topk"), known.brackets(setting.model, 16)
    circuit = sk.feature_circuit(setting.model, coder, pairs.clean, pairs.targets, patch=pairs.patch, edges=0)
    table = shown.by_kind(setting.model, [coder], circuit.latents(2), pairs.clean)
    kinds = table[["(", "[", "{"]].to_numpy()
    assert (kinds.max(1) > 4 * np.median(kinds, 1)).all()  # each stands for one kind


def test_what_was_measured_reaches_what_the_notebook_claims():
    found = json.loads(MEASURED.read_text())["circuits"]
    table = shown.measured(found)
    brackets = table.loc["brackets"]
    assert brackets["F, errors kept"] > 0.8 and abs(brackets["random"]) < 0.2 and brackets["flips"] > 0.5
    assert abs(brackets["complement"]) < 0.2
    for by in ("position", "sum"):
        kept = shown._at(found["brackets"][by], "errors kept", shown.AT)
        assert kept["share"] < 0.05 and kept["circuit"] > 0.8 and kept["random"] < 0.2
    assert table.loc["copying of six names", "F, errors kept"] > 0.8 > table.loc["copying", "F, errors kept"]
    assert table["F, errors kept"].idxmin() == "induction"
    levels = shown.levels(found)
    lost = 1 - levels["all latents, no errors"] / levels["margin"]
    assert lost.idxmax() == "induction" and lost["induction"] > 0.3
    assert (shown.agreement(found)["one gradient"] > 0.8).all()
