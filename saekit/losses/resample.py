"""`resample`: dead latents start again in the direction of what is reconstructed worst."""

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from ..coder import CoderStack
from .objective import Objective, Step


def resample(every: float = 1 / 8, until: float = 1 / 2) -> Objective:
    """At each multiple of `every` up to `until`, shares of the run, dead latents are put on badly fitted rows.

    A row is drawn with a chance that goes with its squared error squared; the encoder's column becomes its direction,
    a fifth as long as those alive are on average, the decoder's row that of its target, the bias 0, and Adam forgets
    what it knew of them (Bricken et al. 2023). Add it to an objective: `mse() + warmup(5) * l1() + resample()`.

    Raises ValueError for shares outside (0, 1], and at the first step for a stack of coders.
    """
    if not 0 < every <= 1 or not 0 < until <= 1:
        raise ValueError(f"every={every}, until={until}: give shares of the run between 0 and 1")

    def between(s: Step, next_progress: float, optimizer: torch.optim.Optimizer) -> Int[Tensor, " n"]:
        if isinstance(s.coder, CoderStack):
            raise ValueError("resample works on one SparseCoder, not on a stack; auxk() does the same for a stack")
        due = int(next_progress / every + 1e-9) > int(s.progress / every + 1e-9) and next_progress <= until + 1e-9
        dead = torch.nonzero(s.dead).squeeze(1) if due else torch.empty(0, dtype=torch.long)
        return restart(s, dead, optimizer) if len(dead) else dead

    return Objective((), (between,))


@torch.no_grad()
def restart(s: Step, latents: Int[Tensor, " n"], optimizer: torch.optim.Optimizer) -> Int[Tensor, " n"]:
    """Put these latents on rows drawn by their error; gives the latents."""
    coder = s.coder
    chance = (s.y - s.y_hat).square().sum(1).square().clamp(min=1e-12)
    rows = torch.multinomial(chance.cpu(), len(latents), replacement=True, generator=s.draw()).to(latents.device)
    alive = ~s.dead
    length = coder.W_enc[:, alive].norm(dim=0).mean() if bool(alive.any()) else coder.W_enc.norm(dim=0).mean()
    norm = coder.W_dec[alive].norm(dim=1).mean() if bool(alive.any()) else coder.W_dec.norm(dim=1).mean()
    coder.W_enc[:, latents] = 0.2 * length * F.normalize(s.x[rows] - coder.b_pre, dim=1).T
    coder.W_dec[latents] = norm * F.normalize(s.y[rows] - coder.b_dec, dim=1)
    coder.b_enc[latents] = 0
    if hasattr(coder.nonlinearity, "reset"):
        coder.nonlinearity.reset(latents)
    for parameter in coder.parameters():
        for moment in optimizer.state.get(parameter, {}).values():
            _forget(moment, latents, coder.d_sae)
    return latents


def _forget(moment: Tensor, latents: Tensor, d_sae: int) -> None:
    """Zero a moment of Adam at these latents: the axis that has one place for each; of two, the last is W_enc's."""
    if moment.ndim and moment.shape[-1] == d_sae:
        moment[..., latents] = 0
    elif moment.ndim and moment.shape[0] == d_sae:
        moment[latents] = 0
