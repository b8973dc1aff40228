"""Every preset, by name, learns a toy: its FVU halves, and nothing on the way is not finite.

Toys whose answer is known: one site, a second site that is a linear map of the first, several of both, decoder rows
that are sums of few parts. What runs the model is trained on a tiny model's own activations.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from itertools import islice

import pytest
import torch

import saekit as sk
from saekit import presets, toy
from saekit.activations import Batch
from saekit.train import Learner

D, F, K = 16, 32, 4
OPTIONS = {"steps": 120, "batch_size": 256, "lr": 1e-2, "threads": 1, "precision": "float32", "progress": False}
RESID = sk.Site("blocks.1.hook_resid_post")


FEATURES = toy.Superposition(F, D, frequencies=0.06).features(41_000)[0]  # about 2 are on at a time


class Sites:
    """The toy's features seen at several sites: x and y are linear maps of them, each of its own [features, width]."""

    def __init__(self, n_in: int, n_out: int = 0) -> None:
        draw = torch.Generator().manual_seed(1)
        self.f = FEATURES
        self.maps = [torch.randn(F, D * n, generator=draw) / D**0.5 for n in (n_in, n_out) if n]
        self.d_in, self.d_out = D * n_in, D * (n_out or n_in)
        self.site, self.model, self.corpus, self.seed = None, None, None, 0

    def __len__(self) -> int:
        return 100_000

    def _batch(self, f: torch.Tensor) -> Batch:
        x = f @ self.maps[0]
        return Batch(x, f @ self.maps[1] if len(self.maps) > 1 else x)

    def held_out(self, rows: int) -> Batch:
        return self._batch(self.f[-rows:])

    def batches(self, size: int, start: int = 0, *, until: Callable[[], bool] = lambda: False) -> Iterator[Batch]:
        while not until():
            yield self._batch(self.f[(start + torch.arange(size)) % 40_000])
            start += size


def decoder_rows() -> sk.Rows:
    parts = torch.nn.functional.normalize(torch.randn(12, D, generator=torch.Generator().manual_seed(0)), dim=1)
    return sk.Rows(torch.stack([parts[i] + parts[j] for i in range(12) for j in range(i)]), tokens=1_000)


# name -> (what makes it, its source); a source that is a string is the tiny model's, options of `sk.Activations`
TOYS = {
    "relu": (lambda: presets.relu(D, F, sparsity=1.0), 1),
    "gated": (lambda: presets.gated(D, F, sparsity=1.0), 1),
    "topk": (lambda: presets.topk(D, F, k=K), 1),
    "batch_topk": (lambda: presets.batch_topk(D, F, k=K), 1),
    "prolu": (lambda: presets.prolu(D, F, sparsity=1.0), 1),
    "jumprelu": (lambda: presets.jumprelu(D, F, l0=K), 1),
    "switch": (lambda: presets.switch(D, F, k=K, experts=2), 1),
    "matryoshka": (lambda: presets.matryoshka(D, F, k=K), 1),
    "p_anneal": (lambda: presets.p_anneal(D, F, sparsity=0.5), 1),
    "feature_choice": (lambda: presets.feature_choice(D, F, k=K), 1),
    "mutual_choice": (lambda: presets.mutual_choice(D, F, k=K), 1),
    "feature_aligned": (lambda: presets.feature_aligned(D, F, k=K), 1),
    "end_to_end": (lambda: presets.end_to_end(32, 64, k=8), {"sequences": True}),
    "layer_group": (lambda: presets.layer_group(D, F, k=K), 1),
    "specialized": (lambda: presets.specialized(D, F, k=K), 1),
    "formal": (lambda: presets.formal(32, 64, k=8), {"sequences": True}),
    "transcoder": (lambda: presets.transcoder(D, F, k=K), (1, 1)),
    "skip_transcoder": (lambda: presets.skip_transcoder(D, F, k=K), (1, 1)),
    "crosscoder": (lambda: presets.crosscoder(D, F, sparsity=0.6), 2),
    "per_layer_transcoders": (lambda: presets.per_layer_transcoders(D, F, 2, k=K), (2, 2)),
    "cross_layer_transcoder": (lambda: presets.cross_layer_transcoder(D, F, 2, l0=K), (2, 2)),
    "meta_sae": (lambda: presets.meta_sae(D, 12, k=2), decoder_rows),
}
PUBLIC = {name for name, f in vars(presets).items() if inspect.isfunction(f) and f.__module__ == presets.__name__}


def test_every_preset_is_here():
    assert {name for name in PUBLIC if name[0] != "_"} == TOYS.keys()
    assert len(TOYS) == 22


@pytest.fixture
def source(tiny_models, tiny_corpus):
    def make(kind):
        if isinstance(kind, dict):
            return sk.Activations(tiny_models["gpt2"], RESID, tiny_corpus, **kind)
        return kind() if callable(kind) else Sites(*kind) if isinstance(kind, tuple) else Sites(kind)

    return make


def trained(name, source, **options):
    """The runs of a preset, one or several."""
    torch.manual_seed(0)
    make, kind = TOYS[name]
    coder, objective = make()
    acts, options = source(kind), OPTIONS | ({"steps": 60} if isinstance(kind, dict) else {}) | options
    if name == "layer_group":  # each on a source of its own
        return [sk.train(c, acts, o, **options) for c, o in zip(coder, objective, strict=True)]
    runs = sk.train(coder, acts, objective, **options)
    return runs if isinstance(runs, list) else [runs]


@pytest.mark.parametrize("name", TOYS)
def test_it_halves_its_fvu_on_a_toy(name, source):
    """End-to-end, which is not asked for a small error, halves its own objective."""
    for run in trained(name, source):
        history = run.history
        column = "loss" if name == "end_to_end" else "fvu"
        first, last = history[column].iloc[0], history[column].iloc[-5:].mean()
        assert last < first / 2
        assert history.l0.iloc[-1] < 2.5 * K * len(
            run.coder.banks
        )  # with as many latents on as there are dimensions it would be no feat
        numbers = history.select_dtypes("number")
        assert bool(torch.isfinite(torch.tensor(numbers.to_numpy())).all())
        assert not run.stopped


def test_p_annealing_stays_finite_down_to_its_last_power(source):
    """At p = 0.2 the penalty's slope at 0 is as steep as it gets; every step's loss and weights are finite."""
    seen = []
    run = trained("p_anneal", source, on_step=lambda m: seen.append((m.step, m.coder.W_enc.isfinite().all())))[0]
    assert [step for step, _ in seen] == list(range(1, OPTIONS["steps"] + 1))
    assert all(finite for _, finite in seen)
    assert all(math.isfinite(value) for value in run.history.lp)
    assert all(bool(p.isfinite().all()) for p in run.coder.parameters())


@pytest.mark.parametrize("name", ["end_to_end", "formal"])
def test_every_parameter_of_what_runs_the_model_has_a_gradient_within_20_steps(name, source):
    """The others are in test_presets, without a model."""
    torch.manual_seed(0)
    coder, objective = TOYS[name][0]()
    learner = Learner(coder, objective, steps=100, lr=1e-3, dead_after=0.1)
    acts = source(TOYS[name][1])
    learner.begin(acts.held_out(500))
    waiting = {key for key, p in coder.named_parameters() if p.requires_grad}
    for step, batch in enumerate(islice(acts.batches(128), 20)):
        assert learner.step(batch, step, fast=False)
        waiting -= {key for key, p in coder.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert not waiting
