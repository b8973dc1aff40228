"""Stacks in other tools' folders: per-layer coders and cross-layer transcoders."""

import json

import pytest
import torch
import yaml
from foreign import FIXTURES, KINDS, D, F, close, coder_of, same_coder
from safetensors.torch import load_file, save_file

import saekit as sk
from saekit import io, presets

L, ROWS = 3, 40
JUMPS = ("relu", "jumprelu", "batch_topk", "feature_choice", "prolu", "gated")


def stack_of(kind, cross=False, skip=False, read="hook_resid_mid", write="hook_mlp_out"):
    banks = [
        coder_of(kind, seed=layer, skip=skip, d_out=D * (L - layer) if cross else None) for layer in range(L)
    ]  # fmt: skip
    stack = sk.CoderStack(banks, [D * layer for layer in range(L)]).eval()
    stack.place(
        sk.Site(*([f"blocks.{layer}.{hook}" for layer in range(L)] for hook in (read, write))), {"name": "m"}, None
    )
    return stack


def x_of(stack):
    return torch.randn(ROWS, stack.d_in, generator=torch.Generator().manual_seed(3))


# -- written and read


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("kind", JUMPS)
def test_a_stack_survives_circuit_tracers_folder(kind, cross, tmp_path):
    stack = stack_of(kind, cross)
    again = sk.load(sk.save(stack, tmp_path / "set", format=io.circuit_tracer))
    assert isinstance(again, sk.CoderStack)
    assert again.starts == stack.starts
    assert not again.training
    assert [bank.site for bank in again] == [bank.site for bank in stack]
    assert (again.site, again.model) == (stack.site, stack.model)
    same_coder(again, stack, x_of(stack))
    names = {file.name for file in (tmp_path / "set").iterdir()}
    assert len(names) == 1 + (2 * L if cross else L) and "config.yaml" in names


def test_skip_connections_of_a_set_survive(tmp_path):
    stack = stack_of("relu", skip=True, read="mlp.hook_in")
    folder = sk.save(stack, tmp_path / "set", format=io.circuit_tracer)
    same_coder(sk.load(folder), stack, x_of(stack))
    one = sk.load(folder / "layer_2.safetensors")
    assert one.site == stack.banks[2].site
    close(one(torch.ones(1, D))[0], stack.banks[2](torch.ones(1, D))[0])


def test_a_run_of_sparsify_is_a_stack(tmp_path):
    stack = stack_of("topk", skip=True, read="mlp.hook_in")
    again = sk.load(sk.save(stack, tmp_path / "run", format=io.sparsify))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [f"layers.{n}.mlp" for n in range(L)]
    same_coder(again, stack, x_of(stack))
    assert again.site == stack.site
    same_coder(sk.load(tmp_path / "run" / "layers.1.mlp"), stack.banks[1], x_of(stack.banks[1]))
    both = sk.load(FIXTURES / "sparsify")
    assert [bank.site.name for bank in both] == [
        "blocks.1.hook_resid_post", "blocks.2.mlp.hook_in -> blocks.2.hook_mlp_out",
    ]  # fmt: skip


def test_hook_points_are_in_the_order_of_their_numbers(tmp_path):
    for layer in (10, 9, 2):
        coder = coder_of("topk", seed=layer)
        sk.save(coder, tmp_path / f"layers.{layer}", format=io.sparsify)
    assert [bank.site.layer for bank in sk.load(tmp_path)] == [2, 9, 10]


def test_a_cross_layer_stack_without_later_weights_is_the_set(tmp_path):
    """Two layouts of one function."""
    cross = stack_of("relu", cross=True)
    for bank in cross:
        bank.W_dec[:, D:], bank.b_dec[D:] = 0, 0
    banks = [coder_of("relu", seed=layer) for layer in range(L)]
    for bank, wide in zip(banks, cross, strict=True):
        bank.load_state_dict(
            {name: t[..., :D] if name in ("W_dec", "b_dec") else t for name, t in wide.state_dict().items()}
        )
    alone = sk.CoderStack(banks, cross.starts).eval()
    a = sk.load(sk.save(cross, tmp_path / "cross", format=io.circuit_tracer))
    b = sk.load(sk.save(alone, tmp_path / "set", format=io.circuit_tracer))
    same_coder(a, b, x_of(cross))


