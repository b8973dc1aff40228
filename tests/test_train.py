"""One loop for every preset: it learns, stops, resumes bit for bit, and hands back a coder of raw activations."""

import os
import signal

import pytest
import torch

import saekit as sk
from saekit import presets
from saekit.train import geometric_median

SITE = sk.Site("blocks.1.hook_resid_post")
D, F = 32, 96
MADE = {
    "relu": lambda: presets.relu(D, F, sparsity=0.5),
    "gated": lambda: presets.gated(D, F, sparsity=0.5),
    "topk": lambda: presets.topk(D, F, k=4),
    "batch_topk": lambda: presets.batch_topk(D, F, k=4),
    "prolu": lambda: presets.prolu(D, F, sparsity=0.5),
    "jumprelu": lambda: presets.jumprelu(D, F, l0=4),
    "jumprelu tanh": lambda: presets.jumprelu(D, F, saturating=0.5),
    "switch": lambda: presets.switch(D, F, k=4, experts=4),
    "matryoshka": lambda: presets.matryoshka(D, F, k=4),
    "p_anneal": lambda: presets.p_anneal(D, F, sparsity=0.5),
    "feature_choice": lambda: presets.feature_choice(D, F, k=4),
    "mutual_choice": lambda: presets.mutual_choice(D, F, k=4),
    "specialized": lambda: presets.specialized(D, F, k=4),
    "resampled": lambda: (presets.relu(D, F, sparsity=0.5)[0], presets.relu(D, F, sparsity=0.5)[1] + sk.resample()),
    "ghosts": lambda: (presets.relu(D, F, sparsity=0.5)[0], presets.relu(D, F, sparsity=0.5)[1] + sk.ghost()),
}


@pytest.fixture
def acts(tiny_models, tiny_corpus):
    return sk.Activations(tiny_models["gpt2"], SITE, tiny_corpus, block=700)


def trained(acts, name="batch_topk", seed=0, **options):
    torch.manual_seed(seed)
    coder, objective = MADE[name]()
    settings = {"steps": 60, "batch_size": 128, "lr": 5e-3, "threads": 1, "precision": "float32", "progress": False}
    return sk.train(coder, acts, objective, **(settings | options))


def fvu(coder, x):
    return ((x - coder(x)[0]).square().sum() / (x - x.mean(0)).square().sum()).item()


@pytest.mark.parametrize("name", MADE)
def test_it_learns_and_hands_back_a_finished_coder(acts, name):
    run = trained(acts, name)
    coder, x = run.coder, acts.held_out(200).x
    assert run.history.fvu.iloc[-1] < run.history.fvu.iloc[0] / 2
    assert not coder.training
    assert coder.site == SITE
    assert torch.equal(coder.b_pre, torch.zeros(D))
    assert not any(p.requires_grad for p in coder.parameters())
    # raw activations: what the last training batches saw is what a user sees
    assert fvu(coder, x) == pytest.approx(run.history.fvu.iloc[-5:].mean(), rel=0.3, abs=0.01)
    assert list(run.history.columns[:3]) == ["step", "tokens", "loss"]
    assert {"fvu", "l0", "dead", "lr"} <= set(run.history.columns)


def test_batch_topk_keeps_its_l0_outside_training(acts):
    run = trained(acts)
    l0 = len(run.coder.encode(acts.held_out(200).x).values) / 200
    assert l0 == pytest.approx(4, rel=0.15)


def test_a_tokens_code_does_not_depend_on_its_neighbours(acts):
    run, x = trained(acts), acts.held_out(60).x
    alone = torch.cat([run.coder.encode(row[None]).dense() for row in x])
    torch.testing.assert_close(run.coder.encode(x).dense(), alone)


@pytest.mark.parametrize("name", MADE)
def test_resumed_is_unbroken_bit_for_bit(acts, name, tmp_path):
    whole = trained(acts, name)
    file = tmp_path / "run.safetensors"
    part = trained(acts, name, checkpoint=file, on_step=lambda m: m.step == 23)
    assert part.stopped
    assert part.steps == 23
    rest = trained(acts, name, seed=7, checkpoint=file)  # the seed of the start no longer matters
    assert not rest.stopped
    for key, tensor in whole.coder.state_dict().items():
        assert torch.equal(tensor, rest.coder.state_dict()[key]), key
    same = [c for c in whole.history.columns if c != "seconds"]
    assert whole.history[same].equals(rest.history[same])


def test_the_same_run_twice_is_the_same(acts):
    a, b = trained(acts), trained(acts)
    assert all(torch.equal(p, q) for p, q in zip(a.coder.parameters(), b.coder.parameters(), strict=True))


def test_several_coders_on_one_stream_are_as_alone(acts):
    torch.manual_seed(0)
    made = [MADE["topk"](), MADE["jumprelu"]()]
    options = {"steps": 20, "batch_size": 128, "threads": 1, "precision": "float32", "progress": False}
    runs = sk.train([c for c, _ in made], acts, [o for _, o in made], **options)
    torch.manual_seed(0)
    coder, objective = MADE["topk"]()
    alone = sk.train(coder, acts, objective, **options)
    assert torch.equal(runs[0].coder.W_dec, alone.coder.W_dec)
    assert len(runs) == 2


