"""`resample`: dead latents start again in the direction of what is reconstructed worst."""

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from ..coder import SparseCoder
from .objective import Objective, Step


def resample(every: float = 1 / 8, until: float = 1 / 2) -> Objective:
    """At each multiple of `every` up to `until`, shares of the run, dead latents are put on badly fitted rows.

    A row is drawn with a chance that goes with its squared error squared; the encoder's column becomes its direction,
    a fifth as long as those alive are on average, the decoder's row that of its target, the bias 0, and Adam forgets
    what it knew of them (Bricken et al. 2023). Add it to an objective: `mse() + warmup(5) * l1() + resample()`.
    In a stack each bank's latents are put where the columns that it writes are fitted worst.

    Raises ValueError for shares outside (0, 1].
    """
    if not 0 < every <= 1 or not 0 < until <= 1:
        raise ValueError(f"every={every}, until={until}: give shares of the run between 0 and 1")

    def between(s: Step, next_progress: float, optimizer: torch.optim.Optimizer) -> Int[Tensor, " n"]:
        due = int(next_progress / every + 1e-9) > int(s.progress / every + 1e-9) and next_progress <= until + 1e-9
        dead = torch.nonzero(s.dead).squeeze(1) if due else torch.empty(0, dtype=torch.long)
        return restart(s, dead, optimizer) if len(dead) else dead

    return Objective((), (between,))


@torch.no_grad()
def restart(s: Step, latents: Int[Tensor, " n"], optimizer: torch.optim.Optimizer) -> Int[Tensor, " n"]:
    """Put these latents on rows drawn by their error; gives the latents."""
    draw, first = s.draw(), 0
    y_0 = s.coder.add_up([bank.b_dec.expand(len(s.y), -1) for bank in s.coder.banks])
    misfits, residuals = s.coder.targets(s.y - s.y_hat), s.coder.targets(s.y - y_0)
    for bank, x, misfit, y in zip(s.coder.banks, s.coder.inputs(s.x), misfits, residuals, strict=True):
        mine = latents[(latents >= first) & (latents < first + bank.d_sae)] - first
        if len(mine):
            chance = misfit.square().sum(1).square().clamp(min=1e-12)
            rows = torch.multinomial(chance.cpu(), len(mine), replacement=True, generator=draw).to(mine.device)
            _put(bank, mine, x[rows], y[rows], ~s.dead[first : first + bank.d_sae])
            for parameter in bank.parameters():
                for moment in optimizer.state.get(parameter, {}).values():
                    _forget(moment, mine, bank.d_sae)
        first += bank.d_sae
    return latents


def _put(bank: SparseCoder, latents: Tensor, x: Tensor, y: Tensor, alive: Tensor) -> None:
    """Encoder columns along x, decoder rows along y, as long as those alive are on average."""
    among = alive if bool(alive.any()) else torch.ones_like(alive)
    length, norm = bank.W_enc[:, among].norm(dim=0).mean(), bank.W_dec[among].norm(dim=1).mean()
    bank.W_enc[:, latents] = 0.2 * length * F.normalize(x - bank.b_pre, dim=1).T
    bank.W_dec[latents] = norm * F.normalize(y, dim=1)
    bank.b_enc[latents] = 0
    if hasattr(bank.nonlinearity, "reset"):
        bank.nonlinearity.reset(latents)


def _forget(moment: Tensor, latents: Tensor, d_sae: int) -> None:
    """Zero a moment of Adam at these latents: the axis that has one place for each; of two, the last is W_enc's."""
    if moment.ndim and moment.shape[-1] == d_sae:
        moment[..., latents] = 0
    elif moment.ndim and moment.shape[0] == d_sae:
        moment[latents] = 0
