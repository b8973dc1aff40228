"""The microscope for a text, and for two: alignment, which latents are shown, sums, errors, clicks and keys."""

import copy
import itertools
import random
import re

import numpy as np
import pytest
import torch

import saekit as sk
from saekit import presets, widgets
from saekit.corpus import python_spans
from saekit.widgets.microscope import aligned, placed, strongest
from saekit.widgets.reading import error_share, read
from tests.test_viz import HOSTILE, is_harmless

SITE = sk.Site("blocks.1.hook_resid_post")
TEXT, OTHER = 'def f(x):\n    """Say it."""\n    return x\n', "def f(x):\n    # Say it now.\n    return y\n"


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models["gpt2"]


@pytest.fixture(scope="module")
def coder(model, corpus):
    torch.manual_seed(0)
    acts = sk.Activations(model, SITE, corpus)
    coder, objective = presets.batch_topk(acts.d_in, 64, k=6)
    return sk.train(coder, acts, objective, steps=30, batch_size=128, progress=False).coder


@pytest.fixture(scope="module")
def corpus(model):
    sources = [f'def f{i}(a):\n    """Doc {i}."""\n    # note {i}\n    return ["s", a, {i}]\n' * 3 for i in range(12)]
    return sk.load_corpus(model, sources, labels=[python_spans(s) for s in sources])


@pytest.fixture(scope="module")
def features(model, coder, corpus, tmp_path_factory):
    return sk.Features.collect(model, coder, corpus, path=tmp_path_factory.mktemp("index"), progress=False)


@pytest.fixture
def one(model, coder):
    return widgets.PromptMicroscope(model, coder, TEXT)


@pytest.fixture
def two(model, coder, features):
    return widgets.PromptMicroscope(model, coder, TEXT, OTHER, features=features, top=8)


def dense(model, coder, text):
    """The codes of a text, straight from the model."""
    ids = model.to_tokens(text, prepend_bos=True)
    with torch.no_grad():
        return coder.encode(sk.capture(model, ids, SITE)[SITE.name][0, 1:]).dense().double().numpy()


# -- two texts side by side


def test_texts_are_aligned_by_their_equal_tokens():
    assert aligned("abc", "abc") == [(0, 0), (1, 1), (2, 2)]
    assert aligned("abc", "xy") == [(0, 0), (1, 1), (2, None)]
    assert aligned("abc", "axxbc") == [(0, 0), (None, 1), (None, 2), (1, 3), (2, 4)]
    assert aligned("axc", "ayc") == [(0, 0), (1, 1), (2, 2)]
    rng = random.Random(0)
    for _ in range(50):
        a, b = (rng.choices("abc", k=rng.randrange(1, 12)) for _ in range(2))
        pairs = aligned(a, b)
        for side, text in enumerate((a, b)):
            assert [p[side] for p in pairs if p[side] is not None] == list(range(len(text)))
        equal = sum(i is not None and j is not None and a[i] == b[j] for i, j in pairs)
        assert equal >= (len({*a} & {*b}) > 0)


def test_an_error_share_is_measured_from_what_is_there_without_latents():
    torch.manual_seed(0)
    coder = sk.SparseCoder(5, 12, sk.TopK(3), d_out=4, skip=True).eval()
    x, y = torch.randn(7, 5), torch.randn(7, 4)
    with torch.no_grad():
        coder.b_dec.normal_()
        coder.W_skip.normal_()
        base = x @ coder.W_skip + coder.b_dec
        full = base + coder.encode(x).dense() @ coder.W_dec
        share = error_share(coder, x, y, coder.encode(x))
        torch.testing.assert_close(share, (y - full).square().sum(1) / (y - base).square().sum(1))
        torch.testing.assert_close(error_share(coder, x, full, coder.encode(x)), torch.zeros(7), atol=1e-5, rtol=0)


# -- what is shown


