"""Sparsity against fidelity: many coders of one site, and the simplest things that might do as well, in one table."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..coder import SparseCoder
from ..corpus import Corpus
from ..hooks import capture
from ..nonlinearity import ReLU, TopK
from .fidelity import WINDOWS, batch_of, check_all, drawn, fidelities

CONTROLS = ("pca", "neurons", "frozen")
COLUMNS = ("l0 fvu fvu_low fvu_high ce_recovered ce_recovered_low ce_recovered_high kl l2_ratio dead dense n").split()
APART = 1.25  # from one control to the next, in L0
NAME = re.compile(r"(?:.*/)?(?P<variant>.+?)(?:-[\d.]+)?(?:-seed(?P<seed>\d+))?", re.DOTALL)


def frontier(
    model: Any, coders: Mapping[str, SparseCoder], corpus: Corpus, *, tokens: int = 50_000, seed: int = 0,
    ks: Sequence[int] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """A row for each coder, and for two controls at each L0 in `ks`, all on the same tokens.

    name; variant and seed, read from names such as "topk-32" and "batch_topk-32-seed1"; control; and of
    `evals.fidelity` l0, fvu and ce_recovered with their 95 % intervals, kl, l2_ratio, dead, dense and n.

    pca-k: the k principal axes of these very tokens, the best that k fixed directions can do here. neurons-k: the k
    entries of an activation that are furthest from their mean. A coder of the variant "frozen" (a random dictionary,
    only the encoder is trained) is marked as a control too. ks: the L0 of the coders, each at least a quarter above
    the one before; none for a transcoder, whose output they do not predict.

    Raises ValueError where there is no coder, where two sites differ, and as `evals.fidelity` does.
    """
    check_all(model, [*coders.values()], corpus)
    seen = _moments(model, [*coders.values()], corpus, drawn(corpus, tokens, seed))
    first = next(iter(coders.values()))
    if first.site.reads == first.site.writes:
        extra = controls(seen, _apart(seen.l0) if ks is None else ks, first)
        if clash := sorted(coders.keys() & extra.keys()):
            raise ValueError(f"a coder is called {clash[0]!r}, which is the name of a control; rename it")
        coders = {**coders, **extra}
    scores = fidelities(model, [*coders.values()], corpus, tokens=tokens, seed=seed)
    return pd.DataFrame([point(name, each) for name, each in zip(coders, scores, strict=True)])


def point(name: str, scores: Mapping[str, float]) -> dict[str, Any]:
    """A row of a frontier, from what `evals.fidelity` measured. The last part of a path counts as the name."""
    parts = NAME.fullmatch(name)
    if parts is None:
        raise ValueError(f"name={name!r}: give each coder a name, such as 'topk-32'")
    row = {"name": name, "variant": parts["variant"], "seed": int(parts["seed"] or 0)}
    return row | {"control": parts["variant"] in CONTROLS} | {column: float(scores[column]) for column in COLUMNS}


def undominated(x: Sequence[float], y: Sequence[float]) -> list[bool]:
    """Whether no other point is as small on both scales and smaller on one (the Pareto front)."""
    points = list(zip(x, y, strict=True))
    return [not any(a <= c and b <= d and (a, b) != (c, d) for a, b in points) for c, d in points]


class Moments(NamedTuple):
    """What is known of a site before anything is spliced in."""

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]
    l0: list[float]  # of each coder


@torch.no_grad()
def _moments(model: Any, coders: Sequence[SparseCoder], corpus: Corpus, windows: np.ndarray) -> Moments:
    """In float64, over the tokens of these windows."""
    site = coders[0].site
    n, total, square, on = 0, 0.0, 0.0, np.zeros(len(coders))
    for start in range(0, len(windows), WINDOWS):
        tokens, mask = batch_of(corpus, windows[start : start + WINDOWS])
        x = site.inputs(capture(model, tokens, *site.reads))[mask]
        on += [len(coder.encode(x).values) for coder in coders]
        x = x.double()
        n, total, square = n + len(x), total + x.sum(0), square + x.T @ x
    mean = total / n
    return Moments(mean, square / n - mean.outer(mean), (on / n).tolist())


def controls(seen: Moments, ks: Sequence[int], like: SparseCoder) -> dict[str, SparseCoder]:
    """{name: coder} that belongs where `like` does. Raises ValueError for k below 1 or above the width."""
    if bad := [k for k in ks if not 1 <= k <= len(seen.mean)]:
        raise ValueError(f"ks={list(ks)}: {bad[0]} is not between 1 and the width, {len(seen.mean)}")
    axes = torch.linalg.eigh(seen.covariance).eigenvectors.flip(1).T
    made = {f"pca-{k}": _both_ways(axes[:k], seen.mean, ReLU()) for k in ks}
    made |= {f"neurons-{k}": _both_ways(torch.eye(len(axes)), seen.mean, TopK(k)) for k in ks}
    for coder in made.values():
        coder.place(like.site, like.model, like.tokenizer)
    return made


def _both_ways(rows: Float[Tensor, "n d"], mean: Float[Tensor, " d"], nonlinearity: torch.nn.Module) -> SparseCoder:
    """Orthonormal directions as a coder of x - mean: a latent for each of them and one for its opposite."""
    with torch.random.fork_rng(devices=[]):
        coder = SparseCoder(rows.shape[1], 2 * len(rows), nonlinearity)
    rows, mean = torch.cat([rows, -rows]).float(), mean.float()
    with torch.no_grad():
        coder.W_enc.copy_(rows.T)
        coder.W_dec.copy_(rows)
        coder.centre(mean, mean)
    return coder.eval().requires_grad_(False)


def _apart(l0: Sequence[float]) -> list[int]:
    """Whole numbers near these, thinned out."""
    kept: list[int] = []
    for k in sorted({max(1, round(each)) for each in l0}):
        if not kept or k >= APART * kept[-1]:
            kept.append(k)
    return kept
