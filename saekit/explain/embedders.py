"""Texts as vectors, offline: what the embedding score compares."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ..features import Features
from .passages import halves

Embedder = Callable[[Sequence[str]], Float[np.ndarray, "n d"]]


def tfidf(features: Features) -> Embedder:
    """Words and signs, those that are rare in the train documents counting more."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    corpus, (train, _) = features.corpus, halves(features)
    tokens, mask = corpus.tokens.numpy(), corpus.mask
    texts = ["".join(features.excerpts.pieces[i] for i in tokens[w][mask[w]]) for w in train.drawn]
    fitted = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", lowercase=True, sublinear_tf=True).fit(texts)
    return lambda given: fitted.transform([str(text) for text in given]).toarray()


def mean_embeddings(model: Any) -> Embedder:
    """The mean of the model's own token embeddings, from which the mean over the vocabulary is taken away."""

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        table = model.embed(torch.arange(model.cfg.d_vocab)[None])[0]
        table = table - table.mean(0)
        ids = [model.tokenizer(str(text), add_special_tokens=False).input_ids for text in texts]
        return torch.stack([table[i].mean(0) if i else torch.zeros_like(table[0]) for i in ids]).double().numpy()

    return embed
