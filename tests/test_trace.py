"""Attribution graphs: rows that add up, in eight families; what a graph predicts is what the held model does."""

import numpy as np
import pytest
import torch
import transcoders
from torch import Tensor

import saekit as sk
from bench.baselines import ExpandedBatch
from saekit.circuits import sources as parts
from saekit.circuits.frozen import LOGITS, Frozen

PROMPT = "a red box"


def close(a, b, tolerance: float = 1e-9) -> bool:
    """Equal to this part of the size."""
    a, b = (np.asarray(t.detach() if isinstance(t, Tensor) else t) for t in (a, b))
    return bool(np.abs(a - b).max() <= tolerance * max(1.0, float(np.abs(b).max())))


def coders_for(model, kind: str):
    if kind == "across":
        return transcoders.cross_layer(model)
    return transcoders.per_layer(model, skip=kind == "skip")


def tokens_of(model) -> Tensor:
    return model.to_tokens(PROMPT, prepend_bos=True)


@pytest.mark.parametrize("kind", ["plain", "skip", "across"])
def test_rows_add_up_in_every_family(exact_model, kind):
    graph = sk.trace(exact_model, coders_for(exact_model, kind), PROMPT, bound=0.0)
    rows = graph.weights.sum(axis=1) + graph.rest
    latents = (graph.nodes["kind"] == "latent").to_numpy()
    assert latents.sum() > 100 and graph.expanded[latents].mean() > 0.5
    assert close(rows[graph.expanded], graph.totals[graph.expanded])
    assert np.allclose(graph.totals[latents & graph.expanded], graph.nodes["activation"][latents & graph.expanded])


def test_held_model_is_affine_in_its_leaves(exact_model):
    frozen = Frozen(exact_model, transcoders.per_layer(exact_model), tokens_of(exact_model))
    g = torch.randn(257, dtype=torch.float64)
    pulled = frozen.pull(LOGITS, torch.tensor([0]), g[None])
    value = sum((pulled[name][0] * leaf[0]).sum() for name, leaf in frozen.leaves.items())
    constant = frozen.constants[LOGITS][0, 0] @ g
    assert close(value + constant, frozen.taps[LOGITS][0, 0] @ g)
    other = {name: leaf + torch.randn_like(leaf) for name, leaf in frozen.leaves.items()}
    change = sum((pulled[name][0] * (other[name] - leaf)[0]).sum() for name, leaf in frozen.leaves.items())
    assert close(value + change + constant, frozen.replay(other)[LOGITS][0, 0] @ g)


@pytest.mark.parametrize("kind", ["plain", "skip", "across"])
def test_transcoders_and_their_errors_give_the_logits(exact_model, kind):
    graph = sk.trace(exact_model, coders_for(exact_model, kind), PROMPT, bound=1.0)
    found = graph.faithfulness(exact_model, random=2)
    logits = exact_model(tokens_of(exact_model))[0, -1]
    if (cap := getattr(exact_model.cfg, "output_logits_soft_cap", 0)) and cap > 0:
        logits = cap * torch.atanh(logits / cap)
    target = graph.nodes[graph.nodes["kind"] == "logit"]
    p = target["probability"].to_numpy()
    expected = p / p.sum() @ (logits[target["index"].tolist()] - logits.mean()).detach().numpy()
    exact = isinstance(exact_model.ln_final.original_component, torch.nn.LayerNorm)  # RMSNorms round to float32
    assert close(found["kept"]["all"], expected, 1e-9 if exact else 1e-6)
    assert found["kept"]["circuit"] == pytest.approx(1.0) and found["share"] == 1.0
    assert abs(found["removed"]["all"] - expected) > 1e-3


