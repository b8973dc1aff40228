"""`SparseCoder`: one class for every sparse autoencoder and transcoder."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..codes import Codes, Support, decode, encode
from ..hooks import Site
from ..nonlinearity import Route, Routed

Scale = float | Float[Tensor, "..."]  # one number, or one for each column


class Encoding(NamedTuple):
    """What one encoding pass knows."""

    codes: Codes
    pre: Float[Tensor, "rows _"]  # dense, without gradient: what the codes were chosen from
    a: Float[Tensor, " nnz"]  # the pre-activations of the codes' entries, with gradient
    route: Route | None = None  # where each row was sent; `pre` then holds the latents of that expert only


class SparseCoder(nn.Module):
    """`y_hat = f(x) W_dec + b_dec [+ x W_skip]`, with `f(x) = nonlinearity((x - b_pre) W_enc + b_enc)`.

    W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_out], b_dec [d_out], W_skip [d_in, d_out]. Column i of W_enc
    and row i of W_dec belong to latent i. `b_pre` [d_in] is set from data and has no gradient; a finished coder has
    it folded into b_enc and reads raw activations.

    d_out=None: an autoencoder. Another d_out, or a site that writes elsewhere: a transcoder; skip=True adds W_skip.
    n_sites=L: a crosscoder; the d_out columns are L sites of equal width, laid side by side, and so are the d_in ones
    unless it reads one site only. unit_norm=True keeps the rows of W_dec at norm 1: `W_dec = V / |V|` with V at norm 1
    before every step.

    `site`, `model` and `tokenizer` say where the coder belongs: its hook names, the model it was trained on with how
    that was processed, and the fingerprint of the tokenizer. They are set by `sk.train` and `sk.load`. `widths` says of
    a Matryoshka coder how many latents each of its nested dictionaries has.
    """

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        nonlinearity: nn.Module,
        *,
        d_out: int | None = None,
        n_sites: int = 1,
        skip: bool = False,
        unit_norm: bool = False,
    ) -> None:
        super().__init__()
        if d_in < 1 or d_sae < 1:
            raise ValueError(f"d_in={d_in}, d_sae={d_sae}: both must be at least 1")
        self.d_in, self.d_sae, self.d_out = d_in, d_sae, d_in if d_out is None else d_out
        self.nonlinearity, self.unit_norm, self.n_sites = nonlinearity, unit_norm, n_sites
        _check(self)
        rows = nn.functional.normalize(torch.randn(d_sae, self.d_out), dim=1) * (1.0 if unit_norm else 0.1)
        # Stored by latent: the sparse products read and write whole columns of W_enc.
        columns = rows.clone() if self.d_out == d_in else nn.functional.normalize(torch.randn(d_sae, d_in), dim=1)
        self.W_enc = nn.Parameter(columns.T)
        self.b_enc = nn.Parameter(torch.zeros(d_sae), requires_grad=not getattr(nonlinearity, "own_bias", False))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.W_skip = nn.Parameter(torch.zeros(d_in, self.d_out)) if skip else None
        self.register_buffer("b_pre", torch.zeros(d_in))
        self.site: Site | None = None
        self.model: dict | None = None
        self.tokenizer: str | None = None
        self.widths: tuple[int, ...] | None = None

    def extra_repr(self) -> str:
        return f"d_in={self.d_in}, d_sae={self.d_sae}, d_out={self.d_out}, unit_norm={self.unit_norm}, site={self.site}"

    @property
    def banks(self) -> tuple["SparseCoder", ...]:
        """The coders it is made of: itself. A stack has several."""
        return (self,)

    def inputs(self, x: Float[Tensor, "rows d_in"]) -> list[Float[Tensor, "rows _"]]:
        """What each bank reads of x."""
        return [x]

    def split(self, codes: Codes) -> list[Codes]:
        """The codes of each bank."""
        return [codes]

    def add_up(self, outputs: list[Float[Tensor, "rows _"]]) -> Float[Tensor, "rows d_out"]:
        """y, from what each bank writes."""
        return outputs[0]

    def targets(self, y: Float[Tensor, "rows d_out"]) -> list[Float[Tensor, "rows _"]]:
        """The part of y that each bank writes."""
        return [y]

    def place(self, site: Site | None, model: dict | None, tokenizer: str | None) -> None:
        """Say where the coder belongs."""
        self.site, self.model, self.tokenizer = site, model, tokenizer

    @torch.no_grad()
    def centre(self, b_pre: Float[Tensor, " d_in"], b_dec: Float[Tensor, " d_out"]) -> None:
        """Where training starts from: what is taken from x, and what is added to y_hat."""
        self.b_pre.copy_(b_pre)
        self.b_dec.copy_(b_dec)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> tuple[Float[Tensor, "*batch d_out"], Codes]:
        """(y_hat, codes); the rows of the codes are the leading dimensions of x, flattened."""
        codes = self.encode(x)
        return self.decode(codes, x).reshape(*x.shape[:-1], self.d_out), codes

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The codes of raw activations. Raises ValueError where the width is not d_in."""
        codes = self.encoding(x).codes
        return codes if self.training else codes.on()

    def encoding(self, x: Float[Tensor, "*batch d_in"], *, fast: bool = False) -> Encoding:
        """Codes and the pre-activations they were chosen from.

        One dense product without gradient finds the support; the rest happens on its entries. With `fast` that
        product is rounded to bfloat16 and the chosen entries are computed again in full precision.
        """
        if x.shape[-1] != self.d_in:
            raise ValueError(f"the coder reads width {self.d_in}, but the activations have width {x.shape[-1]}")
        centred = x.reshape(-1, self.d_in) - self.b_pre
        route = self.nonlinearity.route(centred) if isinstance(self.nonlinearity, Routed) else None
        routing = () if route is None else (route,)
        with torch.no_grad():
            pre = self.pre_activations(centred, fast, route)
            support = self.nonlinearity.support(pre, *routing)
            known = None if fast or route is not None else pre.flatten()[support.rows * self.d_sae + support.latents]
        a = encode(centred, self.W_enc, self.b_enc, support, known)
        return Encoding(self.nonlinearity(a, support, *routing), pre, a, route)

    def pre_activations(
        self, centred: Float[Tensor, "rows d_in"], fast: bool = False, route: Route | None = None
    ) -> Float[Tensor, "rows _"]:
        """`(x - b_pre) W_enc + b_enc`, dense, of inputs with b_pre taken away; with a route, of each row's expert."""
        affine = _rounded if fast else _exact
        if route is None:
            return affine(centred, self.W_enc, self.b_enc)
        return route.blocks(
            lambda rows, mine: affine(centred[rows], self.W_enc[:, mine], self.b_enc[mine]), self.nonlinearity.width
        )

    def entries(self, x: Float[Tensor, "rows d_in"], support: Support) -> Float[Tensor, " nnz"]:
        """The pre-activations at the entries of `support` only, with gradient."""
        return encode(x - self.b_pre, self.W_enc, self.b_enc, support)

    def decode(self, codes: Codes, x: Float[Tensor, "*batch d_in"] | None = None) -> Float[Tensor, "rows d_out"]:
        """`f W_dec + b_dec [+ x W_skip]`; a coder with a skip connection needs x."""
        if codes.d_sae != self.d_sae:
            raise ValueError(f"the coder has {self.d_sae} latents, but the codes have {codes.d_sae}")
        y_hat = self.written(codes) + self.b_dec
        if self.W_skip is None:
            return y_hat
        if x is None:
            raise ValueError("this coder has a skip connection: decode(codes, x) needs the input x")
        return y_hat + x.reshape(-1, self.d_in) @ self.W_skip

    def written(self, codes: Codes) -> Float[Tensor, "rows d_out"]:
        """`f W_dec`: what the latents write, without bias and skip connection."""
        return decode(codes, self.dictionary())

    def norms(self) -> Float[Tensor, " d_sae"]:
        """`sum over sites of |W_dec[i] at the site|`: what penalties weigh a latent with."""
        if self.unit_norm and self.n_sites == 1:
            return torch.ones_like(self.b_enc)
        return torch.linalg.vector_norm(self.dictionary().unflatten(1, (self.n_sites, -1)), dim=2).sum(1)

    def dictionary(self) -> Float[Tensor, "d_sae d_out"]:
        """W_dec, seen through `V / |V|` while a unit-norm coder trains."""
        return _UnitRows.apply(self.W_dec) if self.unit_norm and self.training else self.W_dec

    @torch.no_grad()
    def constrain(self) -> None:
        """Put the parameters back where the parametrisation has them; called after every optimiser step."""
        if self.unit_norm:
            self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True).clamp_(min=1e-8))
        if hasattr(self.nonlinearity, "constrain"):
            self.nonlinearity.constrain()

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "rows d_in"]) -> None:
        """Set thresholds that stand in for a selection over the batch, on rows that were not trained on."""
        if not hasattr(self.nonlinearity, "calibrate"):
            return
        batches = []
        for part in x.chunk(-(-len(x) // 2048)):
            centred = part - self.b_pre
            route = self.nonlinearity.route(centred) if isinstance(self.nonlinearity, Routed) else None
            batches.append(self.pre_activations(centred, False, route))
        self.nonlinearity.calibrate(batches)

    @torch.no_grad()
    def fold(self, scale_in: Scale = 1.0, scale_out: Scale = 1.0) -> None:
        """Make a coder of `scale_in * x -> scale_out * y` one of raw `x -> y`, and fold b_pre into b_enc.

        A scale is a number, or one for each column where sites differ. With s the mean of scale_out, activations,
        biases and thresholds shrink by s, and W_dec stays where scale_out is one number:
        `W_enc *= scale_in / s; b_enc = (b_enc - b_pre W_enc) / s; W_dec *= s / scale_out; b_dec /= scale_out`.
        """
        scale_in, scale_out = (torch.as_tensor(s, dtype=self.b_dec.dtype) for s in (scale_in, scale_out))
        shrink = scale_out.mean()
        if isinstance(self.nonlinearity, Routed):
            self.nonlinearity.fold(self.b_pre, scale_in)
        self.b_enc.sub_(self.b_pre @ self.W_enc).div_(shrink)
        self.b_pre.zero_()
        self.W_enc.mul_(scale_in.expand(self.d_in)[:, None] / shrink)
        self.b_dec.div_(scale_out)
        if scale_out.ndim:
            self.W_dec.mul_(shrink / scale_out)
        if self.W_skip is not None:
            self.W_skip.mul_(scale_in.expand(self.d_in)[:, None] / scale_out)
        if hasattr(self.nonlinearity, "rescale"):
            self.nonlinearity.rescale(1 / float(shrink))


def _check(coder: SparseCoder) -> None:
    if getattr(coder.nonlinearity, "k", 0) > coder.d_sae:
        raise ValueError(
            f"k={coder.nonlinearity.k} is more than d_sae={coder.d_sae}; choose a smaller k or more latents"
        )
    if coder.n_sites < 1 or coder.d_out % coder.n_sites:
        raise ValueError(f"d_out={coder.d_out} columns cannot be n_sites={coder.n_sites} sites of equal width")
    for name, own in ((n, t) for n, t in coder.nonlinearity.state_dict().items() if t.ndim == 1):
        if not isinstance(coder.nonlinearity, Routed) and len(own) != coder.d_sae:
            raise ValueError(f"the nonlinearity has {len(own)} latents ({name}), the coder d_sae={coder.d_sae}")


def _exact(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    return torch.addmm(b, x, W)


def _rounded(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    W, b = W.bfloat16(), b.bfloat16()
    out = W.new_empty(len(x), W.shape[1])
    for i in range(0, len(x), 512):  # in pieces that stay in the cache
        torch.addmm(b, x[i : i + 512].bfloat16(), W, out=out[i : i + 512])
    return out


class _UnitRows(torch.autograd.Function):
    """`V / |V|` where |V| is 1 already: forward is V, backward takes away the part of the gradient along V."""

    @staticmethod
    def forward(ctx, V: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(V)
        return V.view_as(V)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        (V,) = ctx.saved_tensors
        return torch.addcmul(grad, torch.linalg.vecdot(grad, V)[:, None], V, value=-1)
