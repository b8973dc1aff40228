"""Graphs in other tools' formats: there and back exactly, and every damaged file named.

fixtures/circuit_tracer_graphs holds graphs that circuit-tracer wrote, see fixtures/make.py; fixtures/back.py reads ours
with circuit-tracer. The schema below has the fields of Neuronpedia's graph-schema.json, in our words.
"""

import copy
import dataclasses
import gzip
import json
import os
import re
import struct
import warnings
import zlib
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path

import jsonschema
import networkx
import numpy as np
import pandas as pd
import pytest
import torch
import transcoders
from safetensors.numpy import load_file

import saekit as sk
from saekit import explain
from saekit.circuits import Graph, neuronpedia, own, read, stand_ins
from saekit.circuits.ids import cantor, names, uncantor
from tests.graphs import layered
from tests.test_features import collect, made

FIXTURES = Path(__file__).parent / "fixtures" / "circuit_tracer_graphs"


def same(a, b, weights=0.0):
    """Equal in all, weights up to `weights`; the rows add up in both."""
    pd.testing.assert_frame_equal(a.nodes, b.nodes)
    np.testing.assert_allclose((a.weights - b.weights).toarray(), 0, atol=weights)
    np.testing.assert_allclose(a.rest, b.rest, atol=1e-12 + len(a) * weights)
    assert np.array_equal(a.totals, b.totals)
    assert (a.ids, a.tokens, dict(a.model), a.bound) == (b.ids, b.tokens, dict(b.model), b.bound)
    for graph in (a, b):
        np.testing.assert_allclose(graph.weights.sum(1) + graph.rest, graph.totals, atol=1e-12)


def with_rest(graph, seed=0):
    """The graph after some edges were dropped: what they added is in `rest`."""
    keep = graph.weights.copy()
    keep.data[np.random.default_rng(seed).random(keep.nnz) < 0.3] = 0
    keep.eliminate_zeros()
    return dataclasses.replace(graph, weights=keep, rest=graph.totals - keep.sum(1), bound=0.25, about={"nodes": 9})


# -- our own


@pytest.mark.parametrize("seed", range(3))
def test_own_files_give_back_everything(tmp_path, seed):
    graph = with_rest(layered(seed))
    path = graph.save(tmp_path / "g")
    assert path.name == "g.safetensors" and [*tmp_path.iterdir()] == [path]
    coders = object()
    again = Graph.load(path, coders)
    same(graph, again)
    assert again.coders is coders and again.about == graph.about and read(path).coders is None


