"""Gemma Scope 2: `params.safetensors` and `config.json`; lower-case names, JumpReLU, an affine skip connection.

Its cross-layer transcoders are one file for each layer, `params_layer_0.safetensors`, ..., with `w_dec` [d_sae, layers,
d]. Read only, from the documented list of fields: no tool that can be installed writes these files.
"""

import re
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from ..coder import CoderStack, SparseCoder
from ..nonlinearity import JumpReLU
from . import parts, sites, stacks
from .parts import Parts
from .tensors import Shapes, checked, from_safetensors, layer_files, length, settings, shapes_of

FILE, LAYER_FILE, CONFIG = "params.safetensors", "params_layer_{}.safetensors", "config.json"


def claims(path: Path) -> bool:
    """Whether this folder or file is of this format."""
    if path.is_dir():
        return any((path / name).is_file() and claims(path / name) for name in (FILE, LAYER_FILE.format(0)))
    return path.suffix == ".safetensors" and "w_enc" in shapes_of(path)


def read(path: Path) -> SparseCoder | CoderStack:
    """The coder, or the cross-layer transcoder of a folder.

    Raises ValueError for another architecture, one file of a cross-layer transcoder, layers that are missing, and
    tensors that do not fit.
    """
    if path.is_dir() and not (path / FILE).is_file():
        return _cross_layer(path)
    path = path / FILE if path.is_dir() else path
    cfg, found = _config(path.parent), from_safetensors(path)
    if (decoder := found.get("w_dec")) is not None and decoder.ndim == 3:
        raise ValueError(f"{str(path)!r} is one of the {decoder.shape[1]} layers of a transcoder; load its folder")
    d_sae, d = length(path, found, "b_enc"), length(path, found, "b_dec")
    t = checked(path, found, _shapes(cfg, d, d_sae, (d,)), said_by="b_enc, b_dec and config.json")
    site = sites.of_path(str(path.absolute()))
    if site is None and (layer := re.fullmatch(r"model\.layers\.(\d+)\.output", cfg.get("hf_hook_point_in", ""))):
        site = sites.in_block(int(layer[1]))
    return parts.finished(_parts(t), JumpReLU(d_sae), site=site, model=cfg.get("model_name"))


def _cross_layer(folder: Path) -> CoderStack:
    """Layer l reads `mlp.hook_in` of its block, and writes `hook_mlp_out` of its own and the later ones."""
    files, cfg, banks = layer_files(folder, LAYER_FILE), _config(folder), []
    first = from_safetensors(files[0])
    d_sae, d = length(files[0], first, "b_enc"), length(files[0], first, "b_dec")
    shapes = _shapes(cfg, d, d_sae, (len(files), d))
    for layer, file in enumerate(files):
        t = checked(file, from_safetensors(file), shapes, said_by=f"{len(files)} layers and the first one's biases")
        if t["w_dec"][:, :layer].any():
            warnings.warn(f"{str(file)!r} has weights to layers before its own, which are left out", stacklevel=4)
        p = _parts(t | {"w_dec": t["w_dec"][:, layer:].flatten(1)})
        banks.append(parts.finished(stacks.from_own_layer(p), JumpReLU(d_sae)))
    return stacks.cross_layer(banks, "mlp.hook_in", "hook_mlp_out", cfg.get("model_name"))


def _config(folder: Path) -> dict[str, Any]:
    cfg = settings(folder / CONFIG)
    if cfg.get("architecture") != "jump_relu":
        raise ValueError(f"{str(folder)!r}: architecture {cfg.get('architecture')!r}, expected 'jump_relu'")
    return cfg


def _shapes(cfg: dict[str, Any], d: int, d_sae: int, written: tuple[int, ...]) -> Shapes:
    shapes = {"w_enc": (d, d_sae), "b_enc": (d_sae,), "w_dec": (d_sae, *written), "b_dec": (d,), "threshold": (d_sae,)}
    return shapes | ({"affine_skip_connection": (d, d)} if cfg.get("affine_connection") else {})


def _parts(t: dict[str, Tensor]) -> Parts:
    skip = t.get("affine_skip_connection")  # stored as [d_in, d_out], as ours is
    return Parts(t["w_enc"], t["b_enc"], t["w_dec"], t["b_dec"], t["threshold"].clamp(min=0), skip)
