"""What other tools pickle in their graphs, read and written without those tools, and without running anything."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from ..files import replacing
from ..io.tensors import from_torch


class LogitTarget(NamedTuple):
    """Stands in for circuit-tracer's: the text of a target and its id, from vocab_size on where it is no token."""

    token_str: str
    vocab_idx: int


class Inert:
    """Takes what it is given, and does nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


class Config(Inert):
    """Stands in for circuit-tracer's configuration, and for TransformerLens' in old files."""


class Scalar(Inert):
    """Stands in for NumPy's numbers and their types, which TransformerLens' configurations hold."""


NAMES = {  # the first of each class is the one that is written
    "circuit_tracer.attribution.targets.LogitTarget": LogitTarget,
    "circuit_tracer.utils.tl_nnsight_mapping.UnifiedConfig": Config,
    "transformer_lens.HookedTransformerConfig.HookedTransformerConfig": Config,
    "transformer_lens.config.HookedTransformerConfig.HookedTransformerConfig": Config,
    "transformer_lens.config.hooked_transformer_config.HookedTransformerConfig": Config,
    "numpy.core.multiarray.scalar": Scalar,
    "numpy._core.multiarray.scalar": Scalar,
    "numpy.dtype": Scalar,
}


class _Naming(pickle._Pickler):
    """Writes the stand-ins under the names of what they stand for, so that nobody needs to have those modules."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        full = next((full for full, cls in NAMES.items() if cls is obj), None)
        if full is None:
            return super().save_global(obj, name)
        module, _, short = full.rpartition(".")
        self.write(pickle.GLOBAL + f"{module}\n{short}\n".encode())
        return self.memoize(obj)


def load(path: Path) -> dict[str, Any]:
    """The dict in a file of `torch.save`, the stand-ins in their places.

    Raises ValueError for a damaged file, and for one that holds anything but these, tensors and plain data.
    """
    with torch.serialization.safe_globals([(cls, name) for name, cls in NAMES.items()]):
        return from_torch(path, "Let circuit-tracer write it again.")


def save(content: dict[str, Any], path: Path) -> None:
    """Write a dict as `torch.save` does, whole or not at all. Raises OSError."""
    with replacing(path) as temporary:
        torch.save(content, temporary, pickle_module=SimpleNamespace(__name__="pickle", Pickler=_Naming))
