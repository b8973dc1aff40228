"""Latents that are on together, and latents that write alike."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Num

if TYPE_CHECKING:
    from .index import Features


def neighbours(features: "Features", latent: int, n: int) -> pd.DataFrame:
    """The n latents of largest Jaccard index with one; see `Latent.neighbours`."""
    together, on, jaccard = overlaps(features, latent)
    chosen = np.argsort(-jaccard, kind="stable")[:n]
    chosen = chosen[jaccard[chosen] > 0]
    lift = together[chosen] * len(features.index.sample.place) / (on[chosen] * on[latent])
    cosine = cosines(features, latent)[chosen]
    found = {"together": together[chosen], "jaccard": jaccard[chosen], "lift": lift, "cosine": cosine}
    return _listed(features, chosen, found)


def similar(features: "Features", latent: int, n: int) -> pd.DataFrame:
    """The n latents of largest decoder cosine with one; see `Latent.similar`."""
    cosine = cosines(features, latent)
    chosen = np.argsort(-np.where(np.arange(len(cosine)) == latent, -np.inf, cosine), kind="stable")
    chosen = chosen[: min(n, len(cosine) - 1)]
    jaccard = overlaps(features, latent)[2]
    return _listed(features, chosen, {"cosine": cosine[chosen], "jaccard": jaccard[chosen]})


def overlaps(features: "Features", latent: int) -> tuple[Num[np.ndarray, " d_sae"], ...]:
    """Of each latent with one, on the sampled tokens: (both are on, it is on, Jaccard index; 0 with itself)."""
    sampled = features.index.sample
    together, on = sampled.together(latent), np.diff(sampled.edges)
    jaccard = together / np.maximum(on + on[latent] - together, 1)
    jaccard[latent] = 0
    return together, on, jaccard


@torch.no_grad()
def cosines(features: "Features", latent: int) -> Float32[np.ndarray, " d_sae"]:
    """Of each decoder row with one of them; 0 for a row of zeros."""
    W_dec = features.coder.W_dec
    norms = W_dec.norm(dim=1).clamp(min=1e-12)
    return ((W_dec @ W_dec[latent]) / (norms * norms[latent])).float().cpu().numpy()


def _listed(features: "Features", chosen: np.ndarray, found: dict[str, np.ndarray]) -> pd.DataFrame:
    rows = features.table.loc[chosen]
    index = pd.Index(chosen, name="latent")
    return pd.DataFrame(found | {"label": rows.label.to_numpy(), "tokens": rows.tokens.to_numpy()}, index=index)
