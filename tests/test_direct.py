"""Sums over the residual stream and through heads, on eight families of tiny random models in float64."""

import warnings

import pytest
import torch
from numpy.testing import assert_allclose
from test_attribute import OTHER, TARGET, TOKENS, logits_of, made, n_hooks, value

import saekit as sk
from saekit.hooks import nudged

N = TOKENS.shape[1]
CUT, LATE, TRANSCODER = (
    "blocks.0.hook_resid_post",
    "blocks.2.hook_mlp_out",
    ("blocks.2.mlp.hook_in", "blocks.2.hook_mlp_out"),
)
READERS = ["blocks.1.hook_resid_post", "blocks.2.mlp.hook_in", "blocks.1.hook_attn_out", "blocks.1.attn.hook_z"]


def held(model, *but):
    """Hooks that hold patterns, norm scales and what layers write at their values, except where a name is in `but`."""
    ends = (".hook_pattern", ".hook_scale", ".hook_mlp_out", ".attn.hook_z")
    names = [n for n in model.hook_dict if n.endswith(ends) and not n.endswith(but)]
    _, cache = model.run_with_cache(TOKENS, names_filter=names)
    return [(name, lambda x, hook, v=cache[name]: v) for name in names if name in cache]


def run(model, hooks, changes, read):
    """What is at a hook when activations are changed and others held."""
    with warnings.catch_warnings(), model.hooks(hooks), nudged(model, changes):
        warnings.filterwarnings("ignore", message=".*native-autograd path")
        return sk.capture(model, TOKENS, read)[read]


def near(model, number):
    """Equal to rounding: to that of float32 where the model has an RMS norm, which is computed in it."""
    size = 1e-9 if model.cfg.normalization_type == "LN" else 1e-5
    return pytest.approx(float(number), rel=size, abs=size)


def parts(model, prompt=TOKENS, target=TARGET, coders=()):
    return sk.direct(model, prompt, target, coders)


# --- direct


def test_the_parts_sum_to_the_target(exact_model):
    coders = [made(CUT), made(LATE, seed=2)]
    plain = value(exact_model, TOKENS).item()
    for given in ((), coders[0], coders[1], coders, made(*TRANSCODER)):
        table = parts(exact_model, coders=given)
        assert table["contribution"].sum() == pytest.approx(table.attrs["total"], abs=1e-9)
        # Frozen norms are computed in Python, in float64; an RMS norm of the plain pass in float32.
        assert table.attrs["total"] == pytest.approx(plain, abs=1e-5)
        assert table["contribution"].abs().is_monotonic_decreasing
    kinds = {*parts(exact_model, coders=coders)["kind"]}
    assert {"latent", "error", "b_dec", "head", "mlp"} <= kinds
    assert not {"embed", "position"} & kinds


@pytest.mark.parametrize("read", READERS)
def test_the_parts_sum_to_a_pre_activation(exact_model, read):
    reader = made(read)
    for pos in (1, 5):
        target = sk.pre_activation(reader, 3, pos)
        table = parts(exact_model, target=target)
        x = sk.capture(exact_model, TOKENS, read)[read][0, pos]
        assert table["contribution"].sum() == pytest.approx(table.attrs["total"], abs=1e-9)
        assert table.attrs["total"] == pytest.approx((x @ reader.W_enc + reader.b_enc)[3].item(), abs=1e-5)
        assert table["pos"].max() <= pos


