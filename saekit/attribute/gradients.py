"""Attribution by gradients: of one pass, or averaged along the way to the baseline."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .nodes import Mean, Nodes
from .setting import Setting, setting
from .targets import AnyTarget

ORDERS = (5, 8, 16)
TOLERANCE = 0.02


def attribute(
    model: Any,
    coders: Any,
    prompt: str | Int[Tensor, "batch pos"] | Int[Tensor, " pos"],
    target: AnyTarget,
    *,
    patch: str | Int[Tensor, "_ _"] | Int[Tensor, " _"] | None = None,
    mean: Mean | Sequence[Mean] | None = None,
    per: str = "position",
) -> pd.DataFrame:
    """What would happen to the target if a latent, or the error, went to its baseline, to first order.

    `effect = (f' - f) df, df = dm/dx W_dec[i]`: attribution patching (Syed et al. 2023, arXiv 2310.10348) with the
    error as a node (Marks et al. 2024, arXiv 2403.19647). All coders in one forward and one backward pass; the
    gradient is the model's own, so that coders do not disturb one another. Nothing is frozen. A latent that the target
    rests on has a negative effect.

    f' is 0; with `patch`, a prompt of the same length, what it is there, also for latents that are on only there; with
    `mean`, a vector [d_sae] or [pos, d_sae] or `Features` for each coder, that mean, and the error goes to 0.
    One row a node: site, pos, token, kind (latent, error, off), latent (-1 for others), activation, gradient, effect;
    strongest first. error: of one position; its activation is |e|, its gradient that along e. off: with a mean, all
    latents that are off, together. BOS has no nodes: no coder is trained there. Of several prompts, also `prompt`.
    per="latent": effects and activations summed over positions and averaged over prompts.
    `attrs`: target, value (m as it is).

    Raises ValueError for a prompt of fewer than two tokens or longer than the context, a target of several tokens or
    read before a site, a coder that does not fit, a patch of another length, and when no latent is on.
    """
    start = setting(model, coders, prompt, target, patch, mean, per)
    return start.tidy([n.table(g) for n, g in zip(start.nodes, start.gradients, strict=True)], per)


def integrated_gradients(
    model: Any,
    coders: Any,
    prompt: str | Int[Tensor, "batch pos"] | Int[Tensor, " pos"],
    target: AnyTarget,
    *,
    patch: str | Int[Tensor, "_ _"] | Int[Tensor, " _"] | None = None,
    mean: Mean | Sequence[Mean] | None = None,
    per: str = "position",
) -> pd.DataFrame:
    """As `attribute`, with the gradient averaged along the straight way of a site's nodes to their baselines.

    `effect = (f' - f) int_0^1 df(f + a (f' - f)) da` (Sundararajan et al. 2017, arXiv 1703.01365), the error moving
    along, one site at a time, all a in one batch. By Gauss and Legendre with 5 points, then 8, then 16 while the
    effects of a site miss the change of the target by more than 2 %.

    `attrs["sites"]`: for each site its order, change (of the target, by running the model) and residual (the share of
    the change by which the effects miss it; a change below a thousandth of the target counts as that much). Warns when
    the residual is above 2 % with 16 points. Raises ValueError as `attribute`.
    """
    start = setting(model, coders, prompt, target, patch, mean, per)
    gradients, sites = zip(*(integrate(start, nodes) for nodes in start.nodes), strict=True)
    for site, found in zip(start.nodes, sites, strict=True):
        warn_of(site.site.name, found, stacklevel=3)
    names = [nodes.site.name for nodes in start.nodes]
    tables = [nodes.table(gradient) for nodes, gradient in zip(start.nodes, gradients, strict=True)]
    return start.tidy(tables, per, sites=dict(zip(names, sites, strict=True)))


def warn_of(site: str, found: dict[str, Any], stacklevel: int = 2) -> None:
    """Warn when integrated gradients miss the change of the target."""
    if found["residual"] > TOLERANCE:
        warnings.warn(
            f"the effects at {site!r} miss the change of the target by {found['residual']:.1%} with "
            f"{found['order']} points; sk.ablations is exact",
            stacklevel=stacklevel,
        )


def integrate(start: Setting, nodes: Nodes) -> tuple[Float[Tensor, "rows d"], dict[str, float]]:
    """(dm/dx averaged over the way of these nodes to their baselines, the order used and what it misses)."""
    for order in ORDERS:
        gradient, change = _averaged(start, nodes, order)
        table = nodes.table(gradient)
        sums = table.groupby(table["row"] // start.tokens.shape[1])["effect"].sum()
        missed = np.abs(sums.reindex(range(len(change)), fill_value=0.0).to_numpy() - change).sum()
        residual = missed / max(np.abs(change).sum(), 1e-3 * start.values.abs().sum().item(), 1e-6)
        if residual <= TOLERANCE:
            break
    return gradient, {"order": order, "change": float(change.mean()), "residual": float(residual)}


def _averaged(start: Setting, nodes: Nodes, order: int) -> tuple[Float[Tensor, "rows d"], Float[np.ndarray, " batch"]]:
    """(dm/dx averaged over the way, the change of m at its end), of each prompt."""
    batch, pos = start.tokens.shape
    points, weights = np.polynomial.legendre.leggauss(order)
    total = nodes.total().view(batch, pos, -1)
    along = total.new_tensor([0.0, *(points + 1) / 2, 1.0])
    steps = (along.view(-1, 1, 1, 1) * total).flatten(0, 1).requires_grad_()
    prompts = torch.arange(batch, device=steps.device).repeat(len(along))
    m = start.measure(prompts, nodes, steps).view(-1, batch)
    (gradient,) = torch.autograd.grad((m[1:-1] * m.new_tensor(weights / 2)[:, None]).sum(), steps)
    change = (m[-1] - m[0]).detach().double().numpy(force=True)
    return gradient.view(len(along), batch * pos, -1).sum(0), change