def test_own_files_that_are_not_whole_are_refused(tmp_path):
    path = layered().save(tmp_path / "g")
    data = path.read_bytes()
    for wrong, match in (
        (data[: len(data) // 2], "not a whole safetensors file"),
        (b"hello", "not a whole safetensors file"),
        (b"", "not a whole safetensors file"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=match):
            Graph.load(path)
    with pytest.raises(ValueError, match="there is no file"):
        Graph.load(tmp_path / "nothing")
    coder = sk.save(made(), tmp_path / "coder")
    with pytest.raises(ValueError, match=r"expected the header 'saekit_graph', found \['saekit'\]"):
        Graph.load(coder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t, w: t.pop("totals"), "'totals'"),
        (lambda t, w: t["weights"].fill_(np.nan), "'weights' holds NaN"),
        (lambda t, w: t["columns"].fill_(10**6), "indices must be < "),
        (lambda t, w: w.update(format=2), "format 2, this version reads up to 1"),
        (lambda t, w: w["kind"].pop(), "length"),
    ],
)
def test_own_files_that_are_damaged_are_refused(tmp_path, change, match):
    from safetensors.torch import save_file

    tensors, header = own.packed(layered())
    words = json.loads(header)
    change(tensors, words)
    save_file(tensors, tmp_path / "g.safetensors", {own.HEADER: json.dumps(words)})
    with pytest.raises(ValueError, match=match):
        Graph.load(tmp_path / "g.safetensors")


@pytest.mark.parametrize("about", [{"a": object()}, {"a": float("nan")}])
def test_nothing_is_written_of_a_graph_that_json_cannot_hold(tmp_path, about):
    with pytest.raises(ValueError, match="plain data only"):
        dataclasses.replace(layered(), about=about).save(tmp_path / "g")
    assert [*tmp_path.iterdir()] == []


# -- circuit-tracer's .pt


@pytest.mark.parametrize("seed", range(3))
def test_pt_files_give_back_everything_to_float32(tmp_path, seed):
    graph = with_rest(layered(seed))
    path = graph.to_circuit_tracer(tmp_path / "g")
    assert path.name == "g.pt"
    again = Graph.load(path)
    same(graph, again, weights=1e-6)
    assert again.about == graph.about


def test_pt_files_are_laid_out_as_circuit_tracer_says(tmp_path):
    graph = layered(4)
    found = stand_ins.load(graph.to_circuit_tracer(tmp_path / "g", scan="mine"))
    assert found.keys() == {
        "input_string", "input_tokens", "active_features", "activation_values", "selected_features",
        "adjacency_matrix", "logit_targets", "logit_probabilities", "vocab_size", "cfg", "scan",
    }  # fmt: skip
    layers, tokens = 3, len(graph.tokens)
    features = found["active_features"][found["selected_features"]].tolist()
    assert features == sorted(features) and found["scan"] == "mine"
    n = len(features)
    assert found["adjacency_matrix"].shape == (n + layers * tokens + tokens + 2,) * 2
    place, logits = {}, iter(range(2))
    for i, row in graph.nodes.iterrows():
        if row.kind == "latent":
            place[i] = features.index([row.layer, row.pos, row["index"]])
            assert found["activation_values"][place[i]] == np.float32(row.activation)
        elif row.kind == "error":
            place[i] = n + row.layer * tokens + row.pos
        elif row.kind == "token":
            place[i] = n + layers * tokens + row.pos
        elif row.kind == "logit":
            place[i] = n + layers * tokens + tokens + next(logits)
    matrix, dense = found["adjacency_matrix"].numpy().copy(), graph.weights.toarray()
    for t in place:
        for s in place:
            assert matrix[place[t], place[s]] == np.float32(dense[t, s])
            matrix[place[t], place[s]] = 0
    assert not matrix.any()
    assert found["logit_targets"] == [(" out0", 50), (" out1", 51)]
    assert found["input_tokens"].tolist() == [*graph.ids] and found["input_string"] == "".join(graph.tokens)


def foreign(**changes):
    """A file as circuit-tracer writes it: two layers, two tokens, two of three features chosen, one logit."""
    matrix = torch.zeros(9, 9)  # features 2, errors 4, tokens 2, logit 1
    matrix[0, 6], matrix[1, 0], matrix[1, 3], matrix[8, 1], matrix[8, 4], matrix[8, 7] = 1.0, -0.5, 0.25, 2.0, 0.5, -1.5
    cfg = stand_ins.Config()
    cfg.__dict__.update(n_layers=2, d_model=4, d_vocab=20, model_name="google/gemma-2-2b", tokenizer_name="x")
    return {
        "input_string": "ab", "input_tokens": torch.tensor([3, 4]), "cfg": cfg, "scan": "gemma",
        "active_features": torch.tensor([[0, 1, 7], [1, 0, 2], [1, 1, 5]]), "selected_features": torch.tensor([0, 2]),
        "activation_values": torch.tensor([1.5, 9.0, 0.75]), "adjacency_matrix": matrix, "vocab_size": 20,
        "logit_targets": [stand_ins.LogitTarget(" c", 6)], "logit_probabilities": torch.tensor([0.5]),
    } | changes  # fmt: skip


def test_circuit_tracers_pt_is_read(tmp_path):
    stand_ins.save(foreign(), tmp_path / "g.pt")
    graph = Graph.load(tmp_path / "g.pt")
    kinds = ["token", "token", "latent", "error", "error", "latent", "error", "error", "logit"]
    assert graph.nodes["kind"].tolist() == kinds and graph.ids == (3, 4) and graph.tokens == ("#3", "#4")
    assert graph.nodes[["layer", "pos", "index"]].iloc[5].tolist() == [1, 1, 5]
    latent, deep, logit = 2, 5, 8
    assert graph.weights[latent, 0] == 1 and graph.weights[deep, latent] == -0.5
    assert graph.weights[deep, 4] == 0.25 and graph.weights[logit].sum() == 1
    assert graph.totals.tolist() == [0, 0, 1.5, 0, 0, 0.75, 0, 0, 1.0]
    assert graph.rest.tolist() == [0, 0, 0.5, 0, 0, 1.0, 0, 0, 0]
    assert (graph.model["name"], graph.model["n_layers"], graph.about) == ("google/gemma-2-2b", 2, {"scan": "gemma"})
    assert (graph.nodes["label"].iloc[8], graph.nodes["probability"].iloc[8]) == (" c", 0.5)


@pytest.mark.parametrize("key", ["logit_targets", "logit_tokens"])
def test_pt_files_of_old_have_ids_for_targets(tmp_path, key):
    old = foreign()
    del old["logit_targets"], old["vocab_size"]
    stand_ins.save(old | {key: torch.tensor([6])}, tmp_path / "g.pt")
    last = Graph.load(tmp_path / "g.pt").nodes.iloc[-1]
    assert (last["index"], last.label) == (6, "#6")


def test_a_target_of_several_tokens_has_a_virtual_id(tmp_path):
    stand_ins.save(foreign(logit_targets=[stand_ins.LogitTarget("a - b", 20)]), tmp_path / "g.pt")
    graph = Graph.load(tmp_path / "g.pt")
    assert graph.nodes["index"].iloc[-1] == -1
    again = stand_ins.load(graph.to_circuit_tracer(tmp_path / "h"))
    assert again["logit_targets"] == [("a - b", 20)] and again["cfg"].d_vocab == 20
    same(graph, Graph.load(tmp_path / "h.pt"))


def test_a_file_that_was_changed_elsewhere_is_read_as_it_is(tmp_path):
    """Without one of the latents, what we wrote beside the matrix is of another graph."""
    graph = layered()
    found = stand_ins.load(graph.to_circuit_tracer(tmp_path / "g"))
    changed = {
        "selected_features": found["selected_features"][1:],
        "adjacency_matrix": found["adjacency_matrix"][1:, 1:],
    }
    stand_ins.save(found | changed, tmp_path / "h.pt")
    again = Graph.load(tmp_path / "h.pt")
    latents = (graph.nodes["kind"] == "latent").sum()
    assert (again.nodes["kind"] == "latent").sum() == latents - 1 and "bias" not in {*again.nodes["kind"]}
    assert again.weights.nnz == np.count_nonzero(changed["adjacency_matrix"])


def test_the_model_tells_sizes_and_text(tmp_path, tiny_models):
    model = tiny_models["gpt2"]
    path = layered().to_circuit_tracer(tmp_path / "g", model=model)
    cfg = vars(stand_ins.load(path)["cfg"])
    assert (cfg["n_layers"], cfg["d_model"], cfg["n_heads"], cfg["d_vocab"]) == (3, 32, 4, model.cfg.d_vocab)
    stand_ins.save(foreign(input_tokens=model.to_tokens("hi", prepend_bos=False)[0]), tmp_path / "h.pt")
    assert read(tmp_path / "h.pt", model=model).tokens == ("h", "i")


class Evil:
    """What a hostile file holds: unpickling it would call anything, here something that leaves a trace."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("place", ["cfg", "scan", "logit_targets", "whole"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, place, zipped):
    trace = tmp_path / "trace"
    evil = Evil(os.mkdir, str(trace))
    copy.copy(evil)  # does what unpickling would do
    trace.rmdir()
    content = evil if place == "whole" else {"cfg": None, place: [evil] if place == "logit_targets" else evil}
    torch.save(content, tmp_path / "g.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="could run code; it was not read.*mkdir"):
        Graph.load(tmp_path / "g.pt")
    assert not trace.exists()


def test_reading_leaves_no_class_allowed(tmp_path):
    before = torch.serialization.get_safe_globals()
    stand_ins.save(foreign(), tmp_path / "g.pt")
    Graph.load(tmp_path / "g.pt")
    (tmp_path / "g.pt").write_bytes((tmp_path / "g.pt").read_bytes()[:300])
    with pytest.raises(ValueError, match="not a whole PyTorch file"):
        Graph.load(tmp_path / "g.pt")
    assert torch.serialization.get_safe_globals() == before


def test_old_configurations_are_read_without_their_classes(tmp_path, monkeypatch):
    """TransformerLens' configuration holds NumPy numbers, which stay inert."""
    old = "transformer_lens.HookedTransformerConfig.HookedTransformerConfig"
    monkeypatch.setattr(stand_ins, "NAMES", {old: stand_ins.Config} | stand_ins.NAMES)
    cfg = foreign()["cfg"]
    cfg.attn_scale = np.float64(4.0)
    stand_ins.save(foreign(cfg=cfg), tmp_path / "g.pt")
    monkeypatch.undo()
    assert b"HookedTransformerConfig" in (tmp_path / "g.pt").read_bytes()
    assert Graph.load(tmp_path / "g.pt").model["n_layers"] == 2


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"adjacency_matrix": torch.zeros(8, 8)}, r"\(8, 8\), expected \(9, 9\)"),
        ({"adjacency_matrix": torch.full((9, 9), float("nan"))}, "NaN or infinite"),
        ({"adjacency_matrix": torch.eye(9)}, "downwards or from a node to itself"),
        ({"selected_features": torch.tensor([0, 3])}, "IndexError"),
        ({"logit_probabilities": torch.zeros(2)}, "zip"),
        ({"cfg": {}}, "TypeError"),
        ({"active_features": None}, "TypeError"),
    ],
)
def test_pt_files_whose_parts_do_not_fit_are_refused(tmp_path, changes, match):
    stand_ins.save(foreign(**changes), tmp_path / "g.pt")
    with pytest.raises(ValueError, match=match):
        Graph.load(tmp_path / "g.pt")
    missing = foreign()
    del missing[next(iter(changes))]
    stand_ins.save(missing, tmp_path / "g.pt")
    with pytest.raises(
        ValueError,
        match=f"is no graph of circuit-tracer.*{'logit_tokens|' if 'logit_t' in changes else ''}{next(iter(changes))}",
    ):
        Graph.load(tmp_path / "g.pt")


