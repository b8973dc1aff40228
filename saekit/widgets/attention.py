"""`AttentionView`: where every head looks, from every token."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..attribute import patterns
from ..corpus import pieces
from ..hooks import to_tokens
from ..viz.attention import attention_view, runs
from .view import View

MOST = 256  # tokens
SIDE = 48  # cells along a small picture
SHOWN = 64  # small pictures at once
TOP = 5
HEADS = {"ArrowUp": (-1, 0), "ArrowDown": (1, 0), "ArrowLeft": (0, -1), "ArrowRight": (0, 1)}


class AttentionView(View):
    """The attention patterns of all heads on a text, small, and one of them large; one token's row over the text.

    `A[q, k]` is the share of its attention that token q gives to token k; it sums to 1 over k <= q. text: a string, or
    token ids. scores: a number for each [layer, head], shown under the pictures, the largest marked; scored: what they
    are. bos=False leaves the first token's column out of picture and colours, not out of the sums.
    State: layer, head, pos (the token that looks), over (the one pointed at, or None), bos. Raises ValueError for an
    empty text or one of more than 256 tokens, scores of another shape, and a layer, head or token that is not there.
    """

    def __init__(
        self, model: Any, text: str | Sequence[int] | Int[Tensor, "..."], layer: int | None = None,
        head: int | None = None, *, scores: Any = None, scored: str = "score", pos: int | None = None, bos: bool = True,
    ) -> None:  # fmt: skip
        ids = _ids(model, text)
        start = time.perf_counter()
        self.patterns = patterns(model, ids).numpy()
        self.seconds = time.perf_counter() - start
        self.ids = ids[0].tolist()
        self.tokens = pieces(model.tokenizer, self.ids)
        self.sink = model.tokenizer.bos_token_id is not None and self.ids[0] == model.tokenizer.bos_token_id
        self.scores, self.scored = _checked(scores, self.patterns.shape[:2]), scored
        self.best = None if scores is None else divmod(int(np.nanargmax(self.scores)), self.patterns.shape[1])
        first = self.best or (0, 0)
        layer, head = first[0] if layer is None else layer, first[1] if head is None else head
        self._thumbs: dict[bool, list] = {}
        pos = len(self.ids) - 1 if pos is None else pos
        super().__init__(layer=layer, head=head, pos=pos, over=None, bos=bool(bos))

    def check(self) -> None:
        for name, n in zip(("layer", "head", "pos"), self.patterns.shape, strict=False):
            if self._state[name] not in range(n):
                raise ValueError(f"{name}={self._state[name]!r}: there are {n} here, counted from 0")
        if self._state["over"] is not None and self._state["over"] not in range(len(self.ids)):
            raise ValueError(f"over={self._state['over']!r}: there are {len(self.ids)} tokens, counted from 0")

    def compute(self) -> dict[str, Any]:
        state = self._state
        pos = state["pos"] if state["over"] is None else state["over"]
        pattern = self.patterns[state["layer"], state["head"]]
        seen = pattern if state["bos"] or not self.sink else _without_first(pattern)
        n_layers, n_heads = self.patterns.shape[:2]
        return {
            "layer": state["layer"], "head": state["head"], "pinned": state["pos"], "pos": pos, "bos": state["bos"],
            "tokens": self.tokens, "pattern": seen.tolist(), "most": float(seen.max()),
            "weights": pattern[pos].tolist(), "top": self._top(pattern[pos], pos),
            "sink": float(pattern[1:, 0].mean()) if self.sink and len(self.ids) > 1 else None,
            "scores": None if self.scores is None else self.scores.tolist(), "scored": self.scored, "best": self.best,
            "n_layers": n_layers, "n_heads": n_heads, "layers": _window(state["layer"], n_layers, SHOWN // n_heads),
            "thumbs": self._small(state["bos"]), "seconds": self.seconds,
        }  # fmt: skip

    def _top(self, row: Float[np.ndarray, " k"], pos: int) -> list[tuple[int, float, str]]:
        """(token, attention, what it is to the one that looks), the strongest first."""
        order = np.argsort(-row[: pos + 1], kind="stable")[:TOP]
        return [(int(k), float(row[k]), self._kind(int(k), pos)) for k in order]

    def _kind(self, k: int, pos: int) -> str:
        if k == 0 and self.sink:
            return "the beginning"
        if k == pos:
            return "itself"
        if self.ids[k] == self.ids[pos]:
            return "an earlier copy of it"
        if k and self.ids[k - 1] == self.ids[pos]:
            return "after an earlier copy"
        return "the token before" if k == pos - 1 else ""

    def _small(self, bos: bool) -> list:
        """The small pictures; made once."""
        if bos not in self._thumbs:
            every = self.patterns if bos or not self.sink else _without_first(self.patterns)
            self._thumbs[bos] = [[_thumb(pattern) for pattern in layer] for layer in every]
        return self._thumbs[bos]

    def render(self, data: dict[str, Any]) -> str:
        return attention_view(data)

    def act(self, name: str, arg: Any) -> None:
        state = self._state
        if name == "pick":
            layer, head = str(arg).split(".")
            self.set_state(layer=int(layer), head=int(head))
        elif name == "heads":
            down, right = HEADS[str(arg)]
            n_layers, n_heads = self.patterns.shape[:2]
            layer, head = state["layer"] + down, state["head"] + right
            self.set_state(layer=min(max(layer, 0), n_layers - 1), head=min(max(head, 0), n_heads - 1))
        elif name == "pos":
            self.set_state(pos=int(arg), over=None)
        elif name == "over":
            self.set_state(over=int(arg) if arg != "" else None)
        elif name == "at":
            self.set_state(pos=min(int(arg[1]), len(self.ids) - 1), over=None)
        elif name == "move":
            to = {"Home": 0, "End": len(self.ids) - 1}.get(str(arg), state["pos"] + (1 if arg == "ArrowRight" else -1))
            self.set_state(pos=min(max(to, 0), len(self.ids) - 1), over=None)
        else:
            super().act(name, arg)

    def title(self) -> str:
        return f"Attention of head {self._state['layer']}.{self._state['head']}"


def _ids(model: Any, text: Any) -> Int[Tensor, "1 pos"]:
    if isinstance(text, str) and not text:
        raise ValueError("the text is empty: give some words, or token ids")
    ids = to_tokens(model, text if isinstance(text, str) else torch.as_tensor(text))
    if len(ids) != 1:
        raise ValueError(f"token ids of {len(ids)} texts: give those of one")
    if ids.shape[1] > MOST:
        raise ValueError(f"the text is {ids.shape[1]:,} tokens long, and {MOST} can be shown: give a part of it")
    return ids


def _checked(scores: Any, shape: tuple[int, int]) -> Float[np.ndarray, "layer head"] | None:
    if scores is None:
        return None
    table = np.asarray(scores, np.float64)
    if table.shape != tuple(shape):
        raise ValueError(f"scores of shape {table.shape}: give one for each [layer, head], {tuple(shape)}")
    return table


def _without_first(pattern: Float[np.ndarray, "*b q k"]) -> Float[np.ndarray, "*b q k"]:
    rest = pattern.copy()
    rest[..., 0] = 0
    return rest


def _thumb(pattern: Float[np.ndarray, "q k"]) -> tuple[int, list]:
    """(cells along a side, what is drawn); a larger pattern is shrunk, each cell the largest that falls in it."""
    n = len(pattern)
    if n > SIDE:
        edges = np.linspace(0, n, SIDE + 1).astype(int)[:-1]
        pattern = np.maximum.reduceat(np.maximum.reduceat(pattern, edges, 0), edges, 1)
    return len(pattern), runs(pattern.tolist())


def _window(layer: int, n_layers: int, shown: int) -> list[int]:
    """The layers around one that there is room for."""
    shown = max(shown, 1)
    first = min(max(layer - shown // 2, 0), max(n_layers - shown, 0))
    return list(range(first, min(first + shown, n_layers)))
