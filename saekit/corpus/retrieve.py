"""`retrieve`: the part of a corpus that is about a domain, from a few texts of that domain."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .store import Corpus


def retrieve(model: Any, corpus: Corpus, seeds: Sequence[str], *, windows: int = 200) -> Corpus:
    """The `windows` windows of the corpus that are most like one of the `seeds`, in the corpus' order.

    Texts are TF-IDF vectors of their token ids, `count_t log((1 + n) / (1 + df_t)) + count_t` at length 1, n windows of
    which df_t hold token t; a window's score is its largest cosine with a seed. It is the first step of a specialized
    coder (Muhamed et al. 2024, arXiv 2411.00743), without a network and without chance: ties go to the earlier window.

    Raises ValueError for no seeds, a seed without tokens, a number of windows that the corpus does not have, and
    another tokenizer's corpus.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfTransformer

    corpus.check_model(model)
    tokenizer = getattr(model, "tokenizer", model)
    asked = [tokenizer(seed, add_special_tokens=False).input_ids for seed in seeds]
    if isinstance(seeds, str) or not asked or not all(asked):
        raise ValueError(f"seeds={seeds!r}: give a list of texts about the domain, none of them empty")
    if not 1 <= windows <= len(corpus):
        raise ValueError(f"windows={windows}: the corpus has {len(corpus)}; choose 1 to {len(corpus)}")
    width = 1 + max(int(corpus.tokens.max()), *(max(ids) for ids in asked))

    def counted(rows: np.ndarray, ids: np.ndarray, n: int) -> csr_matrix:
        return csr_matrix((np.ones(len(ids)), (rows, ids)), shape=(n, width))

    owners = np.repeat(np.arange(len(asked)), [len(ids) for ids in asked])
    there = counted(np.nonzero(corpus.mask)[0], corpus.tokens.numpy()[corpus.mask], len(corpus))
    weigh = TfidfTransformer().fit(there)
    cosines = weigh.transform(there) @ weigh.transform(counted(owners, np.concatenate(asked), len(asked))).T
    best = np.argsort(-cosines.toarray().max(1).round(12), kind="stable")[:windows]
    return corpus[np.sort(best)]