def test_nodes_without_a_token_are_refused_and_nothing_is_written(tmp_path):
    graph = layered()
    nodes = graph.nodes.assign(pos=graph.nodes["pos"].where(graph.nodes["kind"] != "latent", -1))
    summed = dataclasses.replace(graph, nodes=nodes)
    with pytest.raises(ValueError, match="is at none of the 5 tokens"):
        summed.to_circuit_tracer(tmp_path / "g")
    with pytest.raises(ValueError, match=r"latent \d+ of layer 0 is at no token"):
        summed.to_neuronpedia(tmp_path / "g.json")
    assert [*tmp_path.iterdir()] == []


@pytest.fixture(scope="module")
def expected():
    """What circuit-tracer computed of its graph, in its order of nodes."""
    return load_file(FIXTURES / "computed.safetensors")


def in_their_order(graph, tokens=4, layers=3):
    """The number of each of our nodes among theirs: latents, errors by layer, tokens, logits."""
    rows = [*graph.nodes[["kind", "layer", "pos", "index"]].itertuples(index=False, name=None)]
    latents, logits = sorted(row[1:] for row in rows if row[0] == "latent"), count()
    after = len(latents) + layers * tokens
    return np.array([
        latents.index((layer, pos, index)) if kind == "latent"
        else len(latents) + layer * tokens + pos if kind == "error"
        else after + pos if kind == "token" else after + tokens + next(logits)
        for kind, layer, pos, index in rows
    ])  # fmt: skip


