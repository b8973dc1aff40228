"""The weights that every format stores, in one layout, and the exact identities between what formats mean by them.

Of raw x, a foreign coder computes `a = (c x - beta b_dec) W_enc + b_enc`, selects on `a` or on `a |W_dec_i|`, and
returns `(f W_dec + b_dec) / c`. Ours has c = 1, beta = 0 and selects on a; each function here does one step of the way.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..coder import SparseCoder
from ..hooks import Site
from ..nonlinearity import JumpReLU, ReLU, TopK
from .per_token import PerToken


class Parts(NamedTuple):
    """The tensors of a coder; `threshold` is one number, one for each latent, or None."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, "..."] | None = None
    W_skip: Float[Tensor, "d_in d_out"] | None = None


def uncentred(p: Parts) -> Parts:
    """beta 1 -> 0: `b_enc - b_dec W_enc`, so that the encoder reads x and no longer x - b_dec."""
    return p._replace(b_enc=p.b_enc - p.b_dec @ p.W_enc)


def centred(p: Parts) -> Parts:
    """beta 0 -> 1, the way back, for writing."""
    return p._replace(b_enc=p.b_enc + p.b_dec @ p.W_enc)


def unscaled(p: Parts, c: float) -> Parts:
    """A coder of c x becomes one of x, with the same f: `c W_enc`, `W_dec / c`, `b_dec / c`, `W_skip` as it is."""
    return p._replace(W_enc=c * p.W_enc, W_dec=p.W_dec / c, b_dec=p.b_dec / c)


def in_raw_units(p: Parts, nu: float) -> Parts:
    """A coder of x / nu becomes one of x whose f is nu times as large: weights stay, biases and thresholds grow."""
    threshold = None if p.threshold is None else nu * p.threshold
    return p._replace(b_enc=nu * p.b_enc, b_dec=nu * p.b_dec, threshold=threshold)


def with_unit_rows(p: Parts, threshold_is_scaled: bool = False) -> Parts:
    """Rows of W_dec at norm 1, and f times the norm n: W_enc's columns, b_enc and a threshold per latent grow by n.

    A TopK selection stays the same only if it was on `a n`. threshold_is_scaled: it is compared with a n already.
    """
    n = torch.linalg.vector_norm(p.W_dec, dim=1).clamp(min=1e-8)
    keep = p.threshold is None or threshold_is_scaled
    threshold = p.threshold if keep else n * p.threshold
    return p._replace(W_enc=p.W_enc * n, b_enc=p.b_enc * n, W_dec=p.W_dec / n[:, None], threshold=threshold)


def with_factors(p: Parts, s: Float[Tensor, " d_sae"]) -> Parts:
    """Factors that multiplied the activations before decoding go into the rows of W_dec."""
    return p._replace(W_dec=p.W_dec * s[:, None])


def unwhitened(p: Parts, mean: Float[Tensor, " d"], M: Float[Tensor, "d d"], M_inverse: Float[Tensor, "d d"]) -> Parts:
    """A coder (beta 0) of `(x - mean) M`, whose output is taken back by `y M_inverse + mean`, becomes one of x."""
    W_enc = M @ p.W_enc
    return p._replace(
        W_enc=W_enc, b_enc=p.b_enc - mean @ W_enc, W_dec=p.W_dec @ M_inverse, b_dec=p.b_dec @ M_inverse + mean
    )


def of_gated(W_enc: Tensor, W_dec: Tensor, b_dec: Tensor, r_mag: Tensor, b_mag: Tensor, b_gate: Tensor) -> Parts:
    """A gated coder as the JumpReLU it equals: `f = 1[z + b_gate > 0] relu(z e^r + b_mag)` with z = x W_enc.

    With `a = z e^r + b_mag` the gate is open where `a > b_mag - e^r b_gate`: the threshold, or 0 where that is below.
    """
    scale = r_mag.exp()
    return Parts(W_enc * scale, b_mag, W_dec, b_dec, threshold=(b_mag - scale * b_gate).clamp(min=0))


def finished(
    p: Parts,
    nonlinearity: nn.Module,
    *,
    site: Site | None = None,
    model: str | None = None,
    cls: type[SparseCoder] = SparseCoder,
) -> SparseCoder:
    """The coder with these weights, in eval mode. Raises ValueError when k exceeds the number of latents."""
    (d_in, d_sae), d_out = p.W_enc.shape, p.W_dec.shape[1]
    if getattr(nonlinearity, "k", 0) > d_sae:
        raise ValueError(f"the file says k={nonlinearity.k}, but holds {d_sae} latents")
    with torch.device("meta"):  # no random start for what is replaced at once
        coder = cls(d_in, d_sae, nn.Identity(), d_out=d_out, skip=p.W_skip is not None)
    coder.nonlinearity = nonlinearity
    if p.threshold is not None and not isinstance(nonlinearity, ReLU):
        nonlinearity.threshold.data = p.threshold.float().expand_as(nonlinearity.threshold).clone()
    # Stored by latent, as a new coder's are.
    coder.W_enc = nn.Parameter(p.W_enc.T.contiguous().T)
    for name in ("b_enc", "W_dec", "b_dec", "W_skip"):
        tensor = getattr(p, name)
        setattr(coder, name, None if tensor is None else nn.Parameter(tensor.contiguous()))
    coder.b_pre = torch.zeros(d_in)
    coder.site, coder.model = site, None if model is None else {"name": model}
    return coder.eval().requires_grad_(False)


def of(coder: SparseCoder) -> Parts:
    """The weights of a finished coder. Raises ValueError when it is still training or standardises every token."""
    if isinstance(coder, PerToken):
        raise ValueError("this coder standardises every token, which only saekit's own format says")
    if coder.training:
        raise ValueError("this coder is still in training mode; sk.train returns it finished")
    with torch.no_grad():
        b_enc = coder.b_enc - coder.b_pre @ coder.W_enc
    skip = None if coder.W_skip is None else coder.W_skip.detach()
    threshold = getattr(coder.nonlinearity, "threshold", None)
    threshold = None if threshold is None else threshold.detach()
    return Parts(coder.W_enc.detach(), b_enc, coder.W_dec.detach(), coder.b_dec.detach(), threshold, skip)


def kind(coder: SparseCoder, format_name: str, known: dict[str, str]) -> str:
    """What the format calls this coder: `known` maps relu, topk, batch_topk, jumprelu to its own names.

    Raises ValueError when the format has no name for it.
    """
    name = {ReLU: "relu", TopK: "topk", JumpReLU: "jumprelu"}.get(type(coder.nonlinearity), "?")
    if name == "topk" and coder.nonlinearity.along == "batch":
        name = "batch_topk"
    if name not in known:
        raise ValueError(f"{format_name} has no {coder.nonlinearity!r} coder; it has {', '.join(known)}")
    return known[name]


def only_autoencoder(coder: SparseCoder, format_name: str) -> None:
    """Raise ValueError for a transcoder or a skip connection."""
    if coder.W_skip is not None or coder.d_out != coder.d_in or (coder.site and coder.site.reads != coder.site.writes):
        raise ValueError(
            f"{format_name} holds autoencoders without skip connection; this is a transcoder: {coder!r:.120}"
        )


def one_each(p: Parts) -> Float[Tensor, " d_sae"]:
    """The threshold of each latent; 0 where there is none: a JumpReLU at 0 is a ReLU."""
    threshold = torch.zeros(()) if p.threshold is None else p.threshold
    return threshold.expand(len(p.b_enc)).clone()
