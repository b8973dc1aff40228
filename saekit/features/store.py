"""The index of a corpus on disk, and what it was made for."""

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int, Int32, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..coder import SparseCoder
from ..corpus import Corpus
from ..files import replacing
from ..hooks import model_record
from .kept import Kept
from .neurons import Neurons
from .sample import Sampled
from .tally import BINS, PER_STRATUM, Tally
from .tokens import AtTokens

FORMAT = 2
SAMPLED = 1024  # numbers that are looked at in each of a model's weights
PARTS = {
    "coder": "a coder of {latents:,} latents at {site}, {nonlinearity} (weights {weights})",
    "model": "the model {name!r}, {processing} weights, {n_layers} layers of width {d_model} (weights {weights})",
    "corpus": "{windows:,} windows of {source!r} (contents {contents})",
}


class Held(NamedTuple):
    """Firings of every latent: those of latent i are `offsets[i]:offsets[i + 1]`."""

    offsets: Int64[np.ndarray, " edges"]
    place: Int64[np.ndarray, " n"]  # window * width + position
    values: Float32[np.ndarray, "n around"]  # at the tokens around it; its own is number BEFORE

    @staticmethod
    def of(kept: Kept, d_sae: int, groups_per_latent: int) -> "Held":
        entries = kept.entries()
        offsets = np.searchsorted(entries.group, np.arange(d_sae + 1) * groups_per_latent)
        return Held(offsets, entries.place, entries.values)

    def slice_of(self, latent: int) -> slice:
        return slice(int(self.offsets[latent]), int(self.offsets[latent + 1]))


@dataclass(frozen=True, eq=False)
class Index:
    """What is known of all latents: arrays, memory-mapped when they come from a file."""

    n: int  # tokens
    histogram: Int32[np.ndarray, "d_sae bins"]
    total: Float64[np.ndarray, " d_sae"]
    counts: Int64[np.ndarray, "d_sae columns"]
    base: Int64[np.ndarray, " columns"]
    top: Held
    drawn: Held
    sample: Sampled
    tokens: AtTokens
    neurons: Neurons

    @staticmethod
    def of(tally: Tally) -> "Index":
        return Index(
            tally.n, tally.histogram, tally.total, tally.meetings.counts, tally.meetings.base,
            top=Held.of(tally.top, tally.d_sae, 1), drawn=Held.of(tally.drawn, tally.d_sae, BINS // PER_STRATUM),
            sample=tally.sample.sampled(tally.d_sae), tokens=tally.pairs.at_tokens(), neurons=tally.neurons(),
        )  # fmt: skip

    def arrays(self) -> dict[str, np.ndarray]:
        """All it consists of, by the names in a file."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return plain | {f"{part}.{name}": x for part in _PARTS for name, x in getattr(self, part)._asdict().items()}


_PLAIN = ("histogram", "total", "counts", "base")
_PARTS = {"top": Held, "drawn": Held, "sample": Sampled, "tokens": AtTokens, "neurons": Neurons}


def identity(model: Any, coder: SparseCoder, corpus: Corpus) -> dict[str, dict[str, Any]]:
    """What an index belongs to, in words and hashes: {"coder": ..., "model": ..., "corpus": ...}."""
    return {
        "coder": coder_identity(coder),
        "model": model_record(model) | {"weights": _digest(*map(_sample, model.parameters()))},
        "corpus": {
            "source": corpus.source, "windows": len(corpus), "tokenizer": corpus.fingerprint,
            "contents": _digest(*corpus.label_names, corpus.tokens, corpus.bits, corpus.text_ids),
        },
    }  # fmt: skip


def coder_identity(coder: SparseCoder) -> dict[str, Any]:
    """Which coder it is."""
    state = coder.state_dict()
    return {
        "latents": coder.d_sae, "site": coder.site.name, "nonlinearity": repr(coder.nonlinearity),
        "weights": _digest(*state, *state.values()),
    }  # fmt: skip


def fingerprint(about: dict[str, Any]) -> str:
    """24 hex digits of what `identity` says."""
    return hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=12).hexdigest()


def check_same(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raise ValueError, with both sides, unless an index was made for this coder, model and corpus."""
    for part, words in PARTS.items():
        if found[part] != expected[part]:
            raise ValueError(
                f"the index in {str(path.parent)!r} was made for {words.format(**found[part])}; this one is "
                f"{words.format(**expected[part])}: Features.collect(model, coder, corpus) makes an index for it"
            )


def save(index: Index, path: Path, about: dict[str, Any]) -> None:
    """Write an index to one file, whole or not at all. Raises OSError."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in index.arrays().items()}
    words = json.dumps({"format": FORMAT, "n": index.n, "about": about})
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"words": words, "check": _check(tensors, words)})


def read(path: Path) -> tuple[Index, dict[str, Any]]:
    """(the index in a file, memory-mapped; what it was made for). Raises ValueError when there is none, or damage."""
    again = "Features.collect(model, coder, corpus, path=...) makes it anew"
    if not path.is_file():
        raise ValueError(f"no index in {str(path.parent)!r}: {again}")
    try:
        tensors, told = _read(path)
        whole = told["check"] == _check(tensors, told["words"])
        tensors, told = _read(path)  # a new map: the check has paged in all of the first
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(f"{str(path)!r} is not a whole index ({error}); {again}") from error
    words = json.loads(told["words"]) if whole else {}
    if words.get("format") != FORMAT:
        found = f"format {words['format']}, this version reads {FORMAT}" if whole else "its contents have changed"
        raise ValueError(f"{str(path)!r} cannot be used: {found}; {again}")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    parts = {name: part(*(arrays[f"{name}.{field}"] for field in part._fields)) for name, part in _PARTS.items()}
    return Index(words["n"], **{name: arrays[name] for name in _PLAIN}, **parts), words["about"]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in sorted(file.keys())}, file.metadata() or {}


def _check(tensors: dict[str, Tensor], words: str) -> str:
    check = zlib.crc32(words.encode())
    for name in sorted(tensors):
        check = zlib.crc32(tensors[name].numpy(), check)
    return f"{check:08x}"


def _digest(*contents: str | Tensor | Int[np.ndarray, "..."]) -> str:
    hashed = hashlib.blake2b(digest_size=8)
    for content in contents:
        if not isinstance(content, str):
            tensor = torch.as_tensor(content).detach().cpu().contiguous()
            hashed.update(tensor.flatten().view(torch.uint8).numpy())
            content = f"{tensor.dtype} {tuple(tensor.shape)}"
        hashed.update(content.encode() + b"\0")
    return hashed.hexdigest()


def _sample(weight: Tensor) -> Tensor:
    """Evenly spaced numbers of a weight: another training moves all of them, and all of them would take too long."""
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, len(flat) // SAMPLED)]
