import pytest
import torch

from saekit import steer
from saekit.codes import Codes

DENSE = torch.tensor([[0.0, 2.0, 0.0, 1.0], [3.0, 0.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]])


@pytest.fixture
def codes():
    return Codes.from_dense(DENSE)


def changed(columns, new):
    dense = DENSE.clone()
    dense[:, columns] = new if isinstance(new, float) else new(dense[:, columns])
    return dense


def test_edits_are_what_they_say(codes):
    for edit, dense in (
        (steer.add(1, 1.5), changed(1, lambda f: f + 1.5)),
        (steer.add([0, 2], -1.0), changed([0, 2], lambda f: f - 1)),
        (steer.add([0, 0], 1.0), changed(0, lambda f: f + 1)),
        (steer.scale(3, 2.0), changed(3, lambda f: 2 * f)),
        (steer.scale(torch.tensor([0, 1]), -1.0), changed([0, 1], lambda f: -f)),
        (steer.clamp(1, 4.0), changed(1, 4.0)),
        (steer.clamp(1, 0.0), changed(1, 0.0)),
        (steer.ablate(0, 3), changed([0, 3], 0.0)),
        (steer.ablate([0, 3]), changed([0, 3], 0.0)),
        (steer.then(steer.ablate(1), steer.add(1, 2.0)), changed(1, 2.0)),
        (steer.then(), DENSE),
    ):
        assert torch.equal(edit(codes).dense(), dense)
    assert torch.equal(codes.dense(), DENSE)  # an edit makes new codes


def test_ablation_removes_entries(codes):
    assert steer.ablate(3)(codes).latents.tolist() == [1, 0]


def test_a_latent_that_is_not_there_is_refused(codes):
    for edit in (steer.add(4, 1.0), steer.scale([0, 4], 1.0), steer.clamp(4, 1.0), steer.ablate(0, 4)):
        with pytest.raises(ValueError, match=r"latent 4 is not in \[0, 4\)"):
            edit(codes)
    with pytest.raises(ValueError, match="latent -1"):
        steer.ablate(-1)(codes)
    assert torch.equal(steer.ablate([])(codes).dense(), DENSE)


def test_edits_carry_gradients(codes):
    values = codes.values.clone().requires_grad_()
    edited = steer.then(steer.scale(3, 2.0), steer.add(1, 1.0), steer.ablate(0))(codes.with_values(values))
    edited.values.sum().backward()
    by_latent = torch.tensor([0.0, 1.0, 1.0, 2.0])
    assert torch.equal(values.grad, by_latent[codes.latents])
