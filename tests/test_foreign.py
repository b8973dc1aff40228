"""Other tools' files: what they compute, we compute; what contradicts itself or could run code is refused."""

import json
import pickle

import numpy as np
import pytest
import torch
from foreign import FIXTURES, KINDS, D, F, K, close, coder_of, same_coder
from safetensors.torch import load_file, save_file

import saekit as sk
from saekit import io, presets
from saekit.io import parts
from saekit.io.parts import Parts

CASES = sorted(str(file.parent.relative_to(FIXTURES)) for file in FIXTURES.rglob("expected.safetensors"))
JUMPS = dict.fromkeys(("jumprelu", "batch_topk", "matryoshka", "feature_choice", "prolu", "gated"), "jumprelu")
WRITTEN = {  # format -> the kinds it has a name for, and what they come back as
    "saelens": JUMPS | {"relu": "relu", "topk": "topk", "gated": "gated"},
    "dictionary_learning": JUMPS | {kind: kind for kind in ("relu", "topk", "gated", "batch_topk", "matryoshka")},
    "sparsify": {"topk": "topk"},
    "gemma_scope": JUMPS | {"relu": "jumprelu"},
    "circuit_tracer": JUMPS | {"relu": "relu"},
}
THREE = " -> ".join(" + ".join(f"blocks.{n}.{hook}" for n in range(3)) for hook in ("mlp.hook_in", "hook_mlp_out"))
PAIRS = [(name, kind) for name, kinds in WRITTEN.items() for kind in kinds]


def kind_of(coder):
    name = type(coder.nonlinearity).__name__.lower()
    batch = "batch_topk" if coder.widths is None else "matryoshka"
    return batch if getattr(coder.nonlinearity, "along", "") == "batch" else name


# -- what the tools wrote


@pytest.mark.parametrize("case", CASES)
def test_what_the_tool_computes_we_compute(case):
    folder = FIXTURES / case
    expected = load_file(folder / "expected.safetensors")
    x = expected["x"]
    path = folder / "layer_1.safetensors" if case == "circuit_tracer/layer_1" else folder
    coder = sk.load(path)
    y_hat, codes = coder(x)
    close(y_hat, expected["y_hat"])
    dense = codes.dense()
    if case.endswith("layer_norm"):
        dense = dense / x.std(1, keepdim=True)  # ours are in raw units
    assert torch.equal(dense > 0, expected["codes"] > 0)
    close(dense, expected["codes"])
    assert not coder.training
    assert not any(p.requires_grad for p in coder.parameters())


@pytest.mark.parametrize(
    ("case", "site", "model"),
    [
        ("saelens/topk", "blocks.1.hook_resid_post", "tiny"),
        ("dictionary_learning/AutoEncoder", "blocks.1.hook_resid_post", "tiny"),
        ("sparsify/layers.1", "blocks.1.hook_resid_post", None),
        ("sparsify/layers.2.mlp", "blocks.2.mlp.hook_in -> blocks.2.hook_mlp_out", None),
        ("gemma_scope_2/transcoder_all/layer_1_affine", "blocks.1.mlp.hook_in -> blocks.1.hook_mlp_out", "tiny"),
        ("saelens/transcoder", "blocks.1.mlp.hook_in -> blocks.1.hook_mlp_out", "tiny"),
        ("circuit_tracer/set", THREE, "tiny"),
        ("circuit_tracer/cross_relu", THREE, "tiny"),
        ("gemma_scope_2/clt", THREE, "tiny"),
        ("llama_scope", "blocks.1.hook_resid_post", None),
    ],
)
def test_where_it_belongs_is_read(case, site, model):
    coder = sk.load(FIXTURES / case)
    assert coder.site is None if site is None else coder.site.name == site
    assert (coder.model or {}).get("name") == model


def test_every_format_is_recognised_by_file_and_by_folder():
    for name, folder, file in (
        ("saelens", "topk", "sae_weights.safetensors"), ("sparsify", "layers.1", "sae.safetensors"),
        ("dictionary_learning", "AutoEncoder", "ae.pt"), ("gemma_scope", "layer_1", "params.npz"),
        ("gemma_scope_2", "transcoder_all/layer_1_affine", "params.safetensors"),
        ("gemma_scope_2", "clt", "params_layer_1.safetensors"),
        ("llama_scope", "", "checkpoints/final.safetensors"),
        ("circuit_tracer", "set", "layer_0.safetensors"), ("circuit_tracer", "cross_relu", "W_dec_0.safetensors"),
        ("sparsify", "", "layers.1"),
    ):  # fmt: skip
        for path in (FIXTURES / name / folder, FIXTURES / name / folder / file):
            assert io.reader(path) is getattr(io, name)


