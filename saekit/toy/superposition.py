"""`Superposition`: more sparse features than dimensions, added up; a source whose dictionary is known."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import Batch
from ..hooks import Site

BLOCK = 8_192  # rows that are drawn at once


class Superposition:
    """`x = f W [+ noise]`: sparse features f [rows, features] and a dictionary W [features, d_in] with rows of norm 1.

    frequencies: how often each feature is on: a number for all, or one for each (`zipf`).
    values: (mean, spread); a feature that is on has the value `|mean + spread * normal|`. (0, 1) is half-normal.
    correlation: rho in (-1, 1) of the pairs (0, 1), (2, 3), ...: a Gaussian copula, so that frequencies stay.
    parents: {child: parent}. A child is on only where its parent is, as often as its own frequency says.
    dictionary: W, scaled to norm 1; random directions unless given. noise: standard deviation in each dimension.

    It is a source for `sk.train`: an endless stream, a function of the seed and the position alone; `tokens` rows
    count as one pass. `features(rows)` gives the answers with the rows.

    Raises ValueError for frequencies outside (0, 1], a child more frequent than its parent, and shapes that clash.
    """

    def __init__(
        self,
        n_features: int,
        d_in: int,
        *,
        frequencies: float | Float[Tensor, " features"] = 0.05,
        values: tuple[float, float] = (1.0, 0.25),
        correlation: float = 0.0,
        parents: Mapping[int, int] | None = None,
        dictionary: Float[Tensor, "features d_in"] | None = None,
        noise: float = 0.0,
        tokens: int = 1_000_000,
        seed: int = 0,
    ) -> None:
        if n_features < 2 or d_in < 1 or tokens < 1:
            raise ValueError(f"n_features={n_features}, d_in={d_in}, tokens={tokens}: at least 2, 1 and 1")
        if not -1 < correlation < 1:
            raise ValueError(f"correlation={correlation} must lie between -1 and 1")
        if correlation and parents:
            raise ValueError("correlation and parents are two ways to say what is on together: give one of them")
        self.n_features, self.d_in, self.d_out, self.tokens, self.seed = n_features, d_in, d_in, tokens, seed
        self.values, self.correlation, self.noise = values, correlation, noise
        self.frequencies = _frequencies(frequencies, n_features)
        self.parents = _checked(dict(parents or {}), self.frequencies)
        if dictionary is None:
            dictionary = torch.randn(n_features, d_in, generator=torch.Generator().manual_seed(seed))
        if dictionary.shape != (n_features, d_in):
            raise ValueError(f"the dictionary is {tuple(dictionary.shape)}, expected {(n_features, d_in)}")
        self.dictionary = torch.nn.functional.normalize(dictionary.float(), dim=1)

    def __repr__(self) -> str:
        return f"Superposition({self.n_features} features in {self.d_in} dimensions, {self.l0:.1f} on at a time)"

    def __len__(self) -> int:
        """Batch that count as one pass."""
        return self.tokens

    @property
    def l0(self) -> float:
        """Features on at a time, on average."""
        return float(self.frequencies.sum())

    def features(self, rows: int, seed: int = 0) -> tuple[Float[Tensor, "rows features"], Float[Tensor, "rows d_in"]]:
        """(f, x) of rows that training never serves; another `seed` gives others."""
        parts = [self._block(i, 1 + seed) for i in range(-(-rows // BLOCK))]
        return torch.cat([f for f, _ in parts])[:rows], torch.cat([x for _, x in parts])[:rows]

    def held_out(self, rows: int) -> Batch:
        """Batch that training never serves; the same ones at every call."""
        x = self.features(rows)[1]
        return Batch(x, x)

    def batches(self, size: int, start: int = 0, *, until: Callable[[], bool] = lambda: False) -> Iterator[Batch]:
        """Batches of `size` rows from row `start` of the stream on, until `until` says True."""
        block, skip = divmod(start, BLOCK)
        left = self._block(block)[1][skip:]
        while not until():
            while len(left) < size:
                block += 1
                left = torch.cat([left, self._block(block)[1]])
            yield Batch(left[:size], left[:size])
            left = left[size:]

    def _block(self, number: int, stream: int = 0) -> tuple[Float[Tensor, "rows features"], Float[Tensor, "rows d_in"]]:
        """A function of the seed, the stream (0: the one that is trained on) and the number."""
        state = np.random.SeedSequence([self.seed, stream, number]).generate_state(1, np.uint64)
        draw = torch.Generator().manual_seed(int(state[0]))
        f = self._on(draw) * self._sizes(draw)
        return f, f @ self.dictionary + self.noise * torch.randn(BLOCK, self.d_in, generator=draw)

    def _on(self, draw: torch.Generator) -> Tensor:
        on = pair_up(torch.randn(BLOCK, self.n_features, generator=draw), self.correlation) < self._bounds
        for child in self._generations:
            on[:, child] &= on[:, self.parents[child]]
        return on

    def _sizes(self, draw: torch.Generator) -> Tensor:
        mean, spread = self.values
        return (mean + spread * torch.randn(BLOCK, self.n_features, generator=draw)).abs()

    @cached_property
    def _bounds(self) -> Float[Tensor, " features"]:
        """A feature is on where a normal variable lies below its bound; a child's frequency is given its parent."""
        p = self.frequencies.double().clone()
        for child, parent in self.parents.items():
            p[child] = (self.frequencies[child].double() / self.frequencies[parent].double()).clamp(max=1)
        normal = NormalDist()
        return torch.tensor([normal.inv_cdf(min(float(share), 1 - 1e-12)) for share in p])

    @cached_property
    def _generations(self) -> list[int]:
        """Children, each after its own parent."""
        ordered: list[int] = []
        while len(ordered) < len(self.parents):
            waiting = self.parents.keys() - set(ordered)
            ordered += sorted(child for child in waiting if self.parents[child] not in waiting)
        return ordered

    # What `sk.train` writes on the finished coder.

    @property
    def site(self) -> Site:
        return Site("superposition")

    @property
    def model(self) -> "_Nowhere":
        return _Nowhere(SimpleNamespace(model_name="superposition", d_model=self.d_in, n_layers=0))

    @property
    def corpus(self) -> SimpleNamespace:
        return SimpleNamespace(fingerprint=None)


