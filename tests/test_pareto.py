"""`ParetoPlot` without a browser: what is shown, selected and added; and the numbers it is drawn from."""

import re

import numpy as np
import pandas as pd
import pytest

from saekit import widgets
from saekit.evals.frontier import undominated
from saekit.viz.chart import ticks
from saekit.viz.marks import shape
from saekit.viz.pareto import METRICS, SHAPES
from tests.test_viz import HOSTILE, is_harmless

# name: (variant, seed, control, L0, FVU)
ROWS = {
    "topk-16": ("topk", 0, False, 16.0, 0.20),
    "topk-32": ("topk", 0, False, 32.0, 0.10),
    "topk-32-seed1": ("topk", 1, False, 32.5, 0.11),
    "relu-32": ("relu", 0, False, 33.0, 0.15),
    "pca-16": ("pca", 0, True, 16.0, 0.40),
    "pca-32": ("pca", 0, True, 32.0, 0.30),
    "neurons-32": ("neurons", 0, True, 32.0, 0.60),
}


def table(rows=ROWS):
    made = pd.DataFrame(rows.values(), columns=["variant", "seed", "control", "l0", "fvu"])
    made = made.assign(name=list(rows), ce_recovered=1 - made.fvu / 20, dead=0.01, n=50_000.0)
    return made.assign(fvu_low=made.fvu * 0.9, fvu_high=made.fvu * 1.1)


@pytest.fixture
def plot():
    return widgets.ParetoPlot(table())


def shown(plot):
    return [point["name"] for point in plot.compute()["points"]]


def title(plot):
    return re.search(r'sk-title">([^<]*)<', plot.html)[1]


def test_what_is_shown_first(plot):
    assert set(shown(plot)) == set(ROWS) - {"topk-32-seed1"}
    assert plot.compute()["front"] == ["topk-16", "topk-32"]
    assert title(plot) == "Lowest FVU: topk-32, 0.100 at L0 32.0; the control pca-32 has 0.300"
    assert plot.state == {"x": "l0", "y": "fvu", "hidden": (), "seeds": False, "selected": None}
    assert plot.row is None


def test_seeds_variants_and_axes_are_chosen(plot):
    plot.act("seeds", True)
    assert set(shown(plot)) == set(ROWS)
    plot.act("variant", ["topk", False])
    assert set(shown(plot)) == {"relu-32", "pca-16", "pca-32", "neurons-32"}
    assert title(plot).startswith("Lowest FVU: relu-32, 0.150 at L0 33.0")
    plot.act("variant", ["topk", True])
    plot.act("y", "ce_recovered")
    assert title(plot).startswith("Highest CE recovered: topk-32, 0.995")
    assert plot.compute()["points"][0]["low"] is None  # no interval is known for it here


def test_a_click_selects_and_selects_no_more(plot):
    plot.act("selected", "relu-32")
    assert plot.row.fvu == 0.15
    assert title(plot) == "relu-32: FVU 0.150 at L0 33.0; the control pca-32 has 0.300"
    plot.act("selected", "relu-32")
    assert plot.row is None


def test_a_click_beside_the_points_takes_the_nearest(plot):
    for corner, name in (
        ((0.0, 0.0), "topk-16"),
        ((0.0, 0.7), "pca-16"),
        ((1.0, 0.0), "topk-32"),
        ((1.0, 1.0), "neurons-32"),
    ):
        plot.act("at", list(corner))
        assert plot.state["selected"] == name


def test_the_control_spends_no_more(plot):
    plot.act("selected", "topk-16")
    assert plot.compute()["beside"]["name"] == "pca-16"
    plot.act("selected", "pca-32")
    assert plot.compute()["beside"]["name"] == "pca-16"  # not itself


def test_a_control_that_is_as_good_is_said():
    rows = ROWS | {"pca-32": ("pca", 0, True, 32.0, 0.05)}
    assert title(widgets.ParetoPlot(table(rows))).endswith("; the control pca-32 does as well or better: 0.050")


def test_a_new_coder_is_a_star(plot):
    plot.add({"name": "mine", "variant": "topk", "l0": 24.0, "fvu": 0.12})
    stars = [point["name"] for point in plot.compute()["points"] if point["look"]["star"]]
    assert stars == [plot.state["selected"]] == ["mine"]
    assert plot.compute()["front"] == ["topk-16", "mine", "topk-32"]
    plot.add({"name": "mine", "variant": "own", "l0": 24.0, "fvu": 0.5})
    assert len(plot.table) == len(ROWS) + 1
    assert plot.row.variant == "own"
    before = plot.html
    with pytest.raises(ValueError, match="two columns"):
        plot.add({"name": "half", "l0": 3.0})
    assert (plot.html, len(plot.table)) == (before, len(ROWS) + 1)


def test_bad_input_is_named(plot):
    with pytest.raises(ValueError, match="the table is empty"):
        widgets.ParetoPlot(table().iloc[:0])
    with pytest.raises(ValueError, match="no column 'name'"):
        widgets.ParetoPlot(table().drop(columns="name"))
    with pytest.raises(ValueError, match="two rows are called 'topk-16'"):
        widgets.ParetoPlot(pd.concat([table(), table()[:1]]))
    for bad, said in (({"y": "kl"}, "y='kl'"), ({"selected": "x"}, "no coder"), ({"hidden": ("q",)}, "hidden='q'")):
        before = plot.state
        with pytest.raises(ValueError, match=said):
            plot.set_state(**bad)
        assert plot.state == before


def test_nothing_shown_and_one_point(plot):
    plot.set_state(hidden=("topk", "relu", "pca", "neurons"))
    assert "Nothing is shown" in plot.html
    one = widgets.ParetoPlot(table()[:1])
    assert shown(one) == ["topk-16"]
    assert "nan" not in one.html.lower()


def test_a_metric_that_is_missing_leaves_a_point_out():
    rows = table()
    rows.loc[0, "fvu"] = np.nan
    assert "topk-16" not in shown(widgets.ParetoPlot(rows))


@pytest.mark.parametrize("token", HOSTILE[:-1])
def test_hostile_names_are_text(token):
    rows = table().assign(name=lambda t: token + t.name, variant=lambda t: token + t.variant)
    plot = widgets.ParetoPlot(rows)
    plot.act("selected", token + "topk-16")
    plot.add({"name": token, "variant": token, "l0": 1.0, "fvu": 1.0})
    assert is_harmless(plot.html)
    assert is_harmless(plot.to_html())


def test_the_front_by_hand():
    assert undominated([1, 2, 3, 2, 3], [3, 2, 1, 3, 1]) == [True, True, True, False, True]
    assert undominated([], []) == []


@pytest.mark.parametrize(
    ("low", "high", "log", "wanted"),
    [
        (0.0, 1.0, False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.957, 0.993, False, [0.96, 0.97, 0.98, 0.99]),
        (1.0, 1000.0, True, [1, 10, 100, 1000]),
        (14.0, 40.0, True, [15, 20, 30]),
    ],
)
def test_ticks_are_round(low, high, log, wanted):
    assert ticks(low, high, log) == pytest.approx(wanted)


def test_every_marker_has_a_shape_of_its_own():
    assert len({shape(kind, 5) for kind in (*SHAPES, "cross", "star")}) == len(SHAPES) + 2
    assert all(metric.shown(float("nan")) == "–" for metric in METRICS.values())
