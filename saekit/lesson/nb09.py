"""Exercises and quiz of notebook 09. The references have no annotations, so that a solution runs where it is pasted."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .exercise import Chapter, Exercise, Question, Setting, first_fault, not_a_function, tried
from .known import CLOSERS, NAMES

TEXTS = ("x = f(a[b", "size = data{line(key", "x = f[a[b", "node = path(value{text[mode", "x = f(a")


def same(a: Any, b: Any, tolerance: float = 1e-4) -> bool:
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * (1 + b.abs().max()))


# -- 9.1


def corrupt(text):
    """The same text with another kind of bracket opened last. It opens at least one, and closes none."""
    last = max(text.rfind(bracket) for bracket in "([{")
    other = {"(": "[", "[": "{", "{": "("}[text[last]]
    return text[:last] + other + text[last + 1 :]


def stack(text: str) -> list[str]:
    """The closers that are still to come, the next one last. Raises ValueError for brackets that do not match."""
    found: list[str] = []
    for character in text:
        if character in CLOSERS:
            found.append(CLOSERS[character])
        elif character in CLOSERS.values() and (not found or found.pop() != character):
            raise ValueError(f"{text!r} closes a bracket that is not open")
    return found


@torch.no_grad()
def closer(model: Any, text: str) -> str:
    """The closing bracket that the model finds likeliest after a text."""
    logits = model(model.to_tokens(text, prepend_bos=True))[0, -1]
    ids = {c: model.tokenizer.encode(c, add_special_tokens=False)[0] for c in CLOSERS.values()}
    return max(ids, key=lambda c: float(logits[ids[c]]))


def _corrupt_faults(answer: Any, setting: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "corrupt")
    for text in TEXTS:
        got = tried(answer, text)
        if not isinstance(got, str):
            yield f"A {type(got).__name__} came back. Wanted is a text."
        if got == text:
            yield "The text came back as it was. A pair has to differ in what the answer hangs on."
        yield from _pair_faults(setting.model, text, got)


def _pair_faults(model: Any, text: str, got: str) -> Iterator[str]:
    a, b = (model.to_tokens(each, prepend_bos=True)[0] for each in (text, got))
    if len(a) != len(b):
        yield f"It was {len(a)} tokens and is now {len(b)}. Then positions no longer stand for the same thing."
    changed = (a != b).nonzero().flatten().tolist()
    if len(changed) != 1:
        yield f"{len(changed)} tokens changed. Change one, so that you know what made the difference."
    if any(mark in got for mark in ")]}"):
        yield "A bracket is closed in yours. Open another kind in its place."
    last = max(text.rfind(bracket) for bracket in CLOSERS)
    before, after = ([character for character in each if character in CLOSERS] for each in (text, got))
    if len(before) != len(after):
        yield "A bracket is missing or added. Put another kind in its place."
    if text[last] == got[last : last + 1]:
        yield "You changed a bracket that is not the last one, or a name. The answer closes the one opened last."
    if closer(model, got) == closer(model, text):
        yield f"On {text!r} the model gives the same answer to both. A pair needs two answers."


# -- 9.2


def attribution(gradient, f, f_patch, error, error_patch, W_dec):
    """(effect of each latent [pos, d_sae], effect of the error [pos]) of going from the prompt to the patch.

    gradient [pos, d]: dm/dx at the prompt. f [pos, d_sae], error [pos, d], W_dec [d_sae, d]."""
    return (f_patch - f) * (gradient @ W_dec.T), ((error_patch - error) * gradient).sum(-1)


def _toy() -> tuple[Tensor, ...]:
    """(gradient, f, f_patch, error, error_patch, W_dec) of 5 positions, 6 dimensions, 9 latents."""
    draw = torch.Generator().manual_seed(0)
    f, f_patch = torch.randn(2, 5, 9, generator=draw).relu()
    rest = torch.randn(3, 5, 6, generator=draw)
    return rest[0], f, f_patch, rest[1], rest[2], torch.randn(9, 6, generator=draw)


def _latent_slips() -> Iterator[tuple[Tensor, str]]:
    gradient, f, f_patch, _, _, W_dec = _toy()
    slope, change = gradient @ W_dec.T, f_patch - f
    yield -change * slope, "The sign is turned. The effect is of going to the patch: the patch less the prompt."
    yield -f * slope, "You take each latent to 0. The question is what it becomes in the patch."
    yield f * slope, "You multiply with the activation itself. Multiply with its change, from the prompt to the patch."
    yield f_patch * slope, "You multiply with the patch's activation. Multiply with the change from the prompt to it."
    yield slope, "That is the gradient of each latent. Multiply with how far it moves."
    yield change, "That is how far each latent moves. Multiply with what a step of it does to m."
    yield change * slope.abs(), "The gradient lost its sign. A latent can lower m as well as raise it."
    yield (change * slope).abs(), "The effects lost their sign. A latent can lower m as well as raise it."
    yield (change * slope).sum(0), "The positions are summed. Keep one row for each."
    on_both = change * slope * (f > 0) * (f_patch > 0)
    yield on_both, "Only latents that are on in both count in yours. One that is on in the patch alone changes too."
    yield change * slope * (f > 0), "Latents that are on only in the patch are missing. They change too, from 0."


def _attribution_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "attribution")
    toy = _toy()
    gradient, _, _, error, error_patch, _ = toy
    right, right_error = attribution(*toy)
    got = tried(answer, *(part.clone() for part in toy))
    if torch.is_tensor(got) and got.shape == right.shape:
        yield "The errors are missing. What the coder leaves out carries a part of the effect: give it as well."
    if not isinstance(got, tuple | list) or len(got) != 2:
        yield "Two things are wanted: the effects of the latents, and those of the error."
    latents, errors = (torch.as_tensor(part) for part in got)
    if not same(latents, right):
        yield from (said for slip, said in _latent_slips() if same(latents, slip))
        yield f"The latents' effects are others, of shape {tuple(latents.shape)}; wanted are {tuple(right.shape)}."
    if not same(errors, right_error):
        moved = (error_patch - error) * gradient
        if same(errors, moved):
            yield "The error is one node at each position: sum over the dimensions of the stream."
        if same(errors, moved.sum()):
            yield "The error is one node at each position, so that there is one number for each."
        if same(errors, -right_error) or same(errors, -(error * gradient).sum(-1)):
            yield "The latents are right. The error too goes to what it is in the patch: not to 0, not the other way."
        yield f"The latents are right. The errors' effects are others, of shape {tuple(errors.shape)}."


# -- 9.3


def integrated(gradient_at, x, x_patch, n):
    """(x_patch - x) times the gradient, averaged over n points along the straight way from x to x_patch.

    gradient_at(x): the gradient of m there, as a tensor of x's shape."""
    points = [(i + 0.5) / n for i in range(n)]
    return (x_patch - x) * sum(gradient_at(x + a * (x_patch - x)) for a in points) / n


