"""What notebook 05 measures on an index: latents whose examples mislead, and what a latent is set against."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from ..codes import Codes
from ..explain.prompts import before, prompts, values_on
from ..features import Example, Features, Latent
from ..features.forward import encoded
from ..features.neurons import best_neurons
from .frame import Shown
from .frame import table as columns

BEFORE, AFTER = 40, 16  # characters that are shown around a token
FEWEST = 500  # scored firings of a latent whose precision is worth talking about
DISTINCT = 5  # tokens among the strongest firings, or the story would be about one token


def around(features: Features, table: pd.DataFrame) -> pd.DataFrame:
    """A table of `explain` with its text short enough to read in a cell: the token it is about stands in « »."""
    shown = [_around(features, *where) for where in zip(table.window, table.pos, strict=True)]
    return table[[name for name in ("quantile", "value") if name in table]].round(2).assign(text=shown)


def listed(table: pd.DataFrame) -> Shown:
    """A table with its text on the left and numbers to two places; NaN is left blank."""
    rows = [[str(at), *map(_said, row)] for at, row in zip(table.index, table.to_numpy().tolist(), strict=True)]
    return columns(["", *map(str, table.columns)], rows)


def _said(cell: Any) -> str:
    if isinstance(cell, float):
        return "" if np.isnan(cell) else f"{cell:.2f}"
    return str(cell)


def _around(features: Features, window: int, pos: int) -> str:
    places = np.arange(max(pos - 20, features.corpus.lead), min(pos + 11, features.corpus.tokens.shape[1]))
    tokens = features.excerpts.tokens(window * features.corpus.tokens.shape[1] + places)
    at = int(np.flatnonzero(places == pos)[0])
    before, after = "".join(tokens[:at])[-BEFORE:], "".join(tokens[at + 1 :])[:AFTER]
    return re.sub(r"\n\s*", " ⏎ ", f"{before}«{tokens[at]}»{after}")


def illusions(features: Features, n: int = 10) -> pd.DataFrame:
    """(latent, label) where all of a latent's n strongest firings have a context label: the least precise first.

    One firing per window counts. Rows of `features.label_scores()`, of latents with 500 scored firings or more whose n
    strongest are at five different tokens or more: a low precision says that most firings are elsewhere, which the
    strongest examples do not tell.
    """
    held, scores = features.index.top, features.label_scores()
    latents = np.flatnonzero(np.diff(held.offsets) >= n)
    places = held.place[held.offsets[latents][:, None] + np.arange(n)]
    ids = features.corpus.tokens.numpy().reshape(-1)[places]
    various = np.array([len({*row}) >= DISTINCT for row in ids.tolist()])
    latents, places = latents[various], places[various]
    has = features.meetings.truth(features.corpus, places.reshape(-1)).reshape(*places.shape, -1).all(1)
    whole = {(int(latents[i]), features.meetings.labels[j]) for i, j in np.argwhere(has)}
    told = np.array([pair in whole for pair in zip(scores.latent, scores.label, strict=True)], bool)
    often = scores.density * features.index.base[0] >= FEWEST
    return scores[scores.context & told & often].sort_values("precision", kind="stable", ignore_index=True)


def label_by_decile(latent: Latent, label: str, edges: Callable[[Any], Any]) -> pd.Series:
    """Of each tenth of a latent's sampled firings, the weakest first, the share that has a label.

    edges(its activations): the values between the tenths, ascending.
    """
    features = latent.features
    tokens, values = features.index.sample.firings(latent.index)
    decile = np.searchsorted(np.asarray(edges(values)), values) + 1
    has = pd.Series(features.truth[tokens, features.meetings.labels.index(label)])
    return has.groupby(decile).mean().rename_axis("decile")


def best_f1(features: Features, n: int, seed: int = 0) -> pd.Series:
    """Label -> the F1 of the best of n latents that were drawn at random."""
    drawn = np.random.default_rng(seed).permutation(len(features))[:n]
    scores = features.label_scores()
    return scores[scores.latent.isin(drawn)].groupby("label").f1.max()


def context_of(latent: Latent, example: Example) -> tuple[np.ndarray, Callable[[Any], float]]:
    """(the ids from the beginning of an example's window to its peak, the latent's activation at the last of any ids).

    Ids are read behind BOS, where the corpus has one.
    """
    features = latent.features

    def activation(ids: Any) -> float:
        return float(values_on(features, latent.index, prompts(features, [np.asarray(ids)]))[0, -1])

    return before(features, example.window, example.pos), activation


class Rivals(NamedTuple):
    """Detectors of a label on some tokens: name -> (value at each token, threshold), chosen on the train documents."""

    found: dict[str, tuple[Float[np.ndarray, " tokens"], float]]
    truth: Bool[np.ndarray, " tokens"]
    test: Bool[np.ndarray, " tokens"]  # of the test documents


def rivals(features: Features, latent: int, label: str, windows: int = 40, seed: int = 0) -> Rivals:
    """A latent beside what any label can be told by: being always on, the best single neuron, random directions.

    On the scored tokens of some windows drawn at random. Neuron, direction and thresholds are those of largest AUC and
    F1 on the train documents; there are as many random directions as neurons, of normal entries. The latent stands
    there twice: at threshold 0, which is what `label_scores` asks, and at its best one.
    """
    rng, corpus = np.random.default_rng(seed), features.corpus
    chosen = np.sort(rng.permutation(len(corpus))[:windows])
    part = corpus[chosen]
    seen = list(encoded(features.model, features.coder, part))
    scored = part.scored[part.mask]
    x = np.concatenate([some.x.numpy() for some in seen])[scored]
    own = np.concatenate([_column(some.codes, latent) for some in seen])[scored]
    truth = part.labels[label][part.mask][scored]
    test = np.repeat(features.test_windows[chosen], part.mask.sum(1))[scored]
    turned = x @ rng.standard_normal((x.shape[1], x.shape[1])).astype(np.float32)
    values = {
        f"latent {latent}, best threshold": own,
        f"best of {x.shape[1]} neurons": _best(x, truth, ~test),
        f"best of {x.shape[1]} random directions": _best(turned, truth, ~test),
    }
    found = {f"latent {latent}": (own, 0.0)}
    found |= {name: (value, best_threshold(value[~test], truth[~test])) for name, value in values.items()}
    return Rivals(found | {"always on": (np.ones(len(truth)), 0.0)}, truth, test)


def best_threshold(value: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> float:
    """The t of largest F1 of `value > t`."""
    order = np.argsort(-value, kind="stable")
    f1 = 2 * np.cumsum(truth[order]) / (np.arange(1, len(order) + 1) + truth.sum())
    ends = np.append(np.diff(value[order]) != 0, True)  # equal values are chosen together
    return float(np.nextafter(value[order][np.where(ends, f1, -1).argmax()], -np.inf))


def _column(codes: Codes, latent: int) -> Float[np.ndarray, " rows"]:
    value, mine = np.zeros(codes.n_rows), codes.latents == latent
    value[codes.rows[mine].numpy()] = codes.values[mine].numpy()
    return value


def _best(
    x: Float[np.ndarray, "tokens d"], truth: Bool[np.ndarray, " tokens"], train: Bool[np.ndarray, " tokens"]
) -> Float[np.ndarray, " tokens"]:
    """The column whose AUC on the train documents is furthest from 1/2, with the sign that makes it a detector."""
    best = best_neurons(x[train], truth[train, None])
    return best.sign[0] * x[:, best.dimension[0]]
