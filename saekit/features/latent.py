"""One latent, looked up."""

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from .auc import auc
from .examples import Example
from .neighbours import neighbours, similar
from .ranges import Range, by_rank, by_value
from .table import tokens_of
from .tally import BEFORE, PER_STRATUM, bin_of, centres

if TYPE_CHECKING:
    from .index import Features


class Latent:
    """What the index knows of latent `index`; `features[index]` makes it."""

    def __init__(self, features: "Features", index: int) -> None:
        self.features, self.index = features, index

    def __repr__(self) -> str:
        return f"Latent({self.index}: on at {self.count:,} of {self.features.n:,} tokens, max {self.max:.3g})"

    @cached_property
    def count(self) -> int:
        """Tokens it is on at."""
        return int(self.features.index.histogram[self.index].sum())

    @property
    def density(self) -> float:
        """Share of all tokens it is on at."""
        return self.count / self.features.n

    @property
    def max(self) -> float:
        """Its largest activation; 0 if it is dead."""
        held = self.features.index.top
        return 0.0 if self.dead else float(held.values[held.slice_of(self.index)][0, BEFORE])

    @property
    def mean(self) -> float:
        """Its mean activation over the tokens it is on at; 0 if it is dead."""
        return float(self.features.index.total[self.index]) / max(self.count, 1)

    @property
    def dead(self) -> bool:
        """It was on at no token of the corpus."""
        return self.count == 0

    def histogram(self, bins: int = 10) -> Int[np.ndarray, " bins"]:
        """Firings per equal slice of (0, max]; they sum to `count`.

        They were counted in bins of a sixteenth of an octave (4.4 % wide), each of which goes to the slice of its
        geometric centre. Raises ValueError for fewer than one slice.
        """
        if bins < 1:
            raise ValueError(f"bins={bins}: give at least 1")
        if self.dead:
            return np.zeros(bins, np.int64)
        slices = np.clip(np.ceil(centres() / self.max * bins) - 1, 0, bins - 1).astype(np.int64)
        return np.bincount(slices, self.features.index.histogram[self.index], bins).astype(np.int64)

    def value_quantiles(
        self, n: int = 10, each: int = 5, seed: int = 0, *, documents: str | None = None
    ) -> list[Range]:
        """Its firings in n ranges of equal width, (0, max] cut in n, lowest first, with up to `each` of them at random.

        Counts are those of `histogram(n)`. documents: as in `sample`, of the examples. A dead latent has no ranges.
        """
        return by_value(self, n, each, seed, documents)

    def rank_quantiles(self, n: int = 10, each: int = 5, seed: int = 0, *, documents: str | None = None) -> list[Range]:
        """Its firings in n ranges of equal number, lowest first, with up to `each` of them at random.

        The borders are those of a histogram with bins of a sixteenth of an octave, so right to 4.4 %. documents: as in
        `sample`. A dead latent has no ranges.
        """
        return by_rank(self, n, each, seed, documents)

    def top(self, n: int = 8, *, documents: str | None = None) -> list[Example]:
        """Up to n of its strongest firings, largest first: one per window, and none shown with the same text twice.

        documents: "train" or "test", to take those of one half of the texts only; see `Features.test_windows`.
        """
        held, found = self.features.index.top, {}
        for i in range(*held.slice_of(self.index).indices(len(held.place))):
            if len(found) >= n:
                break
            if not self._within(held.place[i : i + 1], documents)[0]:
                continue
            example = self.features.excerpts.at(int(held.place[i]), held.values[i])
            found.setdefault(example.text, example)
        return list(found.values())

    def sample(
        self,
        n: int,
        low: float = 0.0,
        high: float | None = None,
        seed: int = 0,
        *,
        power: float = 0.0,
        documents: str | None = None,
    ) -> list[Example]:
        """n firings with low < value <= high, drawn without replacement, largest first; fewer if not so many are kept.

        They come from those that the index keeps: the largest, and some that were drawn from each quarter-octave of
        values, where each stands for as many firings as there were for one drawn. high=None: no upper end.
        power: a firing is drawn with probability proportional to value**power: 0 for all alike, 1 for importance
        weighting, 2 for that of Karvonen et al. 2025 (SAEBench). documents: "train" or "test", to draw from one half
        of the texts only; see `Features.test_windows`.
        Raises ValueError for n < 0, when nothing can lie between low and high, and for other documents.
        """
        high = np.inf if high is None else high
        if not low < high or n < 0:
            raise ValueError(f"n={n}, low={low}, high={high}: give n >= 0 and low < high")
        places, values, weights = self._pool()
        own = values[:, BEFORE].astype(np.float64)
        inside = np.flatnonzero((own > low) & (own <= high) & self._within(places, documents))
        # A weighted draw without replacement: the first n of exponential waiting times at rates equal to the weights.
        waits = np.random.default_rng([seed, self.index]).exponential(size=len(inside))
        waits /= weights[inside] * own[inside] ** power
        drawn = inside[np.argsort(waits)[:n]]
        largest_first = drawn[np.argsort(-own[drawn], kind="stable")]
        return [self.features.excerpts.at(int(places[i]), values[i]) for i in largest_first]

    def labels(self) -> pd.DataFrame:
        """Every label, best F1 first; see `label_scores`. base: the share of the scored tokens that have the label.

        auc: of its activation, `Features.auc`. neuron_auc, neuron_f1: of the best single dimension of what the coder
        reads, `Features.neurons`. These three are measured on sampled tokens, the others on all.
        """
        meetings = self.features.meetings
        labels = np.arange(len(meetings.labels))
        scores = meetings.scores(np.full_like(labels, self.index), labels)
        scores["auc"] = auc(self.features.index.sample, self.features.truth, self.features.scored, self.index)[0]
        scores["neuron_auc"], scores["neuron_f1"] = (self.features.neurons[name].to_numpy() for name in ("auc", "f1"))
        return scores.sort_values("f1", ascending=False, kind="stable", ignore_index=True)

    def tokens(self, n: int | None = None) -> pd.DataFrame:
        """The token ids it is on at, those that make up most of its firings first; n of them, or all.

        token, id; seen: how often the id occurs; fires: how often it is on there; precision = P(on | id) = fires /
        seen; recall = P(id | on) = fires / count; mean: its activation over all occurrences, off counting as 0;
        mean_on: over those it is on at. Counted on all tokens; where there was no room for all pairs of a latent and
        an id, fires can be too low, by at most `features.index.tokens.missed`.
        """
        return tokens_of(self.features, self.index, n)

    def neighbours(self, n: int = 10) -> pd.DataFrame:
        """The n latents that are most often on at the same tokens, largest Jaccard index first; none for a dead one.

        together: how many of the sampled tokens both are on at; jaccard: of those that either is on at; lift =
        P(both) / (P(one) P(other)), 1 where they know nothing of each other; cosine: of their decoder rows.
        """
        return neighbours(self.features, self.index, n)

    def similar(self, n: int = 10) -> pd.DataFrame:
        """The n latents whose decoder rows point most nearly the same way; cosine and jaccard as in `neighbours`."""
        return similar(self.features, self.index, n)

    @property
    def note(self) -> str:
        """What was written about it. Setting it saves it; see `saekit.features.notes.Notes`."""
        return self.features.notes[self.index]["text"]

    @note.setter
    def note(self, text: str) -> None:
        self.features.notes.put(self.index, text=str(text))

    @property
    def star(self) -> bool:
        """Whether it has a star. Setting it saves it."""
        return self.features.notes[self.index]["star"]

    @star.setter
    def star(self, star: bool) -> None:
        self.features.notes.put(self.index, star=bool(star))

    def _within(self, places: Int[np.ndarray, " n"], documents: str | None) -> Bool[np.ndarray, " n"]:
        """Which places are of the documents asked for."""
        if documents not in (None, "train", "test"):
            raise ValueError(f'documents={documents!r}: give "train", "test", or None for all')
        if documents is None:
            return np.ones(len(places), bool)
        return self.features.test_windows[places // self.features.corpus.tokens.shape[1]] == (documents == "test")

    def _pool(self) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n around"], Float[np.ndarray, " n"]]:
        """(places, values around, how many firings each stands for) of all firings that the index keeps."""
        top, drawn = self.features.index.top, self.features.index.drawn
        of_top, of_drawn = top.slice_of(self.index), drawn.slice_of(self.index)
        others = ~np.isin(drawn.place[of_drawn], top.place[of_top])
        places = np.concatenate([top.place[of_top], drawn.place[of_drawn][others]])
        values = np.concatenate([top.values[of_top], drawn.values[of_drawn][others]])
        return places, values, self._stands_for(values[:, BEFORE], np.arange(len(places)) < len(top.place[of_top]))

    def _stands_for(self, values: Float[np.ndarray, " n"], is_top: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The largest stand for themselves, the others of a stratum for the rest of its firings in equal parts."""
        strata = bin_of(values) // PER_STRATUM
        firings = self.features.index.histogram[self.index].reshape(-1, PER_STRATUM).sum(1)
        certain = np.bincount(strata[is_top], minlength=len(firings))
        random = np.bincount(strata[~is_top], minlength=len(firings))
        of_certain = np.where(random > 0, 1.0, firings / np.maximum(certain, 1))
        of_random = (firings - certain) / np.maximum(random, 1)
        return np.where(is_top, of_certain[strata], of_random[strata])
