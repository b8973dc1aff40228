"""Edits: functions from codes to codes, for `splice(model, coder, edit=...)`. g = edit(f); the model goes on with
x + (g - f) W_dec, so an edit that changes nothing leaves the model bit-identical. Every edit raises ValueError when it
meets codes without its latent."""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from jaxtyping import Int
from torch import Tensor

from .codes import Codes

Edit = Callable[[Codes], Codes]
Latents = int | Sequence[int] | Int[Tensor, " n"]


def add(latent: Latents, value: float) -> Edit:
    """g_i = f_i + value, in every row, also where latent i is off. Steering by a decoder row: x + value W_dec[i]."""

    def edit(codes: Codes) -> Codes:
        return _with(codes, _checked(latent, codes), value)

    return edit


def scale(latent: Latents, factor: float) -> Edit:
    """g_i = factor f_i: changes nothing where latent i is off."""

    def edit(codes: Codes) -> Codes:
        chosen = torch.isin(codes.latents, _checked(latent, codes))
        return codes.with_values(torch.where(chosen, codes.values * factor, codes.values))

    return edit


def clamp(latent: Latents, value: float) -> Edit:
    """g_i = value, in every row, also where latent i is off (Templeton et al. 2024, Scaling Monosemanticity)."""

    def edit(codes: Codes) -> Codes:
        latents = _checked(latent, codes)
        return _with(_without(codes, latents), latents, value)

    return edit


def ablate(*latents: Latents) -> Edit:
    """g_i = 0."""

    def edit(codes: Codes) -> Codes:
        return reduce(_without, (_checked(latent, codes) for latent in latents), codes)

    return edit


def then(*edits: Edit) -> Edit:
    """One edit after the other, the first one first."""
    return lambda codes: reduce(lambda edited, edit: edit(edited), edits, codes)


def _checked(latent: Latents, codes: Codes) -> Int[Tensor, " n"]:
    latents = torch.as_tensor(latent, device=codes.latents.device).flatten()
    if bad := [i for i in latents.tolist() if i not in range(codes.d_sae)]:
        raise ValueError(f"latent {bad[0]} is not in [0, {codes.d_sae}), the latents of these codes")
    return latents.long().unique()


def _without(codes: Codes, latents: Tensor) -> Codes:
    return codes.where(~torch.isin(codes.latents, latents))


def _with(codes: Codes, latents: Tensor, value: float) -> Codes:
    """`value` added to these latents in every row."""
    every = torch.arange(codes.n_rows, device=latents.device)
    rows = torch.cat([codes.rows, every.repeat_interleave(len(latents))])
    values = torch.cat([codes.values, codes.values.new_full((codes.n_rows * len(latents),), value)])
    return Codes.from_entries(
        rows, torch.cat([codes.latents, latents.repeat(codes.n_rows)]), values, codes.n_rows, codes.d_sae
    )
