"""Latents as other formats: pages, Neuronpedia's JSON, tables. A latent may be dead, and any token may be hostile."""

import json
import re

import numpy as np
import pandas as pd
import pytest

import saekit as sk
from saekit import explain
from saekit.corpus import python_spans
from saekit.explain import dossier
from saekit.viz import gallery
from tests.test_features import collect, made
from tests.test_viz import is_harmless

HOSTILE = "x = '</script><img src=x onerror=alert(1)>\\u2028'  # \u202e<!-- ]]> &amp; {i}\n"


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models["gpt2"]


@pytest.fixture(scope="module")
def features(model):
    sources = ['def f(a):\n    """Doc."""\n    return a\n' + HOSTILE.replace("{i}", str(i)) for i in range(12)]
    corpus = sk.load_corpus(model, sources, labels=[python_spans(source) for source in sources])
    coder = made()
    return collect(model, corpus, coder)


@pytest.fixture
def latent(features):
    return features[int(features.table["max"].idxmax())]


# -- Neuronpedia


def test_feature_json_has_the_fields_of_the_exporter(features, latent):
    row = json.loads(json.dumps(explain.feature_json(latent, "1-res-mine", ["`a` or `b`"]), allow_nan=False))
    named = {
        "modelId", "layer", "index", "sourceSetName", "maxActApprox", "hasVector", "vector", "vectorLabel",
        "vectorDefaultSteerStrength", "hookName", "topkCosSimIndices", "topkCosSimValues", "neuron_alignment_indices",
        "neuron_alignment_values", "neuron_alignment_l1", "neg_str", "neg_values", "pos_str", "pos_values",
        "frac_nonzero",
        "freq_hist_data_bar_heights", "freq_hist_data_bar_values", "logits_hist_data_bar_heights",
        "logits_hist_data_bar_values", "decoder_weights_dist", "activations", "explanations",
    }  # fmt: skip
    named |= {f"correlated_{what}_{k}" for what in ("neurons", "features") for k in ("indices", "pearson", "l1")}
    assert row.keys() == named
    assert (row["layer"], row["sourceSetName"], row["index"]) == ("1-res-mine", "res-mine", str(latent.index))
    assert row["explanations"][0]["description"] == "`a` or `b`"
    table = explain.vocab_proj(features.model, features.coder, latent.index)
    assert row["pos_str"] == table.token[:10].tolist() and row["neg_str"] == table.token[:9:-1].tolist()
    np.testing.assert_allclose(row["neg_values"], table.logit[:9:-1], atol=1e-5)
    assert sum(row["freq_hist_data_bar_heights"]) == latent.count
    assert sum(row["logits_hist_data_bar_heights"]) == features.model.cfg.d_vocab
    for a in row["activations"]:
        assert len(a["tokens"]) == len(a["values"]) and a["values"][a["maxValueTokenIndex"]] == a["maxValue"]
        inside = a["binContains"] < 0 or a["binMin"] < a["values"][a["qualifyingTokenIndex"]] <= a["binMax"] + 1e-6
        assert inside and a["minValue"] >= 0
    shares = {a["binMin"]: a["binContains"] for a in row["activations"] if a["binContains"] >= 0}
    assert sum(shares.values()) == pytest.approx(1)
    cosine = features.coder.W_dec @ features.coder.W_dec[latent.index]
    assert row["topkCosSimIndices"] == cosine.argsort(descending=True)[1:11].tolist()


def test_feature_detail_is_what_graph_viewers_read(latent):
    detail = json.loads(json.dumps(explain.feature_detail(latent), allow_nan=False))
    assert detail["index"] == latent.index and detail["activation_frequency"] == latent.density
    assert len(detail["top_logits"]) == len(detail["bottom_logits"]) == 10
    for group in detail["examples_quantiles"]:
        assert group["quantile_name"]
        for e in group["examples"]:
            assert len(e["tokens"]) == len(e["tokens_acts_list"]) and e["tokens_acts_list"][e["train_token_ind"]] > 0
    dead = int(latent.features.table.index[latent.features.table.density == 0][0])
    empty = explain.feature_detail(latent.features[dead])
    assert empty.keys() == detail.keys() and not empty["examples_quantiles"] and not empty["top_logits"]


