"""`LatentMap`: latents on two measured scales, a card behind each point."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..viz.card import feature_card
from ..viz.html import fixed
from ..viz.map import latent_map, placed
from ..viz.marks import family
from .card import FeatureCard
from .view import View

_ids = itertools.count()
ROOM = 0.05  # of an axis, beyond the outermost points
NAMED = 0.1  # the same where the corners have names


class LatentMap(View):
    """Two columns of a table of latents as a scatter; shape and colour follow each latent's best label.

    table: a row for each latent, by number; rows without both values are left out, and the other columns are shown
    beside the chosen latent. splits: where dotted lines part the plot, across and up. corners: what the four parts are
    called, the upper two first. bent: the columns on an asinh axis.
    State: latent, open (its card). Raises ValueError for a column that is not there or holds no number, rows that are
    no latents, and a latent without both values.
    """

    def __init__(
        self,
        features: Any,
        table: pd.DataFrame,
        x: str,
        y: str,
        *,
        title: str = "",
        latent: int | None = None,
        splits: tuple[float | None, float | None] = (None, None),
        corners: Sequence[str] = (),
        bent: Sequence[str] = (),
    ) -> None:
        self.features, self._number, self.table = features, next(_ids), _checked(features, table, x, y)
        self._x, self._y, self._bent, self._corners = x, y, tuple(bent), tuple(corners)
        self._title = title or f"{y} against {x}"
        self._splits = [
            v if v is None else placed(v, name in self._bent) for v, name in zip(splits, (x, y), strict=True)
        ]
        self._places = pd.DataFrame(
            {axis: [placed(v, axis in self._bent) for v in self.table[axis]] for axis in (x, y)}
        )
        self._places.index = self.table.index
        first = int(self.table[y].idxmax()) if latent is None else int(latent)
        self.card = FeatureCard(features, first)
        super().__init__(latent=first, open=False)

    def check(self) -> None:
        if self._state["latent"] not in self.table.index:
            raise ValueError(f"latent {self._state['latent']} has no point on this map: choose one of those drawn")

    def compute(self) -> dict[str, Any]:
        labels = self.features.table.label
        places = zip(self._places[self._x], self._places[self._y], labels[self.table.index], strict=True)
        return {
            **self._state, "id": self._number, "title": self._title, "site": self.features.coder.site.name,
            "x": self._x, "y": self._y, "bent": self._bent, "splits": self._splits, "corners": self._corners,
            "range": (self._range(self._x), self._range(self._y)),
            "points": [(float(x), float(y), family(label)) for x, y, label in places],
            "picked": self._picked(), "card": self.card.compute() if self._state["open"] else None,
        }  # fmt: skip

    def _range(self, axis: str) -> tuple[float, float]:
        low, high = self._places[axis].min(), self._places[axis].max()
        room = (NAMED if self._corners and axis == self._y else ROOM) * (high - low) or 0.5
        return float(low - room), float(high + room)

    def _picked(self) -> dict[str, Any]:
        latent = self._state["latent"]
        row, place = self.table.loc[latent], self._places.loc[latent]
        facts = [(str(name), _shown(value)) for name, value in row.items()]
        facts += [("fires at", " ".join(map(repr, self.features.table.tokens[latent][:3])) or "nothing")]
        label = self.features.table.label[latent]
        return {
            "latent": latent,
            "label": label,
            "facts": facts,
            "px": float(place.iloc[0]),
            "py": float(place.iloc[1]),
        }

    def render(self, data: dict[str, Any]) -> str:
        card = f'<div data-scope="card">{feature_card(data["card"])}</div>' if data["card"] else ""
        return f"<div>{latent_map(data)}{card}</div>"

    def static(self, data: dict[str, Any]) -> str:
        return latent_map(data) + (self.card.static(data["card"]) if data["card"] else "")

    def act(self, name: str, arg: Any) -> None:
        if name == "card/save":  # only what is shown in the page can hand it a file
            self.send(self.card.file())
        elif name.startswith("card/"):
            self.card.act(name.removeprefix("card/"), arg)
            latent = self.card.state["latent"]
            self.set_state(latent=latent if latent in self.table.index else self._state["latent"])
        elif name == "point":
            self.pick(self._nearest(*arg))
        elif name == "latent":
            self.pick(int(arg))
        elif name == "key":
            self._key(str(arg))
        elif name == "open":
            self.set_state(open=not self._state["open"])
        else:
            super().act(name, arg)

    def pick(self, latent: int) -> None:
        """Choose a latent; an open card follows."""
        if latent in self.table.index:
            self.card.pick(latent)
        self.set_state(latent=latent)

    def _nearest(self, x: float, y: float) -> int:
        spans = [high - low for low, high in (self._range(self._x), self._range(self._y))]
        apart = (self._places - [x, y]) / spans
        return int(np.square(apart).sum(axis=1).idxmin())

    def _key(self, key: str) -> None:
        if key == "Enter":
            self.set_state(open=True)
            return
        axis = self._x if key in ("ArrowLeft", "ArrowRight") else self._y
        order = list(self._places[axis].sort_values(kind="stable").index)
        step = 1 if key in ("ArrowRight", "ArrowUp") else -1
        self.pick(int(order[min(max(order.index(self._state["latent"]) + step, 0), len(order) - 1)]))

    def title(self) -> str:
        return self._title


def _checked(features: Any, table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The rows that have both values."""
    for name in (x, y):
        if name not in table or not pd.api.types.is_numeric_dtype(table[name]):
            raise ValueError(f"the table has no column {name!r} of numbers, only {', '.join(map(str, table.columns))}")
    rows = table[np.isfinite(table[[x, y]].astype(float)).all(axis=1)]
    if not len(rows):
        raise ValueError(f"no latent has both {x!r} and {y!r}")
    for latent in rows.index:
        features[latent]  # raises for one that is out of range
    return rows


def _shown(value: Any) -> str:
    return fixed(float(value)) if isinstance(value, float | np.floating) else str(value)