def test_a_loaded_stack_is_spliced(tiny_models, tmp_path):
    tiny = tiny_models["gpt2"]
    d = tiny.cfg.d_model
    stack, _ = presets.cross_layer_transcoder(d, 12, tiny.cfg.n_layers)
    for bank in stack:
        torch.nn.init.normal_(bank.W_dec)
    site = sk.Site(
        *([f"blocks.{layer}.{hook}" for layer in range(tiny.cfg.n_layers)] for hook in ("mlp.hook_in", "hook_mlp_out"))
    )
    stack.eval().place(site, None, None)
    again = sk.load(sk.save(stack, tmp_path / "clt", format=io.circuit_tracer))
    tokens = torch.randint(0, tiny.cfg.d_vocab, (2, 9), generator=torch.Generator().manual_seed(0))
    logits = []
    for one in (stack, again):
        with sk.splice(tiny, one):
            logits.append(tiny(tokens))
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)


# -- refused


def test_what_no_folder_holds_is_refused(tmp_path):
    to = tmp_path / "set"
    for kind in set(KINDS) - {*JUMPS, "matryoshka"}:
        with pytest.raises(ValueError, match="circuit-tracer has no TopK"):
            sk.save(stack_of(kind), to, format=io.circuit_tracer)
    with pytest.raises(ValueError, match="no skip connection; this one has"):
        sk.save(stack_of("relu", cross=True, skip=True), to, format=io.circuit_tracer)
    with pytest.raises(ValueError, match="neither per-layer coders"):
        sk.save(sk.CoderStack([coder_of("relu"), coder_of("relu")], [0, 0]).eval(), to, format=io.circuit_tracer)
    with pytest.raises(ValueError, match="blocks 0 to 2"):
        stack = stack_of("relu")
        stack.site = sk.Site([f"blocks.{n + 1}.hook_resid_mid" for n in range(L)])
        sk.save(stack, to, format=io.circuit_tracer)
    with pytest.raises(ValueError, match="training mode"):
        sk.save(stack_of("relu").train(), to, format=io.circuit_tracer)
    with pytest.raises(ValueError, match="holds one coder, and this is a stack"):
        sk.save(stack_of("relu"), to, format=io.saelens)
    with pytest.raises(ValueError, match="sparsify has no ReLU"):
        sk.save(stack_of("relu", read="mlp.hook_in"), to, format=io.sparsify)
    with pytest.raises(ValueError, match="names a coder by the module"):
        sk.save(stack_of("topk", read="attn.hook_z", write="attn.hook_z"), to, format=io.sparsify)
    assert not list(tmp_path.iterdir())


def test_banks_of_several_sizes_are_refused(tmp_path):
    banks = [coder_of("relu"), sk.SparseCoder(D, F + 1, sk.ReLU()).eval()]
    with pytest.raises(ValueError, match=r"these have \[10, 11\]"):
        sk.save(sk.CoderStack(banks, [0, D]).eval(), tmp_path / "set", format=io.circuit_tracer)


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    to = tmp_path / "set"
    sk.save(stack_of("jumprelu"), to, format=io.circuit_tracer)
    cross = stack_of("jumprelu", cross=True)
    sk.save(cross, to, format=io.circuit_tracer)
    same_coder(sk.load(to), cross, x_of(cross))
    bad = stack_of("relu", cross=True)
    bad.banks[2].nonlinearity = sk.TopK(2)
    with pytest.raises(ValueError, match="has no TopK"):
        sk.save(bad, to, format=io.circuit_tracer)
    same_coder(sk.load(to), cross, x_of(cross))
    (to / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"with it 'thesis.txt'; choose an empty folder"):
        sk.save(cross, to, format=io.circuit_tracer)
    assert (to / "thesis.txt").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["set"]


