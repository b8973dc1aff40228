"""Output-based explanation: the tokens a latent makes likelier, by its decoder row and by measurement."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..coder import SparseCoder
from ..corpus import Corpus, pieces
from ..hooks import check_fit, splice
from ..nonlinearity import ReLU
from ..steer import add


@torch.no_grad()
def vocab_proj(model: Any, coder: SparseCoder, latent: int, n: int = 10) -> pd.DataFrame:
    """The n tokens whose logits a latent's decoder row raises most, and the n it lowers most; largest first.

    `logit = (N(d) - N(0)) W_U`, centred over the vocabulary, with d the decoder row and N the model's final norm
    (logit lens; Gur-Arieh et al. 2025). z: the same in standard deviations over the vocabulary. In early layers later
    ones rewrite what the row says, so this is a guess there; `token_change` measures.

    Raises ValueError for a latent out of range, and a coder that does not write to the residual stream.
    """
    check_fit(model, coder.site, coder, writes=True)
    row = coder.W_dec[_checked(coder, latent)]
    if len(row) != model.cfg.d_model:
        raise ValueError(f"the coder writes width {len(row)}, but the residual stream has {model.cfg.d_model}")
    directions = torch.stack([row, torch.zeros_like(row)])[None]
    with_row, without = model.unembed(model.ln_final(directions))[0]
    logits = (with_row - without).double()
    logits -= logits.mean()
    return _ends(model, logits, n, "logit").assign(z=lambda table: table.logit / logits.std().item())


def token_change(
    model: Any,
    coder: SparseCoder,
    latent: int,
    corpus: Corpus,
    *,
    strength: float,
    n: int = 10,
    seed: int = 0,
    before: Float[Tensor, " vocab"] | None = None,
) -> pd.DataFrame:
    """The n tokens that become likelier when a latent is added everywhere, and the n that become less likely.

    change: `mean log p(token | f_i + strength) - log p(token)` in nats over the tokens of a few corpus windows, the
    coder's error kept (TokenChange, Gur-Arieh et al. 2025, with the error term left in). before: the second mean,
    `mean_log_probs(model, prompts(corpus, seed))`, where it is known already. Raises ValueError for a latent out of
    range and a corpus of another tokenizer.
    """
    corpus.check_model(model)
    ids = prompts(corpus, seed)
    before = mean_log_probs(model, ids) if before is None else before
    after = mean_log_probs(model, ids, coder, _checked(coder, latent), strength)
    return _ends(model, after - before, n, "change")


def prompts(corpus: Corpus, seed: int = 0, windows: int = 8, length: int = 32) -> Int[Tensor, "windows length"]:
    """The beginnings of a few windows, the same ones for the same seed."""
    full = np.flatnonzero(corpus.mask[:, : length + corpus.lead].sum(1) >= min(length, corpus.mask.sum(1).max()))
    chosen = np.random.default_rng(seed).permutation(full)[:windows]
    return corpus.tokens[torch.from_numpy(np.sort(chosen))][:, : length + corpus.lead]


@torch.no_grad()
def mean_log_probs(
    model: Any, ids: Tensor, coder: SparseCoder | None = None, latent: int = 0, strength: float = 0.0
) -> Float[Tensor, " vocab"]:
    """The mean over all places of log p, as it is or with a latent added."""
    if coder is None:
        return model(ids).log_softmax(-1).mean((0, 1)).double()
    with splice(model, coder, edit=add(latent, strength)):
        return model(ids).log_softmax(-1).mean((0, 1)).double()


def random_direction(coder: SparseCoder, latent: int, seed: int = 0) -> SparseCoder:
    """The control of an output score: a coder of one latent, always off, its row random and as long as latent's."""
    control = SparseCoder(coder.d_in, 1, ReLU(), d_out=coder.d_out)
    generator = torch.Generator().manual_seed(seed)
    row = torch.randn(coder.d_out, generator=generator)
    with torch.no_grad():
        control.W_dec.copy_(row / row.norm() * coder.W_dec[latent].norm())
        control.b_enc.fill_(-torch.inf)
    control.site, control.model, control.tokenizer = coder.site, coder.model, coder.tokenizer
    return control.eval().requires_grad_(False)


def _checked(coder: SparseCoder, latent: int) -> int:
    if latent not in range(coder.d_sae):
        raise ValueError(f"latent {latent} is not in [0, {coder.d_sae}), the latents of this coder")
    return int(latent)


def _ends(model: Any, scores: Float[Tensor, " vocab"], n: int, name: str) -> pd.DataFrame:
    """The n largest and the n smallest scores, largest first."""
    order = scores.argsort(descending=True)
    ids = torch.cat([order[:n], order[-n:]]).tolist()
    return pd.DataFrame({"token": pieces(model.tokenizer, ids), "id": ids, name: scores[ids].tolist()})
