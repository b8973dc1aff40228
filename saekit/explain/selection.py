"""Which latents are worth steering with: those that bring about the tokens their rows name."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..coder import SparseCoder
from ..codes import Codes
from ..hooks import capture, splice
from ..steer import Edit
from .lens import checked, lenses, written

if TYPE_CHECKING:
    from ..features import Features

TOKENS = 20  # that stand for a row
FEWEST = 10  # contexts that an input score needs
BATCH = 32  # latents per forward pass


def input_score(features: "Features", latents: Iterable[int] | None = None, *, contexts: int = 100) -> pd.DataFrame:
    """How far latents respond to the tokens that their decoder rows raise: a row for each, dead ones too.

    input_score: the share of a latent's strongest contexts, one per window, in which the token it is strongest at is
    one of the 20 that its row raises most (Arad et al. 2025); NaN below 10 contexts. n: the contexts there were, at
    most `contexts` and the `top` that the index was collected with. Raises ValueError for a latent out of range.
    """
    chosen = _chosen(features.coder, latents)
    raised = raised_tokens(features.model, features.coder, chosen)
    held, ids = features.index.top, features.corpus.tokens.numpy().reshape(-1)
    rows = []
    for latent, tokens in zip(chosen, raised.tolist(), strict=True):
        peaks = ids[held.place[held.slice_of(latent)][:contexts]]
        rows.append((np.isin(peaks, tokens).mean() if len(peaks) >= FEWEST else np.nan, len(peaks)))
    return pd.DataFrame(rows, pd.Index(chosen, name="latent"), ["input_score", "n"])


@torch.no_grad()
def output_score(
    model: Any,
    coder: SparseCoder,
    latents: Iterable[int] | None = None,
    *,
    prompt: str = "From my experience,",
    times: float = 10.0,
) -> pd.DataFrame:
    """How far latents bring about the tokens that their decoder rows raise, 32 of them in one forward pass.

    `output_score = (1 - rank / V) p`, with p the largest probability of the 20 tokens that a row raises most, and rank
    its place among all V (0 is first), behind a neutral prompt to whose every token but BOS the latent was added, the
    error kept, with `times` the largest activation of any latent at the last token (Arad et al. 2025).
    Raises ValueError for a latent out of range and a prompt at whose end no latent is on.
    """
    chosen = _chosen(coder, latents)
    tokens = model.to_tokens(prompt, prepend_bos=True)
    strength = times * _largest(model, coder, tokens, prompt)
    raised = raised_tokens(model, coder, chosen)
    rows = []
    for first in range(0, len(chosen), BATCH):
        some = torch.tensor(chosen[first : first + BATCH])
        with splice(model, coder, edit=add_each(some, strength)):
            p = model(tokens.expand(len(some), -1))[:, -1].double().softmax(-1)
        best = p.gather(1, raised[first : first + BATCH]).amax(1)
        rank = (p > best[:, None]).sum(1)
        rows += zip(((1 - rank / p.shape[1]) * best).tolist(), best.tolist(), rank.tolist(), strict=True)
    return pd.DataFrame(rows, pd.Index(chosen, name="latent"), ["output_score", "p", "rank"])


def add_each(latents: Int[Tensor, " batch"], value: float) -> Edit:
    """`f + value` on another latent in each row of the batch, at all of its positions."""

    def edit(codes: Codes) -> Codes:
        rows = torch.arange(codes.n_rows, device=codes.latents.device)
        added = latents.to(rows.device).repeat_interleave(codes.n_rows // len(latents))
        values = torch.cat([codes.values, codes.values.new_full((codes.n_rows,), value)])
        where = torch.cat([codes.rows, rows]), torch.cat([codes.latents, added])
        return Codes.from_entries(*where, values, codes.n_rows, codes.d_sae)

    return edit


def raised_tokens(model: Any, coder: SparseCoder, latents: list[int], n: int = TOKENS) -> Int[Tensor, "_ tokens"]:
    """The ids of the n tokens that each latent's decoder row raises most."""
    n = min(n, model.cfg.d_vocab)
    return torch.cat([some.topk(n).indices for some in lenses(model, written(model, coder, latents))])


def _chosen(coder: SparseCoder, latents: Iterable[int] | None) -> list[int]:
    chosen = range(coder.d_sae) if latents is None else [checked(coder, latent) for latent in latents]
    if not len(chosen):
        raise ValueError("no latents are given: name at least one, or leave latents away for all")
    return list(chosen)


def _largest(model: Any, coder: SparseCoder, tokens: Int[Tensor, "1 pos"], prompt: str) -> float:
    x: Float[Tensor, "1 d_in"] = coder.site.inputs(capture(model, tokens, *coder.site.reads))[0, -1:]
    values = coder.encode(x.to(coder.W_enc)).values
    if not len(values) or tokens.shape[1] < 2:
        raise ValueError(f"no latent is on at the end of prompt={prompt!r}: give another neutral beginning")
    return float(values.max())