def test_a_full_disk_leaves_the_old_folder(tmp_path, monkeypatch):
    to = tmp_path / "set"
    stack = stack_of("relu")
    sk.save(stack, to, format=io.circuit_tracer)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.circuit_tracer, "save_file", full)
    with pytest.raises(OSError, match="what was there is kept"):
        sk.save(stack_of("jumprelu"), to, format=io.circuit_tracer)
    monkeypatch.undo()
    same_coder(sk.load(to), stack, x_of(stack))
    assert [file.name for file in tmp_path.iterdir()] == ["set"]


def edited(folder, file, change):
    tensors = load_file(folder / file)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file)


BAD = [
    ("W_enc_1", lambda t: t.pop("b_dec_1"), "lacks 'b_dec_1'"),
    ("W_enc_1", lambda t: t.pop("threshold_1"), "lacks 'threshold_1'"),
    ("W_enc_0", lambda t: t.pop("b_enc_0"), "lacks the vector 'b_enc_0'"),
    ("W_enc_1", lambda t: t.update(W_skip_1=torch.zeros(D, D)), "has 'W_skip_1', which no coder of this kind"),
    ("W_enc_2", lambda t: t.update(W_enc_2=t["W_enc_2"].T), r"W_enc_2 is \(6, 10\), expected \(10, 6\).*transposed"),
    ("W_enc_2", lambda t: t.update(b_enc_2=torch.zeros(9)), r"b_enc_2 is \(9,\), expected \(10,\)"),
    ("W_dec_1", lambda t: t.update(W_dec_1=t["W_dec_1"][:, :1]), r"\(10, 1, 6\), expected \(10, 2, 6\) from 3 layers"),
    ("W_dec_1", lambda t: t["W_dec_1"].fill_(float("nan")), "W_dec_1 holds NaN"),
    ("W_dec_2", lambda t: t.update(W_dec_1=t.pop("W_dec_2")), "lacks 'W_dec_2'"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "change", "words"), BAD, ids=range(len(BAD)))
def test_bad_cross_layer_files_are_refused(file, change, words, tmp_path):
    sk.save(stack_of("jumprelu", cross=True), tmp_path / "clt", format=io.circuit_tracer)
    edited(tmp_path / "clt", f"{file}.safetensors", change)
    with pytest.raises(ValueError, match=words):
        sk.load(tmp_path / "clt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("b_dec"), "lacks the vector 'b_dec'"),
        (lambda t: t.update(W_enc=t["W_enc"].T), r"W_enc is \(6, 10\), expected \(10, 6\).*transposed"),
        (lambda t: t.update(W_skip=torch.zeros(D, D + 1)), r"W_skip is \(6, 7\), expected \(6, 6\)"),
        (lambda t: t["b_enc"].fill_(float("inf")), "b_enc holds NaN or infinite"),
        (lambda t: t.update(log_thresholds=torch.zeros(F)), "has 'log_thresholds', which no coder of this kind"),
    ],
)
def test_a_bad_file_in_a_set_is_refused(change, words, tmp_path):
    sk.save(stack_of("jumprelu"), tmp_path / "set", format=io.circuit_tracer)
    edited(tmp_path / "set", "layer_1.safetensors", change)
    with pytest.raises(ValueError, match=words):
        sk.load(tmp_path / "set")


def test_our_own_files_are_not_taken_for_a_set(tmp_path):
    sk.save(coder_of("relu"), tmp_path / "layer_0")
    assert isinstance(sk.load(tmp_path / "layer_0.safetensors"), sk.SparseCoder)
    with pytest.raises(ValueError, match="holds layer_0.safetensors: no coder of saekit"):
        sk.load(tmp_path)


