"""The weights that every format stores, in one layout, and the exact identities between what formats mean by them.

Of raw x, a foreign coder computes `a = (c x - beta b_dec) W_enc + b_enc`, selects on `a` or on `a |W_dec_i|`, and
returns `(f W_dec + b_dec) / c`. Ours has c = 1, beta = 0 and selects on a; each function here does one step of the way.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..coder import SparseCoder
from ..hooks import Site
from ..nonlinearity import Gated, JumpReLU, ProLU, ReLU, TopK
from .per_token import PerToken

# What is a JumpReLU once it is finished, whatever it was while it trained.
JUMPS = ("jumprelu", "batch_topk", "feature_choice", "prolu", "gated")


class Parts(NamedTuple):
    """The tensors of a coder; `threshold` is one number, one for each latent, or None.

    `gain` and `shift` are those of a gated coder, `f = 1[a > 0] max(a exp(gain) + shift, 0)`.
    """

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, "..."] | None = None
    W_skip: Float[Tensor, "d_in d_out"] | None = None
    gain: Float[Tensor, " d_sae"] | None = None
    shift: Float[Tensor, " d_sae"] | None = None


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
    threshold, shift = (None if t is None else nu * t for t in (p.threshold, p.shift))
    return p._replace(b_enc=nu * p.b_enc, b_dec=nu * p.b_dec, threshold=threshold, shift=shift)


def with_unit_rows(p: Parts, threshold_is_scaled: bool = False) -> Parts:
    """Rows of W_dec at norm 1, and f times the norm n: W_enc's columns, b_enc and a threshold per latent grow by n.

    A TopK selection stays the same only if it was on `a n`. threshold_is_scaled: it is compared with a n already.
    """
    n = torch.linalg.vector_norm(p.W_dec, dim=1).clamp(min=1e-8)
    keep = p.threshold is None or threshold_is_scaled
    threshold, shift = p.threshold if keep else n * p.threshold, None if p.shift is None else n * p.shift
    W_dec = p.W_dec / n[:, None]
    return p._replace(W_enc=p.W_enc * n, b_enc=p.b_enc * n, W_dec=W_dec, threshold=threshold, shift=shift)


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
    """The paper's two paths, `f = 1[z + b_gate > 0] relu(z e^r + b_mag)` with z = x W_enc, as one and a shift."""
    return Parts(W_enc, b_gate, W_dec, b_dec, gain=r_mag, shift=b_mag - r_mag.exp() * b_gate)


def b_mag(p: Parts) -> Float[Tensor, " d_sae"]:
    """The paper's bias of a gated coder's magnitudes, `shift + e^gain b_gate`, for writing."""
    return p.shift + p.gain.exp() * p.b_enc


def as_jumprelu(p: Parts) -> Parts:
    """A coder as the JumpReLU it equals, with a threshold for each latent; 0 where it has none: then it is a ReLU.

    Of a gated coder, with `a' = a e^gain + shift`, the gate `a > 0` is open where `a' > shift`.
    """
    if p.gain is not None:
        scale = p.gain.exp()
        p = p._replace(W_enc=p.W_enc * scale, b_enc=p.b_enc * scale + p.shift, threshold=p.shift.clamp(min=0))
    threshold = torch.zeros(()) if p.threshold is None else p.threshold
    return p._replace(threshold=threshold.expand(len(p.b_enc)).clone(), gain=None, shift=None)


