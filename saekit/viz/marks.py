"""The small marks that repeat in every figure: families of labels with shape and colour, the ramp, bars, strips."""

import re
from collections.abc import Sequence
from math import ceil, cos, pi, sin

from .html import esc, fixed, piece

INDENT = re.compile(r"(\n) {3,}")
COLOUR = {"docstring": 1, "comment": 2, "string": 3, "bracket": 4, "keyword": 5, "other": 6}
SHAPE = {"docstring": "square", "comment": "triangle", "string": "diamond", "bracket": "circle", "keyword": "plus"}


def family(label: str) -> str:
    """The family of a label, which gives it colour and marker."""
    if label in ("docstring", "comment", "string"):
        return label
    if label.startswith("depth") or "bracket" in label:
        return "bracket"
    return "keyword" if "keyword" in label or label == "constant" else "other"


def shape(kind: str, r: float, x: float = 0, y: float = 0) -> str:
    """SVG path data of a marker around (x, y). Cross and plus are strokes, the others are filled."""
    if kind == "square":
        a = 0.9 * r
        return f"M{x - a:.1f} {y - a:.1f}h{2 * a:.1f}v{2 * a:.1f}h{-2 * a:.1f}Z"
    if kind == "triangle":
        return f"M{x:.1f} {y - 1.15 * r:.1f}L{x + 1.1 * r:.1f} {y + 0.8 * r:.1f}H{x - 1.1 * r:.1f}Z"
    if kind == "diamond":
        a = 1.25 * r
        return f"M{x:.1f} {y - a:.1f}l{a:.1f} {a:.1f} {-a:.1f} {a:.1f} {-a:.1f} {-a:.1f}Z"
    if kind == "circle":
        return f"M{x - r:.1f} {y:.1f}a{r:.1f} {r:.1f} 0 1 0 {2 * r:.1f} 0a{r:.1f} {r:.1f} 0 1 0 {-2 * r:.1f} 0Z"
    if kind == "plus":
        return f"M{x:.1f} {y - r:.1f}v{2 * r:.1f}M{x - r:.1f} {y:.1f}h{2 * r:.1f}"
    if kind == "down":
        return f"M{x:.1f} {y + 1.15 * r:.1f}L{x + 1.1 * r:.1f} {y - 0.8 * r:.1f}H{x - 1.1 * r:.1f}Z"
    if kind == "hourglass":
        return f"M{x - r:.1f} {y - r:.1f}h{2 * r:.1f}l{-2 * r:.1f} {2 * r:.1f}h{2 * r:.1f}Z"
    if kind == "hexagon":
        return _round([1.15 * r] * 6, x, y)
    if kind == "pentagon":
        return _round([1.15 * r] * 5, x, y)
    if kind == "star":
        return _round([1.6 * r, 0.7 * r] * 5, x, y)
    return f"M{x - r:.1f} {y - r:.1f}l{2 * r:.1f} {2 * r:.1f}M{x + r:.1f} {y - r:.1f}l{-2 * r:.1f} {2 * r:.1f}"


def _round(radii: Sequence[float], x: float, y: float) -> str:
    """A closed path through corners at these distances from (x, y), evenly turned, the first one straight up."""
    turns = [2 * pi * i / len(radii) for i in range(len(radii))]
    corners = [f"{x + r * sin(t):.1f} {y - r * cos(t):.1f}" for r, t in zip(radii, turns, strict=True)]
    return f"M{'L'.join(corners)}Z"


def painted(path: str, group: str, extra: str = "") -> str:
    """A path in the colour and manner of a family."""
    colour = f"var(--sk-c{COLOUR[group]})"
    if group in ("keyword", "other"):
        return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8" {extra}/>'
    return f'<path d="{path}" fill="{colour}" {extra}/>'


def marker(label: str, r: float = 4.5) -> str:
    """A label's marker as a small inline picture."""
    group = family(label)
    drawn = painted(shape(SHAPE.get(group, "cross"), r), group)
    return f'<svg class="sk-marker" width="14" height="14" viewBox="-7 -7 14 14" aria-hidden="true">{drawn}</svg>'


def step(value: float, maximum: float) -> int:
    """The step of the ramp, 0 (off) to 7: `ceil(7 value / maximum)`."""
    return 0 if value <= 0 or maximum <= 0 else max(1, min(7, ceil(7 * value / maximum)))


def ramp(low: str, high: str) -> str:
    """The scale of activations."""
    cells = "".join(f'<i style="background:var(--sk-a{i})"></i>' for i in range(1, 8))
    alt = esc(f"Colour scale from {low} to {high}")
    return f'<span class="sk-ramp" role="img" aria-label="{alt}">{esc(low)}<span>{cells}</span>{esc(high)}</span>'


LEFT = 44  # characters before the peak of a strip, so that the peak is always in sight


def strip(
    tokens: Sequence[str], values: Sequence[float], maximum: float, peak: int = -1, *, whole: bool = False
) -> str:
    """Tokens on one line, coloured and underlined by activation; the peak is bold. The indentation of a line is cut.

    What is far to the left of the peak is left out, unless `whole`, for a strip that can be scrolled.
    """
    drawn, first, room = [], max(peak, 0), LEFT
    while first > 0 and (room := room - min(len(tokens[first - 1]), 5 if "\n" in tokens[first - 1] else 99)) >= 0:
        first -= 1
    for i, (token, value) in list(enumerate(zip(tokens, values, strict=True)))[
        first if peak >= 0 and not whole else 0 :
    ]:
        kind = f" a{step(value, maximum)}" if value > 0 else ""
        title = f"{token!r:.60} · {fixed(value) if value > 0 else 'off'}"
        peaked = " is-peak" if i == peak else ""
        shown = piece(INDENT.sub(r"\1  ", token))
        drawn.append(f'<span class="sk-tok{kind}{peaked}" title="{esc(title)}">{shown}</span>')
    return f'<span class="sk-strip">{"".join(drawn)}</span>'


def bar(share: float, alt: str, tick: float | None = None, width: str = "96px") -> str:
    """A horizontal bar for a share, with a tick for its control."""
    mark = "" if tick is None else f'<b style="left:{100 * min(tick, 1):.1f}%"></b>'
    filled = f'<i style="width:{100 * min(max(share, 0), 1):.1f}%"></i>'
    return f'<span class="sk-barcell" style="width:{width}" role="img" aria-label="{esc(alt)}">{filled}{mark}</span>'


def chips(tokens: Sequence[str]) -> str:
    """A few tokens in grey boxes."""
    return (
        f'<span class="sk-chips">{"".join(f"<span>{piece(t, spaces=True, longest=16)}</span>" for t in tokens)}</span>'
    )
