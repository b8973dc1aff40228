"""Six training runs, good and bad, as pictures for a quiz. `python -m saekit.lesson.curves` records them again."""

import json
from functools import cache
from pathlib import Path

import torch

from .. import presets
from ..activations import Activations
from ..corpus import load_corpus
from ..files import replacing
from ..hooks import Site, load_model
from ..losses import fvu
from ..train import train
from ..viz.chart import Axes, text
from ..viz.html import Html, esc, fixed, percent

FILE = Path(__file__).with_name("curves.json")
D_IN, D_SAE, TOKENS, POINTS = 256, 512, 400_000, 40
RUNS = {  # in the order of the pictures A to F: what makes coder and objective, and the rate
    "small steps": (lambda: presets.batch_topk(D_IN, D_SAE, k=32), 1e-4),
    "dying": (lambda: (presets.topk(D_IN, 2 * D_SAE, k=8)[0], fvu()), 0.1),
    "good": (lambda: presets.batch_topk(D_IN, D_SAE, k=32), None),
    "dense": (lambda: presets.relu(D_IN, D_SAE, sparsity=0.1), None),
    "large steps": (lambda: presets.batch_topk(D_IN, D_SAE, k=32), 0.3),
    "starved": (lambda: presets.batch_topk(D_IN, D_SAE, k=2), None),
}
PANELS = {  # column: name, lowest and highest value, the two written at the axis, top and bottom in pixels
    "fvu": ("FVU", 0.02, 300.0, ((1, "1"), (100, "100")), 8, 74),
    "l0": ("L0", 0.0, 340.0, ((0, "0"), (320, "320")), 92, 120),
    "dead": ("dead", 0.0, 0.5, ((0, "0"), (0.5, "50 %")), 138, 166),
}
SIZE = (190, 172)  # small enough to stand beside two others without shrinking its text


def record() -> None:
    """Train the six on the shipped model and write their histories, a minute on one core."""
    model = load_model()
    acts = Activations(model, Site("blocks.2.hook_resid_post"), load_corpus(model, split="train"), tokens=TOKENS)
    histories = {}
    for name, (make, lr) in RUNS.items():
        torch.manual_seed(0)
        coder, objective = make()
        history = train(coder, acts, objective, lr=lr).history[["tokens", *PANELS]]
        thinned = history.iloc[:: -(-len(history) // POINTS)]
        histories[name] = {column: [float(f"{v:.4g}") for v in thinned[column]] for column in thinned}
    with replacing(FILE) as temporary:
        temporary.write_text(json.dumps(histories) + "\n", "utf-8")


@cache
def histories() -> dict[str, dict[str, list[float]]]:
    """{run: {"tokens", "fvu", "l0", "dead": one value a point}}."""
    return json.loads(FILE.read_text("utf-8"))


def picture(name: str) -> Html:
    """A run as three small curves over the same axes as the others; its letter, not its name, is shown."""
    history, letter = histories()[name], "ABCDEF"[list(RUNS).index(name)]
    end = f"FVU {fixed(history['fvu'][-1])}, L0 {fixed(history['l0'][-1], 0)}, dead {percent(history['dead'][-1], 0)}"
    alt = esc(f"Run {letter}. It ends at {end}; its highest FVU is {fixed(max(history['fvu']), 1)}.")
    drawn = "".join(_panel(column, history) for column in PANELS)
    size = f'viewBox="0 0 {SIZE[0]} {SIZE[1]}" style="max-width: {1.2 * SIZE[0]:.0f}px"'
    svg = f'<svg {size} role="img" aria-label="{alt}">{drawn}</svg>'
    return Html(f'<span style="flex: 1"><b>{letter}</b> · {esc(end)}{svg}</span>')


def _panel(column: str, history: dict[str, list[float]]) -> str:
    name, low, high, ticks, top, bottom = PANELS[column]
    axes = Axes((66, SIZE[0] - 4, top, bottom), (0, TOKENS), (low, high), log_y=column == "fvu")
    line = axes.line(history["tokens"], history[column])
    return axes.grid(ticks) + line + text(0, (top + bottom) / 2 + 4, name)


if __name__ == "__main__":
    record()
