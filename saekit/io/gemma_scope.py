"""Gemma Scope 1: `params.npz` with W_enc, b_enc, W_dec, b_dec and threshold; JumpReLU on raw activations.

The file does not say where it belongs; a path such as `gemma-scope-2b-pt-res/layer_20/...` does. Otherwise set
`coder.site`. Its attention coders read `attn.hook_z` with heads side by side.
"""

from pathlib import Path

import numpy as np

from ..coder import SparseCoder
from ..files import replacing
from ..nonlinearity import JumpReLU
from . import parts, sites
from .parts import Parts
from .tensors import checked, from_npz, length

FILE = "params.npz"


def claims(path: Path) -> bool:
    """Whether this folder or file is of this format."""
    return path.suffix == ".npz" or (path / FILE).is_file()


def read(path: Path) -> SparseCoder:
    """The coder. Raises ValueError when arrays are missing, too many, or do not fit one another."""
    path = path / FILE if path.is_dir() else path
    found = from_npz(path)
    d_sae, d_out = length(path, found, "b_enc"), length(path, found, "b_dec")
    d_in = found["W_enc"].shape[0] if "W_enc" in found and found["W_enc"].ndim == 2 else d_out
    d_in = d_out if d_in == d_sae else d_in  # a transposed encoder is told from a transcoder's
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    t = checked(path, found, shapes | {"threshold": (d_sae,)}, said_by="b_enc and b_dec")
    p = Parts(t["W_enc"], t["b_enc"], t["W_dec"], t["b_dec"], t["threshold"].clamp(min=0))
    return parts.finished(p, JumpReLU(d_sae), site=sites.of_path(str(path.absolute())))


def write(coder: SparseCoder, path: Path) -> Path:
    """Write a finished coder without skip connection, as the JumpReLU it equals, and return the file.

    Raises ValueError for another.
    """
    parts.kind(coder, "Gemma Scope", dict.fromkeys(("relu", *parts.JUMPS), ""))
    p = parts.as_jumprelu(parts.of(coder))
    if p.W_skip is not None:
        raise ValueError("Gemma Scope's params.npz has no skip connection, and this coder has one")
    path = path if path.suffix == ".npz" else path / FILE
    arrays = {name: getattr(p, name).numpy() for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return path
