"""Coders of every kind that other tools' files may hold, and the files that these tools wrote."""

import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

import saekit as sk

D, F, K = 6, 10, 3
KINDS = ("relu", "gated", "prolu", "jumprelu", "topk", "batch_topk", "matryoshka", "feature_choice")


def unpacked(folder: Path) -> Path:
    """The fixtures, made by fixtures/make.py with the tools themselves; pickled files are kept as safetensors."""
    shutil.copytree(Path(__file__).parent / "fixtures", folder, dirs_exist_ok=True)
    for file in list(folder.rglob("ae.safetensors")):
        torch.save(load_file(file), file.with_suffix(".pt"))
        file.unlink()
    return folder


_folder = tempfile.TemporaryDirectory(prefix="saekit-fixtures-")
FIXTURES = unpacked(Path(_folder.name))


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def same_coder(a, b, x):
    assert torch.equal(a.encode(x).latents, b.encode(x).latents)
    close(a.encode(x).values, b.encode(x).values)
    close(a(x)[0], b(x)[0])


def coder_of(kind, *, seed=0, skip=False, d_out=None):
    torch.manual_seed(seed)
    made = {
        "relu": sk.ReLU(), "gated": sk.Gated(F), "prolu": sk.ProLU(F), "jumprelu": sk.JumpReLU(F), "topk": sk.TopK(K),
        "batch_topk": sk.TopK(K, along="batch"), "matryoshka": sk.TopK(K, along="batch"),
        "feature_choice": sk.TopK(K, along="feature", d_sae=F),
    }  # fmt: skip
    coder = sk.SparseCoder(D, F, made[kind], skip=skip, d_out=d_out).requires_grad_(False).eval()
    for name, tensor in coder.state_dict().items():
        if tensor.ndim and name != "b_pre":
            tensor.copy_(torch.rand_like(tensor) if "threshold" in name else torch.randn_like(tensor))
    if kind in ("batch_topk", "matryoshka"):
        coder.nonlinearity.threshold.fill_(0.7)
    coder.widths = (4, F) if kind == "matryoshka" else None
    return coder
