"""`Bottleneck`: a model in which superposition can be watched, `x_hat = ReLU(W^T W x + b)`, and its small trainer."""

from collections.abc import Sequence
from math import cos, pi

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .superposition import pair_up

ROWS = 1_024  # of a batch, for each of the models
DRAWN = 32  # batches that are drawn together


class Bottleneck:
    """`h = W x`, `x_hat = ReLU(W^T h + b)`: features squeezed through few dimensions (Elhage et al. 2022, 2209.10652).

    Feature i is on with its frequency, uniform in (0, 1] then; `loss = mean over rows of sum_i I_i (x_i - x_hat_i)^2`
    with I_i = `importance ** i`. correlation: rho of the pairs (0, 1), (2, 3), ..., as in `Superposition`.
    frequencies: one number a model; as many models are trained side by side, W [models, hidden, features], and
    b [models, features]. Column i of W is the direction in which feature i is written and read.

    Raises ValueError for fewer than 2 features or 1 dimension, and numbers out of range.
    """

    def __init__(
        self,
        n_features: int,
        d_hidden: int = 2,
        *,
        frequencies: float | Sequence[float] = 0.05,
        importance: float = 1.0,
        correlation: float = 0.0,
        seed: int = 0,
    ) -> None:
        p = torch.as_tensor(frequencies, dtype=torch.float32).reshape(-1)
        if n_features < 2 or d_hidden < 1:
            raise ValueError(f"n_features={n_features}, d_hidden={d_hidden}: at least 2 and 1")
        if not bool(((p > 0) & (p <= 1)).all()):
            raise ValueError(f"frequencies={frequencies} must lie in (0, 1]")
        if not (0 < importance <= 1 and -1 < correlation < 1):
            raise ValueError(f"importance={importance} must lie in (0, 1], correlation={correlation} between -1 and 1")
        self.n_features, self.d_hidden, self.correlation = n_features, d_hidden, correlation
        self.frequencies = p
        self.importance = importance ** torch.arange(n_features)
        self._draw = torch.Generator().manual_seed(seed)
        self.W = torch.randn(len(p), d_hidden, n_features, generator=self._draw) / n_features**0.5
        self.b = torch.zeros(len(p), n_features)

    def __repr__(self) -> str:
        return f"Bottleneck({self.n_features} features in {self.d_hidden} dimensions, {len(self.W)} models)"

    def features(self, rows: int) -> Float[Tensor, "models rows features"]:
        """Fresh rows of features."""
        shape = len(self.W), rows, self.n_features
        z = pair_up(torch.randn(shape, generator=self._draw), self.correlation)
        on = torch.special.ndtr(z) < self.frequencies[:, None, None]
        return on * (1 - torch.rand(shape, generator=self._draw))

    def __call__(self, x: Float[Tensor, "models rows features"]) -> Float[Tensor, "models rows features"]:
        """x_hat."""
        return F.relu(x @ self.W.mT @ self.W + self.b[:, None])

    def losses(self, x: Float[Tensor, "models rows features"]) -> Float[Tensor, " models"]:
        """The weighted squared error of each model."""
        return (self.importance * (x - self(x)).square()).sum(2).mean(1)

    def train(self, steps: int = 1_000, lr: float = 1e-2) -> "Bottleneck":
        """Adam with a rate that falls to 0 along a half cosine; goes on from the weights there are. Returns itself."""
        self.W, self.b = (weight.clone().requires_grad_() for weight in (self.W, self.b))
        optimizer = torch.optim.Adam([self.W, self.b], lr=lr, fused=True)
        for step in range(steps):
            if step % DRAWN == 0:  # many batches at once: a step is too small for its own overhead
                drawn = self.features(DRAWN * ROWS).split(ROWS, dim=1)
            optimizer.param_groups[0]["lr"] = lr * (1 + cos(pi * step / steps)) / 2
            optimizer.zero_grad()
            # Divided by the frequency, or Adam's epsilon would slow down the models whose features are rare.
            (self.losses(drawn[step % DRAWN]) / self.frequencies).sum().backward()
            optimizer.step()
        self.W, self.b = (weight.detach() for weight in (self.W, self.b))
        return self

    def gram(self) -> Float[Tensor, "models features features"]:
        """`W^T W`: how much of feature j is read where feature i is written; the identity would be no superposition."""
        return self.W.mT @ self.W

    def dimensionality(self) -> Float[Tensor, "models features"]:
        """`D_i = |W_i|^2 / sum_j (W_i / |W_i| . W_j)^2`: the share of a dimension that feature i has to itself.

        1 is a dimension of its own, 1/2 a pair in one, 2/5 a corner of the pentagon, 0 a feature that was dropped.
        """
        norms = self.W.norm(dim=1)
        shared = (self.gram() / norms[..., None].clamp(min=1e-6)).square().sum(2)
        return norms.square() / shared.clamp(min=1e-6)
