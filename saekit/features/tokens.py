"""How often each latent is on at each token id, exactly, as far as there is room."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int, Int32, Int64

MOST = 1 << 21  # pairs of a latent and a token id that are kept
WAITING = 1 << 18  # firings for which a sort is worth its while


class AtTokens(NamedTuple):
    """The token ids that latents are on at: those of latent i are `offsets[i]:offsets[i + 1]`, ids ascending.

    missed[i]: the most that any count of latent i can be too low by, 0 where there was room for all pairs.
    """

    offsets: Int64[np.ndarray, " edges"]
    token: Int32[np.ndarray, " pairs"]
    count: Int32[np.ndarray, " pairs"]  # firings at this id
    total: Float64[np.ndarray, " pairs"]  # sum of the activations at this id
    seen: Int64[np.ndarray, " ids"]  # how often each id occurs
    missed: Int64[np.ndarray, " d_sae"]

    def slice_of(self, latent: int) -> slice:
        return slice(int(self.offsets[latent]), int(self.offsets[latent + 1]))


class Pairs:
    """Counts and sums of each (latent, token id), as firings are added.

    Past `MOST` pairs, those that make up the smallest share of their latent's firings are forgotten, down to half as
    many (lossy counting, Manku and Motwani 2002, on shares, so that a rare latent keeps its tokens too).
    """

    def __init__(self, d_sae: int, ids: int) -> None:
        self.d_sae, self.seen, self.missed = d_sae, np.zeros(ids, np.int64), np.zeros(d_sae, np.int64)
        self._held = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)  # key, count, total
        self._new: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(
        self, latent: Int[np.ndarray, " n"], token: Int[np.ndarray, " n"], value: Float32[np.ndarray, " n"]
    ) -> None:
        """Take firings into account."""
        self._new.append((latent * len(self.seen) + token, value))
        self._waiting += len(latent)
        if self._waiting > WAITING:
            self._merge()

    def at_tokens(self) -> AtTokens:
        """What was counted."""
        self._merge()
        key, count, total = self._held
        offsets = np.searchsorted(key, np.arange(self.d_sae + 1) * len(self.seen))
        token = (key % len(self.seen)).astype(np.int32)
        return AtTokens(offsets, token, count.astype(np.int32), total, self.seen, self.missed)

    def _merge(self) -> None:
        if not self._waiting:
            return
        key, value = (np.concatenate(column) for column in zip(*self._new, strict=True))
        self._new, self._waiting = [], 0
        order = np.argsort(key)
        first = np.flatnonzero(np.diff(key[order], prepend=-1))
        total = np.add.reduceat(value[order], first, dtype=np.float64)
        new = key[order][first], np.diff(first, append=len(key)), total
        at = np.searchsorted(self._held[0], new[0])
        known = np.append(self._held[0], -1)[at] == new[0]
        for held, more in zip(self._held[1:], new[1:], strict=True):  # in place: what is held is large
            held[at[known]] += more[known]
        self._held = tuple(np.insert(h, at[~known], x[~known]) for h, x in zip(self._held, new, strict=True))
        if len(self._held[0]) > MOST:
            self._forget()

    def _forget(self) -> None:
        key, count, total = self._held
        latent = key // len(self.seen)
        share = count / np.bincount(latent, count, self.d_sae)[latent]
        kept = np.zeros(len(key), bool)
        kept[np.argsort(-share, kind="stable")[: MOST // 2]] = True
        lost = np.zeros(self.d_sae, np.int64)
        np.maximum.at(lost, latent[~kept], count[~kept])
        self.missed += lost
        self._held = key[kept], count[kept], total[kept]
