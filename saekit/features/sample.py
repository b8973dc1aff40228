"""Tokens of a stream drawn at random, with all their codes: what is measured on a sample, not on every token."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int, Int32, Int64
from torch import Tensor

from ..codes import Codes
from .kept import random_scores

INPUTS = 8192  # sampled tokens whose activations are kept until the pass ends, for the best single neuron


class Sampled(NamedTuple):
    """The codes of m sampled tokens, by token and by latent.

    The entries of token t are `offsets[t]:offsets[t + 1]`; those of latent i are `order[edges[i]:edges[i + 1]]`.
    """

    place: Int64[np.ndarray, " m"]  # window * width + position
    offsets: Int64[np.ndarray, " m_edges"]
    latents: Int32[np.ndarray, " nnz"]
    values: Float32[np.ndarray, " nnz"]
    order: Int32[np.ndarray, " nnz"]
    edges: Int64[np.ndarray, " latent_edges"]

    @staticmethod
    def of(place: np.ndarray, counts: np.ndarray, latents: np.ndarray, values: np.ndarray, d_sae: int) -> "Sampled":
        order = np.argsort(latents, kind="stable").astype(np.int32)
        edges = np.searchsorted(latents[order], np.arange(d_sae + 1))
        return Sampled(place, np.concatenate([[0], np.cumsum(counts)]), latents, values, order, edges)

    def firings(self, latent: int) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
        """(numbers of the sampled tokens that a latent is on at, ascending; its activations there)."""
        entries = self.order[self.edges[latent] : self.edges[latent + 1]]
        return np.searchsorted(self.offsets, entries, side="right") - 1, self.values[entries]

    def together(self, latent: int) -> Int64[np.ndarray, " d_sae"]:
        """On how many sampled tokens each latent is on while this one is."""
        tokens, _ = self.firings(latent)
        entries = ragged(self.offsets[tokens], self.offsets[tokens + 1] - self.offsets[tokens])
        return np.bincount(self.latents[entries], minlength=len(self.edges) - 1)


def ragged(starts: Int[np.ndarray, " n"], counts: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " total"]:
    """`start, start + 1, ...`, count numbers, for each pair, one after the other."""
    return np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())


class Sample:
    """The `size` tokens of smallest random score in a stream: a uniform sample, however the stream is cut.

    Holds at most twice as many tokens, so that its size does not grow with the stream.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed + 1  # the firings of `Tally.drawn` are drawn with the seed itself
        self._tokens: list[tuple[np.ndarray, ...]] = []  # score, place, number of entries
        self._entries: list[tuple[np.ndarray, ...]] = []  # latent, value
        self._inputs: list[tuple[np.ndarray, ...]] = []  # score, place, x
        self._limit, self._input_limit = np.inf, np.inf

    def add(self, place: Int64[np.ndarray, " rows"], codes: Codes, x: Float32[Tensor, "rows d_in"]) -> None:
        """Take the rows of some codes into account, with the activations they are the codes of."""
        score = random_scores(place, self.seed)
        chosen = np.flatnonzero(score <= self._limit)
        offsets = codes.offsets.numpy()
        counts = np.diff(offsets)[chosen]
        entries = torch.from_numpy(ragged(offsets[chosen], counts))
        self._tokens.append((score[chosen], place[chosen], counts))
        self._entries.append((codes.latents[entries].int().numpy(), codes.values[entries].numpy()))
        chosen = np.flatnonzero(score <= self._input_limit)
        self._inputs.append((score[chosen], place[chosen], x[torch.from_numpy(chosen)].numpy()))
        if sum(len(score) for score, *_ in self._tokens) > 2 * self.size:
            self._cut_tokens()
        if sum(len(score) for score, *_ in self._inputs) > 2 * INPUTS:
            self._cut_inputs()

    def sampled(self, d_sae: int) -> Sampled:
        """The tokens drawn, in the order of the stream."""
        self._cut_tokens()
        (_, place, counts), (latents, values) = self._tokens[0], self._entries[0]
        return Sampled.of(place, counts, latents, values, d_sae)

    def inputs(self) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, "n d_in"]]:
        """(places, activations) of the first `INPUTS` of them."""
        self._cut_inputs()
        return self._inputs[0][1:]

    def _cut_tokens(self) -> None:
        tokens, entries = _joined(self._tokens), _joined(self._entries)
        keep, self._limit = _smallest(tokens[0], self.size)
        of_kept = np.repeat(keep, tokens[2])
        self._tokens = [tuple(column[keep] for column in tokens)]
        self._entries = [tuple(column[of_kept] for column in entries)]

    def _cut_inputs(self) -> None:
        inputs = _joined(self._inputs)
        keep, self._input_limit = _smallest(inputs[0], min(INPUTS, self.size))
        self._inputs = [tuple(column[keep] for column in inputs)]


def _joined(chunks: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    return [np.concatenate(column) for column in zip(*chunks, strict=True)]


def _smallest(score: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """(which are among the `size` smallest, the largest of those; infinity while there are fewer)."""
    limit = np.inf if len(score) < size else float(np.partition(score, size - 1)[size - 1])
    return score <= limit, limit