@dataclass(frozen=True)
class _Nowhere:
    """There is no language model behind a toy: only the few facts that a saved coder records."""

    cfg: SimpleNamespace


def pair_up(z: Float[Tensor, "*batch features"], rho: float) -> Float[Tensor, "*batch features"]:
    """Normal variables with the pairs (0, 1), (2, 3), ... correlated by rho, in place; each stays normal."""
    pairs = z.shape[-1] // 2 * 2
    if rho:
        z[..., 1:pairs:2] = rho * z[..., 0:pairs:2] + (1 - rho**2) ** 0.5 * z[..., 1:pairs:2]
    return z


def zipf(n: int, l0: float, exponent: float = 1.0, most: float = 0.5) -> Float[Tensor, " n"]:
    """Frequencies `p_j = c / (j + 1)^exponent`, at most `most`, that sum to l0: few features are common, most are rare.

    Raises ValueError when n features of that frequency cannot sum to l0.
    """
    if not 0 < l0 <= n * most:
        raise ValueError(f"l0={l0}: {n} features that are on at most {most:.0%} of the time sum to at most {n * most}")
    p = torch.arange(1, n + 1, dtype=torch.float64) ** -exponent
    low, high = 0.0, 1.0
    while (p * high).clamp(max=most).sum() < l0:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (p * middle).clamp(max=most).sum() < l0 else (low, middle)
    return (p * high).clamp(max=most).float()


def hierarchy(
    n_parents: int, children: int, d_in: int, *, parent: float = 0.1, child: float = 0.03, seed: int = 0, **options
) -> Superposition:
    """Parents 0 ... n_parents - 1 and `children` of each, which are on only where their parent is.

    `parent`, `child`: how often one is on. `options` go to `Superposition`. This is the toy in which coders absorb:
    where a child is on, its latent says "parent" too, and the parent's own latent stays silent
    (Chanin et al. 2024, arXiv 2409.14507).
    """
    n = n_parents * (1 + children)
    frequencies = torch.full((n,), child)
    frequencies[:n_parents] = parent
    parents = {n_parents + i: i // children for i in range(n_parents * children)}
    return Superposition(n, d_in, frequencies=frequencies, parents=parents, seed=seed, **options)


def _frequencies(given: float | Tensor | Sequence[float], n: int) -> Float[Tensor, " features"]:
    p = torch.as_tensor(given, dtype=torch.float32)
    p = p.expand(n).clone() if p.ndim == 0 else p
    if p.shape != (n,):
        raise ValueError(f"{len(p)} frequencies for {n} features; give one number, or one for each")
    if not bool(((p > 0) & (p <= 1)).all()):
        raise ValueError(f"frequencies must lie in (0, 1]; the lowest is {p.min():.3g}, the highest {p.max():.3g}")
    return p


def _checked(parents: dict[int, int], p: Tensor) -> dict[int, int]:
    for child, parent in parents.items():
        if not (0 <= child < len(p) and 0 <= parent < len(p)):
            raise ValueError(f"parents={{{child}: {parent}}}: there are features 0 to {len(p) - 1}")
        if p[child] > p[parent]:
            raise ValueError(
                f"child {child} is on {p[child]:.3g} of the time, its parent {parent} only {p[parent]:.3g}"
            )
        seen = {child}
        while parent in parents:
            seen.add(parent)
            parent = parents[parent]
            if parent in seen:
                raise ValueError(f"feature {parent} is its own ancestor")
    return parents
