"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`; JumpReLU with one threshold for all.

Read only: no tool that can be installed writes these files. The coder reads activations scaled to mean norm sqrt(d), by
c = sqrt(d) / (the mean norm that the file records), and its threshold is in raw units; both are folded in, so that f is
what the coder computes on scaled activations.

Confirmed: SAELens 6.54.12 reads a file of this layout as `a = c x W_enc + b_enc, f = a 1[a > c theta]`, and its codes
and reconstructions are ours (a fixture). Not confirmed here, since it needs the released files: that the norm they
record gives the factor that SAELens has in its own table.
"""

from pathlib import Path

import torch

from ..coder import SparseCoder
from ..hooks import Site
from ..nonlinearity import JumpReLU
from . import parts
from .parts import Parts
from .tensors import checked, from_safetensors, needed, settings

CONFIG, WEIGHTS = "hyperparams.json", Path("checkpoints/final.safetensors")


def claims(path: Path) -> bool:
    """Whether this folder, or the file in it, is of this format."""
    return (path / WEIGHTS).is_file() or (path.name == WEIGHTS.name and (path.parent.parent / CONFIG).is_file())


def read(path: Path) -> SparseCoder:
    """The coder, folded. Raises ValueError for fields that are missing and tensors that contradict them."""
    folder = path if path.is_dir() else path.parent.parent
    cfg = settings(folder / CONFIG)
    d, d_sae, theta, norms = needed(
        folder / CONFIG, cfg, "d_model", "d_sae", "jump_relu_threshold", "dataset_average_activation_norm"
    )
    shapes = {
        "encoder.weight": (d_sae, d), "encoder.bias": (d_sae,), "decoder.weight": (d, d_sae), "decoder.bias": (d,),
    }  # fmt: skip
    t = checked(folder / WEIGHTS, from_safetensors(folder / WEIGHTS), shapes, said_by=CONFIG)
    c = d**0.5 / needed(folder / CONFIG, norms, "in")[0]
    p = Parts(
        t["encoder.weight"].T, t["encoder.bias"], t["decoder.weight"].T, t["decoder.bias"], torch.tensor(theta * c)
    )
    hook = cfg.get("hook_point_in")
    site = None if hook is None else Site(hook, cfg.get("hook_point_out"))
    return parts.finished(parts.unscaled(p, c), JumpReLU(d_sae), site=site, model=cfg.get("model_name"))
