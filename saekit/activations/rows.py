"""`Rows`: a matrix as a source of training data."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .stream import Batch


class Rows:
    """A matrix as a source for `sk.train`: its rows, drawn in a seeded order, again and again.

    `Rows.of_decoder(coder)` is the source of a meta-SAE: the decoder rows, at norm 1. Thresholds are calibrated on
    the same rows. `tokens`: rows that count as one pass. Raises ValueError for fewer than 2 rows and for values that
    are not finite.
    """

    def __init__(self, x: Float[Tensor, "rows d"], tokens: int | None = None, seed: int = 0) -> None:
        if len(x) < 2 or not bool(torch.isfinite(x).all()):
            raise ValueError(f"a matrix of shape {tuple(x.shape)}: give at least 2 rows, all values finite")
        self.x, self.seed, self.tokens = x.detach().float(), seed, tokens or len(x)
        self.d_in = self.d_out = x.shape[1]
        self.site, self.model, self.corpus = None, None, None

    @classmethod
    def of_decoder(cls, coder: Any, tokens: int | None = None, seed: int = 0) -> "Rows":
        """The rows of `coder.W_dec`, each scaled to norm 1."""
        return cls(torch.nn.functional.normalize(coder.W_dec.detach(), dim=1), tokens, seed)

    def __len__(self) -> int:
        return self.tokens

    def held_out(self, rows: int) -> Batch:
        """The matrix itself: there is nothing else of its kind."""
        x = self.x[torch.from_numpy(np.random.default_rng(self.seed).permutation(len(self.x))[:rows])]
        return Batch(x, x)

    def batches(self, size: int, start: int = 0, *, until: Callable[[], bool] = lambda: False) -> Iterator[Batch]:
        """Batches of `size` rows drawn with replacement; batch number `start / size` and those after it."""
        number = start // size
        while not until():
            chosen = np.random.default_rng([self.seed, number]).integers(len(self.x), size=size)
            x = self.x[torch.from_numpy(chosen)]
            yield Batch(x, x)
            number += 1
