"""A process for each contestant: it is asked on stdin and answers on a pipe of its own, a line of JSON each.

All of them start up first and wait; the driver then asks one after the other, round by round, so that drift of the
machine hits all alike and only one works at a time. This file runs in every environment: it needs torch and numpy only.
"""

import json
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent.parent
DEAD = 10**12  # steps or tokens a latent was off for, where a benchmark holds it dead


@dataclass(frozen=True)
class Setup:
    """What a contestant is to train."""

    kind: str  # topk, batch_topk, matryoshka, relu, gated or jumprelu
    d_in: int
    d_sae: int
    k: int
    batch: int
    steps: int  # length of the run: schedules and dead windows are shares of it
    lr: float | None = None  # its own default where None
    seed: int = 0
    fast: bool = False  # ours only: the product that finds what is on in bfloat16
    dead: float = 0.0  # this share of the latents is held dead, so that AuxK is active throughout
    start_l0: int | None = None  # penalty methods only: biases or thresholds that give this mean L0 at the start
    sparsity: float = 5.0  # penalty methods only: the coefficient of the L1 penalty

    @property
    def window(self) -> int:
        """Steps after which a latent is dead: a tenth of the run, for all alike."""
        return max(1, self.steps // 10)

    @property
    def widths(self) -> list[int]:
        """The levels of a Matryoshka coder."""
        return [self.d_sae // share for share in (16, 8, 4, 2, 1)]

    def dead_mask(self) -> Tensor:
        return torch.arange(self.d_sae) % 1000 < 1000 * self.dead


class Finished(Protocol):
    """A trained coder in its own eval mode, with dense codes."""

    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, f: Tensor) -> Tensor: ...
    def pre(self, x: Tensor) -> Tensor: ...


class Contestant(Protocol):
    """A trainer that is under way."""

    def step(self, x: Tensor) -> None: ...
    def finish(self, calibration: Tensor) -> Finished: ...


Start = Callable[[Setup, Tensor], Contestant]


class Worker:
    """The driver's end of one contestant's process."""

    def __init__(self, python: str, module: str, data: Path, threads: int) -> None:
        env = os.environ | {"SPARSIFY_DISABLE_TRITON": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
        env["OMP_WAIT_POLICY"] = "passive"  # no spinning at barriers, which other load would make worthless for all
        self.module = module
        read, write = os.pipe()
        self.process = subprocess.Popen(
            [python, "-W", "ignore", "-m", f"bench.race.{module}", str(data), str(write)],
            cwd=ROOT, env=env, text=True, pass_fds=(write,), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(write)
        self.answers = os.fdopen(read)
        self.versions = self._answer()

    def ask(self, do: str, **what: Any) -> Any:
        """The answer to one request; raises RuntimeError with the contestant's traceback where it failed."""
        print(json.dumps({"do": do, **what}), file=self.process.stdin, flush=True)
        return self._answer()

    def start(self, name: str, setup: Setup) -> None:
        self.ask("start", name=name, setup=asdict(setup))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.answers.close()

    def _answer(self) -> Any:
        line = self.answers.readline()
        if not line:
            raise RuntimeError(f"{self.module} ended with code {self.process.wait()} and no answer")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.module}: {answer['error']}")
        return answer["ok"]


def serve(start: Start, versions: dict[str, str]) -> None:
    """The contestant's end: answer requests until stdin is closed."""
    answers = os.fdopen(int(sys.argv[2]), "w")
    warnings.simplefilter("ignore")  # the tensor is a view of a read-only file, which nothing writes to
    desk = Desk(start, torch.from_numpy(np.load(sys.argv[1], mmap_mode="r")))
    answer: Any = {"ok": versions | {"torch": torch.__version__.split("+")[0]}}
    while True:
        print(json.dumps(answer), file=answers, flush=True)
        line = sys.stdin.readline()
        if not line:
            os._exit(0)  # a trainer may have left a thread waiting
        request = json.loads(line)
        try:
            answer = {"ok": getattr(desk, request.pop("do"))(**request)}
        except Exception:
            answer = {"error": traceback.format_exc()}


class Desk:
    """What a contestant can be asked. Rows are those of the shared file; batch i is rows `i batch` on, going round."""

    def __init__(self, start_one: Start, x: Tensor) -> None:
        self.start_one, self.x = start_one, x
        self.setups: dict[str, Setup] = {}
        self.running: dict[str, Contestant] = {}

    def start(self, name: str, setup: dict[str, Any]) -> None:
        self.setups[name] = Setup(**setup)
        torch.manual_seed(self.setups[name].seed)
        self.running[name] = self.start_one(self.setups[name], self.x)

    def steps(self, name: str, first: int, n: int) -> float:
        """Seconds of n training steps."""
        size = self.setups[name].batch
        places = [i % (len(self.x) // size) * size for i in range(first, first + n)]
        batches = [self.x[place : place + size].clone() for place in places]
        began = time.perf_counter()
        for batch in batches:
            self.running[name].step(batch)
        return time.perf_counter() - began

    def score(self, name: str, calibration: tuple[int, int], held_out: tuple[int, int]) -> dict[str, float]:
        """`scores` of the coder as its tool would have it used."""
        c, h = self.x[slice(*calibration)].clone(), self.x[slice(*held_out)].clone()
        with torch.no_grad():
            return scores(self.running[name].finish(c), c, h, self.setups[name].k)

    def l0(self, name: str) -> float:
        """Mean L0 on the first batch, as things stand."""
        with torch.no_grad():
            x = self.x[: self.setups[name].batch].clone()
            return (self.running[name].finish(x).encode(x) != 0).sum().item() / len(x)

    def end(self, name: str) -> None:
        del self.running[name]

    def peak_mb(self) -> float:
        """Peak resident memory of this process so far (Linux)."""
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def scores(coder: Finished, calibration: Tensor, x: Tensor, k: int) -> dict[str, float]:
    """Held-out FVU, L0 and the share of latents never on; FVU and L0 once more with one threshold that gives L0 k."""
    found = _fit(coder, x, coder.encode)
    top = torch.cat([coder.pre(part).flatten().topk(4 * k * len(part)).values for part in calibration.split(2048)])
    edge = top.sort(descending=True).values[k * len(calibration) - 1 : k * len(calibration) + 1].mean().clamp(min=0)

    def above(part: Tensor) -> Tensor:
        pre = coder.pre(part)
        return pre * (pre > edge)

    at_k = _fit(coder, x, above)
    return found | {"fvu_at_k": at_k["fvu"], "l0_at_k": at_k["l0"]}


def _fit(coder: Finished, x: Tensor, encode: Callable[[Tensor], Tensor]) -> dict[str, float]:
    error = on = 0.0
    ever: Tensor | bool = False
    for part in x.split(2048):
        f = encode(part)
        error += (part - coder.decode(f)).square().sum().item()
        on += (f != 0).sum().item()
        ever = (f != 0).any(0) | ever
    return {
        "fvu": error / (x - x.mean(0)).square().sum().item(),
        "l0": on / len(x),
        "dead": 1 - ever.float().mean().item(),
    }


def cuts(pre: Tensor, l0: int) -> Tensor:
    """For each latent the number that its pre-activations exceed in `l0 / d_sae` of these rows."""
    return pre.topk(max(1, len(pre) * l0 // pre.shape[1]), dim=0).values[-1]
