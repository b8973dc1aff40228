"""`SparseCoder`: one class for every sparse autoencoder and transcoder."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .codes import Codes, decode, encode


class Encoding(NamedTuple):
    """What one encoding pass knows: the codes, and the dense pre-activations they were chosen from (no gradient)."""

    codes: Codes
    pre: Float[Tensor, "rows d_sae"]


class SparseCoder(nn.Module):
    """`y_hat = f(x) W_dec + b_dec [+ x W_skip]`, with `f(x) = nonlinearity((x - b_pre) W_enc + b_enc)`.

    W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_out], b_dec [d_out], W_skip [d_in, d_out]. Column i of W_enc
    and row i of W_dec belong to latent i. `b_pre` [d_in] is set from data and has no gradient; a finished coder has
    it folded into b_enc and reads raw activations.

    d_out=None: an autoencoder. Another d_out, or a site that writes elsewhere: a transcoder; skip=True adds W_skip.
    unit_norm=True keeps the rows of W_dec at norm 1: `W_dec = V / |V|` with V at norm 1 before every step.

    `site`, `model` and `tokenizer` say where the coder belongs: its hook names, the model it was trained on with how
    that was processed, and the fingerprint of the tokenizer. They are set by `sk.train` and `sk.load`.
    """

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        nonlinearity: nn.Module,
        *,
        d_out: int | None = None,
        skip: bool = False,
        unit_norm: bool = False,
    ) -> None:
        super().__init__()
        if d_in < 1 or d_sae < 1:
            raise ValueError(f"d_in={d_in}, d_sae={d_sae}: both must be at least 1")
        if getattr(nonlinearity, "k", 0) > d_sae:
            raise ValueError(f"k={nonlinearity.k} is more than d_sae={d_sae}; choose a smaller k or more latents")
        self.d_in, self.d_sae, self.d_out = d_in, d_sae, d_in if d_out is None else d_out
        self.nonlinearity, self.unit_norm = nonlinearity, unit_norm
        rows = nn.functional.normalize(torch.randn(d_sae, self.d_out), dim=1) * (1.0 if unit_norm else 0.1)
        # Stored by latent: the sparse products read and write whole columns of W_enc.
        columns = rows.clone() if self.d_out == d_in else nn.functional.normalize(torch.randn(d_sae, d_in), dim=1)
        self.W_enc = nn.Parameter(columns.T)
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.W_skip = nn.Parameter(torch.zeros(d_in, self.d_out)) if skip else None
        self.register_buffer("b_pre", torch.zeros(d_in))
        self.site = None
        self.model: dict | None = None
        self.tokenizer: str | None = None

    def extra_repr(self) -> str:
        return f"d_in={self.d_in}, d_sae={self.d_sae}, d_out={self.d_out}, unit_norm={self.unit_norm}, site={self.site}"

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
        with torch.no_grad():
            pre = self.pre_activations(centred, fast)
            support = self.nonlinearity.support(pre)
            known = None if fast else pre.flatten()[support.rows * self.d_sae + support.latents]
        a = encode(centred, self.W_enc, self.b_enc, support, known)
        return Encoding(self.nonlinearity(a, support), pre)

    def pre_activations(self, centred: Float[Tensor, "rows d_in"], fast: bool = False) -> Float[Tensor, "rows d_sae"]:
        """`(x - b_pre) W_enc + b_enc`, dense, of inputs with b_pre taken away."""
        if not fast:
            return torch.addmm(self.b_enc, centred, self.W_enc)
        W, b = self.W_enc.bfloat16(), self.b_enc.bfloat16()
        out = W.new_empty(len(centred), self.d_sae)
        for i in range(0, len(centred), 512):  # in pieces that stay in the cache
            torch.addmm(b, centred[i : i + 512].bfloat16(), W, out=out[i : i + 512])
        return out

    def decode(self, codes: Codes, x: Float[Tensor, "*batch d_in"] | None = None) -> Float[Tensor, "rows d_out"]:
        """`f W_dec + b_dec [+ x W_skip]`; a coder with a skip connection needs x."""
        if codes.d_sae != self.d_sae:
            raise ValueError(f"the coder has {self.d_sae} latents, but the codes have {codes.d_sae}")
        y_hat = decode(codes, self.dictionary()) + self.b_dec
        if self.W_skip is None:
            return y_hat
        if x is None:
            raise ValueError("this coder has a skip connection: decode(codes, x) needs the input x")
        return y_hat + x.reshape(-1, self.d_in) @ self.W_skip

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
    def fold(self, scale_in: float = 1.0, scale_out: float = 1.0) -> None:
        """Make a coder of `scale_in * x -> scale_out * y` one of raw `x -> y`, and fold b_pre into b_enc.

        W_dec stays; activations, biases and thresholds shrink by scale_out:
        `W_enc *= scale_in / scale_out; b_enc = (b_enc - b_pre W_enc) / scale_out; b_dec /= scale_out`.
        """
        self.b_enc.sub_(self.b_pre @ self.W_enc).div_(scale_out)
        self.b_pre.zero_()
        self.W_enc.mul_(scale_in / scale_out)
        self.b_dec.div_(scale_out)
        if self.W_skip is not None:
            self.W_skip.mul_(scale_in / scale_out)
        if hasattr(self.nonlinearity, "rescale"):
            self.nonlinearity.rescale(1 / scale_out)


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
