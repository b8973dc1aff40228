"""Graphs in other tools' formats: there and back exactly, and every damaged file named.

fixtures/circuit_tracer_graphs holds graphs that circuit-tracer wrote, see fixtures/make.py; fixtures/back.py reads ours
with circuit-tracer. The schema below has the fields of Neuronpedia's graph-schema.json, in our words.
"""

import copy
import dataclasses
import json
import os
import pickle
import warnings
import zlib
from pathlib import Path

import jsonschema
import networkx
import numpy as np
import pandas as pd
import pytest
import torch

import saekit as sk
from saekit import explain
from saekit.circuits import Graph, circuit_tracer, neuronpedia, own, read, stand_ins
from saekit.circuits.ids import cantor, names, uncantor
from tests.graphs import layered
from tests.test_features import collect, made


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