@pytest.mark.parametrize("name", ["now.pt", "then.pt"])
def test_files_that_circuit_tracer_wrote_are_read_as_it_reads_them(expected, name):
    graph = Graph.load(FIXTURES / name)
    order = in_their_order(graph)
    assert sorted(order) == [*range(len(expected["influence"]))]
    np.testing.assert_allclose(graph.influence(), expected["influence"][order], atol=1e-6)
    assert graph.scores()["replacement"] == pytest.approx(expected["scores"][0], abs=1e-6)
    assert graph.about["scan"] == ["a/b", "c/d"] and graph.model["d_model"] == 6
    targets = graph.nodes[graph.nodes["kind"] == "logit"]
    now = name == "now.pt"
    assert targets["label"].tolist() == ([" e", "f - g"] if now else ["#5", "#6"])
    assert targets["index"].tolist() == [5, -1 if now else 6]


def test_pruning_keeps_what_circuit_tracer_keeps(expected):
    graph = Graph.load(FIXTURES / "now.pt")
    order = in_their_order(graph)
    nodes = graph.nodes[expected["node_mask"][order]].reset_index(drop=True)
    edges = graph.weights.toarray() * expected["edge_mask"][np.ix_(order, order)]
    kept = np.flatnonzero(expected["node_mask"][order])
    small = graph.prune(0.8, 0.98)
    pd.testing.assert_frame_equal(small.nodes, nodes)
    np.testing.assert_array_equal(small.weights.toarray(), edges[np.ix_(kept, kept)])
    json_of_theirs = Graph.load(FIXTURES / "graph.json")
    columns = ["kind", "layer", "pos", "activation"]
    pd.testing.assert_frame_equal(json_of_theirs.nodes[columns], small.nodes[columns])
    np.testing.assert_array_equal(json_of_theirs.weights.toarray(), small.weights.toarray())


def test_json_says_of_influence_what_circuit_tracer_says(tmp_path, expected):
    graph = Graph.load(FIXTURES / "now.pt")
    nodes = content_of(graph, tmp_path, scan="tiny")["nodes"]
    order = in_their_order(graph)
    ours = [node["influence"] for node in nodes if node["feature_type"] != "logit"]
    np.testing.assert_allclose(ours, expected["cumulative"][order][: len(ours)], atol=1e-6)


# -- Neuronpedia's JSON

TEXT, NUMBER, INT = ({"type": kind} for kind in ("string", "number", "integer"))


def record(required=(), **fields):
    return {"type": "object", "properties": fields, "required": list(required)}


def several(items):
    return {"type": "array", "items": items}


NODE = record(
    ("node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"), node_id=TEXT,
    feature={"type": ["integer", "null"]}, layer={"type": ["string", "integer"]}, ctx_idx=INT, feature_type=TEXT,
    jsNodeId=TEXT, clerp=TEXT, influence={"type": ["number", "null"]}, activation={"type": ["number", "null"]},
)  # fmt: skip
METADATA = record(
    ("slug", "scan", "prompt_tokens", "prompt"), slug=TEXT, scan=TEXT, prompt_tokens=several(TEXT), prompt=TEXT,
    feature_details=record(feature_json_base_url=TEXT, neuronpedia_source_set=TEXT, neuronpedia_lorsa_source_set=TEXT),
    info=record(description=TEXT, creator_name=TEXT, creator_url=TEXT, source_urls={"type": "array"},
                generator=record(name=TEXT, version=TEXT, url=TEXT, email=TEXT), create_time_ms=NUMBER),
    node_threshold=NUMBER, pruning_settings=record(node_threshold=NUMBER, edge_threshold=NUMBER),
    generation_settings=record(max_n_logits=INT, desired_logit_prob=NUMBER, batch_size=INT, max_feature_nodes=INT),
)  # fmt: skip
SCHEMA = record(
    ("metadata", "qParams", "nodes", "links"), metadata=METADATA, nodes=several(NODE),
    qParams=record(pinnedIds=several(TEXT), supernodes={"type": "array"}, linkType=TEXT, clickedId=TEXT, sg_pos=TEXT),
    links=several(record(("source", "target", "weight"), source=TEXT, target=TEXT, weight=NUMBER)),
)  # fmt: skip
DETAIL = record(
    ("index", "examples_quantiles"), index=NUMBER, top_logits=several(TEXT), bottom_logits=several(TEXT),
    examples_quantiles=several(record(
        ("quantile_name", "examples"), quantile_name=TEXT,
        examples=several(record(("tokens_acts_list", "tokens"),
                                tokens_acts_list=several(NUMBER), tokens=several(TEXT))),
    )),
)  # fmt: skip


def content_of(graph, tmp_path, **options):
    return json.loads(graph.to_neuronpedia(tmp_path / "g.json", **options).read_text())


