"""`ParetoPlot`: coders on two scales, with controls; a click selects one."""

import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..evals.frontier import undominated
from ..viz.pareto import METRICS, nearest, pareto
from .view import View

_ids = itertools.count()
SPENDS = 1.1  # a control may cost this much more than the coder it stands beside


class ParetoPlot(View):
    """A table of `evals.frontier` as a plot: one marker for each variant, controls as crosses, a line for the best.

    State: x and y (columns of the table), hidden (variants), seeds (whether all seeds are shown), selected (a name, or
    None). `.add(row)` puts one more coder in as a star; `.row` is the selected row. Raises ValueError for a table
    without rows, names or two metrics, and for a name or column that is not there.
    """

    def __init__(self, table: pd.DataFrame, *, x: str = "l0", y: str = "fvu") -> None:
        self.table, self._added, self._number = _checked(table), set(), next(_ids)
        super().__init__(x=x, y=y, hidden=(), seeds=False, selected=None)
        self.check()

    def add(self, row: Mapping[str, Any]) -> None:
        """Put a coder in, as `evals.point` or a row of another table gives it; of two with one name the new one stays.

        It is drawn as a star and selected.
        """
        row = dict(row)
        kept = self.table[self.table.name != row.get("name")]
        fresh = _checked(pd.DataFrame([row]))
        self.table = pd.concat([kept, fresh], ignore_index=True)
        self._added.add(str(row["name"]))
        self.set_state(selected=str(row["name"]))

    @property
    def row(self) -> pd.Series | None:
        """The selected row of the table."""
        selected = self._state["selected"]
        return None if selected is None else self.table[self.table.name == selected].iloc[0]

    @property
    def metrics(self) -> list[str]:
        """The columns that can be an axis."""
        return [name for name in METRICS if name in self.table and self.table[name].notna().any()]

    def check(self) -> None:
        state = self._state
        for axis in ("x", "y"):
            if state[axis] not in self.metrics:
                raise ValueError(f"{axis}={state[axis]!r}: choose one of {', '.join(self.metrics)}")
        if state["selected"] not in (None, *self.table.name):
            raise ValueError(f"selected={state['selected']!r}: no coder of this table has that name")
        if unknown := {*state["hidden"]} - {*self.table.variant}:
            raise ValueError(f"hidden={sorted(unknown)[0]!r}: there are {', '.join(self.table.variant.unique())}")

    def compute(self) -> dict[str, Any]:
        state, table = self._state, self.table
        looks = self._looks()
        shown = table[~table.variant.isin(state["hidden"]) & (state["seeds"] | (table.seed == 0))]
        shown = shown[shown[[state["x"], state["y"]]].notna().all(axis=1)].sort_values(state["x"], kind="stable")
        points = [self._point(row, looks) for row in shown.to_dict("records")]
        best = self._best(points)
        names, hidden = [p["name"] for p in points], {*state["hidden"]}
        return {
            "id": self._number, **state, "metrics": self.metrics, "points": points, "front": self._front(points),
            "best": best, "beside": best and self._beside(best, points), "several_seeds": bool((table.seed > 0).any()),
            "variants": [{"name": v, "shown": v not in hidden, "look": look} for v, look in looks.items()],
            "n": (table.n.min(), table.n.max()) if "n" in table else (0, 0),
            "coders": int((~table.control).sum()), "controls": int(table.control.sum()),
            "stop": state["selected"] if state["selected"] in names else next(iter(names), None),
        }  # fmt: skip

    def _looks(self) -> dict[str, dict[str, Any]]:
        """How each variant is drawn; the place of a variant among those that are no controls gives shape and colour."""
        first = self.table.drop_duplicates("variant").set_index("variant")
        added = set(self.table[self.table.name.isin(self._added)].variant)
        places = itertools.count()
        return {
            str(variant): {
                "control": bool(row.control),
                "star": star,
                "place": -1 if row.control or star else next(places),
            }
            for variant, row in first.iterrows()
            for star in [variant in added and not row.control and not self._shipped(variant)]
        }

    def _shipped(self, variant: str) -> bool:
        """Whether a variant has points that were not added."""
        return not set(self.table[self.table.variant == variant].name) <= self._added

    def _point(self, row: dict[str, Any], looks: dict[str, dict[str, Any]]) -> dict[str, Any]:
        y, star = self._state["y"], row["name"] in self._added
        low, high = (row.get(f"{y}_{end}") for end in ("low", "high"))
        known = pd.notna(low) and pd.notna(high)
        return {
            "name": row["name"], "short": row["name"].rpartition("/")[2][:40], "x": row[self._state["x"]], "y": row[y],
            "low": low if known else None, "high": high if known else None,
            "look": looks[row["variant"]] | {"star": star and not row["control"]},
            "values": {k: v for k, v in row.items() if isinstance(v, float) and v == v},
        }  # fmt: skip

    def _front(self, points: list[dict[str, Any]]) -> list[str]:
        x, y = (1 if METRICS[self._state[axis]].less else -1 for axis in ("x", "y"))
        mine = [p for p in points if not p["look"]["control"]]
        keep = undominated([x * p["x"] for p in mine], [y * p["y"] for p in mine])
        return [p["name"] for p, kept in zip(mine, keep, strict=True) if kept]

    def _best(self, points: list[dict[str, Any]]) -> dict[str, Any] | None:
        """The selected point; else the coder that is best upwards."""
        if selected := [p for p in points if p["name"] == self._state["selected"]]:
            return selected[0]
        pick = min if METRICS[self._state["y"]].less else max
        return pick((p for p in points if not p["look"]["control"]), key=lambda p: p["y"], default=None)

    def _beside(self, best: dict[str, Any], points: list[dict[str, Any]]) -> dict[str, Any] | None:
        """The best control that spends no more; none beside a control."""
        x, y = METRICS[self._state["x"]], METRICS[self._state["y"]]
        controls = [p for p in points if p["look"]["control"] and p["name"] != best["name"]]
        if x.less:
            controls = [p for p in controls if p["x"] <= SPENDS * best["x"]]
        return (min if y.less else max)(controls, key=lambda p: p["y"], default=None)

    def render(self, data: dict[str, Any]) -> str:
        return pareto(data)

    def act(self, name: str, arg: Any) -> None:
        if name == "variant":
            variant, shown = arg
            others = tuple(v for v in self._state["hidden"] if v != variant)
            self.set_state(hidden=others if shown else (*others, variant))
        elif name == "selected":
            self.set_state(selected=None if arg == self._state["selected"] else arg)
        elif name == "at":
            self.set_state(selected=nearest(self.compute(), *arg))
        elif name == "seeds":
            self.set_state(seeds=bool(arg))
        else:
            super().act(name, arg)

    def title(self) -> str:
        return "Sparsity against fidelity"


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    """A copy with every column the plot reads."""
    if not len(table):
        raise ValueError("the table is empty: give the rows of evals.frontier")
    if "name" not in table:
        raise ValueError(f"the table has no column 'name', only {', '.join(map(str, table.columns))}")
    if sum(name in table for name in METRICS) < 2:
        raise ValueError(f"the table needs two columns of {', '.join(METRICS)} to draw")
    table = table.assign(name=table.name.astype(str))
    if (twice := table.name[table.name.duplicated()]).size:
        raise ValueError(f"two rows are called {twice.iloc[0]!r}; names tell the points apart")
    variant = table.variant if "variant" in table else table.name
    seed, control = (table.get(name, pd.Series(0, table.index)).fillna(0) for name in ("seed", "control"))
    numbers = {name: table[name].astype(float) for name in METRICS if name in table}
    return table.assign(variant=variant.astype(str), seed=seed.astype(int), control=control.astype(bool), **numbers)