@pytest.mark.parametrize("cross", [False, True])
def test_missing_and_cut_files_and_configurations_that_contradict_are_refused(cross, tmp_path):
    folder = sk.save(stack_of("jumprelu", cross), tmp_path / "set", format=io.circuit_tracer)
    told = yaml.safe_load((folder / "config.yaml").read_text())
    other = "transcoder_set" if cross else "cross_layer_transcoder"
    for text, words in (
        (yaml.safe_dump(told | {"model_kind": other}), f"'{other}'.*expected a {told['model_kind']}"),
        (yaml.safe_dump(told | {"feature_input_hook": None}), "feature_input_hook=None, expected the name of a hook"),
        ("[1]", "expected a"), ("{", "is not YAML"), ("!!python/object/apply:os.getcwd []", "is not YAML"),
    ):  # fmt: skip
        (folder / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=words):
            sk.load(folder)
    if cross:
        with pytest.raises(ValueError, match="part of a cross-layer transcoder; load its folder"):
            (folder / "config.yaml").write_text(yaml.safe_dump(told))
            sk.load(folder / "W_enc_0.safetensors")
    far = told | {"transcoders": ["hf://a/b/layer_0.safetensors"]}
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "config.yaml").write_text(yaml.safe_dump(far | {"model_kind": "transcoder_set"}))
    with pytest.raises(ValueError, match="names 'hf://a/b/layer_0.safetensors' and 0 more"):
        sk.load(tmp_path / "far")
    (folder / "config.yaml").unlink()
    same_coder(sk.load(folder), stack_of("jumprelu", cross), x_of(stack_of("jumprelu", cross)))
    last = folder / ("W_dec_2.safetensors" if cross else "layer_2.safetensors")
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        sk.load(folder)
    last.unlink()
    if cross:
        with pytest.raises(ValueError, match="3 W_enc files and 2 W_dec files"):
            sk.load(folder)
    (folder / ("W_enc_0.safetensors" if cross else "layer_0.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"of layers \[1.*\], expected all from 0 on"):
        sk.load(folder)


def gemma(folder, stack, **told):
    """A stack in Gemma Scope 2's layout of a cross-layer transcoder."""
    folder.mkdir(exist_ok=True)
    for layer, (bank, b_dec) in enumerate(zip(stack, io.stacks.b_dec_of_layers(stack), strict=True)):
        w_dec = torch.zeros(F, L, D)
        w_dec[:, layer:] = bank.W_dec.unflatten(1, (L - layer, D))
        tensors = {
            "w_enc": bank.W_enc.contiguous(), "b_enc": bank.b_enc, "w_dec": w_dec, "b_dec": b_dec.contiguous(),
            "threshold": bank.nonlinearity.threshold,
        }  # fmt: skip
        if bank.W_skip is not None:
            tensors["affine_skip_connection"] = bank.W_skip[:, :D].contiguous()
        save_file(tensors, folder / f"params_layer_{layer}.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "jump_relu", "model_name": "m"} | told))
    return folder


def test_gemma_scopes_cross_layer_transcoders_are_read(tmp_path):
    stack = stack_of("jumprelu", cross=True, read="mlp.hook_in")
    again = sk.load(gemma(tmp_path / "clt", stack))
    same_coder(again, stack, x_of(stack))
    assert (again.site, again.model["name"]) == (stack.site, "m")
    affine = stack_of("jumprelu", cross=True, skip=True)
    for bank in affine:
        bank.W_skip[:, D:] = 0
    same_coder(sk.load(gemma(tmp_path / "affine", affine, affine_connection=True)), affine, x_of(affine))


def test_bad_files_of_gemma_scopes_cross_layer_transcoders(tmp_path):
    stack = stack_of("jumprelu", cross=True)
    folder = gemma(tmp_path / "clt", stack)
    edited(folder, "params_layer_1.safetensors", lambda t: t["w_dec"][:, 0].fill_(1))
    with pytest.warns(UserWarning, match="layers before its own, which are left out"):
        same_coder(sk.load(folder), stack, x_of(stack))
    with pytest.raises(ValueError, match="one of the 3 layers of a transcoder; load its folder"):
        sk.load(folder / "params_layer_1.safetensors")
    with pytest.raises(ValueError, match="lacks 'affine_skip_connection'"):
        sk.load(gemma(folder, stack, affine_connection=True))
    with pytest.raises(ValueError, match="expected 'jump_relu'"):
        sk.load(gemma(folder, stack, architecture="topk"))
    gemma(folder, stack)
    (folder / "params_layer_2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"w_dec is \(10, 3, 6\), expected \(10, 2, 6\) from 2 layers"):
        sk.load(folder)
