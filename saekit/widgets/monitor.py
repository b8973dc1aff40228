"""`TrainMonitor`: a training run as it happens, with a Stop button that works while the cell is busy."""

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .. import presets
from ..activations import Activations
from ..activations.stream import FORWARD_WINDOWS
from ..corpus import pieces
from ..hooks import capture
from ..train import Moment, Run, train
from ..viz.html import count, esc
from ..viz.monitor import BINS, monitor
from .view import View

DRAW_EVERY = 0.5  # seconds
PROBES = 24  # in a run: densities, F1 and norms
PROBE_WINDOWS = 24
LABELS = ("docstring", "comment", "string", "bracket", "keyword", "import line")
_ids = itertools.count()

# Settings of a run started by hand: label, value at each notch of the slider.
NOTCHES: dict[str, tuple[str, tuple[float, ...]]] = {
    "lr": ("Learning rate", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)),
    "k": ("k per token", (4, 8, 16, 32, 64, 128)),
    "d_sae": ("Latents", (256, 512, 1024, 2048, 4096)),
    "batch_size": ("Batch, tokens", (512, 1024, 2048, 4096)),
    "steps": ("Steps", (60, 120, 240, 480, 960)),
}


class TrainMonitor(View):
    """Six small figures of a run, the best latent so far, Pause and Stop.

    `sk.train` shows one by itself in a notebook. `TrainMonitor(acts)` alone has sliders and a Start button, which
    trains a BatchTopK coder; the result is `.run`. Settings are notches: `.set_state(k=3)` is NOTCHES["k"][1][3].
    """

    def __init__(self, acts: Activations, *, startable: bool = True) -> None:
        self.acts, self.startable = acts, startable
        self.run: Run | None = None
        self._stop, self._go_on = threading.Event(), threading.Event()
        self._go_on.set()
        self._probe = _Probe(acts)
        self._number = next(_ids)
        self._last: dict[str, list] | None = None
        self._history: dict[str, list[float]] = {}
        self._reset()
        super().__init__(lr=3, k=3, d_sae=2, batch_size=2, steps=2)
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
        self._state_name, self._moment, self._about = "ready", None, esc(self.acts.site.name)
        self._history = {}
        self._probes: list[dict[str, Any]] = []
        self._events: list[tuple[int, str]] = []
        self._started, self._drawn, self._ended, self._paused_for = time.monotonic(), 0.0, None, 0.0
        self._plan: dict[str, Any] = {"steps": 0, "batch_size": 0, "target_l0": None, "threads": None}

    # -- what `train` tells it

    def begin(self, coder: Any, steps: int, batch_size: int, threads: int) -> None:
        """A run starts; its first picture."""
        self._reset()
        self._state_name = "running"
        nonlinearity = coder.nonlinearity
        target = getattr(nonlinearity, "k", None)
        self._plan = {"steps": steps, "batch_size": batch_size, "target_l0": target, "threads": threads}
        sparsity = f" · k {target:g}" if target else ""
        kind = ("Batch" if getattr(nonlinearity, "along", "") == "batch" else "") + type(nonlinearity).__name__
        self._about = (
            f'<span class="sk-mono">{esc(kind)}</span> · {coder.d_in} → {count(coder.d_sae)} latents'
            f'{sparsity} · on <span class="sk-mono">{esc(self.acts.site.name)}</span>'
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
        """Train a BatchTopK coder with the settings of the sliders; returns when it is done or stopped."""
        chosen = self.settings()
        coder, objective = presets.batch_topk(self.acts.d_in, int(chosen["d_sae"]), k=int(chosen["k"]))
        steps, batch_size = int(chosen["steps"]), int(chosen["batch_size"])
        train(coder, self.acts, objective, steps=steps, batch_size=batch_size, lr=chosen["lr"], progress=self)

    def settings(self) -> dict[str, float]:
        """What the sliders say, as numbers."""
        return {name: NOTCHES[name][1][notch] for name, notch in self._state.items()}

    def check(self) -> None:
        for name, notch in self._state.items():
            if notch not in range(len(NOTCHES[name][1])):
                raise ValueError(f"{name}={notch}: give a notch from 0 to {len(NOTCHES[name][1]) - 1}")

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
            "norms": [p["norms"] for p in self._probes], "best": newest and newest["best"],
            "events": self._events, "pca_axes": self._plan["target_l0"],
            "pca": self._probe.pca(self._plan["target_l0"]), "settings": self._sliders() if self.startable else {},
            "kept": "The coder so far is finished and in the run.",
            "facts": [f"{self._plan['threads']} threads"] if self._plan["threads"] else [],
        }  # fmt: skip

    def _sliders(self) -> dict[str, tuple]:
        return {
            name: (label, self._state[name], [f"{value:g}" for value in values])
            for name, (label, values) in NOTCHES.items()
        }

    def render(self, data: dict[str, Any]) -> str:
        return monitor(data)

    def static(self, data: dict[str, Any]) -> str:
        return monitor(data | {"controls": False, "settings": {}})

    def title(self) -> str:
        return "Training monitor"


