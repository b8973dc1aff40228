"""SAELens: a folder with `cfg.json` and `sae_weights.safetensors`. Version 6 read and written, versions 1 to 5 read.

Every architecture whose codes are positive and come from one encoder: standard, gated, jumprelu, topk, the transcoders,
and what exists while training only (batchtopk, matryoshka_batchtopk), unfolded checkpoints with their
`activation_scaler.json` among them. The others are refused by name, with the reason.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..coder import SparseCoder
from ..files import replacing
from ..hooks import Site
from ..nonlinearity import Gated, JumpReLU, ReLU, TopK
from . import parts
from .parts import Parts
from .per_token import PerToken
from .tensors import checked, from_safetensors, needed, settings

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
VERSION = "6.54.12"  # the one that these files were compared with
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
_BATCH = ("batchtopk", "matryoshka_batchtopk")  # only while training; exported as jumprelu
KNOWN = ("standard", "topk", "jumprelu", "gated", *_BATCH, *_TRANSCODERS)
REFUSED = {
    "abstopk": "its codes have both signs, and a latent here is on where it is positive",
    "matching_pursuit": "it chooses latents one after the other, each on what the last ones left: it has no encoder",
    "temporal": "its codes depend on the tokens before, and a code here on its own token alone",
}


def claims(path: Path) -> bool:
    """Whether this folder, or this file in one, is of this format."""
    return path.name == WEIGHTS or (path / WEIGHTS).is_file()


def read(path: Path, scale: float | None = None) -> SparseCoder:
    """The coder, folded: it reads raw activations.

    scale: what the coder's inputs are multiplied by, for old files that say only that they are.
    Raises ValueError for an unknown architecture, a file that contradicts its configuration, and tokens scaled to one
    norm each, which cannot be folded. A coder with `layer_norm` standardises every token: see `PerToken`.
    """
    folder = path if path.is_dir() else path.parent
    cfg = _modern(settings(folder / CONFIG), folder)
    found = from_safetensors(folder / WEIGHTS)
    if (was := found.pop("log_threshold", None)) is not None:  # training checkpoints before 2026
        found["threshold"] = was.exp()
    if (factors := found.pop("scaling_factor", None)) is not None and bool((factors == 1).all()):
        factors = None
    p = _parts(folder / WEIGHTS, cfg, found)
    if cfg["apply_b_dec_to_input"]:
        p = parts.uncentred(p)
    if cfg.get("rescale_acts_by_decoder_norm"):
        p = parts.with_unit_rows(p, threshold_is_scaled=True)
    if factors is not None:
        p = parts.with_factors(p, factors.float())
    p = _raw(p, cfg, folder, scale)
    about = cfg["metadata"]
    cls = PerToken if cfg["normalize_activations"] == "layer_norm" else SparseCoder
    widths = (cfg | (about.get("training_architecture_details") or {})).get("matryoshka_widths")
    if widths and widths[-1] < cfg["d_sae"]:
        widths = [*widths, cfg["d_sae"]]  # as theirs does
    form, model = _nonlinearity(cfg, folder), about.get("model_name")
    return parts.finished(p, form, site=_site(about), model=model, cls=cls, widths=widths)


def write(coder: SparseCoder, path: Path, *, training: bool = False) -> Path:
    """Write a finished coder as SAELens' inference form, and return the folder.

    What is a JumpReLU once it is finished (BatchTopK, Matryoshka, ProLU, Feature Choice) is written as one.
    training=True writes what its training classes load: BatchTopK keeps its k and its threshold.
    Raises ValueError for a coder that SAELens has no architecture for.
    """
    known = dict.fromkeys(parts.JUMPS, "jumprelu") | {"relu": "standard", "topk": "topk", "gated": "gated"}
    known["batch_topk"] = _BATCH[coder.widths is not None] if training else "jumprelu"
    architecture = parts.kind(coder, "SAELens", known)
    p, transcodes = parts.of(coder, per_token=True), coder.site is not None and coder.site.reads != coder.site.writes
    if transcodes or p.W_skip is not None or coder.d_in != coder.d_out:
        if isinstance(coder, PerToken):
            raise ValueError("SAELens has no transcoder that standardises every token; our own format has")
        architecture = "jumprelu" if architecture == "gated" else architecture
        if architecture not in ("standard", "jumprelu") or training:
            raise ValueError(f"SAELens has no {architecture} transcoder to write; it has {', '.join(_TRANSCODERS)}")
        names = ["jumprelu"] * (architecture == "jumprelu") + ["skip"] * (p.W_skip is not None) + ["transcoder"]
        architecture = "_".join(names)
    path.mkdir(parents=True, exist_ok=True)
    with replacing(path / WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in _stored(p, architecture).items()}, temporary)
    with replacing(path / CONFIG) as temporary:
        temporary.write_text(json.dumps(_config(coder, architecture), indent=1))
    return path


def _modern(cfg: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration in version 6's words, with the defaults that its loader has."""
    metadata = cfg.get("metadata") or {}
    version = re.match(r"\d+", str(metadata.get("sae_lens_version")))
    if version is None or int(version[0]) < 6:
        cfg = _from_flat(cfg)
    cfg = {"apply_b_dec_to_input": True, "normalize_activations": "none", "metadata": {}} | cfg
    needed(folder / CONFIG, cfg, "architecture", "d_in", "d_sae")
    if (name := cfg["architecture"]) not in KNOWN:
        why = f", which is not read: {REFUSED[name]}" if name in REFUSED else ""
        raise ValueError(f"{str(folder)!r} holds a {name!r} coder{why}; this version reads {', '.join(KNOWN)}")
    if name in _TRANSCODERS and (cfg["apply_b_dec_to_input"] or cfg["normalize_activations"] != "none"):
        given = {key: cfg[key] for key in ("apply_b_dec_to_input", "normalize_activations")}
        raise ValueError(f"{str(folder)!r}: a {name} with {given}, expected False and 'none'")
    return cfg