class _Curve:
    """m(x) = sum of c x^4 + x_0 x_1, which bends; its gradient, and where it was asked."""

    c = torch.tensor([1.0, -2.0, 0.5])
    x, x_patch = torch.tensor([0.2, 1.0, 0.5]), torch.tensor([1.2, -0.5, 2.0])

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def m(self, x: Tensor) -> Tensor:
        return (self.c * x**4).sum() + x[0] * x[1]

    def gradient(self, x: Tensor) -> Tensor:
        self.asked.append(torch.as_tensor(x).detach().clone())
        return 4 * self.c * x**3 + torch.stack([x[1], x[0], 0 * x[2]])

    def along(self, points: Sequence[float]) -> Tensor:
        """Change times the mean gradient at these shares of the way."""
        step = self.x_patch - self.x
        return step * torch.stack([self.gradient(self.x + a * step) for a in points]).mean(0)


def _way_slips(n: int) -> Iterator[tuple[Tensor, str]]:
    curve = _Curve()
    right = curve.along([(i + 0.5) / n for i in range(n)])
    yield -right, "The sign is turned, as if the way went from the patch to the prompt."
    yield curve.along([0.0]), "That is the gradient at the prompt alone. Average it along the way."
    yield curve.along([1.0]), "That is the gradient at the patch alone. Average it along the way."
    yield right / (curve.x_patch - curve.x), "That is the averaged gradient. Multiply with how far x moves."
    yield n * right, f"{n} times too large: you add up over the points. Take the mean."
    left, end = [i / n for i in range(n)], [(i + 1) / n for i in range(n)]
    yield (
        curve.along(left),
        "Your points begin at 0 and stop short of 1, which favours the prompt. Shift them by half a step.",
    )
    yield (
        curve.along(end),
        "Your points leave out 0 and end at 1, which favours the patch. Shift them back by half a step.",
    )
    yield curve.along([0.5]), "That is one gradient, in the middle of the way. Average over n points."
    step = curve.x_patch - curve.x
    scaled = step * torch.stack([curve.gradient(a * curve.x_patch) for a in [(i + 0.5) / n for i in range(n)]]).mean(0)
    yield scaled, "Your way begins at 0. It should begin at the prompt."


