"""The control model: the same weights, in random order."""

import torch

import saekit as sk
from saekit import evals, presets


def test_every_tensor_keeps_its_values_and_loses_its_order(tiny_models):
    for model in tiny_models.values():
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        twin = evals.random_twin(model).state_dict()
        assert twin.keys() == before.keys()
        for name, tensor in before.items():
            torch.testing.assert_close(twin[name].flatten().sort().values, tensor.flatten().sort().values)
            if tensor.ndim == 2:
                assert not torch.equal(twin[name], tensor)
            assert torch.equal(model.state_dict()[name], tensor)


def test_a_pass_with_gradient_before_does_not_matter(tiny_models):
    model, ids = tiny_models["gpt2"], torch.arange(1, 9)[None]
    coder, _ = presets.topk(32, 64, k=4)
    coder.place(sk.Site("blocks.0.hook_resid_post"), None, None)
    with sk.splice(model, coder.eval(), leaf=True):
        model(ids)
    assert evals.random_twin(model)(ids).shape == model(ids).shape


def test_same_seed_same_twin(tiny_models):
    model, ids = tiny_models["gpt2"], torch.arange(1, 9)[None]
    same, other = evals.random_twin(model), evals.random_twin(model, seed=1)
    assert torch.equal(evals.random_twin(model)(ids), same(ids))
    assert not torch.allclose(other(ids), same(ids))
    assert not torch.allclose(model(ids), same(ids))
    assert {same.cfg.model_name, other.cfg.model_name} == {
        f"{model.cfg.model_name}-random",
        f"{model.cfg.model_name}-random-1",
    }
