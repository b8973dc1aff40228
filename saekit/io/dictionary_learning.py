"""dictionary_learning: a folder with `ae.pt` and `config.json`. Read and written, without running what is pickled.

Read: all its classes with weights, and what a crashed run leaves, which is not yet in raw units. Written: the same, but
for AutoEncoder, which is AutoEncoderNew with another bias.
"""

import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..coder import SparseCoder
from ..files import replacing
from ..hooks import Site
from ..nonlinearity import Gated, JumpReLU, ReLU, TopK
from . import parts, sites
from .parts import Parts
from .tensors import Shapes, checked, from_torch, needed, settings

WEIGHTS, CONFIG = "ae.pt", "config.json"
_LINEAR = {"encoder.weight": "fd", "encoder.bias": "f", "decoder.weight": "df"}
_BARE = {"W_enc": "df", "b_enc": "f", "W_dec": "fd", "b_dec": "d"}
_TOPK = {"k": "", "threshold": ""}
CLASSES = {
    "AutoEncoder": _LINEAR | {"bias": "d"},
    "AutoEncoderNew": _LINEAR | {"decoder.bias": "d"},
    "GatedAutoEncoder": {
        "encoder.weight": "fd", "decoder.weight": "df", "decoder_bias": "d",
        "r_mag": "f", "gate_bias": "f", "mag_bias": "f",
    },
    "AutoEncoderTopK": _LINEAR | {"b_dec": "d"} | _TOPK,
    "BatchTopKSAE": _LINEAR | {"b_dec": "d"} | _TOPK,
    "MatryoshkaBatchTopKSAE": _BARE | _TOPK | {"group_sizes": "g"},
    "JumpReluAutoEncoder": _BARE | {"threshold": "f"},
}  # fmt: skip
_READS_RAW = ("AutoEncoderNew", "JumpReluAutoEncoder")  # the others subtract b_dec first
_WRITTEN = dict.fromkeys(parts.JUMPS, "JumpReluAutoEncoder") | {
    "relu": "AutoEncoderNew",
    "topk": "AutoEncoderTopK",
    "batch_topk": "BatchTopKSAE",
    "gated": "GatedAutoEncoder",
}


def claims(path: Path) -> bool:
    """Whether this folder, or this file in one, is of this format."""
    return (path / WEIGHTS).is_file() or (path.suffix == ".pt" and (path.parent / CONFIG).is_file())


def read(path: Path) -> SparseCoder:
    """The coder. Raises ValueError for an unknown class and a file that contradicts its configuration."""
    path = path / WEIGHTS if path.is_dir() else path
    trainer = settings(path.parent / CONFIG).get("trainer") or {}
    name, d, f = needed(path.parent / CONFIG, trainer, "dict_class", "activation_dim", "dict_size")
    if name not in CLASSES:
        why = ", which has no weights" if name == "IdentityDict" else ""
        raise ValueError(f"{str(path)!r} holds a {name!r}{why}; this version reads {', '.join(CLASSES)}")
    found, norm_factor = _state(path)
    groups = found.get("group_sizes")
    sizes = {"d": d, "f": f, "g": len(groups) if isinstance(groups, Tensor) and groups.ndim else 0}
    shapes: Shapes = {tensor: tuple(sizes[letter] for letter in letters) for tensor, letters in CLASSES[name].items()}
    t = checked(path, found, shapes, said_by=CONFIG)
    _check_k(path, t, trainer, f)
    p = _parts(name, t)
    p = p if norm_factor is None else parts.in_raw_units(p, norm_factor)
    p = p if name in _READS_RAW else parts.uncentred(p)
    widths = t["group_sizes"].cumsum(0).tolist() if "group_sizes" in t else None
    form, model = _nonlinearity(name, t, f, path), trainer.get("lm_name")
    return parts.finished(p, form, site=_site(trainer), model=model, widths=widths)


def write(coder: SparseCoder, path: Path) -> Path:
    """Write a finished autoencoder and return the folder.

    Raises ValueError for a transcoder, and for a coder that the library has no class for.
    """
    name = parts.kind(coder, "dictionary_learning", _WRITTEN)
    name = "MatryoshkaBatchTopKSAE" if name == "BatchTopKSAE" and coder.widths else name
    parts.only_autoencoder(coder, "dictionary_learning")
    p, trainer = parts.of(coder), {"dict_class": name, "activation_dim": coder.d_in, "dict_size": coder.d_sae}
    if "TopK" in name:
        if coder.nonlinearity.k != int(coder.nonlinearity.k):
            raise ValueError(f"dictionary_learning stores a whole k, and this coder has k={coder.nonlinearity.k}")
        trainer["k"] = int(coder.nonlinearity.k)
    trainer |= {"group_sizes": [b - a for a, b in pairwise((0, *coder.widths))]} if "Matryoshka" in name else {}
    layer = coder.site and coder.site.layer
    trainer |= {
        "lm_name": (coder.model or {}).get("name"),
        "layer": layer,
        "submodule_name": coder.site and coder.site.name,
    }
    path.mkdir(parents=True, exist_ok=True)
    with replacing(path / WEIGHTS) as temporary:
        torch.save({key: tensor.contiguous() for key, tensor in _stored(name, p, trainer).items()}, temporary)
    with replacing(path / CONFIG) as temporary:
        temporary.write_text(json.dumps({"trainer": trainer, "buffer": {}}, indent=1))
    return path


