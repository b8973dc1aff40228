"""One text read by the model and the coder: what the widgets for a text share."""

import time
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..coder import SparseCoder
from ..codes import Codes
from ..corpus import Text, pieces, python_spans
from ..corpus.windows import Windows
from ..hooks import capture, check_fit
from ..viz.notes import button


class Advice(ValueError):
    """Bad input with a way out: `actions` is HTML of buttons for the page."""

    def __init__(self, message: str, actions: str = "") -> None:
        super().__init__(message)
        self.actions = actions


class Reading(NamedTuple):
    """A text as tokens, without BOS: its codes, true labels, and what the model expects after each token."""

    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    codes: Codes  # rows are tokens
    pre: Float[Tensor, "tokens d_sae"]
    labels: dict[str, Bool[np.ndarray, " tokens"]]  # empty when the text is not Python
    expects: list[list[tuple[str, float]]]  # per token, the three likeliest next tokens
    error: Float[np.ndarray, " tokens"]  # what the coder leaves out, see `error_share`
    seconds: float  # what it took

    def values(self, latent: int) -> Float[np.ndarray, " tokens"]:
        """One latent's activation at each token."""
        out = np.zeros(len(self.tokens), np.float32)
        chosen = self.codes.latents == latent
        out[self.codes.rows[chosen].numpy()] = self.codes.values[chosen].numpy()
        return out

    def strongest(self, token: int, n: int = 5) -> list[tuple[int, float]]:
        """(latent, activation) of the strongest latents at a token."""
        span = slice(int(self.codes.offsets[token]), int(self.codes.offsets[token + 1]))
        values, order = self.codes.values[span].sort(descending=True)
        return list(zip(self.codes.latents[span][order][:n].tolist(), values[:n].tolist(), strict=True))


@lru_cache(maxsize=8)
@torch.no_grad()
def read(model: Any, coder: SparseCoder, text: str) -> Reading:
    """Run the model once over a text. Raises ValueError for an empty text, or one longer than the context."""
    started = time.perf_counter()
    check_fit(model, coder.site, coder)
    if not text:
        raise Advice("The text is empty: type a line of Python, or any words")
    lead = first_token(model)
    room = model.cfg.n_ctx - len(lead)
    windows = Windows(model.tokenizer, room)
    windows.add([Text(text, "text", _spans(text))])
    if (n := sum(map(len, windows.ids))) > room:
        raise Advice(
            f"The text is {n:,} tokens long; the model reads {room:,}. Shorten it, or use its end",
            button(f"Use the last {room}", "last"),
        )
    chosen, bits = windows.ids[0].tolist(), windows.bits[0]
    ids = torch.tensor([[*lead, *chosen]])
    seen = capture(model, ids, *dict.fromkeys(coder.site.reads + coder.site.writes))
    x, y = (end(seen)[0, len(lead) :] for end in (coder.site.inputs, coder.site.targets))
    encoding = coder.encoding(x)
    codes = encoding.codes.on()
    top = model(ids)[0, len(lead) :].softmax(-1).topk(3)
    labels = {name: (bits >> place & 1).astype(bool) for name, place in windows.bit_of.items() if name != "mixed"}
    words = pieces(model.tokenizer, top.indices.flatten().tolist())
    likely = list(zip(words, top.values.flatten().tolist(), strict=True))
    expects = [likely[i : i + 3] for i in range(0, len(likely), 3)]
    tokens, error = tuple(pieces(model.tokenizer, chosen)), error_share(coder, x, y, codes).numpy()
    seconds = time.perf_counter() - started
    return Reading(tokens, tuple(chosen), codes, encoding.pre, labels, expects, error, seconds)


@torch.no_grad()
def error_share(
    coder: SparseCoder, x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"], codes: Codes
) -> Float[Tensor, " tokens"]:
    """`|y - y_hat|^2 / |y - b|^2` at each token, where b is all that y_hat has without latents: bias and skip.

    0 where the latents rebuild y whole, 1 where they add nothing; more where they make it worse.
    """
    y_hat = coder.decode(codes, x)
    without = y_hat - coder.written(codes)
    return (y - y_hat).square().sum(1) / (y - without).square().sum(1).clamp(min=1e-12)


def first_token(model: Any) -> list[int]:
    """What every text begins with: BOS, or EOS where the tokenizer has no BOS; nothing where it has neither."""
    tokenizer = model.tokenizer
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [] if first is None else [first]


def _spans(text: str) -> dict | None:
    """True labels, where the text is Python."""
    try:
        return python_spans(text)
    except SyntaxError:
        return None


def end_of(model: Any, text: str) -> str:
    """The last part of a text that the model has room for."""
    offsets = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    start = offsets[max(0, len(offsets) - model.cfg.n_ctx + len(first_token(model)))][0]
    return text[start:]


def below_threshold(coder: SparseCoder, reading: Reading, latent: int) -> tuple[int, float] | None:
    """(token, distance) where a silent latent comes closest to being on; None where there is no threshold."""
    threshold = getattr(coder.nonlinearity, "threshold", None)
    if getattr(coder.nonlinearity, "along", None) == "token" or not len(reading.tokens):
        return None
    floor = 0.0 if threshold is None else float(threshold if threshold.ndim == 0 else threshold[latent])
    at = int(reading.pre[:, latent].argmax())
    return at, floor - float(reading.pre[at, latent])