def _integrated_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "integrated")
    for n in (50, 20):
        curve = _Curve()
        got = torch.as_tensor(tried(answer, curve.gradient, curve.x.clone(), curve.x_patch.clone(), n)).float()
        exact = curve.along([(i + 0.5) / 200 for i in range(200)])
        curve = _Curve()
        if not same(got, exact, 0.005):
            yield from (said for slip, said in _way_slips(n) if same(got, slip))
            yield "The effects do not add up to the change of m. Where are your points, and what are they weighed by?"
        asked = _Curve()
        tried(answer, asked.gradient, asked.x.clone(), asked.x_patch.clone(), n)
        if abs(len(asked.asked) - n) > 1:
            yield f"Right, but the gradient was asked for {len(asked.asked)} times where n is {n}. Is n used?"


# -- 9.4


def faithfulness(m_of, latents, sizes):
    """For each size n, the share of m that the first n latents bring back: (m(C) - m(none)) / (m(all) - m(none)).

    m_of(kept): m with these latents as they are and all others at their mean. latents: strongest first."""
    none, whole = m_of([]), m_of(latents)
    return [(m_of(latents[:n]) - none) / (whole - none) for n in sizes]


LATENTS, SIZES = [41, 7, 19, 3, 88, 26, 64, 55], (0, 1, 2, 4, 6, 8)


def _m_of(kept: Any) -> float:
    """A made-up m: some latents help, one harms, two need each other; with none of them 1.5 is left."""
    kept = {int(i) for i in kept}
    if unknown := kept - {*LATENTS}:
        raise ValueError(f"there is no latent {sorted(unknown)[0]}")
    give = {41: 2.0, 7: 1.2, 19: 1.0, 3: 0.7, 88: -0.4, 26: 0.3, 64: 0.2, 55: 0.1}
    return 1.5 + sum(give[i] for i in kept) + (0.9 if {41, 19} <= kept else 0.0)


def _share_slips() -> Iterator[tuple[list[float], str]]:
    none, whole = _m_of([]), _m_of(LATENTS)

    def shares(kept: Callable[[int], Sequence[int]]) -> list[float]:
        return [(_m_of(kept(n)) - none) / (whole - none) for n in SIZES]

    m = [_m_of(LATENTS[:n]) for n in SIZES]
    yield [x / whole for x in m], "m(none) is not taken away. A model without any latent would not come out at 0."
    yield (
        [(x - none) / whole for x in m],
        "m(none) is taken away above but not below, so the whole does not come out at 1.",
    )
    yield [x - none for x in m], "These are differences of m. Divide by what all latents together make."
    yield m, "These are values of m. Wanted is the share between none, at 0, and all, at 1."
    yield (
        [(whole - x) / (whole - none) for x in m],
        "That is what is missing: it falls from 1 to 0. Wanted is what is there.",
    )
    yield shares(lambda n: LATENTS[n:]), "You keep the complement: all but the first n. Keep the first n."
    yield shares(lambda n: LATENTS[len(LATENTS) - n :]), "You keep the last n of the list. The strongest stand first."
    yield shares(lambda n: LATENTS[: n + 1]), "One latent too many at each size: of size 1 is a circuit of one."
    yield shares(lambda n: LATENTS[:n][-1:]), "You keep the n-th latent alone. A circuit of size n keeps all up to it."
    yield [100 * x for x in shares(lambda n: LATENTS[:n])], "These are percentages. Give shares, 1 for the whole."


def _share_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "faithfulness")
    got = torch.as_tensor(tried(answer, _m_of, [*LATENTS], SIZES), dtype=torch.float64)
    right = faithfulness(_m_of, LATENTS, SIZES)
    if not same(got, right):
        yield from (said for slip, said in _share_slips() if same(got, slip))
        if got.shape != (len(SIZES),):
            yield f"{got.numel()} numbers came back; give one for each of the {len(SIZES)} sizes."
        yield "These are other shares. At size 0 it should be 0, with all latents 1."


# -- 9.5


def failing(setting):
    """(a text whose open bracket the model closes wrongly, the closer it gives instead)."""
    for outer, inner in (("[", "("), ("{", "("), ("(", "[")):
        for start in range(len(NAMES) - 7):
            text = f"{NAMES[start]} = {NAMES[start + 1]}{outer}{NAMES[start + 2]}"
            text += "".join(f", {name}{inner}{name}{CLOSERS[inner]}" for name in NAMES[start + 2 : start + 7])
            if closer(setting.model, text) != stack(text)[-1]:
                return text, closer(setting.model, text)
    return None


