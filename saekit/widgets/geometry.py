"""`ToyGeometry`: how features share two dimensions, and what changes it."""

import itertools
import time
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .. import presets
from ..activations import Rows
from ..evals.recovery import matched
from ..toy import Bottleneck
from ..train import train
from ..viz.geometry import KEPT, toy_geometry
from .view import View

_ids = itertools.count()
COLD, WARM = 700, 400  # steps of a new model, and of one that goes on from the last
ROWS, SAE_STEPS = 4_096, 150
NUDGE = 0.1  # standard deviation; a feature that was dropped has no gradient to come back by

# Settings: label, the values there are.
NOTCHES: dict[str, tuple[str, tuple[float, ...]]] = {
    "n_features": ("Features", (2, 3, 4, 5, 6, 7, 8)),
    "frequency": ("How often each is on", (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)),
    "importance": ("Importance ratio", (1.0, 0.9, 0.8, 0.7, 0.5)),
    "correlation": ("Correlation within pairs", (-0.9, -0.5, 0.0, 0.5, 0.9)),
}


class ToyGeometry(View):
    """The columns of W of a `toy.Bottleneck` with two dimensions, their Gram matrix, and each one's dimensionality.

    A changed setting trains on from the weights there are; another `seed` starts over. With `sae=True` a small TopK SAE
    is trained on the hidden states `h = W x`, and its decoder rows are matched to the columns. The result of a
    training is kept until a setting changes: `.model`, and `.dictionary` [latents, 2] of the SAE, else None.

    Raises ValueError for a value that is not one of NOTCHES.
    """

    def __init__(
        self, n_features: int = 5, frequency: float = 0.5, importance: float = 1.0, correlation: float = 0.0, *,
        sae: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        self.model: Bottleneck | None = None
        self.dictionary: Float[Tensor, "latents 2"] | None = None
        self._made: dict[str, Any] = {}  # the settings that the model and the dictionary were trained with
        self._seconds, self._kept, self._number = 0.0, 0.0, next(_ids)
        super().__init__(
            n_features=n_features, frequency=frequency, importance=importance, correlation=correlation, sae=sae,
            seed=seed,
        )  # fmt: skip
        self.check()

    def check(self) -> None:
        for name, (_, values) in NOTCHES.items():
            if self._state[name] not in values:
                raise ValueError(f"{name}={self._state[name]}: choose one of {', '.join(f'{v:g}' for v in values)}")

    def compute(self) -> dict[str, Any]:
        if self._made != self._state:
            self._retrain()
        W = self.model.W[0]
        return {
            "id": self._number, **self._state, "notches": NOTCHES, "columns": W.T.tolist(), "pairs": self._pairs(W),
            "gram": self.model.gram()[0].tolist(), "dimensionality": self.model.dimensionality()[0].tolist(),
            "kept": self._kept, "two": _two_alone(self.model), "seconds": self._seconds,
            "rows": [] if self.dictionary is None else self.dictionary.tolist(),
        }  # fmt: skip

    def _retrain(self) -> None:
        started, state, before = time.perf_counter(), self._state, self._made
        settings = {name: state[name] for name in NOTCHES} | {"seed": state["seed"]}
        if any(before.get(name) != value for name, value in settings.items()):
            model = Bottleneck(
                int(state["n_features"]), frequencies=state["frequency"], importance=state["importance"],
                correlation=state["correlation"], seed=state["seed"],
            )  # fmt: skip
            warm = self.model is not None and before["seed"] == state["seed"]
            if warm:
                shared = min(model.n_features, self.model.n_features)
                model.W[..., :shared] = self.model.W[..., :shared] + NUDGE * model.W[..., :shared]
            self.model = model.train(WARM if warm else COLD, lr=0.03)
            x = model.features(4 * ROWS)
            self._kept = float(1 - model.losses(x)[0] / (model.importance * x.square()).sum(2).mean())
        self.dictionary = self._decoder() if state["sae"] else None
        self._made, self._seconds = dict(state), time.perf_counter() - started

    def _decoder(self) -> Float[Tensor, "latents 2"]:
        """Decoder rows of an SAE of as many latents as features, trained on hidden states that are not zero."""
        h = (self.model.features(4 * ROWS) @ self.model.W.mT)[0]
        h = h[h.norm(dim=1) > 1e-3]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._state["seed"])
            coder, objective = presets.topk(2, self.model.n_features, k=1)
            how = {"batch_size": 512, "lr": 0.03, "precision": "float32", "threads": 1, "progress": False}
            return train(coder, Rows(h), objective, steps=SAE_STEPS, **how).coder.W_dec

    def _pairs(self, W: Float[Tensor, "2 features"]) -> list[tuple[int, int, float]]:
        """(feature, latent, cosine), one to one, of the features that are kept."""
        if self.dictionary is None:
            return []
        kept = torch.nonzero(W.norm(dim=0) > KEPT).squeeze(1)
        match = matched(F.normalize(W.T[kept], dim=1) @ F.normalize(self.dictionary, dim=1).T)
        return [
            (int(kept[f]), int(row), float(c))
            for f, row, c in zip(match.features, match.latents, match.cosines, strict=True)
        ]

    def render(self, data: dict[str, Any]) -> str:
        return toy_geometry(data)

    def act(self, name: str, arg: Any) -> None:
        if name in NOTCHES:
            self.set_state(**{name: NOTCHES[name][1][int(arg)]})
        elif name == "again":
            self.set_state(seed=self._state["seed"] + 1)
        else:
            super().act(name, arg)

    def title(self) -> str:
        return "Toy geometry"


def _two_alone(model: Bottleneck) -> float:
    """The share that is explained by the two features of most importance alone, each in a dimension of its own."""
    return float(model.importance[: model.d_hidden].sum() / model.importance.sum())
