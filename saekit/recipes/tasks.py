"""Known-answer tasks: prompts whose right continuation is known by construction. Seeded generators and their scores.

Each task is a list of `Prompt`s; `accuracy` asks whether the right token beats the other candidates. Chance levels and
95 % Wilson intervals go with every share.
"""

import random
from typing import Any, NamedTuple

import torch
from scipy.stats import binomtest
from torch.nn import functional as F

N = 200
NAMES = (
    "name path value data size width index key line code text file items count start end node type level mode "
    "module func args obj message result parent offset flags default prefix encoding filename timeout"
).split()
CLOSERS = {"(": ")", "[": "]", "{": "}"}


class Prompt(NamedTuple):
    text: str
    answers: tuple[str, ...]  # tokens that are right
    others: tuple[str, ...] = ()  # the candidates it is held against; none: the whole vocabulary


def bracket_closing(depth: int, n: int = N, seed: int = 0) -> list[Prompt]:
    """`x = f(a[b{c` at a given depth; right is the closer of the innermost bracket, against the other two."""
    rng = random.Random(seed)
    prompts = []
    for _ in range(n):
        opened = rng.choices("([{", k=depth)
        text = f"{rng.choice(NAMES)} = {rng.choice(NAMES)}" + "".join(b + rng.choice(NAMES) for b in opened)
        right = CLOSERS[opened[-1]]
        prompts.append(Prompt(text, (right,), tuple(c for c in CLOSERS.values() if c != right)))
    return prompts


def attribute_copying(n: int = N, seed: int = 0) -> list[Prompt]:
    """`def __init__(self, A, B, C):` and `self.B =`; right is B, against A and C."""
    rng = random.Random(seed)
    prompts = []
    for _ in range(n):
        names = rng.sample(NAMES, 3)
        right = rng.choice(names)
        text = f"class Item:\n    def __init__(self, {', '.join(names)}):\n        self.{right} ="
        prompts.append(Prompt(text, (f" {right}",), tuple(f" {x}" for x in names if x != right)))
    return prompts


def docstring_closing(comment: bool, n: int = N, seed: int = 0) -> list[Prompt]:
    """The start of a line in an open docstring, or the same words in a comment; the answer is three quotes."""
    rng = random.Random(seed)
    opener = "# " if comment else '"""'
    return [
        Prompt(f"def {a}({b}):\n    {opener}Return the {c} of the {b}.\n    ", ('"""',))
        for a, b, c in (rng.sample(NAMES, 3) for _ in range(n))
    ]


def keywords(n: int = N, seed: int = 0) -> list[Prompt]:
    """Six places where one keyword must come."""
    rng = random.Random(seed)
    forms = [
        ("for {a}", (" in",)),
        ("from {a}", (" import", ".")),
        ("with open({a})", (" as",)),
        ("try:\n    {a} = {b}()\n", ("except", "finally")),
        ("{a} = [{b} for {b}", (" in",)),
        ("if {a} is not None and {b} not", (" in",)),
    ]
    chosen = [forms[i % len(forms)] for i in range(n)]
    return [Prompt(form.format(a=rng.choice(NAMES), b=rng.choice(NAMES)), answers) for form, answers in chosen]


@torch.no_grad()
def probabilities(model: Any, prompts: list[Prompt]) -> torch.Tensor:
    """[prompt, vocab]: what the model expects after each prompt."""
    rows = [model(model.to_tokens(p.text, prepend_bos=True))[0, -1].softmax(-1) for p in prompts]
    return torch.stack(rows)


def token(model: Any, piece: str) -> int:
    """The first token of a piece; the candidates of a task differ in it."""
    return model.tokenizer(piece, add_special_tokens=False).input_ids[0]


def accuracy(model: Any, prompts: list[Prompt]) -> dict[str, float]:
    """Share of prompts where a right token beats every other candidate, with its 95 % Wilson interval."""
    right = 0
    for p, row in zip(prompts, probabilities(model, prompts), strict=True):
        answers = [token(model, a) for a in p.answers]
        if p.others:
            others = row[[token(model, o) for o in p.others]].max()
        else:
            others = row.index_fill(0, torch.tensor(answers), 0).max()
        right += int(row[answers].max() > others)
    interval = binomtest(right, len(prompts)).proportion_ci(method="wilson")
    chance = 1 / (1 + len(prompts[0].others)) if prompts[0].others else 0.0
    return {
        "value": right / len(prompts),
        "low": interval.low,
        "high": interval.high,
        "chance": chance,
        "n": len(prompts),
    }


def mean_probability(model: Any, prompts: list[Prompt]) -> float:
    rows = probabilities(model, prompts)
    return sum(row[token(model, p.answers[0])].item() for p, row in zip(prompts, rows, strict=True)) / len(prompts)


@torch.no_grad()
def induction(model: Any, n: int = N, length: int = 32, seed: int = 0) -> dict[str, float]:
    """Mean loss in nats on the first and the second copy of random tokens."""
    g = torch.Generator().manual_seed(seed)
    half = torch.randint(1, model.cfg.d_vocab, (n, length), generator=g)
    ids = torch.cat([torch.full((n, 1), model.tokenizer.bos_token_id), half, half], dim=1)
    losses = torch.cat(
        [F.cross_entropy(model(b)[:, :-1].transpose(1, 2), b[:, 1:], reduction="none") for b in ids.split(50)]
    )
    first, second = losses[:, :length].mean().item(), losses[:, length:].mean().item()
    return {"first_copy_loss": first, "second_copy_loss": second, "drop": first - second, "n": n}


def known_answers(model: Any) -> dict[str, Any]:
    """Every task's score on one model."""
    inside, outside = (mean_probability(model, docstring_closing(comment)) for comment in (False, True))
    return {
        "K1_induction_random_tokens": induction(model),
        "K2_bracket_closing_accuracy": {f"depth_{d}": accuracy(model, bracket_closing(d)) for d in (1, 2, 3)},
        "K3_attribute_copying_accuracy": accuracy(model, attribute_copying()),
        "K4_docstring_close_probability": {"in_docstring": inside, "in_comment": outside, "n": N},
        "K5_keyword_top1": accuracy(model, keywords()),
    }
