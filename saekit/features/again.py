"""Does the index still say what the model says?"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int, Int64

from .forward import WINDOWS, encoded
from .tally import BEFORE

if TYPE_CHECKING:
    from .index import Features


def reencoded(features: "Features", n: int, seed: int) -> pd.DataFrame:
    """n stored firings, drawn at random from all that are stored, beside the activations that their windows give now.

    Every window is read from its beginning, with the windows that it was read with, so that the two differ by
    rounding only. Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: give at least 1")
    latent, place, stored = _drawn(features, n, seed)
    again = _now(features, latent, place)
    window, pos = np.divmod(place, features.corpus.tokens.shape[1])
    columns = {"latent": latent, "window": window, "pos": pos, "stored": stored, "again": again}
    return pd.DataFrame(columns | {"error": np.abs(again - stored) / np.maximum(stored, 1e-30)})


def _drawn(
    features: "Features", n: int, seed: int
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """(latent, place, value) of some stored firings, in the order of their places."""
    held = features.index.top, features.index.drawn
    latents = np.concatenate([np.repeat(np.arange(len(features)), np.diff(h.offsets)) for h in held])
    places = np.concatenate([h.place for h in held])
    chosen = np.random.default_rng(seed).permutation(len(places))[:n]
    chosen = chosen[np.argsort(places[chosen], kind="stable")]
    values = np.concatenate([h.values[:, BEFORE] for h in held])[chosen].astype(np.float64)
    return latents[chosen], places[chosen], values


def _now(
    features: "Features", latent: Int[np.ndarray, " n"], place: Int[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    width, found = features.corpus.tokens.shape[1], np.zeros(len(place))
    group = place // width // WINDOWS
    for first in np.unique(group):
        part = features.corpus[first * WINDOWS : (first + 1) * WINDOWS]
        (seen,) = encoded(features.model, features.coder, part)
        row = np.cumsum(part.mask.reshape(-1)) - 1  # of each place of the part
        mine = np.flatnonzero(group == first)
        rows = row[place[mine] - first * WINDOWS * width]
        keys = seen.codes.rows.numpy() * features.coder.d_sae + seen.codes.latents.numpy()  # ascending
        wanted = rows * features.coder.d_sae + latent[mine]
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        found[mine] = np.where(keys[at] == wanted, seen.codes.values.numpy()[at], 0)
    return found
