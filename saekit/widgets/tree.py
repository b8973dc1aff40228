"""`SplitTree`: one latent of a small dictionary beside its relatives in a larger one; a click opens a card."""

from typing import Any

import torch
from torch.nn import functional as F

from ..evals.splitting import relatives
from ..features import Features
from ..viz.card import feature_card
from ..viz.tree import tree
from .card import FeatureCard
from .view import View

RANDOM = 200  # directions, for the control


class SplitTree(View):
    """`evals.relatives` as a picture. narrow, wide: `Features` of two coders of one site, on the same text.

    State: latent (of narrow), n (relatives), selected: None, or ["narrow" or "wide", latent], whose card is open.
    Raises ValueError for what is out of range and for coders that do not belong side by side.
    """

    def __init__(self, narrow: Features, wide: Features, latent: int, *, n: int = 5) -> None:
        self.features = {"narrow": narrow, "wide": wide}
        self._cards: dict[str, FeatureCard] = {}
        self._random = _nearest_to_random(wide.coder)
        super().__init__(latent=int(latent), n=n, selected=None)
        self.check()

    def check(self) -> None:
        state = self._state
        relatives(self.features["narrow"].coder, self.features["wide"].coder, state["latent"], state["n"])
        if state["selected"] is not None:
            side, latent = state["selected"]
            if side not in self.features:
                raise ValueError(f"selected={state['selected']}: its first part is 'narrow' or 'wide'")
            self.features[side][latent]  # raises for one out of range

    def compute(self) -> dict[str, Any]:
        state, (narrow, wide) = self._state, self.features.values()
        found = relatives(narrow.coder, wide.coder, state["latent"], state["n"])
        card = self._card()
        return {
            **state, "narrow": narrow.coder.d_sae, "wide": wide.coder.d_sae, "random": self._random,
            "parent": _facts(narrow, state["latent"]), "card": card and card.compute(),
            "children": [row | _facts(wide, row["latent"]) for row in found.to_dict("records")],
        }  # fmt: skip

    def _card(self) -> FeatureCard | None:
        if self._state["selected"] is None:
            return None
        side, latent = self._state["selected"]
        if side not in self._cards:
            self._cards[side] = FeatureCard(self.features[side], latent)
        if self._cards[side].state["latent"] != latent:
            self._cards[side].pick(latent)
        return self._cards[side]

    def render(self, data: dict[str, Any]) -> str:
        card = f'<div data-scope="card">{feature_card(data["card"])}</div>' if data["card"] else ""
        return f"<div>{tree(data)}{card}</div>"

    def static(self, data: dict[str, Any]) -> str:
        card = self._card()
        return tree(data) + (card.static(data["card"]) if card else "")

    def act(self, name: str, arg: Any) -> None:
        card = self._card()
        if name == "open":
            side, latent = str(arg).split()
            chosen = [side, int(latent)]
            self.set_state(selected=None if chosen == self._state["selected"] else chosen)
        elif name == "card/save" and card:
            self.send(card.file())
        elif name.startswith("card/") and card:
            card.act(name.removeprefix("card/"), arg)
            self.set_state(selected=[self._state["selected"][0], card.state["latent"]])
        else:
            super().act(name, arg)

    def title(self) -> str:
        return f"Relatives of latent {self._state['latent']}"


def _facts(features: Features, latent: int) -> dict[str, Any]:
    row = features.table.loc[latent]
    return {"latent": latent, "label": row.label, "f1": float(row.f1), "density": float(row.density)}


@torch.no_grad()
def _nearest_to_random(coder: Any) -> float:
    """The mean cosine of a random direction with the latent nearest to it."""
    directions = torch.randn(RANDOM, coder.d_out, generator=torch.Generator().manual_seed(0))
    cosines = F.normalize(directions, dim=1) @ F.normalize(coder.dictionary().float(), dim=1).T
    return float(cosines.max(1).values.mean())
