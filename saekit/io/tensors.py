"""Files of weights, read without running anything in them, and the check that every tensor is what it should be."""

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def from_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file. Raises ValueError when it is cut short."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} is not a whole safetensors file ({error}); copy or download it again"
        ) from error


def layer_files(folder: Path, name: str) -> list[Path]:
    """The files called `name`, such as "layer_{}.safetensors", of layers 0 to n - 1.

    Raises ValueError where one is missing.
    """
    pattern = re.compile(re.escape(name).replace(r"\{\}", r"(\d+)"))
    files = {int(found[1]): file for file in folder.iterdir() if (found := pattern.fullmatch(file.name))}
    if {*files} != {*range(len(files))} or not files:
        raise ValueError(f"{str(folder)!r} has {name.format('N')} of layers {sorted(files)}, expected all from 0 on")
    return [files[number] for number in sorted(files)]


def shapes_of(path: Path) -> Shapes:
    """The names and shapes in a safetensors file, without reading it; empty where it is none."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return {}


def from_npz(path: Path) -> dict[str, Tensor]:
    """Every array of an npz file. Raises ValueError when it is damaged or holds objects, which could run code."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: torch.from_numpy(np.ascontiguousarray(file[name])) for name in file.files}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{str(path)!r} is not a plain npz file of numbers: {error}") from error


def from_torch(path: Path, remedy: str = "Save the state_dict alone.") -> dict[str, Any]:
    """The dict that `torch.save` wrote, without running what is pickled in it.

    Raises ValueError when it is damaged, holds anything but tensors and plain data, or is no dict.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{str(path)!r} holds more than tensors and plain data, so reading it could run code; it was not read. "
            f"{remedy} ({_refused(error)})"
        ) from error
    except Exception as error:  # what PyTorch makes of a damaged pickle is anything, AssertionError for one
        raise ValueError(f"{str(path)!r} is not a whole PyTorch file ({error}); copy or download it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} holds a {type(found).__name__}, expected a dict of tensors")
    return found


def _refused(error: pickle.UnpicklingError) -> str:
    """What PyTorch would not read, without its advice to read it all the same."""
    told = re.search(r"GLOBAL (\S+)", str(error))
    return f"it names {told[1]}" if told else str(error).splitlines()[0]


def settings(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ValueError when there is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{path.name!r} is missing in {str(path.parent)!r}: without it the weights say too little"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} holds a {type(found).__name__}, expected an object")
    return found


def needed(path: Path, found: dict[str, Any], *names: str) -> list[Any]:
    """These entries of a configuration. Raises ValueError for one that is not there."""
    if missing := [name for name in names if found.get(name) is None]:
        raise ValueError(f"{str(path)!r} has no {missing[0]!r}; it has {', '.join(sorted(found)) or 'nothing'}")
    return [found[name] for name in names]


def checked(
    path: Path,
    found: dict[str, Any],
    expected: Shapes,
    optional: Shapes | None = None,
    said_by: str = "the other tensors",
) -> dict[str, Tensor]:
    """The tensors, once each is there with its shape and finite, and no other is; floats become float32.

    Raises ValueError that names the tensor, what was found and what was expected.
    """
    allowed = expected | (optional or {})
    where = str(path)
    if missing := sorted(expected.keys() - found.keys()):
        raise ValueError(f"{where!r} lacks {missing[0]!r} {expected[missing[0]]}; it has {_listed(found)}")
    if extra := sorted(found.keys() - allowed.keys()):
        raise ValueError(f"{where!r} has {extra[0]!r}, which no coder of this kind has; expected {', '.join(allowed)}")
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{where!r}: {name} is a {type(tensor).__name__}, expected a tensor")
        if (shape := tuple(tensor.shape)) != allowed[name]:
            turned = "; is it transposed?" if shape == allowed[name][::-1] else ""
            raise ValueError(f"{where!r}: {name} is {shape}, expected {allowed[name]} from {said_by}{turned}")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{where!r}: {name} holds NaN or infinite values")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}


def length(path: Path, found: dict[str, Any], name: str) -> int:
    """The length of a vector, which tells a size without doubt. Raises ValueError when it is no vector."""
    tensor = found.get(name)
    if not isinstance(tensor, Tensor) or tensor.ndim != 1:
        raise ValueError(f"{str(path)!r} lacks the vector {name!r}; it has {_listed(found)}")
    return len(tensor)


def _listed(found: dict[str, Any]) -> str:
    return (
        ", ".join(f"{k} {tuple(t.shape)}" if isinstance(t, Tensor) else k for k, t in sorted(found.items()))
        or "nothing"
    )
