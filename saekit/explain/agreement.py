"""How well a prediction of where a latent is on agrees with where it is."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool


class Agreement(NamedTuple):
    """Of n tokens, `predicted` are said to be on and `on` are. NaN where there is nothing to divide by."""

    precision: float
    recall: float
    f1: float
    predicted: int
    on: int
    n: int

    @staticmethod
    def of(predicted: Bool[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> "Agreement":
        hits, said, on = int((predicted & truth).sum()), int(predicted.sum()), int(truth.sum())
        return Agreement(_share(hits, said), _share(hits, on), _share(2 * hits, said + on), said, on, len(truth))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
