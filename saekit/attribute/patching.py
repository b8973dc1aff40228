"""Activation patching: where in the model is what tells one prompt from another?"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..hooks import capture, rerun, to_tokens
from .targets import Target, on

BATCH = 64  # positions that are patched in one pass


@torch.no_grad()
def patching(
    model: Any,
    clean: str | Int[Tensor, "..."],
    corrupt: str | Int[Tensor, "..."],
    target: Target | Callable[[Float[Tensor, "batch pos vocab"]], Float[Tensor, " batch"]],
    site: str = "hook_resid_pre",
) -> Float[Tensor, "layer pos"]:
    """The target on `corrupt` with one activation of `clean` in its place: y[l, p] = m(corrupt | x_lp := x_lp(clean)).

    target: as in `attribute`, or a function of the logits; site: a hook of every block. Where y[l, p] is near m(clean),
    what tells the prompts apart is at (l, p); where it is near m(corrupt), it is not. Raises ValueError for prompts of
    different length or that are the same, and an unknown hook.
    Vig et al. 2020, arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262.
    """
    target = on(model, target)
    ids, other = (_row(model, prompt) for prompt in (clean, corrupt))
    if ids.shape != other.shape:
        raise ValueError(
            f"the clean prompt has {ids.shape[1]} tokens and the corrupt one {other.shape[1]}, not equally many"
        )
    if torch.equal(ids, other):
        raise ValueError("the clean and the corrupt prompt are the same: change a token of one of them")
    names = [f"blocks.{layer}.{site}" for layer in range(model.cfg.n_layers)]
    seen = capture(model, ids, *names)
    return torch.stack([_layer(model, other, name, seen[name], target) for name in names])


def _layer(
    model: Any, ids: Int[Tensor, "1 pos"], name: str, x: Float[Tensor, "1 pos d"], target: Any
) -> Float[Tensor, " pos"]:
    """Row p of a batch has x at position p."""
    found = []
    for places in torch.arange(ids.shape[1]).split(BATCH):
        n = len(places)
        here = torch.arange(ids.shape[1]) == places[:, None]
        put = {name: x.expand(n, -1, -1)}
        _, seen = rerun(model, ids.expand(n, -1), put, here.to(ids.device), [target.read])
        found.append(target(seen[target.read]))
    return torch.cat(found)


def _row(model: Any, prompt: Any) -> Int[Tensor, "1 pos"]:
    ids = to_tokens(model, prompt)
    if len(ids) != 1:
        raise ValueError(f"{len(ids)} prompts: patching takes one clean and one corrupt prompt")
    return ids