def _from_flat(cfg: dict[str, Any]) -> dict[str, Any]:
    """Versions 1 to 5: one flat dict."""
    renamed = {
        "hook_point": "hook_name",
        "hook_point_head_index": "hook_head_index",
        "activation_fn_str": "activation_fn",
    }
    cfg = {"architecture": "standard"} | {renamed.get(name, name): value for name, value in cfg.items()}
    if cfg.get("activation_fn") == "topk":
        cfg |= {"architecture": "topk", "k": (cfg.get("activation_fn_kwargs") or {}).get("k")}
    scaled = cfg.get("normalize_activations")
    if not isinstance(scaled, str):
        cfg["normalize_activations"] = "expected_average_only_in" if scaled else "none"
    about = ("model_name", "hook_name", "hook_name_out", "hook_head_index")
    return cfg | {"metadata": {name: cfg[name] for name in about if name in cfg} | (cfg.get("metadata") or {})}


def _parts(path: Path, cfg: dict[str, Any], found: dict[str, Tensor]) -> Parts:
    d_in, d_sae, architecture = cfg["d_in"], cfg["d_sae"], cfg["architecture"]
    d_out = cfg.get("d_out", d_in) if architecture in _TRANSCODERS else d_in
    expected = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    if architecture == "gated":
        expected |= dict.fromkeys(("b_gate", "r_mag", "b_mag"), (d_sae,))
        del expected["b_enc"]
    if "jumprelu" in architecture:
        expected["threshold"] = (d_sae,)
    if "skip" in architecture:
        expected["W_skip"] = (d_out, d_in)
    if architecture in _BATCH:
        expected["topk_threshold"] = ()
    t = checked(path, found, expected, said_by=CONFIG)
    if architecture == "gated":
        return parts.of_gated(t["W_enc"], t["W_dec"], t["b_dec"], t["r_mag"], t["b_mag"], t["b_gate"])
    threshold = t.get("threshold", t.get("topk_threshold"))
    threshold = None if threshold is None else threshold.clamp(min=0)  # theirs rectifies first
    skip = t["W_skip"].T if "W_skip" in t else None
    return Parts(t["W_enc"], t["b_enc"], t["W_dec"], t["b_dec"], threshold, skip)


