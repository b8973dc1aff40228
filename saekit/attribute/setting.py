"""`Setting`: what every attribution to latents starts from, checked before the first pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..corpus import pieces
from ..hooks import Site, at_sites, capture, check_fit, fires_after, not_bos, nudged
from .nodes import Mean, Nodes, means, nodes_of
from .targets import AnyTarget, Custom, Each, Target, on, prompt_tokens

EMBEDDED = "embed.hook_out"
PER = ("position", "latent")


@dataclass(frozen=True, eq=False)
class Setting:
    """The prompts, the target with its values, the nodes of each coder, and dm/dy where each writes."""

    model: Any
    tokens: Int[Tensor, "batch pos"]
    target: Target | Custom | Each
    values: Float[Tensor, " batch"]
    nodes: list[Nodes]
    gradients: list[Float[Tensor, "rows d"]]

    def measure(
        self, prompts: Int[Tensor, " n"], nodes: Nodes, change: Float[Tensor, "n pos d"]
    ) -> Float[Tensor, " n"]:
        """The target of these prompts, by number, with the activations at the site of these nodes changed."""
        target = self.target.take(prompts) if isinstance(self.target, Each) else self.target
        changes, read = change.split(nodes.widths, dim=-1), target.read
        with nudged(self.model, dict(zip(nodes.site.writes, changes, strict=True))):
            return target(capture(self.model, self.tokens[prompts], read, grad=change.requires_grad)[read])

    def tidy(self, tables: list[pd.DataFrame], per: str, **attrs: Any) -> pd.DataFrame:
        """The tables of the nodes as one, by position or summed over it, strongest first."""
        named = [table.assign(site=nodes.site.name) for table, nodes in zip(tables, self.nodes, strict=True)]
        table = pd.concat(named, ignore_index=True)
        table = self._summed(table) if per == "latent" else self._located(table)
        table = table.sort_values("effect", key=np.abs, ascending=False, kind="stable", ignore_index=True)
        table.attrs = {"target": self.target.label, "value": self.values.mean().item(), **attrs}
        return table

    def _summed(self, table: pd.DataFrame) -> pd.DataFrame:
        """Sums over positions, means over prompts."""
        sums = table.groupby(["site", "kind", "latent"], sort=False)[["activation", "effect"]].sum()
        return (sums / len(self.tokens)).reset_index()

    def _located(self, table: pd.DataFrame) -> pd.DataFrame:
        """With the place of each row; its prompt only when there are several."""
        pos = self.tokens.shape[1]
        words = np.array(pieces(self.model.tokenizer, self.tokens.flatten().tolist()), dtype=object)
        places = {"prompt": table["row"] // pos} if len(self.tokens) > 1 else {}
        places |= {"pos": table["row"] % pos, "token": words[table["row"]]}
        return table.assign(**places)[["site", *places, "kind", "latent", "activation", "gradient", "effect"]]


def setting(
    model: Any, coders: Any, prompt: Any, target: AnyTarget, patch: Any, mean: Mean | Sequence[Mean] | None, per: str
) -> Setting:
    """One forward pass, another for the patch, and one backward pass. Raises ValueError as `attribute` says."""
    target = on(model, target)
    tokens, pairs = prompt_tokens(model, prompt, target), _placed(model, coders, target.read)
    if per not in PER:
        raise ValueError(f"per={per!r}; give one of {PER}")
    baselines = means(mean, pairs, tokens.shape[1])
    other = None if patch is None else _patch(model, patch, tokens, mean)
    sites, kept = [site for site, _ in pairs], not_bos(model, tokens)
    with model.hooks([(EMBEDDED, lambda x, hook: x.detach().requires_grad_())]):
        seen = capture(model, tokens, *sites, target.read, grad=True)
    values = target(seen[target.read])
    if not values.isfinite().all():
        raise ValueError(f"the target is {values.tolist()} on this prompt; only a finite number can be attributed")
    patched = None if other is None else capture(model, other, *sites)
    nodes = [nodes_of(*pair, seen, kept, patched, f) for pair, f in zip(pairs, baselines, strict=True)]
    if not sum(len(part.codes.latents) for part in nodes):
        raise ValueError(f"no latent of these coders is on in this prompt of {tokens.shape[1]} tokens; give another")
    return Setting(model, tokens, target, values.detach(), nodes, _gradients(values, seen, pairs))


def _placed(model: Any, coders: Any, read: str) -> list[tuple[Site, Any]]:
    """(site, coder), each of which fits this model and writes before the target is read."""
    pairs = at_sites(coders)
    for site, coder in pairs:
        check_fit(model, site, coder)
        if late := [name for name in site.writes if fires_after(model, name, read)]:
            raise ValueError(f"the target is read at {read!r}, before {late[0]!r}: what is there cannot change it")
    names = [site.name for site, _ in pairs]
    if not names or len({*names}) < len(names):
        raise ValueError(f"coders at {names}; give at least one, and one for each site")
    return pairs


def _patch(model: Any, patch: Any, tokens: Int[Tensor, "batch pos"], mean: Any) -> Int[Tensor, "batch pos"]:
    other = prompt_tokens(model, patch)
    if mean is not None or other.shape != tokens.shape:
        shapes = f"the patch has shape {(*other.shape,)}, the prompt {(*tokens.shape,)}"
        raise ValueError(f"{shapes}; give them the same, and either a patch or a mean")
    return other


def _gradients(values: Float[Tensor, " batch"], seen: dict, pairs: list[tuple[Site, Any]]) -> list[Tensor]:
    names = [name for site, _ in pairs for name in site.writes]
    found = torch.autograd.grad(values.sum(), [seen[name] for name in names], allow_unused=True)
    at = {name: torch.zeros_like(seen[name]) if g is None else g for name, g in zip(names, found, strict=True)}
    return [site.targets(at).flatten(0, 1).to(coder.W_dec.dtype) for site, coder in pairs]
