"""One coder on the stream: its start from data, its step, its finish."""

import time
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import Batch, Source
from ..coder import SparseCoder
from ..hooks import model_record
from ..losses import Objective, Step, variance


class Scale(NamedTuple):
    """Factors that bring activations to mean norm sqrt(width): what every coefficient assumes."""

    x: float
    y: float

    def __call__(self, batch: Batch) -> Batch:
        """The batch at the training scale; an autoencoder's target stays the same tensor as its input."""
        x = batch.x * self.x
        return Batch(x, x if batch.y is batch.x else batch.y * self.y)


class Learner:
    """One coder on the stream: its optimiser, its dead latents and its history."""

    def __init__(self, coder: SparseCoder, objective: Objective, steps: int, lr: float, dead_after: float) -> None:
        self.coder, self.objective, self.steps, self.lr = coder, objective, steps, lr
        self.dead_steps = max(1, round(dead_after * steps))
        self.every = max(1, steps // 200)
        self.optimizer = torch.optim.Adam(coder.parameters(), lr=lr, fused=True)
        self.last_on = torch.zeros(coder.d_sae, dtype=torch.long)
        self.history: list[dict[str, float]] = []
        self.row: dict[str, float] = {}
        self.started = time.monotonic()

    @torch.no_grad()
    def begin(self, sample: Batch) -> None:
        """b_pre and b_dec from data: the geometric median; for a transcoder the means."""
        self.coder.train()
        if sample.y is sample.x:
            self.coder.b_pre.copy_(geometric_median(sample.x))
            self.coder.b_dec.copy_(self.coder.b_pre)
        else:
            self.coder.b_pre.copy_(sample.x.mean(0))
            self.coder.b_dec.copy_(sample.y.mean(0))

    def step(self, batch: Batch, done: int, fast: bool) -> bool:
        """One optimiser step; False, and nothing changed, when the loss is not finite."""
        coder, (x, y) = self.coder, batch
        codes, pre = coder.encoding(x, fast=fast)
        y_hat = coder.decode(codes, x)
        dead = done - self.last_on > self.dead_steps
        total, terms = self.objective(Step(coder, x, y, y_hat, codes, pre, dead, done / self.steps))
        if not bool(torch.isfinite(total)):
            return False
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        rate = self.lr * schedule(done / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        coder.constrain()
        on = codes.values.detach() != 0
        self.last_on[codes.latents[on]] = done
        if done % self.every == 0 or done + 1 == self.steps:
            self.row = {"step": done, "tokens": (done + 1) * len(x), "loss": total.item()}
            self.row |= {name: value.item() for name, value in terms.items()}
            with torch.no_grad():
                self.row["fvu"] = ((y - y_hat).square().sum() / variance(y)).item()
            self.row |= {"l0": on.sum().item() / len(x), "dead": dead.float().mean().item(), "lr": rate}
            self.row["seconds"] = time.monotonic() - self.started
            self.history.append(self.row)
        return True

    @torch.no_grad()
    def finish(self, sample: Batch, scale: Scale, acts: Source) -> None:
        """Calibrate, fold, eval, and say where the coder belongs."""
        coder = self.coder
        if hasattr(coder.nonlinearity, "calibrate"):
            coder.nonlinearity.calibrate([coder.pre_activations(x - coder.b_pre) for x in sample.x.split(2048)])
        coder.fold(scale.x, scale.y)
        coder.eval().requires_grad_(False)
        coder.site, coder.model, coder.tokenizer = acts.site, model_record(acts.model), acts.corpus.fingerprint


def schedule(progress: float) -> float:
    """Warm up over 2 % of the run; fall linearly over the last 30 %."""
    return min(1.0, (progress + 1e-3) / 0.02, max(1 - progress, 0.0) / 0.3)


def geometric_median(x: Float[Tensor, "rows d"], iterations: int = 50) -> Float[Tensor, " d"]:
    """The point with the least summed distance to the rows (Weiszfeld's iteration, from the mean)."""
    point = x.mean(0)
    for _ in range(iterations):
        weights = 1 / torch.linalg.vector_norm(x - point, dim=1).clamp(min=1e-8)
        point = (weights @ x) / weights.sum()
    return point


def scale_of(x: Tensor) -> float:
    """`sqrt(d) / mean |x|`. Raises ValueError where all activations are the same."""
    if float(x.var(0).sum()) == 0:
        raise ValueError(f"the {len(x)} sampled activations have no variance; is the site upstream of any text?")
    return x.shape[1] ** 0.5 / torch.linalg.vector_norm(x, dim=1).mean().item()
