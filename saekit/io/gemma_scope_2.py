"""Gemma Scope 2: `params.safetensors` and `config.json`; lower-case names, JumpReLU, an affine skip connection.

Read only, from the documented list of fields: no tool that can be installed writes these files. Its cross-layer
transcoders, one file a layer with `w_dec` [d_sae, layers, d], are refused: they are no single coder.
"""

import re
from pathlib import Path

from ..coder import SparseCoder
from ..nonlinearity import JumpReLU
from . import parts, sites
from .parts import Parts
from .tensors import checked, from_safetensors, length, settings, shapes_of

FILE = "params.safetensors"


def claims(path: Path) -> bool:
    """Whether this folder or file is of this format."""
    path = path / FILE if path.is_dir() else path
    return path.suffix == ".safetensors" and "w_enc" in shapes_of(path)


def read(path: Path) -> SparseCoder:
    """The coder. Raises ValueError for another architecture, cross-layer files, and tensors that do not fit."""
    path = path / FILE if path.is_dir() else path
    cfg = settings(path.parent / "config.json")
    if cfg.get("architecture") != "jump_relu":
        raise ValueError(f"{str(path)!r}: architecture {cfg.get('architecture')!r}, expected 'jump_relu'")
    found = from_safetensors(path)
    if (decoder := found.get("w_dec")) is not None and decoder.ndim == 3:
        raise ValueError(f"{str(path)!r} writes {decoder.shape[1]} layers: a cross-layer transcoder, which is not read")
    d_sae, d_out = length(path, found, "b_enc"), length(path, found, "b_dec")
    shapes = {"w_enc": (d_out, d_sae), "b_enc": (d_sae,), "w_dec": (d_sae, d_out), "b_dec": (d_out,)}
    skips = {"affine_skip_connection": (d_out, d_out)} if cfg.get("affine_connection") else {}
    t = checked(path, found, shapes | {"threshold": (d_sae,)} | skips, said_by="b_enc, b_dec and config.json")
    skip = t.get("affine_skip_connection")  # stored as [d_in, d_out], as ours is
    p = Parts(t["w_enc"], t["b_enc"], t["w_dec"], t["b_dec"], t["threshold"].clamp(min=0), skip)
    site = sites.of_path(str(path.absolute()))
    if site is None and (layer := re.fullmatch(r"model\.layers\.(\d+)\.output", cfg.get("hf_hook_point_in", ""))):
        site = sites.in_block(int(layer[1]))
    return parts.finished(p, JumpReLU(d_sae), site=site, model=cfg.get("model_name"))
