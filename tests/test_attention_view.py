"""Attention patterns, patching, hook names, heads into a latent: what is shown, by hand and by key, and bad input."""

import re
import sys

import numpy as np
import pytest
import torch

import saekit as sk
from saekit import patching, widgets
from saekit.viz.attention import LEVELS, runs
from saekit.viz.hooks import PLACES
from saekit.viz.patching import finding
from tests.test_viz import HOSTILE, is_harmless

TEXT = "def f(x):\n    return x + [x]\n"


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models["gpt2"]


@pytest.fixture
def view(model):
    scores = np.arange(12).reshape(3, 4)[::-1]
    return widgets.AttentionView(model, TEXT, scores=scores, scored="score of <b>")


def true_patterns(model, ids):
    _, cache = model.run_with_cache(torch.tensor([ids]))
    return torch.stack([cache["pattern", layer][0] for layer in range(model.cfg.n_layers)]).numpy()


# -- attention


def test_the_patterns_are_the_models(view, model):
    np.testing.assert_allclose(view.patterns, true_patterns(model, view.ids), atol=1e-6)
    data = view.compute()
    assert (data["layer"], data["head"]) == data["best"] == (0, 3)  # the largest score
    assert data["pos"] == len(view.ids) - 1
    np.testing.assert_allclose(data["weights"], view.patterns[0, 3, -1])
    assert sum(data["weights"]) == pytest.approx(1, abs=1e-5)
    assert data["sink"] == pytest.approx(view.patterns[0, 3, 1:, 0].mean())


@pytest.mark.parametrize("family", ["llama", "neox", "gemma2", "qwen3"])
def test_every_family_has_patterns(tiny_models, family):
    view = widgets.AttentionView(tiny_models[family], "x = 1")
    assert view.patterns.shape == (3, 4, 6, 6)
    np.testing.assert_allclose(view.patterns.sum(-1), 1, atol=1e-5)


def test_the_list_of_sources_adds_up(view):
    for pos in range(len(view.ids)):
        view.set_state(pos=pos)
        top = view.compute()["top"]
        row = view.patterns[0, 3, pos]
        assert [k for k, _, _ in top] == np.argsort(-row[: pos + 1], kind="stable")[:5].tolist()
        shown = [float(n.replace(",", "")) for n in re.findall(r'<td class="sk-num">(\d+)\u202f%</td>', view.html)]
        assert sum(shown) == pytest.approx(100, abs=4)  # rounded to whole per cent, six rows


def test_a_source_is_named_by_what_it_is():
    class Fake:
        ids = (0, 7, 8, 9, 7, 8)
        sink = True
        _kind = widgets.AttentionView._kind

    kinds = [Fake()._kind(k, 5) for k in range(6)]
    assert kinds == [
        "the beginning",
        "",
        "an earlier copy of it",
        "after an earlier copy",
        "the token before",
        "itself",
    ]


def test_without_bos_the_colours_are_for_the_rest(view):
    view.act("bos", False)
    data = view.compute()
    assert {row[0] for row in data["pattern"]} == {0.0}
    assert data["most"] == pytest.approx(view.patterns[0, 3, :, 1:].max())
    np.testing.assert_allclose(data["weights"], view.patterns[0, 3, -1])  # the sums are still whole
    assert "Show attention on BOS" in view.html


def test_a_small_picture_has_the_cells_above_each_level():
    rng = np.random.default_rng(0)
    pattern = rng.random((9, 9)) ** 3
    found = runs(pattern.tolist())
    lows = [low for low, _ in LEVELS] + [np.inf]
    for level, low, high in zip(found, lows, lows[1:], strict=False):
        drawn = np.zeros((9, 9), bool)
        for x, y, n in level:
            drawn[y, x : x + n] = True
        assert (drawn == ((pattern >= low) & (pattern < high))).all()


def test_clicks_keys_and_pointing(view):
    n = len(view.ids)
    view.act("pick", "2.1")
    assert (view.state["layer"], view.state["head"]) == (2, 1)
    for key, want in (
        ("ArrowUp", (1, 1)),
        ("ArrowLeft", (1, 0)),
        ("ArrowLeft", (1, 0)),
        ("ArrowDown", (2, 0)),
        ("ArrowDown", (2, 0)),
    ):
        view.act("heads", key)
        assert (view.state["layer"], view.state["head"]) == want
    for key, want in (("Home", 0), ("ArrowLeft", 0), ("ArrowRight", 1), ("End", n - 1), ("ArrowRight", n - 1)):
        view.act("move", key)
        assert view.state["pos"] == want
    view.act("at", [0.5, 3.7])
    assert view.state["pos"] == 3
    view.act("at", [0.0, float(n)])  # the very edge
    assert view.state["pos"] == n - 1
    view.act("over", "4")
    assert view.compute()["pos"] == 4 and view.state["pos"] == n - 1
    assert re.search(r'data-arg="4"[^>]*aria-label="[^"]*"', view.html)
    view.act("over", "")
    assert view.compute()["pos"] == n - 1
    view.act("over", "4")
    view.act("pos", "2")  # a click wins over pointing
    assert view.compute()["pos"] == 2