def calm(seed=0, **sizes):
    """A graph without a latent of layer 0 that shares the id of an error."""
    graph = layered(seed, **sizes)
    clash = (graph.nodes["kind"] == "latent") & (graph.nodes["layer"] == 0) & (graph.nodes["index"] < 3)
    return dataclasses.replace(graph, nodes=graph.nodes.assign(index=graph.nodes["index"].where(~clash, 500)))


def test_cantor_pairs_are_told_apart_and_undone():
    pairs = [(layer, index) for layer in range(30) for index in (*range(40), 16383, 131071)]
    assert [uncantor(cantor(*pair)) for pair in pairs] == pairs and len({cantor(*p) for p in pairs}) == len(pairs)
    assert [cantor(*pair) for pair in ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1))] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(3))
def test_json_gives_back_everything(tmp_path, seed):
    graph = with_rest(calm(seed))
    pinned = [3, len(graph) - 1]
    path = graph.to_neuronpedia(tmp_path / "g", pinned=pinned, supernodes={"two": [12, 13], "one": [14]})
    assert path == tmp_path / "g.json"
    again = Graph.load(path)
    same(graph, again)
    ids = [name.node_id for name in names(graph)]
    assert again.about["pinned"] == [ids[i] for i in pinned] and again.about["nodes"] == 9
    assert again.about["supernodes"] == [["two", ids[12], ids[13]], ["one", ids[14]]]
    same(again, Graph.load(again.to_neuronpedia(tmp_path / "g.json")))
    assert Graph.load(tmp_path / "g.json").about == again.about


@pytest.mark.parametrize("seed", range(3))
def test_json_has_the_fields_of_the_schema(tmp_path, seed):
    content = content_of(calm(seed).prune(0.8, 0.98), tmp_path, node_threshold=0.8, info={"description": "d"})
    jsonschema.validate(content, SCHEMA)
    assert content["metadata"]["pruning_settings"] == {"node_threshold": 0.8, "edge_threshold": 0.98}
    assert content["metadata"]["info"]["generator"]["name"] == "saekit" and len(content["links"]) > 20
    for part, required in ((content["nodes"][0], "clerp"), (content["metadata"], "scan"), (content, "qParams")):
        kept = part.pop(required)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content, SCHEMA)
        part[required] = kept


def test_nodes_are_named_as_circuit_tracer_names_them(tmp_path):
    graph = calm(1)
    content = content_of(graph, tmp_path, scan="gemma-2-2b", slug="my-graph")
    assert (content["metadata"]["slug"], content["metadata"]["scan"]) == ("my-graph", "gemma-2-2b")
    nodes, tokens, last = content["nodes"], len(graph.tokens), 4  # n_layers + 1
    first = graph.nodes.index[graph.nodes["kind"] == "logit"][0]
    for (i, row), node in zip(graph.nodes.iterrows(), nodes, strict=True):
        index, pos, layer = row["index"], row.pos, row.layer
        expected = {
            "latent": (f"{layer}_{index}_{pos}", (layer + index) * (layer + index + 1) // 2 + index, f"{layer}",
                       "cross layer transcoder", f"{layer}_{index}-0"),
            "error": (f"0_{layer}_{pos}", -1, f"{layer}", "mlp reconstruction error", f"{layer}_{pos}-0"),
            "token": (f"E_{index}_{pos}", pos, "E", "embedding", f"E_{index}-{pos}"),
            "logit": (f"{last}_{index}_{tokens - 1}", index, f"{last}", "logit", f"L_{index}-{tokens - 1}"),
            "bias": ("E_bias_0", -2, "E", "bias", "E_bias-0"), "bos": ("E_bos_0", -3, "E", "bias", "E_bos-0"),
            "position": (f"E_position_{pos}", -4, "E", "bias", f"E_position-{pos}"),
        }[row.kind]  # fmt: skip
        assert expected == tuple(node[k] for k in ("node_id", "feature", "layer", "feature_type", "jsNodeId"))
        assert node["ctx_idx"] == max(pos, 0) and node["is_target_logit"] == (i == first)
        assert node["activation"] == (row.activation if row.kind == "latent" else None)
        if row.kind == "logit":
            assert node["clerp"] == f'Output "{row.label}" (p={row.probability:.3f})' and node["influence"] is None
    dense = graph.weights.toarray()
    place = {node["node_id"]: i for i, node in enumerate(nodes)}
    for link in content["links"]:
        assert link["weight"] == dense[place[link["target"]], place[link["source"]]] != 0
    assert len(content["links"]) == np.count_nonzero(dense)


def test_influence_is_the_share_of_a_node_and_all_stronger_ones(tmp_path):
    graph = calm(2)
    strength = graph.influence()
    for node, own_share in zip(content_of(graph, tmp_path)["nodes"], strength, strict=True):
        if node["feature_type"] != "logit":
            at_least = strength[strength > own_share].sum() + own_share
            assert node["influence"] == pytest.approx(min(at_least / strength.sum(), 1), abs=1e-9) or own_share == 0


