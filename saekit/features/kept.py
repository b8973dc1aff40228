"""The k best entries of each group of a stream, at a cost that falls as the stream goes on."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64, UInt64

WAITING = 1 << 15  # newcomers for which a sort is worth its while


def random_scores(keys: Int64[np.ndarray, " n"], seed: int) -> Float64[np.ndarray, " n"]:
    """A number in [0, 1) for each key, a function of key and seed alone: SplitMix64 (Steele et al. 2014)."""
    z = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed * 0xD1342543DE82EF95 % 2**64)
    z = _mixed(_mixed(z, 30, 0xBF58476D1CE4E5B9), 27, 0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def _mixed(z: UInt64[np.ndarray, " n"], shift: int, factor: int) -> UInt64[np.ndarray, " n"]:
    return (z ^ (z >> np.uint64(shift))) * np.uint64(factor)


class Entries(NamedTuple):
    """Firings: the group each belongs to, its score there, its place in the corpus, and the values around it."""

    group: Int64[np.ndarray, " n"]
    score: Float64[np.ndarray, " n"]
    place: Int64[np.ndarray, " n"]
    values: Float32[np.ndarray, "n around"]

    @staticmethod
    def none(around: int) -> "Entries":
        ints = np.empty(0, np.int64)
        return Entries(ints, np.empty(0), ints, np.empty((0, around), np.float32))

    def at(self, index: Int[np.ndarray, " m"]) -> "Entries":
        return Entries(*(field[index] for field in self))


class Kept:
    """The k entries of largest score in each of `groups` groups; of equal scores, those of smaller place.

    `threshold[g]` is the k-th largest score that group g was known to hold at the last sort, -inf while it held fewer.
    What does not reach it can never be kept, so that the caller looks up the values around the others only, and they
    are fewer and fewer. The result depends neither on the order of the stream nor on how it is cut into batches.
    """

    def __init__(self, groups: int, k: int, around: int) -> None:
        self.k = k
        self.threshold = np.full(groups, -np.inf)
        self._held, self._new, self._waiting = Entries.none(around), [], 0

    def may_hold(self, group: Int[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which entries reach their group's threshold."""
        return score >= self.threshold[group]

    def add(self, entries: Entries) -> None:
        """Take entries into account; they are held until enough of them wait for one sort."""
        self._new.append(entries)
        self._waiting += len(entries.place)
        if self._waiting > max(WAITING, len(self._held.place) // 2):
            self._sort()

    def entries(self) -> Entries:
        """What is kept: groups in order, in each the largest score first."""
        self._sort()
        return self._held

    def _sort(self) -> None:
        every = Entries(*map(np.concatenate, zip(self._held, *self._new, strict=True)))
        order = np.lexsort((every.place, -every.score, every.group))
        group = every.group[order]
        rank = np.arange(len(group)) - np.searchsorted(group, group)
        self._held, self._new, self._waiting = every.at(order[rank < self.k]), [], 0
        last = order[rank == self.k - 1]
        self.threshold[every.group[last]] = every.score[last]
