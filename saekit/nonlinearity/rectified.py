"""`ReLU`, and the two that give a latent a bias of its own beside the encoder's: `Gated` and `ProLU`."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..codes import Codes, Support, support_of


class ReLU(nn.Module):
    """`f = max(a, 0)`."""

    def support(self, pre: Float[Tensor, "rows d_sae"]) -> Support:
        return support_of(pre > 0)

    def forward(self, a: Float[Tensor, " nnz"], support: Support) -> Codes:
        return Codes(support, a.relu())


class Gated(nn.Module):
    """`f = 1[a > 0] max(a exp(r) + b, 0)`, r and b learned per latent (Rajamanoharan et al. 2024, arXiv 2404.16014).

    The pre-activation is the paper's gate path, `a = pi_gate`; the magnitude path shares its directions and differs
    by a gain and a bias, `b = b_mag - exp(r) b_gate`. The step has no gradient: the gate, `max(a, 0)`, learns from
    the sparsity penalty and from `gate_mse`.
    """

    def __init__(self, d_sae: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(d_sae))
        self.bias = nn.Parameter(torch.zeros(d_sae))

    def extra_repr(self) -> str:
        return f"{len(self.bias)}"

    def support(self, pre: Float[Tensor, "rows d_sae"]) -> Support:
        return support_of(pre > 0)

    def forward(self, a: Float[Tensor, " nnz"], support: Support) -> Codes:
        open_ = (a > 0).to(a.dtype)  # a product in low precision may have let some in that are not
        magnitude = a * self.log_gain[support.latents].exp() + self.bias[support.latents]
        return Codes(support, open_ * magnitude.relu(), a.relu())

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Follow pre-activations that were multiplied by `factor`."""
        self.bias.mul_(factor)

    @torch.no_grad()
    def reset(self, latents: Int[Tensor, " n"]) -> None:
        """Put these latents back at their start."""
        self.log_gain[latents] = 0
        self.bias[latents] = 0


class ProLU(nn.Module):
    """`f = a 1[a + b > 0 and a > 0]`: the bias b gates and never shifts (Taggart 2024, Alignment Forum).

    The gradient on what is on is `df/da = 1, df/db = 1` (`straight=False`, ProLU_ReLU) or `df/da = 1 + a, df/db = a`
    (ProLU_STE); lengths assume inputs of mean norm sqrt(d_in). The encoder has no bias beside it.
    """

    own_bias = True

    def __init__(self, d_sae: int, straight: bool = False) -> None:
        super().__init__()
        self.straight = straight
        self.bias = nn.Parameter(torch.zeros(d_sae))

    def extra_repr(self) -> str:
        return f"{len(self.bias)}, straight={self.straight}"

    def support(self, pre: Float[Tensor, "rows d_sae"]) -> Support:
        return support_of(pre > (-self.bias).clamp(min=0))

    def forward(self, a: Float[Tensor, " nnz"], support: Support) -> Codes:
        return Codes(support, _ProLU.apply(a, self.bias[support.latents], self.straight))

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Follow pre-activations that were multiplied by `factor`."""
        self.bias.mul_(factor)

    @torch.no_grad()
    def reset(self, latents: Int[Tensor, " n"]) -> None:
        """Put these latents back at their start."""
        self.bias[latents] = 0


class _ProLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, straight: bool) -> Tensor:  # type: ignore[override]
        on = (a > 0) & (a + b > 0)
        ctx.save_for_backward(a, on)
        ctx.straight = straight
        return a * on

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        a, on = ctx.saved_tensors
        g = grad * on
        return (g + g * a, g * a, None) if ctx.straight else (g, g, None)
