"""circuit-tracer: one safetensors file for each layer's transcoder, the encoder stored by latent. Read and written.

A folder of such files (`layer_0.safetensors`, ...) is a stack of transcoders: read them one by one. Its cross-layer
transcoders (`W_enc_0.safetensors`, ...) are refused: they are no single coder.
"""

import re
from pathlib import Path

from safetensors.torch import save_file

from ..coder import SparseCoder
from ..files import replacing
from ..nonlinearity import JumpReLU, ReLU
from . import parts, sites
from .parts import Parts
from .tensors import checked, from_safetensors, length, shapes_of

THRESHOLD = "activation_function.threshold"
_NAMES = {"W_enc", "W_dec", "b_enc", "b_dec"}


def claims(path: Path) -> bool:
    """Whether this file is of this format, or this folder holds such files."""
    if path.is_dir():
        return any(claims(file) for file in sorted(path.glob("*.safetensors"))[:1])
    found = shapes_of(path).keys() if path.suffix == ".safetensors" else set()
    return found >= _NAMES or any(re.fullmatch(r"W_(enc|dec)_\d+", name) for name in found)


def read(path: Path) -> SparseCoder:
    """The transcoder of one file. Raises ValueError for a folder, cross-layer files, and tensors that do not fit."""
    if path.is_dir():
        files = sorted(file.name for file in path.glob("*.safetensors"))
        raise ValueError(f"{str(path)!r} is a stack of {len(files)} files; load one, such as {str(path / files[0])!r}")
    found = from_safetensors(path)
    if odd := next((name for name in found if re.fullmatch(r"W_(enc|dec)_\d+", name)), None):
        raise ValueError(f"{str(path)!r} holds {odd!r}: part of a cross-layer transcoder, which is no single coder")
    d_sae, d = length(path, found, "b_enc"), length(path, found, "b_dec")
    shapes = {"W_enc": (d_sae, d), "b_enc": (d_sae,), "W_dec": (d_sae, d), "b_dec": (d,)}
    scalar = THRESHOLD in found and found[THRESHOLD].numel() == 1
    t = checked(
        path, found, shapes, {THRESHOLD: tuple(found[THRESHOLD].shape) if scalar else (d_sae,), "W_skip": (d, d)},
        said_by="b_enc and b_dec",
    )  # fmt: skip
    skip = t["W_skip"].T if "W_skip" in t else None
    threshold = t[THRESHOLD].reshape(()) if scalar else t.get(THRESHOLD)
    p = Parts(t["W_enc"].T, t["b_enc"], t["W_dec"], t["b_dec"], threshold, skip)
    layer = re.search(r"layer_(\d+)", str(path.absolute()))
    site = None if layer is None else sites.in_block(int(layer[1]), "transcoder")
    return parts.finished(p, ReLU() if threshold is None else JumpReLU(d_sae), site=site)


def write(coder: SparseCoder, path: Path) -> Path:
    """Write a finished ReLU, JumpReLU or BatchTopK coder of one width (the last as a JumpReLU), and return the file.

    Raises ValueError for another.
    """
    name = parts.kind(coder, "circuit-tracer", {"relu": "relu", "jumprelu": "jumprelu", "batch_topk": "jumprelu"})
    if coder.d_in != coder.d_out:
        raise ValueError(f"circuit-tracer's transcoders have one width; this goes from {coder.d_in} to {coder.d_out}")
    p = parts.of(coder)
    tensors = {"W_enc": p.W_enc.T, "b_enc": p.b_enc, "W_dec": p.W_dec, "b_dec": p.b_dec}
    tensors |= {} if p.W_skip is None else {"W_skip": p.W_skip.T}
    tensors |= {THRESHOLD: parts.one_each(p)} if name == "jumprelu" else {}
    path = path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    return path
