"""Recovery on coders whose answers are known: the true dictionary, a part of it, shrunken codes, planted absorption."""

import math
import time

import pytest
import torch

import saekit as sk
from saekit import evals, presets, toy
from saekit.evals.recovery import matched

D = 8
SUPERPOSED = toy.Superposition(64, 32, frequencies=4 / 64, tokens=10**7)
PRESETS = {
    "topk": lambda d_sae: presets.topk(32, d_sae, k=4),
    "batch_topk": lambda d_sae: presets.batch_topk(32, d_sae, k=4),
    "jumprelu": lambda d_sae: presets.jumprelu(32, d_sae, l0=4),
}


def axes(n=D, **options):
    """Features along the axes, so that the best coder is known."""
    return toy.Superposition(n, D, dictionary=torch.eye(D)[:n], frequencies=0.2, **options)


def coder_of(W_dec, W_enc=None, b_enc=None, nonlinearity=None):
    coder = sk.SparseCoder(W_dec.shape[1], len(W_dec), nonlinearity or sk.ReLU()).eval()
    with torch.no_grad():
        coder.W_dec.copy_(W_dec)
        coder.W_enc.copy_(W_dec.T if W_enc is None else W_enc)
        coder.b_enc.copy_(torch.zeros(len(W_dec)) if b_enc is None else b_enc)
    return coder.requires_grad_(False)


def test_the_true_dictionary_recovers_everything():
    source = axes()
    order = torch.randperm(D, generator=torch.Generator().manual_seed(0))
    scores = evals.recovery(coder_of(torch.eye(D)[order]), source, rows=5_000)
    perfect = ("mmcs", "matched", "recovered", "unique", "slope", "precision", "recall")
    assert {name: pytest.approx(1, abs=1e-6) for name in perfect} == {name: scores[name] for name in perfect}
    assert scores["fvu"] == pytest.approx(0, abs=1e-9)
    assert scores["l0"] == scores["true_l0"] == pytest.approx(1.6, rel=0.05)
    assert scores["n"] == 5_000
    assert all(isinstance(value, float) for value in scores.values())


def test_a_latent_stands_for_one_feature_only():
    """Half the dictionary, each row twice; and one latent that is as near to every feature."""
    W = torch.eye(D)[[0, 0, 1, 1, 2, 2, 3, 3]]
    scores = evals.recovery(coder_of(W), axes(), rows=2_000)
    assert scores["mmcs"] == pytest.approx(0.5)
    assert scores["matched"] == pytest.approx(0.5)
    assert scores["recovered"] == pytest.approx(0.5)
    one = evals.recovery(coder_of(torch.full((1, D), 1 / D**0.5)), axes(), rows=2_000)
    assert one["mmcs"] == pytest.approx(1 / D**0.5)  # one latent is near every feature
    assert one["matched"] == pytest.approx(1 / D**1.5)  # but may stand for one
    assert one["unique"] == pytest.approx(1 / D)
    assert math.isnan(one["slope"])


def test_the_matching_is_the_best_of_all():
    from itertools import permutations

    cosines = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    best = max(sum(cosines[i, p].item() for i, p in enumerate(order)) for order in permutations(range(6), 4))
    assert matched(cosines).cosines.sum() == pytest.approx(best)


def test_the_slope_measures_shrinkage_whatever_the_gauge():
    """Codes that are too small by a fifth; large decoder rows with small codes are not shrinkage."""
    shrunk = coder_of(torch.eye(D), W_enc=0.8 * torch.eye(D))
    assert evals.recovery(shrunk, axes(), rows=2_000)["slope"] == pytest.approx(0.8)
    gauge = coder_of(10 * torch.eye(D), W_enc=0.1 * torch.eye(D))
    assert evals.recovery(gauge, axes(), rows=2_000)["slope"] == pytest.approx(1)


def test_missed_and_false_firings_are_counted():
    deaf = coder_of(torch.eye(D), b_enc=-torch.ones(D))  # values are |1 + 0.25 normal|: half are above 1
    scores = evals.recovery(deaf, axes(), rows=20_000)
    assert scores["recall"] == pytest.approx(0.5, abs=0.02)
    assert scores["precision"] == 1
    eager = coder_of(torch.eye(D), b_enc=torch.ones(D))
    scores = evals.recovery(eager, axes(), rows=20_000)
    assert scores["recall"] == 1
    assert scores["precision"] == pytest.approx(0.2, abs=0.01)


FAMILY = {"dictionary": torch.eye(D), "parent": 0.3, "child": 0.1}  # parents 0 and 1, children 2-4 and 5-7


def test_a_coder_that_keeps_parent_and_child_apart_absorbs_nothing():
    scores = evals.planted_absorption(coder_of(torch.eye(D)), toy.hierarchy(2, 3, D, **FAMILY))
    assert (scores["alone"], scores["with_child"], scores["absorption"], scores["absorbed"]) == (1, 1, 0, 0)
    assert scores["cosine"] == pytest.approx(1)


def test_absorption_that_was_planted_is_found():
    """The child's latent writes the parent too, and the parent's latent is held down where the child is on."""
    source = toy.hierarchy(2, 3, D, **FAMILY)
    W_enc, W_dec = torch.eye(D), torch.eye(D)
    for child, parent in source.parents.items():
        if child < 5:  # the first family only
            W_enc[child, parent] = -100
            W_dec[child, parent] = 1
    coder = coder_of(W_dec, W_enc)
    scores = evals.planted_absorption(coder, source)
    assert scores["alone"] == 1
    assert scores["with_child"] == scores["absorbed"] == scores["absorption"] == 0.5
    f, x = source.features(200_000)
    on, latent_on = f > 0, coder.encode(x).dense() > 0
    both = on[:, 5] & on[:, 1]
    assert latent_on[both, 1].all()


def test_presets_recover_the_superposition_toy():
    """At a fifth of the steps of the long test."""
    for name, made in PRESETS.items():
        torch.manual_seed(0)
        coder, objective = made(64)
        options = {"precision": "float32", "threads": 1, "progress": False}
        run = sk.train(coder, SUPERPOSED, objective, steps=200, batch_size=1024, lr=2e-2, **options)
        assert evals.recovery(run.coder, SUPERPOSED, rows=4_000)["mmcs"] > 0.9, name


@pytest.mark.long
@pytest.mark.parametrize("name", PRESETS)
def test_mmcs_is_above_95_percent_within_a_minute(name):
    torch.manual_seed(0)
    coder, objective = PRESETS[name](128)
    begun = time.monotonic()
    run = sk.train(coder, SUPERPOSED, objective, steps=1000, batch_size=1024, threads=1, progress=False)
    assert time.monotonic() - begun < 60
    scores = evals.recovery(run.coder, SUPERPOSED)
    assert scores["mmcs"] > 0.95
    assert scores["recovered"] > 0.95


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="width 9 to 9, but the toy has width 8"):
        evals.recovery(coder_of(torch.eye(9)), axes())
    with pytest.raises(ValueError, match="training mode"):
        evals.recovery(coder_of(torch.eye(D)).train(), axes())
    with pytest.raises(ValueError, match="no parents"):
        evals.planted_absorption(coder_of(torch.eye(D)), axes())
    with pytest.raises(ValueError, match="more rows"):
        evals.planted_absorption(coder_of(torch.eye(D)), toy.hierarchy(2, 3, D, **FAMILY), rows=2)
    with pytest.raises(ValueError, match="none for parent"):
        evals.planted_absorption(coder_of(torch.eye(D)[2:4]), toy.hierarchy(2, 3, D, **FAMILY))