def test_the_largest_score_is_marked(view):
    assert view.html.count("★") == 1
    assert "score of &lt;b&gt; 11.00, the largest of all" in view.html
    view.set_state(layer=1, head=0)
    assert "score of &lt;b&gt; 4.00, largest 11.00, head 0.3" in view.html


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"text": ""}, "the text is empty"),
        ({"text": "word " * 60}, "takes 1 to 64"),
        ({"text": torch.zeros(2, 3, dtype=torch.long)}, "2 texts: give those of one"),
        ({"scores": np.zeros((2, 2))}, r"scores of shape \(2, 2\)"),
    ],
)
def test_bad_input_of_the_viewer(model, given, match):
    with pytest.raises(ValueError, match=match):
        widgets.AttentionView(model, **({"text": TEXT} | given))


@pytest.mark.parametrize("state", [{"layer": 3}, {"head": 4}, {"pos": 99}, {"pos": -1}, {"over": 99}])
def test_a_state_that_is_not_there(view, state):
    before = view.html
    with pytest.raises(ValueError, match="counted from 0"):
        view.set_state(**state)
    assert view.html == before


def test_hostile_text_is_shown(model):
    view = widgets.AttentionView(model, HOSTILE[0] + HOSTILE[1], scores=np.zeros((3, 4)), scored=HOSTILE[0])
    assert is_harmless(view.html) and is_harmless(view.to_html())


# -- patching


PAIR = "a = f(b[c", "a = f(b(c"


def last(logits):
    return logits[:, -1, 60] - logits[:, -1, 70]


def logits(model, ids):
    """Before the soft cap, where there is one."""
    return sk.capture(model, ids, "unembed.hook_out")["unembed.hook_out"]


def test_patching_is_one_position_of_one_layer(tiny_model):
    clean, corrupt = (tiny_model.to_tokens(text, prepend_bos=True) for text in PAIR)
    values = patching(tiny_model, *PAIR, last)
    assert values.shape == (3, clean.shape[1])
    _, cache = tiny_model.run_with_cache(clean)
    for layer, pos in ((0, 7), (1, 9), (2, 3)):

        def put(x, hook, layer=layer, pos=pos):
            x = x.clone()
            x[:, pos] = cache["resid_pre", layer][:, pos]
            return x

        with tiny_model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", put)]):
            by_hand = logits(tiny_model, corrupt)
        torch.testing.assert_close(values[layer, pos], last(by_hand)[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        values[0, 8], last(logits(tiny_model, clean))[0], atol=1e-4, rtol=1e-4
    )  # all that differs
    torch.testing.assert_close(values[0, :8], last(logits(tiny_model, corrupt)).expand(8), atol=1e-4, rtol=1e-4)


def test_patching_in_several_batches_and_at_other_sites(model, monkeypatch):
    whole = patching(model, *PAIR, last)
    monkeypatch.setattr(sys.modules["saekit.attribute.patching"], "BATCH", 4)
    torch.testing.assert_close(patching(model, *PAIR, last), whole, atol=1e-5, rtol=1e-5)
    heads = patching(model, *PAIR, last, site="attn.hook_z")
    assert heads.shape == whole.shape and not torch.allclose(heads, whole)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (("a", "ab", last), "2 tokens and the corrupt one 3"),
        (("ab", "ab", last), "are the same"),
        (("ab", "ac", last, "hook_nothing"), "no hook 'blocks.0.hook_nothing'"),
        ((torch.ones(2, 3, dtype=torch.long), "abc", last), "2 prompts"),
        (("a" * 99, "b" * 99, last), "takes 1 to 64"),
    ],
)
def test_bad_input_of_patching(model, given, match):
    before = model(torch.tensor([[0, 1, 2]]))
    with pytest.raises(ValueError, match=match):
        patching(model, *given)
    assert torch.equal(model(torch.tensor([[0, 1, 2]])), before)


def test_the_model_is_clean_after_a_failing_target(model):
    def failing(logits):
        raise RuntimeError("no")

    before = model(torch.tensor([[0, 1, 2]]))
    with pytest.raises(RuntimeError, match="no"):
        patching(model, *PAIR, failing)
    assert torch.equal(model(torch.tensor([[0, 1, 2]])), before)


VALUES = [[-1.0, 3.0, -1.0], [-1.0, 1.0, 0.0], [-1.2, -1.0, 2.5]]


