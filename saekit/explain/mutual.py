"""The words that share most information with a latent, among a fixed list of them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..coder import SparseCoder
from ..corpus import pieces
from .lens import checked, lenses, written


@torch.no_grad()
def mutual_information(
    model: Any,
    coder: SparseCoder,
    latents: int | Iterable[int],
    words: Sequence[str] | None = None,
    *,
    n: int = 10,
    alpha: float = 1.0,
    beta: float = 1.0,
    literal: bool = False,
) -> pd.DataFrame:
    """The n words of largest mutual information with each latent, largest first (Wu et al. 2025, 2502.15576).

    With `S[c, w]` the logit that the decoder row of latent c, behind the final norm, gives to word w (the mean over
    its tokens), `p(w | c) = softmax_w(S / alpha)`, `p(c | w) = softmax_c(S / beta)` over all latents of the coder,
    and `p(c) = 1 / d_sae`, the score is the latent's share of the information
    `p(w | c) (log p(c | w) - log p(c))` in nats. literal: the published score `p(w | c) log p(c | w)`, which ranks
    what is impossible first where logits are large. words: given ones, each read with a blank before it, so that no
    list of tokens decides what can be said; or all tokens of the model.
    Columns: latent, word, score, p, which is p(w | c). Raises ValueError for a latent out of range, no words, and
    scales that are not positive.
    """
    chosen = [checked(coder, c) for c in ([latents] if isinstance(latents, int) else latents)]
    if min(alpha, beta) <= 0 or not chosen or (words is not None and not len(words)):
        raise ValueError(f"alpha={alpha}, beta={beta}, {len(chosen)} latents: give positive scales, latents and words")
    spelled = None if words is None else _spelled(model, words)
    names = list(words) if words is not None else pieces(model.tokenizer, range(model.cfg.d_vocab))
    over_latents = _log_sum_exp(S / beta for S in _logits(model, coder, range(coder.d_sae), spelled))
    tables = []
    log_d = torch.tensor(coder.d_sae).double().log()
    for c, S in zip(chosen, (s for some in _logits(model, coder, chosen, spelled) for s in some), strict=True):
        p, log_p_c = (S / alpha).softmax(0), S / beta - over_latents
        score = p * (log_p_c if literal else log_p_c + log_d)
        best = score.argsort(descending=True)[:n].tolist()
        columns = {"latent": c, "word": [names[w] for w in best], "score": score[best].tolist(), "p": p[best].tolist()}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _logits(
    model: Any, coder: SparseCoder, latents: Sequence[int], spelled: list[list[int]] | None
) -> Iterator[Float[Tensor, "some words"]]:
    """The words' logits, a few latents at a time; all tokens are words where none are spelled."""
    for logits in lenses(model, written(model, coder, list(latents))):
        yield logits if spelled is None else torch.stack([logits[:, ids].mean(1) for ids in spelled], 1)


def _log_sum_exp(parts: Iterable[Float[Tensor, "some words"]]) -> Float[Tensor, " words"]:
    """Over the rows of all parts, of which one is held at a time."""
    total = None
    for part in parts:
        here = part.logsumexp(0)
        total = here if total is None else torch.logaddexp(total, here)
    return total


def _spelled(model: Any, words: Sequence[str]) -> list[list[int]]:
    spelled = [model.tokenizer(" " + word, add_special_tokens=False).input_ids for word in words]
    if "" in words:
        raise ValueError("one of the words is empty: leave it away")
    return spelled
