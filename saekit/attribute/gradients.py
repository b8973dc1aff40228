"""Attribution by gradients: of one pass, or averaged along the way to the baseline."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..hooks import at_sites, capture, check_fit, fires_after, not_bos, nudged
from .nodes import PER, Mean, Nodes, means, nodes_of, tidy
from .targets import AnyTarget, Custom, Each, Target, on, prompt_tokens

EMBEDDED = "embed.hook_out"
ORDERS = (5, 8, 16)
TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Setting:
    """What every attribution starts from, checked: the prompts, the target, the nodes, and dm/dx at the sites."""

    model: Any
    tokens: Int[Tensor, "batch pos"]
    target: Target | Custom | Each
    nodes: list[Nodes]
    gradients: list[Float[Tensor, "rows d"]]
    values: Float[Tensor, " batch"]  # of the target

    def measure(
        self, prompts: Int[Tensor, " n"], nodes: Nodes, change: Float[Tensor, "n pos d"]
    ) -> Float[Tensor, " n"]:
        """The target of these prompts, by number, with activations at the site of these nodes changed."""
        target = self.target.take(prompts) if isinstance(self.target, Each) else self.target
        changes = dict(zip(nodes.site.writes, change.split(nodes.widths, dim=-1), strict=True))
        with nudged(self.model, changes):
            return target(
                capture(self.model, self.tokens[prompts], target.read, grad=change.requires_grad)[target.read]
            )

    def tidy(self, tables: list[pd.DataFrame], per: str, **attrs: Any) -> pd.DataFrame:
        """The tables of the nodes, in order, as one."""
        named = [table.assign(site=nodes.site.name) for table, nodes in zip(tables, self.nodes, strict=True)]
        return tidy(
            named, self.model, self.tokens, per, target=self.target.label, value=self.values.mean().item(), **attrs
        )


def setting(
    model: Any, coders: Any, prompt: Any, target: AnyTarget, patch: Any, mean: Mean | Sequence[Mean] | None, per: str
) -> Setting:
    """Everything is checked before the first pass. One forward pass and one backward pass."""
    target, tokens = on(model, target), prompt_tokens(model, prompt, target)
    pairs = at_sites(coders)
    for site, coder in pairs:
        check_fit(model, site, coder)
        if late := [name for name in site.writes if fires_after(model, name, target.read)]:
            raise ValueError(
                f"the target is read at {target.read!r}, before {late[0]!r}: what is there cannot change it"
            )
    if not pairs or per not in PER:
        raise ValueError(f"{len(pairs)} coders, per={per!r}: give at least one coder, and per from {PER}")
    baselines, other = means(mean, pairs), None
    if patch is not None:
        other = prompt_tokens(model, patch, target)
        if mean is not None or other.shape != tokens.shape:
            raise ValueError(
                f"the patch has shape {(*other.shape,)}, the prompt {(*tokens.shape,)}; give the same, and no mean"
            )
    sites, kept = [site for site, _ in pairs], not_bos(model, tokens)
    with model.hooks([(EMBEDDED, lambda x, hook: x.detach().requires_grad_())]):
        seen = capture(model, tokens, *sites, target.read, grad=True)
    m = target(seen[target.read])
    if not m.isfinite().all():
        raise ValueError(f"the target is {m.tolist()} on this prompt; only a finite number can be attributed")
    patched = None if other is None else capture(model, other, *sites)
    nodes = [nodes_of(*pair, seen, kept, patched, f) for pair, f in zip(pairs, baselines, strict=True)]
    if not sum(len(part.codes.latents) for part in nodes):
        raise ValueError(
            f"no latent of these coders is on in this prompt of {tokens.shape[1]} tokens: nothing to attribute to"
        )
    names = [name for site in sites for name in site.writes]
    found = torch.autograd.grad(m.sum(), [seen[name] for name in names], allow_unused=True)
    per_hook = {name: torch.zeros_like(seen[name]) if g is None else g for name, g in zip(names, found, strict=True)}
    gradients = [site.targets(per_hook).flatten(0, 1).to(coder.W_dec.dtype) for site, coder in pairs]
    return Setting(model, tokens, target, nodes, gradients, m.detach())


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
    it by which the effects miss it). Warns when that is above 2 % with 16 points. Raises ValueError as `attribute`.
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
        residual = missed / max(np.abs(change).sum(), 1e-9)
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
