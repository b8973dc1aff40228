"""`ActivationExplorer`: its curves against formulas written out, its state, its picture."""

import pytest
import torch

from saekit import widgets
from saekit.widgets.explorer import BANDWIDTH, OTHERS, VARIANTS, curves

THETA = 0.7  # on no point of the grid


def on(z, theta=THETA):
    return (z > theta).float()


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "TopK"])
def test_values_are_the_formulas(variant):
    found = curves(variant, THETA)
    wanted = (found.z - THETA).relu() if variant == "ReLU" else found.z * on(found.z)
    assert torch.allclose(found.f, wanted, atol=1e-6)
    assert torch.allclose(found.f_by_z, on(found.z), atol=1e-6)


def test_topk_turns_on_at_the_kth_of_the_others():
    for k in (1, 4, len(OTHERS)):
        found = curves("TopK", THETA, k)
        kth = OTHERS.sort(descending=True).values[k - 1]
        assert found.theta == pytest.approx(float(kth))
        assert torch.allclose(found.f, (found.z * on(found.z, kth)).relu(), atol=1e-6)


def test_what_the_threshold_is_taught():
    z = curves("ReLU", THETA).z
    none, near = torch.zeros_like(z), ((z - THETA).abs() < BANDWIDTH / 2).float()
    by_value = {
        "ReLU": -on(z),
        "Gated": none,
        "ProLU": -on(z),
        "JumpReLU": -THETA / BANDWIDTH * near,
        "BatchTopK": none,
    }
    by_gate = by_value | {"Gated": -on(z), "JumpReLU": -near / BANDWIDTH}
    for variant in by_value:
        found = curves(variant, THETA)
        assert torch.allclose(found.f_by_theta, by_value[variant], atol=1e-6), variant
        assert torch.allclose(found.gate_by_theta, by_gate[variant], atol=1e-6), variant


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_drawn_at_the_ends_of_its_sliders(variant):
    explorer = widgets.ActivationExplorer(variant)
    for theta, k in ((0.0, 1), (2.0, 9)):
        explorer.act("theta", str(theta))
        explorer.act("k", str(k))
        assert explorer.state == {"variant": variant, "theta": theta, "k": k}
        assert "nan" not in explorer.html
        assert "sk-note bad" not in explorer.html
    assert explorer.to_html().startswith("<!doctype html>")


def test_the_title_says_what_is_lost():
    explorer = widgets.ActivationExplorer()
    assert "ReLU gives 0.5: 1.0 too little" in explorer.html
    explorer.act("variant", "JumpReLU")
    assert "JumpReLU gives 1.5: nothing is lost" in explorer.html


def test_bad_settings_are_named():
    explorer = widgets.ActivationExplorer()
    for bad, said in (
        ({"variant": "Tanh"}, "'Tanh': choose one of ReLU"),
        ({"theta": 3.0}, "0 to 2"),
        ({"k": 0}, "1 to 9"),
    ):
        with pytest.raises(ValueError, match=said):
            explorer.set_state(**bad)
    assert explorer.state == {"variant": "ReLU", "theta": 1.0, "k": 3}
    with pytest.raises(ValueError, match="'x': choose"):
        curves("x")
