"""The shortest context that a latent needs, and which tokens of it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from ..features import Example, Features, Latent
from .examples import live
from .prompts import before, prompts, values_on

LONGEST = 32  # tokens of a suffix that is tried; all of the context otherwise


class Pruned(NamedTuple):
    """The end of a context: `importance[i] = 1 - a(token i masked) / a`, a the activation at the last token."""

    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    importance: tuple[float, ...]
    value: float  # on these tokens alone, after BOS
    original: float  # in the whole window
    whole: bool  # nothing shorter would do, so this is all there is before it in the window

    @property
    def text(self) -> str:
        return "".join(self.tokens)


def pruned(
    latent: Latent,
    example: Example | None = None,
    *,
    keep: float = 0.8,
    mask: str | int = "unigram",
    draws: int = 4,
    seed: int = 0,
) -> Pruned:
    """The shortest end of an example's context on which the latent keeps at least `keep` of its activation, and is
    strongest at the same token (pruning of Neuron2Graph, Foote et al. 2023); and how much each token of it matters.

    example: of this latent, its strongest unless given. All suffixes of up to 32 tokens are one batch, each behind a
    BOS: a token's position changes, which models with absolute positions see. mask, what a token is replaced by:
    "unigram", `draws` tokens drawn from the corpus, averaged; "mean", the mean embedding; or a token id.
    Raises ValueError for a dead latent, keep outside (0, 1], another mask, and an example of another latent.
    """
    features, example = live(latent).features, example or latent.top(1)[0]
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep}: give a share of the activation in (0, 1]")
    context = before(features, example.window, example.pos)
    ids, value, whole = _shortest(latent, context, example.value, keep)
    importance = 1 - _masked(latent, ids, mask, draws, seed) / value
    tokens = tuple(features.excerpts.pieces[i] for i in ids)
    return Pruned(tokens, tuple(ids.tolist()), tuple(importance.tolist()), value, example.value, whole)


def _shortest(
    latent: Latent, context: Int[np.ndarray, " n"], original: float, keep: float
) -> tuple[Int[np.ndarray, " m"], float, bool]:
    features = latent.features
    lengths = range(1, min(LONGEST, len(context)) + 1)
    ids = prompts(features, [context[-n:] for n in lengths])
    values = values_on(features, latent.index, ids)[:, features.corpus.lead :]
    for n, row in zip(lengths, values, strict=True):
        if row[:n].argmax() == n - 1 and row[n - 1] >= keep * original:
            return context[-n:], float(row[n - 1]), n == len(context)
    value = float(values_on(features, latent.index, prompts(features, [context]))[0, -1])
    if value <= 0:
        raise ValueError(f"latent {latent.index} is off at this example: give one of its own, such as latent.top()[0]")
    return context, value, True


def _masked(
    latent: Latent, ids: Int[np.ndarray, " n"], mask: str | int, draws: int, seed: int
) -> Float64[np.ndarray, " n"]:
    """The activation at the last token with each token masked, in turn."""
    features, n = latent.features, len(ids)
    fills = _fills(features, mask, draws, seed)
    rows = np.repeat(ids[None], n * len(fills), 0)
    masked = np.tile(np.eye(n, dtype=bool), (len(fills), 1))
    rows[masked] = np.repeat(fills, n)
    batch = prompts(features, list(rows))
    replaced = None
    if mask == "mean":
        replaced = np.pad(masked, ((0, 0), (features.corpus.lead, 0)))
    values = values_on(features, latent.index, batch, replaced)[:, -1]
    return values.reshape(len(fills), n).mean(0, dtype=np.float64)


def _fills(features: Features, mask: str | int, draws: int, seed: int) -> Int[np.ndarray, " draws"]:
    """The ids put in a masked token's place."""
    seen = features.index.tokens.seen
    if mask == "unigram":
        return np.random.default_rng(seed).choice(len(seen), draws, p=seen / seen.sum())
    if mask == "mean":
        return np.array([int(seen.argmax())])  # its embedding is replaced
    if not isinstance(mask, int) or not 0 <= mask < features.model.cfg.d_vocab:
        raise ValueError(f'mask={mask!r}: give "unigram", "mean" or a token id below {features.model.cfg.d_vocab}')
    return np.array([mask])
