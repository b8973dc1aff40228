"""`SteerSlider`: one latent, one strength, the next token."""

import itertools
import time
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..coder import SparseCoder
from ..corpus import pieces
from ..explain.output import random_direction
from ..hooks import splice
from ..steer import add
from ..viz.html import named
from ..viz.steer import steer_slider
from .reading import end_of, first_token, read
from .view import View

_ids = itertools.count()
RANGE = (-4.0, 8.0)


class SteerSlider(View):
    """What the model expects next when a latent is added at every token: `x + strength * maximum * W_dec[latent]`.

    strength is in units of `maximum`, the latent's largest activation on a corpus. Beside it stands the effect of a
    random direction as long. Raises ValueError for a latent or strength out of range and a prompt that cannot be read.
    """

    def __init__(
        self, model: Any, coder: SparseCoder, latent: int, prompt: str, *, maximum: float, strength: float = 0.0,
        top: int = 8,
    ) -> None:  # fmt: skip
        if maximum <= 0:
            raise ValueError(f"maximum={maximum}: give the latent's largest activation, such as features[{latent}].max")
        self.model, self.coder, self.maximum, self.top = model, coder, float(maximum), top
        self._number = next(_ids)
        super().__init__(latent=int(latent), prompt=prompt, strength=float(strength))
        self.check()

    def check(self) -> None:
        state = self._state
        if state["latent"] not in range(self.coder.d_sae):
            raise ValueError(f"latent {state['latent']} is not in [0, {self.coder.d_sae}), the latents of this coder")
        if not RANGE[0] <= state["strength"] <= RANGE[1]:
            raise ValueError(
                f"strength={state['strength']} is not between {RANGE[0]:g} and {RANGE[1]:g} times the maximum"
            )
        read(self.model, self.coder, state["prompt"])

    def compute(self) -> dict[str, Any]:
        started, state = time.perf_counter(), self._state
        ids = torch.tensor([[*first_token(self.model), *read(self.model, self.coder, state["prompt"]).ids]])
        value = state["strength"] * self.maximum
        before = self._next(ids)
        after = self._next(ids, self.coder, state["latent"], value)
        control = self._next(ids, random_direction(self.coder, state["latent"]), 0, value)
        rows = torch.cat([before.topk(self.top).indices, after.topk(self.top).indices]).unique()
        rows = rows[torch.maximum(before, after)[rows].argsort(descending=True)][: self.top + 2]
        tokens = pieces(self.model.tokenizer, rows.tolist())
        likeliest = pieces(self.model.tokenizer, [int(before.argmax()), int(after.argmax())])
        return {
            "id": self._number, "site": self.coder.site.name, "maximum": self.maximum, "range": RANGE, **state,
            "rows": list(zip(tokens, before[rows].tolist(), after[rows].tolist(), strict=True)),
            "top_before": named(likeliest[0])[:24], "top_after": named(likeliest[1])[:24], "kl": _kl(after, before),
            "kl_random": _kl(control, before), "n": ids.shape[1] - 1, "room": self.model.cfg.n_ctx - 1,
            "seconds": time.perf_counter() - started,
        }  # fmt: skip

    @torch.no_grad()
    def _next(
        self, ids: Tensor, coder: SparseCoder | None = None, latent: int = 0, value: float = 0.0
    ) -> Float[Tensor, " vocab"]:
        """Probabilities of the next token."""
        run = partial(self.model, ids)
        if coder is None:
            return run()[0, -1].softmax(-1)
        with splice(self.model, coder, edit=add(latent, value)):
            return run()[0, -1].softmax(-1)

    def render(self, data: dict[str, Any]) -> str:
        return steer_slider(data)

    def act(self, name: str, arg: Any) -> None:
        if name == "strength":
            self.set_state(strength=float(arg))
        elif name == "prompt":
            self._typed = str(arg)
            self.set_state(prompt=self._typed)
        elif name == "last":
            self.set_state(prompt=end_of(self.model, self._typed))
        else:
            super().act(name, arg)

    _typed = ""

    def title(self) -> str:
        return f"Steering with latent {self._state['latent']}"


def _kl(p: Tensor, q: Tensor) -> float:
    """KL(p || q) in nats."""
    return float((p * (p.clamp(min=1e-12).log() - q.clamp(min=1e-12).log())).sum())
