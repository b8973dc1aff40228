"""The firings of a latent in ranges of their values: equal in width, or equal in number."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float64

from .examples import Example
from .tally import LOWEST, PER_OCTAVE

if TYPE_CHECKING:
    from .latent import Latent


class Range(NamedTuple):
    """Firings with low < value <= high: how many there are, and a few of them, largest first."""

    low: float
    high: float
    count: int
    examples: list[Example]


def by_value(latent: "Latent", n: int, each: int, seed: int, documents: str | None) -> list[Range]:
    """See `Latent.value_quantiles`."""
    counts = latent.histogram(n)
    if latent.dead:
        return []
    edges = np.append(np.arange(n) / n, 1.0) * latent.max
    return _ranges(latent, edges, counts, each, seed, documents)


def by_rank(latent: "Latent", n: int, each: int, seed: int, documents: str | None) -> list[Range]:
    """See `Latent.rank_quantiles`."""
    if n < 1:
        raise ValueError(f"n={n}: give at least 1")
    if latent.dead:
        return []
    ranks = np.round(np.linspace(0, latent.count, n + 1)).astype(np.int64)
    return _ranges(latent, _at_ranks(latent, ranks), np.diff(ranks), each, seed, documents)


def _at_ranks(latent: "Latent", ranks: np.ndarray) -> Float64[np.ndarray, " edges"]:
    """The values that so many firings do not exceed, log-linear within the sixteenths of an octave they are counted in.

    0 and the maximum at the ends.
    """
    counts = latent.features.index.histogram[latent.index]
    below = np.concatenate([[0], np.cumsum(counts)])
    octaves = np.arange(len(below)) / PER_OCTAVE
    filled = np.append(np.diff(below) > 0, False)
    filled[1:] |= np.diff(below) > 0  # the two ends of every bin that has firings
    edges = LOWEST * 2 ** np.interp(ranks, below[filled], octaves[filled])
    edges[0], edges[-1] = 0, latent.max
    return np.minimum(edges, latent.max)


def _ranges(
    latent: "Latent", edges: np.ndarray, counts: np.ndarray, each: int, seed: int, documents: str | None
) -> list[Range]:
    found = []
    for low, high, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True):
        examples = latent.sample(each, low, high, seed, documents=documents) if low < high else []
        found.append(Range(low, high, count, examples))
    return found
