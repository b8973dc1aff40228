"""What some latents do on their own: all others held at their means, or theirs set to what another prompt has."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..attribute.nodes import read
from ..attribute.targets import AnyTarget, Custom, Each, Target, on, prompt_tokens
from ..codes import Codes
from ..hooks import capture, not_bos, nudged, splice
from ..steer import Edit
from .places import Places
from .sparse import Prompts, in_order

Keep = Sequence[Bool[Tensor, "_ _ _ _"]]  # for each coder [circuits, prompts, pos, d_sae]; one prompt stands for all


class Mean(NamedTuple):
    """What a coder's latents, and the activations that it reconstructs, are on average over some prompts."""

    codes: Float[Tensor, "pos d_sae"]
    y: Float[Tensor, "pos d"]


@torch.no_grad()
def averages(model: Any, coders: Any, prompts: Prompts, *, aligned: bool = True, batch: int = 64) -> list[Mean]:
    """The mean of each coder over prompts, at each position, or with aligned=False over all positions but BOS."""
    pairs, tokens = in_order(model, coders), prompt_tokens(model, prompts)
    kept, n = not_bos(model, tokens), tokens.shape[1]
    sums = [[0.0, 0.0] for _ in pairs]
    for some, there in zip(tokens.split(batch), kept.split(batch), strict=True):
        seen = capture(model, some, *(site for site, _ in pairs))
        for total, (site, coder) in zip(sums, pairs, strict=True):
            codes, error, y_hat = read(site, coder, seen, there)
            total[0] += codes.dense().view(-1, n, coder.d_sae).sum(0)
            total[1] += ((y_hat + error).view(-1, n, coder.d_out) * there[..., None]).sum(0)
    if aligned:
        return [Mean(*(part / kept.sum(0).clamp_min(1)[:, None] for part in total)) for total in sums]
    return [Mean(*(part.sum(0, keepdim=True).expand(n, -1) / kept.sum() for part in total)) for total in sums]


def masks(model: Any, coders: Any, places: Places, tokens: Tensor, circuits: Sequence[pd.DataFrame]) -> Keep:
    """For each coder, which latents of these prompts are among the nodes of each circuit."""
    place = places.of(model, tokens)
    found = []
    for site, coder in in_order(model, coders):
        table = torch.zeros(len(circuits), len(places.names), coder.d_sae, dtype=torch.bool, device=tokens.device)
        for k, nodes in enumerate(circuits):
            mine = nodes[(nodes["site"] == site.name) & (nodes["kind"] == "latent")]
            where, which = (torch.tensor(mine[name].to_numpy()) for name in ("place", "latent"))
            table[k, where, which] = True
        found.append(table[:, place])
    return found


@torch.no_grad()
def only(
    model: Any,
    coders: Any,
    tokens: Prompts,
    target: AnyTarget,
    keep: Keep,
    means: Sequence[Mean],
    *,
    errors: bool = True,
) -> Float[Tensor, "circuits prompts"]:
    """The target when every latent that is not kept is held at its mean, at every position but BOS.

    Each site is read in this very run and goes on with `f[keep] W_dec + mean[not keep] W_dec + b_dec + e`. The error e
    is that of this run, so with all latents kept it is the model; or with errors=False its mean, so with no latent
    kept a site is its mean, and nothing of a prompt passes.
    """
    pairs, target, tokens = in_order(model, coders), on(model, target), prompt_tokens(model, tokens)
    k, n = len(keep[0]), len(tokens)
    there, changes = not_bos(model, tokens)[..., None], {}
    for (site, coder), mask, mean in zip(pairs, keep, means, strict=True):
        left, without = (mean.codes * ~mask) @ coder.W_dec, mean.y - coder.b_dec
        change = left if errors else without - (mean.codes * mask) @ coder.W_dec
        changes[site.writes[0]] = (there * change).expand(k, n, -1, -1).flatten(0, 1)
    edits = [partial(_kept, mask=mask, prompts=n) for mask in keep]
    with splice(model, dict(pairs), edit=edits, keep_error=errors), nudged(model, changes):
        return values_of(model, tokens.repeat(k, 1), target, torch.arange(n).repeat(k)).view(k, n)


def _kept(codes: Codes, mask: Bool[Tensor, "_ _ _ _"], prompts: int) -> Codes:
    rows, pos = codes.rows // mask.shape[2], codes.rows % mask.shape[2]
    prompt = rows % prompts if mask.shape[1] > 1 else 0 * rows
    return codes.where(mask[rows // prompts, prompt, pos, codes.latents])


def values_of(model: Any, tokens: Tensor, target: Target | Custom | Each, prompts: Tensor) -> Float[Tensor, " n"]:
    """The target of each row of tokens; `prompts` are the numbers of the prompts whose targets they have."""
    target = target.take(prompts) if isinstance(target, Each) else target
    return target(capture(model, tokens, target.read)[target.read])


@torch.no_grad()
def swapped(
    model: Any,
    coders: Any,
    nodes: pd.DataFrame,
    places: Places,
    prompts: Prompts,
    patch: Prompts,
    target: AnyTarget,
) -> pd.DataFrame:
    """A causal swap: these nodes take the values they have in the patch prompts, all else is computed as ever.

    One row a prompt: before (the target as it is), after (the swap), patch (the target of the patch prompt itself),
    flipped (whether before and after differ in sign). Errors stay as this run makes them. nodes: rows of a circuit's
    `nodes`, of which the latents count; places: the circuit's. Raises ValueError for a patch of another length.
    """
    pairs, target = in_order(model, coders), on(model, target)
    tokens, other = prompt_tokens(model, prompts, target), prompt_tokens(model, patch, target)
    if tokens.shape != other.shape:
        raise ValueError(f"the patch has shape {(*other.shape,)}, the prompts {(*tokens.shape,)}; give the same")
    every, edits = torch.arange(len(tokens)), swaps(model, coders, nodes, places, other)
    with splice(model, dict(pairs), edit=edits):
        after = values_of(model, tokens, target, every)
    found = {"before": values_of(model, tokens, target, every), "after": after,
             "patch": values_of(model, other, target, every)}  # fmt: skip
    table = pd.DataFrame({name: m.double().numpy(force=True) for name, m in found.items()})
    return table.assign(flipped=table["before"] * table["after"] < 0)


@torch.no_grad()
def swaps(model: Any, coders: Any, nodes: pd.DataFrame, places: Places, patch: Prompts) -> list[Edit]:
    """For each coder the edit that gives these latents the values they have in the patch prompts.

    For `sk.splice(model, coders, edit=...)` and as many prompts, of the same form.
    """
    pairs, tokens = in_order(model, coders), prompt_tokens(model, patch)
    seen, edits = capture(model, tokens, *(site for site, _ in pairs)), []
    for (site, coder), mask in zip(pairs, masks(model, coders, places, tokens, [nodes]), strict=True):
        theirs = _kept(read(site, coder, seen, not_bos(model, tokens))[0], mask, len(tokens))
        edits.append(partial(_swap, theirs=theirs, mask=~mask, prompts=len(tokens)))
    return edits


def _swap(codes: Codes, theirs: Codes, mask: Tensor, prompts: int) -> Codes:
    own = _kept(codes, mask, prompts)
    rows, latents = torch.cat([own.rows, theirs.rows]), torch.cat([own.latents, theirs.latents])
    values = torch.cat([own.values, theirs.values])
    return Codes.from_entries(rows, latents, values, codes.n_rows, codes.d_sae)
