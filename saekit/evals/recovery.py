"""What a coder found of the features that a toy was made of."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from ..coder import SparseCoder
from ..toy import Superposition

FOUND = 0.95  # cosine from which a feature counts as recovered


class Match(NamedTuple):
    """Features and latents paired one to one, so that the summed cosine is the largest there is."""

    features: Int[np.ndarray, " pairs"]
    latents: Int[np.ndarray, " pairs"]
    cosines: Float[np.ndarray, " pairs"]


def recovery(coder: SparseCoder, toy: Superposition, *, rows: int = 20_000, seed: int = 0) -> dict[str, float]:
    """The coder's decoder against the true dictionary V, and its codes against the true features f, on fresh rows.

    mmcs: mean over features of the largest cos(W_dec_i, V_j). matched: the mean cosine when each latent may stand for
    one feature only (Hungarian); a feature without a latent counts 0. recovered: share of features matched at more
    than 0.95. unique: share of the latents that are best for some feature, out of the features.
    slope: `sum f f_hat / sum f^2` over the recovered pairs, where both are on and f_hat is the code times |W_dec_i|:
    below 1 is shrinkage; NaN where nothing is recovered. precision, recall: of the matched latents' being on.
    fvu, l0 and dead on these rows; true_l0: features that are on. n: rows.

    A low fvu with a low `recovered` is possible and common: read both (arXiv 2602.14111).
    Raises ValueError for another width and a coder that is still training.
    """
    check(coder, toy)
    f, x = toy.features(rows, seed)
    with torch.no_grad():
        y_hat, codes = coder(x)
    cosines = cosine(coder, toy)
    match = matched(cosines)
    f_hat = coefficients(coder, x, match)
    on, f_on = f_hat > 0, f[:, match.features] > 0
    scores = {
        "mmcs": cosines.max(1).values.mean(),
        "matched": match.cosines.sum() / toy.n_features,
        "recovered": (match.cosines > FOUND).sum() / toy.n_features,
        "unique": len(cosines.argmax(1).unique()) / toy.n_features,
        "slope": _slope(f_hat, f[:, match.features], torch.from_numpy(match.cosines > FOUND)),
        "precision": _share(on & f_on, on),
        "recall": _share(on & f_on, f_on),
        "fvu": (x - y_hat).square().sum() / (x - x.mean(0)).square().sum(),
        "l0": len(codes.values) / rows,
        "true_l0": int((f > 0).sum()) / rows,
        "dead": (codes.counts() == 0).float().mean(),
        "n": rows,
    }
    return {name: float(score) for name, score in scores.items()}


def planted_absorption(
    coder: SparseCoder, toy: Superposition, *, rows: int = 50_000, seed: int = 0
) -> dict[str, float]:
    """How often a parent's latent is silent because a child's has taken over its meaning.

    On a toy with parents (`toy.hierarchy`), for each child:
    alone: P(parent's latent on | parent on, no child of it on). with_child: P(parent's latent on | parent and this
    child on). absorption: alone - with_child; 0 where the latent says "parent" whenever it is true. All are means
    over children. absorbed: share of children whose with_child is
    below half of alone. cosine: of the parents' matched latents; where it is low, there is no latent to speak of.
    n: rows on which a parent and its child were on.

    Raises ValueError for a toy without parents, another width, and rows too few for every case to occur.
    """
    check(coder, toy)
    if not toy.parents:
        raise ValueError("this toy has no parents and children; make one with toy.hierarchy(...)")
    f, x = toy.features(rows, seed)
    match = matched(cosine(coder, toy))
    column = {int(feature): i for i, feature in enumerate(match.features)}
    if missing := sorted(set(toy.parents.values()) - column.keys()):
        raise ValueError(f"the coder has {coder.d_sae} latents, fewer than features, and none for parent {missing[0]}")
    latent_on = coefficients(coder, x, match) > 0
    cases = [
        _absorption(
            latent_on[:, column[parent]], f > 0, parent, child, [c for c, p in toy.parents.items() if p == parent]
        )
        for child, parent in toy.parents.items()
    ]
    alone, with_child, n = (np.array(values) for values in zip(*cases, strict=True))
    cosines = [match.cosines[column[parent]] for parent in sorted(set(toy.parents.values()))]
    return {
        "alone": float(alone.mean()), "with_child": float(with_child.mean()),
        "absorption": float((alone - with_child).mean()), "absorbed": float((with_child < alone / 2).mean()),
        "cosine": float(np.mean(cosines)), "n": float(n.sum()),
    }  # fmt: skip


def check(coder: SparseCoder, toy: Superposition) -> None:
    """Raise ValueError unless the coder reads and writes the toy's width and is finished."""
    if (coder.d_in, coder.d_out) != (toy.d_in, toy.d_in):
        raise ValueError(f"the coder maps width {coder.d_in} to {coder.d_out}, but the toy has width {toy.d_in}")
    if coder.training:
        raise ValueError("this coder is still in training mode; sk.train returns it finished, coder.eval() makes it so")


@torch.no_grad()
def cosine(coder: SparseCoder, toy: Superposition) -> Float[Tensor, "features d_sae"]:
    """cos(V_j, W_dec_i)."""
    return toy.dictionary @ F.normalize(coder.dictionary().float(), dim=1).T


def matched(cosines: Float[Tensor, "features d_sae"]) -> Match:
    """The one-to-one matching with the largest summed cosine."""
    features, latents = linear_sum_assignment(cosines.numpy(), maximize=True)
    return Match(features, latents, cosines.numpy()[features, latents].astype(np.float64))


@torch.no_grad()
def coefficients(coder: SparseCoder, x: Float[Tensor, "rows d_in"], match: Match) -> Float[Tensor, "rows pairs"]:
    """The matched latents' activations, in units of a dictionary with rows of norm 1."""
    column = torch.full((coder.d_sae,), -1)
    column[torch.from_numpy(match.latents)] = torch.arange(len(match.latents))
    codes = coder.encode(x)
    codes = codes.where(column[codes.latents] >= 0)
    norms = torch.linalg.vector_norm(coder.dictionary(), dim=1)
    out = torch.zeros(len(x), len(match.latents))
    return out.index_put((codes.rows, column[codes.latents]), codes.values * norms[codes.latents])


def _slope(f_hat: Tensor, f: Tensor, found: Bool[Tensor, " pairs"]) -> float:
    both = (f_hat > 0) & (f > 0) & found
    return float((f_hat * f)[both].sum() / f[both].square().sum()) if bool(both.any()) else float("nan")


def _share(part: Tensor, whole: Tensor) -> float:
    """Mean over columns of `part / whole`; a column that is never on counts 0."""
    return float((part.sum(0) / whole.sum(0).clamp(min=1)).mean())


def _absorption(
    latent_on: Bool[Tensor, " rows"], on: Bool[Tensor, "rows features"], parent: int, child: int, children: list[int]
) -> tuple[float, float, int]:
    """(P(on | parent only), P(on | parent and child), rows of the second)."""
    alone, both = on[:, parent] & ~on[:, children].any(1), on[:, parent] & on[:, child]
    if not (bool(alone.any()) and bool(both.any())):
        raise ValueError(
            f"parent {parent} was never seen with or without child {child} in {len(on)} rows; give more rows="
        )
    return float(latent_on[alone].float().mean()), float(latent_on[both].float().mean()), int(both.sum())
