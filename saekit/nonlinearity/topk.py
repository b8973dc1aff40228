"""`TopK`: as many entries as were paid for, the largest, taken along one of three axes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..codes import Codes, Support, support_of
from .select import largest_of_batch, largest_per_latent, largest_per_row, threshold_for

AXES = ("token", "batch", "feature")
ZIPF_SHIFT = 8.0  # q in (rank + q)^-s: without it the first latents would be on almost everywhere


class TopK(nn.Module):
    """`f = max(a, 0)` at the largest pre-activations, taken along one axis, and zero elsewhere.

    along="token": the k largest of each row (TopK, Gao et al. 2024, arXiv 2406.04093).
    along="batch": the k * rows largest of the whole batch (BatchTopK, Bussmann et al. 2024, arXiv 2412.06410; Mutual
    Choice, Ayonrinde 2024, arXiv 2411.02124).
    along="feature": for latent i its m_i largest rows, `sum m_i = k * rows` (Feature Choice, the same paper), so that
    every latent is used; it needs d_sae. m_i falls with the latent's rank in the batch as `(rank + 8)^-zipf`; 0 gives
    every latent the same.

    In eval mode, along batch or feature, an entry is on where `a > threshold`: one number, or one for each latent,
    calibrated on held-out activations so that the mean L0 is k.

    Raises ValueError when k exceeds the number of latents, and along "feature" when there is less than one entry each.
    """

    def __init__(self, k: float, along: str = "token", d_sae: int | None = None, zipf: float = 0.0) -> None:
        super().__init__()
        if along not in AXES:
            raise ValueError(f"along={along!r}: choose 'token', 'batch' or 'feature'")
        if k <= 0 or (along == "token" and k != int(k)):
            raise ValueError(f"k={k}: give a positive number of latents (a whole one along 'token')")
        if along == "feature" and not d_sae:
            raise ValueError(
                f"d_sae={d_sae}: along 'feature' each latent has its own threshold, so say how many there are"
            )
        self.k, self.along, self.zipf = k, along, zipf
        shape = (d_sae,) if along == "feature" else ()
        self.register_buffer("threshold", torch.zeros(shape, dtype=torch.float32))

    def extra_repr(self) -> str:
        return f"k={self.k}, along={self.along!r}" + (f", zipf={self.zipf}" if self.zipf else "")

    def support(self, pre: Float[Tensor, "rows d_sae"]) -> Support:
        if self.k > pre.shape[1]:
            raise ValueError(f"k={self.k} is more than the {pre.shape[1]} latents there are; choose a smaller k")
        if self.along == "token":
            return largest_per_row(pre, int(self.k))
        if not self.training:
            return support_of(pre > self.threshold)
        total = int(self.k * len(pre))
        if self.along == "batch":
            return largest_of_batch(pre, total)
        if total < pre.shape[1]:
            raise ValueError(
                f"k={self.k} on {len(pre)} rows is {total} entries, less than one for each of {pre.shape[1]} latents; "
                f"take batches of {-int(-pre.shape[1] // self.k)} rows or more, or fewer latents"
            )
        return largest_per_latent(pre, self.budget(pre))

    def forward(self, a: Float[Tensor, " nnz"], support: Support) -> Codes:
        return Codes(support, a.relu())

    def budget(self, pre: Float[Tensor, "rows d_sae"]) -> Int[Tensor, " d_sae"]:
        """m_i: how many rows of this batch each latent takes, at least 1; they sum to k * rows."""
        rows, d_sae = pre.shape
        total = int(self.k * rows)
        weight = (torch.arange(d_sae, dtype=torch.float64) + ZIPF_SHIFT) ** -self.zipf
        edges = (max(0, total - d_sae) * weight.cumsum(0) / weight.sum() + 1e-6).floor().long()
        by_rank = 1 + torch.diff(edges, prepend=edges.new_zeros(1)).sort(descending=True).values
        if not self.zipf:
            return by_rank.to(pre.device)
        counts = torch.bincount(largest_of_batch(pre, max(1, total)).latents, minlength=d_sae)
        order = counts.argsort(descending=True, stable=True)
        return torch.empty_like(by_rank).scatter(0, order, by_rank)

    @torch.no_grad()
    def calibrate(self, pre_batches: list[Tensor]) -> None:
        """Set the threshold so that the mean L0 over these pre-activations is k."""
        if self.along == "batch":
            self.threshold.fill_(threshold_for(pre_batches, self.k))
        elif self.along == "feature":
            pre = torch.cat(pre_batches)  # pooled: the least of few chosen values varies too much between batches
            self.threshold.copy_(_least_chosen(pre, largest_per_latent(pre, self.budget(pre))))

    def rescale(self, factor: float) -> None:
        """Follow pre-activations that were multiplied by `factor`."""
        self.threshold.mul_(factor)


def _least_chosen(pre: Float[Tensor, "rows d_sae"], support: Support) -> Float[Tensor, " d_sae"]:
    """For each latent, halfway between the least value chosen and the largest that was not; never negative."""
    at = support.rows * support.d_sae + support.latents
    least = torch.full_like(pre[0], torch.inf).scatter_reduce(0, support.latents, pre.flatten()[at], "amin")
    rest = pre.flatten().index_fill(0, at, -torch.inf).view_as(pre).amax(0)
    return torch.where(rest.isfinite(), (least + rest) / 2, least).clamp(min=0)
