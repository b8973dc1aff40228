"""All that is known of one latent, as plain data: what cards, pages and other formats are made of."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..features import Features, Latent
from .lens import ends, layers_after, lens, written
from .output import mean_log_probs, prompts, random_direction

STRENGTH = 2.0  # of the maximum: how strongly a latent is added to measure its output
TEXTS = 6  # windows that it is measured on
TENTHS = (("Top tenth", 9, 10), ("6th to 9th", 5, 9), ("3rd to 5th", 2, 5), ("1st and 2nd", 0, 2))


def facts(latent: Latent) -> dict[str, Any]:
    """What an index says of a latent at once, with what was noted about it.

    Keys: latent, d_sae, site, corpus, n (tokens), dead, density, mean, maximum, histogram (firings by tenths of the
    maximum), best (label, f1, always_fire and whether it is above that; None without labels), note, star.
    """
    features, row = latent.features, latent.features.table.loc[latent.index]
    best = {"label": row.label, "f1": row.f1, "always_fire": row.always_fire, "above": row.f1 > row.always_fire}
    return {
        "latent": latent.index, "d_sae": len(features), "site": features.coder.site.name,
        "corpus": features.corpus.source, "n": features.n, "dead": latent.dead, "density": latent.density,
        "mean": latent.mean, "maximum": latent.max, "histogram": latent.histogram(10).tolist(),
        "best": best if row.label else None, "note": latent.note, "star": latent.star,
    }  # fmt: skip


def examples(latent: Latent, each: int = 3) -> list[dict[str, Any]]:
    """Firings by tenths of the maximum, strongest first: the borders of a group, its share, and some of it.

    Keys: title, low, high, share (of all firings), examples. A dead latent has no groups.
    """
    groups = [within(latent, first, last, each, title) for title, first, last in TENTHS]
    return [group for group in groups if group["share"]]


def within(latent: Latent, first: int, last: int, each: int, title: str) -> dict[str, Any]:
    """A group of `examples`: firings from one tenth of the maximum to another, at random; the largest of the last."""
    firings = latent.histogram(10)
    low, high = latent.max * first / 10, latent.max * last / 10
    if last == 10:
        chosen = [e for e in latent.top(each) if e.value > low]
    else:
        chosen = latent.sample(each, low, high) if low < high else []
    share = int(firings[first:last].sum()) / max(int(firings.sum()), 1)
    return {"title": title, "low": low, "high": high, "share": share, "examples": chosen}


def by_rank(latent: Latent, n: int = 5, each: int = 3) -> list[dict[str, Any]]:
    """As `examples`, in n groups of equally many firings."""
    groups = []
    for number, found in reversed([*enumerate(latent.rank_quantiles(n, each), 1)]):
        share = found.count / max(latent.count, 1)
        groups.append({"title": f"Part {number} of {n}", **found._asdict(), "share": share})
    return [group for group in groups if group["share"]]


def drawn(latent: Latent, way: str, n: int = 10) -> list[dict[str, Any]]:
    """As `examples`, one group of n: the largest ("top"), any ("random"), or by chances like their values ("weighted").

    Largest first, as they come.
    """
    chosen = latent.top(n) if way == "top" else latent.sample(n, power={"random": 0.0, "weighted": 1.0}[way])
    if not chosen:
        return []
    values, title = [e.value for e in chosen], {"top": "Strongest", "random": "At random", "weighted": "Weighted"}[way]
    share = len(chosen) / max(latent.count, 1)
    return [{"title": title, "low": min(values), "high": max(values), "share": share, "examples": chosen}]


def unchanged(features: Features) -> Float[Tensor, " vocab"]:
    """The model's mean log p on the texts that `effect` measures on, for several latents in a row."""
    return mean_log_probs(features.model, prompts(features.corpus, windows=TEXTS))


def effect(latent: Latent, before: Float[Tensor, " vocab"] | None = None) -> dict[str, Any] | None:
    """What a latent does to the output, by its row and by measurement; None where it writes to no residual stream.

    up, down, more, less: ten tokens each with logits, or changes in log p when twice the maximum is added, largest
    first. agree: how many of `up` are in `more`; agree_random: in those of a random direction of the same norm.
    before: `unchanged(features)`, where it is known already. A dead latent is not measured.
    """
    features = latent.features
    model, coder, corpus = features.model, features.coder, features.corpus
    try:
        row = ends(model, lens(model, written(model, coder, [latent.index]))[0], 10, "logit")
    except ValueError:
        return None
    ids, strength = prompts(corpus, windows=TEXTS), STRENGTH * latent.max
    before = unchanged(features) if before is None else before
    rows = torch.cat([coder.W_dec[[latent.index]], random_direction(coder, latent.index).W_dec])
    measured, control = mean_log_probs(model, ids, coder, strength * rows) - before
    change = ends(model, measured, 10, "change")
    ten = set(row.id[:10])
    return {
        "up": _pairs(row[:10]), "down": _pairs(row[10:]), "more": _pairs(change[:10]), "less": _pairs(change[10:]),
        "strength": STRENGTH, "places": ids.numel(), "agree": len(ten & set(change.id[:10])),
        "agree_random": len(ten & set(control.topk(10).indices.tolist())),
        "early": layers_after(model, coder.site) or 0,
    }  # fmt: skip


def _pairs(table: pd.DataFrame) -> list[tuple[str, float]]:
    return list(zip(table.token, np.asarray(table.iloc[:, 2], float).tolist(), strict=True))
