"""Every trial of notebook 04 runs at its place, on any model."""

import pytest
import torch

import saekit as sk
from saekit.lesson import nb04_trials as trials


@pytest.fixture
def places(tiny_models, tiny_corpus, monkeypatch):
    monkeypatch.setattr(trials, "LATENTS", 64)
    monkeypatch.setitem(trials.QUICK, "steps", 4)
    torch.manual_seed(0)
    return trials.Places(tiny_models["gpt2"], tiny_corpus, sk.SparseCoder(32, 64, sk.ReLU()))


@pytest.mark.parametrize("each", trials.TRIALS, ids=lambda each: each.name)
def test_a_trial_gives_a_row(each, places, monkeypatch):
    monkeypatch.setattr(trials, "retrieve", lambda model, text, seeds, windows: text)
    row = trials.trial(each, places)
    assert row["trained"] == each.name
    assert row["FVU before"] > 0.3
    assert row["L0"] > 0


def test_an_unknown_place_is_refused(places):
    with pytest.raises(ValueError, match="place='nowhere'"):
        places["nowhere"]
