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

from ..coder import CoderStack, SparseCoder
from ..files import replacing
from ..hooks import Site
from ..nonlinearity import Gated, JumpReLU, ProLU, ReLU, Routed, TopK
from .per_token import PerToken

FORMAT = 1
KINDS = {"relu": ReLU, "gated": Gated, "prolu": ProLU, "topk": TopK, "jumprelu": JumpReLU, "routed": Routed}
OPTIONS = {  # of each kind, what its tensors do not say
    "relu": (), "gated": (), "prolu": ("straight",), "topk": ("k", "along", "zipf"),
    "jumprelu": ("bandwidth", "theta0", "through_input"), "routed": ("experts",),
}  # fmt: skip

Coder = SparseCoder | CoderStack


def claims(path: Path) -> bool:
    """Whether this file has our header."""
    try:
        with safe_open(path, "pt") as file:
            return "saekit" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def write(coder: Coder, path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> Path:
    """Write a finished coder, whole or not at all, and return the path; ".safetensors" is added where it is missing.

    `dtype` is that of the weights; what a nonlinearity holds, thresholds above all, stays float32. A coder still in
    training is folded on load, so its scale would be lost: it raises ValueError. Raises OSError when the
    folder cannot be written.
    """
    if coder.training:
        raise ValueError("this coder is still in training mode; sk.train returns it finished")
    path = Path(path)
    path = path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")
    tensors = {
        name: tensor.detach().to(torch.float32 if "nonlinearity" in name else dtype).contiguous()
        for name, tensor in coder.state_dict().items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"saekit": json.dumps(_header(coder))})
    return path


def read(path: Path) -> Coder:
    """The coder in the file, in eval mode and float32."""
    header, tensors = _open(path)
    coder = _stack(header, path) if "banks" in header else _coder(header, path)
    expected = {name: tuple(t.shape) for name, t in coder.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if odd := sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)):
        raise ValueError(f"{str(path)!r}: {odd[0]} is {found.get(odd[0])}, expected {expected.get(odd[0])}")
    if bad := [name for name, t in tensors.items() if not bool(torch.isfinite(t).all())]:
        raise ValueError(f"{str(path)!r}: {bad[0]} holds NaN or infinite values")
    coder.load_state_dict(tensors)
    coder.fold()
    coder.place(_site(header["site"]), header["model"], header["tokenizer"])
    return coder.eval().requires_grad_(False)


def _coder(header: dict[str, Any], path: Path) -> SparseCoder:
    kind = PerToken if header.get("per_token") else SparseCoder
    coder = kind(
        header["d_in"], header["d_sae"], _nonlinearity(header, header["nonlinearity"], path), d_out=header["d_out"],
        n_sites=header.get("n_sites", 1), skip=header["skip"], unit_norm=header["unit_norm"],
    )  # fmt: skip
    coder.widths = tuple(header["widths"]) if header.get("widths") else None
    return coder


def _stack(header: dict[str, Any], path: Path) -> CoderStack:
    return CoderStack([_coder(bank, path) for bank in header["banks"]], header["starts"])


def card(path: Path) -> dict[str, Any]:
    """What a table says of a file, without reading its tensors."""
    header, _ = _open(path, tensors=False)
    site = _site(header["site"])
    first = header["banks"][0] if "banks" in header else header
    options = {k: v for k, v in first["nonlinearity"].items() if k not in ("kind", "inner") and v}
    kind = ", ".join([first["nonlinearity"]["kind"], *(f"{k}={v}" for k, v in options.items())])
    return {
        "model": (header["model"] or {}).get("name"), "site": site and site.name, "nonlinearity": kind,
        "d_in": header["d_in"], "d_sae": header["d_sae"], "MB": round(path.stat().st_size / 1e6, 2),
    }  # fmt: skip


def _header(coder: Coder) -> dict[str, Any]:
    about = {
        "format": FORMAT, "d_in": coder.d_in, "d_sae": coder.d_sae, "d_out": coder.d_out,
        "site": None if coder.site is None else dataclasses.asdict(coder.site),
        "model": coder.model, "tokenizer": coder.tokenizer, "per_token": isinstance(coder, PerToken),
    }  # fmt: skip
    if isinstance(coder, CoderStack):
        return about | {"banks": [_header(bank) for bank in coder], "starts": coder.starts}
    return about | {
        "n_sites": coder.n_sites, "skip": coder.W_skip is not None, "unit_norm": coder.unit_norm,
        "nonlinearity": _kind(coder.nonlinearity), "widths": coder.widths,
    }  # fmt: skip


def _kind(nonlinearity: nn.Module) -> dict[str, Any]:
    kind = {cls: name for name, cls in KINDS.items()}[type(nonlinearity)]
    about = {"kind": kind} | {name: getattr(nonlinearity, name) for name in OPTIONS[kind]}
    return about | {"inner": _kind(nonlinearity.inner)} if kind == "routed" else about


def _nonlinearity(header: dict[str, Any], about: dict[str, Any], path: Path) -> nn.Module:
    options = {k: v for k, v in about.items() if k not in ("kind", "inner")}
    kind, d_sae = about["kind"], header["d_sae"]
    if kind not in KINDS or options.keys() - set(OPTIONS[kind]):
        raise ValueError(f"{str(path)!r} holds a {kind!r} coder with {options}; this version reads {', '.join(KINDS)}")
    if kind == "routed":
        return Routed(header["d_in"], d_sae, inner=_nonlinearity(header, about["inner"], path), **options)
    if kind == "topk":
        return TopK(**options, d_sae=d_sae if options["along"] == "feature" else None)
    return ReLU() if kind == "relu" else KINDS[kind](d_sae, **options)


def _site(saved: dict[str, Any] | None) -> Site | None:
    return None if saved is None else Site(*(_site_part(saved[end]) for end in ("read", "write")))


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
