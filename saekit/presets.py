"""The zoo on one page: each function returns `(coder, objective)`, ready for `sk.train`.

Coefficients assume the scale `sk.train` gives activations: mean norm sqrt(width).
"""

from .coder import SparseCoder
from .losses import Objective, auxk, fvu, l1, mse, target_l0, warmup
from .nonlinearity import JumpReLU, ReLU, TopK

Preset = tuple[SparseCoder, Objective]


def relu(d_in: int, d_sae: int, sparsity: float = 5.0) -> Preset:
    """ReLU with a norm-weighted L1 penalty (Bricken et al. 2023; Anthropic, April 2024). Source: one site."""
    return SparseCoder(d_in, d_sae, ReLU()), mse() + warmup(sparsity, over=0.05) * l1()


def topk(d_in: int, d_sae: int, k: int = 32) -> Preset:
    """The k largest latents of each token (Gao et al. 2024, arXiv 2406.04093). Source: one site."""
    return SparseCoder(d_in, d_sae, TopK(k), unit_norm=True), fvu() + 1 / 32 * auxk()


def batch_topk(d_in: int, d_sae: int, k: float = 32) -> Preset:
    """k latents a token on average over the batch (Bussmann et al. 2024, arXiv 2412.06410). Source: one site."""
    return SparseCoder(d_in, d_sae, TopK(k, along="batch"), unit_norm=True), fvu() + 1 / 32 * auxk()


def jumprelu(d_in: int, d_sae: int, l0: float = 32) -> Preset:
    """A learned threshold per latent, driven to a mean L0 (Rajamanoharan et al. 2024, arXiv 2407.14435)."""
    return SparseCoder(d_in, d_sae, JumpReLU(d_sae)), fvu() + warmup(1.0, over=0.2) * target_l0(l0) + 1 / 32 * auxk()