def _state(path: Path) -> tuple[dict[str, Any], float | None]:
    """The tensors, and the factor of a crashed run's that is still to be applied."""
    found = from_torch(path)
    if "ae" not in found:
        return found, None
    return needed(path, found, "ae")[0], float(needed(path, found, "norm_factor")[0])


def _check_k(path: Path, t: dict[str, Tensor], trainer: dict[str, Any], d_sae: int) -> None:
    if "k" in t and trainer.get("k", int(t["k"])) != int(t["k"]):
        raise ValueError(f"{str(path)!r} holds k={int(t['k'])}, but {CONFIG} says k={trainer['k']}")
    if "group_sizes" in t and int(t["group_sizes"].sum()) != d_sae:
        raise ValueError(f"{str(path)!r}: group_sizes sum to {int(t['group_sizes'].sum())}, expected {d_sae}")


def _parts(name: str, t: dict[str, Tensor]) -> Parts:
    if name == "GatedAutoEncoder":
        W_enc, W_dec = t["encoder.weight"].T, t["decoder.weight"].T
        return parts.of_gated(W_enc, W_dec, t["decoder_bias"], t["r_mag"], t["mag_bias"], t["gate_bias"])
    if "W_enc" in t:
        return Parts(t["W_enc"], t["b_enc"], t["W_dec"], t["b_dec"], t["threshold"].clamp(min=0))
    b_dec = next(t[key] for key in ("bias", "decoder.bias", "b_dec") if key in t)
    threshold = t["threshold"].clamp(min=0) if "threshold" in t else None
    return Parts(t["encoder.weight"].T, t["encoder.bias"], t["decoder.weight"].T, b_dec, threshold)


def _nonlinearity(name: str, t: dict[str, Tensor], d_sae: int, path: Path) -> torch.nn.Module:
    if name == "AutoEncoderTopK":
        return TopK(int(t["k"]))
    if "k" in t:
        if float(t["threshold"]) < 0:
            warnings.warn(f"{str(path)!r} has no threshold yet, so every positive latent is on", stacklevel=4)
        return TopK(int(t["k"]), along="batch")
    if name == "GatedAutoEncoder":
        return Gated(d_sae)
    return ReLU() if name.startswith("AutoEncoder") else JumpReLU(d_sae)


def _site(trainer: dict[str, Any]) -> Site | None:
    where, layer = trainer.get("submodule_name") or "resid", trainer.get("layer")
    if layer is None:
        return None
    if where.startswith("blocks."):
        return Site(where)
    place = next((place for word, place in (("resid", ""), ("mlp", "mlp"), ("att", "attn")) if word in where), None)
    return None if place is None else sites.in_block(int(layer), place)


def _stored(name: str, p: Parts, trainer: dict[str, Any]) -> dict[str, Tensor]:
    p = parts.as_jumprelu(p) if name == "JumpReluAutoEncoder" else p
    p = p if name in _READS_RAW else parts.centred(p)
    bare = {"W_enc": p.W_enc, "b_enc": p.b_enc, "W_dec": p.W_dec, "b_dec": p.b_dec}
    linear = {"encoder.weight": p.W_enc.T, "encoder.bias": p.b_enc, "decoder.weight": p.W_dec.T}
    threshold = torch.tensor(-1.0) if p.threshold is None or name == "AutoEncoderTopK" else p.threshold.clone()
    if name == "JumpReluAutoEncoder":
        return bare | {"threshold": threshold}
    if name == "GatedAutoEncoder":
        biases = {"decoder_bias": p.b_dec, "gate_bias": linear.pop("encoder.bias"), "mag_bias": parts.b_mag(p)}
        return linear | biases | {"r_mag": p.gain}
    if name == "AutoEncoderNew":
        return linear | {"decoder.bias": p.b_dec}
    chosen = {"k": torch.tensor(trainer["k"], dtype=torch.int), "threshold": threshold}
    if "group_sizes" in trainer:
        return bare | chosen | {"group_sizes": torch.tensor(trainer["group_sizes"])}
    return linear | chosen | {"b_dec": p.b_dec}