def test_an_upload_keeps_the_limits(features, latent):
    body = explain.upload_batch(features, [latent.index], "1-res", {latent.index: "w" * 600})
    (row,) = json.loads(json.dumps(body))["features"]
    assert body.keys() == {"modelId", "source", "features"}
    assert len(row["topLogits"]) == 10 <= 20 and row["topLogits"][0].keys() == {"token", "value"}
    assert len(row["explanations"][0]["text"]) == 512 and len(row["activations"]) >= 1
    assert row["activations"][0].keys() == {"tokens", "values"}
    assert row["activations"][-1].keys() == {"tokens", "values", "quantileMin", "quantileMax", "quantileFraction"}
    for latents in ([], [latent.index] * 129):
        with pytest.raises(ValueError, match="one upload takes 1 to 128"):
            explain.upload_batch(features, latents, "1-res")
    with pytest.raises(ValueError, match="source='res'"):
        explain.feature_json(latent, "res")
    dead = int(features.table.index[features.table.density == 0][0])
    with pytest.raises(ValueError, match=f"latent {dead} is dead"):
        explain.feature_json(features[dead], "1-r")


def test_a_coder_off_the_residual_stream_has_no_logits(model, features):
    coder = made()
    coder.site = sk.Site("blocks.1.hook_resid_post", ("blocks.2.attn.hook_out", "blocks.2.hook_resid_post"))
    wide = sk.SparseCoder(32, 64, sk.TopK(6), d_out=64).eval().requires_grad_(False)
    wide.site = coder.site
    latent = collect(model, features.corpus, wide)
    alive = latent[int(latent.table["max"].idxmax())]
    assert explain.feature_json(alive, "1-r")["pos_str"] == [] and dossier.effect(alive) is None


def test_json_is_written_whole_or_not_at_all(tmp_path, latent):
    path = explain.save_json(explain.feature_detail(latent), tmp_path / "f" / "1.json")
    before = path.read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        explain.save_json({"a": float("nan")}, path)
    assert path.read_text() == before and list(path.parent.iterdir()) == [path]


# -- tables


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_the_table_comes_back(features, tmp_path, ending):
    path = explain.save_table(features, tmp_path / f"t.{ending}")
    again = pd.read_parquet(path) if ending == "parquet" else pd.read_csv(path, keep_default_na=False)
    tokens = [list(t) if ending == "parquet" else json.loads(t) for t in again.tokens]
    assert tokens == [list(t) for t in features.table.tokens]
    plain = features.table.reset_index().drop(columns="tokens")
    pd.testing.assert_frame_equal(again.drop(columns="tokens"), plain, check_dtype=False)
    with pytest.raises(ValueError, match=r"'t.xlsx' ends in '.xlsx'"):
        explain.save_table(features, tmp_path / "t.xlsx")


# -- pages


def test_a_page_of_one_latent(features, latent):
    html = gallery.latent_page(features, latent.index)
    body = html.split("</head>")[1]
    assert is_harmless(body) and "http" not in html.split("<body>")[1]
    assert f"Latent {latent.index}" in html and len(html) < gallery.LARGEST
    dead = int(features.table.index[features.table.density == 0][0])
    assert "was never on" in gallery.latent_page(features, dead)
    with pytest.raises(ValueError, match="latent 64 is not in"):
        gallery.latent_page(features, 64)


def test_the_gallery_holds_its_cards_and_asks_for_nothing(features, tmp_path):
    chosen = features.table.index[features.table.density > 0][:5].tolist()
    path = gallery.save_gallery(features, tmp_path / "g.html", chosen)
    html = path.read_text("utf-8")
    scripts = re.findall(r"<script\b[^>]*>(.*?)</script>", html, flags=re.DOTALL)
    assert len(scripts) == 2 and scripts[1] == gallery.SCRIPT.read_text("utf-8")
    entries = json.loads(scripts[0])
    assert [e["latent"] for e in entries] == chosen and "<" not in scripts[0]
    for e in entries:
        assert is_harmless(e["card"]) and len(e["card"]) < gallery.LARGEST
        assert e["card"] == gallery.feature_page(gallery.card_data(features, e["latent"]))
    rest = re.sub(r"<script\b.*?</script>", "", html.split("<body>")[1], flags=re.DOTALL)
    assert is_harmless(rest) and not re.search("https?:|//[a-z]|url\\(", html.split("<body>")[1])
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028]", html)
    assert rest.count('class="gl-row"') == 5


def test_the_gallery_takes_the_best_and_refuses_the_dead(features):
    table = features.table[features.table["max"] > 0]
    above = (table.f1 - table.always_fire).sort_values(ascending=False, kind="stable")
    assert gallery._best(features) == above.index[:100].tolist()
    dead = int(features.table.index[features.table.density == 0][0])
    with pytest.raises(ValueError, match=f"latent {dead} is dead"):
        gallery.gallery(features, [0, dead])
    with pytest.raises(ValueError, match="no latents"):
        gallery.gallery(features, [])


def test_the_examples_of_a_dossier_are_within_their_borders(latent):
    groups = dossier.examples(latent, 4)
    assert sum(g["share"] for g in groups) == pytest.approx(1)
    assert all(g["low"] < e.value <= g["high"] * (1 + 1e-6) for g in groups for e in g["examples"])
    assert groups[0]["examples"][0].value == latent.max
