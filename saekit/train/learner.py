"""One coder on the stream: its start from data, its step, its finish."""

import time
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import Batch, Source, Windows
from ..coder import CoderStack, SparseCoder
from ..hooks import Site, model_record
from ..losses import Objective, Passes, Step, variance


class Scale(NamedTuple):
    """Factors that bring activations to mean norm sqrt(width), at each site: what every coefficient assumes."""

    x: float | Float[Tensor, " d_in"]
    y: float | Float[Tensor, " d_out"]

    def __call__(self, batch: Batch | Windows) -> Batch | Windows:
        """The batch at the training scale; an autoencoder's target stays the same tensor as its input."""
        x = batch.x * self.x
        y = x if batch.y is batch.x else batch.y * self.y
        return batch._replace(x=x, y=y, scale=self.y) if isinstance(batch, Windows) else Batch(x, y)


class Learner:
    """One coder on the stream: its optimiser, its dead latents and its history."""

    def __init__(
        self, coder: SparseCoder | CoderStack, objective: Objective, steps: int, lr: float, dead_after: float
    ) -> None:
        self.coder, self.objective, self.steps, self.lr = coder, objective, steps, lr
        self.dead_steps = max(1, round(dead_after * steps))
        self.every = max(1, steps // 200)
        self.optimizer = torch.optim.Adam(coder.parameters(), lr=lr, fused=True)
        self.last_on = torch.zeros(coder.d_sae, dtype=torch.long)
        self.density = torch.zeros(coder.d_sae)
        self.peers: tuple[SparseCoder, ...] = ()
        self.history: list[dict[str, float]] = []
        self.row: dict[str, float] = {}
        self.started = time.monotonic()

    @torch.no_grad()
    def begin(self, sample: Batch) -> None:
        """b_pre and b_dec from data: the geometric median; for a transcoder the means."""
        self.coder.train()
        if sample.y is sample.x:
            middle = geometric_median(sample.x)
            self.coder.centre(middle, middle)
        else:
            self.coder.centre(sample.x.mean(0), sample.y.mean(0))

    def step(self, batch: Batch | Windows, done: int, fast: bool) -> bool:
        """One optimiser step; False, and nothing changed, when the loss is not finite."""
        coder, x, y = self.coder, batch.x, batch.y
        encoding = coder.encoding(x, fast=fast)
        codes, y_hat = encoding.codes, coder.decode(encoding.codes, x)
        dead = done - self.last_on > self.dead_steps
        passes = Passes(batch) if isinstance(batch, Windows) else None
        step = Step(coder, x, y, y_hat, encoding, dead, done / self.steps, self._density(done), self.peers, passes)
        total, terms = self.objective(step)
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
        self.density.lerp_(codes.counts() / len(x), 1 / self._memory)
        for between in self.objective.between:
            self.last_on[between(step, (done + 1) / self.steps, self.optimizer)] = done
        if done % self.every == 0 or done + 1 == self.steps:
            self.row = {"step": done, "tokens": (done + 1) * len(x), "loss": total.item()}
            self.row |= {name: value.item() for name, value in terms.items()}
            with torch.no_grad():
                self.row["fvu"] = ((y - y_hat).square().sum() / variance(y)).item()
            self.row |= {"l0": on.sum().item() / len(x), "dead": dead.float().mean().item(), "lr": rate}
            self.row["seconds"] = time.monotonic() - self.started
            self.history.append(self.row)
        return True

    @property
    def _memory(self) -> int:
        """Steps over which the density of a latent is averaged."""
        return max(10, self.dead_steps)

    def _density(self, done: int) -> Tensor:
        """How often each latent was on of late, without the bias of an average that starts at 0."""
        return self.density / max(1e-12, 1 - (1 - 1 / self._memory) ** done)

    @torch.no_grad()
    def finish(self, sample: Batch, scale: Scale, acts: Source) -> None:
        """Calibrate, fold, eval, and say where the coder belongs."""
        coder = self.coder
        coder.calibrate(sample.x)
        coder.fold(scale.x, scale.y)
        coder.eval().requires_grad_(False)
        model = None if acts.model is None else model_record(acts.model)
        coder.place(acts.site, model, None if acts.corpus is None else acts.corpus.fingerprint)


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


def scale_of(x: Float[Tensor, "rows d"], hooks: tuple[str, ...] = ("",)) -> float | Float[Tensor, " d"]:
    """`sqrt(d) / mean |x|`; at several hooks of equal width, side by side, one for each column.

    Raises ValueError where all activations are the same.
    """
    if float(x.var(0).sum()) == 0:
        raise ValueError(f"the {len(x)} sampled activations have no variance; is the site upstream of any text?")
    if len(hooks) > 1 and x.shape[1] % len(hooks) == 0:
        parts = x.tensor_split(len(hooks), dim=1)
        return torch.cat([torch.full((p.shape[1],), scale_of(p)) for p in parts])
    return x.shape[1] ** 0.5 / torch.linalg.vector_norm(x, dim=1).mean().item()


def hooks_of(site: Site | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(hooks that are read, hooks that are written); one nameless one where the source has no site."""
    return (("",), ("",)) if site is None else (site.reads, site.writes)
