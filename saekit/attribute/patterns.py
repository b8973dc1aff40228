"""Where every head looks."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..hooks import to_tokens


@torch.no_grad()
def patterns(
    model: Any, prompt: str | Int[Tensor, "n pos"] | Int[Tensor, " pos"]
) -> Float[Tensor, "layer head query key"]:
    """Attention patterns, the mean over prompts of equal length: A[q, k] is the share that q gives to k <= q.

    Each row sums to 1. Raises ValueError for an empty prompt and one past the context.
    """
    tokens = to_tokens(model, prompt)
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("attn.hook_pattern"))
    return torch.stack([cache["pattern", layer].mean(0) for layer in range(model.cfg.n_layers)]).float().cpu()