def test_the_rows_are_the_latents_of_largest_sum(one, model, coder):
    data, codes = one.compute(), dense(model, coder, TEXT)
    order = np.argsort(-codes.sum(0), kind="stable")[:12]
    assert [row["latent"] for row in data["rows"]] == order.tolist()
    np.testing.assert_allclose([row["values"] for row in data["rows"]], codes[:, order].T, atol=1e-5)
    np.testing.assert_allclose([row["total"] for row in data["rows"]], codes[:, order].sum(0), atol=1e-4)
    np.testing.assert_allclose(data["sums"], codes[:, order].sum(1), atol=1e-4)
    assert data["active"] == (codes.sum(0) > 0).sum()
    assert data["share"] == pytest.approx(codes[:, order].sum() / codes.sum(), abs=1e-6)
    assert data["cell"] == np.unravel_index(codes[:, order].T.argmax(), (12, len(TEXT)))
    reading = read(model, coder, TEXT)
    assert [column["errors"][0] for column in data["columns"]] == reading.error.tolist()
    one.set_state(top=3)
    assert [row["latent"] for row in one.compute()["rows"]] == order[:3].tolist()


def test_a_difference_is_that_of_the_aligned_tokens(two, model, coder):
    data = two.compute()
    a, b = dense(model, coder, TEXT), dense(model, coder, OTHER)
    pairs = aligned(read(model, coder, TEXT).ids, read(model, coder, OTHER).ids)
    same = next(i for i in range(99) if TEXT[i] != OTHER[i])
    np.testing.assert_allclose(a[:same], b[:same], atol=1e-5)
    assert data["skipped"] == same - 1 and f"The first {same - 1} tokens are the same" in two.html
    pairs = pairs[same - 1 :]
    side = [
        np.stack([np.zeros(64) if i is None else x[i] for i in at])
        for x, at in zip((a, b), zip(*pairs, strict=True), strict=True)
    ]
    change = side[0] - side[1]
    order = np.argsort(-np.abs(change).sum(0), kind="stable")[:8]
    assert [row["latent"] for row in data["rows"]] == order.tolist()
    np.testing.assert_allclose([row["values"] for row in data["rows"]], change[:, order].T, atol=1e-5)
    assert data["sides"]["both"] == ((a.sum(0) > 0) & (b.sum(0) > 0)).sum()
    assert data["sides"]["a"] == ((a.sum(0) > 0) & (b.sum(0) == 0)).sum()
    for glyph, has in (("▲", (True, False)), ("●", (True, True)), ("▼", (False, True))):
        shown = [
            (x > 0, y > 0) == has for x, y in zip(side[0][:, order].ravel(), side[1][:, order].ravel(), strict=True)
        ]
        assert len(re.findall(f"<text[^>]*>{glyph}</text>", two.html)) == sum(shown)
    for show, codes, text in (("a", a, TEXT), ("b", b, OTHER)):
        two.act("show", show)
        data = two.compute()
        assert len(data["columns"]) == len(text)
        assert [row["latent"] for row in data["rows"]] == np.argsort(-codes.sum(0), kind="stable")[:8].tolist()


def test_rows_are_named_by_their_labels(two, features):
    for row in two.compute()["rows"]:
        known = features.table.loc[row["latent"]]
        assert row["name"] and (row["name"].startswith("at ") or known.f1 > known.always_fire)


def test_a_sum_over_two_readings_counts_a_token_once(model, coder):
    reading = read(model, coder, TEXT)
    places = list(range(len(TEXT)))
    latents, strength = strongest([(reading.codes, 1.0, places), (reading.codes, -1.0, places)], 64)
    assert len(latents) == 0 and not strength.any()
    assert placed(reading.codes, [None, 3], np.array([1, 2])).tolist() == [[0, reading.values(i)[3]] for i in (1, 2)]


# -- states


def test_one_text_twice_has_no_difference_and_says_so(model, coder):
    same = widgets.PromptMicroscope(model, coder, TEXT, TEXT)
    assert "The two texts give the same activations" in same.html
    same.act("move", "ArrowDown")
    same.act("show", "a")
    assert len(same.compute()["rows"]) == 12


