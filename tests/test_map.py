"""`LatentMap` without a browser: which points there are, how one is chosen, and what stands beside it."""

import re

import numpy as np
import pandas as pd
import pytest

import saekit as sk
from saekit import widgets
from saekit.viz.map import placed
from tests.test_features import made
from tests.test_viz import HOSTILE, is_harmless


@pytest.fixture(scope="module")
def features(tiny_models, tiny_corpus, tmp_path_factory):
    return sk.Features.collect(
        tiny_models["gpt2"], made(), tiny_corpus, path=tmp_path_factory.mktemp("index"), progress=False
    )


def table(n=20):
    rng = np.random.default_rng(0)
    return pd.DataFrame({"read": rng.random(n), "wrote": rng.normal(size=n) * 50, "kind": "promoter"}, range(n))


@pytest.fixture
def shown(features):
    return widgets.LatentMap(features, table(), "read", "wrote", bent=["wrote"], splits=(0.5, 10.0))


def test_points_and_what_is_chosen_first(shown):
    data = shown.compute()
    assert len(data["points"]) == 20
    assert shown.state == {"latent": int(table().wrote.idxmax()), "open": False}
    assert [y for _, y, _ in data["points"]] == pytest.approx(np.arcsinh(table().wrote).tolist())
    assert [x for x, _, _ in data["points"]] == pytest.approx(table().read.tolist())
    assert data["splits"] == [0.5, pytest.approx(np.arcsinh(10.0))]
    assert re.search(r'sk-title">([^<]*)<', shown.html)[1] == "wrote against read"
    assert ("kind", "promoter") in data["picked"]["facts"]


def test_a_click_chooses_the_nearest(shown):
    for latent in (3, 11):
        row = table().loc[latent]
        shown.act("point", [row.read + 1e-3, placed(row.wrote, bent=True)])
        assert shown.state["latent"] == latent
        assert f"Latent {latent}<" in shown.html


def test_keys_go_along_one_axis(shown):
    across, up = (list(table()[name].sort_values().index) for name in ("read", "wrote"))
    shown.act("latent", across[4])
    shown.act("key", "ArrowRight")
    assert shown.state["latent"] == across[5]
    shown.act("key", "ArrowLeft")
    shown.act("latent", up[-1])
    shown.act("key", "ArrowUp")
    assert shown.state["latent"] == up[-1]  # the end
    shown.act("key", "ArrowDown")
    assert shown.state["latent"] == up[-2]


def test_the_card_follows_and_answers(shown):
    shown.act("key", "Enter")
    assert shown.state["open"] and 'data-scope="card"' in shown.html
    shown.act("latent", 7)
    assert shown.card.state["latent"] == 7
    shown.act("card/step", 1)
    assert shown.state["latent"] == 8
    shown.act("latent", 19)
    shown.act("card/step", 1)  # latent 20 has no point: the card shows it, the map stays
    assert (shown.card.state["latent"], shown.state["latent"]) == (20, 19)
    shown.act("open", "")
    assert "data-scope" not in shown.html and "Views of latent" not in shown.to_html()


def test_rows_without_both_values_are_left_out(features):
    rows = table()
    rows.loc[4, "read"] = np.nan
    rows.loc[5, "wrote"] = np.inf
    shown = widgets.LatentMap(features, rows, "read", "wrote", latent=1)
    assert len(shown.compute()["points"]) == 18
    before = shown.html
    with pytest.raises(ValueError, match="latent 4 has no point"):
        shown.act("latent", 4)
    assert (shown.html, shown.state["latent"], shown.card.state["latent"]) == (before, 1, 1)


def test_bad_input_is_named(features):
    for rows, x, said in (
        (table(), "density", "no column 'density' of numbers, only read, wrote, kind"),
        (table(), "kind", "no column 'kind' of numbers"),
        (table().assign(read=np.nan), "read", "no latent has both"),
        (table(65), "read", "latent 64 is not in"),
    ):
        with pytest.raises(ValueError, match=said):
            widgets.LatentMap(features, rows, x, "wrote")


def test_one_point_and_equal_values(features):
    one = widgets.LatentMap(features, table(1), "read", "wrote")
    flat = widgets.LatentMap(features, table().assign(read=0.0, wrote=0.0), "read", "wrote", bent=["wrote"])
    for shown in (one, flat):
        assert "nan" not in shown.html.lower() and len(shown.compute()["points"]) == len(shown.table)


@pytest.mark.parametrize("token", HOSTILE[:-1])
def test_hostile_names_stay_text(features, token):
    rows = table().rename(columns={"read": token}).assign(kind=token)
    shown = widgets.LatentMap(features, rows, token, "wrote", title=token, corners=[token] * 4)
    shown.act("open", "")
    assert is_harmless(shown.html) and is_harmless(shown.to_html().split("</head>")[1])
