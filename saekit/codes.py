"""`Codes`: a batch of sparse codes, and the two products that a sparse coder is made of.

A code has a few dozen latents on out of thousands, so it is kept as a list of entries. All products with it are
embedding bags (sums of selected, weighted rows), forward and backward, over the entries ordered by row or by latent.
Above a fixed density the same products run as dense matrix products.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

DENSE_ABOVE = 1 / 16  # entries per (row, latent) above which a dense product is cheaper than gathering rows


@dataclass(frozen=True, eq=False)
class Support:
    """Which (row, latent) pairs a batch of codes talks about: the entries of row r are `offsets[r]:offsets[r + 1]`."""

    offsets: Int[Tensor, " edges"]
    latents: Int[Tensor, " nnz"]  # ascending within a row
    d_sae: int

    @property
    def n_rows(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def rows(self) -> Int[Tensor, " nnz"]:
        """The row of each entry."""
        return torch.repeat_interleave(self.offsets.diff(), output_size=len(self.latents))

    @cached_property
    def by_latent(self) -> tuple[Int[Tensor, " nnz"], Int[Tensor, " edges"]]:
        """(order, offsets): the entries `order[offsets[i]:offsets[i + 1]]` are those of latent i, rows ascending."""
        order = torch.argsort(self.latents, stable=True)
        counts = torch.bincount(self.latents, minlength=self.d_sae)
        return order, F.pad(counts.cumsum(0), (1, 0))

    @property
    def is_dense(self) -> bool:
        return len(self.latents) > DENSE_ABOVE * self.n_rows * self.d_sae


@dataclass(frozen=True, eq=False)
class Codes:
    """A batch of sparse codes: `values[e]` is the activation of latent `latents[e]` in row `rows[e]`.

    `gate` is the differentiable stand-in for "is it on" that sparsity penalties read; it is the value itself unless
    the nonlinearity says otherwise. While training, entries can be off (value 0) and still carry a gradient.
    """

    support: Support
    values: Float[Tensor, " nnz"]
    gate_values: Float[Tensor, " nnz"] | None = None

    @property
    def offsets(self) -> Int[Tensor, " edges"]:
        return self.support.offsets

    @property
    def latents(self) -> Int[Tensor, " nnz"]:
        return self.support.latents

    @property
    def rows(self) -> Int[Tensor, " nnz"]:
        return self.support.rows

    @property
    def d_sae(self) -> int:
        return self.support.d_sae

    @property
    def n_rows(self) -> int:
        return self.support.n_rows

    @property
    def gate(self) -> Float[Tensor, " nnz"]:
        return self.values if self.gate_values is None else self.gate_values

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        return f"Codes({self.n_rows} rows, {self.d_sae} latents, {len(self.values) / max(self.n_rows, 1):.1f} per row)"

    def with_values(self, values: Float[Tensor, " nnz"]) -> "Codes":
        """The same entries with other values."""
        return Codes(self.support, values)

    def where(self, keep: Tensor) -> "Codes":
        """Only the entries where `keep` (bool [nnz]) holds."""
        counts = F.pad(keep.long().cumsum(0), (1, 0))
        gate = None if self.gate_values is None else self.gate_values[keep]
        return Codes(Support(counts[self.offsets], self.latents[keep], self.d_sae), self.values[keep], gate)

    def columns(self, first: int, last: int) -> "Codes":
        """Only the latents from `first` up to `last`, counted from 0."""
        part = self.where((self.latents >= first) & (self.latents < last))
        support = Support(part.offsets, part.latents - first, last - first)
        return Codes(support, part.values, part.gate_values)

    def on(self) -> "Codes":
        """Only the entries that are not zero."""
        keep = self.values != 0
        return self if bool(keep.all()) else self.where(keep)

    def counts(self) -> Int[Tensor, " d_sae"]:
        """How many rows each latent is on in."""
        return torch.bincount(self.latents[self.values != 0], minlength=self.d_sae)

    def dense(self) -> Float[Tensor, "rows d_sae"]:
        """The same codes as a matrix; for tests and small pictures."""
        out = self.values.new_zeros(self.n_rows, self.d_sae)
        return out.index_put((self.rows, self.latents), self.values)

    @staticmethod
    def from_dense(matrix: Float[Tensor, "rows d_sae"]) -> "Codes":
        """The non-zero entries of a matrix."""
        support = support_of(matrix != 0)
        return Codes(support, matrix[support.rows, support.latents])

    @staticmethod
    def from_entries(
        rows: Int[Tensor, " n"], latents: Int[Tensor, " n"], values: Float[Tensor, " n"], n_rows: int, d_sae: int
    ) -> "Codes":
        """Codes of unordered entries; those that name the same (row, latent) are summed."""
        keys, inverse = torch.unique(rows * d_sae + latents, return_inverse=True)
        summed = values.new_zeros(len(keys)).index_add(0, inverse, values)
        return Codes(support_at(keys, n_rows, d_sae), summed)

    @staticmethod
    def cat(parts: list["Codes"]) -> "Codes":
        """Batches of codes, one below the other."""
        starts = torch.tensor([0, *(len(p.latents) for p in parts)]).cumsum(0)
        offsets = torch.cat([p.offsets[1:] + start for p, start in zip(parts, starts, strict=False)])
        support = Support(F.pad(offsets, (1, 0)), torch.cat([p.latents for p in parts]), parts[0].d_sae)
        return Codes(support, torch.cat([p.values for p in parts]))


def support_at(keys: Int[Tensor, " nnz"], n_rows: int, d_sae: int) -> Support:
    """The support of ascending flat positions `row * d_sae + latent`."""
    edges = torch.arange(n_rows + 1, device=keys.device) * d_sae
    return Support(torch.searchsorted(keys, edges), keys % d_sae, d_sae)


def support_of(mask: Tensor) -> Support:
    """The support where `mask` (bool [rows, d_sae]) holds."""
    return support_at(torch.nonzero(mask.flatten()).squeeze(1), *mask.shape)


def beside(supports: list[Support]) -> tuple[Support, Int[Tensor, " nnz"]]:
    """(supports of the same rows as one, their latents one after the other; where each of its entries was in them)."""
    starts = torch.tensor([0, *(s.d_sae for s in supports)]).cumsum(0).tolist()
    counts = torch.stack([s.offsets.diff() for s in supports])
    offsets = F.pad(counts.sum(0).cumsum(0), (1, 0))
    before = offsets[:-1] + F.pad(counts, (0, 0, 1, 0))[:-1].cumsum(0)  # [part, row]
    steps = [torch.arange(len(s.latents), device=s.latents.device) - s.offsets[s.rows] for s in supports]
    places = torch.cat([b[s.rows] + step for b, s, step in zip(before, supports, steps, strict=True)])
    order = torch.empty_like(places).scatter(0, places, torch.arange(len(places), device=places.device))
    latents = torch.cat([s.latents + start for s, start in zip(supports, starts[:-1], strict=True)])
    return Support(offsets, latents[order], starts[-1]), order


def decode(codes: Codes, W_dec: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "rows d_out"]:
    """`f W_dec`, differentiable in the values and in `W_dec`; no bias."""
    return _Decode.apply(codes.values, W_dec, codes.support)


def encode(
    x: Float[Tensor, "rows d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
    support: Support,
    pre: Float[Tensor, " nnz"] | None = None,
) -> Float[Tensor, " nnz"]:
    """`x W_enc + b_enc` at the entries of `support` only, differentiable in `x`, `W_enc` and `b_enc`.

    `pre` are these values where a product without gradient has found them already.
    """
    return _Encode.apply(x, W_enc, b_enc, support, pre)


def bag(weight: Tensor, indices: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
    """Row i is the sum over entries e of bag i of `values[e] * weight[indices[e]]`."""
    return F.embedding_bag(
        indices, weight, offsets, mode="sum", per_sample_weights=values.to(weight.dtype), include_last_offset=True
    )


def dot(left: Tensor, right: Tensor, support: Support) -> Float[Tensor, " nnz"]:
    """`<left[row], right[latent]>` at each entry: the adjoint of `bag` in its values."""
    if support.is_dense:
        return (left @ right.T)[support.rows, support.latents]
    bag_sum = 0
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, right, support.latents, support.offsets, support.rows, bag_sum
    )


def scatter(values: Tensor, x: Tensor, support: Support) -> Float[Tensor, "d_sae d"]:
    """Row i is the sum over the entries of latent i of `value * x[row]`: the gradient of both weight matrices."""
    if support.is_dense:
        return _matrix(values, support).T @ x
    order, offsets = support.by_latent
    return bag(x, support.rows[order], offsets, values[order])


def gather(values: Tensor, weight: Tensor, support: Support) -> Float[Tensor, "rows d"]:
    """Row r is the sum over the entries of row r of `value * weight[latent]`."""
    if support.is_dense:
        return _matrix(values, support) @ weight
    return bag(weight, support.latents, support.offsets, values)


def _matrix(values: Tensor, support: Support) -> Tensor:
    out = values.new_zeros(support.n_rows, support.d_sae)
    out.view(-1)[support.rows * support.d_sae + support.latents] = values
    return out


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, W_dec: Tensor, support: Support) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(values, W_dec)
        ctx.support = support
        return gather(values, W_dec, support)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        values, W_dec = ctx.saved_tensors
        grad = grad.contiguous()
        d_values = dot(grad, W_dec, ctx.support) if ctx.needs_input_grad[0] else None
        d_weight = scatter(values, grad, ctx.support) if ctx.needs_input_grad[1] else None
        return d_values, d_weight, None


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, W_enc: Tensor, b_enc: Tensor, support: Support, pre: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, W_enc)
        ctx.support = support
        return dot(x, W_enc.T, support) + b_enc[support.latents] if pre is None else pre.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        x, W_enc = ctx.saved_tensors
        dx = gather(grad, W_enc.T, ctx.support) if ctx.needs_input_grad[0] else None
        dW = scatter(grad, x, ctx.support).T if ctx.needs_input_grad[1] else None
        db = grad.new_zeros(W_enc.shape[1]).index_add(0, ctx.support.latents, grad) if ctx.needs_input_grad[2] else None
        return dx, dW, db, None, None
