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
from ..features import Features
from ..hooks import Site

Mean = Features | Float[Tensor, "*_ _"]


@dataclass(frozen=True, eq=False)
class Nodes:
    """The latents of one site that are on, its error, and how far each is from its baseline.

    At each row (a position of a prompt) but BOS, y = f W_dec + b_dec + e.
      codes, change          f and its change, at every latent that is on, in the prompt or in the patch
      rows, kinds            the row and the kind of the other nodes:
      whole, moved             error: e and its change; off: 0 and what latents that are off would write at their mean
    """

    site: Site
    widths: tuple[int, ...]  # of the hooks it writes
    W_dec: Float[Tensor, "d_sae d"]
    codes: Codes
    change: Codes
    rows: Int[Tensor, " m"]
    kinds: Sequence[str]
    whole: Float[Tensor, "m d"]
    moved: Float[Tensor, "m d"]

    def total(self) -> Float[Tensor, "rows d"]:
        """The change of y when every node goes to its baseline."""
        return decode(self.change, self.W_dec).index_add(0, self.rows, self.moved)

    def table(self, gradient: Float[Tensor, "rows d"]) -> pd.DataFrame:
        """row, kind, latent, activation, gradient, effect of every node, given dm/dy."""
        codes, here = self.codes, gradient[self.rows]
        slope = dot(gradient.contiguous(), self.W_dec, codes.support)
        latents = codes.rows, "latent", codes.latents, codes.values, slope, slope * self.change.values
        size = self.whole.norm(dim=1)
        along = (here * self.whole).sum(1) / size.clamp_min(torch.finfo(size.dtype).tiny)
        others = self.rows, self.kinds, -1, size, along, (here * self.moved).sum(1)
        return pd.concat([_frame(*latents), _frame(*others)], ignore_index=True)

    def edits(self, nodes: Int[np.ndarray, " n"]) -> Float[Tensor, "n d"]:
        """The change of y at its row when one node goes to its baseline; nodes are numbered as in `table`."""
        n, nodes = len(self.codes.latents), torch.tensor(nodes).to(self.rows.device)
        latents, others = nodes[nodes < n], nodes[nodes >= n] - n
        out = self.moved.new_empty(len(nodes), self.moved.shape[1])
        out[nodes < n] = self.change.values[latents, None] * self.W_dec[self.codes.latents[latents]]
        out[nodes >= n] = self.moved[others]
        return out


def _frame(*columns: Any) -> pd.DataFrame:
    tensors = [c.double() if isinstance(c, Tensor) and c.is_floating_point() else c for c in columns]
    arrays = [c.numpy(force=True) if isinstance(c, Tensor) else c for c in tensors]
    return pd.DataFrame(dict(zip(("row", "kind", "latent", "activation", "gradient", "effect"), arrays, strict=True)))


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
    rows, W_dec = kept.flatten().nonzero().squeeze(1), coder.dictionary().detach()
    kinds, whole = ["error"] * len(rows), error[rows]
    change, moved = codes.with_values(-codes.values), -whole
    if patch is not None:
        other, other_error, _ = read(site, coder, patch, kept)
        codes, change = _union(codes, other)
        moved = other_error[rows] - whole
    if mean is not None:
        pos = kept.shape[1]
        mean = mean.to(W_dec).expand(pos, -1)
        at_mean = codes.with_values(mean[codes.rows % pos, codes.latents])
        change = codes.with_values(at_mean.values - codes.values)
        off = (mean @ W_dec)[rows % pos] - decode(at_mean, W_dec)[rows]
        rows, kinds = rows.repeat(2), kinds + ["off"] * len(rows)
        whole, moved = torch.cat([whole, torch.zeros_like(off)]), torch.cat([moved, off])
    widths = tuple(seen[name].shape[-1] for name in site.writes)
    return Nodes(site, widths, W_dec, codes, change, rows, kinds, whole, moved)


def _union(codes: Codes, other: Codes) -> tuple[Codes, Codes]:
    """The codes and other - codes, both at the latents that are on in either."""
    rows, latents = torch.cat([codes.rows, other.rows]), torch.cat([codes.latents, other.latents])
    values = torch.cat([codes.values, torch.zeros_like(other.values)])
    changes = torch.cat([-codes.values, other.values])
    return tuple(Codes.from_entries(rows, latents, v, codes.n_rows, codes.d_sae) for v in (values, changes))


def means(mean: Mean | Sequence[Mean] | None, pairs: list[tuple[Site, Any]], pos: int) -> list[Tensor | None]:
    """The mean of each coder as a tensor. Raises ValueError unless there is one for each, of its latents."""
    given = [None] * len(pairs) if mean is None else [mean] if isinstance(mean, Features | Tensor) else [*mean]
    if len(given) != len(pairs):
        raise ValueError(f"{len(given)} means for {len(pairs)} coders; give one for each, in order")
    found = [torch.as_tensor(np.array(m.index.total)) / m.n if isinstance(m, Features) else m for m in given]
    for m, (site, coder) in zip(found, pairs, strict=True):
        if m is not None and m.shape not in ((coder.d_sae,), (pos, coder.d_sae)):
            raise ValueError(
                f"a mean of shape {(*m.shape,)} for {coder.d_sae} latents of {site.name!r}, {pos} positions"
            )
    return found