@pytest.mark.parametrize("kind", ["plain", "skip", "across"])
def test_doubling_a_node_adds_its_column(exact_model, kind):
    graph = sk.trace(exact_model, coders_for(exact_model, kind), PROMPT, bound=0.0)
    rng = np.random.default_rng(0)
    nodes = np.concatenate([
        rng.choice(np.flatnonzero(graph.nodes["kind"] == "latent"), 8, replace=False),
        [np.flatnonzero(graph.nodes["kind"] == kind)[3] for kind in ("token", "error")],
        [0, 1],
    ]).tolist()  # fmt: skip
    outcomes = graph.intervene(exact_model, [{node: 2.0} for node in nodes])
    columns = graph.weights[:, nodes].toarray()
    for node, outcome, column in zip(nodes, outcomes, columns.T, strict=True):
        moved = (outcome.after - outcome.before)[graph.expanded]
        if node:  # biases of attention and norms do not double with those of the transcoders
            assert close(moved, column[graph.expanded])
        else:
            assert not close(moved, 0 * moved)
    assert close(columns[:, 0], graph.predict({nodes[0]: 2.0}))


@pytest.mark.parametrize("target", [None, "q", 70, ["q", 70]])
def test_batches_and_one_row_at_a_time_are_the_same(exact_models, target):
    model = exact_models("gpt2")
    coders = transcoders.per_layer(model)
    whole, single = (sk.trace(model, coders, PROMPT, target, bound=0.05, batch=b) for b in (256, 1))
    assert set(whole.nodes.columns) == set(single.nodes.columns) and whole.bound <= 0.05 >= single.bound
    both = whole.expanded & single.expanded
    assert np.allclose(whole.weights[both].toarray(), single.weights[both].toarray(), atol=1e-12)


def test_rows_are_those_of_a_pass_on_copies_of_the_prompt(exact_model):
    """The peers' way: as many copies of the prompt as rows, and gradients injected at what they read."""
    sources = parts.Sources(Frozen(exact_model, transcoders.per_layer(exact_model), tokens_of(exact_model)))
    active, tap = sources.active[2], sources.frozen.banks[2].site.read
    ours = parts.contributions(sources, tap, active.pos[:5], active.seed[:5])
    theirs = ExpandedBatch(sources, 5).rows(tap, active.pos[:5], active.seed[:5])
    assert ours.abs().max() > 0 and close(ours, theirs)


def test_a_cross_layer_transcoder_that_writes_its_own_layer_is_a_per_layer_one(exact_model):
    across, n, d = transcoders.cross_layer(exact_model), exact_model.cfg.n_layers, exact_model.cfg.d_model
    banks = []
    for layer, bank in enumerate(across):
        bank.W_dec[:, d:], bank.b_dec[d:] = 0, 0
        own = transcoders.bank(exact_model, layer)
        own.load_state_dict({k: v[..., :d] if k in ("W_dec", "b_dec") else v for k, v in bank.state_dict().items()})
        banks.append(own)
    one, other = (sk.trace(exact_model, c, PROMPT, bound=0.0) for c in (across, transcoders.stack(banks)))
    assert n > 1 and one.nodes.equals(other.nodes)
    assert close(one.weights.toarray(), other.weights.toarray())


def test_gated_latents_and_those_of_a_list_add_up(exact_models):
    model = exact_models("gpt2")
    torch.manual_seed(1)
    kinds = [sk.Gated(40), sk.ProLU(40), sk.JumpReLU(40)]
    banks = [transcoders.bank(model, layer, nonlinearity=kind) for layer, kind in enumerate(kinds)]
    graph = sk.trace(model, banks, PROMPT, bound=0.0)
    assert close((graph.weights.sum(axis=1) + graph.rest)[graph.expanded], graph.totals[graph.expanded])
    assert {*graph.nodes["layer"][graph.nodes["kind"] == "latent"]} == {0, 1, 2}


