"""What becomes of a latent in a larger dictionary, and what the first latents of a dictionary do on their own."""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..coder import SparseCoder


def relatives(narrow: SparseCoder, wide: SparseCoder, latent: int, n: int = 5) -> pd.DataFrame:
    """The n latents of `wide` whose decoder rows are most like that of a latent of `narrow`.

    latent; cosine: cos(W_dec_i, W_dec_latent); own: whether no other latent of `narrow` is more like it, so that it
    may be a part that `latent` was split into (Bricken et al. 2023). Raises ValueError for coders of two sites or
    widths, and for a latent or n out of range.
    """
    if (narrow.site, narrow.d_out) != (wide.site, wide.d_out):
        raise ValueError(f"one coder writes {narrow.site} ({narrow.d_out}), the other {wide.site} ({wide.d_out})")
    if latent not in range(narrow.d_sae) or n not in range(1, wide.d_sae + 1):
        raise ValueError(
            f"latent={latent}, n={n}: there are latents 0 to {narrow.d_sae - 1}, and n is 1 to {wide.d_sae}"
        )
    cosines = _rows(wide) @ _rows(narrow).T  # [wide, narrow]
    best = cosines[:, latent].topk(n)
    own = cosines[best.indices].argmax(1) == latent
    return pd.DataFrame({"latent": best.indices.tolist(), "cosine": best.values.tolist(), "own": own.tolist()})


def _rows(coder: SparseCoder) -> Float[Tensor, "d_sae d_out"]:
    return F.normalize(coder.dictionary().detach().float(), dim=1)


@torch.no_grad()
def prefix_fvu(
    coder: SparseCoder, x: Float[Tensor, "rows d_in"], widths: Sequence[int], order: Sequence[int] | None = None
) -> list[float]:
    """FVU of the reconstruction from the first w latents alone, for each w of `widths`.

    order: the latents, first to last; their own order unless given. The codes are those of the whole coder: what is
    left out is left out, nothing else takes its place. Raises ValueError for a width out of range, an order that
    is no permutation, and a coder that does not rebuild its input.
    """
    place = torch.arange(coder.d_sae) if order is None else torch.as_tensor(order).argsort()
    if order is not None and sorted(order) != list(range(coder.d_sae)):
        raise ValueError(f"order has {len(order)} entries; give each latent, 0 to {coder.d_sae - 1}, once")
    if bad := [w for w in widths if not 0 <= w <= coder.d_sae]:
        raise ValueError(f"widths={list(widths)}: {bad[0]} is not between 0 and d_sae={coder.d_sae}")
    if coder.d_in != coder.d_out:
        raise ValueError(
            f"this coder maps width {coder.d_in} to {coder.d_out}; a prefix is of a coder of its own input"
        )
    codes = coder.encode(x)
    errors = (x - coder.decode(codes.where(place[codes.latents] < w), x) for w in widths)
    variance = (x - x.mean(0)).double().square().sum()
    return [float(e.double().square().sum() / variance) for e in errors]
