"""`JumpReLU`: a learned threshold for each latent, trained through straight-through estimators."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..codes import Codes, Support, support_of


class JumpReLU(nn.Module):
    """`f = a * 1[a > theta]`, theta >= 0 learned per latent (Rajamanoharan et al. 2024, arXiv 2407.14435).

    With the rectangle `K(u) = 1[|u| < 1/2]` as the kernel of width `bandwidth`, the straight-through gradients are
    `df/dtheta = -(theta / bandwidth) K((a - theta) / bandwidth)` and, for the gate `1[a > theta]`,
    `dgate/dtheta = -(1 / bandwidth) K((a - theta) / bandwidth)`. With `through_input` the pre-activation gets the
    same with the sign turned, besides its own (Anthropic, January 2025). Lengths assume inputs of mean norm sqrt(d_in).

    Raises ValueError for a bandwidth that is not positive and a negative start.
    """

    def __init__(self, d_sae: int, bandwidth: float = 0.05, theta0: float = 0.01, through_input: bool = False) -> None:
        super().__init__()
        if bandwidth <= 0 or theta0 < 0:
            raise ValueError(f"bandwidth={bandwidth}, theta0={theta0}: give a positive width and a start of 0 or above")
        self.bandwidth, self.theta0, self.through_input = bandwidth, theta0, through_input
        self.threshold = nn.Parameter(torch.full((d_sae,), theta0, dtype=torch.float32))

    def extra_repr(self) -> str:
        through = ", through_input=True" if self.through_input else ""
        return f"{len(self.threshold)}, bandwidth={self.bandwidth}{through}"

    def support(self, pre: Float[Tensor, "rows d_sae"]) -> Support:
        reach = self.bandwidth / 2 if self.training else 0.0
        return support_of(pre > (self.threshold - reach))

    def forward(self, a: Float[Tensor, " nnz"], support: Support) -> Codes:
        theta = self.threshold[support.latents]
        through = (self.bandwidth, self.through_input)
        return Codes(support, _Jump.apply(a, theta, *through), _Step.apply(a, theta, *through))

    @torch.no_grad()
    def constrain(self) -> None:
        """A threshold never goes below zero."""
        self.threshold.clamp_(min=0)

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Follow pre-activations that were multiplied by `factor`."""
        self.threshold.mul_(factor)
        self.bandwidth *= factor

    @torch.no_grad()
    def reset(self, latents: Int[Tensor, " n"]) -> None:
        """Put these latents back at their start."""
        self.threshold[latents] = self.theta0


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, theta: Tensor, bandwidth: float, through_input: bool) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(a, theta)
        ctx.bandwidth, ctx.through_input = bandwidth, through_input
        return a * (a > theta)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        a, theta = ctx.saved_tensors
        near = (a - theta).abs() < ctx.bandwidth / 2
        kernel = grad * near * (theta / ctx.bandwidth)
        on = grad * (a > theta)
        return on + kernel if ctx.through_input else on, -kernel, None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, theta: Tensor, bandwidth: float, through_input: bool) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(a, theta)
        ctx.bandwidth, ctx.through_input = bandwidth, through_input
        return (a > theta).to(a.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        a, theta = ctx.saved_tensors
        near = (a - theta).abs() < ctx.bandwidth / 2
        kernel = grad * near / ctx.bandwidth
        return kernel if ctx.through_input else None, -kernel, None, None
