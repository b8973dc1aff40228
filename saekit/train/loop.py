"""`train`: one loop for every variant.

1. Measure, once, the scale of the activations, and set b_pre and b_dec from them.
2. For each batch: encode, decode, sum the objective's terms, step the optimiser, put the parameters back in place.
3. At the end, or when stopped: calibrate thresholds on held-out activations, fold scale and b_pre into the weights.

Whatever ends the loop, the coder that comes back is in eval mode and reads raw activations.
"""

import contextlib
import itertools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from tqdm.auto import tqdm

from ..activations import Batch, Source, Windows
from ..coder import CoderStack, SparseCoder
from ..losses import Objective
from .checkpoint import Checkpoint
from .learner import Learner, Scale, hooks_of, scale_of
from .speed import plan_for, threads_set_to

HELD_OUT_ROWS = 8_192

Coder = SparseCoder | CoderStack


class Moment(NamedTuple):
    """What an `on_step` callback is told. Returning True stops the run."""

    step: int
    steps: int
    row: dict[str, float]  # the newest row of the history
    coder: Coder  # still at the training scale
    scale: Scale  # what activations are multiplied by at that scale


@dataclass
class Run:
    """What training gives back: the finished coder, its history, and how it ended."""

    coder: Coder
    history: pd.DataFrame
    steps: int
    stopped: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        last = self.history.iloc[-1] if len(self.history) else {}
        state = f"stopped after {self.steps} steps" if self.stopped else f"{self.steps} steps"
        return f"Run({state}" + "".join(f", {k} {last[k]:.3g}" for k in ("fvu", "l0", "dead") if k in last) + ")"


def train(
    coder: Coder | Sequence[Coder],
    acts: Source,
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
    progress: Any = True,
) -> Run | list[Run]:
    """Train one coder, or several on one stream of activations, and return a `Run` each.

    steps: default, one pass over `acts`. lr: Adam's rate, default `3e-3 sqrt(2048 / d_sae)` (1/sqrt rule of Gao et
    al. 2024); it warms up over 2 % of the run and falls linearly over the last 30 %. dead_after: a latent is dead
    when it was off for this share of the run. precision: "float32", or "bfloat16" for the product that finds what is
    on; threads: of torch; both are measured when not given. checkpoint: a file; the same call goes on from it, bit
    for bit on the same machine. progress: True shows a live `widgets.TrainMonitor` in a notebook and a bar
    elsewhere; False shows nothing; a monitor of your own is told of the run. Ctrl-C, the monitor's Stop button and an
    `on_step` that returns True end the run and keep what was learned.

    Raises ValueError for widths that do not match, coders and objectives that do not pair, a checkpoint of another
    run, and activations that are not finite.
    """
    coders = [coder] if isinstance(coder, Coder) else list(coder)
    objectives = [objective] if isinstance(objective, Objective) else list(objective)
    _check(coders, objectives, acts, batch_size, steps)
    steps = steps or max(1, len(acts) // batch_size)
    sample = acts.held_out(HELD_OUT_ROWS)
    reads, writes = hooks_of(acts.site)
    scale = Scale(scale_of(sample.x, reads), scale_of(sample.y, writes))
    sample = scale(sample)
    plan = plan_for(coders[0], sample.x[:batch_size], precision, threads)
    settings = {"steps": steps, "batch_size": batch_size, "seed": acts.seed, "tokens": len(acts)}
    learners = [
        Learner(c, o, steps, lr or 3e-3 * (2048 / c.banks[0].d_sae) ** 0.5, dead_after)
        for c, o in zip(coders, objectives, strict=True)
    ]
    for learner in learners:
        learner.peers = tuple(other.coder for other in learners if other is not learner)
        learner.begin(sample)
    saved = None if checkpoint is None else Checkpoint(Path(checkpoint), settings)
    done, plan = saved.restore(learners, plan) if saved else (0, plan)
    fast = plan["precision"] == "bfloat16"
    monitor = _monitor(acts, progress)
    bar = tqdm(total=steps, initial=done, disable=bool(monitor) or not progress, desc="training", unit="step")
    if monitor:
        monitor.begin(coders[0], steps, batch_size, plan["threads"])
    finite = True

    with threads_set_to(plan["threads"]), interruptible() as interrupted, bar:

        def ends() -> bool:
            return interrupted.is_set() or bool(monitor and monitor.stopping)

        try:
            for batch in itertools.islice(acts.batches(batch_size, done * batch_size, until=ends), steps - done):
                finite = _steps(learners, scale(batch), done, fast)
                if not finite:
                    break
                done += 1
                _show(bar, learners[0].row)
                moments = [Moment(done, steps, r.row, r.coder, scale) for r in learners]
                if monitor:
                    monitor.on_step(moments[0])
                if any([on_step(moment) for moment in moments] if on_step else []) or ends():
                    break
                if saved:
                    saved.maybe(learners, done, plan)
        finally:  # whatever ended it, what was learned is kept
            try:
                if saved:
                    saved.write(learners, done, plan)
            finally:
                for learner in learners:
                    learner.finish(sample, scale, acts)
    runs = [Run(r.coder, pd.DataFrame(r.history), done, done < steps, settings | plan) for r in learners]
    if monitor:
        monitor.end(runs[0], finite)
    return runs[0] if isinstance(coder, Coder) else runs


def _steps(learners: list[Learner], batch: Batch | Windows, done: int, fast: bool) -> bool:
    """One step of every learner; False, with a warning, when a loss is not finite."""
    finite = [learner.step(batch, done, fast) for learner in learners]
    if not all(finite):
        warnings.warn(f"the loss is not finite at step {done}; stopped with what was learned before", stacklevel=3)
    return all(finite)


def _monitor(acts: Source, progress: Any) -> Any:
    """The monitor that was given, a new one in a notebook, else None. Of several coders it shows the first."""
    if not isinstance(progress, bool):
        return progress
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if not progress or getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import display

    from ..widgets import TrainMonitor

    monitor = TrainMonitor(acts, startable=False)
    display(monitor)
    return monitor


def _show(bar: tqdm, row: dict[str, float]) -> None:
    bar.update()
    bar.set_postfix({k: f"{v:.3g}" for k, v in row.items() if k in ("fvu", "l0", "dead")}, refresh=False)


def _check(coders: list, objectives: list, acts: Source, batch_size: int, steps: int | None) -> None:
    if len(coders) != len(objectives) or not coders:
        raise ValueError(f"{len(coders)} coders and {len(objectives)} objectives; give one objective for each coder")
    for coder in coders:
        if (coder.d_in, coder.d_out) != (acts.d_in, acts.d_out):
            raise ValueError(
                f"the coder maps width {coder.d_in} to {coder.d_out}, but {_where(acts)!r} "
                f"has width {acts.d_in} to {acts.d_out}; make the coder with these widths"
            )
        if coder.site is not None or not coder.training:
            raise ValueError(f"this coder is finished (trained at {coder.site and coder.site.name!r}); train a new one")
    if batch_size < 1 or (steps is not None and steps < 1):
        raise ValueError(f"batch_size={batch_size}, steps={steps}: both must be at least 1")


def _where(acts: Source) -> str:
    return acts.site.name if acts.site else "the source"


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
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