def test_an_error_whose_id_is_a_latents_is_renamed(tmp_path):
    graph = calm(0)
    first = graph.nodes.index[(graph.nodes["kind"] == "latent") & (graph.nodes["layer"] == 0)][0]
    nodes = graph.nodes.copy()
    nodes.loc[first, "index"] = 1  # 0_1_1 is the error of layer 1 at the first token after BOS too
    clash = dataclasses.replace(graph, nodes=nodes)
    with pytest.warns(UserWarning, match="ids of 1 errors, such as '0_1_1'"):
        path = clash.to_neuronpedia(tmp_path / "g.json")
    content = json.loads(path.read_text())
    ids = [node["node_id"] for node in content["nodes"]]
    assert len({*ids}) == len(ids) and {"0_1_1", "err_1_1"} < {*ids}
    same(clash, Graph.load(path))


def test_a_target_of_several_tokens_comes_back(tmp_path):
    graph = calm()
    nodes = graph.nodes.copy()
    nodes.loc[nodes["kind"] == "logit", "index"] = -1
    graph = dataclasses.replace(graph, nodes=nodes, model={**graph.model, "d_vocab": 1000})
    ids = [node["node_id"] for node in content_of(graph, tmp_path)["nodes"]]
    assert ids[-2:] == ["4_1000_4", "4_1001_4"]
    same(graph, Graph.load(tmp_path / "g.json"))


def test_labels_from_data_come_back_as_they_are(tmp_path):
    graph = calm()
    hostile = ["</script><b>", 'x" (p=0.1)', "\u202e\u2028\n", "é\U0001f600", 'Output "a" (p=1.000)', "", "\\n"]
    labels = [hostile[i % len(hostile)] or "-" for i in range(len(graph))]
    nodes = graph.nodes.assign(label=labels)
    graph = dataclasses.replace(graph, nodes=nodes)
    for path in (
        graph.to_neuronpedia(tmp_path / "g.json"),
        graph.save(tmp_path / "g"),
        graph.to_circuit_tracer(tmp_path / "g"),
    ):
        assert Graph.load(path).nodes["label"].tolist() == labels


def test_names_that_neuronpedia_refuses_are_mapped_or_refused(tmp_path):
    graph = dataclasses.replace(calm(), model={"name": "google/gemma-2-2b", "n_layers": 3})
    assert content_of(graph, tmp_path)["metadata"]["scan"] == "gemma-2-2b"
    one, two = (content_of(graph, tmp_path, scan=["a/b", "c"])["metadata"] for _ in range(2))
    assert one["transcoder_list"] == ["a/b", "c"] and one["scan"] == two["scan"] == (
        "custom-653231ebc5e86c069065a6ff1c018394714c9576"  # sha1 of a/b-c
    )
    for options in (
        {"slug": "a b"},
        {"scan": "google/gemma"},
        {"slug": ""},
        {"pinned": [-1]},
        {"supernodes": {"a": [999]}},
    ):
        with pytest.raises(ValueError, match="give letters, digits|the graph has the nodes 0 to"):
            graph.to_neuronpedia(tmp_path / "h.json", **options)
    assert not (tmp_path / "h.json").exists()


def test_pinned_nodes_that_were_pruned_are_left_out(tmp_path):
    graph = Graph.load(calm().to_neuronpedia(tmp_path / "g.json", pinned=[*range(len(calm()))], supernodes={"a": [20]}))
    small = graph.prune(0.3, 0.5)
    content = content_of(small, tmp_path)
    ids = [node["node_id"] for node in content["nodes"]]
    assert len(ids) < len(graph) and content["qParams"]["pinnedIds"] == ids


def test_graphs_are_listed_for_the_local_viewer(tmp_path):
    for slug in ("a", "b", "a"):
        calm().to_neuronpedia(tmp_path / f"{slug}.json", listed=True)
    listing = json.loads((tmp_path / neuronpedia.LISTING).read_text())
    assert [entry["slug"] for entry in listing["graphs"]] == ["b", "a"]


def theirs(**changes):
    """A file of circuit-tracer's, as its viewer has it."""
    common = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "clerp": ""}

    def node(node_id, feature, layer, ctx, kind, **more):
        return common | {"node_id": node_id, "feature": feature, "layer": layer, "ctx_idx": ctx, "feature_type": kind,
                         "jsNodeId": node_id, "influence": 0.5, "activation": None} | more  # fmt: skip

    nodes = [
        node("1_5_1", cantor(1, 5), "1", 1, "cross layer transcoder", activation=0.75),
        node("0_7_1", cantor(0, 7), "0", 1, "cross layer transcoder", activation=1.5),
        node("0_1_0", -1, "1", 0, "mlp reconstruction error"),
        node("E_3_0", 0, "E", 0, "embedding"),
        node("E_4_1", 1, "E", 1, "embedding"),
        node("3_6_1", 6, "3", 1, "logit", token_prob=0.512, clerp='Output " c" (p=0.512)', is_target_logit=True),
    ]
    links = [("E_3_0", "0_7_1", 1.0), ("0_7_1", "1_5_1", -0.5), ("0_1_0", "3_6_1", 0.5), ("1_5_1", "3_6_1", 2.0)]
    return {
        "metadata": {"slug": "s", "scan": "gemma-2-2b", "transcoder_list": [], "prompt_tokens": ["a", "b"],
                     "prompt": "ab", "node_threshold": 0.8, "schema_version": 1},
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": nodes, "links": [dict(zip(("source", "target", "weight"), link, strict=True)) for link in links],
    } | changes  # fmt: skip


