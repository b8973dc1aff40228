"""Terms that ask for a good reconstruction."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..coder import CoderStack, SparseCoder
from ..codes import Codes, Support, decode
from ..nonlinearity import largest_per_row
from .objective import Objective, Step


def mse() -> Objective:
    """`mean_rows |y - y_hat|^2`, summed over the width."""
    return Objective((("mse", 1.0, lambda s: (s.y - s.y_hat).square().sum(1).mean()),))


def fvu() -> Objective:
    """`sum |y - y_hat|^2 / sum |y - mean y|^2` over the batch: the squared error in units of the variance."""
    return Objective((("fvu", 1.0, lambda s: _fvu(s, s.y_hat)),))


def tilted(t: float = 1.0) -> Objective:
    """`fvu * (1 / t) log mean_rows exp(t l)`, l the squared error of a row over the mean one (TERM).

    t near 0 is fvu itself, a large t the worst row alone, so that rare tokens count (Specialized SAEs, Muhamed et al.
    2024, arXiv 2411.00743). The units, fvu and the mean error, have no gradient. Raises ValueError for t of 0 or below.
    """
    if t <= 0:
        raise ValueError(f"t={t}: give a positive tilt; fvu() is the limit at 0")

    def term(s: Step) -> Tensor:
        error = (s.y - s.y_hat).square().sum(1)
        tilt = t * error / error.mean().detach().clamp(min=1e-12)
        return (torch.logsumexp(tilt, 0) - math.log(len(tilt))) / t * (error.sum() / variance(s.y)).detach()

    return Objective((("tilted", 1.0, term),))


def multi_topk(k: int) -> Objective:
    """`fvu` of the reconstruction from the k largest pre-activations of each row, k of 4 times the coder's own.

    Multi-TopK: keeps codes useful at other sizes than the one that is trained (Gao et al. 2024, arXiv 2406.04093;
    weight 1/8).
    """

    def term(s: Step) -> Tensor:
        _unrouted(s, "multi_topk")
        codes = s.rectified(largest_per_row(s.pre.float(), min(k, s.codes.d_sae)))
        return _fvu(s, s.coder.decode(codes, s.x))

    return Objective((("multi_topk", 1.0, term),))


def gate_mse() -> Objective:
    """`mean_rows |y - (gate sg(W_dec) + sg(b_dec))|^2`, sg: without gradient.

    Teaches a gate to reconstruct through a decoder that it cannot move (Gated, arXiv 2404.16014).
    """

    def term(s: Step) -> Tensor:
        gates = s.coder.split(s.codes.with_values(s.codes.gate))
        parts = zip(s.coder.banks, gates, s.coder.inputs(s.x), strict=True)
        y_hat = s.coder.add_up([_held(bank, gate, x) for bank, gate, x in parts])
        return (s.y - y_hat).square().sum(1).mean()

    return Objective((("gate_mse", 1.0, term),))


def _held(bank: SparseCoder, codes: Codes, x: Tensor) -> Tensor:
    """What a coder writes, with no gradient to its decoder, its bias and its skip connection."""
    y_hat = decode(codes, bank.W_dec.detach()) + bank.b_dec.detach()
    return y_hat if bank.W_skip is None else y_hat + x @ bank.W_skip.detach()


def matryoshka(widths: Sequence[int]) -> Objective:
    """`mean_g fvu(first w_g latents alone)`: nested dictionaries, each to do without the rest.

    `widths` ascend and end at d_sae (Bussmann et al. 2025, arXiv 2503.17547). The entries of a row lie in the order of
    their latents, so those of one level are neighbours: a single product of rows x levels gives what each level adds.

    Raises ValueError for widths that do not ascend, and, at the first step, where they do not end at d_sae, and for a
    stack: its first latents are its first bank.
    """
    widths = tuple(widths)
    if not widths or widths[0] < 1 or list(widths) != sorted(set(widths)):
        raise ValueError(f"widths={widths}: give at least one level, ascending from 1 or more")

    def term(s: Step) -> Tensor:
        if isinstance(s.coder, CoderStack):
            raise ValueError("matryoshka nests the latents of one coder, but this is a stack: use fvu() for a stack")
        if widths[-1] != s.codes.d_sae:
            raise ValueError(f"widths={widths} end at {widths[-1]}, but the coder has d_sae={s.codes.d_sae} latents")
        added = s.coder.written(_levels(s.codes, widths)).view(s.codes.n_rows, len(widths), -1)
        base = s.coder.decode(s.codes.where(torch.zeros_like(s.codes.latents, dtype=torch.bool)), s.x)
        errors = (s.y - base)[:, None] - added.cumsum(1)
        return errors.square().sum() / (len(widths) * variance(s.y))

    return Objective((("matryoshka", 1.0, term),))


def _levels(codes: Codes, widths: tuple[int, ...]) -> Codes:
    """The same entries with a row for each level of each row: row `r * levels + g` has the latents of level g."""
    keys = codes.rows * codes.d_sae + codes.latents
    first = torch.arange(codes.n_rows, device=keys.device)[:, None] * codes.d_sae
    edges = torch.searchsorted(keys, (first + torch.tensor(widths, device=keys.device)).flatten())
    offsets = torch.cat([edges.new_zeros(1), edges])
    return Codes(Support(offsets, codes.latents, codes.d_sae), codes.values)


def variance(y: Float[Tensor, "rows d"]) -> Float[Tensor, ""]:
    """`sum |y - mean y|^2`, never 0."""
    return (y - y.mean(0)).square().sum().clamp(min=1e-12)


def _fvu(s: Step, y_hat: Tensor) -> Tensor:
    return (s.y - y_hat).square().sum() / variance(s.y)


def _unrouted(s: Step, name: str) -> None:
    if s.route is not None:
        raise ValueError(f"{name} ranks all latents of a token, but this coder computes those of one expert only")
