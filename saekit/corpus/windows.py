"""Texts -> windows of token ids, each token with its labels packed into the bits of one integer."""

import hashlib
import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from .labels import Span, Spans
from .sources import Text

REAL, MIXED, FIRST = (
    0,
    1,
    2,
)  # bits of a token: it is of the text; its labels are not to be scored; label i is FIRST + i
SHORTEST = 16  # tokens; a text's last window is dropped below that, unless it is its only one


def fingerprint(tokenizer: Any) -> str:
    """16 hex digits, the same for tokenizers that cut every text into the same ids (before any BOS or template)."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = [state[part] for part in ("added_tokens", "normalizer", "pre_tokenizer", "model")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def pieces(tokenizer: Any, ids: Sequence[int] | Int[np.ndarray, " n"] | Int[Tensor, " n"]) -> list[str]:
    """The text of each token id on its own, with the blanks it begins with; U+FFFD where it is part of a character."""
    backend = tokenizer.backend_tokenizer
    encoding = backend.encode("a", add_special_tokens=False)
    before = [i for i, real in zip(encoding.ids, encoding.attention_mask, strict=True) if real]
    # Some decoders strip the blank that a text begins with, so that each id is decoded behind another one.
    texts = backend.decode_batch([[*before, int(i)] for i in ids], skip_special_tokens=False)
    head = backend.decode(before)
    return [text.removeprefix(head) for text in texts]


class Windows:
    """Windows of at most `room` tokens as texts are added: `ids[i]` and `bits[i]` [pos], cut from text `owners[i]`."""

    def __init__(self, tokenizer: Any, room: int):
        self.backend = Tokenizer.from_str(
            tokenizer.backend_tokenizer.to_str()
        )  # ours: truncation and padding are state
        self.backend.no_truncation()
        self.backend.no_padding()
        special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        self.special = [token for token in special if token is not None]
        self.room = room
        self.bit_of = {"mixed": MIXED}  # label -> bit
        self.ids: list[Int[np.ndarray, " pos"]] = []
        self.bits: list[Int[np.ndarray, " pos"]] = []
        self.owners: list[int] = []
        self.texts: list[str] = []
        self.unlabelled: set[int] = set()  # texts

    def add(self, texts: Sequence[Text]) -> None:
        """Tokenize and label each text whole, then cut it."""
        encodings = self.backend.encode_batch([text.text for text in texts], add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            ids = np.array(encoding.ids, np.int64)
            offsets = np.fromiter(chain.from_iterable(encoding.offsets), np.int64, 2 * len(ids)).reshape(-1, 2)
            for label in text.spans or ():
                self.bit_of.setdefault(label, FIRST - 1 + len(self.bit_of))
            if len(self.bit_of) > 62:
                raise ValueError(f"{len(self.bit_of) - 1} labels or more, but 61 are the most: leave some out")
            bits = token_bits(text.text, offsets, text.spans or {}, self.bit_of)
            bits |= np.where(np.isin(ids, self.special), 0, 1 << REAL)
            for start in range(0, len(ids), self.room):
                if start == 0 or len(ids) - start >= SHORTEST:
                    self.ids.append(ids[start : start + self.room])
                    self.bits.append(bits[start : start + self.room])
                    self.owners.append(len(self.texts))
            self.unlabelled |= {len(self.texts)} if text.spans is None else set()
            self.texts.append(text.name)


def token_bits(
    text: str, offsets: Int[np.ndarray, "pos 2"], spans: Spans, bit_of: dict[str, int]
) -> Int[np.ndarray, " pos"]:
    """A token has the labels of its first character that is not blank; it is mixed if they change before its last."""
    places, states = _changes(spans, bit_of)
    first, last = _visible(text, offsets)
    before, after = np.searchsorted(places, first, "right"), np.searchsorted(places, last, "right")
    return states[before] | np.where(before == after, 0, 1 << MIXED)


def _changes(spans: Spans, bit_of: dict[str, int]) -> tuple[Int[np.ndarray, " change"], Int[np.ndarray, " state"]]:
    """Where a text's set of labels changes; and that set, as bits, before the first change and after each one."""
    edges = {label: _edges(found) for label, found in spans.items() if found}
    places = np.concatenate([np.empty(0, np.int64), *edges.values()])
    toggles = np.repeat([1 << bit_of[label] for label in edges], [len(edge) for edge in edges.values()]).astype(
        np.int64
    )
    order = np.argsort(places)
    places, first = np.unique(places[order], return_index=True)
    toggles = np.bitwise_xor.reduceat(toggles[order], first) if len(first) else toggles
    states = np.concatenate([[0], np.bitwise_xor.accumulate(toggles)])
    return places[toggles != 0], states[np.r_[True, toggles != 0]]


def _edges(spans: list[Span]) -> Int[np.ndarray, " edge"]:
    """Start, end, start, end, ... of the union of spans, strictly rising."""
    ordered = np.array(sorted(spans), np.int64)
    starts, ends = ordered[ordered[:, 0] < ordered[:, 1]].T
    ends = np.maximum.accumulate(ends)
    apart = starts[1:] > ends[:-1]
    return np.stack([starts[np.r_[True, apart]], ends[np.r_[apart, True]]], 1).ravel() if len(starts) else starts


_IS_BLANK = np.array([chr(code).isspace() for code in range(0x3002)])  # U+3000 is the last space


def _visible(text: str, offsets: Int[np.ndarray, "pos 2"]) -> tuple[Int[np.ndarray, " pos"], Int[np.ndarray, " pos"]]:
    """First and last character of each token that are not blank; its very first and last if all are."""
    blank = _IS_BLANK[np.minimum(np.frombuffer(text.encode("utf-32-le"), "<u4"), len(_IS_BLANK) - 1)]
    place = np.arange(len(text))
    following = np.minimum.accumulate(np.where(blank, len(text), place)[::-1])[::-1]
    preceding = np.maximum.accumulate(np.where(blank, -1, place))
    start = np.minimum(offsets[:, 0], len(text) - 1)
    end = np.maximum(offsets[:, 1], start + 1)
    is_blank = following[start] >= end
    return np.where(is_blank, start, following[start]), np.where(is_blank, end - 1, preceding[end - 1])
