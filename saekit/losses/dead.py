"""Terms that bring latents back that are off everywhere, or too often."""

import torch
from torch import Tensor

from ..coder import SparseCoder
from ..codes import Support
from ..nonlinearity import JumpReLU, largest_per_row
from .fit import _unrouted, variance
from .objective import Objective, Step


def auxk(k_aux: int | None = None) -> Objective:
    """`sum |e - relu(TopK(a at dead latents)) W_dec|^2 / sum |e - mean e|^2`, e the error, without gradient.

    Dead latents are fitted to what the living leave over (Gao et al. 2024, arXiv 2406.04093; weight 1/32). k_aux is
    half the width unless given. Zero while nothing is dead.
    """

    def term(s: Step) -> Tensor:
        _unrouted(s, "auxk")
        dead = torch.nonzero(s.dead).squeeze(1)
        return _fits_error(s, dead, torch.ones(len(dead), device=dead.device), k_aux)

    return Objective((("auxk", 1.0, term),))


def aux_zipf(k: float, k_aux: int | None = None, exponent: float = 1.0, shift: float = 8.0) -> Objective:
    """`auxk` for every latent that is on too rarely, as far as it is (aux_zipf, Ayonrinde 2024, arXiv 2411.02124).

    A latent of rank r ought to be on with frequency `phi_r = C (r + shift)^-exponent`, `sum phi = k`. Its want is
    `u = max(0, 1 - density / phi_r)`: 1 where it is dead. The k_aux largest `u a` of a row are fitted to the error.
    The paper's own weights are not public in full; with u of 0 and 1 this is `auxk`.
    """

    def term(s: Step) -> Tensor:
        _unrouted(s, "aux_zipf")
        rank = torch.empty_like(s.density).scatter(
            0, s.density.argsort(descending=True, stable=True), torch.arange(len(s.density)).to(s.density)
        )
        due = (rank + shift) ** -exponent
        want = (1 - s.density / (due * k / due.sum())).clamp(min=0)
        rare = torch.nonzero(want).squeeze(1)
        return _fits_error(s, rare, want[rare], k_aux)

    return Objective((("aux_zipf", 1.0, term),))


def _fits_error(s: Step, among: Tensor, want: Tensor, k_aux: int | None) -> Tensor:
    """The error, fitted by the largest `want_i a_i` of each row, i among the latents that are wanted."""
    if not len(among):
        return s.y_hat.new_zeros(())
    error = (s.y - s.y_hat).detach()
    k = min(k_aux or max(1, s.coder.banks[0].d_in // 2), len(among))
    best = largest_per_row(s.pre[:, among].float() * want, k)
    codes = s.rectified(Support(best.offsets, among[best.latents], s.codes.d_sae))
    codes = codes.with_values(codes.values * want[best.latents])
    return (error - s.coder.written(codes)).square().sum() / variance(error)


def pre_act(dead_only: bool = False) -> Objective:
    """`mean_rows sum_i max(theta_i - a_i, 0) n_i`: lifts pre-activations that lie below their threshold.

    Of all latents, or of the dead alone (Anthropic, January 2025; weight 3e-6). In closed form: the sum over all
    entries needs the mean input only; those above their threshold, which are few, are taken away again.
    Raises ValueError for a coder without learned thresholds.
    """

    def term(s: Step) -> Tensor:
        banks = s.coder.banks
        if not all(isinstance(bank.nonlinearity, JumpReLU) for bank in banks):
            raise ValueError("pre_act is of coders with a learned threshold: give them a JumpReLU nonlinearity")
        theta = torch.cat([bank.nonlinearity.threshold for bank in banks])
        weight = s.coder.norms() * s.dead if dead_only else s.coder.norms()
        parts = zip(banks, s.coder.inputs(s.x), strict=True)
        mean = torch.cat([(x.mean(0) - bank.b_pre) @ bank.W_enc + bank.b_enc for bank, x in parts])
        above = (theta[s.codes.latents] - s.a).clamp(max=0) * weight[s.codes.latents]
        return ((theta - mean) * weight).sum() - above.sum() / s.codes.n_rows

    return Objective((("pre_act", 1.0, term),))


def ghost() -> Objective:
    """`sum |e - g|^2` with `g = exp(a at dead latents) W_dec`, scaled to half the error's norm and to the MSE's size.

    The scales have no gradient (Anthropic, January 2024). A dense product on the dead columns only; zero while nothing
    is dead. Exponents are cut at 20. In a stack g is what the dead latents of all banks write together.
    """

    def term(s: Step) -> Tensor:
        _unrouted(s, "ghost")
        if not bool(s.dead.any()):
            return s.y_hat.new_zeros(())
        error = (s.y - s.y_hat).detach()
        dead = s.dead.split([bank.d_sae for bank in s.coder.banks])
        parts = zip(s.coder.banks, s.coder.inputs(s.x), dead, strict=True)
        g = s.coder.add_up([_ghosts(bank, x, torch.nonzero(these).squeeze(1)) for bank, x, these in parts])
        g = g * (error.norm(dim=1) / (2 * g.norm(dim=1)).clamp(min=1e-8)).detach()[:, None]
        misfit = (error - g).square().sum(1).mean()
        return misfit * (error.square().sum(1).mean() / misfit.clamp(min=1e-12)).detach()

    return Objective((("ghost", 1.0, term),))


def _ghosts(bank: SparseCoder, x: Tensor, dead: Tensor) -> Tensor:
    """`exp(a) W_dec` of one coder's dead latents."""
    a = torch.addmm(bank.b_enc[dead], x - bank.b_pre, bank.W_enc[:, dead])
    return a.clamp(max=20).exp() @ bank.dictionary()[dead]