def written(content, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps(content))
    return tmp_path / "t.json"


def test_circuit_tracers_json_is_read(tmp_path):
    graph = Graph.load(written(theirs(), tmp_path))
    assert graph.nodes["kind"].tolist() == ["token", "token", "latent", "latent", "error", "logit"]
    assert graph.nodes["label"].tolist() == ["a", "b", "7", "5", "error, layer 1", " c"]
    assert graph.totals.tolist() == [0, 0, 1.5, 0.75, 0, 2.5] and graph.rest.tolist() == [0, 0, 0.5, 1.25, 0, 0]
    assert graph.nodes["probability"].iloc[-1] == 0.512 and graph.ids == (3, 4)
    assert graph.model["n_layers"] == 2 and graph.about["slug"] == "s"
    again = Graph.load(graph.to_neuronpedia(tmp_path / "g.json", scan="x"))
    same(dataclasses.replace(graph, model=again.model), again)


def test_a_schema_without_probabilities_and_numbers_of_old(tmp_path):
    content = theirs()
    del content["metadata"]["schema_version"], content["qParams"]
    for node in content["nodes"]:
        del node["token_prob"]
        node["layer"], node["feature"] = (int(node["layer"]) if node["layer"] != "E" else "E"), None
    graph = Graph.load(written(content, tmp_path))
    assert graph.nodes["probability"].iloc[-1] == 0.512 and graph.nodes["layer"].iloc[-1] == 2


def changed(part, number, **fields):
    content = theirs()
    content[part][number] |= fields
    return content


def without(part, number, field):
    content = theirs()
    del content[part][number][field]
    return content


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (changed("links", 0, source="E_9_9"), "from 'E_9_9' to '0_7_1': no node is 'E_9_9'"),
        (changed("links", 1, target="lost"), "from '0_7_1' to 'lost': no node is 'lost'"),
        (changed("links", 1, weight=float("inf")), "has the weight inf"),
        (changed("links", 1, weight="much"), "much"),
        (theirs(links=theirs()["links"] * 2), "two links go from 'E_3_0' to '0_7_1'"),
        (changed("links", 0, source="3_6_1"), "downwards"),
        (changed("nodes", 2, node_id="0_7_1"), "two nodes have the id '0_7_1'"),
        (changed("nodes", 0, feature_type="lorsa"), "'1_5_1' has feature_type 'lorsa'; known are .*embedding"),
        (changed("nodes", 0, node_id="x"), "'x' is of type 'cross layer transcoder', whose ids"),
        (changed("nodes", 0, feature=3), f"'1_5_1' has feature 3, not {cantor(1, 5)}"),
        (changed("nodes", 0, ctx_idx=2), "'1_5_1' has ctx_idx 2; the prompt has 2 tokens"),
        (without("nodes", 0, "ctx_idx"), "'1_5_1' has no 'ctx_idx'"),
        (without("nodes", 0, "node_id"), "node None has no 'node_id'"),
        (without("links", 0, "weight"), "has no 'weight'"),
        (theirs(nodes=None), "has no 'nodes'"),
        (theirs(metadata={}), "has no 'prompt_tokens'"),
        (theirs(nodes=[3]), "'nodes' is no list of objects"),
        (theirs(links={"a": 1}), "'links' is no list of objects"),
    ],
)
def test_json_that_does_not_fit_is_refused(tmp_path, content, match):
    with pytest.raises(ValueError, match=match):
        Graph.load(written(content, tmp_path))


@pytest.mark.parametrize("text", ['{"metadata": ', "{}", "{"])
def test_json_that_is_cut_short_is_refused(tmp_path, text):
    (tmp_path / "g.json").write_text(text)
    with pytest.raises(ValueError, match="is not JSON|has no 'metadata'"):
        Graph.load(tmp_path / "g.json")


# -- a traced graph


@pytest.mark.parametrize("kind", ["own", "pt", "json"])
def test_a_traced_graph_does_after_reading_what_it_did(tmp_path, exact_models, kind):
    """What else a graph can do hangs on its `about` and on the coders it is given."""
    model = exact_models("gpt2")
    coders = transcoders.per_layer(model)
    graph = sk.trace(model, coders, "a red box", sk.logit_diff("a", "b"), bound=0.0).prune(0.7, 0.9)
    write = {"own": graph.save, "pt": graph.to_circuit_tracer, "json": graph.to_neuronpedia}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # errors that are renamed
        again = Graph.load(write(tmp_path / "g"), coders)
    same(graph, again, weights=1e-5 if kind == "pt" else 0.0)
    change = {int(graph.nodes.index[graph.nodes["kind"] == "latent"][0]): 2.0}
    one, two = graph.intervene(model, change), again.intervene(model, change)
    np.testing.assert_array_equal(one.after, two.after)
    np.testing.assert_array_equal(one.logits_after, two.logits_after)
    assert not np.array_equal(one.after, one.before)


# -- any damage


