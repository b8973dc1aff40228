"""Random transcoders for tiny models: per layer, with a skip path, and across layers."""

from itertools import accumulate
from typing import Any

import torch

import saekit as sk
from saekit.hooks import model_record

LATENTS = 40


def bank(model: Any, layer: int, writes: int = 1, *, skip: bool = False, nonlinearity: Any = None) -> sk.SparseCoder:
    """A transcoder of `layer` that writes it and the `writes - 1` after it."""
    d = model.cfg.d_model
    coder = sk.SparseCoder(d, LATENTS, nonlinearity or sk.ReLU(), d_out=writes * d, skip=skip)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
        coder.b_enc.sub_(0.3)
    names = [f"blocks.{layer + i}.hook_mlp_out" for i in range(writes)]
    coder.place(sk.Site(f"blocks.{layer}.mlp.hook_in", names), model_record(model), None)
    return coder.to(next(model.parameters()).dtype).eval().requires_grad_(False)


def per_layer(model: Any, *, skip: bool = False, seed: int = 0) -> sk.CoderStack:
    """One for each layer."""
    torch.manual_seed(seed)
    return stack([bank(model, layer, skip=skip) for layer in range(model.cfg.n_layers)])


def cross_layer(model: Any, seed: int = 0) -> sk.CoderStack:
    """Each writes its own layer and all later ones."""
    torch.manual_seed(seed)
    n = model.cfg.n_layers
    banks = [bank(model, layer, n - layer) for layer in range(n)]
    return sk.CoderStack(banks, [layer * model.cfg.d_model for layer in range(n)]).eval()


def stack(banks: list[sk.SparseCoder]) -> sk.CoderStack:
    """Banks of one layer each, side by side."""
    return sk.CoderStack(banks, [0, *accumulate(bank.d_out for bank in banks[:-1])]).eval()
