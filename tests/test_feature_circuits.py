"""Sparse feature circuits on tiny random models in float64: sums, edges, what is kept, what is swapped."""

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from test_attribute import identity, logits_of, made, n_hooks

import saekit as sk
from saekit import circuits
from saekit.circuits.curve import drawn_like, interval, share
from saekit.hooks import not_bos, rerun

CLEAN = torch.tensor([[0, 72, 101, 108, 108, 111, 32], [0, 104, 105, 32, 121, 111, 117]])
PATCH = torch.tensor([[0, 72, 101, 121, 32, 121, 111], [0, 104, 111, 119, 32, 105, 115]])
TARGETS = [sk.logit_diff("a", 66), sk.logit_diff(70, 99)]
NAMES = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
LETTERS = {" ": "blank", "h": "letter", "H": "letter", "e": "letter", "o": "letter"}


@pytest.fixture
def coders():
    return [made(name, seed=i, bias=-2.0) for i, name in enumerate(NAMES)]


@pytest.fixture
def one(exact_models):
    return exact_models("gpt2")


def m_of(model, tokens):
    logits = logits_of(model, tokens)
    return torch.stack([target.on(model)(logits[i : i + 1])[0] for i, target in enumerate(TARGETS)])


def circuit_of(model, coders, **options):
    """Warnings of integration are told, not raised: a random model bends."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*miss the change.*")
        return sk.feature_circuit(model, coders, CLEAN, TARGETS, **({"patch": PATCH} | options))


# --- nodes


def test_effects_of_a_site_add_up_to_the_change_of_the_target(one, coders):
    sums = circuit_of(one, coders).sums
    for name, row in zip(NAMES, sums.itertuples(), strict=True):
        there = sk.capture(one, PATCH, name)
        logits = rerun(one, CLEAN, there, not_bos(one, CLEAN))[0]
        changed = torch.stack([t.on(one)(logits[i : i + 1])[0] for i, t in enumerate(TARGETS)])
        change = (changed - m_of(one, CLEAN)).mean().item()
        assert row.site == name and row.change == pytest.approx(change)
        assert row.effects == pytest.approx(change, abs=0.02 * abs(change) + 1e-3)


def test_a_circuit_of_several_prompts_is_the_mean_of_each(one, coders):
    options = {"method": "gradient", "edges": 12}
    whole, in_turn = circuit_of(one, coders, **options), circuit_of(one, coders, **options, batch=1)
    assert_allclose(whole.nodes["effect"], in_turn.nodes["effect"], atol=1e-12)
    assert_allclose(whole.edges["weight"], in_turn.edges["weight"], atol=1e-12)
    alone = [sk.feature_circuit(one, coders, CLEAN[i], TARGETS[i], patch=PATCH[i], method="gradient") for i in (0, 1)]
    keys = ["site", "kind", "latent"]
    index = whole.nodes.set_index(keys).index
    both = sum(circuit.nodes.set_index(keys)["effect"].reindex(index, fill_value=0) for circuit in alone)
    assert_allclose(whole.nodes["effect"], both / 2, atol=1e-12)
    assert whole.value == pytest.approx(m_of(one, CLEAN).mean().item())


def test_nodes_are_those_of_attribute(one, coders):
    found = circuit_of(one, coders, by="position", method="gradient").nodes
    table = sk.attribute(one, coders, CLEAN, TARGETS, patch=PATCH)
    keys = ["site", "kind", "latent", "pos"]
    expected = table.groupby(keys)["effect"].sum() / 2
    got = found.rename(columns={"place": "pos"}).set_index(keys)["effect"]
    assert_allclose(got, expected.reindex(got.index), atol=1e-12)
    assert len(got) == len(expected) and (got.abs().diff().dropna() <= 1e-15).all()


@pytest.mark.parametrize("method", [sk.attribute, sk.ablations])
def test_each_prompt_can_have_its_own_target(one, coders, method):
    whole = method(one, coders, CLEAN, TARGETS, patch=PATCH)
    alone = [method(one, coders, CLEAN[i], TARGETS[i], patch=PATCH[i]) for i in range(2)]
    keys = ["site", "pos", "kind", "latent"]
    for i, table in enumerate(alone):
        mine = whole[whole["prompt"] == i].set_index(keys)["effect"]
        assert_allclose(mine.reindex(table.set_index(keys).index), table["effect"], atol=1e-9)
    assert whole.attrs["target"] == "2 targets"
    with pytest.raises(ValueError, match="2 targets need not be linear"):
        sk.direct(one, CLEAN[:1], TARGETS)


def test_places_partition_the_positions(one, coders):
    summed, apart, sorts = (circuit_of(one, coders, by=by, method="gradient") for by in ("sum", "position", LETTERS))
    keys = ["site", "kind", "latent"]
    for other in (apart, sorts):
        both = other.nodes.groupby(keys)[["effect", "activation", "on"]].sum()
        expected = summed.nodes.set_index(keys)[["effect", "activation", "on"]]
        assert_allclose(both.loc[expected.index], expected, atol=1e-12)
    assert apart.places.names[0] == "<|bos|>" and sorts.places.names == ("blank", "letter", "other")
    blanks = sorts.nodes[sorts.nodes["place"] == 0]
    by_hand = sk.attribute(one, coders, CLEAN, TARGETS, patch=PATCH).query("token == ' '")
    assert_allclose(blanks["effect"].sum(), by_hand["effect"].sum() / 2, atol=1e-12)


def test_an_identity_dictionary_gives_gradient_times_change_of_each_dimension(one):
    coder = identity(NAMES[0])
    nodes = circuit_of(one, [coder], method="gradient", by="position").nodes
    with one.hooks([("embed.hook_out", lambda x, hook: x.detach().requires_grad_())]):
        seen = sk.capture(one, CLEAN, NAMES[0], "unembed.hook_out", grad=True)
    m = sum(t.on(one)(seen["unembed.hook_out"][i : i + 1]).sum() for i, t in enumerate(TARGETS))
    (g,) = torch.autograd.grad(m, seen[NAMES[0]])
    expected = (g * (sk.capture(one, PATCH, NAMES[0])[NAMES[0]] - seen[NAMES[0]])).detach().mean(0)
    got = torch.zeros(7, 32, dtype=torch.float64)
    for row in nodes[nodes["kind"] == "latent"].itertuples():
        got[row.place, row.latent % 32] += row.effect
    assert_allclose(got[1:], expected[1:], atol=1e-12)
    assert nodes.loc[nodes["kind"] == "error", "effect"].abs().max() < 1e-12


# --- edges


def test_what_leaves_a_node_is_its_effect(exact_model):
    """All that a site does passes the next one: gates held, latents and error together are x itself."""
    coders = [made(name, seed=i, bias=-2.0) for i, name in enumerate(NAMES)]
    circuit = circuit_of(exact_model, coders, method="gradient", edges=10_000)
    first = circuit.nodes[circuit.nodes["site"] == NAMES[0]]
    out = circuit.edges[circuit.edges["target"] >= 0].groupby("source")["weight"].sum()
    exact = exact_model.cfg.normalization_type == "LN"  # the others take their norms in float32
    tolerance = (1e-9 if exact else 1e-5) * first["effect"].abs().max()
    assert_allclose(out.reindex(first.index, fill_value=0), first["effect"], atol=tolerance, rtol=0)


@pytest.mark.parametrize("patch", [PATCH, None])
def test_what_reaches_a_latent_is_its_derivative_along_the_change(one, coders, patch):
    circuit = circuit_of(one, coders, method="gradient", edges=10_000, by="position", patch=patch)
    rows = circuit.edges.groupby("target")["weight"].sum()
    table = sk.attribute(one, coders, CLEAN, TARGETS, patch=patch).query("site == @NAMES[1] and kind == 'latent'")
    x, W_dec = sk.capture(one, CLEAN, NAMES[0])[NAMES[0]], coders[0]
    moved = -(x - W_dec.b_dec) if patch is None else sk.capture(one, PATCH, NAMES[0])[NAMES[0]] - x
    moved[:, 0] = 0.0
    expected: dict = {}
    for node in table[table["activation"] > 0].itertuples():
        with one.hooks([(NAMES[0], lambda x, hook: x.detach().requires_grad_())]):
            seen = sk.capture(one, CLEAN[node.prompt], *NAMES, grad=True)
        pre = seen[NAMES[1]][0, node.pos] @ coders[1].W_enc[:, node.latent]
        (g,) = torch.autograd.grad(pre, seen[NAMES[0]])
        key = node.latent, node.pos
        expected[key] = expected.get(key, 0.0) + node.gradient * (g[0] * moved[node.prompt]).sum().item() / 2
    mine = circuit.nodes.query("site == @NAMES[1] and kind == 'latent'")
    got = {(row.latent, row.place): rows.get(i, 0.0) for i, row in zip(mine.index, mine.itertuples(), strict=True)}
    assert expected
    for key, value in expected.items():
        assert got[key] == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_edges_do_not_pass_other_sites(one, coders):
    between = made("blocks.1.hook_mlp_out", seed=5, bias=-2.0)
    options = {"method": "gradient", "edges": 10_000}
    three = circuit_of(one, [coders[0], between, coders[1]], **options)
    with one.hooks([("blocks.1.hook_mlp_out", lambda x, hook: x.detach())]):
        two = circuit_of(one, coders, **options)

    def named(circuit):
        edges = circuit.edges[circuit.edges["target"] >= 0]
        keys = ["site", "kind", "latent"]
        ends = [circuit.nodes.loc[edges[end], keys].apply(tuple, axis=1).to_list() for end in ("source", "target")]
        return dict(zip(zip(*ends, strict=True), edges["weight"], strict=True))

    expected, got = named(two), named(three)
    assert expected and any("mlp" in key[1][0] for key in got)
    for key, value in expected.items():
        assert got[key] == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_a_transcoder_can_be_a_site(one, coders):
    transcoder = made("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out", seed=4, d_out=32, bias=-2.0)
    circuit = circuit_of(one, [coders[0], transcoder], method="gradient", edges=10_000)
    sources = circuit.nodes.loc[circuit.edges.query("target >= 0")["source"], "site"]
    assert {*sources} == {NAMES[0]}
    into = circuit.edges.merge(circuit.nodes, left_on="target", right_index=True)
    assert {*into["kind"]} == {"latent", "error"}  # an error is what the MLP makes of x, less what the transcoder does


def test_the_graph_has_rows_that_add_up(one, coders):
    circuit = circuit_of(one, coders, by="position", edges=10_000)
    graph = circuit.graph()
    assert_allclose(np.asarray(graph.weights.sum(1)).ravel() + graph.rest, graph.totals, atol=1e-12)
    assert graph.totals[-1] == pytest.approx(-circuit.sums["effects"].iloc[-1]) and abs(graph.rest[-1]) < 1e-9
    assert graph.about["sites"] == ["resid.0", "resid.1"] and graph.tokens == circuit.tokens
    small = circuit_of(one, coders, edges=8).graph()
    assert (small.nodes["pos"] == -1).all() and len(small) <= 9
    assert len(small.prune(0.5)) < len(small)


# --- what is kept


def dense_only(model, coders, keep, errors):
    """The same with plain dense hooks, one prompt after the other."""
    base = []
    for coder in coders:
        x = sk.capture(model, PATCH, coder.site)[coder.site.read]
        base.append((coder.encode(x.flatten(0, 1)).dense().view(2, 7, -1).mean(0), x.mean(0)))

    def put(x, hook, i):
        coder, (mean, y) = coders[i], base[i]
        f = coder.encode(x[0]).dense()
        e = x[0] - coder.decode(coder.encode(x[0])) if errors else y - mean @ coder.W_dec - coder.b_dec
        out = torch.where(keep[i], f, mean) @ coder.W_dec + coder.b_dec + e
        return torch.cat([x[:, :1], out[None, 1:]], 1)

    found = []
    for prompt, target in zip(CLEAN, TARGETS, strict=True):
        hooks = [(coder.site.read, lambda x, hook, i=i: put(x, hook, i)) for i, coder in enumerate(coders)]
        with model.hooks(hooks):
            found.append(target.on(model)(logits_of(model, prompt[None])))
    return torch.cat(found)


@pytest.mark.parametrize("errors", [True, False])
def test_only_is_what_dense_hooks_give(one, coders, errors):
    generator = torch.Generator().manual_seed(0)
    keep = [torch.rand(3, 1, 7, coder.d_sae, generator=generator) < 0.5 for coder in coders]
    base = circuits.averages(one, coders, PATCH)
    got = circuits.only(one, coders, CLEAN, TARGETS, keep, base, errors=errors)
    for k in range(3):
        assert_allclose(got[k], dense_only(one, coders, [mask[k, 0] for mask in keep], errors), atol=1e-9)
    assert n_hooks(one) == 0


def test_means_are_over_positions_or_all(one, coders):
    x = sk.capture(one, PATCH, NAMES[0])[NAMES[0]]
    f = coders[0].encode(x.flatten(0, 1)).dense().view(2, 7, -1)
    apart, pooled = (circuits.averages(one, coders, PATCH, aligned=aligned, batch=1)[0] for aligned in (True, False))
    assert_allclose(apart.codes[1:], f.mean(0)[1:])
    assert_allclose(apart.y[1:], x.mean(0)[1:])
    assert_allclose(pooled.codes, f[:, 1:].flatten(0, 1).mean(0).expand(7, -1))
    assert_allclose(pooled.y, x[:, 1:].flatten(0, 1).mean(0).expand(7, -1))


@pytest.mark.parametrize("by", ["sum", "position"])
def test_the_whole_circuit_is_the_model_and_the_empty_one_is_nothing(one, coders, by):
    circuit = circuit_of(one, coders, by=by, edges=0)
    n = len(circuit.latents())
    ask = {"patch": PATCH, "sizes": [0, 3, n], "random": 4}
    found = sk.faithfulness(one, coders, circuit, CLEAN, TARGETS, **ask)
    kept, removed = (found[found["arm"] == arm].set_index("latents") for arm in ("errors kept", "errors removed"))
    assert kept.loc[n, "circuit"] == pytest.approx(1) and kept.loc[0, "complement"] == pytest.approx(1)
    for arm in (kept, removed):
        assert arm.loc[0, "circuit"] == pytest.approx(0, abs=1e-12) and arm.loc[0, "random"] == pytest.approx(
            0, abs=1e-9
        )
    assert 0 < abs(removed.loc[n, "circuit"] - 1) < 10  # errors are a part of the model
    assert found.attrs["errors kept"]["all"] == pytest.approx(found.attrs["model"]) == circuit.value
    again = sk.faithfulness(one, coders, circuit, CLEAN, TARGETS, **ask, batch=1)
    assert_allclose(found.drop(columns="arm"), again.drop(columns="arm"), atol=1e-9)


@pytest.mark.parametrize("by", ["sum", "position"])
def test_nothing_works_without_all_nodes_of_a_site(one, coders, by):
    """Of the first site only: later ones can have latents on in an ablated run that are on in no prompt."""
    circuit = circuit_of(one, coders[:1], by=by, edges=0)
    ask = {"patch": PATCH, "sizes": [len(circuit.latents())], "random": 0}
    found = sk.faithfulness(one, coders[:1], circuit, CLEAN, TARGETS, **ask)
    assert_allclose(found["complement"], 0, atol=1e-9)


def test_faithfulness_is_the_share_of_the_target(one, coders):
    circuit = circuit_of(one, coders, by="position", edges=0)
    row = sk.faithfulness(one, coders, circuit, CLEAN, TARGETS, patch=PATCH, sizes=[4], random=0)
    row = row.iloc[1]
    keep = [torch.zeros(7, coder.d_sae, dtype=torch.bool) for coder in coders]
    for node in circuit.latents(4).itertuples():
        keep[NAMES.index(node.site)][node.place, node.latent] = True
    whole, none = m_of(one, CLEAN).mean(), dense_only(one, coders, [torch.zeros_like(k) for k in keep], False).mean()
    expected = (dense_only(one, coders, keep, False).mean() - none) / (whole - none)
    assert row["arm"] == "errors removed" and row["circuit"] == pytest.approx(expected.item())


def test_the_interval_holds_what_it_is_of():
    rng = np.random.default_rng(0)
    m, none = rng.normal(4, 1, 60), rng.normal(0, 1, 60)
    circuit = none + 0.7 * (m - none) + rng.normal(0, 0.5, 60)
    low, high = interval(circuit, none, m, seed=0)
    assert low < share(circuit, none, m) < high and high - low < 0.2
    assert interval(none + 0.7 * (m - none), none, m, seed=0) == pytest.approx((0.7, 0.7))


def test_random_circuits_have_as_many_at_each_site(one, coders):
    circuit = circuit_of(one, coders, by="position", edges=0)
    like, rng = circuit.latents(9), np.random.default_rng(0)
    draws = [drawn_like(circuit.active, like, rng) for _ in range(5)]
    for drawn in draws:
        assert drawn["site"].value_counts().to_dict() == like["site"].value_counts().to_dict()
        assert (drawn["on"] > 0).all() and drawn.index.is_unique
    assert len({tuple(sorted(drawn.index)) for drawn in draws}) > 1


def test_a_swap_of_everything_is_the_patch_and_of_nothing_the_prompt(one):
    coders = [identity(NAMES[0])]
    circuit = circuit_of(one, coders, edges=0, by="position")
    whole = sk.swapped(one, coders, circuit.nodes, circuit.places, CLEAN, PATCH, TARGETS)
    none = sk.swapped(one, coders, circuit.nodes.iloc[:0], circuit.places, CLEAN, PATCH, TARGETS)
    assert (none["before"] == none["after"]).all() and not none["flipped"].any()
    logits = rerun(one, CLEAN, sk.capture(one, PATCH, NAMES[0]), not_bos(one, CLEAN))[0]
    expected = [t.on(one)(logits[i : i + 1]).item() for i, t in enumerate(TARGETS)]
    assert_allclose(whole["after"], expected)
    assert_allclose(whole["patch"], m_of(one, PATCH))
    assert_allclose(whole["before"], m_of(one, CLEAN))


# --- what is refused


def test_bad_input_is_named(one, coders):
    def refused(match, **options):
        arguments = {"coders": coders, "prompt": CLEAN, "target": TARGETS} | options
        with pytest.raises(ValueError, match=match):
            sk.feature_circuit(one, **arguments)

    refused("not in the model", coders=coders[::-1])
    refused("not in the model", coders=[coders[0], coders[0]])
    refused("several hooks", coders=[made((NAMES[0], NAMES[1]), d_in=64, d_out=64)])
    refused("by='layer'", by="layer")
    refused("method='exact'", method="exact")
    refused("edges=-1", edges=-1)
    refused("shape", patch=PATCH[:, :5])
    refused("2 targets for 1 prompts", prompt=CLEAN[:1])
    refused("0 targets", target=[])
    refused("read at", target=[sk.logit("a"), sk.Target({66: 1.0}, "there", pos=2)])
    circuit = circuit_of(one, coders, by="position", edges=0)
    with pytest.raises(ValueError, match="no edges"):
        circuit.graph()
    with pytest.raises(ValueError, match="9999 latents"):
        sk.faithfulness(one, coders, circuit, CLEAN, TARGETS, patch=PATCH, sizes=[9999])
    with pytest.raises(ValueError, match="7 positions"):
        sk.faithfulness(one, coders, circuit, CLEAN[:, :6], TARGETS, patch=PATCH[:, :6])
    with pytest.raises(ValueError, match="the same"):
        sk.swapped(one, coders, circuit.nodes, circuit.places, CLEAN, PATCH[:, :5], TARGETS)
    assert n_hooks(one) == 0


def test_the_model_is_left_clean(one, coders):
    def breaks(x):
        raise RuntimeError("here")

    before = logits_of(one, CLEAN)
    for call in (
        lambda: sk.feature_circuit(one, coders, CLEAN, breaks),
        lambda: circuits.only(
            one, coders, CLEAN, breaks, [torch.ones(1, 1, 7, 24, dtype=bool)] * 2, circuits.averages(one, coders, PATCH)
        ),
    ):
        with pytest.raises(RuntimeError, match="here"):
            call()
    assert n_hooks(one) == 0 and torch.equal(logits_of(one, CLEAN), before)
