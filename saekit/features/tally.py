"""What one pass over a corpus collects, for all latents at once, from the entries of the codes alone."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64
from torch import Tensor

from ..codes import Codes
from ..corpus import Corpus
from .kept import Entries, Kept, random_scores
from .neurons import Neurons, best_neurons
from .sample import Sample
from .scores import Meetings
from .tokens import Pairs

BEFORE, AFTER = 20, 10  # tokens whose values are kept on either side of a firing
AROUND = BEFORE + 1 + AFTER
PER_OCTAVE, OCTAVES, LOWEST = 16, 32, 2.0**-16  # bins of the histogram: what is smaller or larger goes to the end bins
BINS = PER_OCTAVE * OCTAVES
PER_STRATUM = 4  # bins to a stratum, the quarter-octave that firings are drawn from
DRAWN = 4  # firings drawn from each stratum


def bin_of(values: Float[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The bin of each value: `floor(16 log2(value / LOWEST))`, clipped to the bins there are."""
    octaves = np.log2(np.maximum(values, LOWEST, dtype=np.float64) / LOWEST)
    return np.minimum(octaves * PER_OCTAVE, BINS - 1).astype(np.int64)


def centres() -> Float64[np.ndarray, " bins"]:
    """The geometric centre of each bin."""
    return LOWEST * 2 ** ((np.arange(BINS) + 0.5) / PER_OCTAVE)


class Firings(NamedTuple):
    """The entries of a batch of codes, latent by latent, in each by place."""

    latent: Int64[np.ndarray, " n"]
    value: Float32[np.ndarray, " n"]
    place: Int64[np.ndarray, " n"]  # window * width + position
    run: Int64[np.ndarray, " n"]  # the same number for the firings of one latent in one window
    key: Int64[np.ndarray, " n"]  # rises; in a run by one from token to token, from run to run by more than AROUND

    @staticmethod
    def of(start: int, part: Corpus, codes: Codes) -> "Firings":
        """Of codes with a row for each token of `part.mask`; `part` begins at window `start` of its corpus."""
        order, _ = codes.support.by_latent
        latent, rows, value = (x[order].numpy() for x in (codes.latents, codes.rows, codes.values))
        window, position = (at[rows] for at in np.nonzero(part.mask))
        width, run = part.tokens.shape[1], latent * len(part) + window
        return Firings(latent, value, (start + window) * width + position, run, run * (width + AROUND) + position)

    def around(self, chosen: Int[np.ndarray, " m"]) -> Float32[np.ndarray, "m around"]:
        """The latent's values at the tokens around each chosen firing, 0 where it is off or the window has ended."""
        # A latent fires at most BEFORE times in as many tokens, so these are all the firings there can be.
        near = np.clip(chosen[:, None] + np.arange(-BEFORE, AFTER + 1), 0, len(self.key) - 1)
        column = self.key[near] - self.key[chosen][:, None] + BEFORE
        row, i = np.nonzero((column >= 0) & (column < AROUND))
        values = np.zeros((len(chosen), AROUND), np.float32)
        values[row, column[row, i]] = self.value[near[row, i]]
        return values

    def peaks(self, among: Int[np.ndarray, " m"]) -> Int[np.ndarray, " p"]:
        """The largest of each run among these firings, the first one where several are."""
        order = among[np.lexsort((-self.value[among], self.run[among]))]
        return order[np.unique(self.run[order], return_index=True)[1]]


class Tally:
    """Histogram, sum, label and token counts, largest and randomly drawn firings of each latent, as codes are added.

    top: each latent's `top` largest firings, one per window. drawn: `DRAWN` uniformly random firings of each stratum.
    sample: all codes of `sample` uniformly random tokens. Its size does not grow with the tokens.
    """

    def __init__(self, corpus: Corpus, d_sae: int, top: int, sample: int, seed: int) -> None:
        self.n, self.d_sae, self.seed, self.corpus = 0, d_sae, seed, corpus
        self.histogram = np.zeros((d_sae, BINS), np.int32)
        self.total = np.zeros(d_sae)
        self.meetings = Meetings.none(corpus, d_sae)
        self.top = Kept(d_sae, top, AROUND)
        self.drawn = Kept(d_sae * (BINS // PER_STRATUM), DRAWN, AROUND)
        self.sample = Sample(sample, seed)
        self.pairs = Pairs(d_sae, int(corpus.tokens.max()) + 1)

    def add(self, start: int, part: Corpus, codes: Codes, x: Float[Tensor, "rows d_in"]) -> None:
        """Take some windows into account; the codes, and what they are of, have a row for each token of `part.mask`."""
        firings = Firings.of(start, part, codes)
        bins = firings.latent * BINS + bin_of(firings.value)
        np.add.at(self.histogram.reshape(-1), bins, 1)
        self.total += np.bincount(firings.latent, firings.value, self.d_sae)
        self.meetings.add(part, codes)
        peaks = firings.peaks(np.flatnonzero(self.top.may_hold(firings.latent, firings.value)))
        self._keep(self.top, firings, peaks, firings.latent, firings.value.astype(np.float64))
        strata, scores = bins // PER_STRATUM, random_scores(firings.place * self.d_sae + firings.latent, self.seed)
        self._keep(self.drawn, firings, np.flatnonzero(self.drawn.may_hold(strata, scores)), strata, scores)
        ids = part.tokens.numpy()
        self.pairs.add(firings.latent, ids.reshape(-1)[firings.place - start * ids.shape[1]], firings.value)
        self.pairs.seen += np.bincount(ids[part.mask], minlength=len(self.pairs.seen))
        self.sample.add(start * ids.shape[1] + np.flatnonzero(part.mask), codes, x.float())
        self.n += int(part.mask.sum())

    def neurons(self) -> Neurons:
        """The best single dimension of x for each label, over the scored ones of the tokens it was kept for."""
        places, x = self.sample.inputs()
        scored = self.corpus.scored.reshape(-1)[places]
        return best_neurons(x[scored], self.meetings.truth(self.corpus, places[scored]))

    @staticmethod
    def _keep(kept: Kept, firings: Firings, chosen: np.ndarray, groups: np.ndarray, scores: np.ndarray) -> None:
        kept.add(Entries(groups[chosen], scores[chosen], firings.place[chosen], firings.around(chosen)))
