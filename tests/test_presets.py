"""Every preset learns from its source, resumes as if unbroken, uses all its parameters, and says what clashes."""

from types import SimpleNamespace

import IPython
import pytest
import torch
import zoo

import saekit as sk
from saekit import presets
from saekit.activations import Batch
from saekit.toy import Superposition
from saekit.train import Learner

D, F, K = 32, 64, 4
RESID = [sk.Site(f"blocks.{i}.hook_resid_post") for i in range(3)]
MLPS = sk.Site(tuple(f"blocks.{i}.mlp.hook_in" for i in range(3)), tuple(f"blocks.{i}.hook_mlp_out" for i in range(3)))
BOTH = sk.Site(("blocks.0.hook_resid_post", "blocks.1.hook_resid_post"))
OPTIONS = {"steps": 60, "batch_size": 128, "lr": 5e-3, "threads": 1, "precision": "float32", "progress": False}

# name -> (what makes it, its site, options of the source, how far the fvu must fall)
SOURCES = {
    "transcoder": (lambda: presets.transcoder(D, F, k=8), sk.Site(MLPS.read[1], MLPS.write[1]), {}, 0.7),
    "skip_transcoder": (lambda: presets.skip_transcoder(D, F, k=8), sk.Site(MLPS.read[1], MLPS.write[1]), {}, 0.5),
    "crosscoder": (lambda: presets.crosscoder(D, F, sparsity=0.2), BOTH, {}, 0.5),
    "crosscoder k": (lambda: presets.crosscoder(D, F, k=8), BOTH, {}, 0.5),
    "per_layer_transcoders": (lambda: presets.per_layer_transcoders(D, F, 3, k=8, skip=True), MLPS, {}, 0.5),
    "cross_layer_transcoder": (lambda: presets.cross_layer_transcoder(D, F, 3, l0=8), MLPS, {}, 0.7),
    "cross_layer_transcoder tanh": (lambda: presets.cross_layer_transcoder(D, F, 3, saturating=0.1), MLPS, {}, 0.7),
    "layer_group": (lambda: [made[0] for made in presets.layer_group(D, F, k=K)], RESID[:2], {}, 0.5),
    "end_to_end": (lambda: presets.end_to_end(D, F, k=8, local=1.0), RESID[1], {"sequences": True}, 0.5),
    "formal": (lambda: presets.formal(D, F, k=8), RESID[1], {"sequences": True}, 0.5),
}


@pytest.fixture
def source(tiny_models, tiny_corpus):
    def make(name):
        _, site, options, _ = SOURCES[name]
        return sk.Activations(tiny_models["gpt2"], site, tiny_corpus, **options)

    return make


def trained(name, acts, seed=0, **options):
    torch.manual_seed(seed)
    coder, objective = SOURCES[name][0]()
    return sk.train(coder, acts, objective, **(OPTIONS | options))


@pytest.mark.parametrize("name", SOURCES)
def test_it_learns_from_its_source(name, source):
    acts = source(name)
    run = trained(name, acts)
    history = run.history
    assert history.fvu.iloc[-1] < history.fvu.iloc[0] * SOURCES[name][3]
    x, y = acts.held_out(200)
    y_hat = run.coder(x)[0]  # of raw activations
    assert ((y - y_hat).square().sum() / (y - y.mean(0)).square().sum()) == pytest.approx(
        history.fvu.iloc[-5:].mean(), rel=0.4, abs=0.05
    )


@pytest.mark.parametrize("name", ["crosscoder", "cross_layer_transcoder", "end_to_end", "formal"])
def test_resumed_is_unbroken_bit_for_bit(name, source, tmp_path):
    whole = trained(name, source(name), steps=12)
    file = tmp_path / "run.safetensors"
    trained(name, source(name), steps=12, checkpoint=file, on_step=lambda m: m.step == 5)
    rest = trained(name, source(name), seed=7, steps=12, checkpoint=file)
    for key, tensor in whole.coder.state_dict().items():
        assert torch.equal(tensor, rest.coder.state_dict()[key]), key


