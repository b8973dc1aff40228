"""What is read off a graph: influence, pruning, scores, interventions, faithfulness, supernodes."""

from functools import partial

import graphs
import numpy as np
import pytest
import torch
import transcoders
from scipy.sparse import csr_array

import saekit as sk
from bench.baselines import power_series
from saekit.circuits import faithful, supernodes

PROMPT = "a red box"


@pytest.fixture(scope="module")
def model(exact_models):
    return exact_models("gpt2")


@pytest.fixture(scope="module")
def coders(model):
    return transcoders.per_layer(model)


@pytest.fixture(scope="module")
def graph(model, coders):
    return sk.trace(model, coders, PROMPT, bound=0.0, logits=3)


def adds_up(graph) -> bool:
    rows = graph.weights.sum(axis=1) + graph.rest
    return np.allclose(rows[graph.expanded], graph.totals[graph.expanded])


@pytest.mark.parametrize("seed", range(4))
def test_influence_is_the_power_series(seed):
    graph = graphs.layered(seed, layers=6)
    p = graph.nodes["probability"].to_numpy()
    series = power_series(torch.tensor(graph.weights.toarray()), torch.tensor(p))
    assert np.allclose(graph.influence(), series) and graph.influence().max() > 0.01
    ends = ~graph.expanded
    assert graph.influence()[ends].sum() == pytest.approx(p.sum())  # what flows in, ends somewhere


def test_influence_where_edges_run_within_a_layer():
    """As in circuits of several sites a layer: only the order of the nodes says what comes first."""
    graph = graphs.layered(0)
    nodes = graph.nodes.assign(layer=np.where(graph.nodes["kind"] == "logit", 1, 0))
    dense = np.tril(np.random.default_rng(0).normal(size=(len(nodes), len(nodes))), -1)
    dense[(nodes["kind"] != "latent") & (nodes["kind"] != "logit")] = 0
    dense[:, nodes["kind"] == "logit"] = 0
    one = sk.Graph(nodes, csr_array(dense), dense.sum(1), graph.rest, graph.ids, graph.tokens, graph.model)
    p = nodes["probability"].to_numpy()
    assert np.allclose(one.influence(), power_series(torch.tensor(dense), torch.tensor(p)))
    latent = int(np.flatnonzero(nodes["kind"] == "latent")[0])
    passing = np.where(nodes["kind"] == "latent", one.totals, np.inf)[:, None]
    r = np.linalg.solve(np.eye(len(nodes)) - dense / passing, np.eye(len(nodes))[latent])
    assert np.allclose(one.predict({latent: 2.0}, constrained=False)[-1], dense[-1] @ r)


def test_pruning_to_everything_changes_nothing(graph):
    for whole in (graph, graphs.layered(3)):
        same = whole.prune(1.0, 1.0)
        assert same.nodes.equals(whole.nodes) and abs(same.weights - whole.weights).max() == 0
        assert np.array_equal(same.rest, whole.rest)


@pytest.mark.parametrize("seed", range(3))
def test_pruning_keeps_what_matters_and_rows_still_add_up(seed):
    graph = graphs.layered(seed, layers=5, latents=6)
    small = graph.prune(0.6, 0.8)
    kinds, before = small.nodes["kind"].value_counts(), graph.nodes["kind"].value_counts()
    assert all(kinds[kind] == before[kind] for kind in ("token", "position", "bias", "logit"))
    assert kinds["latent"] < before["latent"] and small.weights.nnz < graph.weights.nnz and adds_up(small)
    latent = (small.nodes["kind"] == "latent").to_numpy()
    into, out = np.diff(small.weights.indptr), np.bincount(small.weights.indices, minlength=len(small))
    assert (into[latent] > 0).all() and (out[latent] > 0).all()
    assert (out[(small.nodes["kind"] == "error").to_numpy()] > 0).all()
    names = ["kind", "layer", "pos", "index"]
    stays = graph.nodes.merge(small.nodes[names], on=names, how="left", indicator=True)["_merge"] == "both"
    lost = graph.influence()[~stays & (graph.nodes["kind"] == "latent")]
    kept = graph.influence()[stays & (graph.nodes["kind"] == "latent")]
    assert np.median(kept) > np.median(lost)
    with pytest.raises(ValueError, match="node=1.5"):
        graph.prune(1.5)