@pytest.mark.parametrize(
    ("path", "site"),
    [
        ("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "blocks.20.hook_resid_post"),
        ("gemma-scope-2b-pt-mlp/layer_3/width_16k/average_l0_9", "blocks.3.hook_mlp_out"),
        ("gemma-scope-2b-pt-att/layer_3/width_16k/average_l0_9", "blocks.3.attn.hook_z"),
        ("gemma-scope-2b-pt-transcoders/layer_3", "blocks.3.mlp.hook_in -> blocks.3.hook_mlp_out"),
        ("gemma-scope-2b-pt-res/embedding/width_4k", None),
        ("somewhere/layer_3", None),
    ],
)
def test_a_path_may_tell_the_site(path, site):
    found = io.sites.of_path(path)
    assert (found and found.name) == site


@pytest.mark.parametrize(
    ("module", "site"),
    [
        ("layers.5", "blocks.5.hook_resid_post"), ("model.layers.5.mlp", "blocks.5.hook_mlp_out"),
        ("transformer.h.0", "blocks.0.hook_resid_post"), ("gpt_neox.layers.2.attention", "blocks.2.hook_attn_out"),
        ("lm_head", None), ("layers.5.mlp.gate", None),
    ],
)  # fmt: skip
def test_a_module_tells_the_site(module, site):
    found = io.sites.of_module(module)
    assert (found and found.name) == site


# -- what we write


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_written_and_read_is_the_same_coder(name, kind, tmp_path):
    coder = coder_of(kind)
    coder.site = sk.Site("blocks.1.hook_resid_post")
    written = sk.save(coder, tmp_path / "layers.1" / "mine", format=getattr(io, name))
    again = sk.load(written)
    assert kind_of(again) == WRITTEN[name][kind]
    same_coder(again, coder, torch.randn(300, D))
    if name in ("saelens", "dictionary_learning"):
        assert again.site == coder.site
        assert again.widths == coder.widths


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_format_has_no_name_for_is_refused(name, tmp_path):
    for kind in KINDS:
        if kind not in WRITTEN[name]:
            with pytest.raises(ValueError, match="has no .*Our own format has"):
                sk.save(coder_of(kind), tmp_path / "mine", format=getattr(io, name))
    router = sk.SparseCoder(D, F, sk.Routed(D, F, 2, sk.TopK(2))).eval()
    with pytest.raises(ValueError, match="has no Routed"):
        sk.save(router, tmp_path / "mine", format=getattr(io, name))
    cross = sk.SparseCoder(2 * D, F, coder_of(next(iter(WRITTEN[name]))).nonlinearity, n_sites=2).eval()
    with pytest.raises(ValueError, match="has no crosscoder of 2 sites.*Our own format has"):
        sk.save(cross, tmp_path / "mine", format=getattr(io, name))
    training = coder_of(next(iter(WRITTEN[name]))).train()
    with pytest.raises(ValueError, match="training mode"):
        sk.save(training, tmp_path / "mine", format=getattr(io, name))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "kind", "d_out"),
    [
        ("saelens", "jumprelu", 4),
        ("saelens", "relu", D),
        ("saelens", "gated", D),
        ("saelens", "prolu", 7),
        ("sparsify", "topk", D),
        ("circuit_tracer", "jumprelu", D),
        ("circuit_tracer", "gated", D),
    ],
)
def test_skip_transcoders_survive(name, kind, d_out, tmp_path):
    coder = coder_of(kind, skip=True, d_out=d_out)
    coder.site = sk.Site("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    written = sk.save(coder, tmp_path / "layers.1.mlp", format=getattr(io, name))
    if name == "circuit_tracer":
        written = written.rename(tmp_path / "layer_1.safetensors")
    again = sk.load(written)
    same_coder(again, coder, torch.randn(100, D))
    assert again.site == coder.site


@pytest.mark.parametrize("name", ["dictionary_learning", "gemma_scope"])
def test_a_skip_connection_is_not_dropped_in_silence(name, tmp_path):
    with pytest.raises(ValueError, match="skip connection"):
        sk.save(coder_of("relu", skip=True), tmp_path / "mine", format=getattr(io, name))


def test_b_pre_is_folded_into_what_is_written(tmp_path):
    coder = coder_of("topk")
    coder.b_pre.normal_()
    same_coder(sk.load(sk.save(coder, tmp_path / "mine", format=io.saelens)), coder, torch.randn(100, D))


@pytest.mark.parametrize("kind", ["batch_topk", "matryoshka"])
def test_saelens_training_form_keeps_the_batch_threshold(kind, tmp_path):
    coder = coder_of(kind)
    io.saelens.write(coder, tmp_path / "mine", training=True)
    again = sk.load(tmp_path / "mine")
    assert (again.nonlinearity.k, again.nonlinearity.along, kind_of(again)) == (K, "batch", kind)
    assert again.widths == coder.widths
    same_coder(again, coder, torch.randn(100, D))


def test_nested_widths_survive_our_own_format(tmp_path):
    assert sk.load(sk.save(coder_of("matryoshka"), tmp_path / "mine")).widths == (4, F)
    assert sk.load(sk.save(coder_of("batch_topk"), tmp_path / "other")).widths is None
    assert sk.load(FIXTURES / "saelens/matryoshkabatchtopk_checkpoint").widths == (4, F)
    assert sk.load(FIXTURES / "dictionary_learning/MatryoshkaBatchTopKSAE").widths == (4, F)
    coder, _ = presets.matryoshka(D, 32, K)
    assert coder.widths == (2, 4, 8, 16, 32)


def test_a_standardising_coder_survives_in_saelens_layer_norm(tmp_path):
    openai_file(tmp_path / "a.pt", "TopK", {"k": K})
    coder = sk.load(tmp_path / "a.pt")
    again = sk.load(sk.save(coder, tmp_path / "mine", format=io.saelens))
    assert type(again) is type(coder)
    same_coder(again, coder, X)
    coder.site = sk.Site("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    with pytest.raises(ValueError, match="no transcoder that standardises"):
        sk.save(coder, tmp_path / "other", format=io.saelens)


def rows_of(table):
    """{format: (one coder of, a stack of)} from the documentation."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return {name: (one, stack) for name, one, stack, _ in cells[2:]}


def named(cell):
    every = {*KINDS, "routed"}
    if cell in ("-", "every kind"):
        return set() if cell == "-" else every
    return every - {*cell.removeprefix("all but ").split(", ")} if "all but" in cell else every & {*cell.split(", ")}


def saved(coder, path, format):
    try:
        sk.save(coder, path, format=format)
    except ValueError:
        return False
    return True


def test_the_table_of_formats_says_what_is_written(tmp_path):
    rows = rows_of(io.__doc__)
    assert {*rows} == {"own"} | {format.__name__.rpartition(".")[2] for format in io.FOREIGN}
    routed = sk.SparseCoder(D, F, sk.Routed(D, F, 2, sk.TopK(2))).eval()
    for name, (one, stack) in rows.items():
        format = getattr(io, name)
        made = {kind: coder_of(kind) for kind in KINDS} | {"routed": routed}
        assert {kind for kind, coder in made.items() if saved(coder, tmp_path / name / kind, format)} == named(one)
        stacks = {kind: sk.CoderStack([coder_of(kind)], [0]).eval() for kind in KINDS}
        for made in stacks.values():
            made.place(sk.Site("blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out"), None, None)
        written = {kind for kind, made in stacks.items() if saved(made, tmp_path / f"{name}s" / kind, format)}
        assert written == named(stack) - {"routed"}


def test_formats_that_are_only_read_say_so(tmp_path):
    with pytest.raises(ValueError, match="only read"):
        sk.save(coder_of("relu"), tmp_path / "mine", format=io.openai)
    with pytest.raises(ValueError, match="float32"):
        sk.save(coder_of("relu"), tmp_path / "mine", torch.float16, format=io.saelens)


# -- the identities: a dense coder with every convention, and ours after folding


def foreign(p, x, *, c=1.0, beta=0, norms=False, k=None, threshold=0.0):
    """`a = (c x - beta b_dec) W_enc + b_enc`; selected on a or a n; (codes as theirs, reconstruction)."""
    a = (c * x - beta * p.b_dec) @ p.W_enc + p.b_enc
    n = p.W_dec.norm(dim=1) if norms else torch.ones(len(p.W_dec))
    s = a * n
    on = s > threshold if k is None else torch.zeros_like(s).scatter(1, s.topk(k).indices, 1.0).bool()
    f = (s * on).relu()
    return f, ((f / n) @ p.W_dec + p.b_dec) / c


def random_parts(threshold=None, seed=0):
    torch.manual_seed(seed)
    return Parts(torch.randn(D, F), torch.randn(F), 2 * torch.randn(F, D), torch.randn(D), threshold)


def assert_same(p, nonlinearity, x, expected, gauge=1.0):
    coder = parts.finished(p, nonlinearity)
    y_hat, codes = coder(x)
    assert torch.equal(codes.dense() > 0, expected[0] > 0)
    close(codes.dense(), gauge * expected[0])
    close(y_hat, expected[1])


X = torch.randn(200, D, generator=torch.Generator().manual_seed(1))


def test_centring_is_folded_both_ways():
    p = random_parts()
    assert_same(parts.uncentred(p), sk.ReLU(), X, foreign(p, X, beta=1))
    close(parts.centred(parts.uncentred(p)).b_enc, p.b_enc)


def test_a_scale_is_folded_with_f_unchanged():
    p = random_parts(threshold=torch.rand(F))
    assert_same(parts.unscaled(p, 1.7), sk.JumpReLU(F), X, foreign(p, X, c=1.7, threshold=p.threshold))
    assert_same(parts.unscaled(p._replace(threshold=None), 1.7), sk.TopK(K), X, foreign(p, X, c=1.7, k=K))
    centred = parts.unscaled(parts.uncentred(p), 1.7)
    assert_same(centred, sk.JumpReLU(F), X, foreign(p, X, c=1.7, beta=1, threshold=p.threshold))


def test_a_scale_is_folded_with_f_in_raw_units():
    p, nu = random_parts(threshold=torch.rand(F)), 2.3
    theirs = foreign(p, X, c=1 / nu, threshold=p.threshold)
    assert_same(parts.in_raw_units(p, nu), sk.JumpReLU(F), X, theirs, gauge=nu)


def test_a_threshold_on_scaled_values_follows_the_scale():
    """Where selection is on a |W_dec_i|, SAELens' fold must take the scale into the threshold too."""
    p, c = random_parts(threshold=torch.tensor(1.5)), 1.7
    f, y = foreign(p, X, c=c, norms=True, threshold=1.5)
    ours = parts.in_raw_units(parts.with_unit_rows(p, threshold_is_scaled=True), 1 / c)
    assert_same(ours, sk.TopK(K, along="batch"), X, (f, y), gauge=1 / c)
    close(ours.threshold, torch.tensor(1.5 / c))


def test_both_scalings_differ_by_a_gauge_only():
    p, nu = random_parts(threshold=torch.rand(F)), 2.3
    a = parts.finished(parts.unscaled(p, 1 / nu), sk.JumpReLU(F))
    b = parts.finished(parts.in_raw_units(p, nu), sk.JumpReLU(F))
    close(a(X)[0], b(X)[0])
    close(nu * a.encode(X).dense(), b.encode(X).dense())


def test_decoder_norms_are_folded():
    p = random_parts(threshold=torch.rand(F))
    n = p.W_dec.norm(dim=1)
    unit = parts.with_unit_rows(p)
    close(unit.W_dec.norm(dim=1), torch.ones(F))
    theirs = foreign(p, X, threshold=p.threshold)
    assert_same(unit, sk.JumpReLU(F), X, (theirs[0] * n, theirs[1]))
    assert_same(unit._replace(threshold=None), sk.TopK(K), X, foreign(p, X, norms=True, k=K))
    one = p._replace(threshold=torch.tensor(1.5))
    scaled = parts.with_unit_rows(one, threshold_is_scaled=True)
    assert_same(scaled, sk.TopK(K, along="batch"), X, foreign(p, X, norms=True, threshold=1.5))


def test_folding_norms_changes_a_topk_that_selects_without_them():
    """Why a flag must be obeyed: the set of latents that are on is another one."""
    p = random_parts()
    ours = parts.finished(parts.with_unit_rows(p), sk.TopK(K)).encode(X).dense() > 0
    assert not torch.equal(ours, foreign(p, X, k=K)[0] > 0)


def random_gated():
    torch.manual_seed(0)
    W_enc, W_dec, b_dec = torch.randn(D, F), torch.randn(F, D), torch.randn(D)
    r, b_mag, b_gate = torch.randn(F), torch.randn(F), torch.randn(F)
    return parts.of_gated(W_enc, W_dec, b_dec, r, b_mag, b_gate), (W_enc, W_dec, b_dec, r, b_mag, b_gate)


def paper_gated(x, W_enc, W_dec, b_dec, r, b_mag, b_gate, c=1.0, beta=0):
    z = (c * x - beta * b_dec) @ W_enc
    f = (z + b_gate > 0) * (z * r.exp() + b_mag).relu()
    return f, (f @ W_dec + b_dec) / c


def test_gated_is_a_jumprelu():
    p, paper = random_gated()
    theirs = paper_gated(X, *paper)
    assert_same(p, sk.Gated(F), X, theirs)
    jump = parts.as_jumprelu(p)
    assert_same(jump, sk.JumpReLU(F), X, theirs)
    assert (jump.threshold == 0).any() and (jump.threshold > 0).any()
    close(parts.b_mag(p), paper[4])


@pytest.mark.parametrize("as_jumprelu", [False, True])
def test_every_fold_holds_for_a_gated_coder(as_jumprelu):
    p, paper = random_gated()
    p, form = (parts.as_jumprelu(p), sk.JumpReLU(F)) if as_jumprelu else (p, sk.Gated(F))
    n = p.W_dec.norm(dim=1)
    f, y = paper_gated(X, *paper)
    assert_same(parts.with_unit_rows(p), form, X, (f * n, y))
    assert_same(parts.unscaled(p, 1.7), form, X, paper_gated(X, *paper, c=1.7))
    assert_same(parts.in_raw_units(p, 2.3), form, X, paper_gated(X, *paper, c=1 / 2.3), gauge=2.3)
    if not as_jumprelu:  # the shift of the encoder goes into both of the paper's biases
        assert_same(parts.uncentred(p), form, X, paper_gated(X, *paper, beta=1))


def test_prolu_is_a_jumprelu():
    coder = coder_of("prolu")
    p = parts.of(coder)
    a = X @ coder.W_enc + coder.b_enc
    f = a * ((a > 0) & (a + coder.nonlinearity.bias > 0))
    assert (coder.nonlinearity.bias > 0).any() and (coder.nonlinearity.bias < 0).any()
    assert_same(p, sk.JumpReLU(F), X, (f, f @ coder.W_dec + coder.b_dec))


@pytest.mark.parametrize("kind", ["batch_topk", "feature_choice"])
def test_a_calibrated_selection_is_a_jumprelu(kind):
    coder = coder_of(kind)
    p = parts.as_jumprelu(parts.of(coder))
    assert p.threshold.shape == (F,)
    f = foreign(p, X, threshold=coder.nonlinearity.threshold)
    assert (f[0] > 0).any() and not (f[0] > 0).all()
    assert_same(p, sk.JumpReLU(F), X, f)


def test_thresholds_stay_float32_in_a_file_of_bfloat16(tmp_path):
    coder = coder_of("jumprelu")
    again = sk.load(sk.save(coder, tmp_path / "mine", torch.bfloat16))
    assert torch.equal(again.nonlinearity.threshold, coder.nonlinearity.threshold)
    assert torch.equal(again.W_enc, coder.W_enc.bfloat16().float())


def test_whitening_is_folded():
    p = random_parts()
    M, mean = torch.randn(D, D), torch.randn(D)
    f, y = foreign(p, (X - mean) @ M)
    coder = parts.finished(parts.unwhitened(p, mean, M, M.inverse()), sk.ReLU())
    torch.testing.assert_close(coder(X)[0], y @ M.inverse() + mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(coder.encode(X).dense(), f, atol=1e-4, rtol=1e-4)


def test_factors_after_the_activation_are_folded():
    p, s = random_parts(), torch.rand(F) + 0.5
    f, _ = foreign(p, X)
    assert_same(parts.with_factors(p, s), sk.ReLU(), X, (f, (f * s) @ p.W_dec + p.b_dec))


# -- SAELens' older and unfolded forms


def rewritten(tmp_path, case, change):
    """A copy of a fixture's files after `change(tensors, config)`."""
    source = FIXTURES / case
    weights = next(
        file for file in source.iterdir() if file.name in ("sae_weights.safetensors", "sae.safetensors", "ae.pt")
    )
    config = next(file for file in source.iterdir() if file.name in ("cfg.json", "config.json"))
    tensors = torch.load(weights, weights_only=True) if weights.suffix == ".pt" else load_file(weights)
    told = json.loads(config.read_text())
    change(tensors, told)
    folder = tmp_path / source.name
    folder.mkdir(exist_ok=True)
    if weights.suffix == ".pt":
        torch.save(tensors, folder / weights.name)
    else:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / weights.name)
    (folder / config.name).write_text(json.dumps(told))
    return folder


def flat(told, **more):
    told |= {"hook_point": told["metadata"]["hook_name"], "model_name": "old", **more}
    del told["metadata"], told["architecture"]


def test_a_flat_configuration_is_read(tmp_path):
    new = sk.load(FIXTURES / "saelens" / "standard")
    old = sk.load(rewritten(tmp_path, "saelens/standard", lambda t, c: flat(c, normalize_activations=False)))
    same_coder(old, new, X)
    assert old.site == new.site
    assert old.model["name"] == "old"

    def to_topk(tensors, told):
        flat(told, activation_fn_str="topk", activation_fn_kwargs={"k": K})
        del told["k"], told["rescale_acts_by_decoder_norm"]

    topk = sk.load(rewritten(tmp_path, "saelens/topk", to_topk))
    assert topk.nonlinearity.k == K
    t = load_file(FIXTURES / "saelens/topk/sae_weights.safetensors")
    p = Parts(t["W_enc"], t["b_enc"], t["W_dec"], t["b_dec"])
    close(topk(X)[0], foreign(p, X, beta=1, k=K)[1])


def test_old_factors_and_log_thresholds_are_read(tmp_path):
    s = torch.rand(F) + 0.5
    scaled = sk.load(rewritten(tmp_path, "saelens/standard", lambda t, c: t.update(scaling_factor=s)))
    plain = sk.load(FIXTURES / "saelens/standard")
    close(scaled.W_dec, plain.W_dec * s[:, None])
    same_coder(
        sk.load(rewritten(tmp_path, "saelens/standard", lambda t, c: t.update(scaling_factor=torch.ones(F)))), plain, X
    )

    def to_log(tensors, told):
        tensors["log_threshold"] = tensors.pop("threshold").log()

    same_coder(sk.load(rewritten(tmp_path, "saelens/jumprelu", to_log)), sk.load(FIXTURES / "saelens/jumprelu"), X)


def test_a_scale_that_is_not_told_is_asked_for(tmp_path):
    folder = rewritten(
        tmp_path, "saelens/standard", lambda t, c: c.update(normalize_activations="expected_average_only_in")
    )
    with pytest.raises(ValueError, match="does not say by how much"):
        sk.load(folder)
    t = load_file(FIXTURES / "saelens/standard/sae_weights.safetensors")
    p = Parts(t["W_enc"], t["b_enc"], t["W_dec"], t["b_dec"])
    close(io.saelens.read(folder, scale=1.4)(X)[0], foreign(p, X, c=1.4, beta=1)[1])


def test_a_whitened_checkpoint_is_folded(tmp_path):
    folder = rewritten(
        tmp_path, "saelens/standard", lambda t, c: c.update(normalize_activations="covariance_whitening")
    )
    with pytest.raises(ValueError, match="activation_whitening"):
        sk.load(folder)
    M, mean = torch.randn(D, D) + 2 * torch.eye(D), torch.randn(D)
    save_file(
        {"mean": mean, "matrix": M, "inverse_matrix": M.inverse().contiguous()},
        folder / "activation_whitening.safetensors",
    )
    t = load_file(FIXTURES / "saelens/standard/sae_weights.safetensors")
    y = foreign(Parts(t["W_enc"], t["b_enc"], t["W_dec"], t["b_dec"]), (X - mean) @ M, beta=1)[1]
    torch.testing.assert_close(sk.load(folder)(X)[0], y @ M.inverse() + mean, atol=1e-4, rtol=1e-4)


# -- dictionary_learning's leftovers


def test_what_a_crashed_run_leaves_is_brought_to_raw_units(tmp_path):
    folder = rewritten(tmp_path, "dictionary_learning/AutoEncoder", lambda t, c: None)
    state = torch.load(folder / "ae.pt", weights_only=True)
    torch.save({"step": 7, "ae": state, "optimizer": {}, "config": {}, "norm_factor": 3.0}, folder / "ae.pt")
    p = Parts(state["encoder.weight"].T, state["encoder.bias"], state["decoder.weight"].T, state["bias"])
    f, y = foreign(p, X, c=1 / 3, beta=1)
    coder = sk.load(folder)
    close(coder(X)[0], y)
    close(coder.encode(X).dense(), 3 * f)


def test_a_threshold_that_was_never_set_is_said(tmp_path):
    folder = rewritten(tmp_path, "dictionary_learning/BatchTopKSAE", lambda t, c: t["threshold"].fill_(-1))
    with pytest.warns(UserWarning, match="no threshold yet"):
        coder = sk.load(folder)
    assert coder.nonlinearity.threshold == 0


# -- formats from their documented fields alone


def test_llama_scope(tmp_path):
    p = random_parts()
    (tmp_path / "checkpoints").mkdir()
    save_file(
        {
            "encoder.weight": p.W_enc.T.contiguous(), "encoder.bias": p.b_enc,
            "decoder.weight": p.W_dec.T.contiguous(), "decoder.bias": p.b_dec,
        },
        tmp_path / "checkpoints" / "final.safetensors",
    )  # fmt: skip
    told = {"d_model": D, "d_sae": F, "jump_relu_threshold": 0.4, "hook_point_in": "blocks.3.hook_resid_post"}
    (tmp_path / "hyperparams.json").write_text(json.dumps(told | {"dataset_average_activation_norm": {"in": 5.0}}))
    c = D**0.5 / 5
    coder = sk.load(tmp_path)
    f, y = foreign(p, X, c=c, threshold=0.4 * c)
    close(coder.encode(X).dense(), f)
    close(coder(X)[0], y)
    assert coder.site.layer == 3
    (tmp_path / "hyperparams.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="dataset_average_activation_norm"):
        sk.load(tmp_path)


def openai_file(path, activation, state, tied=False):
    p = random_parts()
    found = {
        "pre_bias": p.b_dec, "latent_bias": p.b_enc, "encoder.weight": p.W_enc.T.contiguous(),
        "stats_last_nonzero": torch.zeros(F, dtype=torch.long), "latents_activation_frequency": torch.ones(F),
        "latents_mean_square": torch.ones(F), "activation": activation, "activation_state_dict": state,
    }  # fmt: skip
    torch.save(found if tied else found | {"decoder.weight": p.W_dec.T.contiguous()}, path)
    return p


def test_openai_relu(tmp_path):
    p = openai_file(tmp_path / "a.pt", "ReLU", {})
    f, y = foreign(p, X, beta=1)
    coder = sk.load(tmp_path / "a.pt")
    close(coder.encode(X).dense(), f)
    close(coder(X)[0], y)
    p = openai_file(tmp_path / "tied.pt", "ReLU", {}, tied=True)
    close(sk.load(tmp_path / "tied.pt").W_dec, p.W_enc.T)


def test_openai_topk_standardises_every_token(tmp_path):
    p = openai_file(tmp_path / "a.pt", "TopK", {"k": K, "postact_fn": "ReLU"})
    mean, std = X.mean(1, keepdim=True), X.std(1, keepdim=True)
    f, y = foreign(p, (X - mean) / (std + 1e-5), beta=1, k=K)
    coder = sk.load(tmp_path / "a.pt")
    close(coder(X)[0], y * std + mean)
    close(coder.encode(X).dense(), f * std)
    with pytest.raises(ValueError, match="k=None"):
        openai_file(tmp_path / "b.pt", "TopK", {})
        sk.load(tmp_path / "b.pt")


def test_a_standardising_coder_keeps_what_others_promise(tmp_path):
    openai_file(tmp_path / "a.pt", "TopK", {"k": K})
    coder = sk.load(tmp_path / "a.pt")
    codes = coder.encode(X)
    edited = codes.with_values(codes.values + 2.0)
    moved = coder.decode(edited, X) - coder.decode(codes, X)
    close(moved, 2.0 * (codes.dense() > 0).float() @ coder.W_dec)  # an edit moves raw activations by its rows
    close(coder.encode(X[:1]).dense(), codes.dense()[:1])
    again = sk.load(sk.save(coder, tmp_path / "mine"))
    assert type(again) is type(coder)
    same_coder(again, coder, X)
    with pytest.raises(ValueError, match="needs the input x"):
        coder.decode(codes)
    with pytest.raises(ValueError, match="standardises every token"):
        sk.save(coder, tmp_path / "theirs", format=io.sparsify)
    with pytest.raises(ValueError, match="width 6.*width 7"):
        coder.encode(torch.randn(2, 7))


# -- bad files


SL, DL = "saelens", "dictionary_learning"
BAD = [
    (f"{SL}/standard", lambda t, c: t.pop("b_dec"), r"lacks 'b_dec' \(6,\); it has W_dec \(10, 6\)"),
    (f"{SL}/standard", lambda t, c: t.update(extra=torch.zeros(2)), "has 'extra', which no coder of this kind has"),
    (f"{SL}/standard", lambda t, c: t.update(W_enc=t["W_enc"].T), r"W_enc is \(10, 6\), expected \(6, .*transposed"),
    (f"{SL}/standard", lambda t, c: t.update(b_enc=torch.zeros(3)), r"b_enc is \(3,\), expected \(10,\) from cfg.json"),
    (f"{SL}/standard", lambda t, c: t["W_dec"].fill_(float("nan")), "W_dec holds NaN"),
    (f"{SL}/standard", lambda t, c: c.update(d_sae=12), r"expected \(6, 12\)|expected \(12,.* from cfg.json"),
    (f"{SL}/standard", lambda t, c: c.update(architecture="temporal"), "'temporal' coder, .* read: .*tokens before"),
    (f"{SL}/standard", lambda t, c: c.update(architecture="abstopk"), "'abstopk' coder, .* read: .*both signs"),
    (f"{SL}/standard", lambda t, c: c.update(architecture="matching_pursuit"), "which is not read: it chooses"),
    (f"{SL}/standard", lambda t, c: c.update(architecture="new"), "holds a 'new' coder; this version reads standard"),
    (f"{SL}/skip_transcoder", lambda t, c: c.update(apply_b_dec_to_input=True), "expected False and 'none'"),
    (f"{SL}/skip_transcoder", lambda t, c: c.update(normalize_activations="layer_norm"), "expected False and 'none'"),
    (f"{SL}/standard", lambda t, c: c.pop("d_in"), "has no 'd_in'"),
    (f"{SL}/standard", lambda t, c: c.update(normalize_activations="constant_norm_rescale"), "constant_norm_rescale"),
    (f"{SL}/topk", lambda t, c: c.pop("k"), "has no 'k'"),
    (f"{SL}/topk", lambda t, c: c.update(k=99), "k=99, but holds 10 latents"),
    (f"{SL}/jumprelu", lambda t, c: t.pop("threshold"), "lacks 'threshold'"),
    ("sparsify/layers.1", lambda t, c: c.update(activation="groupmax"), "'groupmax' coder; of sparsify"),
    ("sparsify/layers.1", lambda t, c: c.update(num_latents=11), r"expected \(11, 6\)|expected \(11,\)"),
    ("sparsify/layers.1", lambda t, c: c.update(skip_connection=True), "lacks 'W_skip'"),
    ("sparsify/layers.1", lambda t, c: t.update(W_dec=t["W_dec"].T), r"W_dec is \(6, 10\).*transposed"),
    (f"{DL}/BatchTopKSAE", lambda t, c: c["trainer"].update(k=4), "holds k=3, but config.json says k=4"),
    (f"{DL}/BatchTopKSAE", lambda t, c: c["trainer"].update(dict_class="Switch"), "'Switch'; this"),
    (f"{DL}/AutoEncoder", lambda t, c: c["trainer"].update(dict_class="IdentityDict"), "which has no weights; this"),
    (f"{DL}/GatedAutoEncoder", lambda t, c: t.pop("r_mag"), "lacks 'r_mag'"),
    (f"{DL}/AutoEncoder", lambda t, c: t.update(bias=torch.zeros(2)), r"bias is \(2,\), expected \(6,\)"),
    (f"{DL}/AutoEncoder", lambda t, c: c["trainer"].update(dict_class="AutoEncoderNew"), "lacks 'decoder.bias'"),
    (f"{DL}/AutoEncoder", lambda t, c: t.update(bias="text"), "bias is a str, expected a tensor"),
    (f"{DL}/MatryoshkaBatchTopKSAE", lambda t, c: t["group_sizes"].fill_(3), "sum to 6, expected 10"),
    (f"{DL}/MatryoshkaBatchTopKSAE", lambda t, c: t.update(group_sizes=torch.tensor([12, -2])), "widths that ascend"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "change", "words"), BAD, ids=range(len(BAD)))
def test_a_file_that_contradicts_itself_is_refused(case, change, words, tmp_path):
    folder = rewritten(tmp_path, case, change)
    with pytest.raises(ValueError, match=words):
        sk.load(folder)


class Runs:
    def __reduce__(self):
        return (exec, ("import builtins; builtins.it_ran = True",))


@pytest.mark.parametrize("where", ["openai", "dictionary_learning"])
def test_a_pickle_that_would_run_code_does_not(where, tmp_path):
    import builtins

    path = tmp_path / "ae.pt"
    torch.save({"pre_bias": torch.zeros(D), "activation": Runs()}, path)
    if where == "dictionary_learning":
        told = json.loads((FIXTURES / "dictionary_learning/AutoEncoder/config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="could run code; it was not read"):
        sk.load(path)
    path.write_bytes(pickle.dumps(Runs(), protocol=2))
    with pytest.raises(ValueError, match="could run code|not a whole PyTorch file"):
        sk.load(path)
    assert not hasattr(builtins, "it_ran")


def test_an_npz_that_would_run_code_does_not(tmp_path):
    import builtins

    np.savez(tmp_path / "params.npz", W_enc=np.array([Runs()], dtype=object))
    with pytest.raises(ValueError, match="not a plain npz"):
        sk.load(tmp_path)
    assert not hasattr(builtins, "it_ran")


def test_cut_files_are_refused(tmp_path):
    for case, name in (
        ("gemma_scope/layer_1", "params.npz"), ("saelens/topk", "sae_weights.safetensors"),
        ("dictionary_learning/AutoEncoder", "ae.pt"),
    ):  # fmt: skip
        folder = tmp_path / case
        folder.mkdir(parents=True)
        for file in (FIXTURES / case).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=name):
            sk.load(folder)


def npz(path, **changes):
    with np.load(FIXTURES / "gemma_scope/layer_1/params.npz") as file:
        arrays = {name: file[name] for name in file.files} | changes
    np.savez(path / "params.npz", **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threshold": None}, "lacks 'threshold'"),
        ({"threshold": np.ones(3)}, r"threshold is \(3,\)"),
        ({"W_enc": np.ones((F, D))}, "transposed"),
        ({"b_dec": np.full(D, np.inf)}, "b_dec holds NaN or infinite"),
        ({"b_enc": None}, "lacks the vector 'b_enc'"),
    ],
)
def test_a_bad_npz_is_refused(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        sk.load(npz(tmp_path, **changes))


def test_what_is_no_coder_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="holds notes.txt: no coder of saekit, saelens"):
        sk.load(tmp_path)
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "ae.pt").write_bytes((FIXTURES / "dictionary_learning/AutoEncoder/ae.pt").read_bytes())
    with pytest.raises(ValueError, match="'config.json' is missing"):
        sk.load(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a list, expected an object"):
        sk.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        sk.load(folder)


def test_a_foreign_folder_from_a_hub_cache(tmp_path, monkeypatch):
    commit = "0" * 40
    repo = tmp_path / "models--someone--saes"
    folder = repo / "snapshots" / commit / "layers.1"
    folder.mkdir(parents=True)
    for file in (FIXTURES / "sparsify/layers.1").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    same_coder(sk.load("hf:someone/saes/layers.1"), sk.load(FIXTURES / "sparsify/layers.1"), X)
    same_coder(sk.load("hf:someone/saes/layers.1/sae.safetensors"), sk.load(FIXTURES / "sparsify/layers.1"), X)
    whole = sk.load("hf:someone/saes")
    assert isinstance(whole, sk.CoderStack)
    same_coder(whole.banks[0], sk.load(FIXTURES / "sparsify/layers.1"), X)
    with pytest.raises(ValueError, match="not in the local cache"):
        sk.load("hf:someone/else")
    with pytest.raises(ValueError, match="hf:owner/repo for all of it"):
        sk.load("hf:someone")
