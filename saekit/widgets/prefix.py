"""`PrefixSlider`: what the first latents of each dictionary rebuild on their own."""

import itertools
from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..coder import SparseCoder
from ..evals.splitting import prefix_fvu
from ..viz.prefix import DASHES, prefix
from .view import View

_ids = itertools.count()


class PrefixSlider(View):
    """`evals.prefix_fvu` of up to three coders on activations x [rows, d_in], as curves with a slider.

    The first coder keeps its own order; of the others the latents that are on most often come first, which is kind to
    them. trained: widths to mark. State: at, the place in `.widths`. Raises ValueError for coders of different size.
    """

    def __init__(
        self, coders: Mapping[str, SparseCoder], x: Float[Tensor, "rows d_in"], *, trained: tuple[int, ...] = ()
    ) -> None:
        if not 1 <= len(coders) <= len(DASHES) or len({coder.d_sae for coder in coders.values()}) != 1:
            raise ValueError(f"{len(coders)} coders: give one to {len(DASHES)}, all with the same number of latents")
        d_sae = next(iter(coders.values())).d_sae
        half = [round(d_sae / 2 ** (i / 2)) for i in range(13)]
        self.widths = sorted({w for w in half if w >= 4} | set(trained))
        self.trained, self.n, self._number = tuple(trained), len(x), next(_ids)
        self.curves = {
            name: prefix_fvu(coder, x, self.widths, None if i == 0 else _busiest(coder, x))
            for i, (name, coder) in enumerate(coders.items())
        }
        super().__init__(at=len(self.widths) // 2)

    def check(self) -> None:
        if self._state["at"] not in range(len(self.widths)):
            raise ValueError(f"at={self._state['at']}: choose 0 to {len(self.widths) - 1}")

    def compute(self) -> dict[str, Any]:
        return {
            "id": self._number, **self._state, "widths": self.widths, "trained": self.trained, "n": self.n,
            "curves": self.curves,
        }  # fmt: skip

    def render(self, data: dict[str, Any]) -> str:
        return prefix(data)

    def act(self, name: str, arg: Any) -> None:
        self.set_state(**{name: int(arg)})

    def title(self) -> str:
        return "Prefixes of dictionaries"


def _busiest(coder: SparseCoder, x: Float[Tensor, "rows d_in"]) -> list[int]:
    return coder.encode(x).counts().argsort(descending=True, stable=True).tolist()