@pytest.mark.parametrize("name", ["crosscoder", "cross_layer_transcoder", "per_layer_transcoders"])
def test_trained_on_several_sites_saved_and_loaded(name, source, tmp_path):
    run = trained(name, source(name), steps=5)
    again = sk.load(sk.save(run.coder, tmp_path / "it"))
    x = source(name).held_out(50).x
    assert torch.equal(again(x)[0], run.coder(x)[0])
    assert again.site == run.coder.site
    assert again.tokenizer == run.coder.tokenizer is not None


def test_a_stack_splices_bank_by_bank(source, tiny_models, tiny_corpus):
    """All banks in place, nothing kept: the MLP outputs become what the stack makes of the clean inputs' successors."""
    model, stack = (
        tiny_models["gpt2"],
        trained("cross_layer_transcoder", source("cross_layer_transcoder"), steps=5).coder,
    )
    assert [bank.site.writes for bank in stack] == [MLPS.write, MLPS.write[1:], MLPS.write[2:]]
    tokens = tiny_corpus.tokens[:2]
    with sk.splice(model, stack, keep_error=False):
        seen = sk.capture(model, tokens, MLPS)
    x = MLPS.inputs(seen).flatten(0, 1)
    y = MLPS.targets(seen).flatten(0, 1)
    text = torch.from_numpy(tiny_corpus.mask[:2]).flatten()
    torch.testing.assert_close(y[text], stack(x)[0][text], rtol=1e-3, atol=1e-3)


def test_each_site_has_a_scale_of_its_own(source):
    seen = {}
    trained("crosscoder", source("crosscoder"), steps=2, on_step=lambda m: seen.update(scale=m.scale))
    norms = [(part * s).norm(dim=1).mean() for part, s in zip(
        source("crosscoder").held_out(500).x.split(D, 1), seen["scale"].x.split(D), strict=True)]  # fmt: skip
    assert [round(float(n) / D**0.5, 1) for n in norms] == [1.0, 1.0]


def test_aligned_coders_agree_more(tiny_models, tiny_corpus):
    acts = sk.Activations(tiny_models["gpt2"], RESID[1], tiny_corpus)

    def agreement(weight):
        torch.manual_seed(0)
        coders, objectives = presets.feature_aligned(D, F, k=K, weight=weight)
        runs = sk.train(coders, acts, objectives, **OPTIONS)
        a, b = (torch.nn.functional.normalize(run.coder.W_dec, dim=1) for run in runs)
        return (a @ b.T).max(1).values.mean(), runs[0].history.fvu.iloc[-1]

    (apart, fvu), (aligned, its_fvu) = agreement(0.0), agreement(1.0)
    assert aligned > apart + 0.1
    assert its_fvu < 2 * fvu


def test_decoder_rows_are_a_source():
    torch.manual_seed(0)
    parts = torch.nn.functional.normalize(torch.randn(12, D), dim=1)
    other = sk.SparseCoder(D, 66, sk.ReLU())
    with torch.no_grad():  # each row is made of two parts: what a meta-coder is to find
        other.W_dec.copy_(3 * torch.stack([parts[i] + parts[j] for i in range(12) for j in range(i)]))
    coder, objective = presets.meta_sae(D, 12, k=2)
    rows = sk.Rows.of_decoder(other, tokens=1000)
    run = sk.train(coder, rows, objective, **(OPTIONS | {"steps": 400, "lr": 1e-2}))
    assert run.history.fvu.iloc[-1] < 0.4
    assert run.coder.site is None
    assert torch.equal(rows.held_out(5).x, rows.held_out(5).x)
    assert torch.allclose(rows.x.norm(dim=1), torch.ones(66))