def finished(
    p: Parts,
    nonlinearity: nn.Module,
    *,
    site: Site | None = None,
    model: str | None = None,
    cls: type[SparseCoder] = SparseCoder,
    widths: Sequence[int] | None = None,
) -> SparseCoder:
    """The coder with these weights, in eval mode.

    Raises ValueError when k exceeds the number of latents, and for widths of nested dictionaries that do not ascend to
    it.
    """
    (d_in, d_sae), d_out = p.W_enc.shape, p.W_dec.shape[1]
    if getattr(nonlinearity, "k", 0) > d_sae:
        raise ValueError(f"the file says k={nonlinearity.k}, but holds {d_sae} latents")
    if widths and [*widths] != [*sorted({*widths} & {*range(1, d_sae)}), d_sae]:
        raise ValueError(f"the file says widths={[*widths]}, expected widths that ascend to its {d_sae} latents")
    with torch.device("meta"):  # no random start for what is replaced at once
        coder = cls(d_in, d_sae, nn.Identity(), d_out=d_out, skip=p.W_skip is not None)
    coder.nonlinearity = nonlinearity
    if p.threshold is not None and not isinstance(nonlinearity, ReLU):
        nonlinearity.threshold.data = p.threshold.float().expand_as(nonlinearity.threshold).clone()
    if p.gain is not None:
        nonlinearity.log_gain.data, nonlinearity.bias.data = p.gain.clone(), p.shift.clone()
    # Stored by latent, as a new coder's are.
    coder.W_enc = nn.Parameter(p.W_enc.T.contiguous().T)
    for name in ("b_enc", "W_dec", "b_dec", "W_skip"):
        tensor = getattr(p, name)
        setattr(coder, name, None if tensor is None else nn.Parameter(tensor.contiguous()))
    coder.b_pre = torch.zeros(d_in)
    coder.site, coder.model = site, None if model is None else {"name": model}
    coder.widths = tuple(widths) if widths else None
    return coder.eval().requires_grad_(False)


def of(coder: SparseCoder, per_token: bool = False) -> Parts:
    """The weights of a finished coder. Raises ValueError when it is still training.

    Also when it standardises every token, unless the format can say so (per_token).
    """
    if isinstance(coder, PerToken) and not per_token:
        raise ValueError("this coder standardises every token, which saekit's own format and SAELens' say and no other")
    if coder.training:
        raise ValueError("this coder is still in training mode; sk.train returns it finished")
    with torch.no_grad():
        b_enc = coder.b_enc - coder.b_pre @ coder.W_enc
    skip = None if coder.W_skip is None else coder.W_skip.detach()
    p = Parts(coder.W_enc.detach(), b_enc, coder.W_dec.detach(), coder.b_dec.detach(), W_skip=skip)
    return p._replace(**{name: tensor.detach() for name, tensor in _own(coder.nonlinearity).items()})


def _own(nonlinearity: nn.Module) -> dict[str, Tensor]:
    if isinstance(nonlinearity, Gated):
        return {"gain": nonlinearity.log_gain, "shift": nonlinearity.bias}
    if isinstance(nonlinearity, ProLU):  # open where a > 0 and a > -b
        return {"threshold": (-nonlinearity.bias).clamp(min=0)}
    threshold = getattr(nonlinearity, "threshold", None)
    return {} if threshold is None else {"threshold": threshold}


def kind(coder: SparseCoder, format_name: str, known: dict[str, str]) -> str:
    """What the format calls this coder: `known` maps our kinds (relu, topk, those of `JUMPS`) to its own names.

    Raises ValueError when the format has no name for it, and for a crosscoder.
    """
    kinds = {ReLU: "relu", JumpReLU: "jumprelu", Gated: "gated", ProLU: "prolu"}
    along = {"token": "topk", "batch": "batch_topk", "feature": "feature_choice"}
    form = coder.nonlinearity
    name = along[form.along] if isinstance(form, TopK) else kinds.get(type(form), "?")
    if name not in known or coder.n_sites > 1:
        what = f"crosscoder of {coder.n_sites} sites" if coder.n_sites > 1 else f"{form!r} coder"
        raise ValueError(
            f"{format_name} has no {what}; it has {', '.join(known)}. Our own format has: sk.save(coder, path)"
        )
    return known[name]


def only_autoencoder(coder: SparseCoder, format_name: str) -> None:
    """Raise ValueError for a transcoder or a skip connection."""
    if coder.W_skip is not None or coder.d_out != coder.d_in or (coder.site and coder.site.reads != coder.site.writes):
        raise ValueError(
            f"{format_name} holds autoencoders without skip connection; this is a transcoder: {coder!r:.120}"
        )