@pytest.mark.parametrize("kind", ["own", "pt", "json"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path, kind):
    graph, rng = layered(layers=1, tokens=2, latents=1), np.random.default_rng(0)
    path = {"own": graph.save, "pt": graph.to_circuit_tracer, "json": graph.to_neuronpedia}[kind](tmp_path / "g")
    data = path.read_bytes()
    for cut in rng.integers(len(data), size=60):
        path.write_bytes(data[:cut])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            Graph.load(path)
        wrong = bytearray(data)
        wrong[cut] = rng.integers(256)
        path.write_bytes(wrong)
        with suppress(ValueError):
            Graph.load(path)


# -- networkx


def test_networkx_has_all_there_is():
    graph = with_rest(layered())
    found = graph.to_networkx()
    assert isinstance(found, networkx.DiGraph) and networkx.is_directed_acyclic_graph(found)
    np.testing.assert_array_equal(networkx.to_numpy_array(found).T, graph.weights.toarray())
    for i, row in graph.nodes.iterrows():
        assert found.nodes[i] == {**row.to_dict(), "total": graph.totals[i], "rest": graph.rest[i]}
    assert found.graph == {"ids": graph.ids, "tokens": graph.tokens, "model": graph.model, "bound": 0.25}


# -- details of latents


@pytest.fixture(scope="module")
def features(tiny_models, tiny_corpus):
    return {0: collect(tiny_models["gpt2"], tiny_corpus, made()), 2: collect(tiny_models["gpt2"], tiny_corpus, made())}


def test_details_are_written_loose_and_packed_and_read_from_both(tmp_path, features):
    chosen = [(0, 1), (2, 5), (2, 5)]
    loose = explain.save_details(features, tmp_path / "loose", chosen)
    packed = explain.save_details(features, tmp_path / "packed")
    assert sorted(file.name for file in loose.iterdir()) == sorted(f"{cantor(*pair)}.json" for pair in {*chosen})
    assert {file.name for file in packed.iterdir()} == {"index.json.gz", "layer_0.bin", "layer_2.bin"}
    for layer, latent in chosen:
        expected = json.loads(json.dumps(explain.feature_detail(features[layer][latent], str(layer))))
        jsonschema.validate(expected, DETAIL)
        assert explain.read_detail(loose, layer, latent) == explain.read_detail(packed, layer, latent) == expected
    for latent in range(len(features[0])):  # dead ones too
        jsonschema.validate(explain.read_detail(packed, 0, latent), DETAIL)


def test_packed_details_are_laid_out_as_the_viewer_fetches_them(tmp_path, features):
    """The bytes from offset i to offset i + 1 are a record: 4 of length, then zlib's JSON."""
    folder = explain.save_details({2: features[2]}, tmp_path)
    index = json.loads(gzip.decompress((folder / "index.json.gz").read_bytes()))
    assert index.keys() == {"2"} and index["2"]["filename"] == "layer_2.bin"
    data, offsets = (folder / "layer_2.bin").read_bytes(), index["2"]["offsets"]
    assert len(offsets) == len(features[2]) + 1 and (offsets[0], offsets[-1]) == (0, len(data))
    record = data[offsets[7] : offsets[8]]
    assert struct.unpack("<I", record[:4])[0] == len(record) - 4
    assert json.loads(zlib.decompress(record[4:]))["index"] == 7
    (folder / "layer_2.bin").write_bytes(b"".join(_gzipped(data[a:b]) for a, b in pairwise(offsets)))
    sizes = [len(_gzipped(data[a:b])) for a, b in pairwise(offsets)]
    index["2"]["offsets"] = [0, *np.cumsum(sizes).tolist()]
    (folder / "index.json.gz").write_bytes(gzip.compress(json.dumps(index).encode()))
    assert explain.read_detail(folder, 2, 7)["index"] == 7  # other writers gzip


def _gzipped(record):
    data = gzip.compress(zlib.decompress(record[4:]))
    return struct.pack("<I", len(data)) + data


def test_details_that_are_not_there_or_damaged_are_named(tmp_path, features):
    folder = explain.save_details({2: features[2]}, tmp_path / "packed")
    with pytest.raises(ValueError, match="no latent 0 of layer 1; it has 0 there"):
        explain.read_detail(folder, 1, 0)
    with pytest.raises(ValueError, match="no latent 64 of layer 2; it has 64 there"):
        explain.read_detail(folder, 2, 64)
    (folder / "layer_2.bin").write_bytes((folder / "layer_2.bin").read_bytes()[:40])
    with pytest.raises(ValueError, match="cannot be read"):
        explain.read_detail(folder, 2, 1)
    with pytest.raises(ValueError, match="has neither '4.json'"):
        explain.read_detail(tmp_path, 1, 1)
    (tmp_path / "4.json").write_text('{"index": 1}')
    with pytest.raises(ValueError, match="latent 1 of layer 1 has no 'examples_quantiles'"):
        explain.read_detail(tmp_path, 1, 1)
    with pytest.raises(ValueError, match=r"latents of layer 1 are asked for; features are there of layers \[0, 2\]"):
        explain.save_details(features, tmp_path / "new", [(0, 1), (1, 1)])
    assert not (tmp_path / "new").exists()
