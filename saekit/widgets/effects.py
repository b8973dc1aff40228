"""What the latents on a text do to the prediction after it: by gradient, and by taking them away."""

import time
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..attribute import Target, ablations, logit, logit_diff
from ..attribute.gradients import setting
from ..coder import SparseCoder
from ..codes import Codes, dot
from ..corpus import pieces
from ..hooks import capture
from .reading import first_token, read


class Effects(NamedTuple):
    """A target as the sum of what each latent, the error and the bias give it, to first order, but at BOS.

    `sum over tokens of <dm/dx, x> = sum of latents + error + bias`, with dm/dx the model's own gradient.
    """

    value: float  # the target, m
    gradient: Float[Tensor, "tokens d"]
    codes: Codes  # activation times gradient, in the place of activations
    error: float
    bias: float
    seconds: float

    @property
    def total(self) -> float:
        """`<dm/dx, x>` over all tokens."""
        return float(self.codes.values.double().sum()) + self.error + self.bias


@lru_cache(maxsize=8)
def choices(model: Any, coder: SparseCoder, text: str) -> tuple[Target, ...]:
    """Targets that a text suggests: its likeliest next token against the next likeliest, and each alone."""
    ids = _ids(model, coder, text)
    with torch.no_grad():
        first, second = model(ids)[0, -1].topk(2).indices.tolist()
    words = [repr(piece) for piece in pieces(model.tokenizer, [first, second])]
    labelled = [
        (logit_diff(first, second), " - ".join(words)),
        *((logit(t), w) for t, w in zip((first, second), words, strict=True)),
    ]
    return tuple(Target(target.weights, label) for target, label in labelled)


@lru_cache(maxsize=8)
def effects(model: Any, coder: SparseCoder, text: str, target: Target) -> Effects:
    """One forward and one backward pass. Raises ValueError where no latent is on."""
    started, lead = time.perf_counter(), len(first_token(model))
    ids, codes = _ids(model, coder, text), read(model, coder, text).codes
    start = setting(model, coder, ids, target, None, None, "position")
    gradient = start.gradients[0][lead:].contiguous()
    with torch.no_grad():
        seen = capture(model, ids, coder.site)
        x, y = (end(seen)[0, lead:] for end in (coder.site.inputs, coder.site.targets))
        y_hat, written = coder.decode(codes, x), coder.written(codes)
        values = codes.values * dot(gradient, coder.dictionary(), codes.support)
        error, bias = ((gradient * part).double().sum().item() for part in (y - y_hat, y_hat - written))
    return Effects(
        float(start.values[0]), gradient, codes.with_values(values), error, bias, time.perf_counter() - started
    )


@lru_cache(maxsize=8)
def without(model: Any, coder: SparseCoder, text: str, target: Target, latents: tuple[int, ...]) -> Codes:
    """The target less the target without a latent at a token, in the place of activations; of these latents only."""
    lead, codes = len(first_token(model)), read(model, coder, text).codes
    codes = codes.where(torch.isin(codes.latents, torch.tensor(latents, dtype=torch.long)))
    if not len(codes.values):
        return codes
    wanted = pd.DataFrame(
        {"site": coder.site.name, "pos": codes.rows.numpy() + lead, "kind": "latent", "latent": codes.latents.numpy()}
    )
    found = ablations(model, coder, _ids(model, coder, text), target, nodes=wanted)
    effect = found.set_index(["pos", "latent"])["effect"]
    order = pd.MultiIndex.from_arrays([wanted["pos"], wanted["latent"]])
    return codes.with_values(-torch.from_numpy(effect.loc[order].to_numpy(np.float32)))


def _ids(model: Any, coder: SparseCoder, text: str) -> Tensor:
    return torch.tensor([[*first_token(model), *read(model, coder, text).ids]])