def test_a_text_without_any_latent_says_so(model, coder):
    silent = copy.deepcopy(coder)
    with torch.no_grad():
        silent.b_enc.fill_(-1e6)
    shown = widgets.PromptMicroscope(model, silent, TEXT)
    assert "No latent is on in this text" in shown.html and is_harmless(shown.to_html())


def test_attribution_in_a_cell_is_that_of_the_package(one, model, coder):
    one.set_state(metric="attribution", top=30)
    data, target = one.compute(), one.targets()[0]
    table = sk.attribute(model, coder, TEXT, target)
    known = table[table.kind == "latent"].set_index(["latent", "pos"]).effect
    for row in data["rows"]:
        for c, value in enumerate(row["values"]):
            assert value == pytest.approx(-known.get((row["latent"], c + 1), 0.0), abs=1e-4)
    account = data["account"]
    assert account["target"] == pytest.approx(table.attrs["value"], abs=1e-4)
    assert account["error"] == pytest.approx(-table[table.kind == "error"].effect.sum(), abs=1e-3)
    assert account["shown"] + account["others"] == pytest.approx(-known.sum(), abs=1e-3)
    assert "activation × gradient" in one.html


def test_the_account_is_gradient_times_activation(one, model, coder):
    one.set_state(metric="attribution", top=3)
    account, target = one.compute()["account"], one.targets()[0].on(model)
    seen = sk.capture(model, TEXT, SITE, grad=False)[SITE.read].requires_grad_()
    with model.hooks([(SITE.read, lambda x, hook: seen.view_as(x))]):
        target(model(model.to_tokens(TEXT, prepend_bos=True))).sum().backward()
    whole = float((seen.grad * seen.detach())[0, 1:].sum())
    assert account["total"] == pytest.approx(whole, abs=1e-3)
    assert sum(account[part] for part in ("shown", "others", "error", "bias")) == pytest.approx(whole, abs=1e-3)


def test_ablation_in_a_cell_is_that_of_a_splice(one, model, coder):
    one.set_state(metric="ablation", top=2)
    data, target = one.compute(), one.targets()[0].on(model)
    tokens = model.to_tokens(TEXT, prepend_bos=True)
    row = data["rows"][0]
    for c, value in enumerate(row["values"]):
        where = torch.zeros_like(tokens, dtype=torch.bool)
        where[0, c + 1] = True
        with torch.no_grad(), sk.splice(model, coder, edit=sk.ablate(row["latent"]), where=where):
            without = float(target(model(tokens)))
        assert value == pytest.approx(data["account"]["target"] - without, abs=1e-4)
    r, c = data["cell"]
    assert data["measures"][0]["ablation"] == pytest.approx(data["rows"][r]["values"][c], abs=1e-5)


def test_a_target_of_ones_own_and_those_of_the_text(model, coder):
    shown = widgets.PromptMicroscope(model, coder, TEXT, OTHER, target=sk.logit_diff(5, 6), metric="attribution")
    data = shown.compute()
    assert len(data["targets"]) == 4 and data["targets"][0] == "token 5 - token 6" and data["show"] == "difference"
    mine, theirs = (sk.attribute(model, coder, text, sk.logit_diff(5, 6)).attrs["value"] for text in (TEXT, OTHER))
    assert data["account"]["target"] == pytest.approx(mine - theirs, abs=1e-4)
    shown.act("target", "1")
    assert shown.compute()["account"]["target"] != data["account"]["target"]
    assert is_harmless(shown.to_html())
    with pytest.raises(ValueError, match="0 to 3"):
        shown.set_state(target=4)
    with pytest.raises(ValueError, match="tokens of"):
        widgets.PromptMicroscope(model, coder, TEXT, target=sk.logit("a word of several tokens"))


