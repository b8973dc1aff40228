"""`evals.relatives` and `evals.prefix_fvu` by hand, and the two widgets that show them."""

import numpy as np
import pytest
import torch

import saekit as sk
from saekit import evals, widgets
from tests.test_viz import is_harmless

SITE = sk.Site("blocks.1.hook_resid_post")
D = 32


def coder_at(d_sae, seed=0, site=SITE, k=6):
    torch.manual_seed(seed)
    coder = sk.SparseCoder(D, d_sae, sk.TopK(k), unit_norm=True).eval().requires_grad_(False)
    coder.site = site
    return coder


@pytest.fixture
def family():
    """A small coder, and a large one whose latents 3 and 4 are parts of the small one's latent 1."""
    narrow, wide = coder_at(8), coder_at(16, 1)
    basis = torch.linalg.qr(torch.randn(D, 20, generator=torch.Generator().manual_seed(0))).Q.T
    narrow.W_dec.copy_(basis[:8])
    wide.W_dec.copy_(basis[4:20])
    wide.W_dec[3] = 0.8 * basis[1] + 0.6 * basis[9]
    wide.W_dec[4] = 5 * (0.6 * basis[1] + 0.8 * basis[10])  # length does not count
    wide.W_dec[5] = 0.5 * basis[1] + 0.75**0.5 * basis[2]  # nearer to latent 2
    return narrow, wide


def test_relatives_by_hand(family):
    found = evals.relatives(*family, 1, n=4)
    assert found.latent.tolist()[:3] == [3, 4, 5]
    assert found.cosine.to_numpy() == pytest.approx([0.8, 0.6, 0.5, 0.0], abs=1e-5)
    assert found.own.tolist()[:3] == [True, True, False]


def test_relatives_of_what_does_not_belong_together(family):
    narrow, wide = family
    with pytest.raises(ValueError, match="blocks.0"):
        evals.relatives(narrow, coder_at(16, site=sk.Site("blocks.0.hook_resid_post")), 1)
    for latent, n in ((8, 3), (-1, 3), (0, 0), (0, 17)):
        with pytest.raises(ValueError, match=f"latent={latent}, n={n}"):
            evals.relatives(narrow, wide, latent, n)


def test_a_prefix_leaves_the_rest_out():
    coder = coder_at(24)
    x = torch.randn(100, D)
    dense = coder.encode(x).dense()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    for given in (None, order.tolist()):
        first = torch.arange(24) if given is None else order
        for width, found in zip((0, 5, 24), evals.prefix_fvu(coder, x, (0, 5, 24), given), strict=True):
            y_hat = dense[:, first[:width]] @ coder.W_dec[first[:width]] + coder.b_dec
            wanted = (x - y_hat).square().sum() / (x - x.mean(0)).square().sum()
            assert found == pytest.approx(float(wanted), rel=1e-5)


def test_prefixes_that_cannot_be():
    coder, x = coder_at(24), torch.randn(10, D)
    with pytest.raises(ValueError, match="25 is not between 0 and d_sae=24"):
        evals.prefix_fvu(coder, x, [4, 25])
    with pytest.raises(ValueError, match="give each latent, 0 to 23, once"):
        evals.prefix_fvu(coder, x, [4], [0] * 24)
    with pytest.raises(ValueError, match="maps width 32 to 10"):
        evals.prefix_fvu(sk.SparseCoder(D, 24, sk.TopK(3), d_out=10).eval(), x, [4])


# -- widgets


def test_the_slider_shows_the_curves():
    coders, x = {"nested": coder_at(64), "plain": coder_at(64, 1)}, torch.randn(200, D)
    slider = widgets.PrefixSlider(coders, x, trained=(4, 32, 64))
    assert slider.widths[0] == 4 and slider.widths[-1] == 64 and 32 in slider.widths
    assert slider.curves["nested"] == evals.prefix_fvu(coders["nested"], x, slider.widths)
    busiest = coders["plain"].encode(x).counts().argsort(descending=True, stable=True)
    assert slider.curves["plain"] == evals.prefix_fvu(coders["plain"], x, slider.widths, busiest.tolist())
    slider.act("at", len(slider.widths) - 1)
    assert f"first 64 latents alone leave unexplained: nested {slider.curves['nested'][-1]:.3f}" in slider.html
    assert is_harmless(slider.to_html())
    with pytest.raises(ValueError, match="at=99"):
        slider.set_state(at=99)
    with pytest.raises(ValueError, match="the same number of latents"):
        widgets.PrefixSlider({"a": coder_at(8), "b": coder_at(9)}, x)


@pytest.fixture(scope="module")
def features(tiny_models, tiny_corpus, tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("indices"), tiny_models["gpt2"]
    return [
        sk.Features.collect(model, coder_at(d_sae, seed), tiny_corpus, path=folder / str(d_sae), progress=False)
        for d_sae, seed in ((16, 0), (48, 1))
    ]


def test_the_tree_shows_relatives_and_opens_cards(features):
    tree = widgets.SplitTree(*features, latent=3)
    data = tree.compute()
    found = evals.relatives(features[0].coder, features[1].coder, 3)
    assert [child["latent"] for child in data["children"]] == found.latent.tolist()
    assert data["parent"]["density"] == features[0].table.density[3]
    assert 0 < data["random"] < 1
    other = data["children"][0]["latent"]
    tree.act("open", f"wide {other}")
    assert tree.state["selected"] == ["wide", other]
    assert f'aria-label="Feature card, latent {other}"' in tree.html
    tree.act("card/step", 1)
    assert tree.state["selected"] == ["wide", other + 1]
    tree.act("open", "narrow 3")
    assert 'aria-label="Feature card, latent 3"' in tree.html
    assert is_harmless(tree.to_html())
    tree.act("open", "narrow 3")
    assert tree.state["selected"] is None


def test_a_tree_refuses_what_is_not_there(features):
    tree = widgets.SplitTree(*features, latent=3)
    for bad in ({"latent": 16}, {"n": 0}, {"selected": ["wide", 48]}, {"selected": ["both", 1]}):
        before = tree.state
        with pytest.raises(ValueError, match=r"16|n=0|48|both"):
            tree.set_state(**bad)
        assert tree.state == before
    assert np.isfinite(tree.compute()["random"])
