"""Checkpoints of a run: written whole or not at all, and read back so that a resumed run is the unbroken one."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import replacing
from .learner import Learner

SECONDS = 120


class Checkpoint:
    """One safetensors file: the unfolded coders, Adam's moments, when each latent was last on, and the history."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings, self.written = path, settings, time.monotonic()

    def maybe(self, learners: list[Learner], done: int, plan: dict[str, Any]) -> None:
        if time.monotonic() - self.written > SECONDS:
            self.write(learners, done, plan)

    def write(self, learners: list[Learner], done: int, plan: dict[str, Any]) -> None:
        tensors = {f"{i}.{k}": t.contiguous() for i, r in enumerate(learners) for k, t in _state(r).items()}
        header = {"settings": self.settings, "done": done, "plan": plan, "history": [r.history for r in learners]}
        with replacing(self.path) as temporary:
            save_file(tensors, temporary, {"saekit_checkpoint": json.dumps(header)})
        self.written = time.monotonic()

    def restore(self, learners: list[Learner], plan: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(steps done, plan) of the file, with the learners as they were; (0, plan) when there is no file yet."""
        if not self.path.exists():
            self.write(learners, 0, plan)  # a folder that cannot be written is found out now, not in an hour
            return 0, plan
        try:
            with safe_open(self.path, "pt") as file:
                header = json.loads(file.metadata()["saekit_checkpoint"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a dict
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"{str(self.path)!r} is no checkpoint of saekit, or is cut short: {error}") from error
        if header["settings"] != self.settings:
            raise ValueError(f"{str(self.path)!r} is of a run with {header['settings']}, this one has {self.settings}")
        for i, learner in enumerate(learners):
            _restore(
                learner, {k.removeprefix(f"{i}."): t for k, t in tensors.items() if k.startswith(f"{i}.")}, self.path
            )
            learner.history = header["history"][i]
            learner.row = learner.history[-1] if learner.history else {}
        return header["done"], header["plan"]


def _state(learner: Learner) -> dict[str, Tensor]:
    state = {f"coder.{k}": t for k, t in learner.coder.state_dict().items()}
    state |= {"last_on": learner.last_on, "density": learner.density}
    for name, parameter in learner.coder.named_parameters():
        state |= {f"adam.{k}.{name}": t for k, t in learner.optimizer.state.get(parameter, {}).items()}
    return state


def _restore(learner: Learner, state: dict[str, Tensor], path: Path) -> None:
    own = {k: tuple(t.shape) for k, t in _state(learner).items()}
    found = {k: tuple(t.shape) for k, t in state.items() if not k.startswith("adam.")}
    if own != found:
        odd = sorted(k for k in own.keys() | found.keys() if own.get(k) != found.get(k))[0]
        raise ValueError(f"{str(path)!r} is of another coder: {odd} is {found.get(odd)}, expected {own.get(odd)}")
    learner.coder.load_state_dict({k.removeprefix("coder."): t for k, t in state.items() if k.startswith("coder.")})
    learner.last_on.copy_(state["last_on"])
    learner.density.copy_(state["density"])
    for name, parameter in learner.coder.named_parameters():
        keys = [k for k in ("step", "exp_avg", "exp_avg_sq") if f"adam.{k}.{name}" in state]
        # empty_like keeps the memory layout of the parameter, which the fused step needs
        learner.optimizer.state[parameter] = {
            k: state[f"adam.{k}.{name}"]
            if k == "step"
            else torch.empty_like(parameter).copy_(state[f"adam.{k}.{name}"])
            for k in keys
        }
