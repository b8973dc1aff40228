"""What makes a code sparse: from pre-activations to the entries that are on, and how strongly.

A nonlinearity does two things. `support(pre)` looks at the dense pre-activations, without gradient, and names the
entries that any gradient will touch. `forward(a, support)` turns the pre-activations at those entries, with gradient,
into `Codes`. In training mode a selection may look at the whole batch; in eval mode a row never depends on the others.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .codes import Codes, Support, support_at, support_of


class ReLU(nn.Module):
    """`f = max(a, 0)`."""

    def support(self, pre: Float[Tensor, "rows d_sae"]) -> Support:
        return support_of(pre > 0)

    def forward(self, a: Float[Tensor, " nnz"], support: Support) -> Codes:
        return Codes(support, a.relu())


class TopK(nn.Module):
    """`f = max(a, 0)` at the k largest pre-activations, taken along one axis, and zero elsewhere.

    along="token": the k largest of each row (TopK, Gao et al. 2024, arXiv 2406.04093).
    along="batch": the k * rows largest of the whole batch (BatchTopK, Bussmann et al. 2024, arXiv 2412.06410). In
    eval mode an entry is on where `a > threshold`: one number, calibrated on held-out activations so that the mean
    L0 is k.

    Raises ValueError when k exceeds the number of latents.
    """

    def __init__(self, k: float, along: str = "token") -> None:
        super().__init__()
        if along not in ("token", "batch"):
            raise ValueError(f"along={along!r}: choose 'token' or 'batch'")
        if k <= 0 or (along == "token" and k != int(k)):
            raise ValueError(f"k={k}: give a positive number of latents (a whole one along 'token')")
        self.k, self.along = k, along
        self.register_buffer("threshold", torch.zeros((), dtype=torch.float32))

    def extra_repr(self) -> str:
        return f"k={self.k}, along={self.along!r}"

    def support(self, pre: Float[Tensor, "rows d_sae"]) -> Support:
        if self.k > pre.shape[1]:
            raise ValueError(f"k={self.k} is more than the {pre.shape[1]} latents there are; choose a smaller k")
        if self.along == "token":
            return largest_per_row(pre, int(self.k))
        return largest_of_batch(pre, int(self.k * len(pre))) if self.training else support_of(pre > self.threshold)

    def forward(self, a: Float[Tensor, " nnz"], support: Support) -> Codes:
        return Codes(support, a.relu())

    @torch.no_grad()
    def calibrate(self, pre_batches: list[Tensor]) -> None:
        """Set the threshold so that the mean L0 over these pre-activations is k."""
        if self.along == "batch":
            self.threshold.fill_(threshold_for(pre_batches, self.k))

    def rescale(self, factor: float) -> None:
        """Follow pre-activations that were multiplied by `factor`."""
        self.threshold.mul_(factor)


class JumpReLU(nn.Module):
    """`f = a * 1[a > theta]`, theta >= 0 learned per latent (Rajamanoharan et al. 2024, arXiv 2407.14435).

    With the rectangle `K(u) = 1[|u| < 1/2]` as the kernel of width `bandwidth`, the straight-through gradients are
    `df/dtheta = -(theta / bandwidth) K((a - theta) / bandwidth)` and, for the gate `1[a > theta]`,
    `dgate/dtheta = -(1 / bandwidth) K((a - theta) / bandwidth)`. Both numbers assume inputs of mean norm sqrt(d_in).
    """

    def __init__(self, d_sae: int, bandwidth: float = 0.05, theta0: float = 0.01) -> None:
        super().__init__()
        self.bandwidth = bandwidth
        self.threshold = nn.Parameter(torch.full((d_sae,), theta0, dtype=torch.float32))

    def extra_repr(self) -> str:
        return f"{len(self.threshold)}, bandwidth={self.bandwidth}"

    def support(self, pre: Float[Tensor, "rows d_sae"]) -> Support:
        reach = self.bandwidth / 2 if self.training else 0.0
        return support_of(pre > (self.threshold - reach))

    def forward(self, a: Float[Tensor, " nnz"], support: Support) -> Codes:
        theta = self.threshold[support.latents]
        return Codes(support, _Jump.apply(a, theta, self.bandwidth), _Step.apply(a, theta, self.bandwidth))

    @torch.no_grad()
    def constrain(self) -> None:
        """A threshold never goes below zero."""
        self.threshold.clamp_(min=0)

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Follow pre-activations that were multiplied by `factor`."""
        self.threshold.mul_(factor)
        self.bandwidth *= factor


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, theta: Tensor, bandwidth: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(a, theta)
        ctx.bandwidth = bandwidth
        return a * (a > theta)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        a, theta = ctx.saved_tensors
        near = (a - theta).abs() < ctx.bandwidth / 2
        return grad * (a > theta), -grad * near * (theta / ctx.bandwidth), None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, theta: Tensor, bandwidth: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(a, theta)
        ctx.bandwidth = bandwidth
        return (a > theta).to(a.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        a, theta = ctx.saved_tensors
        near = (a - theta).abs() < ctx.bandwidth / 2
        return None, -grad * near / ctx.bandwidth, None


def largest_per_row(pre: Tensor, k: int) -> Support:
    """The k largest entries of each row."""
    latents = pre.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
    offsets = torch.arange(len(pre) + 1, device=pre.device) * k
    return Support(offsets, latents.flatten(), pre.shape[1])


def largest_of_batch(pre: Tensor, n: int) -> Support:
    """The n largest entries of the batch, exactly.

    Sorting all of them would cost more than the encoder. A sparse, regular sample gives a bound that about a third
    more than n entries pass; the largest n of these are the answer. If too few pass, all are ranked.
    """
    flat = pre.flatten()
    sample = flat[:: max(1, len(flat) // 2**18) | 1]
    rank = min(len(sample), int(1.3 * n * len(sample) / len(flat)) + 32)
    keys = torch.nonzero(flat >= sample.topk(rank, sorted=False).values.min()).squeeze(1)
    if len(keys) < n:
        keys = torch.arange(len(flat), device=pre.device)
    chosen = flat[keys].topk(n, sorted=False).indices
    return support_at(keys[chosen].sort().values, *pre.shape)


def threshold_for(batches: list[Tensor], k: float) -> float:
    """The number that `k * rows` of the pre-activations exceed; never negative, so that what is on is positive."""
    rows = sum(len(b) for b in batches)
    top = torch.cat([b.flatten().topk(min(b.numel(), int(4 * k * len(b)) + 1), sorted=False).values for b in batches])
    values = top.sort(descending=True).values
    n = min(int(k * rows), len(values) - 1)
    return max(0.0, (values[n - 1].item() + values[n].item()) / 2)
