"""`FeatureBrowser`: every latent of an index."""

import itertools
from typing import Any

import numpy as np
import pandas as pd

from ..viz.browser import DECADES, feature_browser
from ..viz.card import feature_card
from ..viz.marks import family
from .card import FeatureCard
from .view import View

_ids = itertools.count()
PAGE = 14
DENSE = 0.1  # on at more than this share of tokens
FILTERS = {"query": "", "label": "", "low": -float(DECADES), "high": 0.0, "context": False, "dense": False,
           "starred": False}  # fmt: skip


class FeatureBrowser(View):
    """A table of the latents that are alive, a scatter of density against F1, one selection; opens a card below.

    State: query (label, token, note or number), label, low and high (log10 of density), context (only labels that
    need context), dense (leave out those on at more than a tenth of the tokens), starred, sort, descending, first (row
    of the page), latent, open. Raises ValueError for what is out of range.
    """

    def __init__(self, features: Any, *, latent: int | None = None) -> None:
        self.features, self._number = features, next(_ids)
        table = features.table
        alive = table[table.density > 0]
        if latent is None and len(alive):
            latent = int(alive.f1.idxmax())
        self.card = FeatureCard(features, latent or 0)
        super().__init__(**FILTERS, sort="f1", descending=True, first=0, latent=latent or 0, open=False)

    def check(self) -> None:
        state = self._state
        self.features[state["latent"]]
        if state["sort"] not in ("latent", "label", "f1", "density", "max"):
            raise ValueError(f"sort={state['sort']!r}: choose latent, label, f1, density or max")
        if not -DECADES <= state["low"] <= state["high"] <= 0:
            raise ValueError(f"low={state['low']}, high={state['high']}: -{DECADES} <= low <= high <= 0 is needed")

    def matching(self) -> pd.DataFrame:
        """The latents that pass the filters, in the order of the table."""
        state = self._state
        table = self.features.search(state["query"].strip(), label=state["label"] or None, starred=state["starred"])
        table = table[(table.density >= 10 ** (state["low"] - 1e-6)) | (state["low"] <= -DECADES)]
        table = table[(table.density > 0) & (table.density <= 10 ** (state["high"] + 1e-6))]
        if state["dense"]:
            table = table[table.density <= DENSE]
        if state["context"]:
            table = table[table.context.astype(bool)]
        if state["sort"] == "latent":
            return table.sort_index(ascending=not state["descending"])
        return table.sort_values(state["sort"], ascending=not state["descending"], kind="stable")

    def compute(self) -> dict[str, Any]:
        state, table = self._state, self.features.table
        found = self.matching()
        first = min(state["first"], max(0, (len(found) - 1) // PAGE * PAGE))
        page = found.iloc[first : first + PAGE].rename_axis("latent").reset_index()
        notes = self.features.notes.all()
        families = {label: family(label) for label in table.label.unique()}
        alive = int((table.density > 0).sum())
        data = {
            **state, "id": self._number, "site": self.features.coder.site.name, "n": self.features.n, "first": first,
            "range": (state["low"], state["high"]), "labels": sorted(label for label in families if label),
            "found": len(found), "strong": int((found.f1 >= 0.7).sum()),
            "rows": [row | _noted(notes, row["latent"]) for row in page.to_dict("records")],
            "density": found.density.to_numpy(), "f1": found.f1.to_numpy(),
            "family": found.label.map(families).to_numpy(), "widest": self._widest(),
            "picked": self._picked() | _noted(notes, state["latent"]), "alive": alive, "dead": len(table) - alive,
        }  # fmt: skip
        return data | {"card": self.card.compute() if state["open"] else None}

    def _picked(self) -> dict[str, Any]:
        row = self.features.table.loc[self._state["latent"]]
        always = row.always_fire if row.label else 0.0
        return {
            "latent": self._state["latent"], "label": row.label, "f1": row.f1, "density": row.density,
            "base": always / (2 - always),  # always-fire F1 is 2 p / (1 + p)
        }  # fmt: skip

    def _widest(self) -> str:
        state = self._state
        if state["query"]:
            return f"the search for {state['query']!r}"
        if state["starred"]:
            return "only those with a star"
        return "the label" if state["label"] else "the density range"

    def render(self, data: dict[str, Any]) -> str:
        card = f'<div data-scope="card">{feature_card(data["card"])}</div>' if data["card"] else ""
        return f"<div>{feature_browser(data)}{card}</div>"

    def static(self, data: dict[str, Any]) -> str:
        return feature_browser(data) + (self.card.static(data["card"]) if data["card"] else "")

    def act(self, name: str, arg: Any) -> None:
        state = self._state
        if name == "card/save":  # only what is shown in the page can hand it a file
            self.send(self.card.file())
        elif name.startswith("card/"):
            self.card.act(name.removeprefix("card/"), arg)
            self.set_state(latent=self.card.state["latent"])
        elif name == "latent":
            self.pick(int(arg))
        elif name == "star" or name.startswith("note "):
            self.card.act(name, arg)
            self.draw()
        elif name == "along":
            self._along(str(arg))
        elif name == "point":
            self.pick(self._nearest(*arg))
        elif name == "key":
            self._key(str(arg))
        elif name == "open":
            self.set_state(open=not state["open"])
        elif name == "sort":
            same = state["sort"] == arg
            self.set_state(
                sort=arg, descending=not state["descending"] if same else arg not in ("latent", "label"), first=0
            )
        elif name == "page":
            self.set_state(first=max(0, state["first"] + PAGE * int(arg)))
        elif name == "clear":
            self.set_state(**FILTERS, first=0)
        elif name in ("low", "high"):
            other = "high" if name == "low" else "low"
            pick = min if name == "low" else max
            self.set_state(**{name: pick(float(arg), state[other])}, first=0)
        elif name == "save":
            self.send({"download": "features.html", "text": self.to_html()})
        else:
            self.set_state(**{name: arg}, first=0)

    def pick(self, latent: int) -> None:
        """Select a latent; an open card follows."""
        self.card.pick(latent)
        self.set_state(latent=latent)

    def _nearest(self, log_density: float, f1: float) -> int:
        """The shown latent nearest to a place of the scatter."""
        found = self.matching()
        if not len(found):
            return self._state["latent"]
        x = (np.log10(found.density) - log_density) / DECADES
        return int(found.index[np.argmin(np.square(x) + np.square(found.f1 - f1))])

    def _key(self, key: str) -> None:
        if key == "Enter":
            self.set_state(open=True)
        elif key == "s":
            self._star()
        else:
            self._step(list(self.matching().index), 1 if key == "ArrowDown" else -1)

    def _star(self) -> None:
        """Star the row that the keys are at: the selected one, or the first where that is out of sight."""
        shown = [row["latent"] for row in self.compute()["rows"]]
        if shown:
            self.pick(self._state["latent"] if self._state["latent"] in shown else shown[0])
            self.act("star", self._state["latent"])

    def _along(self, key: str) -> None:
        """In the scatter: to the next latent by density or by F1; Enter opens."""
        if key == "Enter":
            self.set_state(open=True)
            return
        column = "density" if key in ("ArrowLeft", "ArrowRight") else "f1"
        order = self.matching().sort_values(column, kind="stable").index
        self._step(list(order), 1 if key in ("ArrowRight", "ArrowUp") else -1)

    def _step(self, order: list[int], step: int) -> None:
        """Select the next latent of an order; its first where the chosen one is not in it."""
        if not order:
            return
        at = order.index(self._state["latent"]) if self._state["latent"] in order else -step
        latent = order[min(max(at + step, 0), len(order) - 1)]
        self._state["first"] = list(self.matching().index).index(latent) // PAGE * PAGE
        self.pick(latent)

    def title(self) -> str:
        return "Latents"


def _noted(notes: dict[int, dict[str, Any]], latent: int) -> dict[str, Any]:
    return {"star": False, "text": ""} | notes.get(latent, {})
