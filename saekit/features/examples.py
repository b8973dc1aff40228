"""Places of a corpus, shown as text."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Int64

from ..corpus import Corpus, pieces
from .tally import AROUND, BEFORE


class Example(NamedTuple):
    """A firing of a latent in its context: `values[i]` is its activation at `tokens[i]`, as in the whole window.

    tokens: the token it fires at, number `peak`, with the 20 before it and 10 after it in its window; BOS left out.
    """

    window: int  # of the corpus
    pos: int  # in the window
    value: float
    tokens: tuple[str, ...]
    values: tuple[float, ...]
    peak: int
    source: str  # the name of the text
    line: int  # of the text, from 1

    @property
    def text(self) -> str:
        """What is shown."""
        return "".join(self.tokens)


class Excerpts:
    """The text around any place (`window * width + position`) of a corpus."""

    def __init__(self, corpus: Corpus, tokenizer: Any) -> None:
        self.corpus, self.tokenizer = corpus, tokenizer

    @cached_property
    def pieces(self) -> list[str]:
        """The text of each token id up to the largest in the corpus."""
        return pieces(self.tokenizer, range(int(self.corpus.tokens.max()) + 1))

    @cached_property
    def newlines(self) -> Int64[np.ndarray, " ids"]:
        """How many lines each token id ends."""
        return np.array([piece.count("\n") for piece in self.pieces])

    @cached_property
    def first_lines(self) -> Int64[np.ndarray, " windows"]:
        """The line of its text that each window begins in; the windows of a text follow one another."""
        ended = (self.newlines[self.corpus.tokens.numpy()] * self.corpus.mask).sum(1)
        before = np.cumsum(ended) - ended
        begins = np.diff(self.corpus.text_ids, prepend=-1) != 0  # the first window of each text
        return 1 + before - np.maximum.accumulate(np.where(begins, before, 0))

    def tokens(self, places: Int[np.ndarray, " n"]) -> list[str]:
        """The token at each place."""
        ids = self.corpus.tokens.numpy()[np.divmod(places, self.corpus.tokens.shape[1])]
        return [self.pieces[i] for i in ids]

    def text(self, place: int) -> str:
        """What is shown of the text around a place."""
        window, pos = divmod(place, self.corpus.tokens.shape[1])
        return "".join(self.pieces[i] for i in self.corpus.tokens.numpy()[window, slice(*self._extent(window, pos))])

    def at(self, place: int, values: Float32[np.ndarray, " around"]) -> Example:
        """The example at a place, given the latent's values around it."""
        window, pos = divmod(place, self.corpus.tokens.shape[1])
        start, stop = self._extent(window, pos)
        ids = self.corpus.tokens[window, :stop].numpy()
        line = self.first_lines[window] + (self.newlines[ids[:pos]] * self.corpus.mask[window, :pos]).sum()
        shown = values[start - pos + BEFORE : stop - pos + BEFORE].tolist()
        tokens = tuple(self.pieces[i] for i in ids[start:])
        source = self.corpus.texts[self.corpus.text_ids[window]]
        return Example(window, pos, shown[pos - start], tokens, tuple(shown), pos - start, source, int(line))

    def _extent(self, window: int, pos: int) -> tuple[int, int]:
        """(first, one past the last) position around `pos` that is text without a break."""
        start, stop = max(0, pos - BEFORE), min(self.corpus.tokens.shape[1], pos - BEFORE + AROUND)
        gaps: Int[np.ndarray, " gaps"] = start + np.flatnonzero(~self.corpus.mask[window, start:stop])
        return int(max(gaps[gaps < pos], default=start - 1)) + 1, int(min(gaps[gaps > pos], default=stop))
