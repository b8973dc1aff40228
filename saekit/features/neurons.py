"""The baseline of every label score: the best single dimension of the activations that the coder reads."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64


class Neurons(NamedTuple):
    """For each label, the dimension whose AUC is furthest from 1/2, chosen and scored on the same sampled tokens.

    Choosing and scoring on the same tokens flatters the baseline, not the latents. NaN and dimension -1 for a label
    that none or all of those tokens have.
    """

    dimension: Int64[np.ndarray, " labels"]
    sign: Int64[np.ndarray, " labels"]  # -1: a small value means the label
    auc: Float64[np.ndarray, " labels"]  # with that sign, so at least 1/2
    f1: Float64[np.ndarray, " labels"]  # at the best threshold


def best_neurons(x: Float32[np.ndarray, "rows d_in"], truth: Bool[np.ndarray, "rows labels"]) -> Neurons:
    """`AUC = (sum of the ranks of rows with the label - P (P + 1) / 2) / (P N)`, for every label and dimension."""
    from scipy.stats import rankdata

    has = truth.sum(0)
    none = Neurons(*(np.full(truth.shape[1], fill) for fill in (-1, 1, np.nan, np.nan)))
    some = np.flatnonzero((has > 0) & (has < len(truth)))
    if not len(some):
        return none
    positive = has[some, None].astype(np.float64)
    ranks = truth[:, some].astype(np.float64).T @ rankdata(x, axis=0)
    auc = (ranks - positive * (positive + 1) / 2) / (positive * (len(truth) - positive))
    best = np.abs(auc - 0.5).argmax(1)
    found = auc[np.arange(len(some)), best]
    none.dimension[some], none.sign[some] = best, np.where(found < 0.5, -1, 1)
    none.auc[some] = np.maximum(found, 1 - found)
    none.f1[some] = [best_f1(none.sign[i] * x[:, none.dimension[i]], truth[:, i]) for i in some]
    return none


def best_f1(score: Float[np.ndarray, " rows"], truth: Bool[np.ndarray, " rows"]) -> float:
    """The largest F1 of `score >= t` over all thresholds t."""
    order = np.argsort(-score, kind="stable")
    hits, chosen = np.cumsum(truth[order]), np.arange(1, len(order) + 1)
    ends = np.append(np.diff(score[order]) != 0, True)  # equal scores are chosen together
    return float((2 * hits / (chosen + truth.sum()))[ends].max())
