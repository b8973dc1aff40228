"""The codes of a corpus, a few windows at a time."""

import ctypes
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..coder import CoderStack, SparseCoder
from ..codes import Codes, Support
from ..corpus import Corpus
from ..hooks import capture, check_fit

WINDOWS = 4  # per forward pass
TRIM = 8  # passes after which freed memory is given back


class Seen(NamedTuple):
    """A few windows of a corpus, the first of them number `start`; x and codes have a row for each token of `mask`."""

    start: int
    part: Corpus
    x: Float[Tensor, "rows d_in"]
    codes: Codes


def check(model: Any, coder: SparseCoder | CoderStack, corpus: Corpus) -> None:
    """Raise ValueError unless model, coder and corpus belong together and the coder is finished."""
    corpus.check_model(model)
    check_fit(model, coder.site, coder)
    if coder.tokenizer not in (None, corpus.fingerprint):
        raise ValueError(
            f"the coder was trained on text of tokenizer {coder.tokenizer}, the corpus is of {corpus.fingerprint}; "
            "load the model it was trained on"
        )
    if coder.training:
        raise ValueError("this coder is still in training mode; sk.train returns it finished, coder.eval() makes it so")


@torch.no_grad()
def encoded(model: Any, coder: SparseCoder, corpus: Corpus, *, progress: bool = False) -> Iterator[Seen]:
    """A few windows at a time: what the coder reads there and its codes, on the CPU.

    The forward pass ends at the coder's site. Raises ValueError for activations that are not finite.
    """
    starts = range(0, len(corpus), WINDOWS)
    for start in tqdm(starts, "features", disable=not progress, delay=1, leave=False):
        part = corpus[start : start + WINDOWS]
        seen = capture(model, part.tokens, *coder.site.reads)
        x = _finite(coder.site.inputs(seen)[torch.from_numpy(part.mask)], coder)
        yield Seen(start, part, x.cpu(), _on_cpu(coder.encode(x)))
        if start // WINDOWS % TRIM == TRIM - 1:
            trim()


def trim() -> None:
    """Make glibc give back what was freed. Arrays of ever other sizes leave holes, in which it would keep growing."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:  # another C library
        give_back(0)


def _finite(x: Float[Tensor, "rows d_in"], coder: SparseCoder) -> Float[Tensor, "rows d_in"]:
    x = x.to(coder.W_enc)  # its device and precision
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).any(1).sum())
        raise ValueError(
            f"{bad} of {len(x)} activations at {coder.site.name!r} are NaN or infinite; load the model in float32"
        )
    return x


def _on_cpu(codes: Codes) -> Codes:
    support = Support(codes.offsets.cpu(), codes.latents.cpu(), codes.d_sae)
    return Codes(support, codes.values.float().cpu())
