"""A `Corpus` in memory or memory-mapped, and its file."""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saekit.files import replacing

from .labels import IDENTITY
from .windows import FIRST, MIXED, REAL, fingerprint


class Labels(Mapping[str, Bool[np.ndarray, "*places"]]):
    """Label -> boolean array, [doc, pos] or of the places asked for, unpacked when asked for."""

    def __init__(self, bits: Int[np.ndarray, "*places"], names: tuple[str, ...]):
        self._bits = bits
        self._places = {"mixed": MIXED} | {name: FIRST + i for i, name in enumerate(names)}

    def __getitem__(self, name: str) -> Bool[np.ndarray, "*places"]:
        if name not in self._places:
            raise KeyError(f"no label {name!r}; this corpus has {', '.join(self._places)}")
        return (self._bits >> self._places[name] & 1).astype(bool)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"Labels({', '.join(self._places)})"


@dataclass(frozen=True, repr=False, eq=False)
class Corpus:
    """Windows of tokenized text with a label set for each token. `corpus[:100]` is a Corpus of the first 100 windows.

    tokens: ids, BOS first where the tokenizer has one, padded on the right. A memory-mapped file, when cached.
    bits: labels, packed; use `labels["docstring"]`, `mask`, `scored`, which are boolean arrays [doc, pos].
    text_ids: which of `texts`, the texts' names, each window is cut from. Windows of a text follow one another.
    """

    source: str
    tokens: Int64[Tensor, "doc pos"]
    bits: Int[np.ndarray, "doc pos"]
    text_ids: Int[np.ndarray, " doc"]
    texts: tuple[str, ...]
    label_names: tuple[str, ...]
    fingerprint: str  # of the tokenizer
    lead: int  # 1 if each window starts with BOS

    @property
    def labels(self) -> Labels:
        """Label -> boolean array [doc, pos]; `mixed` is among them: the token straddles two sets of labels."""
        return Labels(self.bits, self.label_names)

    @property
    def identity_labels(self) -> frozenset[str]:
        """Labels that the token alone decides (keyword, operator, number), which are no evidence of reading context."""
        return IDENTITY & set(self.label_names)

    @cached_property
    def mask(self) -> Bool[np.ndarray, "doc pos"]:
        """Tokens of text: neither BOS nor padding."""
        return (self.bits >> REAL & 1).astype(bool)

    @cached_property
    def scored(self) -> Bool[np.ndarray, "doc pos"]:
        """Tokens whose labels may be scored: of text, not mixed, not one of the two that lead a window."""
        scored = self.mask & ~self.labels["mixed"]
        scored[:, : self.lead + 2] = False
        return scored

    @property
    def names(self) -> list[str]:
        """The name of each window's text."""
        return [self.texts[i] for i in self.text_ids]

    @property
    def n_tokens(self) -> int:
        return int(np.count_nonzero(self.mask))

    def labels_at(self, places: Int[np.ndarray, " n"]) -> Labels:
        """Label -> boolean array [n], of the tokens at some places, `window * width + position`."""
        return Labels(self.bits[np.divmod(places, self.bits.shape[1])], self.label_names)

    def test_windows(self, share: float = 0.5, seed: int = 0) -> Bool[np.ndarray, " doc"]:
        """Which windows are of the texts held back: with `test` this array, `corpus[~test]` and `corpus[test]` have no
        text in common.

        `share` of the texts, at least one on either side, chosen by a hash of their names and `seed`, so that the
        same texts are always split alike. Explanations are made on the one half and scored on the other.
        Raises ValueError for a corpus of one text, and for a share that is not between 0 and 1.
        """
        present = np.unique(self.text_ids)
        if len(present) < 2 or not 0 < share < 1:
            raise ValueError(
                f"{len(present)} texts of {self.source!r} cannot be split with share={share}: at least 2 texts and a "
                "share between 0 and 1 are needed"
            )
        ranked = sorted(present.tolist(), key=lambda i: (blake2b(f"{seed} {self.texts[i]}".encode()).digest(), i))
        held_back = ranked[: min(max(round(share * len(ranked)), 1), len(ranked) - 1)]
        return np.isin(self.text_ids, held_back)

    def check_model(self, model: Any) -> None:
        """Raise ValueError unless this model's (or bare) tokenizer is the one that made the corpus."""
        other = fingerprint(getattr(model, "tokenizer", model))
        if other != self.fingerprint:
            raise ValueError(
                f"this corpus was tokenized by {self.fingerprint}, but the model's tokenizer is {other}: "
                "load_corpus(model, ...) once more for this model"
            )

    def __len__(self) -> int:
        return len(self.text_ids)

    def __getitem__(self, index: slice | int | Int[np.ndarray, " n"] | Bool[np.ndarray, " n"] | list[int]) -> "Corpus":
        if isinstance(index, int):
            index = slice(range(len(self))[index], range(len(self))[index] + 1)  # IndexError past the end
        picked = torch.as_tensor(index) if isinstance(index, np.ndarray | list) else index
        return replace(self, tokens=self.tokens[picked], bits=self.bits[index], text_ids=self.text_ids[index])

    def __repr__(self) -> str:
        texts, labels = len(np.unique(self.text_ids)), len(self.label_names)
        windows = f"{len(self):,} windows of {self.tokens.shape[1]}"
        return f"Corpus({self.source}: {texts:,} texts, {windows}, {self.n_tokens:,} tokens, {labels} labels)"


_ARRAYS = ("tokens", "bits", "text_ids")
_WORDS = ("source", "texts", "label_names", "fingerprint", "lead")


def save(corpus: Corpus, path: Path) -> None:
    """Write a corpus to one file, whole or not at all. Raises OSError."""
    tensors = {name: torch.as_tensor(getattr(corpus, name)).contiguous() for name in _ARRAYS}
    words = json.dumps({name: getattr(corpus, name) for name in _WORDS})
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"words": words, "check": _check(tensors, words)})


def open_saved(path: Path) -> Corpus | None:
    """The corpus of a file, memory-mapped; None if there is none or it is damaged."""
    try:
        tensors, told = _read(path)
        if told["check"] != _check(tensors, told["words"]):
            return None
        tensors, told = _read(path)  # a new map: the check has paged in all of the first
    except (OSError, SafetensorError, KeyError):
        return None
    words = {name: tuple(word) if isinstance(word, list) else word for name, word in json.loads(told["words"]).items()}
    return Corpus(tokens=tensors["tokens"], bits=tensors["bits"].numpy(), text_ids=tensors["text_ids"].numpy(), **words)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in _ARRAYS}, file.metadata() or {}


def _check(tensors: dict[str, Tensor], words: str) -> str:
    check = zlib.crc32(words.encode())
    for name in _ARRAYS:
        check = zlib.crc32(tensors[name].numpy(), check)
    return f"{check:08x}"
