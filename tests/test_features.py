"""Label scores against counting by hand."""

import numpy as np
import pytest
import torch

import saekit as sk
from saekit.features import label_scores

SITE = sk.Site("blocks.1.hook_resid_post")
CODE = 'def area(width, height):\n    """Return a number."""\n    return width * height  # in metres\n'


@pytest.fixture
def model(tiny_models):
    return tiny_models["gpt2"]


@pytest.fixture
def coder():
    torch.manual_seed(0)
    coder = sk.SparseCoder(32, 64, sk.TopK(6), unit_norm=True).eval()
    coder.site = SITE
    return coder


def test_scores_are_those_counted_by_hand(model, coder):
    from saekit.corpus import python_spans

    corpus = sk.load_corpus(model, [CODE, CODE.replace("area", "size")], labels=[python_spans(CODE)] * 2)
    table = label_scores(model, coder, corpus)
    scored = corpus.scored
    x = sk.capture(model, corpus.tokens, SITE)[SITE.read][torch.from_numpy(scored)]
    on = coder.encode(x).dense().detach().numpy() != 0
    for row in table.itertuples():
        truth, fires = corpus.labels[row.label][scored], on[:, row.latent]
        hits = (truth & fires).sum()
        assert row.precision == pytest.approx(hits / fires.sum())
        assert row.recall == pytest.approx(hits / truth.sum())
        assert row.f1 == pytest.approx(2 / (1 / row.precision + 1 / row.recall))
        assert row.density == pytest.approx(fires.mean())
        always = np.ones_like(truth)
        assert row.always_fire == pytest.approx(2 * truth.sum() / (truth.sum() + always.sum()))
    assert not table[table.label == "keyword"].context.any()
    assert table[table.label == "docstring"].context.all()


def test_bad_input_is_named(model, coder, tiny_corpus):
    with pytest.raises(ValueError, match="no labelled tokens"):
        label_scores(model, coder, tiny_corpus)
