"""Exact effects, by running the model once for each node, many nodes at a time."""

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


def ablations(
    model: Any,
    coders: Any,
    prompt: str | Int[Tensor, "batch pos"] | Int[Tensor, " pos"],
    target: AnyTarget,
    *,
    patch: str | Int[Tensor, "_ _"] | Int[Tensor, " _"] | None = None,
    mean: Mean | Sequence[Mean] | None = None,
    per: str = "position",
    nodes: pd.DataFrame | None = None,
    batch: int = 32,
) -> pd.DataFrame:
    """As `attribute`, with the true effect of each node: the target with it at its baseline, less the target.

    A node is changed by adding `(f' - f) W_dec[i]` to x at its position, so nothing is encoded or decoded again and
    the error stays; `batch` nodes in one forward pass. per="latent": a latent at all positions of a prompt at once.
    nodes: rows of a table that `attribute` or `integrated_gradients` gave for the same prompt, to ablate those only.
    The gradient is that of `attribute`. Raises ValueError as `attribute`, for batch < 1, and when no node is left.
    """
    if batch < 1:
        raise ValueError(f"batch={batch}: give at least one node for each forward pass")
    start = setting(model, coders, prompt, target, patch, mean, per)
    pairs = zip(start.nodes, start.gradients, strict=True)
    tables = [_chosen(start, part, part.table(gradient), nodes) for part, gradient in pairs]
    if not sum(len(table) for table in tables):
        raise ValueError("none of the nodes given is a node of these coders on this prompt")
    changed = [_ablated(start, *pair, per, batch) for pair in zip(start.nodes, tables, strict=True)]
    return start.tidy(changed, per)


def _chosen(start: Setting, part: Nodes, table: pd.DataFrame, nodes: pd.DataFrame | None) -> pd.DataFrame:
    """The rows of the table that `nodes` names; all if it is None. The index still numbers the nodes."""
    if nodes is None:
        return table
    pos, here = start.tokens.shape[1], nodes[nodes["site"] == part.site.name]
    keys = [key for key in ("prompt", "pos", "kind", "latent") if key in nodes]
    named = table.assign(prompt=table["row"] // pos, pos=table["row"] % pos)
    return table[pd.MultiIndex.from_frame(named[keys]).isin(pd.MultiIndex.from_frame(here[keys]))]


def _ablated(start: Setting, part: Nodes, table: pd.DataFrame, per: str, batch: int) -> pd.DataFrame:
    """The table with exact effects; nodes that are ablated together share theirs equally."""
    prompt = table["row"] // start.tokens.shape[1]
    together = [prompt, table["kind"], table["latent"]] if per == "latent" else table.index
    group = table.groupby(together, sort=False).ngroup().to_numpy()
    order, size = np.argsort(group, kind="stable"), np.bincount(group)
    ends = np.concatenate([[0], size.cumsum()])
    effects = np.empty(len(table))
    for first in range(0, len(size), batch):
        some = order[ends[first] : ends[min(first + batch, len(size))]]
        effects[some] = _effects(start, part, table.iloc[some], group[some] - first) / size[group[some]]
    return table.assign(effect=effects)


@torch.no_grad()
def _effects(
    start: Setting, part: Nodes, table: pd.DataFrame, group: Int[np.ndarray, " nodes"]
) -> Float[np.ndarray, " nodes"]:
    """The effect of each node's group, in one pass with a prompt for each group."""
    pos, row = start.tokens.shape[1], torch.tensor(table["row"].to_numpy()).to(start.tokens.device)
    edits, which = part.edits(table.index.to_numpy()), torch.from_numpy(group).to(row.device)
    change = edits.new_zeros(int(which.max()) + 1, pos, edits.shape[1])
    change.index_put_((which, row % pos), edits, accumulate=True)
    prompts = row.new_zeros(len(change)).index_put_((which,), row // pos)
    m = start.measure(prompts, part, change) - start.values[prompts]
    return m[which].double().numpy(force=True)