def test_what_is_off_leaves_no_trace(exact_models):
    model = exact_models("gpt2")
    coders = transcoders.per_layer(model)
    graph = sk.trace(model, coders, PROMPT, bound=0.0)
    on = {*graph.nodes["index"][(graph.nodes["kind"] == "latent") & (graph.nodes["layer"] == 1)]}
    off = [i for i in range(transcoders.LATENTS) if i not in on]
    for i in off:
        coders.banks[1].W_dec[i] += 1.0
    coders.banks[1].b_enc[off] -= 0.01
    again = sk.trace(model, coders, PROMPT, bound=0.0)
    assert len(off) and again.nodes.equals(graph.nodes) and abs(again.weights - graph.weights).max() == 0


def test_the_bound_holds_and_dropped_edges_go_to_the_rest(exact_models):
    model = exact_models("gpt2")
    coders = transcoders.per_layer(model)
    full = sk.trace(model, coders, PROMPT, bound=0.0)
    for bound in (0.3, 0.1):
        part = sk.trace(model, coders, PROMPT, bound=bound, batch=8)
        assert 0 < part.bound <= bound and part.expanded.sum() < full.expanded.sum()
        inputs = ~part.nodes["kind"].isin(["latent", "logit"]).to_numpy()
        lost = (full.influence() - part.influence())[inputs]
        assert lost.min() > -1e-12 and lost.sum() == pytest.approx(part.bound * part.nodes["probability"].sum())
    few = sk.trace(model, coders, PROMPT, bound=0.0, nodes=7)
    assert few.expanded.sum() == 7 + (few.nodes["kind"] == "logit").sum()
    cut = sk.trace(model, coders, PROMPT, bound=0.0, edges=0.9)
    assert cut.weights.nnz < 0.8 * full.weights.nnz and abs(cut.rest).max() > 0
    assert np.allclose((cut.weights.sum(axis=1) + cut.rest)[cut.expanded], cut.totals[cut.expanded])


def test_stopped_early_it_gives_the_rows_so_far(exact_models):
    model, seen = exact_models("gpt2"), []
    coders = transcoders.per_layer(model)
    graph = sk.trace(model, coders, PROMPT, bound=0.0, batch=4, progress=lambda p: seen.append(p) or len(seen) == 3)
    assert len(seen) == 3 and graph.bound == pytest.approx(seen[-1].left) and seen[0].left > seen[-1].left

    def interrupt(progress):
        raise KeyboardInterrupt

    early = sk.trace(model, coders, PROMPT, bound=0.0, batch=4, progress=interrupt)
    assert early.expanded.sum() < graph.expanded.sum() < len(graph)


def test_targets(exact_models):
    """The likeliest tokens, tokens, and differences, whose directions the graph keeps."""
    model = exact_models("gpt2")
    coders = transcoders.per_layer(model)
    logits = model(tokens_of(model))[0, -1].detach()
    several = sk.trace(model, coders, PROMPT, logits=3, mass=1.0, bound=1.0)
    top = logits.topk(3)
    found = several.nodes[several.nodes["kind"] == "logit"]
    assert found["index"].tolist() == top.indices.tolist()
    assert np.allclose(found["probability"], logits.softmax(0)[top.indices])
    assert np.allclose(several.totals[found.index], top.values - logits.mean())
    assert (sk.trace(model, coders, PROMPT, mass=0.0, bound=1.0).nodes["kind"] == "logit").sum() == 1
    mixed = sk.trace(model, coders, PROMPT, ["q", sk.logit_diff("q", "x"), sk.logit("x")], bound=1.0)
    q, x = model.tokenizer.convert_tokens_to_ids(["q", "x"])
    found = mixed.nodes[mixed.nodes["kind"] == "logit"]
    assert found["index"].tolist() == [q, -1, x] and found["label"].tolist()[1] == sk.logit_diff("q", "x").label
    expected = [logits[q] - logits.mean(), logits[q] - logits[x], logits[x]]
    assert np.allclose(mixed.totals[found.index], torch.stack(expected))
    latent = int(np.argmax(np.abs(mixed.weights[found.index[1]].toarray()) * (mixed.nodes["kind"] == "latent")))
    outcome = mixed.intervene(model, {latent: 2.0})
    assert np.allclose(
        (outcome.after - outcome.before)[found.index], mixed.weights[:, [latent]].toarray()[found.index, 0]
    )