def test_scores_by_hand():
    nodes = graphs.layered().nodes.iloc[:0]
    rows = [("token", -1, 0, 5, 0.0, 0.0, "a"), ("latent", 0, 0, 1, 1.0, 0.0, "1"), ("error", 0, 0, -1, 0.0, 0.0, "e"),
            ("logit", 1, 0, 7, 0.0, 0.5, "b")]  # fmt: skip
    nodes = type(nodes)(rows, columns=nodes.columns)
    weights = csr_array(np.array([[0, 0, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 0], [0, 3.0, -1.0, 0]]))
    graph = sk.Graph(nodes, weights, np.array([0, 2.0, 0, 2.0]), np.zeros(4), (5,), ("a",), {"n_layers": 1})
    assert graph.influence().tolist() == [0.375, 0.375, 0.125, 0.0]
    assert graph.scores()["replacement"] == pytest.approx(0.75)
    assert graph.scores()["completeness"] == pytest.approx((0.5 * 0.75 + 0.375) / 0.875)


def test_a_row_sums_to_its_total(graph):
    node = int(np.flatnonzero(graph.expanded)[-1])
    small = graph.prune(0.5, 0.5)
    for one, at in ((graph, node), (small, len(small) - 1)):
        row = one.row(at)
        assert row["contribution"].sum() == pytest.approx(one.totals[at]) and row["share"].sum() == pytest.approx(1.0)
        assert row["contribution"].abs().is_monotonic_decreasing
    assert -1 in {*small.row(len(small) - 1)["source"]} and -1 not in {*graph.row(node)["source"]}
    with pytest.raises(ValueError, match="node 0 has no row"):
        graph.row(0)


@pytest.mark.parametrize("kind", ["plain", "across"])
def test_free_interventions_are_splices(model, coders, kind):
    coders = coders if kind == "plain" else transcoders.cross_layer(model)
    graph = sk.trace(model, coders, PROMPT, bound=0.0)
    node = int(np.flatnonzero((graph.nodes["kind"] == "latent") & (graph.nodes["layer"] == 0))[-1])
    pos, latent, value = (graph.nodes[c][node] for c in ("pos", "index", "activation"))
    changes = {node: -2.0, (1, 4, 7): 3.0}
    here = {1: (4, sk.clamp(7, 3.0)), 0: (int(pos), sk.clamp(int(latent), -2.0 * value))}
    tokens = model.to_tokens(PROMPT, prepend_bos=True)

    def at(p, edit, codes):
        rows = codes.rows == p
        changed = edit(codes)
        mine = changed.rows == p
        names = ("rows", "latents", "values")
        parts = [torch.cat([getattr(codes, name)[~rows], getattr(changed, name)[mine]]) for name in names]
        return sk.Codes.from_entries(*parts, codes.n_rows, codes.d_sae)

    edits = [partial(at, *here[layer]) if layer in here else None for layer in range(3)]
    with sk.splice(model, list(coders.banks), edit=edits):
        expected = model(tokens)[0, -1].detach().numpy()
    found = graph.intervene(model, changes, constrained=False, freeze_attention=False)
    assert np.allclose(found.logits_after, expected, atol=1e-12)
    assert not np.allclose(graph.intervene(model, changes, constrained=False).logits_after, expected)
    assert not np.allclose(graph.intervene(model, changes).logits_after, expected)


def test_many_what_ifs_are_single_ones(model, graph):
    latents = np.flatnonzero(graph.nodes["kind"] == "latent")[[0, 5, -1]].tolist()
    batch = [{node: 0.0} for node in latents] + [{latents[0]: 0.0, latents[1]: 4.0, (2, 3, 11): 1.5}]
    for constrained in (True, False):
        together = graph.intervene(model, batch, constrained=constrained)
        for changes, one in zip(batch, together, strict=True):
            assert np.allclose(graph.intervene(model, changes, constrained=constrained).after, one.after)
    nothing = graph.intervene(model, {latents[0]: 1.0}, constrained=False)
    assert np.array_equal(nothing.before, nothing.after)  # bit for bit
    assert np.array_equal(nothing.logits_before, nothing.logits_after)
    assert np.allclose(nothing.before[graph.expanded], graph.totals[graph.expanded])


