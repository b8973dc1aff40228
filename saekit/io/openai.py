"""OpenAI's sparse_autoencoder: a `.pt` file, a pickled dict of tensors; ReLU and TopK coders of GPT-2.

Read only, from the documented list of fields: no tool that can be installed writes these files. Nothing that is pickled
in them is run. TopK coders standardise every token; see `PerToken`.
"""

from pathlib import Path
from typing import Any

from ..coder import SparseCoder
from ..nonlinearity import ReLU, TopK
from . import parts
from .parts import Parts
from .per_token import PerToken
from .tensors import checked, from_torch, length

_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_WORDS = ("activation", "activation_state_dict")


def claims(path: Path) -> bool:
    """Whether this file may be of this format."""
    return path.is_file() and path.suffix == ".pt"


def read(path: Path) -> SparseCoder:
    """The coder. Raises ValueError for another activation and for tensors that are missing or do not fit."""
    found: dict[str, Any] = from_torch(path)
    words = {name: found.pop(name, None) for name in _WORDS}
    if (name := words["activation"]) not in ("ReLU", "TopK"):
        raise ValueError(f"{str(path)!r}: activation {name!r}, expected 'ReLU' or 'TopK'")
    d, d_sae = length(path, found, "pre_bias"), length(path, found, "latent_bias")
    shapes = {"encoder.weight": (d_sae, d), "pre_bias": (d,), "latent_bias": (d_sae,)}
    more = {"decoder.weight": (d, d_sae)} | dict.fromkeys(_STATISTICS, (d_sae,))
    t = checked(path, found, shapes, more, said_by="pre_bias and latent_bias")
    decoder = t["decoder.weight"].T if "decoder.weight" in t else t["encoder.weight"]  # tied: the encoder's own rows
    p = parts.uncentred(Parts(t["encoder.weight"].T, t["latent_bias"], decoder, t["pre_bias"]))
    if name == "ReLU":
        return parts.finished(p, ReLU())
    k = (words["activation_state_dict"] or {}).get("k")
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"{str(path)!r}: a TopK coder with k={k!r}, expected a positive number")
    return parts.finished(p, TopK(k), cls=PerToken)