def _raw(p: Parts, cfg: dict[str, Any], folder: Path, scale: float | None) -> Parts:
    """The coder of raw activations, whatever its inputs were normalised to."""
    how, scaler = cfg["normalize_activations"], folder / "activation_scaler.json"
    told = settings(scaler) if scaler.is_file() else {}
    if how == "constant_norm_rescale":
        raise ValueError(f"{str(folder)!r} scales each token to one norm ({how}), which no coder here does")
    if how == "covariance_whitening":
        file = folder / "activation_whitening.safetensors"
        shapes = {"mean": (len(p.W_enc),), "matrix": (len(p.W_enc),) * 2, "inverse_matrix": (len(p.W_enc),) * 2}
        if not file.is_file():
            raise ValueError(f"{str(folder)!r} reads whitened activations, but {file.name!r} is missing")
        return parts.unwhitened(p, *(checked(file, from_safetensors(file), shapes)[name] for name in shapes))
    scale = scale or told.get("scaling_factor")
    if how == "expected_average_only_in" and scale is None:
        raise ValueError(
            f"{str(folder)!r} reads scaled activations, but does not say by how much; give it: "
            "io.saelens.read(path, scale=sqrt(d_in) / mean norm of the activations)"
        )
    if scale is None:
        return p
    if cfg.get("rescale_acts_by_decoder_norm"):  # its own export has f in raw units then, and rows of norm 1
        return parts.in_raw_units(p, 1 / float(scale))
    return parts.unscaled(p, float(scale))


def _nonlinearity(cfg: dict[str, Any], folder: Path) -> torch.nn.Module:
    architecture = cfg["architecture"]
    if architecture in ("topk", *_BATCH):
        (k,) = needed(folder / CONFIG, cfg, "k")
        return TopK(k, along="token" if architecture == "topk" else "batch")
    if architecture == "gated":
        return Gated(cfg["d_sae"])
    return JumpReLU(cfg["d_sae"]) if "jumprelu" in architecture else ReLU()


def _site(about: dict[str, Any]) -> Site | None:
    """None for a coder of one head, which is not a whole hook."""
    if not about.get("hook_name") or about.get("hook_head_index") is not None:
        return None
    return Site(about["hook_name"], about.get("hook_name_out"))


def _stored(p: Parts, architecture: str) -> dict[str, Tensor]:
    p = parts.as_jumprelu(p) if "jumprelu" in architecture else p
    tensors = {"W_enc": p.W_enc, "W_dec": p.W_dec, "b_dec": p.b_dec}
    if architecture == "gated":
        return tensors | {"b_gate": p.b_enc, "r_mag": p.gain, "b_mag": parts.b_mag(p)}
    tensors["b_enc"] = p.b_enc
    if p.W_skip is not None:
        tensors["W_skip"] = p.W_skip.T
    if "jumprelu" in architecture:
        tensors["threshold"] = p.threshold
    if architecture in _BATCH:
        tensors["topk_threshold"] = p.threshold.double()
    return tensors


def _config(coder: SparseCoder, architecture: str) -> dict[str, Any]:
    site = coder.site
    about = {"sae_lens_version": VERSION, "sae_lens_training_version": None, "prepend_bos": True}
    about |= {"model_name": (coder.model or {}).get("name"), "hook_name": site and site.reads[0]}
    cfg = {
        "architecture": architecture, "d_in": coder.d_in, "d_sae": coder.d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none",
    }  # fmt: skip
    if isinstance(coder, PerToken):
        cfg["normalize_activations"] = "layer_norm"
    if site is not None and site.reads[0].endswith("hook_z"):
        cfg["reshape_activations"] = "hook_z"
    if "transcoder" in architecture:
        cfg["d_out"] = coder.d_out
        about["hook_name_out"] = site and site.writes[0]
    if architecture in ("topk", *_BATCH):
        cfg |= {"k": coder.nonlinearity.k, "rescale_acts_by_decoder_norm": False}
    if coder.widths is not None:
        levels = {"matryoshka_widths": [*coder.widths]}
        cfg |= levels if architecture in _BATCH else {}
        about |= {"training_architecture": _BATCH[1], "training_architecture_details": levels}
    return cfg | {"metadata": about}