def test_ctrl_c_keeps_what_was_learned(acts):
    before = signal.getsignal(signal.SIGINT)  # ignored where a shell started us in the background
    run = trained(acts, on_step=lambda m: m.step == 10 and os.kill(os.getpid(), signal.SIGINT))
    assert run.stopped
    assert 10 <= run.steps <= 12
    assert not run.coder.training
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stopped_run_is_calibrated_and_folded_like_a_whole_one(acts):
    run = trained(acts, on_step=lambda m: m.step == 30)
    assert run.stopped
    assert len(run.coder.encode(acts.held_out(200).x).values) / 200 == pytest.approx(4, rel=0.15)


def test_a_loss_that_is_not_finite_stops_before_it_does_harm(acts):
    torch.manual_seed(0)
    coder, _ = MADE["topk"]()
    nan_after = sk.Objective((("broken", lambda p: float("nan") if p > 0.5 else 1.0, sk.fvu().terms[0][2]),))
    with pytest.warns(UserWarning, match="not finite at step 6"):
        run = sk.train(coder, acts, nan_after, steps=10, batch_size=64, progress=False)
    assert run.stopped
    assert all(bool(torch.isfinite(p).all()) for p in run.coder.parameters())


def test_activations_that_break_in_mid_run_cost_nothing_that_was_learned(acts, tiny_models):
    torch.manual_seed(0)
    coder, objective = MADE["topk"]()
    calls = iter(range(10**6))

    def breaks(x, hook):
        return x * float("nan") if next(calls) > 9 else None

    broken = tiny_models["gpt2"].hooks([("blocks.1.hook_resid_post", breaks)])
    with broken, pytest.raises(ValueError, match="NaN or infinite"):
        sk.train(coder, acts, objective, steps=60, batch_size=128, lr=5e-3, progress=False)
    assert not coder.training
    assert coder.site == SITE
    assert fvu(coder, acts.held_out(200).x) < 0.9


def test_a_transcoder_learns(tiny_models, tiny_corpus):
    site = sk.Site("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    acts = sk.Activations(tiny_models["gpt2"], site, tiny_corpus)
    torch.manual_seed(0)
    coder = sk.SparseCoder(D, F, sk.TopK(8), skip=True)
    run = sk.train(coder, acts, sk.fvu(), steps=80, batch_size=128, lr=5e-3, progress=False)
    x, y = acts.held_out(200)
    assert ((y - coder(x)[0]).square().sum() / (y - y.mean(0)).square().sum()) < 0.6
    assert run.history.fvu.iloc[-1] < 0.6


def test_geometric_median_shrugs_off_an_outlier():
    x = torch.randn(200, 5)
    x[0] = 1e6
    assert geometric_median(x).norm() < 0.5
    assert geometric_median(torch.ones(10, 3)).tolist() == [1, 1, 1]


def test_bad_input_is_named(acts, tiny_models, tiny_corpus, tmp_path):
    coder, objective = presets.topk(D + 1, F, k=4)
    with pytest.raises(ValueError, match="width 33 to 33.*width 32 to 32"):
        sk.train(coder, acts, objective)
    coder, objective = MADE["topk"]()
    with pytest.raises(ValueError, match="1 coders and 2 objectives"):
        sk.train([coder], acts, [objective, objective])
    with pytest.raises(ValueError, match="precision='int8'"):
        sk.train(coder, acts, objective, precision="int8")
    with pytest.raises(ValueError, match="steps=-1"):
        sk.train(coder, acts, objective, steps=-1)
    with pytest.raises(ValueError, match="finished"):
        sk.train(trained(acts).coder, acts, objective)
    model = tiny_models["gpt2"]
    with (
        model.hooks([("blocks.1.hook_resid_post", lambda x, hook: x * 0)]),
        pytest.raises(ValueError, match="variance"),
    ):
        sk.train(MADE["topk"]()[0], acts, objective)


def test_a_checkpoint_that_cannot_be_written_fails_before_training(acts, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        trained(acts, checkpoint=tmp_path / "file" / "run", on_step=lambda m: pytest.fail("it trained"))


def test_a_disk_that_fills_up_in_mid_run_costs_nothing_that_was_learned(acts, tmp_path, monkeypatch):
    from saekit.train import checkpoint

    writes, save = iter(range(100)), checkpoint.save_file

    def fills_up(tensors, name, metadata):
        if next(writes):
            raise OSError(28, "No space left on device")
        save(tensors, name, metadata)

    monkeypatch.setattr(checkpoint, "save_file", fills_up)
    torch.manual_seed(0)
    coder, objective = MADE["topk"]()
    file = tmp_path / "run.safetensors"
    with pytest.raises(OSError, match="No space left"):
        sk.train(coder, acts, objective, steps=60, batch_size=128, lr=5e-3, checkpoint=file, progress=False)
    assert not coder.training
    assert fvu(coder, acts.held_out(200).x) < 0.5
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]  # the first one, whole


def test_a_checkpoint_of_another_run_or_cut_short_is_refused_and_kept(acts, tmp_path):
    file = tmp_path / "run.safetensors"
    trained(acts, checkpoint=file, on_step=lambda m: m.step == 5)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="is of a run with"):
        trained(acts, checkpoint=file, steps=61)
    with pytest.raises(ValueError, match="another coder"):
        trained(acts, "jumprelu", checkpoint=file)
    assert file.read_bytes() == before
    file.write_bytes(before[: len(before) // 2])
    with pytest.raises(ValueError, match="cut short"):
        trained(acts, checkpoint=file)
