"""Saved is loaded; a file that is not a whole coder is refused; nothing is half-written."""

import errno
import json

import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file

import saekit as sk
from saekit import files, io
from saekit.io import own


def finished(name):
    coder, _ = zoo.made(name)
    coder.calibrate(zoo.inputs(coder, 500)[0])
    coder.fold(1.5, 1.5)
    site = sk.Site(("blocks.0.hook_resid_post", "blocks.1.hook_resid_post"))
    coder.place(site, {"name": "tiny", "processing": "raw", "d_model": 16, "n_layers": 2}, "abc")
    return coder.eval()


@pytest.fixture(params=zoo.PRESETS)
def any_coder(request):
    return finished(request.param)


@pytest.fixture
def coder():
    return finished("batch_topk")


def test_save_and_load_is_the_same_coder(any_coder, tmp_path):
    coder = any_coder
    path = sk.save(coder, tmp_path / "mine")
    again = sk.load(tmp_path / "mine")
    assert path.name == "mine.safetensors"
    x, _ = zoo.inputs(coder, 40)
    assert torch.equal(again(x)[0], coder(x)[0])
    assert torch.equal(again.encode(x).latents, coder.encode(x).latents)
    assert not again.training
    assert repr(again) == repr(coder)
    for mine, expected in zip([again, *again.banks], [coder, *coder.banks], strict=True):
        assert (mine.site, mine.model, mine.tokenizer) == (expected.site, expected.model, expected.tokenizer)
    for mine, expected in zip(again.banks, coder.banks, strict=True):
        assert (mine.unit_norm, mine.n_sites) == (expected.unit_norm, expected.n_sites)


def test_float16_keeps_thresholds_in_float32(any_coder, tmp_path):
    coder = any_coder
    path = sk.save(coder, tmp_path / "half", dtype=torch.float16)
    stored = load_file(path)
    assert all(t.dtype == torch.float16 for name, t in stored.items() if "W_dec" in name)
    assert all(t.dtype == torch.float32 for name, t in stored.items() if "nonlinearity" in name)
    x, _ = zoo.inputs(coder, 40)
    after, before = sk.load(path)(x)[0], coder(x)[0]
    assert (after - before).norm() < 0.1 * before.norm()  # a few entries at a threshold may change sides


def test_skip_and_another_width_survive(tmp_path):
    coder = sk.SparseCoder(8, 20, sk.TopK(3), d_out=5, skip=True).eval()
    torch.nn.init.normal_(coder.W_skip)
    sk.save(coder, tmp_path / "transcoder")
    x = torch.randn(10, 8)
    assert torch.equal(sk.load(tmp_path / "transcoder")(x)[0], coder(x)[0])


def test_a_cut_or_foreign_file_is_refused(coder, tmp_path):
    path = sk.save(coder, tmp_path / "mine")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"mine.safetensors.*not a whole"):
        sk.load(path)
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no saekit header"):
        sk.load(tmp_path / "other")
    with pytest.raises(ValueError, match="no file and no shipped coder is called 'nowhere'"):
        sk.load("nowhere")


def _rewritten(path, change):
    tensors, header = load_file(path), own._open(path)[0]
    change(tensors, header)
    save_file(tensors, path, {"saekit": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, h: t.pop("b_dec"), r"b_dec is None, expected \(16,\)"),
        (lambda t, h: t.update(b_enc=torch.zeros(3)), r"b_enc is \(3,\), expected \(64,\)"),
        (lambda t, h: t["W_dec"].fill_(float("nan")), "W_dec holds NaN"),
        (lambda t, h: h.update(format=99), "format 99"),
        (lambda t, h: h["nonlinearity"].update(kind="magic"), "'magic'"),
        (lambda t, h: h["nonlinearity"].update(flavour=3), "flavour"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(coder, tmp_path, change, words):
    path = _rewritten(sk.save(coder, tmp_path / "mine"), change)
    with pytest.raises(ValueError, match=words):
        sk.load(path)


def test_a_coder_in_training_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="training mode"):
        sk.save(zoo.made("topk")[0], tmp_path / "mine")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_previous_file(coder, tmp_path, monkeypatch):
    path = sk.save(coder, tmp_path / "mine")
    before = path.read_bytes()

    def full(tensors, name, metadata):
        name.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(own, "save_file", full)
    with pytest.raises(OSError, match=r"mine.safetensors.*kept.*No space left"):
        sk.save(coder, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]


def test_a_folder_that_cannot_be_written_is_named(coder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        sk.save(coder, tmp_path / "file" / "mine")


def test_a_written_file_is_as_readable_as_any_other(tmp_path, coder):
    (tmp_path / "plain").write_text("")
    with files.replacing(tmp_path / "ours") as temporary:
        temporary.write_text("")
    for ours in (tmp_path / "ours", sk.save(coder, tmp_path / "coder")):
        assert ours.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_interrupted_write_leaves_nothing(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.replacing(target) as temporary:
        temporary.write_text("new")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_from_a_hub_cache(coder, tmp_path, monkeypatch):
    """A local folder in the hub's own format: blobs, a snapshot and a ref."""
    commit = "0" * 40
    repo = tmp_path / "models--someone--saes"
    sk.save(coder, repo / "snapshots" / commit / "layer1" / "mine")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    x = torch.randn(5, zoo.D)
    assert torch.equal(sk.load("hf:someone/saes/layer1/mine")(x)[0], coder(x)[0])
    with pytest.raises(ValueError, match="not in the local cache"):
        sk.load("hf:someone/saes/layer2/mine")
    with pytest.raises(ValueError, match="write hf:owner/repo"):
        sk.load("hf:someone")


def test_pretrained_lists_what_fits(coder, tmp_path, monkeypatch, tiny_models):
    monkeypatch.setattr(io, "SHIPPED", tmp_path)
    assert len(sk.pretrained()) == 0
    sk.save(coder, tmp_path / "tiny" / "resid.1" / "mine")
    table = sk.pretrained()
    assert table.name.tolist() == ["tiny/resid.1/mine"]
    assert table.d_sae.tolist() == [zoo.F]
    assert torch.equal(sk.load("tiny/resid.1/mine").W_dec, coder.W_dec)
    assert len(sk.pretrained(tiny_models["gpt2"])) == 0
