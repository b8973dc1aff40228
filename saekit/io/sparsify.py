"""sparsify: a folder named after its hook point, with `cfg.json` and `sae.safetensors`. TopK; read and written.

A run is a folder of such folders: a stack.
"""

import json
import re
from pathlib import Path

from safetensors.torch import save_file

from ..coder import CoderStack, SparseCoder
from ..files import replacing, replacing_folder
from ..nonlinearity import TopK
from . import parts, sites, stacks
from .parts import Parts
from .tensors import checked, from_safetensors, needed, settings

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def claims(path: Path) -> bool:
    """Whether this folder, or this file in one, is of this format; or a folder of such folders."""
    return path.name == WEIGHTS or (path / WEIGHTS).is_file() or bool(_hookpoints(path))


def read(path: Path) -> SparseCoder | CoderStack:
    """The coder, or all of a run, in the order of their names.

    Raises ValueError for an activation other than topk, and a file that contradicts its configuration.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and not (path / WEIGHTS).is_file():
        return stacks.per_layer([read(hookpoint) for hookpoint in _hookpoints(path)])
    cfg = settings(folder / CONFIG)
    d, k = needed(folder / CONFIG, cfg, "d_in", "k")
    if cfg.get("activation", "topk") != "topk" or cfg.get("signed"):
        kind = "signed" if cfg.get("signed") else cfg["activation"]
        raise ValueError(f"{str(folder)!r} holds a {kind!r} coder; of sparsify this version reads topk")
    d_sae = cfg.get("num_latents") or d * needed(folder / CONFIG, cfg, "expansion_factor")[0]  # 0 says: by the factor
    shapes = {"encoder.weight": (d_sae, d), "encoder.bias": (d_sae,), "W_dec": (d_sae, d), "b_dec": (d,)}
    shapes |= {"W_skip": (d, d)} if cfg.get("skip_connection") else {}
    t = checked(folder / WEIGHTS, from_safetensors(folder / WEIGHTS), shapes, said_by=CONFIG)
    skip = t["W_skip"].T if "W_skip" in t else None
    p = Parts(t["encoder.weight"].T, t["encoder.bias"], t["W_dec"], t["b_dec"], W_skip=skip)
    p = p if cfg.get("transcode") else parts.uncentred(p)
    site = sites.of_module(folder.absolute().name, transcode=bool(cfg.get("transcode")))
    return parts.finished(p, TopK(int(k)), site=site)


def write(coder: SparseCoder, path: Path) -> Path:
    """Write a finished TopK coder whose input and output are of one width, and return the folder.

    Raises ValueError for another.
    """
    parts.kind(coder, "sparsify", {"topk": "topk"})
    if coder.d_in != coder.d_out:
        raise ValueError(f"sparsify's coders have one width; this one goes from {coder.d_in} to {coder.d_out}")
    p, transcodes = parts.of(coder), coder.site is not None and coder.site.reads != coder.site.writes
    p = p if transcodes else parts.centred(p)
    tensors = {"encoder.weight": p.W_enc.T, "encoder.bias": p.b_enc, "W_dec": p.W_dec, "b_dec": p.b_dec}
    tensors |= {} if p.W_skip is None else {"W_skip": p.W_skip.T}
    cfg = {
        "activation": "topk", "k": int(coder.nonlinearity.k), "multi_topk": False, "normalize_decoder": coder.unit_norm,
        "expansion_factor": max(1, coder.d_sae // coder.d_in), "num_latents": coder.d_sae,
        "skip_connection": p.W_skip is not None, "transcode": transcodes, "d_in": coder.d_in,
    }  # fmt: skip
    path.mkdir(parents=True, exist_ok=True)
    with replacing(path / WEIGHTS) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    with replacing(path / CONFIG) as temporary:
        temporary.write_text(json.dumps(cfg, indent=1))
    return path


def write_stack(stack: CoderStack, path: Path) -> Path:
    """Write a folder for each bank, called by its hook point, and return the folder of all, which is replaced.

    Raises ValueError for a bank that sparsify has no coder for or whose site it has no name for.
    """
    with replacing_folder(path, lambda entry: (entry / WEIGHTS).is_file()) as folder:
        for bank in stack:
            write(bank, folder / _name(bank))
    return path


def _hookpoints(path: Path) -> list[Path]:
    """The coders of a run, `layers.10` after `layers.9`."""
    numbers = re.compile(r"\d+")
    found = [file.parent for file in path.glob(f"*/{WEIGHTS}")] if path.is_dir() else []
    return sorted(found, key=lambda folder: numbers.sub(lambda n: n[0].zfill(6), folder.name))


def _name(bank: SparseCoder) -> str:
    """The module that has this site, in the words of Llama and Pythia."""
    layer = bank.site and bank.site.layer
    for name in (f"layers.{layer}", f"layers.{layer}.mlp", f"layers.{layer}.attention"):
        if bank.site is not None and bank.site in (sites.of_module(name), sites.of_module(name, transcode=True)):
            return name
    raise ValueError(f"sparsify names a coder by the module whose output it writes; this one has the site {bank.site}")
