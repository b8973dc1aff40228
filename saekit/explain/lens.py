"""What a latent's weights say by themselves: its decoder row read as output tokens, its encoder row as input tokens."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from ..coder import SparseCoder
from ..corpus import pieces
from ..hooks import Site, check_fit

CHUNK = 256  # latents whose logits over the whole vocabulary are held at once


def vocab_proj(model: Any, coder: SparseCoder, latent: int, n: int = 10) -> pd.DataFrame:
    """The n tokens whose logits a latent's decoder row raises most, and the n it lowers most; largest first.

    `logit = (N(d) - N(0)) W_U`, centred over the vocabulary, with d the decoder row and N the model's final norm
    (logit lens; Gur-Arieh et al. 2025). z: the same in standard deviations over the vocabulary. `table.attrs` holds
    the skew and the excess kurtosis over the vocabulary, large where few tokens stand out, and `layers_after`, the
    layers between the site and the output.

    Warns when half of the layers or more come after the site: they rewrite what the row says, so that it is a guess
    there, and `token_change` measures. Raises ValueError for a latent out of range, and a coder that does not write
    to the residual stream.
    """
    logits = lens(model, written(model, coder, [checked(coder, latent)]))[0]
    after = layers_after(model, coder.site)
    if after is not None and 2 * after >= model.cfg.n_layers:
        warnings.warn(
            f"{after} of the {model.cfg.n_layers} layers come after {coder.site.name!r} and rewrite what a row says: "
            "these tokens are a guess, token_change measures",
            stacklevel=2,
        )
    return _with_shape(ends(model, logits, n, "logit"), logits, layers_after=after)


@torch.no_grad()
def de_embedding(model: Any, coder: SparseCoder, latent: int, n: int = 10) -> pd.DataFrame:
    """The n tokens whose embeddings a latent's encoder row reads most strongly, and the n it reads least.

    `score = E e`, centred over the vocabulary, with E the token embeddings and e the latent's column of W_enc: what
    it would read at a token if no layer had run yet, so that it is a guess in later layers. z and `attrs` as in
    `vocab_proj`. Raises ValueError for a latent out of range, and a coder that does not read the residual stream.
    """
    check_fit(model, coder.site, coder)
    if coder.d_in != model.cfg.d_model:
        raise ValueError(f"the coder reads width {coder.d_in}, but the residual stream has {model.cfg.d_model}")
    column = coder.W_enc[:, checked(coder, latent)]
    scores = (model.embed(torch.arange(model.cfg.d_vocab, device=column.device)[None])[0] @ column).double()
    scores -= scores.mean()
    return _with_shape(ends(model, scores, n, "score"), scores)


@torch.no_grad()
def lens(model: Any, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
    """`(N(row) - N(0)) W_U`, centred over the vocabulary."""
    logits = model.unembed(model.ln_final(torch.cat([rows, torch.zeros_like(rows[:1])])[None]))[0]
    logits = (logits[:-1] - logits[-1]).double()
    return logits - logits.mean(1, keepdim=True)


def lenses(model: Any, rows: Float[Tensor, "n d_model"]) -> Iterator[Float[Tensor, "some vocab"]]:
    """The same for many rows, a few at a time."""
    return (lens(model, some) for some in rows.split(CHUNK))


def shapes(model: Any, coder: SparseCoder) -> pd.DataFrame:
    """Skew and excess kurtosis, over the vocabulary, of the logits of every latent's decoder row (see `vocab_proj`).

    Kurtosis is large where few tokens stand out: raised where the skew is positive (a promoter), lowered where it is
    negative (a suppressor). It is below 0 where the row parts the vocabulary in two (a partition; for neurons, Gurnee
    et al. 2024, 2401.12181). Read both beside those of random rows (`random_rows`), because the unembedding has a
    shape of its own. Raises ValueError for a coder that does not write to the residual stream.
    """
    parts = [some.numpy() for some in lenses(model, written(model, coder, list(range(coder.d_sae))))]
    skew, kurtosis = (np.concatenate([f(part, axis=1) for part in parts]) for f in (stats.skew, stats.kurtosis))
    return pd.DataFrame({"skew": skew, "kurtosis": kurtosis}, pd.RangeIndex(coder.d_sae, name="latent"))


def written(model: Any, coder: SparseCoder, latents: list[int]) -> Float[Tensor, "n d_model"]:
    """What latents write to the residual stream. Raises ValueError for a coder that does not."""
    check_fit(model, coder.site, coder, writes=True)
    rows = coder.W_dec[latents].detach()
    if rows.shape[1] != model.cfg.d_model:
        raise ValueError(f"the coder writes width {rows.shape[1]}, but the residual stream has {model.cfg.d_model}")
    return rows


def layers_after(model: Any, site: Site) -> int | None:
    """How many layers come after the layer of a site; None outside the blocks."""
    return None if site.layer is None else model.cfg.n_layers - 1 - site.layer


def checked(coder: SparseCoder, latent: int) -> int:
    """The latent. Raises ValueError where the coder has none of that number."""
    if latent not in range(coder.d_sae):
        raise ValueError(f"latent {latent} is not in [0, {coder.d_sae}), the latents of this coder")
    return int(latent)


def ends(model: Any, scores: Float[Tensor, " vocab"], n: int, name: str) -> pd.DataFrame:
    """The n largest and the n smallest scores, largest first. Raises ValueError unless there are as many tokens."""
    if not 1 <= n <= len(scores):
        raise ValueError(f"n={n}: give a number of tokens from 1 to {len(scores)}, the vocabulary")
    order = scores.argsort(descending=True)
    ids = torch.cat([order[:n], order[-n:]]).tolist()
    return pd.DataFrame({"token": pieces(model.tokenizer, ids), "id": ids, name: scores[ids].tolist()})


def _with_shape(table: pd.DataFrame, scores: Float[Tensor, " vocab"], **attrs: Any) -> pd.DataFrame:
    """z-scores, and the skew and excess kurtosis over the vocabulary in `attrs`."""
    table["z"] = table.iloc[:, -1] / max(scores.std().item(), 1e-30)
    shape = {"skew": float(stats.skew(scores.numpy())), "kurtosis": float(stats.kurtosis(scores.numpy()))}
    table.attrs = shape | attrs
    return table