def _failing_faults(answer: Any, setting: Setting) -> Iterator[str]:
    if not isinstance(answer, tuple | list) or len(answer) != 2 or not all(isinstance(part, str) for part in answer):
        yield "Hand over two texts: the prompt, and the closer that the model gives."
    text, said = answer
    if said not in CLOSERS.values():
        yield f"{said!r} is no closing bracket. The second text is one of ) ] }}."
    try:
        open_ = stack(text)
    except ValueError:
        yield "In your prompt a bracket is closed that is not open. Then no answer is right."
    if not open_:
        yield "No bracket is open at the end of your prompt, so there is nothing to close."
    if len(model_tokens := setting.model.to_tokens(text, prepend_bos=True)[0]) > 60:
        yield f"Your prompt has {len(model_tokens)} tokens. Find one of at most 60."
    got = closer(setting.model, text)
    if got == open_[-1]:
        yield "The model closes this one correctly. What would mislead latents that hold the kind of a bracket?"
    if got != said:
        yield "It does fail here, but with another closer than the one you predict."


QUESTIONS = (
    Question(
        "9.a",
        "A circuit has faithfulness 0.95 and its complement 0.90. What follows?",
        lambda: [
            "The circuit is what the model uses, and nothing else",
            "The circuit is enough, but the model has other ways to the answer too",
            "One of the numbers must be wrong, since they should add up to 1",
        ],
        1,
        "Enough is not the same as needed. The two numbers do not add up to 1, because ways to an answer can stand in "
        "for each other.",
    ),
    Question(
        "9.b",
        "Why does the empty circuit keep its errors when the circuit under test keeps them?",
        lambda: [
            "So that what the errors alone do is not counted for the latents",
            "Because errors cannot be computed without latents",
            "To make the number larger",
        ],
        0,
        "Errors carry a part of the answer. With them in one run and not in the other, the circuit would be praised "
        "for what the errors do.",
    ),
    Question(
        "9.c",
        "Gradient times change foretells ablation badly for one node. What is the likeliest reason?",
        lambda: [
            "The node is an error",
            "On the way to the patch the gradient changes, for example where attention turns elsewhere",
            "The patch has too many tokens",
        ],
        1,
        "A gradient is a straight line. Attention and norms bend, so a large step ends elsewhere; averaging the "
        "gradient along the way helps.",
    ),
)

CHAPTER = Chapter(
    "09",
    (
        Exercise(
            "9.1",
            "A matched pair",
            8,
            corrupt,
            first_fault(
                _corrupt_faults, "Right: as many tokens as before, one of them changed, and the answer with it."
            ),
            (
                "The answer closes the bracket that was opened last. Find it, and leave the rest alone.",
                "text.rfind(bracket) is where a kind of bracket stands last; take the largest of the three.",
                "last = max(...); another kind for text[last]; text[:last] + other + the rest",
            ),
        ),
        Exercise(
            "9.2",
            "Attribution patching",
            10,
            attribution,
            first_fault(_attribution_faults, "Right: change times gradient, for latents and for what they leave out."),
            (
                "Two factors: how far a node moves, and what a small step of it does to m.",
                "A latent writes its row of W_dec into x, so its gradient is <dm/dx, row>. The error is a part of x.",
                "gradient @ W_dec.T gives one number a latent; (error change * gradient) summed over the last axis",
            ),
        ),
        Exercise(
            "9.3",
            "Integrated gradients",
            8,
            integrated,
            first_fault(_integrated_faults, "Right: the effects add up to the change of m."),
            (
                "One gradient knows the slope at the start. Ask for it at several points of the way.",
                "Points a = 0.5/n, 1.5/n, ..., each at x + a (x_patch - x); then the mean of the gradients.",
                "a list of (i + 0.5) / n for i in range(n); sum the gradients there, divide by n, times the change",
            ),
        ),
        Exercise(
            "9.4",
            "Faithfulness",
            8,
            faithfulness,
            first_fault(_share_faults, "Right: 0 with no latent, 1 with all, and the share in between."),
            (
                "Two runs are the ends of the scale: none of the latents, and all of them.",
                "F = (m(C) - m(none)) / (m(all) - m(none)).",
                "m_of([]) and m_of(latents) once, then m_of(latents[:n]) for each size",
            ),
        ),
        Exercise(
            "9.5",
            "A prompt that must fail",
            5,
            failing,
            first_fault(_failing_faults, "It fails, and in the way that you foretold."),
            (
                "The circuit holds kinds of brackets. What if many brackets of another kind come after the open one?",
                "Open one kind, then write several short brackets of another kind that are closed again.",
                'Something like "a = b[c, d(e), f(g), ..." with five or more of them; look at which closer comes',
            ),
            runs=True,
        ),
    ),
    QUESTIONS,
)
