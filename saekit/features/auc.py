"""How well the activations of latents rank tokens with a label above those without."""

import numpy as np
from jaxtyping import Bool, Float64, Int

from .sample import Sampled


def auc(
    sampled: Sampled,
    truth: Bool[np.ndarray, "m labels"],
    scored: Bool[np.ndarray, " m"],
    only: int | None = None,
) -> Float64[np.ndarray, "latents labels"]:
    """P(activation at a token with the label > at one without) + P(equal) / 2, over the scored sampled tokens.

    Of all latents, or of one only. Off counts as an activation of 0. NaN for a label that none or all of those tokens
    have.
    """
    if only is None:
        tokens = np.repeat(np.arange(len(sampled.place)), np.diff(sampled.offsets))
        latents, values, n_latents = sampled.latents, sampled.values, len(sampled.edges) - 1
    else:
        tokens, values = sampled.firings(only)
        latents, n_latents = np.zeros(len(tokens), np.int64), 1
    keep = scored[tokens]
    latents, values, tokens = latents[keep], values[keep], tokens[keep]
    order = np.lexsort((values, latents))
    latents, values, tokens = latents[order], values[order], tokens[order]
    edges = np.searchsorted(latents, np.arange(n_latents + 1))
    tied = np.diff(values, prepend=np.nan) == 0
    tied &= np.diff(latents, prepend=-1) == 0
    group = np.cumsum(~tied) - 1
    n = int(scored.sum())
    columns = [_one(int(label[scored].sum()), n, label[tokens], edges, group) for label in truth.T]
    return np.stack(columns, axis=1) if columns else np.empty((n_latents, 0))


def _one(
    has: int, n: int, true: Bool[np.ndarray, " nnz"], edges: Int[np.ndarray, " edges"], group: Int[np.ndarray, " nnz"]
) -> Float64[np.ndarray, " d_sae"]:
    """The AUC of one label for all latents: `true` of each entry, latent by latent, smallest value first."""
    if not 0 < has < n:
        return np.full(len(edges) - 1, np.nan)
    per_group = [np.bincount(group, flag, len(group)) for flag in (true, ~true)]
    before = np.concatenate([[0], np.cumsum(per_group[1])])[:-1]  # entries without the label in smaller groups
    wins = true * (before[group] + per_group[1][group] / 2)
    sums = [np.concatenate([[0], np.cumsum(column)])[edges] for column in (wins, true, ~true)]
    won, on, false_on = (np.diff(column) for column in sums)
    won -= on * sums[2][:-1]  # those of the latents before it
    off, false_off = has - on, n - has - false_on
    return (won + on * false_off + off * false_off / 2) / (has * (n - has))
