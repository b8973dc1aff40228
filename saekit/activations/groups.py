"""`layer_groups`: which layers are alike enough to share one coder."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..corpus import Corpus
from ..hooks import Site, capture
from .stream import FORWARD_WINDOWS


def layer_groups(model: Any, corpus: Corpus, n_groups: int, *, windows: int = 16) -> list[list[Site]]:
    """The residual stream after each layer, in groups of layers whose activations point the same way.

    Layers are clustered by their mean angular distance, with complete linkage (Ghilardi et al. 2024, arXiv 2410.21508);
    each group is what `sk.Activations` pools for one coder. Groups and their layers are in order.

    Raises ValueError when there are not at least as many layers as groups.
    """
    n_layers = model.cfg.n_layers
    if not 1 <= n_groups <= n_layers:
        raise ValueError(f"n_groups={n_groups}: the model has {n_layers} layers; choose 1 to {n_layers}")
    sites = [Site(f"blocks.{layer}.hook_resid_post") for layer in range(n_layers)]
    if n_layers == 1:
        return [sites]
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distances = angular_distances(model, corpus, sites, windows=windows)
    tree = linkage(squareform(distances, checks=False), method="complete")
    group_of = fcluster(tree, n_groups, criterion="maxclust")
    groups = [[site for site, g in zip(sites, group_of, strict=True) if g == group] for group in np.unique(group_of)]
    return sorted(groups, key=lambda group: group[0].layer or 0)


def angular_distances(model: Any, corpus: Corpus, sites: list[Site], *, windows: int = 16) -> Float[np.ndarray, "n n"]:
    """`mean over tokens of arccos(cos(x_i, x_j)) / pi` for each pair of sites, each centred on its mean over tokens."""
    rows = _centred(model, corpus, sites, windows)
    unit = torch.stack([torch.nn.functional.normalize(x, dim=1) for x in rows])  # [site, row, d]
    cosines = torch.einsum("ird,jrd->ijr", unit, unit).clamp(-1, 1)
    distances = (cosines.arccos() / torch.pi).mean(2).double().numpy()
    np.fill_diagonal(distances, 0)
    return (distances + distances.T) / 2


@torch.no_grad()
def _centred(model: Any, corpus: Corpus, sites: list[Site], windows: int) -> list[Float[Tensor, "rows d"]]:
    parts = []
    for start in range(0, min(windows, len(corpus)), FORWARD_WINDOWS):
        part = slice(start, min(start + FORWARD_WINDOWS, windows))
        mask = torch.from_numpy(corpus.mask[part])
        seen = capture(model, corpus.tokens[part], *sites)
        parts.append([site.inputs(seen)[mask].float() for site in sites])
    rows = [torch.cat(each) for each in zip(*parts, strict=True)]
    return [x - x.mean(0) for x in rows]
