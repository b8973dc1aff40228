"""How well latents stand for a label: one latent, five together, and the controls they are held against.

Everything is chosen on training packages and scored once on held-out ones. A set of latents is read by logistic
regression on their activations, its threshold the one with the best F1 on the training side.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression

import saekit as sk

SET, CANDIDATES, FIT_ROWS = 5, 24, 30_000
WINDOWS = 8


class Tokens(NamedTuple):
    """Scored tokens: activations of latents and of the residual stream, and the label's truth."""

    codes: Float[np.ndarray, "tokens d_sae"]
    x: Float[np.ndarray, "tokens d"]
    truth: dict[str, Bool[np.ndarray, " tokens"]]


@torch.no_grad()
def read(model: Any, coder: sk.SparseCoder, corpus: sk.Corpus, labels: tuple[str, ...]) -> Tokens:
    """Every scored token of a corpus, in float16 to keep it small."""
    codes, rows = [], []
    for i in range(0, len(corpus), WINDOWS):
        part = corpus[i : i + WINDOWS]
        x = coder.site.inputs(sk.capture(model, part.tokens, coder.site))[torch.from_numpy(part.scored)]
        codes.append(coder.encode(x).dense().half().numpy())
        rows.append(x.half().numpy())
    truth = {label: corpus.labels[label][corpus.scored] for label in labels}
    return Tokens(np.concatenate(codes), np.concatenate(rows), truth)


def label_card(train: Tokens, held_out: Tokens, label: str) -> dict[str, Any]:
    """F1 on held-out tokens of the best latent, the best set of five, the best residual dimension, and always-fire."""
    y, y_test = train.truth[label], held_out.truth[label]
    single = f1_of_firing(train.codes, y)
    latent = int(single.argmax())
    chosen = chosen_set(train.codes, y, single)
    dimension, sign, threshold = best_dimension(train.x, y)
    base = y_test.mean()
    return {
        "latent": latent,
        "f1": float(f1_of_firing(held_out.codes[:, [latent]], y_test)[0]),
        "set": chosen,
        "set_f1": set_f1(train, held_out, chosen, label),
        "dimension": dimension,
        "dimension_f1": f1(sign * held_out.x[:, dimension].astype(np.float32) > threshold, y_test),
        "always_fire": float(2 * base / (1 + base)),
        "tokens": len(y_test),
    }


def f1(on: Bool[np.ndarray, " tokens"], y: Bool[np.ndarray, " tokens"]) -> float:
    return float(2 * (on & y).sum() / max(on.sum() + y.sum(), 1))


def f1_of_firing(codes: Float[np.ndarray, "tokens n"], y: Bool[np.ndarray, " tokens"]) -> Float[np.ndarray, " n"]:
    on = codes > 0
    return 2 * on[y].sum(0) / np.maximum(on.sum(0) + y.sum(), 1)


def chosen_set(codes: np.ndarray, y: np.ndarray, single: np.ndarray) -> list[int]:
    """Greedy: five times the latent that adds most to the training F1; candidates by F1 and difference of means."""
    rows = np.random.default_rng(0).permutation(len(y))[:FIT_ROWS]
    difference = np.abs(codes[rows][y[rows]].mean(0, np.float32) - codes[rows][~y[rows]].mean(0, np.float32))
    half = CANDIDATES // 2
    candidates = list(dict.fromkeys([*np.argsort(-single)[:half], *np.argsort(-difference)[:half]]))
    chosen: list[int] = []
    for _ in range(SET):
        scores = {
            int(c): fitted(codes[np.ix_(rows, [*chosen, int(c)])], y[rows])[2] for c in candidates if c not in chosen
        }
        chosen.append(max(scores, key=scores.__getitem__))
    return chosen


def fitted(x: np.ndarray, y: np.ndarray) -> tuple[LogisticRegression, float, float]:
    """(regression, threshold on its score, F1 there)."""
    model = LogisticRegression(C=10.0, max_iter=300).fit(x.astype(np.float32), y)
    threshold, best = best_threshold(model.decision_function(x.astype(np.float32)), y)
    return model, threshold, best


def best_threshold(score: Float[np.ndarray, " tokens"], y: Bool[np.ndarray, " tokens"]) -> tuple[float, float]:
    """The threshold of the best F1 of `score > threshold`, and that F1."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(y[order])
    scores = 2 * hits / (np.arange(1, len(y) + 1) + y.sum())
    last = np.r_[np.diff(score[order]) != 0, True]  # a threshold cannot part equal scores
    at = int(np.where(last, scores, -1).argmax())
    below = score[order][at + 1] if at + 1 < len(y) else score[order][at] - 1
    return float((score[order][at] + below) / 2), float(scores[at])


def set_f1(train: Tokens, held_out: Tokens, chosen: list[int], label: str) -> float:
    model, threshold, _ = fitted(train.codes[:, chosen], train.truth[label])
    return f1(model.decision_function(held_out.codes[:, chosen].astype(np.float32)) > threshold, held_out.truth[label])


def best_dimension(x: Float[np.ndarray, "tokens d"], y: Bool[np.ndarray, " tokens"]) -> tuple[int, float, float]:
    """(dimension, sign, threshold) of the residual stream with the best training F1."""
    rows = np.random.default_rng(0).permutation(len(y))[:FIT_ROWS]
    found = []
    for dimension in range(x.shape[1]):
        values = x[rows, dimension].astype(np.float32)
        for sign in (1.0, -1.0):
            threshold, score = best_threshold(sign * values, y[rows])
            found.append((score, dimension, sign, threshold))
    _, dimension, sign, threshold = max(found)
    return dimension, sign, threshold
