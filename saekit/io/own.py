"""saekit's own format: one safetensors file, the tensors of a finished coder and a JSON header that says the rest."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..coder import SparseCoder
from ..files import replacing
from ..hooks import Site
from ..nonlinearity import JumpReLU, ReLU, TopK
from .per_token import PerToken

FORMAT = 1
KINDS = {"relu": ReLU, "topk": TopK, "jumprelu": JumpReLU}


def claims(path: Path) -> bool:
    """Whether this file has our header."""
    try:
        with safe_open(path, "pt") as file:
            return "saekit" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def write(coder: SparseCoder, path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> Path:
    """Write a finished coder, whole or not at all, and return the path; ".safetensors" is added where it is missing.

    `dtype` is that of the weights; thresholds stay float32. A coder still in training is folded on load, so its
    scale would be lost: it raises ValueError. Raises OSError when the folder cannot be written.
    """
    if coder.training:
        raise ValueError("this coder is still in training mode; sk.train returns it finished")
    path = Path(path)
    path = path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")
    tensors = {
        name: tensor.detach().to(torch.float32 if "threshold" in name else dtype).contiguous()
        for name, tensor in coder.state_dict().items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"saekit": json.dumps(_header(coder))})
    return path


def read(path: Path) -> SparseCoder:
    """The coder in the file, in eval mode and float32."""
    header, tensors = _open(path)
    coder = (PerToken if header.get("per_token") else SparseCoder)(
        header["d_in"], header["d_sae"], _nonlinearity(header, path),
        d_out=header["d_out"], skip=header["skip"], unit_norm=header["unit_norm"],
    )  # fmt: skip
    expected = {name: tuple(t.shape) for name, t in coder.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if odd := sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)):
        raise ValueError(f"{str(path)!r}: {odd[0]} is {found.get(odd[0])}, expected {expected.get(odd[0])}")
    if bad := [name for name, t in tensors.items() if not bool(torch.isfinite(t).all())]:
        raise ValueError(f"{str(path)!r}: {bad[0]} holds NaN or infinite values")
    coder.load_state_dict(tensors)
    coder.fold()
    coder.site = None if header["site"] is None else Site(*(_site_part(header["site"][k]) for k in ("read", "write")))
    coder.model, coder.tokenizer = header["model"], header["tokenizer"]
    return coder.eval().requires_grad_(False)


def card(path: Path) -> dict[str, Any]:
    """What a table says of a file, without reading its tensors."""
    header, _ = _open(path, tensors=False)
    site = header["site"] and Site(*(_site_part(header["site"][k]) for k in ("read", "write"))).name
    kind = ", ".join(
        [header["nonlinearity"]["kind"], *(f"{k}={v}" for k, v in header["nonlinearity"].items() if k != "kind")]
    )
    return {
        "model": (header["model"] or {}).get("name"), "site": site, "nonlinearity": kind,
        "d_in": header["d_in"], "d_sae": header["d_sae"], "MB": round(path.stat().st_size / 1e6, 2),
    }  # fmt: skip


def _header(coder: SparseCoder) -> dict[str, Any]:
    return {
        "format": FORMAT, "d_in": coder.d_in, "d_sae": coder.d_sae, "d_out": coder.d_out,
        "skip": coder.W_skip is not None, "unit_norm": coder.unit_norm, "nonlinearity": _kind(coder.nonlinearity),
        "site": None if coder.site is None else dataclasses.asdict(coder.site),
        "model": coder.model, "tokenizer": coder.tokenizer, "per_token": isinstance(coder, PerToken),
    }  # fmt: skip


def _kind(nonlinearity: nn.Module) -> dict[str, Any]:
    kind = {cls: name for name, cls in KINDS.items()}[type(nonlinearity)]
    return {"kind": kind} | {
        k: getattr(nonlinearity, k) for k in ("k", "along", "bandwidth") if hasattr(nonlinearity, k)
    }


def _nonlinearity(header: dict[str, Any], path: Path) -> nn.Module:
    options = dict(header["nonlinearity"])
    kind = options.pop("kind")
    if kind not in KINDS:
        raise ValueError(f"{str(path)!r} holds a {kind!r} coder; this version reads {', '.join(KINDS)}")
    return KINDS[kind](header["d_sae"], **options) if kind == "jumprelu" else KINDS[kind](**options)


def _site_part(names: str | list[str]) -> str | tuple[str, ...]:
    return names if isinstance(names, str) else tuple(names)


def _open(path: Path, tensors: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(header, tensors in float32). Raises ValueError for a file that is cut short or is not ours."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name).float() for name in file.keys()} if tensors else {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} is not a whole safetensors file ({error}); copy or download it again"
        ) from error
    if "saekit" not in metadata:
        raise ValueError(
            f"{str(path)!r} has no saekit header (found {sorted(metadata) or 'none'}); was it written by sk.save?"
        )
    header = json.loads(metadata["saekit"])
    if header["format"] > FORMAT:
        raise ValueError(
            f"{str(path)!r} has format {header['format']}, this version reads up to {FORMAT}; update saekit"
        )
    return header, found
