"""Explanations in words: from examples, from contrasts, from the output. Made from train documents only."""

from collections import Counter

import numpy as np

from ..corpus import pieces
from ..features import Latent
from .explanation import Explanation
from .judges import Judge, JudgeError, name_of
from .lens import lens, written
from .passages import Passage, halves
from .questions import CALM, evenly, level, numbered

SHOWN = 0.3  # of the maximum: from here on a token is highlighted
ASKED = "Say in one short phrase what the unit responds to. Name the phrase only."


def by_examples(latent: Latent, judge: Judge | None = None, *, n: int = 20, seed: int = 0) -> Explanation:
    """A judge's words for n passages that the latent fires in, evenly over the quarters of its firings.

    Tokens above 0.3 of the maximum are highlighted, and listed with `ceil(10 value / maximum)` (as in Paulo et al.
    2024). Without a judge: the tokens it fires at most often there, quoted, so that `judges.Rules` can decide them.
    Raises ValueError for a latent that never fires in the train documents, JudgeError for a judge that says nothing.
    """
    passages = _shown(latent, n, seed)
    if judge is None:
        return _of_tokens(Counter(p.tokens[i] for p in passages for i in p.marked))
    shown = _with_levels(latent, passages)
    return _asked(judge, f"{CALM} Here it is on at the tokens between << and >>.\n{shown}\n{ASKED}")


def by_contrast(latent: Latent, judge: Judge, *, n: int = 20, seed: int = 0) -> Explanation:
    """A judge's words for passages that the latent fires in beside some that are like them and that it does not.

    Those are the passages without firings that share most tokens with the others. Errors as `by_examples`.
    """
    passages = _shown(latent, n, seed)
    train, _ = halves(latent.features)
    seen = {token for p in passages for token in p.tokens}
    like = sorted(train.silent(latent, seed), key=lambda p: -len(seen & {*p.tokens}) / len({*seen, *p.tokens}))
    shown, others = _with_levels(latent, passages), numbered(like[: max(n // 2, 1)])
    return _asked(
        judge,
        f"{CALM} In these passages it is on at the tokens between << and >>.\n{shown}\n"
        f"In these it is off throughout, much as they resemble the others.\n{others}\n{ASKED}",
    )


def by_output(latent: Latent, judge: Judge | None = None, *, n: int = 10) -> Explanation:
    """What the latent does: a judge's words for the n tokens whose logits its row raises most and lowers most.

    Without a judge the tokens themselves, quoted. Raises ValueError for a coder that does not write to the residual
    stream.
    """
    features = latent.features
    logits = lens(features.model, written(features.model, features.coder, [latent.index]))[0]
    order = logits.argsort(descending=True).tolist()
    raised, lowered = (pieces(features.model.tokenizer, ids) for ids in (order[:n], order[-n:]))
    if judge is None:
        return Explanation(f"makes {_quoted(raised)} likelier")
    return _asked(
        judge,
        f"A unit inside a language model makes some next tokens likelier when it is on: {_quoted(raised)}. "
        f"It makes others less likely: {_quoted(lowered)}.\nSay in one short phrase what it makes the model write. "
        "Name the phrase only.",
    )


def _shown(latent: Latent, n: int, seed: int) -> list[Passage]:
    train, _ = halves(latent.features)
    passages = evenly(train.firing(latent, seed), n)
    if not passages:
        raise ValueError(f"latent {latent.index} fires in no passage of the train documents: there is nothing to show")
    bar = SHOWN * latent.max
    return [p._replace(marked=tuple(i for i, v in enumerate(p.values) if v > bar) or (_peak(p),)) for p in passages]


def _peak(passage: Passage) -> int:
    return int(np.argmax(passage.values))


def _with_levels(latent: Latent, passages: list[Passage]) -> str:
    shown = []
    for i, p in enumerate(passages, 1):
        levels = ", ".join(f"{p.tokens[j]!r}: {level(p.values[j], latent.max)}" for j in p.marked)
        shown.append(f"--- Passage {i}\n{p.text}\nStrength from 1 to 10: {levels}")
    return "\n".join(shown)


def _of_tokens(counts: Counter) -> Explanation:
    common = [token for token, _ in counts.most_common(5) if token.strip()] or [next(iter(counts))]
    return Explanation(f"the tokens {_quoted(common)}")


def _quoted(tokens: list[str]) -> str:
    return ", ".join(f"`{token.strip() or token}`" for token in tokens)


def _asked(judge: Judge, prompt: str) -> Explanation:
    """The first line that a judge says. Raises JudgeError when there is none or it cannot be asked."""
    try:
        said = str(judge(prompt))
    except OSError as error:
        raise JudgeError(f"{name_of(judge)}: {str(error) or type(error).__name__}") from error
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if not lines:
        raise JudgeError(f"judge {name_of(judge)} said nothing: ask once more, or another one")
    return Explanation(lines[0][:500])
