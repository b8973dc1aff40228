"""Axes of a small SVG figure: where a value lies, the grid, lines and words. Hairlines, three to five ticks, no box."""

from collections.abc import Iterable, Sequence
from math import ceil, floor, log10

from .html import esc

HALO = "paint-order:stroke;stroke:var(--sk-surface);stroke-width:3px"


class Axes:
    """A rectangle of the picture, (left, right, top, bottom) in pixels, and the range of values it shows."""

    def __init__(
        self,
        box: tuple[float, float, float, float],
        x: tuple[float, float],
        y: tuple[float, float],
        log_y: bool = False,
    ) -> None:
        self.left, self.right, self.top, self.bottom = box
        self.x, self.y, self.log_y = x, y, log_y

    def px(self, value: float) -> float:
        low, high = self.x
        return self.left + (self.right - self.left) * (value - low) / ((high - low) or 1)

    def py(self, value: float) -> float:
        low, high = self.y
        if self.log_y:
            value, low, high = log10(max(value, low)), log10(low), log10(high)
        share = (value - low) / ((high - low) or 1)
        return self.bottom - (self.bottom - self.top) * min(max(share, 0.0), 1.0)

    def grid(self, ticks: Iterable[tuple[float, str]]) -> str:
        """Horizontal lines, their values at the left."""
        return "".join(
            f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{self.py(v):.1f}" y2="{self.py(v):.1f}"/>'
            + text(self.left - 5, self.py(v) + 4, name, "end")
            for v, name in ticks
        )

    def floor(self, ticks: Iterable[tuple[float, str]]) -> str:
        """The horizontal axis and its values."""
        line = f'<line class="axis" x1="{self.left}" x2="{self.right}" y1="{self.bottom}" y2="{self.bottom}"/>'
        return line + "".join(text(self.px(v), self.bottom + 16, name, "middle") for v, name in ticks)

    def path(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """Path data through the points."""
        points = [f"{self.px(x):.1f} {self.py(y):.1f}" for x, y in zip(xs, ys, strict=True)]
        return "M" + "L".join(points) if points else ""

    def line(self, xs: Sequence[float], ys: Sequence[float], colour: str = "var(--sk-ink)", extra: str = "") -> str:
        return f'<path d="{self.path(xs, ys)}" fill="none" stroke="{colour}" stroke-width="1.6" {extra}/>'

    def level(self, y: float, name: str = "") -> str:
        """A dotted reference line."""
        line = f'<line class="ref" x1="{self.left}" x2="{self.right}" y1="{self.py(y):.1f}" y2="{self.py(y):.1f}"/>'
        return line + (text(self.right, self.py(y) - 4, name, "end", halo=True) if name else "")


def text(x: float, y: float, words: str, anchor: str = "start", *, strong: bool = False, halo: bool = False) -> str:
    kind = ' class="v"' if strong else ""
    style = f' style="{HALO}"' if halo else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}{style}>{esc(words)}</text>'


def figure(title: str, caption: str, drawn: str, size: tuple[int, int], alt: str = "") -> str:
    """A figure: its finding, what it shows, the picture."""
    width, height = size
    picture = (
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{1.15 * width:.0f}px" role="img" '
        f'aria-label="{esc(alt or title)}">{drawn}</svg>'
    )
    return f'<figure class="sk-panel"><h4>{esc(title)}</h4><p class="sk-cap">{esc(caption)}</p>{picture}</figure>'


def thin(values: Sequence, most: int = 120) -> list:
    """At most `most` of the values, evenly, the last one among them."""
    step = max(1, -(-len(values) // most))
    return [*values[:-1][::step], *values[-1:]]


def ticks(low: float, high: float, log: bool = False, most: int = 6) -> list[float]:
    """Round numbers within a range, evenly apart; on a log axis 1, 2 and 5 times powers of ten where three fit."""
    if log:
        decades = range(floor(log10(low)), ceil(log10(high)) + 1)
        for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            found = [m * 10.0**e for e in decades for m in steps if low <= m * 10.0**e <= high]
            if len(found) >= 3:
                return found[:: ceil(len(found) / most)]
    step = 10 ** floor(log10((high - low) / most))
    step = next(m * step for m in (1, 2, 5, 10) if (high - low) / (m * step) <= most)
    return [step * i for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]
