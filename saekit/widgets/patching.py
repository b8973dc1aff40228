"""`PatchingMap`: what an activation of the clean run restores on the corrupt one, by layer and token."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..viz.patching import patching_map
from .view import View

_ids = itertools.count()
KEYS = {"ArrowUp": (1, 0), "ArrowDown": (-1, 0), "ArrowLeft": (0, -1), "ArrowRight": (0, 1)}


class PatchingMap(View):
    """A heatmap of `attribute.patching`: each cell the share of the difference that comes back.

    share = (patched - corrupt) / (clean - corrupt): 0 where the corrupt answer stays, 1 where the clean one is back.
    values: the metric [layer, pos] after patching; clean, corrupt: the metric without; tokens, corrupt_tokens: the
    prompts; metric: what is measured, in words. State: cell (layer, pos), the largest at first. Raises ValueError for
    shapes that do not fit, values that are no numbers, and equal clean and corrupt values.
    """

    def __init__(
        self, values: Any, tokens: Sequence[str], *, clean: float, corrupt: float,
        corrupt_tokens: Sequence[str] | None = None, site: str = "hook_resid_pre", metric: str = "logit difference",
    ) -> None:  # fmt: skip
        self.values = np.asarray(values, np.float64)
        self.tokens, self.corrupt_tokens = list(tokens), list(tokens if corrupt_tokens is None else corrupt_tokens)
        self.clean, self.corrupt, self.site, self.metric = float(clean), float(corrupt), site, metric
        self._number = next(_ids)
        self._check_values()
        self.shares = (self.values - self.corrupt) / (self.clean - self.corrupt)
        super().__init__(cell=divmod(int(self.shares.argmax()), self.shares.shape[1]))

    def _check_values(self) -> None:
        n = len(self.tokens)
        if self.values.ndim != 2 or self.values.shape[1] != n or len(self.corrupt_tokens) != n or not n:
            raise ValueError(
                f"values of shape {self.values.shape} for {n} and {len(self.corrupt_tokens)} tokens: give [layer, pos]"
            )
        if not np.isfinite([*self.values.flat, self.clean, self.corrupt]).all():
            raise ValueError("some values are no finite numbers: patch again with a metric that is finite")
        if self.clean == self.corrupt:
            raise ValueError(f"the metric is {self.clean:g} on both prompts: choose one in which they differ")

    def check(self) -> None:
        layer, pos = self._state["cell"]
        if layer not in range(len(self.values)) or pos not in range(len(self.tokens)):
            raise ValueError(f"cell {(layer, pos)}: there are {len(self.values)} layers of {len(self.tokens)} tokens")

    def compute(self) -> dict[str, Any]:
        return {
            **self._state, "id": self._number, "tokens": self.tokens, "corrupt_tokens": self.corrupt_tokens,
            "values": self.values.tolist(), "shares": self.shares.tolist(), "clean": self.clean,
            "corrupt": self.corrupt, "site": self.site, "metric": self.metric,
        }  # fmt: skip

    def render(self, data: dict[str, Any]) -> str:
        return patching_map(data)

    def act(self, name: str, arg: Any) -> None:
        layer, pos = self._state["cell"]
        n_layers, n = self.values.shape
        if name == "at":
            layer, pos = int(arg[1]), int(arg[0])
        elif name == "move" and arg in ("Home", "End"):
            pos = 0 if arg == "Home" else n - 1
        elif name == "move":
            layer, pos = layer + KEYS[arg][0], pos + KEYS[arg][1]
        else:
            super().act(name, arg)
            return
        self.set_state(cell=(min(max(layer, 0), n_layers - 1), min(max(pos, 0), n - 1)))

    def title(self) -> str:
        return "Activation patching"
