"""What explanations are made of and scored on: passages of two halves of the documents, which have none in common."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float32, Int

from ..corpus import Corpus
from ..features import Example, Features, Latent
from ..features.tally import AFTER, BEFORE, bin_of
from ..hooks import capture

LENGTH = BEFORE + 1 + AFTER  # tokens of a passage
WINDOWS = 32  # of each half, encoded for passages that a latent is off in
QUARTERS = ("weakest quarter", "second quarter", "third quarter", "strongest quarter")
OFF = "off"
ALL = 10**6  # more firings than an index keeps of a latent


class Passage(NamedTuple):
    """A stretch of a window, with a latent's activation at each of its tokens, and which tokens are highlighted."""

    window: int
    start: int
    tokens: tuple[str, ...]
    values: tuple[float, ...]
    part: str  # the quarter of the latent's firings, by rank, that its peak belongs to; or "off"
    marked: tuple[int, ...] = ()  # numbers of tokens

    @property
    def on(self) -> tuple[int, ...]:
        """The numbers of the tokens that the latent is on at."""
        return tuple(i for i, value in enumerate(self.values) if value > 0)

    @property
    def text(self) -> str:
        """As it is shown; highlighted tokens stand between << and >>."""
        shown = [f"<<{token}>>" if i in self.marked else token for i, token in enumerate(self.tokens)]
        return "".join(shown).replace(">><<", "")


class Half:
    """The passages of the train or of the test documents of an index. Holds codes, never the index itself."""

    def __init__(self, corpus: Corpus, test: bool) -> None:
        self.windows = np.flatnonzero(corpus.test_windows() == test)
        self.drawn = np.sort(np.random.default_rng(0).permutation(self.windows)[:WINDOWS])
        self._entries: tuple[np.ndarray, ...] | None = None

    def firing(self, latent: Latent, seed: int = 0) -> list[Passage]:
        """Passages that the latent fires in, none of which overlap, in an order drawn at random.

        They are around the firings that the index keeps: the largest, and some of each quarter-octave.
        """
        here = {*self.windows.tolist()}
        kept = [example for example in latent.sample(ALL) if example.window in here]
        ranks = _ranks(latent, np.array([e.value for e in kept]))
        found: dict[int, list[int]] = {}
        passages = []
        for i in np.random.default_rng([seed, latent.index, 1]).permutation(len(kept)):
            example, others = kept[i], found.setdefault(kept[i].window, [])
            if all(abs(example.pos - pos) >= LENGTH for pos in others):
                others.append(example.pos)
                passages.append(passage(example, QUARTERS[min(int(4 * ranks[i]), 3)]))
        return passages

    def silent(self, latent: Latent, seed: int = 0) -> list[Passage]:
        """Passages of random windows that the latent is off in throughout, none of which overlap, at random."""
        corpus, values = latent.features.corpus, self._values(latent)
        mask = corpus.mask[self.drawn]
        length = min(LENGTH, int(mask.sum(1).max()))
        starts = range(int(mask.argmax(1).min()), mask.shape[1] - length + 1, length)
        free = [
            (w, s) for s in starts for w in np.flatnonzero(mask[:, s : s + length].all(1)).tolist()
            if not values[w, s : s + length].any()
        ]  # fmt: skip
        order = np.random.default_rng([seed, latent.index, 2]).permutation(len(free))
        return [_at(latent.features, int(self.drawn[free[i][0]]), free[i][1], length) for i in order]

    def _values(self, latent: Latent) -> Float32[np.ndarray, "drawn pos"]:
        if self._entries is None:
            self._entries = _encoded(latent.features, self.drawn)
        latents, place, value = self._entries
        values = np.zeros((len(self.drawn), latent.features.corpus.tokens.shape[1]), np.float32)
        values.reshape(-1)[place[latents == latent.index]] = value[latents == latent.index]
        return values


_HALVES: WeakKeyDictionary[Features, tuple[Half, Half]] = WeakKeyDictionary()


def halves(features: Features) -> tuple[Half, Half]:
    """(train, test), the same ones each time. Raises ValueError for a corpus of one text."""
    if features not in _HALVES:
        _HALVES[features] = Half(features.corpus, False), Half(features.corpus, True)
    return _HALVES[features]


@torch.no_grad()
def _encoded(features: Features, windows: Int[np.ndarray, " n"]) -> tuple[np.ndarray, ...]:
    """(latent, flat place, value) of every entry of the codes of some windows."""
    model, coder, entries = features.model, features.coder, []
    width = features.corpus.tokens.shape[1]
    for first in range(0, len(windows), 4):
        part = features.corpus[windows[first : first + 4]]
        x = coder.site.inputs(capture(model, part.tokens, *coder.site.reads))[torch.from_numpy(part.mask)]
        codes = coder.encode(x.to(coder.W_enc))
        place = first * width + np.flatnonzero(part.mask)[codes.rows.cpu().numpy()]
        entries.append((codes.latents.cpu().numpy(), place, codes.values.float().cpu().numpy()))
    return tuple(map(np.concatenate, zip(*entries, strict=True)))


def _at(features: Features, window: int, start: int, length: int) -> Passage:
    """A passage without firings."""
    ids = features.corpus.tokens[window, start : start + length].tolist()
    return Passage(window, start, tuple(features.excerpts.pieces[i] for i in ids), (0.0,) * length, OFF)


def passage(example: Example, part: str) -> Passage:
    """An example of the index as a passage."""
    return Passage(example.window, example.pos - example.peak, example.tokens, example.values, part)


def _ranks(latent: Latent, values: np.ndarray) -> np.ndarray:
    """The share of a latent's firings that lie below each value, by the histogram."""
    counts = latent.features.index.histogram[latent.index]
    bins = bin_of(values)
    return (np.cumsum(counts)[bins] - counts[bins] / 2) / max(latent.count, 1)
