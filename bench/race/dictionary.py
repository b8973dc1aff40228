"""dictionary_learning: `Trainer.update`, which its own training loop calls once a step."""

from importlib.metadata import version

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from torch import Tensor

from bench.race.wire import Setup, serve

KINDS = {"topk": TopKTrainer, "batch_topk": BatchTopKTrainer}


class DictionaryLearning:
    """Its defaults; windows that count steps or tokens are shares of the run, and the rate falls over its last fifth.

    Those windows are longer than a short run: 1,000 steps of warm-up, 1,000 until the threshold is learned, 10 million
    tokens until a latent is dead.
    """

    def __init__(self, setup: Setup, x: Tensor) -> None:
        short = {"warmup_steps": setup.steps // 50, "decay_start": setup.steps - setup.steps // 5}
        self.trainer = KINDS[setup.kind](
            steps=setup.steps, activation_dim=setup.d_in, dict_size=setup.d_sae, k=setup.k, layer=0, lm_name="none",
            lr=setup.lr, threshold_start_step=setup.steps // 2, seed=setup.seed, device="cpu", **short,
        )  # fmt: skip
        # it asks who is dead after it has counted who fired: a threshold for each latent holds some of them dead
        self.trainer.dead_feature_threshold = setup.window * setup.batch * torch.where(setup.dead_mask(), 0, 1)
        self.done = 0

    def step(self, x: Tensor) -> None:
        self.trainer.update(self.done, x)
        self.done += 1

    def finish(self, calibration: Tensor) -> "FinishedDictionary":
        return FinishedDictionary(self.trainer.ae)


class FinishedDictionary:
    def __init__(self, ae: torch.nn.Module) -> None:
        self.ae, self.encode, self.decode = ae, ae.encode, ae.decode

    def pre(self, x: Tensor) -> Tensor:
        return self.ae.encoder(x - self.ae.b_dec)


if __name__ == "__main__":
    serve(DictionaryLearning, {"dictionary-learning": version("dictionary-learning")})
