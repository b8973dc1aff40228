"""What ships is what `measured.json` says it is."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import saekit as sk
from saekit import evals, hooks
from saekit.recipes import tasks
from saekit.recipes.measure import MEASURED

CODER = "tiny-python/resid.2/batch_topk"


@pytest.fixture(scope="module")
def model():
    return sk.load_model()


@pytest.fixture(scope="module")
def measured():
    return json.loads(MEASURED.read_text())


@pytest.fixture(scope="module")
def held_out(model):
    return sk.load_corpus(model, split="held_out", files=20)


def test_transformers_and_transformer_lens_agree(model):
    ids = torch.arange(1, 200)[None]
    plain = AutoModelForCausalLM.from_pretrained(hooks.BUNDLED, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(model(ids), plain(ids).logits, rtol=1e-3, atol=1e-3)


def test_the_models_tasks_are_as_measured(model, measured):
    """Fewer prompts than in the file, so within what chance allows."""
    known = measured["model"]["known_answer_tasks"]
    deep = tasks.accuracy(model, tasks.bracket_closing(3, n=60, seed=1))
    assert deep["high"] >= known["K2_bracket_closing_accuracy"]["depth_3"]["low"]
    drop = tasks.induction(model, n=40, seed=1)["drop"]
    assert drop == pytest.approx(known["K1_induction_random_tokens"]["drop"], abs=0.5)


def test_the_shipped_coder_is_as_measured(model, measured, held_out):
    coder = sk.load(CODER)
    card = measured["coders"][CODER]["fidelity"]
    scores = evals.fidelity(model, coder, held_out, tokens=5_000)
    assert card["fvu"] < 0.10
    assert card["dead"] <= 0.05
    assert scores["fvu"] == pytest.approx(card["fvu"], rel=0.15)
    assert scores["l0"] == pytest.approx(card["l0"], rel=0.1)
    assert scores["ce"] == pytest.approx(card["ce"], rel=0.2)


def test_pretrained_lists_it(model):
    table = sk.pretrained(model).set_index("name")
    assert table.loc[CODER, "site"] == "blocks.2.hook_resid_post"
    assert table.loc[CODER, "d_sae"] == 2048
    assert sk.load(CODER).tokenizer == sk.load_corpus(model, ["a text of our own, long enough to be one"]).fingerprint


def test_a_coder_of_this_model_is_refused_elsewhere(tiny_models):
    other, coder = tiny_models["gpt2"], sk.load(CODER)
    with pytest.raises(ValueError, match="width 256"), sk.splice(other, coder):
        other(torch.zeros(1, 3, dtype=torch.long))
