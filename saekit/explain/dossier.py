"""All that is known of one latent, as plain data: what cards, pages and other formats are made of."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..features import Features, Latent
from .lens import ends, layers_after, lens, written
from .output import mean_log_probs, prompts, random_direction, token_change

STRENGTH = 2.0  # of the maximum: how strongly a latent is added to measure its output
TENTHS = (("Top tenth", 9, 10), ("6th to 9th", 5, 9), ("3rd to 5th", 2, 5), ("1st and 2nd", 0, 2))


def examples(latent: Latent, each: int = 3) -> list[dict[str, Any]]:
    """Firings by tenths of the maximum, strongest first: the borders of a group, its share, and some of it.

    Keys: title, low, high, share (of all firings), examples. A dead latent has no groups.
    """
    firings = latent.histogram(10)
    groups = []
    for title, first, last in TENTHS:
        if inside := int(firings[first:last].sum()):
            low, high = latent.max * first / 10, latent.max * last / 10
            strongest = [e for e in latent.top(each) if e.value > low]
            chosen = strongest if last == 10 else latent.sample(each, low, high)
            share = inside / int(firings.sum())
            groups.append({"title": title, "low": low, "high": high, "share": share, "examples": chosen})
    return groups


def effect(latent: Latent, before: Float[Tensor, " vocab"] | None = None) -> dict[str, Any] | None:
    """What a latent does to the output, by its row and by measurement; None where it writes to no residual stream.

    up, down, more, less: ten tokens each with logits, or changes in log p when twice the maximum is added, largest
    first. agree: how many of `up` are in `more`; agree_random: in those of a random direction of the same norm.
    before: `mean_log_probs(model, prompts(corpus))`, where it is known already. A dead latent is not measured.
    """
    features = latent.features
    model, coder, corpus = features.model, features.coder, features.corpus
    try:
        row = ends(model, lens(model, written(model, coder, [latent.index]))[0], 10, "logit")
    except ValueError:
        return None
    ids, strength = prompts(corpus), STRENGTH * latent.max
    before = mean_log_probs(model, ids) if before is None else before
    change = token_change(model, coder, latent.index, corpus, strength=strength, before=before)
    control = mean_log_probs(model, ids, random_direction(coder, latent.index), 0, strength) - before
    ten = set(row.id[:10])
    return {
        "up": _pairs(row[:10]), "down": _pairs(row[10:]), "more": _pairs(change[:10]), "less": _pairs(change[10:]),
        "strength": STRENGTH, "places": ids.numel(), "agree": len(ten & set(change.id[:10])),
        "agree_random": len(ten & set(control.topk(10).indices.tolist())),
        "early": layers_after(model, coder.site) or 0,
    }  # fmt: skip


@torch.no_grad()
def nearest(features: Features, latent: int, n: int = 10) -> tuple[list[int], list[float]]:
    """(numbers, cosines) of the n other latents whose decoder rows point most nearly the same way."""
    rows = torch.nn.functional.normalize(features.coder.W_dec.detach().float(), dim=1)
    cosine = rows @ rows[latent]
    cosine[latent] = -torch.inf
    best = cosine.topk(min(n, len(cosine) - 1))
    return best.indices.tolist(), best.values.tolist()


def _pairs(table: pd.DataFrame) -> list[tuple[str, float]]:
    return list(zip(table.token, np.asarray(table.iloc[:, 2], float).tolist(), strict=True))