@pytest.mark.parametrize(
    ("setting", "words"),
    [({"show": "difference"}, "second text"), ({"metric": "ablated"}, "activation, attribution, ablation"),
     ({"top": 31}, "1 to 30"), ({"show": "c"}, "a, b, difference"), ({"text": ""}, "empty"),
     ({"text": "x" * 99}, "99 tokens long")],
)  # fmt: skip
def test_what_cannot_be_is_refused(one, model, coder, setting, words):
    before = one.state
    with pytest.raises(ValueError, match=words):
        one.set_state(**setting)
    assert one.state == before
    if "show" not in setting and "metric" not in setting:
        with pytest.raises(ValueError, match=words):
            widgets.PromptMicroscope(model, coder, **{"text": TEXT} | setting)


def test_an_index_of_another_coder_is_refused(model, coder, features):
    other = copy.deepcopy(coder)
    with torch.no_grad():
        other.W_dec[0] *= 2
    with pytest.raises(ValueError, match="index is of another coder"):
        widgets.PromptMicroscope(model, other, TEXT, features=features)
    widgets.PromptMicroscope(model, copy.deepcopy(coder), TEXT, features=features)


def test_a_text_that_is_too_long_is_answered_with_a_way_out(two):
    before = two.state
    two._hear(two, {"act": "contrast", "arg": "y" * 80}, [])
    assert "80 tokens long" in two.html and 'data-act="last"' in two.html and two.state == before
    two._hear(two, {"act": "last", "arg": ""}, [])
    assert two.state["contrast"] == "y" * 63 and 'role="alert"' not in two.html


# -- clicks and keys


def test_a_cell_opens_the_card_and_keys_move_it(two):
    data = two.compute()
    two.act("at", [4.4, 2.7])
    assert two.state["cell"] == (2, 4) and two.state["open"]
    assert two.card.state["latent"] == data["rows"][2]["latent"] and two.card.state["text"] == TEXT
    assert f"Feature card, latent {data['rows'][2]['latent']}" in two.html
    for key, at in (("ArrowDown", (3, 4)), ("ArrowRight", (3, 5)), ("End", (3, len(data["columns"]) - 1)),
                    ("ArrowRight", (3, len(data["columns"]) - 1)), ("Home", (3, 0)), ("ArrowUp", (2, 0))):  # fmt: skip
        two.act("move", key)
        assert two.state["cell"] == at
        assert two.card.state["latent"] == data["rows"][at[0]]["latent"]
    two.act("card/step", "1")
    assert f"Feature card, latent {two.card.state['latent']}" in two.html
    two.act("open", "")
    assert not two.state["open"] and "Feature card" not in two.html
    two.act("move", "Enter")
    assert two.state["open"]
    with pytest.raises(ValueError, match="cell"):
        two.pick_cell(99, 0)


def test_without_an_index_a_cell_is_only_looked_at(one):
    one.act("at", [2.0, 1.0])
    one.act("move", "Enter")
    assert one.state["cell"] == (1, 2) and not one.state["open"] and "Open latent" not in one.html


def test_texts_are_typed_swapped_and_taken_away(two, one):
    two.act("move", "x")
    assert (two.state["text"], two.state["contrast"]) == (OTHER, TEXT)
    two.act("text", "x = 1\n")
    assert "".join(c["a"] for c in two.compute()["columns"] if c["a"]) == "x = 1\n"
    assert two.card.state["text"] == "x = 1\n"
    two.act("alone", "")
    assert two.state["contrast"] is None and two.state["show"] == "a"
    one.act("compare", "")
    one.act("contrast", OTHER)
    assert one.state["show"] == "difference" and len(one.compute()["rows"]) == 12
    one.act("top", 5.0)
    assert len(one.compute()["rows"]) == 5


def test_state_sets_itself_and_a_page_is_small_and_offline(one, two):
    for widget in (one, two):
        before = widget.state
        widget.set_state(**before)
        assert widget.state == before
        page = widget.to_html()
        assert is_harmless(page) and "http" not in page and len(page) < 300_000


@pytest.mark.parametrize("token", [t for t in HOSTILE if t.isprintable() and len(t) < 60])
def test_hostile_text_is_text(model, coder, features, token):
    for texts in itertools.product((token, token * 2), (None, token)):
        widget = widgets.PromptMicroscope(model, coder, *texts, features=features)
        assert is_harmless(widget.html) and is_harmless(widget.to_html())
