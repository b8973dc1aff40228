"""sparsify: `Trainer.fit`, on a model that only looks rows up. Its loop runs in a thread, and waits between steps."""

import queue
import tempfile
import threading
import traceback
from importlib.metadata import version
from types import SimpleNamespace

import sparsify
import torch
from torch import Tensor, nn

from bench.race.wire import DEAD, Setup, serve

WINDOW = 512  # rows in one "sequence"


class Rows(nn.Module):
    """A language model as far as the trainer looks: the "tokens" are ignored, its one layer gives the next batch."""

    def __init__(self, d_in: int) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(num_hidden_layers=1)
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}
        self.batches: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
        self.waiting = threading.Semaphore(0)
        self.batches.put(torch.zeros(1, 1, d_in))  # the trainer asks for the width first

    @property
    def base_model(self) -> "Rows":
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        self.waiting.release()
        return self.layer(self.batches.get().view(*input_ids.shape, -1))


class Sparsify:
    """Its defaults (signum, no AuxK); where latents are held dead, AuxK with the weight 1/32 of the paper."""

    def __init__(self, setup: Setup, x: Tensor) -> None:
        windows = -(-setup.batch // WINDOW)
        config = sparsify.TrainConfig(
            sparsify.SparseCoderConfig(num_latents=setup.d_sae, k=setup.k), batch_size=windows, lr=setup.lr,
            hookpoints=["layer"], init_seeds=[setup.seed], auxk_alpha=1 / 32 if setup.dead else 0.0,
            log_to_wandb=False, save_every=10**9, save_dir=tempfile.gettempdir(),
        )  # fmt: skip
        tokens = {"input_ids": torch.zeros(setup.batch // windows, dtype=torch.long)}
        self.model, self.setup, self.dead = Rows(setup.d_in), setup, setup.dead_mask()
        self.trainer = sparsify.Trainer(config, [tokens] * (windows * 10**6), self.model)
        self.failure = ""
        self.model.waiting.acquire()
        threading.Thread(target=self._fit, daemon=True).start()
        self._wait()

    def _fit(self) -> None:
        try:
            self.trainer.fit()
        except Exception:
            self.failure = traceback.format_exc()
            self.model.waiting.release()

    def _wait(self) -> None:
        self.model.waiting.acquire()
        if self.failure:
            raise RuntimeError(self.failure)

    def step(self, x: Tensor) -> None:
        """From one request for a batch to the next one."""
        if self.setup.dead:
            self.trainer.num_tokens_since_fired["layer"][self.dead] = DEAD
        self.model.batches.put(x)
        self._wait()

    def finish(self, calibration: Tensor) -> "FinishedSparsify":
        for optimizer in self.trainer.optimizers:
            optimizer.eval()  # schedule-free: the averaged weights
        sae = self.trainer.saes["layer"]
        sae.set_decoder_norm_to_unit_norm()
        return FinishedSparsify(sae)


class FinishedSparsify:
    def __init__(self, sae: nn.Module) -> None:
        self.sae = sae

    def encode(self, x: Tensor) -> Tensor:
        found = self.sae.encode(x)
        return x.new_zeros(len(x), self.sae.num_latents).scatter(1, found.top_indices, found.top_acts)

    def decode(self, f: Tensor) -> Tensor:
        return f @ self.sae.W_dec + self.sae.b_dec

    def pre(self, x: Tensor) -> Tensor:
        return self.sae.encoder(x - self.sae.b_dec)


if __name__ == "__main__":
    serve(Sparsify, {"sparsify": version("eai-sparsify")})
