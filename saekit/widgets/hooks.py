"""`HookMap`: the names of the places in a model where activations can be read and changed."""

from functools import partial
from typing import Any

import torch

from ..hooks import to_tokens
from ..viz.hooks import PLACES, hook_map
from .view import View


class HookMap(View):
    """A drawing of one block with its hook names; a click on one shows its shape on a text, and what it holds.

    State: layer, name (of one of `viz.hooks.PLACES`). Raises ValueError for a layer or name that is not there, and a
    text that the model cannot read.
    """

    def __init__(self, model: Any, text: str = "x = f(a)", name: str = "hook_resid_post", layer: int = 0) -> None:
        self.model = model
        self.tokens = to_tokens(model, text)
        self.shapes = shapes(model, self.tokens)
        super().__init__(layer=layer, name=name)

    def check(self) -> None:
        if self._state["layer"] not in range(self.model.cfg.n_layers):
            raise ValueError(f"layer={self._state['layer']!r}: there are {self.model.cfg.n_layers}, counted from 0")
        if self._state["name"] not in {place.name for place in PLACES}:
            raise ValueError(f"name={self._state['name']!r}: choose one of {', '.join(p.name for p in PLACES)}")

    def compute(self) -> dict[str, Any]:
        place = next(place for place in PLACES if place.name == self._state["name"])
        shape = self.shapes.get(place.name, ())
        return {
            **self._state, "hook": place.at(self._state["layer"]), "shape": list(shape), "there": list(self.shapes),
            "bytes": 4 * torch.Size(shape).numel() if shape else 0, "n_layers": self.model.cfg.n_layers,
            "model": self.model.cfg.model_name, "n_tokens": self.tokens.shape[1],
        }  # fmt: skip

    def render(self, data: dict[str, Any]) -> str:
        return hook_map(data)

    def act(self, name: str, arg: Any) -> None:
        state = self._state
        if name == "layer":
            self.set_state(layer=int(arg))
        elif name == "move" and arg in ("ArrowUp", "ArrowDown"):
            layer = state["layer"] + (1 if arg == "ArrowUp" else -1)
            self.set_state(layer=min(max(layer, 0), self.model.cfg.n_layers - 1))
        elif name == "move":
            names = [place.name for place in PLACES]
            at = names.index(state["name"]) + (1 if arg == "ArrowRight" else -1)
            self.set_state(name=names[min(max(at, 0), len(names) - 1)])
        else:
            super().act(name, arg)

    def title(self) -> str:
        return "Hook names"


@torch.no_grad()
def shapes(model: Any, tokens: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """{place: shape of its activation in the first block}; a place that this model does not have is left out."""
    seen: dict[str, tuple[int, ...]] = {}

    def see(x, hook, name):
        seen[name] = tuple(x.shape)

    there = [(place.at(0), partial(see, name=place.name)) for place in PLACES if place.at(0) in model.hook_dict]
    with model.hooks(there):
        model(tokens, return_type=None)
    return seen
