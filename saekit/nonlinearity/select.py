"""Which entries of a matrix of pre-activations are the largest: of each row, of each latent, of the whole batch."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..codes import Support, support_at


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


def largest_per_latent(pre: Float[Tensor, "rows d_sae"], budget: Int[Tensor, " d_sae"]) -> Support:
    """The `budget[i]` largest entries of each column i. Latents whose budgets are alike are ranked together."""
    budget = budget.clamp(max=len(pre))
    places = torch.arange(len(pre), device=pre.device)
    chosen = []
    for size in budget[budget > 0].log2().floor().unique().tolist():
        alike = torch.nonzero((budget >= 2**size) & (budget < 2 ** (size + 1))).squeeze(1)
        most = int(budget[alike].max())
        rows = pre[:, alike].T.topk(most, dim=1).indices
        chosen.append((rows * pre.shape[1] + alike[:, None])[places[:most] < budget[alike][:, None]])
    return support_at(torch.cat(chosen).sort().values, *pre.shape)
