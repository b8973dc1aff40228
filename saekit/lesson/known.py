"""Pairs of prompts with a known answer each: the patch differs from the clean prompt in what the answer hangs on."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ..attribute import Target, logit_diff
from ..hooks import capture

CLOSERS = {"(": ")", "[": "]", "{": "}"}
NAMES = (
    "name path value data size width index key line code text file items count start end node type level mode "
    "module func args obj message result parent offset flags default prefix encoding filename timeout"
).split()
FRAME = " module func args obj message result parent offset".split(" ")[1:]
FEW = 6  # names that the closed tasks choose from


class Pairs(NamedTuple):
    """Prompts of one length: `right` answers the clean ones, `wrong` the patches. All are token ids."""

    clean: Int[Tensor, "n pos"]
    patch: Int[Tensor, "n pos"]
    right: Int[Tensor, " n"]
    wrong: Int[Tensor, " n"]

    @property
    def targets(self) -> list[Target]:
        """For each prompt, the logit of the right answer less that of the wrong one."""
        ends = zip(self.right.tolist(), self.wrong.tolist(), strict=True)
        return [replace(logit_diff(a, b), label="margin") for a, b in ends]

    def take(self, n: int) -> "Pairs":
        """The first n."""
        return Pairs(*(part[:n] for part in self))


def pairs(model: Any, texts: Sequence[tuple[str, str, str, str]]) -> Pairs:
    """(clean, patch, right, wrong) as tokens. Raises ValueError where lengths differ or an answer is several tokens."""
    ids = [[model.to_tokens(text, prepend_bos=True)[0] for text in row[:2]] for row in texts]
    ends = [[model.tokenizer.encode(text, add_special_tokens=False) for text in row[2:]] for row in texts]
    if len({len(one) for row in ids for one in row}) > 1 or any(len(end) != 1 for row in ends for end in row):
        raise ValueError("the prompts have different lengths in tokens, or an answer is not one token")
    clean, patch = (torch.stack(column) for column in zip(*ids, strict=True))
    right, wrong = (torch.tensor([end[0] for end in column]) for column in zip(*ends, strict=True))
    return Pairs(clean, patch, right, wrong)


def brackets(model: Any, n: int, depth: int = 2, seed: int = 0) -> Pairs:
    """`x = f(a[b`, and the same with another bracket opened last."""
    rng, texts = random.Random(seed), []
    for _ in range(n):
        opened, names = rng.choices("([{", k=depth), rng.choices(NAMES, k=depth + 2)
        other = rng.choice([bracket for bracket in CLOSERS if bracket != opened[-1]])

        def text(last: str, opened: list[str] = opened, names: list[str] = names) -> str:
            inner = zip([*opened[:-1], last], names[2:], strict=True)
            return f"{names[0]} = {names[1]}" + "".join(b + name for b, name in inner)

        texts.append((text(opened[-1]), text(other), CLOSERS[opened[-1]], CLOSERS[other]))
    return pairs(model, texts)


def copying(model: Any, n: int, seed: int = 0, names: Sequence[str] = NAMES) -> Pairs:
    """`def __init__(self, A, B, C):` and `self.B =`; the patch sets another of the three."""
    rng, texts = random.Random(seed), []
    for _ in range(n):
        three = rng.sample([*names], 3)
        right, wrong = rng.sample(three, 2)
        start = f"class Item:\n    def __init__(self, {', '.join(three)}):\n        self."
        texts.append((f"{start}{right} =", f"{start}{wrong} =", f" {right}", f" {wrong}"))
    return pairs(model, texts)


def induction(model: Any, n: int, seed: int = 0) -> Pairs:
    """Eight random names and the first five again; the patch has another name after the fifth."""
    rng, texts = random.Random(seed), []
    for _ in range(n):
        words = [f" {name}" for name in rng.sample(NAMES, 9)]
        right, wrong, again = words[5], words[8], "".join(words[:5])
        rest = "".join(words[6:8])
        texts.append((again + right + rest + again, again + wrong + rest + again, right, wrong))
    return pairs(model, texts)


def copying_few(model: Any, n: int, seed: int = 0) -> Pairs:
    """`copying` of six names only."""
    return copying(model, n, seed, NAMES[:FEW])


def induction_few(model: Any, n: int, seed: int = 0) -> Pairs:
    """`induction` in one text of eight words; only the name that is to be copied differs, and is one of six."""
    rng, texts = random.Random(seed), []
    before, after = ("".join(f" {name}" for name in part) for part in (FRAME[:4], FRAME[4:]))
    for _ in range(n):
        right, wrong = (f" {name}" for name in rng.sample(NAMES[:FEW], 2))
        texts.append((before + right + after + before, before + wrong + after + before, right, wrong))
    return pairs(model, texts)


TASKS: dict[str, Callable[..., Pairs]] = {"brackets": brackets, "copying": copying, "induction": induction}


@torch.no_grad()
def margins(model: Any, prompts: Int[Tensor, "n pos"], right: Tensor, wrong: Tensor) -> Tensor:
    """The logit of the right answer less that of the wrong one, of each prompt."""
    logits = capture(model, prompts, "unembed.hook_out")["unembed.hook_out"][:, -1]
    n = torch.arange(len(prompts))
    return logits[n, right] - logits[n, wrong]
