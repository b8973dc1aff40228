"""`evals.frontier` against `evals.fidelity`, against PCA from sklearn, and its controls by hand."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import saekit as sk
from saekit import evals
from saekit.evals.frontier import COLUMNS, CONTROLS, _apart, point

SITE = sk.Site("blocks.1.hook_resid_post")
D = 32


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models["gpt2"]


def coder_at(k, site=SITE, d_sae=64):
    torch.manual_seed(k)
    coder = sk.SparseCoder(D, d_sae, sk.TopK(k), unit_norm=True).eval().requires_grad_(False)
    coder.site = site
    return coder


@pytest.fixture(scope="module")
def coders():
    return {"topk-4": coder_at(4), "frozen-9-seed2": coder_at(9)}


@pytest.fixture(scope="module")
def rows(model, tiny_corpus):
    return sk.capture(model, tiny_corpus.tokens, SITE)[SITE.read][torch.from_numpy(tiny_corpus.mask)]


@pytest.fixture(scope="module")
def table(model, coders, tiny_corpus):
    return evals.frontier(model, coders, tiny_corpus, tokens=10**9).set_index("name")


def test_a_row_is_what_fidelity_says(table, model, coders, tiny_corpus):
    for name, coder in coders.items():
        alone = evals.fidelity(model, coder, tiny_corpus, tokens=10**9)
        for column in set(alone) & set(table.columns):
            assert table.loc[name, column] == pytest.approx(alone[column], rel=1e-6), column
    assert table.loc["frozen-9-seed2", ["variant", "seed", "control"]].tolist() == ["frozen", 2, True]
    assert table.loc["topk-4", ["variant", "seed", "control"]].tolist() == ["topk", 0, False]


def test_the_controls_are_there_at_the_same_sparsities(table):
    assert list(table.index) == ["topk-4", "frozen-9-seed2", "pca-4", "pca-9", "neurons-4", "neurons-9"]
    for k in (4, 9):
        assert table.loc[f"pca-{k}", "l0"] == table.loc[f"neurons-{k}", "l0"] == k
    assert set(table[table.control].variant) == set(CONTROLS)


def test_pca_is_sklearns(table, rows):
    for k in (4, 9):
        explained = PCA(k).fit(rows.double().numpy()).explained_variance_ratio_.sum()
        assert table.loc[f"pca-{k}", "fvu"] == pytest.approx(1 - explained, rel=1e-4)


def test_neurons_are_the_largest_entries(table, rows):
    centred = (rows - rows.mean(0)).double()
    kept = centred.square().sort(dim=1, descending=True).values
    for k in (4, 9):
        assert table.loc[f"neurons-{k}", "fvu"] == pytest.approx((kept[:, k:].sum() / kept.sum()).item(), rel=1e-4)


def test_ks_can_be_given_and_the_dice_are_left_alone(model, coders, tiny_corpus):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    table = evals.frontier(model, coders, tiny_corpus[:4], ks=[2])
    assert [name for name in table.name if name not in coders] == ["pca-2", "neurons-2"]
    assert torch.equal(before, torch.get_rng_state())


def test_a_transcoder_has_no_such_controls(model, tiny_corpus):
    coder = coder_at(4, sk.Site("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"))
    assert evals.frontier(model, {"t": coder}, tiny_corpus[:4]).name.tolist() == ["t"]


def test_clean_passes_are_shared(model, coders, tiny_corpus, monkeypatch):
    """Each batch of windows: one pass of the model alone, two ablations, and one pass for each coder."""
    calls = []
    forward = type(model).forward
    monkeypatch.setattr(
        type(model), "forward", lambda self, *a, **k: calls.append(k.get("return_type", "")) or forward(self, *a, **k)
    )
    evals.fidelities(model, [*coders.values()], tiny_corpus[:2], tokens=10**9)
    assert len([kind for kind in calls if kind is not None]) == 1 + 2 + len(coders)


@pytest.mark.parametrize(
    ("name", "variant", "seed"),
    [
        ("relu-32", "relu", 0), ("batch_topk-32-seed1", "batch_topk", 1), ("mine", "mine", 0),
        ("a/b/p_anneal-16", "p_anneal", 0), ("topk-12.5", "topk", 0), ("-3", "-3", 0),
        ("two\nlines-8", "two\nlines", 0),
    ],
)  # fmt: skip
def test_names_are_read(name, variant, seed):
    row = point(name, dict.fromkeys(COLUMNS, 1.0))
    assert (row["variant"], row["seed"]) == (variant, seed)


def test_controls_keep_apart():
    assert _apart([31.2, 32.4, 15.7, 0.2, 17.0, 64.0]) == [1, 16, 31, 64]
    assert np.all(np.diff(_apart([10.0, 11.0])) > 0)


def test_bad_input_is_named(model, coders, tiny_corpus):
    elsewhere = coder_at(4, sk.Site("blocks.0.hook_resid_post"))
    with pytest.raises(ValueError, match="no coder"):
        evals.frontier(model, {}, tiny_corpus)
    with pytest.raises(ValueError, match="2 sites, blocks.0"):
        evals.frontier(model, {**coders, "other": elsewhere}, tiny_corpus)
    with pytest.raises(ValueError, match="33 is not between 1 and the width, 32"):
        evals.frontier(model, coders, tiny_corpus[:4], ks=[4, 33])
    with pytest.raises(ValueError, match="'pca-4', which is the name of a control"):
        evals.frontier(model, {"pca-4": coder_at(4)}, tiny_corpus[:4])
    with pytest.raises(ValueError, match="give each coder a name"):
        point("", {})