def test_an_inactive_latent_adds_what_its_decoder_row_gives(model, coders, graph):
    on = graph.nodes[(graph.nodes["kind"] == "latent") & (graph.nodes["layer"] == 1) & (graph.nodes["pos"] == 2)]
    off = next(i for i in range(transcoders.LATENTS) if i not in {*on["index"]})
    off_after, off_more = (graph.intervene(model, {(1, 2, off): v}) for v in (0.0, 2.0))
    assert np.allclose(off_after.after, off_after.before) and not np.allclose(off_more.after, off_more.before)
    again = graph.intervene(model, {(1, 2, off): 4.0})
    assert np.allclose(again.after - again.before, 2 * (off_more.after - off_more.before))


def test_predictions(model, graph):
    """Direct ones are exact; through latents they are what freeing the gates' inputs gives for a small change."""
    node = int(np.argmax(np.where(graph.nodes["kind"] == "latent", graph.influence(), 0)))
    direct = graph.intervene(model, {node: 1.5})
    assert np.allclose(graph.predict({node: 1.5})[graph.expanded], (direct.after - direct.before)[graph.expanded])
    place = tuple(graph.nodes[["layer", "pos", "index"]].iloc[node])
    by_value = graph.predict({place: 1.5 * graph.nodes["activation"][node]})
    assert np.allclose(graph.predict({node: 1.5}), by_value)
    relay = graph.predict({node: 1.001}, constrained=False)
    by_hand, r = np.zeros(len(graph)), np.zeros(len(graph))
    r[node] = 0.001
    for t in range(len(graph)):
        by_hand[t] = graph.weights[[t]].toarray()[0] @ r
        if graph.nodes["kind"][t] == "latent" and t != node:
            r[t] = by_hand[t] / graph.nodes["activation"][t]
    assert np.allclose(relay, by_hand)
    with pytest.raises(ValueError, match="no node of this graph"):
        graph.predict({(0, 0, 999): 1.0})


def test_the_check_compares_prediction_and_model(model, graph):
    table = graph.check(model, top=6, constrained=True)
    assert np.allclose(table["predicted"], table["actual"]) and table.attrs["agree"] == 1.0
    free = graph.check(model, top=6)
    assert free["influence"].is_monotonic_decreasing and len(free) == 6 and not np.allclose(free.actual, table.actual)


def test_faithfulness_against_a_plain_computation(model, coders, graph):
    small = graph.prune(0.7)
    means = faithful.means(model, coders, torch.randint(1, 250, (20, 12)))
    found = small.faithfulness(model, means=means, random=3, freeze_attention=False)
    latents = small.nodes[small.nodes["kind"] == "latent"]
    assert found["latents"] == len(latents) < found["active"] and len(found["kept"]["random"]) == 3

    def run(stay, errors):
        tokens, reads = model.to_tokens(PROMPT, prepend_bos=True), {}
        clean = sk.capture(model, tokens, *(bank.site for bank in coders.banks))

        def read(x, hook, layer):
            reads[layer] = x

        def write(x, hook, layer):
            bank = coders.banks[layer]
            dense = bank.encode(reads[layer][0]).dense()
            mine = latents[latents["layer"] == layer]
            if stay != "all":
                held = means[layer].expand_as(dense).clone()
                for p, i in zip(mine["pos"], mine["index"], strict=True):
                    if stay == "graph":
                        held[p, i] = dense[p, i]
                dense = held
            y = dense @ bank.W_dec + bank.b_dec
            if errors:
                y += clean[bank.site.write][0] - bank(clean[bank.site.read][0])[0]
            y[0] = x[0, 0]
            return y[None]

        hooks = [(b.site.read, partial(read, layer=i)) for i, b in enumerate(coders.banks)]
        hooks += [(b.site.write, partial(write, layer=i)) for i, b in enumerate(coders.banks)]
        with model.hooks(hooks):
            logits = model(tokens)[0, -1]
        target = small.nodes[small.nodes["kind"] == "logit"]
        p = target["probability"].to_numpy()
        return float((logits[target["index"].tolist()] - logits.mean()).detach().numpy() @ p / p.sum())

    for arm, errors in (("kept", True), ("removed", False)):
        m = {stay: run(stay, errors) for stay in ("graph", "all", "none")}
        assert found[arm]["all"] == pytest.approx(m["all"]) and found[arm]["none"] == pytest.approx(m["none"])
        assert found[arm]["circuit"] == pytest.approx((m["graph"] - m["none"]) / (m["all"] - m["none"]))