class _Probe:
    """Held-out tokens with their labels, looked at with the coder as it is in the middle of training."""

    def __init__(self, acts: Activations) -> None:
        self.acts = acts
        self._harvest: tuple[torch.Tensor, Any] | None = None
        self._spectrum: np.ndarray | None = None

    def _read(self) -> tuple[torch.Tensor, Any]:
        """Activations [rows, d_in] of a few windows the stream never serves, and those windows."""
        if self._harvest is None:
            corpus = self.acts.corpus[np.sort(self.acts.held_out_windows[:PROBE_WINDOWS])]
            parts = [self._rows(corpus[i : i + FORWARD_WINDOWS]) for i in range(0, len(corpus), FORWARD_WINDOWS)]
            self._harvest = torch.cat(parts), corpus
        return self._harvest

    @torch.no_grad()
    def _rows(self, part: Any) -> torch.Tensor:
        seen = capture(self.acts.model, part.tokens, self.acts.site)
        return self.acts.site.inputs(seen)[torch.from_numpy(part.mask)].float()

    def pca(self, axes: float | None) -> float | None:
        """FVU of a PCA with as many axes as a token has latents on: the control of the first figure."""
        x = self._read()[0]
        if axes is None or not 1 <= axes < min(x.shape):
            return None
        if self._spectrum is None:
            self._spectrum = torch.linalg.eigvalsh(torch.cov(x.T.double())).flip(0).numpy()
        return float(self._spectrum[int(axes) :].sum() / self._spectrum.sum())

    @torch.no_grad()
    def __call__(self, moment: Moment) -> dict[str, Any]:
        x, corpus = self._read()
        coder = moment.coder
        codes = coder.encode(x * moment.scale.x).on()
        density = codes.counts().numpy() / len(x)
        alive = density[density > 0]
        bins, _ = np.histogram(np.log10(alive), BINS, (-5, 0))
        norms = torch.quantile(coder.W_dec.norm(dim=1), torch.tensor([0.1, 0.5, 0.9])).tolist()
        f1, best = self._labels(codes, corpus)
        return {
            "step": moment.step, "tokens": moment.row["tokens"], "dead": moment.row["dead"], "rows": len(x),
            "density_bins": bins.tolist(), "silent": int((density == 0).sum()), "norms": norms, "f1": f1, "best": best,
            "density_range": np.quantile(alive, [0.1, 0.9]).tolist() if len(alive) else (0.0, 0.0),
        }  # fmt: skip

    def _labels(self, codes: Any, corpus: Any) -> tuple[dict[str, float], dict[str, Any] | None]:
        """The best F1 of any latent for each label, and the latent that is best of all."""
        scored = corpus.scored[corpus.mask]
        truths = {name: corpus.labels[name][corpus.mask] & scored for name in LABELS if name in corpus.labels}
        truths = {name: truth for name, truth in truths.items() if truth.sum() >= 20}
        rows, latents = codes.rows.numpy(), codes.latents.numpy()
        on = np.bincount(latents[scored[rows]], minlength=codes.d_sae)
        best: dict[str, tuple[float, int, float]] = {}
        for name, truth in truths.items():
            hits = np.bincount(latents[truth[rows]], minlength=codes.d_sae)
            f1 = 2 * hits / np.maximum(on + truth.sum(), 1)
            base = truth.sum() / scored.sum()
            best[name] = float(f1.max()), int(f1.argmax()), 2 * base / (1 + base)
        if not best:
            return {}, None
        # The label furthest above a detector that always fires; token-identity labels are no evidence.
        label = max((n for n in best if n not in corpus.identity_labels), key=lambda n: best[n][0] - best[n][2])
        f1, latent, always = best[label]
        shown = {"latent": latent, "label": label, "f1": f1, "always_fire": always}
        return {name: found[0] for name, found in best.items()}, shown | self._examples(codes, corpus, latent)

    def _examples(self, codes: Any, corpus: Any, latent: int) -> dict[str, Any]:
        """The two strongest places of a latent, in different windows."""
        values = np.zeros(corpus.mask.shape, np.float32)
        flat = np.zeros(codes.n_rows, np.float32)
        chosen = (codes.latents == latent).numpy()
        flat[codes.rows.numpy()[chosen]] = codes.values.numpy()[chosen]
        values[corpus.mask] = flat
        examples = []
        for window in np.argsort(-values.max(1))[:2]:
            peak = int(values[window].argmax())
            span = slice(max(corpus.lead, peak - 14), peak + 8)
            tokens = pieces(self.acts.model.tokenizer, corpus.tokens[window, span].tolist())
            examples.append({"tokens": tokens, "values": values[window, span].tolist()})
        return {"examples": examples, "max": float(values.max()) or 1.0}