def test_layers_that_point_the_same_way_share_a_group(tiny_models, tiny_corpus):
    model = tiny_models["gpt2"]
    with model.hooks(
        [("blocks.1.hook_mlp_out", lambda x, hook: x * 1e-4), ("blocks.1.hook_attn_out", lambda x, hook: x * 1e-4)]
    ):
        groups = sk.layer_groups(model, tiny_corpus, 2)
    assert [[site.layer for site in group] for group in groups] == [[0, 1], [2]]
    assert [len(group) for group in sk.layer_groups(model, tiny_corpus, 3)] == [1, 1, 1]
    with pytest.raises(ValueError, match="n_groups=4: the model has 3 layers"):
        sk.layer_groups(model, tiny_corpus, 4)


def test_in_a_notebook_every_source_and_coder_gets_a_monitor(source, monkeypatch):
    """A stack, a source without a model, a toy."""

    def pair(acts):
        coder, objective = presets.meta_sae(D, 12, k=2)
        return coder, acts, objective

    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=True))
    stacked = trained("cross_layer_transcoder", source("cross_layer_transcoder"), steps=2, progress=True)
    few = OPTIONS | {"steps": 2, "progress": True}
    alone = [sk.train(*pair(acts), **few) for acts in (sk.Rows(torch.randn(50, D)), Superposition(12, D))]
    assert [monitor.run for monitor in shown] == [stacked, *alone]
    assert [monitor.html.count("<figure") for monitor in shown] == [5, 5, 6]


@pytest.mark.parametrize("name", zoo.WITHOUT_MODEL)
def test_every_parameter_has_a_gradient_within_20_steps(name):
    torch.manual_seed(0)
    coder, objective = zoo.PRESETS[name]()
    learner = Learner(coder, objective, steps=100, lr=1e-3, dead_after=0.1)
    if isinstance(coder, sk.SparseCoder):
        learner.peers = (zoo.peer(coder),)
    x, y = zoo.inputs(coder, 2000)
    learner.begin(Batch(x, y))
    waiting = {key for key, p in coder.named_parameters() if p.requires_grad}
    for step in range(20):
        rows = slice(100 * step, 100 * step + 100)
        part = x[rows]
        assert learner.step(Batch(part, part if y is x else y[rows]), step, fast=False)
        waiting -= {key for key, p in coder.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert not waiting


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: presets.topk(8, 4, k=5), "k=5 is more than d_sae=4"),
        (lambda: presets.batch_topk(8, 4, k=5), "k=5 is more than d_sae=4"),
        (lambda: presets.feature_choice(8, 4, k=5), "k=5 is more than d_sae=4"),
        (lambda: presets.switch(8, 20, experts=3), "d_sae=20 .* experts=3"),
        (lambda: presets.switch(8, 20, k=6, experts=4), r"k=6 is more than the 5 latents of one expert \(20 / 4\)"),
        (lambda: presets.matryoshka(8, 20, k=2, widths=(4, 10)), r"widths=\(4, 10\) end at 10, but d_sae=20"),
        (lambda: presets.matryoshka(8, 20, k=2, widths=(10, 4, 20)), r"widths=\(10, 4, 20\): .*ascending"),
        (lambda: presets.crosscoder(8, 20, n_sites=1), "n_sites=1"),
        (lambda: presets.cross_layer_transcoder(8, 20, 1), "n_layers=1"),
        (lambda: presets.per_layer_transcoders(8, 20, 0), "n_layers=0"),
        (lambda: presets.p_anneal(8, 20, p_end=0.0), "p_end=0.0"),
        (lambda: presets.feature_aligned(8, 20, k=2, n=1), "n=1"),
        (lambda: presets.layer_group(8, 20, k=2, n_groups=0), "n_groups=0"),
        (lambda: presets.specialized(8, 20, k=2, tilt=0.0), "t=0.0"),
        (lambda: sk.Rows(torch.full((3, 2), float("nan"))), "all values finite"),
    ],
)
def test_an_impossible_combination_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
