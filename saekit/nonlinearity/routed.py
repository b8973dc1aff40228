"""`Routed`: each token is sent to one of several experts, and only that expert's latents are computed."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..codes import Codes, Support


class Route(NamedTuple):
    """Where a router sent each row, and how sure it was."""

    probabilities: Float[Tensor, "rows experts"]
    expert: Int[Tensor, " rows"]

    @property
    def share(self) -> Float[Tensor, " rows"]:
        """The probability of the chosen expert."""
        return self.probabilities.gather(1, self.expert[:, None]).squeeze(1)

    def blocks(self, product: Callable[[Tensor, slice], Tensor], width: int) -> Float[Tensor, "rows width"]:
        """`product(rows of expert e, its latents)` for each expert, put back in the order of the rows."""
        out = None
        for e in self.expert.unique().tolist():
            rows = torch.nonzero(self.expert == e).squeeze(1)
            block = product(rows, slice(e * width, (e + 1) * width))
            out = block.new_empty(len(self.expert), width) if out is None else out
            out[rows] = block
        return out


class Routed(nn.Module):
    """`f = p_e * inner(a)` on the latents of expert `e = argmax p`, `p = softmax(x W_router + b_router)`, 0 elsewhere.

    Expert e owns the latents `e d_sae / experts` to `(e + 1) d_sae / experts` (Switch, Mudide et al. 2024,
    arXiv 2410.08201). The router learns through p_e, and from `load_balance`. `inner` decides among the latents of
    one expert and holds nothing for each latent: `TopK(k)` or `ReLU()`.

    Raises ValueError when the experts do not divide the latents, or k exceeds the latents of one.
    """

    def __init__(self, d_in: int, d_sae: int, experts: int, inner: nn.Module) -> None:
        super().__init__()
        if experts < 2 or d_sae % experts:
            raise ValueError(f"d_sae={d_sae} latents cannot be shared equally by experts={experts}, at least 2 of them")
        self.experts, self.width, self.inner = experts, d_sae // experts, inner
        if getattr(inner, "k", 0) > self.width:
            raise ValueError(
                f"k={inner.k} is more than the {self.width} latents of one expert ({d_sae} / {experts}); "
                "choose a smaller k or fewer experts"
            )
        self.W_router = nn.Parameter(torch.randn(d_in, experts) / d_in**0.5)
        self.b_router = nn.Parameter(torch.zeros(experts))

    def extra_repr(self) -> str:
        return f"experts={self.experts}, width={self.width}"

    def route(self, x: Float[Tensor, "rows d_in"]) -> Route:
        """The expert of each row of centred inputs."""
        p = torch.softmax(x @ self.W_router + self.b_router, dim=1)
        return Route(p, p.argmax(1))

    def support(self, pre: Float[Tensor, "rows width"], route: Route) -> Support:
        inner = self.inner.support(pre)
        first = route.expert[inner.rows] * self.width
        return Support(inner.offsets, inner.latents + first, self.width * self.experts)

    def forward(self, a: Float[Tensor, " nnz"], support: Support, route: Route) -> Codes:
        codes = self.inner(a, support)
        return codes.with_values(codes.values * route.share[support.rows])

    @torch.no_grad()
    def calibrate(self, pre_batches: list[Tensor]) -> None:
        """Set the thresholds of `inner` where it has any; the batches are of the routed experts alone."""
        if hasattr(self.inner, "calibrate"):
            self.inner.calibrate(pre_batches)

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Follow pre-activations that were multiplied by `factor`."""
        if hasattr(self.inner, "rescale"):
            self.inner.rescale(factor)

    @torch.no_grad()
    def fold(self, b_pre: Float[Tensor, " d_in"], scale: float | Float[Tensor, "..."]) -> None:
        """Read raw x instead of `scale * x - b_pre`."""
        self.b_router.sub_(b_pre @ self.W_router)
        self.W_router.mul_(torch.as_tensor(scale).expand(len(b_pre))[:, None])
