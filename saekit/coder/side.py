"""`side`: what a crosscoder is at one of its sites."""

from copy import deepcopy

import torch

from ..hooks import Site
from .sparse import SparseCoder


@torch.no_grad()
def side(coder: SparseCoder, i: int) -> SparseCoder:
    """The part of a finished crosscoder at its site i, an SAE there: `f = nonlinearity(x^i W_enc^i + b)`.

    It does not see the other sites, so they are held at the crosscoder's bias there, which is close to their centre:
    `b = b_enc + sum_(j != i) b_dec^j W_enc^j`. A latent that needs several sites is weaker here. For a crosscoder of
    two models, side i belongs to model i, and `sk.splice` takes it.

    Raises ValueError for a coder of one site, one that does not read what it writes, and a site that it does not have.
    """
    if coder.n_sites < 2 or coder.d_in != coder.d_out or coder.training:
        raise ValueError(
            f"this coder has n_sites={coder.n_sites} and goes from width {coder.d_in} to {coder.d_out}: "
            "only a finished crosscoder that reads all the sites it writes has sides"
        )
    if not 0 <= i < coder.n_sites:
        raise ValueError(f"i={i}: this crosscoder has the sites 0 to {coder.n_sites - 1}")
    width = coder.d_in // coder.n_sites
    mine = torch.arange(i * width, (i + 1) * width)
    elsewhere = coder.b_dec.index_fill(0, mine, 0.0)
    part = SparseCoder(width, coder.d_sae, deepcopy(coder.nonlinearity))
    part.W_enc.copy_(coder.W_enc[mine])
    part.W_dec.copy_(coder.W_dec[:, mine])
    part.b_dec.copy_(coder.b_dec[mine])
    part.b_enc.copy_(coder.b_enc + elsewhere @ coder.W_enc)
    part.place(*_belongs(coder, i))
    return part.eval().requires_grad_(False)


def _belongs(coder: SparseCoder, i: int) -> tuple[Site | None, dict | None, str | None]:
    """Site, model and tokenizer of side i. Over several models, each has as many of the sites."""
    site, model = coder.site, coder.model
    if site is not None and len(site.reads) == coder.n_sites:
        site = Site(site.reads[i].rpartition(": ")[2], site.writes[i].rpartition(": ")[2])
    if model and "models" in model:
        model = model["models"][i * len(model["models"]) // coder.n_sites]
    return site, model, coder.tokenizer