@pytest.fixture
def patched():
    return widgets.PatchingMap(VALUES, ["a", "[", "b"], clean=3.0, corrupt=-1.0, corrupt_tokens=["a", "(", "b"])


def test_shares_are_of_the_difference(patched):
    data = patched.compute()
    np.testing.assert_allclose(data["shares"], (np.array(VALUES) + 1) / 4)
    assert data["cell"] == (0, 1)
    assert (
        finding(data)
        == "What restores the answer most sits at '[' in layers 0 and 1, then at the last token, 'b' in layer 2"
    )
    for words in ("<dd>3.00</dd>", "<dd>−1.00</dd>", "[ ≠ (", "100\u202f%"):
        assert words in patched.html
    few = widgets.PatchingMap([[0.1, 0.0]], "ab", clean=1.0, corrupt=0.0)
    assert finding(few.compute()) == "No single position restores much: 10\u202f% at most"


def test_cells_are_reached_by_mouse_and_keys(patched):
    patched.act("at", [2.4, 2.9])
    assert patched.state["cell"] == (2, 2)
    patched.act("at", [3.0, 3.0])
    assert patched.state["cell"] == (2, 2)
    for key, want in (
        ("ArrowDown", (1, 2)),
        ("ArrowLeft", (1, 1)),
        ("Home", (1, 0)),
        ("ArrowLeft", (1, 0)),
        ("End", (1, 2)),
        ("ArrowUp", (2, 2)),
        ("ArrowUp", (2, 2)),
    ):
        patched.act("move", key)
        assert patched.state["cell"] == want
    assert "<dd>2.50</dd>" in patched.html


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"values": [1.0, 2.0]}, "give \\[layer, pos\\]"),
        ({"tokens": ["a"]}, "for 1 and 3 tokens"),
        ({"values": [[np.nan, 1, 2]]}, "no finite numbers"),
        ({"clean": -1.0}, "is -1 on both prompts"),
    ],
)
def test_bad_input_of_the_map(given, match):
    right = {
        "values": VALUES,
        "tokens": ["a", "[", "b"],
        "clean": 3.0,
        "corrupt": -1.0,
        "corrupt_tokens": ["a", "(", "b"],
    }
    with pytest.raises(ValueError, match=match):
        widgets.PatchingMap(**(right | given))


def test_hostile_tokens_of_the_map():
    view = widgets.PatchingMap(
        [[0.0, 1.0]],
        HOSTILE[:2],
        clean=1.0,
        corrupt=0.0,
        corrupt_tokens=HOSTILE[1:3],
        metric=HOSTILE[0],
        site=HOSTILE[1],
    )
    assert is_harmless(view.html) and is_harmless(view.to_html())


# -- hook names


def test_every_hook_has_its_shape(model):
    view = widgets.HookMap(model, "x = 1", layer=1)
    _, cache = model.run_with_cache(model.to_tokens("x = 1", prepend_bos=True))
    for place in PLACES:
        view.act("name", place.name)
        assert tuple(view.compute()["shape"]) == tuple(cache[place.at(1)].shape)
        assert place.at(1) in view.html
        assert cache[place.at(1)].dim() == len(place.axes.split(", "))


def test_hooks_by_keys_and_what_a_family_lacks(tiny_models):
    view = widgets.HookMap(tiny_models["neox"], "x")
    view.act("name", "hook_resid_mid")
    assert "not in this model" in view.html
    for key, want in (("ArrowLeft", "hook_attn_out"), ("ArrowRight", "hook_resid_mid")):
        view.act("move", key)
        assert view.state["name"] == want
    view.act("move", "ArrowUp")
    assert view.state["layer"] == 1
    view.act("layer", "2")
    view.act("move", "ArrowUp")
    assert view.state["layer"] == 2
    for wrong in ({"layer": 3}, {"name": "hook_nothing"}):
        with pytest.raises(ValueError, match="counted from 0|choose one of"):
            view.set_state(**wrong)
    with pytest.raises(ValueError, match="takes 1 to 64"):
        widgets.HookMap(tiny_models["neox"], "x" * 99)


def test_the_map_leaves_no_hook(model):
    before = model(torch.tensor([[0, 1]]))
    widgets.HookMap(model, "x")
    assert torch.equal(model(torch.tensor([[0, 1]])), before)
    assert sk.Site("blocks.0.hook_resid_post").check(model)


# -- heads into a latent

SITES = {"resid": ("blocks.1.hook_resid_post",), "transcoder": ("blocks.2.mlp.hook_in", "blocks.2.hook_mlp_out")}


def coder_at(*site):
    torch.manual_seed(1)
    coder = sk.SparseCoder(32, 12, sk.ReLU()).eval().requires_grad_(False)
    coder.site = sk.Site(*site)
    return coder


