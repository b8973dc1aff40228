"""`train`: one loop for every variant.

1. Measure, once, the scale of the activations, and set b_pre and b_dec from them.
2. For each batch: encode, decode, sum the objective's terms, step the optimiser, put the parameters back in place.
3. At the end, or when stopped: calibrate thresholds on held-out activations, fold scale and b_pre into the weights.

Whatever ends the loop, the coder that comes back is in eval mode and reads raw activations.
"""

import contextlib
import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from .activations import Activations, Batch
from .coder import SparseCoder
from .files import replacing
from .hooks import model_record
from .losses import Objective, Step, variance

HELD_OUT_ROWS = 8_192
CHECKPOINT_SECONDS = 120


class Moment(NamedTuple):
    """What an `on_step` callback is told. Returning True stops the run."""

    step: int
    steps: int
    row: dict[str, float]  # the newest row of the history
    coder: SparseCoder  # still at the training scale


@dataclass
class Run:
    """What training gives back: the finished coder, its history, and how it ended."""

    coder: SparseCoder
    history: pd.DataFrame
    steps: int
    stopped: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        last = self.history.iloc[-1] if len(self.history) else {}
        state = f"stopped after {self.steps} steps" if self.stopped else f"{self.steps} steps"
        return f"Run({state}" + "".join(f", {k} {last[k]:.3g}" for k in ("fvu", "l0", "dead") if k in last) + ")"


