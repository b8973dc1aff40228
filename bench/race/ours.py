"""saekit's learner. Its schedule is its own; batches come at the training scale already."""

import torch
from torch import Tensor

from bench.race.wire import DEAD, Setup, cuts, serve
from saekit import __version__, presets
from saekit.activations import Batch
from saekit.coder import SparseCoder
from saekit.train import Learner

OWN_RATE = 3e-3  # times sqrt(2048 / d_sae), as in `sk.train`


class Ours:
    def __init__(self, setup: Setup, x: Tensor) -> None:
        by_penalty = {"relu": {"sparsity": setup.sparsity}, "gated": {"sparsity": setup.sparsity}}
        options = by_penalty.get(setup.kind, {"l0" if setup.kind == "jumprelu" else "k": setup.k})
        coder, objective = getattr(presets, setup.kind)(setup.d_in, setup.d_sae, **options)
        rate = setup.lr or OWN_RATE * (2048 / setup.d_sae) ** 0.5
        self.learner = Learner(coder, objective, setup.steps, rate, setup.window / setup.steps)
        self.setup, self.done, self.dead = setup, 0, setup.dead_mask()
        sample = x[: 2 * setup.batch].clone()
        self.learner.begin(Batch(sample, sample))
        self.learner.every = DEAD  # no history while the clock runs
        if setup.start_l0:
            sparse_start(coder, sample, setup.start_l0)

    def step(self, x: Tensor) -> None:
        if self.setup.dead:
            self.learner.last_on[self.dead] = -DEAD
        self.learner.step(Batch(x, x), self.done, self.setup.fast)
        self.done += 1

    def finish(self, calibration: Tensor) -> "FinishedOurs":
        self.learner.coder.calibrate(calibration)
        return FinishedOurs(self.learner.coder.eval())


class FinishedOurs:
    def __init__(self, coder: SparseCoder) -> None:
        self.coder = coder
        self.decode = lambda f: f @ coder.W_dec + coder.b_dec

    def encode(self, x: Tensor) -> Tensor:
        return self.coder.encode(x).dense()

    def pre(self, x: Tensor) -> Tensor:
        return self.coder.pre_activations(x - self.coder.b_pre)


@torch.no_grad()
def sparse_start(coder: SparseCoder, x: Tensor, l0: int) -> None:
    """Biases or thresholds where a run has them most of the time: past the first, crowded steps."""
    cut = cuts(coder.pre_activations(x - coder.b_pre), l0)
    own = getattr(coder.nonlinearity, "threshold", None)
    if own is not None:
        own.copy_(cut)
    elif getattr(coder.nonlinearity, "own_bias", False):
        coder.nonlinearity.bias.copy_(-cut)
    else:
        coder.b_enc.copy_(-cut)


if __name__ == "__main__":
    serve(Ours, {"saekit": __version__})
