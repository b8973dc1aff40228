"""Output-based explanation by measurement: the tokens that become likelier when a latent is added."""

import copy
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..coder import SparseCoder
from ..codes import Codes
from ..corpus import Corpus
from ..hooks import capture, splice
from ..nonlinearity import ReLU
from .lens import checked, ends

LOOKED_AT = 32  # windows in which the largest activation is looked for


def token_change(
    model: Any,
    coder: SparseCoder,
    latent: int,
    corpus: Corpus,
    *,
    times: float = 1.0,
    strength: float | None = None,
    n: int = 10,
    seed: int = 0,
    before: Float[Tensor, " vocab"] | None = None,
) -> pd.DataFrame:
    """The n tokens that become likelier when a latent is added everywhere, and the n that become less likely.

    change: `mean log p(token | f_i + strength) - log p(token)` in nats over the tokens of a few corpus windows, the
    coder's error kept (TokenChange, Gur-Arieh et al. 2025, with the error term left in). times: how strong, in units
    of the largest activation of the latent in 32 windows of the corpus; or strength: in units of the activation.
    before: the second mean, `mean_log_probs(model, prompts(corpus, seed))`, where it is known already.
    Raises ValueError for a latent out of range, one that is never on in those windows, and a corpus of another
    tokenizer.
    """
    corpus.check_model(model)
    checked(coder, latent)
    strength = times * _largest(model, coder, latent, corpus) if strength is None else strength
    ids = prompts(corpus, seed)
    before = mean_log_probs(model, ids) if before is None else before
    return ends(model, mean_log_probs(model, ids, coder, strength * coder.W_dec[[latent]])[0] - before, n, "change")


def _largest(model: Any, coder: SparseCoder, latent: int, corpus: Corpus) -> float:
    """A latent's largest activation in windows that lie evenly over the corpus."""
    some = corpus[np.unique(np.linspace(0, len(corpus) - 1, LOOKED_AT).astype(int))]
    values = torch.cat([_values(model, coder, latent, some[i : i + 8]) for i in range(0, len(some), 8)])
    if not len(values):
        raise ValueError(
            f"latent {latent} is never on in {len(some)} windows of {corpus.source!r}, so its maximum is not known "
            "from them: give strength="
        )
    return float(values.max())


@torch.no_grad()
def _values(model: Any, coder: SparseCoder, latent: int, part: Corpus) -> Float[Tensor, " firings"]:
    x = coder.site.inputs(capture(model, part.tokens, *coder.site.reads))[torch.from_numpy(part.mask)]
    codes = coder.encode(x.to(coder.W_enc))
    return codes.values[codes.latents == latent]


def prompts(corpus: Corpus, seed: int = 0, windows: int = 8, length: int = 32) -> Int[Tensor, "windows length"]:
    """The beginnings of a few windows, the same ones for the same seed."""
    full = np.flatnonzero(corpus.mask[:, : length + corpus.lead].sum(1) >= min(length, corpus.mask.sum(1).max()))
    chosen = np.random.default_rng(seed).permutation(full)[:windows]
    return corpus.tokens[torch.from_numpy(np.sort(chosen))][:, : length + corpus.lead]


@torch.no_grad()
def mean_log_probs(
    model: Any, ids: Int[Tensor, "batch pos"], coder: SparseCoder | None = None, added: Tensor | None = None
) -> Float[Tensor, "*n vocab"]:
    """The mean over all places of log p: as it is, or with each of `added` [n, d_out] added where the coder writes.

    The n are measured in one forward pass. A latent added everywhere is `strength * W_dec[[latent]]`.
    """
    if coder is None or added is None:
        return model(ids).log_softmax(-1).mean((0, 1)).double()
    n, each = len(added), torch.arange(len(added)).repeat_interleave(ids.numel())
    ones = torch.ones(len(each)).to(added)

    def edit(codes: Codes) -> Codes:
        return Codes.from_entries(torch.arange(len(each)), each, ones, codes.n_rows, n)

    with splice(model, silent(coder, added), edit=edit):
        return model(ids.repeat(n, 1)).log_softmax(-1).unflatten(0, (n, -1)).mean((1, 2)).double()


def silent(coder: SparseCoder, rows: Float[Tensor, "n d_out"]) -> SparseCoder:
    """A coder at the same site whose n latents are always off and have these decoder rows: for adding vectors."""
    control = SparseCoder(coder.d_in, len(rows), ReLU(), d_out=coder.d_out)
    with torch.no_grad():
        control.W_dec.copy_(rows)
        control.b_enc.fill_(-torch.inf)
    control.site, control.model, control.tokenizer = coder.site, coder.model, coder.tokenizer
    return control.eval().requires_grad_(False)


def random_direction(coder: SparseCoder, latent: int, seed: int = 0) -> SparseCoder:
    """The control of an output score: a coder of one latent, always off, its row random and as long as latent's."""
    row = torch.randn(coder.d_out, generator=torch.Generator().manual_seed(seed))
    return silent(coder, (row / row.norm() * coder.W_dec[latent].norm().to(row))[None])


def random_rows(coder: SparseCoder, seed: int = 0) -> SparseCoder:
    """The control for all latents at once: the same encoder, every decoder row random and as long as it was.

    Each latent is on where it was on, as strongly, and what it writes is as long, but says nothing.
    """
    control = copy.deepcopy(coder).requires_grad_(False)
    # Not the bare seed: rows that were themselves drawn after torch.manual_seed(0) would be their own control.
    generator = torch.Generator().manual_seed(0x5AE0000 + seed)
    rows = torch.randn(coder.W_dec.shape, generator=generator).to(coder.W_dec)
    with torch.no_grad():
        control.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True) * coder.W_dec.norm(dim=1, keepdim=True))
    return control.eval()
