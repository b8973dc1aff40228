"""What the latents of a coder stand for, measured over a labelled text."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int

from .coder import SparseCoder
from .codes import Codes
from .corpus import Corpus
from .hooks import capture, check_fit

WINDOWS = 4  # per forward pass


@torch.no_grad()
def label_scores(model: Any, coder: SparseCoder, corpus: Corpus) -> pd.DataFrame:
    """How well each latent's firing predicts each label: a row for each (latent, label) that meet at least once.

    precision: share of the tokens it is on at that have the label; recall: share of the tokens with the label that it
    is on at; f1: their harmonic mean. always_fire: the F1 of a latent that is always on, `2p / (1 + p)` at base rate
    p; a score near it is no evidence. context: False for labels that the token alone decides, which are no evidence
    of reading context either. density: share of tokens the latent is on at. Only `corpus.scored` tokens count.

    Raises ValueError for a corpus of another tokenizer or without labels, and a coder of another model or site.
    """
    corpus.check_model(model)
    check_fit(model, coder.site, coder)
    labels = [name for name in corpus.labels if name != "mixed"]
    if not labels or not corpus.scored.any():
        raise ValueError(f"{corpus.source!r} has no labelled tokens; give a labelled corpus such as load_corpus(model)")
    parts = [_counts(model, coder, corpus[i : i + WINDOWS], labels) for i in range(0, len(corpus), WINDOWS)]
    both, on, has, n = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
    return _table(both, on, has, int(n), labels, corpus.identity_labels)


def _counts(model: Any, coder: SparseCoder, corpus: Corpus, labels: list[str]) -> tuple[Any, ...]:
    """(tokens where latent and label meet [d_sae, labels], latent is on [d_sae], label holds [labels], tokens)."""
    scored = corpus.scored
    seen = capture(model, corpus.tokens, *coder.site.reads)
    codes = coder.encode(coder.site.inputs(seen)[torch.from_numpy(scored)])
    truth = np.stack([corpus.labels[name][scored] for name in labels])
    both = np.stack([_firings_where(codes, holds) for holds in truth], axis=1)
    return both, codes.counts().numpy(), truth.sum(1), scored.sum()


def _firings_where(codes: Codes, holds: Bool[np.ndarray, " rows"]) -> Int[np.ndarray, " d_sae"]:
    chosen = torch.from_numpy(holds)[codes.rows]
    return torch.bincount(codes.latents[chosen], minlength=codes.d_sae).numpy()


def _table(
    both: np.ndarray, on: np.ndarray, has: np.ndarray, n: int, labels: list[str], identity: frozenset[str]
) -> pd.DataFrame:
    latent, label = np.nonzero(both)
    hits, base = both[latent, label], has[label] / n
    return pd.DataFrame(
        {
            "latent": latent,
            "label": np.array(labels)[label],
            "context": [labels[i] not in identity for i in label],
            "precision": hits / on[latent],
            "recall": hits / has[label],
            "f1": 2 * hits / (on[latent] + has[label]),
            "always_fire": 2 * base / (1 + base),
            "density": on[latent] / n,
        }
    )