@pytest.fixture
def into(model):
    return widgets.HeadView(model, coder_at(*SITES["resid"]), 3, TEXT)


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
def test_the_account_adds_up_to_the_pre_activation(model, site):
    coder = coder_at(*site)
    view = widgets.HeadView(model, coder, 3, TEXT, 9)
    x = sk.capture(model, view.ids, coder.site)[site[0]][0, 9]
    pre = float(coder.encoding(x[None]).pre[0, 3])
    data = view.compute()
    assert data["pre"] == pytest.approx(pre, abs=1e-4)
    assert sum(term["value"] for term in data["terms"]) == pytest.approx(pre, abs=1e-3)
    layers = {head["head"][0] for head in data["heads"]}
    assert layers == set(range(2 if site == SITES["resid"] else 3))
    for head in data["heads"]:
        view.set_state(head=head["head"])
        shown = view.compute()
        total = sum(source["value"] for source in shown["sources"]) + shown["rest"]["value"]
        assert total == pytest.approx(head["value"], abs=1e-5)
        attention = sum(source["attention"] for source in shown["sources"]) + shown["rest"]["attention"]
        assert attention == pytest.approx(1, abs=1e-4)
        assert head["head"] in [term["head"] for term in shown["terms"]]


def test_a_heads_part_is_attention_times_what_it_carries(into, model):
    """A residual coder reads a head's output as it is written, so its part is <A v W_O, e>."""
    into.set_state(pos=7, head=(1, 2))
    _, cache = model.run_with_cache(into.ids)
    W_O = model.blocks[1].attn.o.weight if hasattr(model.blocks[1].attn.o, "weight") else model.W_O[1].flatten(0, 1)
    v = cache["v", 1][0].reshape(len(into.tokens), 4, 8)[:, 2]
    column = into.coder.W_enc[:, 3]
    for source in into.compute()["sources"]:
        written = v[source["pos"]] @ W_O[16:24] * source["attention"]
        assert source["value"] == pytest.approx(float(written @ column), abs=1e-4)


def test_why_a_head_looks_there_adds_up_to_its_score(into, model):
    into.act("why", True)
    into.set_state(pos=8, head=(1, 0))
    pairs = into.compute()["pairs"]
    _, cache = model.run_with_cache(into.ids)
    assert pairs["score"] == pytest.approx(float(cache["attn_scores", 1][0, 0, 8, pairs["pos"]]), abs=1e-3)
    assert sum(value for *_, value in pairs["rows"]) + pairs["rest"] == pytest.approx(pairs["score"], abs=1e-4)
    assert "Why it looks at" in into.html


def test_the_first_layer_has_no_heads_before_it(model):
    view = widgets.HeadView(model, coder_at("blocks.0.hook_resid_pre"), 0, TEXT)
    data = view.compute()
    assert data["head"] is None and data["heads"] == [] and "no head comes before" in view.html
    assert sum(term["value"] for term in data["terms"]) == pytest.approx(data["pre"], abs=1e-4)


def test_heads_and_tokens_by_clicks_and_keys(into):
    order = [term["head"] for term in into.compute()["terms"] if term["head"] is not None]
    first = into.compute()["head"]
    assert first == max(into.heads(), key=into.heads().get)
    into.act("pick", "{}.{}".format(*order[0]))
    for key, want in (("ArrowUp", order[0]), ("ArrowDown", order[1]), ("ArrowDown", order[2]), ("ArrowUp", order[1])):
        into.act("move", key)
        assert into.state["head"] == want
    into.act("pos", "4")
    assert into.state["pos"] == 4 and into.state["head"] is None
    for key, want in (("ArrowRight", 5), ("Home", 0), ("ArrowLeft", 0), ("End", len(into.tokens) - 1)):
        into.act("go", key)
        assert into.state["pos"] == want
    into.act("latent", 5)
    into.act("strongest", "")
    assert into.state["pos"] == int(into.codes[1:, 5].argmax()) + 1
    assert "Latent 5 at " in into.html


def test_bad_input_of_the_heads(into, model):
    with pytest.raises(ValueError, match=r"latent 12 is not in \[0, 12\)"):
        widgets.HeadView(model, into.coder, 12, TEXT)
    with pytest.raises(ValueError, match="takes 1 to 64"):
        widgets.HeadView(model, into.coder, 1, "x" * 99)
    for wrong, match in (
        ({"pos": 99}, "tokens, BOS among them"),
        ({"head": (2, 0)}, "no such head"),
        ({"latent": -1}, "latent -1"),
    ):
        before = into.html
        with pytest.raises(ValueError, match=match):
            into.set_state(**wrong)
        assert into.html == before


def test_hostile_text_of_the_heads(model, into):
    view = widgets.HeadView(model, into.coder, 3, HOSTILE[0] + HOSTILE[1][:20], why=True)
    assert is_harmless(view.html) and is_harmless(view.to_html())