def test_bad_input_is_named_and_the_model_stays_clean(exact_models):
    model = exact_models("gpt2")
    coders, tokens = transcoders.per_layer(model), tokens_of(model)
    before, wide = model(tokens), transcoders.per_layer(model)
    for bank in wide.banks:
        bank.model = bank.model | {"n_layers": 12}
    for match, call in {
        "at least two": lambda: sk.trace(model, coders, ""),
        "71 tokens": lambda: sk.trace(model, coders, "a" * 70),
        "'ab' is 2 tokens": lambda: sk.trace(model, coders, PROMPT, "ab"),
        "'' is 0 tokens": lambda: sk.trace(model, coders, PROMPT, ""),
        "token 5000 is not in": lambda: sk.trace(model, coders, PROMPT, 5000),
        r"layer \[1\]": lambda: sk.trace(model, [coders.banks[0], coders.banks[2]], PROMPT),
        "several coders read layer 0": lambda: sk.trace(model, [coders.banks[0]] * 2, PROMPT),
        "trained on": lambda: sk.trace(model, wide, PROMPT),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()
    silent = transcoders.per_layer(model)
    for bank in silent.banks:
        bank.b_enc.fill_(-1e3)
    with pytest.raises(ValueError, match="no latent is on"):
        sk.trace(model, silent, PROMPT)
    silent.banks[1].b_enc.fill_(torch.inf)
    with pytest.raises(ValueError, match="layer 1 gives activations that are not finite"):
        sk.trace(model, silent, PROMPT)
    autoencoder = sk.SparseCoder(32, 40, sk.ReLU()).double().eval()
    autoencoder.place(sk.Site("blocks.0.hook_resid_post"), None, None)
    with pytest.raises(ValueError, match="needs transcoders"):
        sk.trace(model, [autoencoder], PROMPT)

    def fails(progress):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sk.trace(model, coders, PROMPT, progress=fails)
    assert torch.equal(model(tokens), before)


def test_a_site_that_the_model_lacks_is_refused(exact_models):
    model = exact_models("neox")
    coders = transcoders.per_layer(model)
    coders.banks[0].site = sk.Site("blocks.0.hook_resid_mid", "blocks.0.hook_mlp_out")
    with pytest.raises(ValueError, match="no hook 'blocks.0.hook_resid_mid'"):
        sk.trace(model, coders, PROMPT)


def test_a_prompt_without_bos_has_no_node_for_it(exact_models):
    model = exact_models("gpt2")
    graph = sk.trace(model, transcoders.per_layer(model), tokens_of(model)[0, 1:], bound=0.0)
    assert "bos" not in {*graph.nodes["kind"]} and (graph.nodes["kind"] == "error").sum() == 3 * len(PROMPT)
    assert np.allclose((graph.weights.sum(axis=1) + graph.rest)[graph.expanded], graph.totals[graph.expanded])


@pytest.mark.parametrize("name", ["transcoders", "cross_layer_transcoder"])
def test_the_coders_that_ship(name):
    model = sk.load_model()
    text = "def area(w, h):\n    return w * h\n\ndef total(xs):\n    s = 0\n    for x in"
    tokens = model.to_tokens(text, prepend_bos=True)[:, :24]
    graph = sk.trace(model, sk.load(f"tiny-python/mlp/{name}"), tokens)
    rows = graph.weights.sum(axis=1) + graph.rest
    size = abs(graph.weights).sum(axis=1)
    wrong = (abs(rows - graph.totals) / np.maximum(size, 1))[graph.expanded]
    assert wrong.max() < 1e-5 and graph.bound <= 0.01 and len(graph.tokens) == 24
    assert graph.prune().weights.nnz < 5_000
