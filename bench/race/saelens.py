"""SAELens: `SAETrainer.step`, the seam that its own outer loops use, and what it exports for inference."""

import tempfile
from importlib.metadata import version

import sae_lens.saes as saes
import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from bench.race.wire import DEAD, Setup, cuts, serve

KINDS = {
    "topk": (saes.TopKTrainingSAE, saes.TopKTrainingSAEConfig),
    "batch_topk": (saes.BatchTopKTrainingSAE, saes.BatchTopKTrainingSAEConfig),
    "matryoshka": (saes.MatryoshkaBatchTopKTrainingSAE, saes.MatryoshkaBatchTopKTrainingSAEConfig),
    "relu": (saes.StandardTrainingSAE, saes.StandardTrainingSAEConfig),
    "gated": (saes.GatedTrainingSAE, saes.GatedTrainingSAEConfig),
    "jumprelu": (saes.JumpReLUTrainingSAE, saes.JumpReLUTrainingSAEConfig),
}


class SAELens:
    """Its defaults; windows that count steps are shares of the run, and the rate falls over the last fifth of it."""

    def __init__(self, setup: Setup, x: Tensor) -> None:
        kind, config = KINDS[setup.kind]
        options = {"k": setup.k} if "topk" in setup.kind or setup.kind == "matryoshka" else {}
        options |= {"matryoshka_widths": setup.widths} if setup.kind == "matryoshka" else {}
        options |= {"l1_coefficient": setup.sparsity} if setup.kind in ("relu", "gated") else {}
        self.sae = kind(config(d_in=setup.d_in, d_sae=setup.d_sae, **options))
        lr = setup.lr or SAETrainerConfig.lr
        self.trainer = SAETrainer(
            SAETrainerConfig(
                total_training_samples=setup.steps * setup.batch, train_batch_size_samples=setup.batch,
                lr_decay_steps=setup.steps // 5, dead_feature_window=setup.window,
                lr=lr, lr_end=lr / 10, logger=LoggingConfig(log_to_wandb=False),
            ),
            self.sae, data_provider=iter(()),
        )  # fmt: skip
        self.setup, self.dead = setup, setup.dead_mask()
        if setup.start_l0:
            self._sparse_start(x[: 2 * setup.batch].clone(), setup.start_l0)

    @torch.no_grad()
    def _sparse_start(self, x: Tensor, l0: int) -> None:
        cut = cuts((x - self.sae.b_dec) @ self.sae.W_enc, l0)
        if self.setup.kind == "jumprelu":
            self.sae.threshold.copy_(cut)
        else:
            for name in ("b_enc",) if self.setup.kind == "relu" else ("b_gate", "b_mag"):
                getattr(self.sae, name).copy_(-cut)

    def step(self, x: Tensor) -> None:
        if self.setup.dead:
            self.trainer.n_forward_passes_since_fired[self.dead] = DEAD
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    def finish(self, calibration: Tensor) -> "Exported":
        with tempfile.TemporaryDirectory() as folder:
            self.sae.save_inference_model(folder)
            return Exported(saes.SAE.load_from_disk(folder))


class Exported:
    def __init__(self, sae: saes.SAE) -> None:
        self.sae, self.encode, self.decode = sae, sae.encode, sae.decode

    def pre(self, x: Tensor) -> Tensor:
        bias = self.sae.b_mag if self.sae.b_enc is None else self.sae.b_enc
        return (x - self.sae.b_dec) @ self.sae.W_enc + bias


if __name__ == "__main__":
    serve(SAELens, {"sae-lens": version("sae-lens")})
