"""`TrainMonitor`: a training run as it happens, with a Stop button that works while the cell is busy."""

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

from .. import presets
from ..activations import Source
from ..train import Moment, Run, train
from ..viz.html import count, esc
from ..viz.monitor import monitor
from .probe import ToyProbe, probe_of
from .view import View

DRAW_EVERY = 0.5  # seconds
PROBES = 24  # in a run: densities, norms, and what is known to be true
_ids = itertools.count()

# Settings of a run started by hand: label, value at each notch of the slider. A BatchTopK coder; on a toy, an L1 coder.
Notches = dict[str, tuple[str, tuple[float, ...]]]
NOTCHES: Notches = {
    "lr": ("Learning rate", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)),
    "k": ("k per token", (4, 8, 16, 32, 64, 128)),
    "d_sae": ("Latents", (256, 512, 1024, 2048, 4096)),
    "batch_size": ("Batch, tokens", (512, 1024, 2048, 4096)),
    "steps": ("Steps", (60, 120, 240, 480, 960)),
}
TOY_NOTCHES: Notches = {
    "lr": ("Learning rate", (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
    "sparsity": ("Sparsity λ", (0.1, 0.3, 1, 3, 10, 30)),
    "d_sae": ("Latents", (5, 10, 20, 32, 64, 256)),
    "batch_size": ("Batch, rows", (256, 512, 1024, 2048)),
    "steps": ("Steps", (100, 200, 400, 800)),
}


class TrainMonitor(View):
    """Six small figures of a run, the best latent so far, Pause and Stop.

    `sk.train` shows one by itself in a notebook. `TrainMonitor(acts)` alone has sliders and a Start button, which
    trains a BatchTopK coder, or an L1 coder where the source is a toy; the result is `.run`. Settings are notches:
    `.set_state(k=3)` is NOTCHES["k"][1][3].

    What is known to be true decides on one figure: of text the labels of its tokens (F1), of a toy its dictionary
    (cosine). A source of nothing but rows has neither, and five figures.
    """

    def __init__(self, acts: Source, *, startable: bool = True) -> None:
        self.acts, self.startable = acts, startable
        self.run: Run | None = None
        self._stop, self._go_on = threading.Event(), threading.Event()
        self._go_on.set()
        self._probe = probe_of(acts)
        self._notches = TOY_NOTCHES if isinstance(self._probe, ToyProbe) else NOTCHES
        self._number = next(_ids)
        self._last: dict[str, list] | None = None
        self._history: dict[str, list[float]] = {}
        self._reset()
        super().__init__(**(dict.fromkeys(self._notches, 2) | ({"lr": 3, "k": 3} if "k" in self._notches else {})))
        self._stay_reachable()

    def _stay_reachable(self) -> None:
        """Let Stop and Pause arrive while a cell is busy.

        Lab sends messages of widgets to a second thread of the kernel, but ipykernel hands those of a widget that a
        cell has drawn back to the cell's own thread, where they wait for the cell to end. Only Start belongs there.
        """
        if hasattr(self.comm, "_reply_subshell_for"):
            self.comm._reply_subshell_for = lambda data, subshell: (
                None if (data.get("content") or {}).get("act") == "start" else subshell
            )

    def _reset(self) -> None:
        if len(self._history.get("fvu", [])) > 2:
            self._last = self._history
        self._stop.clear()
        self._go_on.set()
        self._state_name, self._moment, self._about = "ready", None, esc(self._where)
        self._history = {}
        self._probes: list[dict[str, Any]] = []
        self._events: list[tuple[int, str]] = []
        self._started, self._drawn, self._ended, self._paused_for = time.monotonic(), 0.0, None, 0.0
        self._plan: dict[str, Any] = {"steps": 0, "batch_size": 0, "target_l0": None, "threads": None}

    @property
    def _where(self) -> str:
        return self.acts.site.name if self.acts.site else "a matrix of rows"

    # -- what `train` tells it

    def begin(self, coder: Any, steps: int, batch_size: int, threads: int) -> None:
        """A run starts; its first picture."""
        self._reset()
        self._state_name = "running"
        nonlinearity, banks = coder.banks[0].nonlinearity, len(coder.banks)
        k = getattr(nonlinearity, "k", None)
        target = k and k * banks
        self._plan = {"steps": steps, "batch_size": batch_size, "target_l0": target, "threads": threads}
        sparsity = f" · k {k:g}" if k else ""
        kind = ("Batch" if getattr(nonlinearity, "along", "") == "batch" else "") + type(nonlinearity).__name__
        several = f"{banks} coders · " if banks > 1 else ""
        self._about = (
            f'<span class="sk-mono">{esc(kind)}</span> · {several}{coder.d_in} → {count(coder.d_sae)} latents'
            f'{sparsity} · on <span class="sk-mono">{esc(self._where)}</span>'
        )
        self.draw()

    @property
    def stopping(self) -> bool:
        """Stop was pressed."""
        return self._stop.is_set()

    def on_step(self, moment: Moment) -> None:
        """Record a step and draw now and then; waits while paused."""
        self._moment = moment
        if moment.row and moment.row["step"] not in self._history.get("step", [])[-1:]:
            for name, value in moment.row.items():
                self._history.setdefault(name, []).append(value)
        if moment.step in (1, moment.steps) or moment.step % max(1, moment.steps // PROBES) == 0:
            self._look(moment)
        if time.monotonic() - self._drawn > DRAW_EVERY:
            self._drawn = time.monotonic()
            self.draw()
        if not self._go_on.is_set():
            self._wait()

    def end(self, run: Run, finite: bool = True) -> None:
        """The run is over, by itself or by Stop."""
        self.run, self._ended = run, time.monotonic()
        self._state_name = "failed" if not finite else "stopped" if run.stopped else "done"
        self.draw()

    def _look(self, moment: Moment) -> None:
        seen = self._probe(moment)
        if self._probes and self._probes[-1]["step"] == seen["step"]:
            return
        before = self._probes[-1]["dead"] if self._probes else 0.0
        if seen["dead"] > 0.05 >= before:
            self._events.append((moment.step, "more than 5 % of the latents are dead"))
        elif before > 0.05 >= seen["dead"]:
            self._events.append((moment.step, "dead latents below 5 %"))
        self._probes.append(seen)

    def _wait(self) -> None:
        paused = time.monotonic()
        self._state_name = "paused"
        self.draw()
        while not (self._go_on.wait(0.1) or self._stop.is_set()):
            pass
        self._state_name = "running"
        self._paused_for += time.monotonic() - paused

    # -- what the reader does

    def act(self, name: str, arg: Any) -> None:
        actions: dict[str, Callable[[], None]] = {
            "stop": self.stop, "pause": self.pause, "resume": self.resume, "start": self.start,
        }  # fmt: skip
        if name in actions:
            actions[name]()
        else:
            self.set_state(**{name: int(arg)})

    def stop(self) -> None:
        """End the run after the step under way; what was learned is kept."""
        self._stop.set()
        self._go_on.set()

    def pause(self) -> None:
        """Wait after the step under way until `resume` or `stop`."""
        self._go_on.clear()

    def resume(self) -> None:
        """Go on."""
        self._go_on.set()

    def start(self) -> None:
        """Train a coder with the settings of the sliders; returns when it is done or stopped."""
        chosen = self.settings()
        make = presets.batch_topk if "k" in chosen else presets.relu
        coder, objective = make(self.acts.d_in, int(chosen["d_sae"]), chosen["k" if "k" in chosen else "sparsity"])
        steps, batch_size = int(chosen["steps"]), int(chosen["batch_size"])
        train(coder, self.acts, objective, steps=steps, batch_size=batch_size, lr=chosen["lr"], progress=self)

    def settings(self) -> dict[str, float]:
        """What the sliders say, as numbers."""
        return {name: self._notches[name][1][notch] for name, notch in self._state.items()}

    def check(self) -> None:
        for name, notch in self._state.items():
            if notch not in range(len(self._notches[name][1])):
                raise ValueError(f"{name}={notch}: give a notch from 0 to {len(self._notches[name][1]) - 1}")

    # -- the picture

    def compute(self) -> dict[str, Any]:
        moment, newest = self._moment, self._probes[-1] if self._probes else None
        labels = {name: [p["f1"][name] for p in self._probes] for name in (newest or {}).get("f1", {})}
        ended = self._ended or time.monotonic()
        return {
            "id": self._number, "about": self._about, "state": self._state_name,
            "controls": self.startable or self._state_name in ("running", "paused"),
            "step": moment.step if moment else 0, "history": self._history, "ghost": self._last, **self._plan,
            "total_tokens": max(1, self._plan["steps"] * self._plan["batch_size"]),
            "seconds": ended - self._started - self._paused_for, "probe": newest,
            "labels": labels, "label_tokens": [p["tokens"] for p in self._probes],
            "cosines": [p["cosines"] for p in self._probes if "cosines" in p],
            "unit": self._probe.unit, "seen": self._probe.seen,
            "norms": [p["norms"] for p in self._probes], "best": (newest or {}).get("best"),
            "events": self._events, "pca_axes": self._plan["target_l0"],
            "pca": self._probe.pca(self._plan["target_l0"]), "settings": self._sliders() if self.startable else {},
            "kept": "The coder so far is finished and in the run.",
            "facts": [_counted(self._plan["threads"])] if self._plan["threads"] else [],
        }  # fmt: skip

    def _sliders(self) -> dict[str, tuple]:
        return {
            name: (label, self._state[name], [f"{value:g}" for value in values])
            for name, (label, values) in self._notches.items()
        }

    def render(self, data: dict[str, Any]) -> str:
        return monitor(data)

    def static(self, data: dict[str, Any]) -> str:
        return monitor(data | {"controls": False, "settings": {}})

    def title(self) -> str:
        return "Training monitor"


def _counted(threads: int) -> str:
    return f"{threads} thread" + ("s" if threads > 1 else "")