def train(
    coder: SparseCoder | Sequence[SparseCoder],
    acts: Activations,
    objective: Objective | Sequence[Objective],
    *,
    steps: int | None = None,
    batch_size: int = 2_048,
    lr: float | None = None,
    dead_after: float = 0.1,
    precision: str | None = None,
    threads: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    on_step: Callable[[Moment], Any] | None = None,
    progress: bool = True,
) -> Run | list[Run]:
    """Train one coder, or several on one stream of activations, and return a `Run` each.

    steps: default, one pass over `acts`. lr: Adam's rate, default `3e-3 sqrt(2048 / d_sae)` (1/sqrt rule of Gao et
    al. 2024); it warms up over 2 % of the run and falls linearly over the last 30 %. dead_after: a latent is dead
    when it was off for this share of the run. precision: "float32", or "bfloat16" for the product that finds what is
    on; threads: of torch; both are measured when not given. checkpoint: a file; the same call goes on from it, bit
    for bit on the same machine. Ctrl-C, and an `on_step` that returns True, end the run and keep what was learned.

    Raises ValueError for widths that do not match, coders and objectives that do not pair, a checkpoint of another
    run, and activations that are not finite.
    """
    coders = [coder] if isinstance(coder, SparseCoder) else list(coder)
    objectives = [objective] if isinstance(objective, Objective) else list(objective)
    _check(coders, objectives, acts, batch_size, steps)
    steps = steps or max(1, len(acts) // batch_size)
    sample = acts.held_out(HELD_OUT_ROWS)
    scale = Batch(_scale(sample.x), _scale(sample.y))
    sample = Batch(sample.x * scale.x, sample.y * scale.y)
    plan = _plan(coders[0], sample.x[:batch_size], precision, threads)
    settings = {"steps": steps, "batch_size": batch_size, "seed": acts.seed, "tokens": len(acts)}
    learners = [
        Learner(c, o, steps, lr or 3e-3 * (2048 / c.d_sae) ** 0.5, dead_after)
        for c, o in zip(coders, objectives, strict=True)
    ]
    for learner in learners:
        learner.begin(sample)
    saved = None if checkpoint is None else _Checkpoint(Path(checkpoint), settings)
    done, plan = saved.restore(learners, plan) if saved else (0, plan)

    with _threads(plan["threads"]), _interruptible() as interrupted, tqdm(
        total=steps, initial=done, disable=not progress, desc="training", unit="step", mininterval=0.5
    ) as bar:  # fmt: skip
        for batch in acts.batches(batch_size, start=done * batch_size):
            if done >= steps or interrupted.is_set():
                break
            batch = Batch(batch.x * scale.x, batch.y * scale.y)
            finite = [learner.step(batch, done, plan["precision"] == "bfloat16") for learner in learners]
            if not all(finite):
                warnings.warn(
                    f"the loss is not finite at step {done}; stopped with what was learned before", stacklevel=2
                )
                break
            done += 1
            bar.update()
            bar.set_postfix({k: f"{v:.3g}" for k, v in learners[0].row.items() if k in ("fvu", "l0", "dead")})
            wants_stop = [on_step(Moment(done, steps, r.row, r.coder)) for r in learners] if on_step else []
            if any(wants_stop):
                break
            if saved:
                saved.maybe(learners, done, plan)
        if saved:
            saved.write(learners, done, plan)
        for learner in learners:
            learner.finish(sample, scale, acts)
    runs = [Run(r.coder, pd.DataFrame(r.history), done, done < steps, settings | plan) for r in learners]
    return runs[0] if isinstance(coder, SparseCoder) else runs


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
        if sample.y is sample.x or (self.coder.d_in == self.coder.d_out and torch.equal(sample.x, sample.y)):
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
    def finish(self, sample: Batch, scale: Batch, acts: Activations) -> None:
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


def _scale(x: Tensor) -> float:
    """`sqrt(d) / mean |x|`. Raises ValueError where all activations are the same."""
    if float(x.var(0).sum()) == 0:
        raise ValueError(f"the {len(x)} sampled activations have no variance; is the site upstream of any text?")
    return x.shape[1] ** 0.5 / torch.linalg.vector_norm(x, dim=1).mean().item()


def _check(coders: list, objectives: list, acts: Activations, batch_size: int, steps: int | None) -> None:
    if len(coders) != len(objectives) or not coders:
        raise ValueError(f"{len(coders)} coders and {len(objectives)} objectives; give one objective for each coder")
    for coder in coders:
        if (coder.d_in, coder.d_out) != (acts.d_in, acts.d_out):
            raise ValueError(
                f"the coder maps width {coder.d_in} to {coder.d_out}, but {acts.site.name!r} "
                f"has width {acts.d_in} to {acts.d_out}; make the coder with these widths"
            )
        if coder.site is not None:
            raise ValueError(f"this coder is finished (trained at {coder.site.name!r}); train a new one")
    if batch_size < 1 or (steps is not None and steps < 1):
        raise ValueError(f"batch_size={batch_size}, steps={steps}: both must be at least 1")


# --- speed -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _plan(coder: SparseCoder, x: Tensor, precision: str | None, threads: int | None) -> dict[str, Any]:
    """Threads and precision of the encoder product: what is given, else the fastest of a short measurement."""
    if precision not in (None, "float32", "bfloat16"):
        raise ValueError(f"precision={precision!r}: choose 'float32', 'bfloat16', or None to measure")
    counts = [threads] if threads else sorted({1, torch.get_num_threads()})
    precisions = [precision] if precision else ["float32", "bfloat16"]
    best = min((_seconds(coder, x, n, p), n, p) for n in counts for p in precisions)
    return {"threads": best[1], "precision": best[2]}


def _seconds(coder: SparseCoder, x: Tensor, threads: int, precision: str) -> float:
    with _threads(threads):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            coder.pre_activations(x, precision == "bfloat16")
            times.append(time.perf_counter() - start)
    return min(times[1:])


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that the step under way ends whole; a second Ctrl-C interrupts as usual."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def on_interrupt(*_: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


# --- checkpoints -------------------------------------------------------------------------------------------------


class _Checkpoint:
    """One safetensors file: the unfolded coders, Adam's moments, when each latent was last on, and the history."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings, self.written = path, settings, time.monotonic()

    def maybe(self, learners: list[Learner], done: int, plan: dict[str, Any]) -> None:
        if time.monotonic() - self.written > CHECKPOINT_SECONDS:
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
    state = {f"coder.{k}": t for k, t in learner.coder.state_dict().items()} | {"last_on": learner.last_on}
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
    for name, parameter in learner.coder.named_parameters():
        keys = [k for k in ("step", "exp_avg", "exp_avg_sq") if f"adam.{k}.{name}" in state]
        # empty_like keeps the memory layout of the parameter, which the fused step needs
        learner.optimizer.state[parameter] = {
            k: state[f"adam.{k}.{name}"]
            if k == "step"
            else torch.empty_like(parameter).copy_(state[f"adam.{k}.{name}"])
            for k in keys
        }
