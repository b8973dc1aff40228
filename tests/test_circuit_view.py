"""`CircuitView` without a browser: what is shown, pinned, pruned, grouped, changed, taken back and saved."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
import torch
from graphs import layered
from scipy.sparse import csr_array
from transcoders import per_layer

import saekit as sk
from saekit import widgets
from saekit.circuits import Graph
from saekit.circuits.intervene import intervene
from saekit.circuits.linear import run
from saekit.circuits.supernodes import between
from saekit.viz.waterfall import named_parts
from saekit.widgets.wiring import Wiring, strongest
from tests.test_viz import HOSTILE, is_harmless

SEEDS = (0, 1, 2, 3)


@pytest.fixture
def view():
    return widgets.CircuitView(layered(1, layers=3, tokens=6, latents=3))


def latents(view, n=None):
    return [node["id"] for node in view.compute()["nodes"] if node["kind"] == "latent"][:n]


def title(view):
    return re.search(r'sk-title">([^<]*)<', view.html)[1]


def summed(graph: Graph) -> Graph:
    """The same graph as if positions had been summed: no positions, every node once."""
    nodes = graph.nodes.assign(pos=-1, index=np.arange(len(graph)))
    return replace(graph, nodes=nodes, about={"sites": [f"resid.{i}" for i in range(9)]})


# -- what is shown


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_kept_is_what_prune_keeps(seed: int):
    graph = layered(seed, tokens=6)
    view = widgets.CircuitView(graph)
    for node, edge in ((0.5, 0.5), (0.8, 0.9), (1.0, 1.0)):
        view.set_state(node=node, edge=edge)
        data, pruned = view.compute(), graph.prune(node, edge)
        key = ["kind", "layer", "pos", "index"]
        mine = graph.nodes.iloc[[n["id"] for n in data["nodes"]]][key]
        theirs = pruned.nodes[pruned.nodes["kind"].isin(["token", "latent", "error", "logit"])][key]
        assert set(mine.itertuples(index=False, name=None)) == set(theirs.itertuples(index=False, name=None))
        assert data["kept"] == pruned.nodes["kind"].isin(["latent", "error"]).sum()


def test_every_edge_is_signed_and_runs_up_the_picture(view):
    weights = view.graph.weights.toarray()
    for edge in view.compute()["edges"]:
        assert edge["weight"] == pytest.approx(weights[edge["target"], edge["source"]])
    places = {m[1]: float(m[2]) for m in re.finditer(r'data-id="(\d+)".*?translate\([\d.]+ ([\d.]+)\)', view.html)}
    ends = re.findall(r'<path class="e [^"]*" data-of="(\d+) (\d+)"', view.html)
    assert len(ends) == len(view.compute()["edges"])
    assert all(places[source] > places[target] for source, target in ends)


def test_no_two_nodes_share_a_place(view):
    view.set_state(node=1.0, edge=1.0)
    places = re.findall(r'data-id="[^"]+".*?translate\(([\d.]+) ([\d.]+)\)', view.html)
    assert len({*places}) == len(places) == len(view.compute()["nodes"])


def test_a_node_names_what_hangs_on_it_and_where_keys_lead(view):
    data = view.compute()
    for node, near, to in re.findall(r'data-id="(\w+)" data-of="([^"]*)" data-to="([^"]*)"', view.html):
        edges = [e for e in data["edges"] if int(node) in (e["source"], e["target"])]
        assert {*map(int, near.split())} == {int(node)} | {e[end] for e in edges for end in ("source", "target")}
        up, down, left, right = to.split()
        for way, mine, other in ((up, "source", "target"), (down, "target", "source")):
            best = max((e for e in edges if e[mine] == int(node)), key=lambda e: e["share"], default=None)
            assert way == ("-" if best is None else str(best[other]))
        for way in (left, right):
            same = [n["level"] for n in data["nodes"] if str(n["id"]) in (node, way)]
            assert way == "-" or (len(same) == 2 and same[0] == same[1])


def test_many_nodes_are_cut_to_the_strongest():
    graph = layered(0, layers=3, tokens=8, latents=6)
    small = strongest(graph, 40)
    kind = small.nodes["kind"].isin(["latent", "error"])
    assert kind.sum() == 40
    np.testing.assert_allclose(small.weights.sum(1) + small.rest, small.totals, atol=1e-9)
    size = np.sort(graph.influence()[graph.nodes["kind"].isin(["latent", "error"])])
    keys = ["kind", "layer", "pos", "index"]
    weakest = graph.nodes.assign(i=graph.influence()).merge(small.nodes[kind][keys], on=keys)["i"].min()
    assert weakest == pytest.approx(size[-40])
    assert strongest(graph, 10_000) is graph


# -- the waterfall


@pytest.mark.parametrize("seed", SEEDS)
def test_every_row_sums_to_its_total(seed: int):
    graph = layered(seed)
    pruned = graph.prune(0.6, 0.7)
    for one in (graph, pruned):
        view = widgets.CircuitView(one)
        kept = view._kept()
        for i in np.flatnonzero(one.expanded):
            parts, shares = view._wiring.parts([int(i)], kept, {})
            sign = np.sign(one.totals[i])
            assert sum(p["value"] for p in parts) == pytest.approx(sign * 100 if shares else one.totals[i], abs=1e-6)
            assert sum(p["value"] for p in named_parts(parts)) == pytest.approx(sum(p["value"] for p in parts))


def test_the_waterfall_says_its_sum_and_what_is_pale(view):
    view.set_state(node=0.4, edge=0.4)
    shown = re.search(r'class="sk-num tot">([^<]*)<', view.html)[1]
    assert shown.lstrip("\u2212") == "100.0"
    pinned = view.compute()["pinned"]
    edges = {e["source"] for e in view.compute()["edges"] if e["target"] == pinned["id"]}
    named = {view._wiring.called(i) for i in edges}
    assert all(part["plain"] or part["pale"] == (part["name"] not in named) for part in pinned["parts"])
    assert "position" in {part["name"] for part in pinned["parts"] if part["plain"]}


def test_a_row_that_nearly_cancels_is_not_given_in_per_cent():
    graph = layered(2)
    last = len(graph) - 1
    dense, totals = graph.weights.toarray(), graph.totals.copy()
    dense[last, 0] -= totals[last] - 1e-6
    totals[last] = dense[last].sum()
    view = widgets.CircuitView(replace(graph, weights=csr_array(dense), totals=totals))
    view.set_state(pin=last)
    assert not view.compute()["pinned"]["shares"]
    assert "units of the logit" in view.html


# -- what the kept part can do


@pytest.mark.parametrize("seed", SEEDS)
def test_the_whole_graph_is_faithful_and_nothing_is_not(seed: int):
    view = widgets.CircuitView(layered(seed))
    view.set_state(node=1.0, edge=1.0)
    data = view.compute()
    assert data["faithfulness"] == pytest.approx(1)
    assert data["left"] == pytest.approx(0, abs=1e-9)
    wiring = view._wiring
    nothing = wiring.kept(1.0, 1.0, wiring.prunable)
    found = wiring.alone(nothing, view._likeliest)
    assert found["faithfulness"] == pytest.approx(0, abs=1e-9)
    assert found["random"] == pytest.approx(0, abs=1e-9)
    assert found["left"] == pytest.approx(1)


def test_faithfulness_by_hand(view):
    """One row after the other, in plain Python."""
    view.set_state(node=0.6, edge=0.6)
    graph, kept, target = view.graph, view._kept(), view._likeliest
    kind = graph.nodes["kind"].to_numpy()

    def value(there, edge):
        share, z = np.ones(len(graph)), np.zeros(len(graph))
        for t in range(len(graph)):
            z[t] = sum(graph.weights[t, s] * share[s] for s in range(t) if edge(t, s))
            if kind[t] in ("latent", "error"):
                share[t] = there[t] * (z[t] / graph.totals[t] if kind[t] == "latent" and graph.totals[t] else 1)
        return z[target]

    base = value(np.zeros(len(graph)), lambda t, s: True)
    plain = {"bias", "bos", "position"}
    mine = value(kept.nodes, lambda t, s: kind[s] in plain or (t, s) in kept.edges)
    want = (mine - base) / (graph.totals[target] - base)
    assert view.compute()["faithfulness"] == pytest.approx(want)


def test_random_circuits_have_as_many_latents_in_each_layer(view):
    kept = view._kept()
    there, wiring = view._wiring._random(kept), view._wiring
    for layer in range(3):
        here = (wiring.kind == "latent") & (wiring.layer == layer)
        assert (there[here].sum(0) == kept.nodes[here].sum()).all()
    errors = wiring.kind == "error"
    assert (there[errors] == kept.nodes[errors][:, None]).all()
    assert not there[wiring.kind == "token"].any()


def test_a_linear_run_doubles_a_column_of_direct_effects():
    graph = layered(0, layers=1)  # nothing between a latent and a logit
    node = int(np.flatnonzero(graph.nodes["kind"] == "latent")[0])
    held = np.full((len(graph), 2), np.nan)
    held[node, 0] = 2.0
    z = run(graph, held)
    logits = (graph.nodes["kind"] == "logit").to_numpy()
    np.testing.assert_allclose((z[:, 0] - z[:, 1])[logits], graph.weights[:, [node]].toarray()[logits, 0], atol=1e-12)
    np.testing.assert_allclose(z[:, 1], graph.totals, atol=1e-12)


# -- state


def test_undo_takes_back_what_was_done_in_order(view):
    one, two, three = latents(view, 3)
    pictures = [view.html]
    for act in (("errors", False), ("node", 55), ("remove", str(one)), ("select", str(two)), ("select", str(three)),
                ("key", "g"), ("change", "0"), ("suggest", "")):  # fmt: skip
        view.act(*act)
        pictures.append(view.html)
    states = []
    while view.compute()["undo"]:
        states.append(view.state)
        view.act("undo", "")
    assert len(states) == 6
    assert view.html == pictures[0]
    assert view.state["errors"] and not view.state["gone"] and not view.state["groups"] and not view.state["changes"]
    view.undo()  # nothing left
    assert view.html == pictures[0]


def test_one_drag_of_a_slider_is_one_step(view):
    before = view.state["node"]
    for percent in (70, 60, 50):
        view.act("node", percent)
    view.act("edge", 60)
    view.act("undo", "")
    assert (view.state["node"], view.state["edge"]) == (0.5, 0.8)
    view.act("undo", "")
    assert view.state["node"] == before


@pytest.mark.parametrize(
    ("bad", "says"),
    [({"node": 1.2}, "node=1.2"), ({"edge": -1}, "edge=-1"), ({"pin": 10_000}, "10000"), ({"pin": "g3"}, "no group"),
     ({"gone": (0,)}, "gone"), ({"changes": {0: 1.0}}, "changes"), ({"wrong": 1}, "no setting"),
     ({"groups": ({"name": "a", "nodes": (1,)},)}, "groups")],
)  # fmt: skip
def test_what_is_out_of_range_is_named_and_changes_nothing(view, bad, says):
    before, html = view.state, view.html
    with pytest.raises(ValueError, match=re.escape(says)):
        view.set_state(**bad)
    assert (view.state, view.html) == (before, html)
    assert not view.compute()["undo"]


def test_a_factor_that_is_no_number_is_refused(view):
    with pytest.raises(ValueError, match="finite"):
        view.set_state(changes={latents(view)[0]: float("nan")})


def test_a_graph_without_a_target_is_refused():
    graph = layered(0)
    keep = (graph.nodes["kind"] != "logit").to_numpy()
    cut = replace(graph, nodes=graph.nodes[keep].reset_index(drop=True), weights=graph.weights[keep][:, keep],
                  totals=graph.totals[keep], rest=graph.rest[keep])  # fmt: skip
    with pytest.raises(ValueError, match="no logit"):
        widgets.CircuitView(cut)


def test_keys_remove_select_group_and_let_go(view):
    one, two, three = latents(view, 3)
    view.act("key", ["Delete", str(one)])
    assert one not in latents(view)
    assert one in view.state["gone"]
    view.act("key", ["z", str(two)])
    assert one in latents(view)
    with pytest.raises(ValueError, match="0 latents are selected"):
        view.act("key", ["g", str(one)])
    for i in (one, two, three, three):
        view.act("select", str(i))
    assert view.state["picked"] == (one, two)
    view.act("key", ["Escape", str(one)])
    assert view.state["picked"] == ()
    view.act("pin", str(two))
    assert view.compute()["pinned"]["id"] == two
    view.act("key", ["Escape", str(one)])
    assert view.state["pin"] == view._likeliest
    token = next(n["id"] for n in view.compute()["nodes"] if n["kind"] == "token")
    view.act("key", ["Delete", str(token)])
    assert view.state["gone"] == ()


def test_errors_can_be_hidden(view):
    assert any(n["kind"] == "error" for n in view.compute()["nodes"])
    view.act("errors", False)
    assert not any(n["kind"] == "error" for n in view.compute()["nodes"])


def test_a_pinned_node_that_is_pruned_gives_way_to_the_target(view):
    view.act("pin", str(latents(view)[0]))
    view.act("key", ["Delete", str(view.state["pin"])])
    assert view.compute()["at"] == view._likeliest


# -- groups


@pytest.mark.parametrize("seed", SEEDS)
def test_edges_of_groups_are_those_between_supernodes(seed: int):
    view = widgets.CircuitView(layered(seed, tokens=6))
    view.set_state(node=1.0, edge=1.0)
    chosen = latents(view)
    view.set_state(groups=({"name": "a", "nodes": tuple(chosen[:3])}, {"name": "b", "nodes": tuple(chosen[5:7])}))
    ids = {i: "g0" if i in chosen[:3] else "g1" if i in chosen[5:7] else i for i in range(len(view.graph))}
    groups = {}
    for node, i in ids.items():
        groups.setdefault(str(i), []).append(node)
    want = {(s, t): w for s, t, w in between(view.graph, groups).itertuples(index=False, name=None)}
    for edge in view.compute()["edges"]:
        assert edge["weight"] == pytest.approx(want[str(edge["source"]), str(edge["target"])])
    assert {"g0", "g1"} <= {node["id"] for node in view.compute()["nodes"]}
    assert not {*chosen[:3]} & {node["id"] for node in view.compute()["nodes"]}


def test_a_group_is_made_named_pinned_and_taken_apart(view):
    one, two, three = latents(view, 3)
    for i in (one, two):
        view.act("select", str(i))
    view.act("key", "g")
    assert view.state["groups"] == ({"name": "group 1", "nodes": (one, two)},)
    view.act("rename", "the name <copied>")
    assert "the name &lt;copied&gt;" in view.html
    parts = view.compute()["pinned"]["parts"]
    wiring, kept = view._wiring, view._kept()
    single = [sum(p["value"] for p in wiring.parts([i], kept, {})[0]) for i in (one, two)]
    assert sum(p["value"] for p in parts) == pytest.approx(np.mean(single))
    view.act("select", "g0")
    view.act("select", str(three))
    view.act("key", ["g", "g0"])
    assert view.state["groups"][0]["nodes"] == (one, two, three)
    view.act("key", ["u", "g0"])
    assert view.state["groups"] == ()
    assert view.state["pin"] == one


def test_suggested_groups_are_those_of_the_package(view):
    view.act("suggest", "")
    groups = view.state["groups"]
    assert groups and all(len(g["nodes"]) > 1 for g in groups)
    assert {i for g in groups for i in g["nodes"]} <= {i for i, k in enumerate(view._wiring.kind) if k == "latent"}
    assert re.search(r'aria-pressed="true" data-act="suggest"', view.html)
    view.act("suggest", "")
    assert view.state["groups"] == ()


# -- changes


def test_changes_without_a_model_are_predicted_and_say_so(view):
    node = latents(view)[0]
    view.act("pin", str(node))
    view.act("change", "0")
    data = view.compute()
    assert "linear prediction" in data["how"]
    moved = view.graph.predict({node: 0.0}, constrained=False)
    logits = np.flatnonzero(view.graph.nodes["kind"] == "logit")
    p = view.graph.nodes["probability"].to_numpy()[logits]
    grown = np.append(p * np.exp(moved[logits]), 1 - p.sum())
    grown /= grown.sum()
    rows = {row["name"]: row for row in data["logits"]}
    assert rows["others"]["after"] == pytest.approx(grown[-1])
    assert sum(row["before"] for row in data["logits"]) == pytest.approx(1)
    assert sum(row["after"] for row in data["logits"]) == pytest.approx(1)
    view.act("change", "0")
    assert view.state["changes"] == {}
    view.act("change", "-1")
    view.act("clear", "")
    assert view.state["changes"] == {}


@pytest.fixture(scope="module")
def traced(tiny_models):
    model = tiny_models["gpt2"]
    return model, sk.trace(model, per_layer(model), "def f(x): return x")


def test_changes_with_a_model_are_run(traced):
    model, graph = traced
    view = widgets.CircuitView(graph, model)
    node = latents(view)[0]
    view.act("pin", str(node))
    view.act("change", "-1")
    data = view.compute()
    assert "run by the model" in data["how"]
    outcome = intervene(view.graph, model, {node: -1.0}, constrained=False)
    for side, z in (("before", outcome.logits_before), ("after", outcome.logits_after)):
        p = torch.tensor(z).softmax(0).numpy()
        targets = view.graph.nodes["index"][view.graph.nodes["kind"] == "logit"]
        shown = [row[side] for row in data["logits"] if row["name"] != "others"]
        assert all(np.abs(p[targets] - value).min() < 1e-6 for value in shown)
        assert sum(row[side] for row in data["logits"]) == pytest.approx(1)
    assert [row["before"] for row in data["logits"]] != [row["after"] for row in data["logits"]]


def test_faithfulness_is_run_by_the_model(traced):
    model, graph = traced
    view = widgets.CircuitView(graph, model)
    assert "Run the model" in view.html
    found = view.measure()
    assert view.compute()["measured"]["circuit"] == found["kept"]["circuit"]
    assert "run by the model, errors kept" in view.html
    view.act("errors", False)  # another picture
    assert view.compute()["measured"]["circuit"] is None
    with pytest.raises(ValueError, match="give the model"):
        widgets.CircuitView(graph).measure()


# -- without positions


def test_positions_that_were_summed_give_one_column():
    view = widgets.CircuitView(summed(layered(0, layers=2, tokens=4)))
    data = view.compute()
    assert data["columns"] == [""]
    assert data["rows"][-3:] == ["Resid.0", "Resid.1", "Logits"]
    view.set_state(node=1.0)
    places = re.findall(r'data-id="[^"]+".*?translate\(([\d.]+) ([\d.]+)\)', view.html)
    assert len({*places}) == len(places)
    assert not view._wiring.leads_through(view._wiring.kept(0.0, 0.0, np.zeros(len(view.graph), bool)))


# -- states, files, text


def test_pruned_too_far_says_so_with_a_way_back(view):
    view.set_state(node=0.0, edge=0.0)
    assert title(view).startswith("Pruned too far")
    assert "No path from the input to the logits is left" in view.html
    view.act("reset", "")
    assert "No path" not in view.html


def test_the_title_is_true_of_what_is_shown(view):
    view.set_state(node=0.7)
    data = view.compute()
    kept = sum(n["kind"] in ("latent", "error") for n in data["nodes"])
    assert title(view).startswith(f"{kept} of {data['all']} nodes")


def test_files_need_no_network_and_hold_what_is_shown(view, tmp_path):
    page = view.to_html()
    assert "http" not in page and "url(" not in page
    assert "webs(document.body)" in page
    assert len(page) < 300_000
    svg = ET.fromstring(view.to_svg())
    nodes = [e for e in svg.iter() if e.get("data-id")]
    assert len(nodes) == len(view.compute()["nodes"])
    assert "var(" not in view.to_svg() and "light-dark" not in view.to_svg()
    file = view.file("JSON")
    assert file["download"] == "circuit.json"
    content = json.loads(file["text"])
    kinds = [node["feature_type"] for node in content["nodes"]]
    assert kinds.count("cross layer transcoder") == len(latents(view))
    back = sk.Graph.load(view.to_neuronpedia(tmp_path / "g.json"))
    np.testing.assert_allclose(back.weights.sum(1) + back.rest, back.totals, atol=1e-9)


def test_groups_are_in_the_json(view):
    view.set_state(groups=({"name": "two", "nodes": tuple(latents(view, 2))},))
    content = json.loads(view.file("JSON")["text"])
    assert [(label, len(ids)) for label, *ids in content["qParams"]["supernodes"]] == [("two", 2)]


@pytest.mark.parametrize("text", [text for text in HOSTILE if text != "\ud800"])  # which pandas cannot hold
def test_text_from_data_is_text(text: str):
    graph = layered(0)
    label = graph.nodes["label"].where(graph.nodes["kind"].isin(["bias", "bos", "position"]), text)
    tokens = (text,) * len(graph.tokens)
    view = widgets.CircuitView(replace(graph, nodes=graph.nodes.assign(label=label), tokens=tokens))
    first = latents(view, 2)
    view.set_state(groups=({"name": text, "nodes": tuple(first)},), pin="g0", changes=dict.fromkeys(first, 2.0))
    for html in (view.html, view.static(view.compute()), view.to_svg()):
        assert is_harmless(html)
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f\x00\x1b]", html)


def test_a_latent_is_called_by_its_features(tiny_models, tiny_corpus):
    model = tiny_models["gpt2"]
    coders = per_layer(model)
    index = sk.Features.collect(model, coders.banks[0], tiny_corpus, progress=False)
    graph = sk.trace(model, coders, "def f(x): return x")
    view = widgets.CircuitView(graph, features=[index])
    node = next(i for i in latents(view) if view._wiring.layer[i] == 0)
    view.act("pin", str(node))
    latent = int(view.graph.nodes["index"][node])
    assert f"Open latent {latent}" in view.html
    view.act("open", "")
    assert view.compute()["card"]["latent"] == latent
    assert 'data-scope="card"' in view.html
    view.act("card/tab", "labels")
    assert view._card.state["tab"] == "labels"
    for wrong, says in ((index, "give a list"), ([None, index], r"features\[1\] is of")):
        with pytest.raises(ValueError, match=says):
            widgets.CircuitView(graph, features=wrong)
    other = next((i for i in latents(view) if view._wiring.layer[i] == 1), None)
    if other is not None:
        view.act("pin", str(other))
        assert view.compute()["card"] is None


def test_names_come_from_the_wiring():
    wiring = Wiring(layered(0))
    assert wiring.said(int(np.flatnonzero(wiring.kind == "token")[1])).startswith("token 2, ")
    assert "layer 0" in wiring.place(int(np.flatnonzero(wiring.kind == "error")[0]))
