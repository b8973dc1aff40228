"""How well the firing of latents predicts the labels of tokens."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int

from ..coder import SparseCoder
from ..codes import Codes, scatter
from ..corpus import Corpus
from .forward import check, encoded


@dataclass
class Meetings:
    """On how many scored tokens each latent is on while each label holds, and on how many each label holds.

    Column 0 stands for the token being scored at all, so that `counts[:, 0]` is how often each latent is on and
    `base[0]` the number of tokens; the others are those of `labels`.
    """

    labels: tuple[str, ...]
    context: Bool[np.ndarray, " labels"]  # False for labels that the token alone decides
    counts: Int[np.ndarray, "d_sae columns"]
    base: Int[np.ndarray, " columns"]

    @staticmethod
    def none(corpus: Corpus, d_sae: int) -> "Meetings":
        labels = tuple(name for name in corpus.labels if name != "mixed")
        context = np.array([name not in corpus.identity_labels for name in labels], bool)
        return Meetings(
            labels, context, np.zeros((d_sae, len(labels) + 1), np.int64), np.zeros(len(labels) + 1, np.int64)
        )

    def add(self, part: Corpus, codes: Codes) -> None:
        """Count the tokens of some windows; the codes have a row for each token of `part.mask`."""
        holds = np.stack([part.scored, *(part.labels[name] & part.scored for name in self.labels)], axis=-1)[part.mask]
        truth = torch.from_numpy(holds).float()
        self.base += holds.sum(0)
        self.counts += scatter(torch.ones_like(codes.values), truth, codes.support).long().numpy()

    def truth(self, corpus: Corpus, places: Int[np.ndarray, " n"]) -> Bool[np.ndarray, "n labels"]:
        """Which labels hold at each place (`window * width + position`) of a corpus."""
        held, found = corpus.labels_at(places), np.zeros((len(places), len(self.labels)), bool, order="F")
        for i, name in enumerate(self.labels):
            found[:, i] = held[name]
        return found

    def scores(self, latent: Int[np.ndarray, " n"], label: Int[np.ndarray, " n"]) -> pd.DataFrame:
        """A row for each pair of a latent and a label, by numbers; columns as in `label_scores`, and base, their p."""
        met, on, has = self.counts[latent, 1 + label], self.counts[latent, 0], self.base[1 + label]
        base = has / max(self.base[0], 1)
        return pd.DataFrame(
            {
                "label": np.array(self.labels, object)[label],
                "context": self.context[label],
                "base": base,
                "precision": met / np.maximum(on, 1),
                "recall": met / np.maximum(has, 1),
                "f1": 2 * met / np.maximum(on + has, 1),
                "always_fire": 2 * base / (1 + base),
            }
        )

    def table(self) -> pd.DataFrame:
        """A row for each (latent, label) that meet at least once; see `label_scores`."""
        latent, label = np.nonzero(self.counts[:, 1:])
        table = self.scores(latent, label).drop(columns="base").assign(density=self.counts[latent, 0] / self.base[0])
        table.insert(0, "latent", latent)
        return table


def label_scores(model: Any, coder: SparseCoder, corpus: Corpus) -> pd.DataFrame:
    """How well each latent's firing predicts each label: a row for each (latent, label) that meet at least once.

    precision: share of the tokens it is on at that have the label; recall: share of the tokens with the label that it
    is on at; f1: their harmonic mean. always_fire: the F1 of a latent that is always on, `2p / (1 + p)` at base rate
    p; a score near it is no evidence. context: False for labels that the token alone decides, which are no evidence
    of reading context either. density: share of tokens the latent is on at. Only `corpus.scored` tokens count.

    Raises ValueError for a corpus of another tokenizer or without labels, and a coder of another model or site.
    """
    check(model, coder, corpus)
    meetings = Meetings.none(corpus, coder.d_sae)
    if not meetings.labels or not corpus.scored.any():
        raise ValueError(f"{corpus.source!r} has no labelled tokens; give a labelled corpus such as load_corpus(model)")
    for seen in encoded(model, coder, corpus):
        meetings.add(seen.part, seen.codes)
    return meetings.table()