def test_heads_are_the_products_of_pattern_values_and_weights(exact_model):
    """`A[q, k] v[k] W_O e`, with W_O from the bridge: where no norm follows the attention."""
    if "blocks.0.ln1_post.hook_out" in exact_model.hook_dict:
        return
    reader = made("blocks.1.hook_attn_out")
    table = parts(exact_model, target=sk.pre_activation(reader, 2, 6)).query("kind == 'head'")
    names = [f"blocks.1.attn.hook_{name}" for name in ("pattern", "v")]
    _, cache = exact_model.run_with_cache(TOKENS, names_filter=names)
    v = cache[names[1]][0]
    v = v.repeat_interleave(4 // v.shape[1], 1)
    W_O = exact_model.blocks[1].attn.W_O
    expected = torch.einsum("hk,khd,hde,e->hk", cache[names[0]][0, :, 6], v, W_O, reader.W_enc[:, 2])
    assert len(table) == 4 * 7
    for row in table.itertuples():
        assert row.contribution == near(exact_model, expected[row.head, row.pos])


def test_a_head_is_what_goes_when_its_values_go(exact_model):
    """Also through the norm behind the attention, and the later layers' norms: nothing else moves."""
    read, layer, k = "blocks.2.mlp.hook_in", 1, 3
    target = sk.pre_activation(made(read), 4, 6)
    rows = parts(exact_model, target=target).query(f"kind == 'head' and layer == {layer} and pos == {k}")
    name, hooks = f"blocks.{layer}.attn.hook_v", held(exact_model, f"blocks.{layer}.attn.hook_z")
    v = sk.capture(exact_model, TOKENS, name)[name]
    d_head = exact_model.cfg.d_head
    for kv_head in range(v.shape[2] // d_head):
        gone, some = torch.zeros_like(v), slice(kv_head * d_head, (kv_head + 1) * d_head)
        gone[:, k, some] = -v[:, k, some]
        ends = [target.on(exact_model)(run(exact_model, hooks, {name: change}, read)) for change in (0 * gone, gone)]
        mine = rows[rows["head"] // (4 * d_head // v.shape[2]) == kv_head]
        assert mine["contribution"].sum() == near(exact_model, ends[0] - ends[1])


def test_a_latent_is_what_goes_when_it_goes(exact_model):
    coder = made(CUT)
    table = parts(exact_model, coders=coder).query("kind == 'latent'")
    hooks = held(exact_model)
    for row in table.head(3).itertuples():
        gone = torch.zeros(1, N, 32).double()
        x = sk.capture(exact_model, TOKENS, CUT)[CUT]
        gone[0, row.pos] = -coder.encode(x[0, row.pos]).dense()[0, row.latent] * coder.W_dec[row.latent]
        ends = [run(exact_model, hooks, {CUT: change}, "unembed.hook_out") for change in (0 * gone, gone)]
        moved = TARGET.on(exact_model)(ends[0]) - TARGET.on(exact_model)(ends[1])
        assert row.pos == N - 1
        assert row.contribution == near(exact_model, moved)


def test_transformer_lens_agrees_where_it_can_say(tiny_folders):
    """Its direct logit attribution needs folded weights; it has no biases of its own."""
    from transformer_lens.tools.analysis.direct_logit_attribution import direct_logit_attribution

    for family in ("gpt2", "llama"):
        model = sk.load_model(tiny_folders[family], dtype=torch.float64)
        model.enable_compatibility_mode(disable_warnings=True)
        table = parts(model)
        for unit, kind in (("component", "mlp"), ("head", "head")):
            theirs = direct_logit_attribution(model, TOKENS, TARGET_IDS(model)[0], TARGET_IDS(model)[1], unit=unit)
            found = dict(zip(theirs.labels, theirs.attribution.flatten().tolist(), strict=True))
            mine = table[table["kind"] == kind].groupby(["layer", "head"])["contribution"].sum()
            for (layer, head), contribution in mine.items():
                label = f"{layer}_mlp_out" if kind == "mlp" else f"L{layer}H{head}"
                assert contribution == pytest.approx(found[label], abs=1e-5)


def TARGET_IDS(model):
    return model.tokenizer.encode("a")[-1], 66


def test_what_is_at_bos_is_one_term(exact_models):
    model, coder = exact_models("gpt2"), made("blocks.0.hook_resid_post")
    table = sk.ov(model, TOKENS, TARGET, 1, 2, coder)
    assert [*table[table["pos"] == 0]["kind"]] == ["bos"]
    assert (table.query("kind == 'bos'")["token"] == "<|bos|>").all()


# --- through heads


def test_the_ov_circuit_sums_to_the_head(exact_model):
    for layer, head, given in (
        (2, 1, made("blocks.1.hook_resid_post")),
        (1, 3, ()),
        (2, 0, made("blocks.0.hook_mlp_out")),
    ):
        table = sk.ov(exact_model, TOKENS, TARGET, layer, head, given)
        rows = parts(exact_model).query(f"kind == 'head' and layer == {layer}")
        assert table["contribution"].sum() == pytest.approx(table.attrs["total"], abs=1e-9)
        by_source = rows[rows["head"] == head]["contribution"].sum()
        assert table.attrs["total"] == pytest.approx(by_source, abs=1e-9)


def test_a_latent_through_a_head_is_what_goes_when_it_goes(exact_model):
    """Nothing moves but this head's values: patterns, norms, other heads and MLPs are held."""
    name, layer, head = "blocks.1.hook_resid_post", 2, 1
    coder, z = made(name), "blocks.2.attn.hook_z"
    table = sk.ov(exact_model, TOKENS, TARGET, layer, head, coder).query("kind == 'latent'")
    plain = sk.capture(exact_model, TOKENS, z)[z]
    d_head, entry = exact_model.cfg.d_head, "blocks.2.ln1.hook_in"

    def only_this_head(x, hook):
        held_z = plain.view_as(x).clone()
        held_z[:, :, head] = x[:, :, head]
        return held_z

    hooks = [*held(exact_model, z), (z, only_this_head)]
    # What skips the head must not move either, so only the norm's entry is changed.
    for row in table.head(3).itertuples():
        gone = torch.zeros(1, N, 32).double()
        x = sk.capture(exact_model, TOKENS, name)[name]
        gone[0, row.pos] = -coder.encode(x[0, row.pos]).dense()[0, row.latent] * coder.W_dec[row.latent]
        ends = [run(exact_model, hooks, {entry: change}, "unembed.hook_out") for change in (0 * gone, gone)]
        moved = TARGET.on(exact_model)(ends[0]) - TARGET.on(exact_model)(ends[1])
        assert row.contribution == near(exact_model, moved)
    assert plain.shape[2] == 4 * d_head


@pytest.mark.parametrize("coder", [None, "blocks.0.hook_resid_post"])
def test_the_parts_of_both_sides_sum_to_the_score(exact_model, coder):
    layer, head, query, key = 1, 2, 6, 3
    matrix = sk.qk(exact_model, TOKENS, layer, head, query, key, made(coder) if coder else ())
    assert matrix.to_numpy().sum() == pytest.approx(matrix.attrs["score"], abs=1e-9)
    _, cache = exact_model.run_with_cache(TOKENS, names_filter=[f"blocks.{layer}.attn.hook_attn_scores"])
    seen, cap = (
        cache[f"blocks.{layer}.attn.hook_attn_scores"][0, head, query, key],
        exact_model.cfg.attn_scores_soft_cap,
    )
    score = torch.tensor(matrix.attrs["score"]).double()
    torch.testing.assert_close(cap * torch.tanh(score / cap) if cap > 0 else score, seen, rtol=1e-5, atol=1e-5)


def test_a_pair_of_parts_is_what_goes_when_both_go(exact_model):
    """The score is bilinear: S(q - i, k - j) - S(q - i, k) - S(q, k - j) + S = S[i, j], with norm scales held."""
    name, layer, head, query, key = "blocks.0.hook_resid_post", 1, 2, 6, 3
    coder, entry, read = made(name), "blocks.1.ln1.hook_in", "blocks.1.attn.hook_attn_scores"
    matrix = sk.qk(exact_model, TOKENS, layer, head, query, key, coder)
    latents = [index.get_level_values("kind") == "latent" for index in (matrix.index, matrix.columns)]
    part = matrix.loc[latents[0], latents[1]]
    (i, j) = (index.get_level_values("latent")[0] for index in (part.index, part.columns))
    x, hooks, cap = (
        sk.capture(exact_model, TOKENS, name)[name][0],
        held(exact_model),
        exact_model.cfg.attn_scores_soft_cap,
    )

    def score(*gone):
        change = torch.zeros(1, N, 32).double()
        for pos, latent in gone:
            change[0, pos] -= coder.encode(x[pos]).dense()[0, latent] * coder.W_dec[latent]
        found = run(exact_model, hooks, {entry: change}, read).view(4, N, N)[head, query, key]
        return cap * torch.atanh(found / cap) if cap > 0 else found

    both = score((query, i), (key, j)) - score((query, i)) - score((key, j)) + score()
    assert part.iloc[0, 0] == near(exact_model, both)


def test_a_query_may_look_at_itself(exact_models):
    matrix = sk.qk(exact_models("neox"), TOKENS, 1, 0, 4, 4)
    assert matrix.to_numpy().sum() == pytest.approx(matrix.attrs["score"], abs=1e-9)


# --- bad input


def test_bad_input_is_named_and_the_model_left_clean(exact_models):
    model = exact_models("mistral")
    plain = model(TOKENS)
    refused = [
        (sk.direct, (TOKENS[:, :1], TARGET), {}, r"a prompt of 1 token"),
        (sk.direct, (torch.cat([TOKENS, OTHER]), TARGET), {}, r"2 prompts; give one"),
        (
            sk.direct,
            (TOKENS, sk.pre_activation(made("blocks.1.ln1.hook_out"), 0)),
            {},
            r"'blocks.1.ln1.hook_out' does not read",
        ),
        (sk.direct, (TOKENS, TARGET), {"coders": [made(CUT), made("blocks.1.hook_resid_post")]}, r"another covers it"),
        (
            sk.direct,
            (TOKENS, sk.pre_activation(made(CUT), 1)),
            {"coders": made(LATE)},
            r"does not read what the coder at",
        ),
        (
            sk.direct,
            (TOKENS, TARGET),
            {"coders": made(CUT, ("blocks.1.hook_mlp_out", LATE), d_out=64)},
            r"writes 2 hooks",
        ),
        (sk.direct, (TOKENS, TARGET), {"coders": made(CUT, d_in=16)}, r"from width 16"),
        (sk.ov, (TOKENS, TARGET, 3, 0), {}, r"head 0 of layer 3: this model has 4 heads in each of 3 layers"),
        (sk.ov, (TOKENS, sk.pre_activation(made(CUT), 1), 2, 0), {}, r"where layer 2 has not written"),
        (sk.qk, (TOKENS, 0, 4, 3, 1), {}, r"head 4 of layer 0"),
        (sk.qk, (TOKENS, 0, 1, 3, 5), {}, r"a query at 3 does not see a key at 5 in a prompt of 9"),
        (sk.qk, (torch.arange(40)[None], 0, 1, 35, 5), {}, r"window of this layer is shorter"),
    ]
    for method, args, options, match in refused:
        with pytest.raises(ValueError, match=match):
            method(model, *args, **options)
    assert n_hooks(model) == 0
    assert torch.equal(model(TOKENS), plain)


def test_an_architecture_with_more_in_its_stream_is_named(exact_models):
    model = exact_models("llama")
    extra = [("blocks.1.hook_resid_post", lambda x, hook: x + 1.0)]
    with model.hooks(extra), pytest.raises(ValueError, match=r"the parts sum to .*this architecture has more"):
        sk.direct(model, TOKENS, TARGET)
    assert_allclose(
        sk.direct(model, TOKENS, TARGET).attrs["total"], TARGET.on(model)(logits_of(model, TOKENS)), atol=1e-5
    )
