"""Nodes: what a coder makes of the activations at its site, and what each node would be at its baseline."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..codes import Codes, decode, dot
from ..corpus import pieces
from ..features import Features
from ..hooks import Site

Mean = Features | Float[Tensor, "*_ _"]
PER = ("position", "latent")


@dataclass(frozen=True, eq=False)
class Nodes:
    """The latents of one site that are on, its error, and how far each is from its baseline.

    At each row (a position of a prompt) but BOS, x = f W_dec + b_dec + e. Baseline less value, for each node:
      codes, change   f and its change, at every latent that is on, in the prompt or in the patch
      error, moved    e and its change
      off             what the latents that are off would write at their mean, together; None unless a mean is given
    `kept`: the rows that are not BOS.
    """

    site: Site
    widths: tuple[int, ...]  # of the hooks it writes
    W_dec: Float[Tensor, "d_sae d"]
    codes: Codes
    change: Codes
    kept: Int[Tensor, " m"]
    error: Float[Tensor, "m d"]
    moved: Float[Tensor, "m d"]
    off: Float[Tensor, "m d"] | None

    def total(self) -> Float[Tensor, "rows d"]:
        """The change of x when every node goes to its baseline."""
        return decode(self.change, self.W_dec).index_add(
            0, self.kept, self.moved if self.off is None else self.moved + self.off
        )

    def table(self, gradient: Float[Tensor, "rows d"]) -> pd.DataFrame:
        """row, kind, latent, activation, gradient, effect of every node, given dm/dx."""
        per_latent, here = dot(gradient.contiguous(), self.W_dec, self.codes.support), gradient[self.kept]
        size = self.error.norm(dim=1)
        along = (here * self.error).sum(1) / size.clamp_min(torch.finfo(size.dtype).tiny)
        parts = [
            _frame(
                "latent",
                self.codes.rows,
                self.codes.latents,
                self.codes.values,
                per_latent,
                per_latent * self.change.values,
            ),
            _frame("error", self.kept, None, size, along, (here * self.moved).sum(1)),
        ]
        if self.off is not None:
            parts.append(_frame("off", self.kept, None, None, None, (here * self.off).sum(1)))
        return pd.concat(parts, ignore_index=True)

    def edits(self, nodes: Int[np.ndarray, " n"]) -> Float[Tensor, "n d"]:
        """The change of x at its row when one node goes to its baseline; nodes are numbered as in `table`."""
        n, nodes = len(self.codes.latents), torch.tensor(nodes).to(self.kept.device)
        whole = self.moved if self.off is None else torch.cat([self.moved, self.off])
        latent = nodes < n
        out = whole.new_empty(len(nodes), whole.shape[1])
        out[latent] = self.change.values[nodes[latent], None] * self.W_dec[self.codes.latents[nodes[latent]]]
        out[~latent] = whole[nodes[~latent] - n]
        return out


def _frame(kind: str, rows: Tensor, latents: Tensor | None, *numbers: Tensor | None) -> pd.DataFrame:
    activation, gradient, effect = (0.0 if t is None else t.double().numpy(force=True) for t in numbers)
    return pd.DataFrame(
        {
            "row": rows.numpy(force=True), "kind": kind, "latent": -1 if latents is None else latents.numpy(force=True),
            "activation": activation, "gradient": gradient, "effect": effect,
        }
    )  # fmt: skip


def read(site: Site, coder: Any, seen: dict, kept: Bool[Tensor, "batch pos"]) -> tuple[Codes, Tensor, Tensor]:
    """(codes, error, y_hat), rows flattened: y = y_hat + error. No codes, and y_hat = 0, where `kept` does not hold."""
    dtype, keep = coder.W_dec.dtype, kept.flatten()
    x, y = (part.detach().flatten(0, 1).to(dtype) for part in (site.inputs(seen), site.targets(seen)))
    codes = coder.encode(x)
    y_hat = torch.where(keep[:, None], coder.decode(codes, x), torch.zeros_like(y))
    return codes.where(keep[codes.rows]), y - y_hat, y_hat


@torch.no_grad()
def nodes_of(
    site: Site, coder: Any, seen: dict, kept: Bool[Tensor, "batch pos"], patch: dict | None, mean: Tensor | None
) -> Nodes:
    """The nodes of a coder on captured activations; see `Nodes`. patch: what was captured of the other prompts."""
    codes, error, _ = read(site, coder, seen, kept)
    rows, W_dec, off = kept.flatten().nonzero().squeeze(1), coder.dictionary().detach(), None
    error = error[rows]
    change, moved = codes.with_values(-codes.values), -error
    if patch is not None:
        other, other_error, _ = read(site, coder, patch, kept)
        codes, change = _union(codes, other)
        moved = other_error[rows] - error
    if mean is not None:
        pos = kept.shape[1]
        mean = mean.to(W_dec).expand(pos, -1)
        at_mean = codes.with_values(mean[codes.rows % pos, codes.latents])
        change = codes.with_values(at_mean.values - codes.values)
        off = (mean @ W_dec)[rows % pos] - decode(at_mean, W_dec)[rows]
    widths = tuple(seen[name].shape[-1] for name in site.writes)
    return Nodes(site, widths, W_dec, codes, change, rows, error, moved, off)


def _union(codes: Codes, other: Codes) -> tuple[Codes, Codes]:
    """The codes and other - codes, both at the latents that are on in either."""
    rows, latents = torch.cat([codes.rows, other.rows]), torch.cat([codes.latents, other.latents])
    values = torch.cat([codes.values, torch.zeros_like(other.values)])
    changes = torch.cat([-codes.values, other.values])
    return tuple(Codes.from_entries(rows, latents, v, codes.n_rows, codes.d_sae) for v in (values, changes))


def means(mean: Mean | Sequence[Mean] | None, pairs: list[tuple[Site, Any]]) -> list[Tensor | None]:
    """The mean of each coder as a tensor. Raises ValueError unless there is one for each, as wide as the coder."""
    given = [None] * len(pairs) if mean is None else [mean] if isinstance(mean, Features | Tensor) else [*mean]
    if len(given) != len(pairs):
        raise ValueError(f"{len(given)} means for {len(pairs)} coders; give one for each, in order")
    found = [torch.as_tensor(np.array(m.index.total)) / m.n if isinstance(m, Features) else m for m in given]
    for m, (site, coder) in zip(found, pairs, strict=True):
        if m is not None and (m.shape[-1] != coder.d_sae or m.dim() > 2):
            raise ValueError(f"a mean of shape {(*m.shape,)} for the {coder.d_sae} latents of {site.name!r}")
    return found


def tidy(
    tables: list[pd.DataFrame], model: Any, tokens: Int[Tensor, "batch pos"], per: str, **attrs: Any
) -> pd.DataFrame:
    """Tables of nodes as the user sees them: by position or summed over it, strongest first."""
    table, pos = pd.concat(tables, ignore_index=True), tokens.shape[1]
    prompts = {"prompt": table["row"] // pos} if len(tokens) > 1 else {}
    if per == "latent":
        sums = table.groupby(["site", "kind", "latent"], as_index=False, sort=False)[["activation", "effect"]].sum()
        sums[["activation", "effect"]] /= len(tokens)
        table = sums
    else:
        words = np.array(pieces(model.tokenizer, tokens.flatten().tolist()), dtype=object)
        places = prompts | {"pos": table["row"] % pos, "token": words[table["row"]]}
        table = table.drop(columns="row").assign(**places)
        table = table[["site", *places, "kind", "latent", "activation", "gradient", "effect"]]
    table = table.sort_values("effect", key=np.abs, ascending=False, kind="stable", ignore_index=True)
    table.attrs = attrs
    return table