def test_means_are_those_of_the_text(model, coders):
    tokens = torch.randint(1, 250, (20, 12))
    x = sk.capture(model, tokens, coders.banks[1].site.read)[coders.banks[1].site.read]
    assert torch.allclose(faithful.means(model, coders, tokens)[1], coders.banks[1].encode(x).dense().mean(0))


def test_edges_between_groups(graph):
    latents = np.flatnonzero(graph.nodes["kind"] == "latent")
    groups = {"a": latents[:4].tolist(), "b": latents[-6:].tolist(), "out": [len(graph) - 1], "in": [2, 3]}
    table = supernodes.between(graph, groups)
    dense = graph.weights.toarray()
    for source, target, weight in table.itertuples(index=False, name=None):
        members = [t for t in groups[target] if graph.expanded[t]]
        assert weight == pytest.approx(dense[members][:, groups[source]].sum(1).mean())
    assert {("in", "a")} <= {*zip(table["source"], table["target"], strict=True)}
    assert table["weight"].abs().is_monotonic_decreasing
    with pytest.raises(ValueError, match="node 3 is in more than one"):
        supernodes.between(graph, {"a": [3], "b": [3, 4]})


def test_suggested_groups_are_latents_that_are_alike(model):
    """Two copies of a latent write and read the same, so they are suggested as one."""
    coders = transcoders.per_layer(model)
    bank = coders.banks[1]
    bank.W_enc[:, 1], bank.b_enc[1], bank.W_dec[1] = bank.W_enc[:, 0], bank.b_enc[0], bank.W_dec[0]
    bank.b_enc[:2] += 5.0
    graph = sk.trace(model, coders, PROMPT, bound=0.0)
    at = {
        key: node for node, key in enumerate(graph.nodes[["layer", "pos", "index"]].itertuples(index=False, name=None))
    }
    groups = supernodes.suggest(graph, distance=0.2, most=10_000)
    twins = {frozenset((at[1, p, 0], at[1, p, 1])) for p in range(1, 10)}
    together = [twin for twin in twins if any(twin <= {*nodes} for nodes in groups.values())]
    used = [twin for twin in twins if graph.influence()[[*twin]].min() > 0]
    assert used and {*together} >= {*used}
    nodes = [node for group in groups.values() for node in group]
    assert len(nodes) == len({*nodes}) and (graph.nodes["kind"][nodes] == "latent").all()
    assert len(nodes) < (graph.nodes["kind"] == "latent").sum()


def test_what_cannot_be_run_is_said(model, graph):
    from dataclasses import replace

    error = int(np.flatnonzero(graph.nodes["kind"] == "error")[0])
    for changes, options, match in [
        ({error: 0.0}, {"constrained": False}, "is no latent"),
        ({len(graph) - 1: 0.0}, {}, "is a target"),
        ({len(graph): 0.0}, {}, "the graph has nodes 0 to"),
        ({(7, 1, 0): 1.0}, {}, r"read layers \[0, 1, 2\]"),
        ({(0, 0, 0): 1.0}, {"constrained": False}, "positions 1 to 9 but not at BOS"),
        ({(0, 1, 4000): 1.0}, {}, "have 40 latents"),
    ]:
        with pytest.raises(ValueError, match=match):
            graph.intervene(model, changes, **options)
    with pytest.raises(ValueError, match="has no coders"):
        replace(graph, coders=None).intervene(model, {error: 0.0})
