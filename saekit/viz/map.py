"""Latents as points on two measured scales; one of them is chosen."""

from collections.abc import Mapping, Sequence
from math import asinh, sinh
from typing import Any

from .chart import Axes, text, ticks
from .html import count, esc, fixed
from .marks import COLOUR, SHAPE, marker, painted, shape
from .notes import button

SIZE = (580, 384)
BOX = (52, 566, 16, 330)
NAMES = {"bracket": "bracket, depth", "other": "other or none"}


def latent_map(data: Mapping[str, Any]) -> str:
    """The map. `data` is what `widgets.LatentMap.compute` gives."""
    return (
        f'<section class="sk" aria-label="Map of latents"><div class="sk-head"><div><h3 class="sk-title">{esc(data["title"])}</h3>'
        f'<p class="sk-sub"><span class="sk-mono">{esc(data["site"])}</span> · {esc(data["y"])} against {esc(data["x"])}, '
        f'{count(len(data["points"]))} latents</p></div></div><div class="sk-body sk-rule">'
        f'<div class="sk-cols sk-collapse pp"><div>{_plot(data)}</div>{_side(data)}</div></div>{_foot()}</section>'
    )


def placed(value: float, bent: bool) -> float:
    """Where a value lies on its axis: asinh(value) on a bent one, which is a log axis with a place for 0."""
    return asinh(value) if bent else value


def _marks(low: float, high: float, bent: bool) -> list[tuple[float, str]]:
    if not bent:
        return [(v, f"{v:.4g}".replace("-", "\u2212")) for v in ticks(low, high)]
    tens = [10**e for e in range(7)]
    values = [v for v in [*(-t for t in reversed(tens)), 0, *tens] if sinh(low) <= v <= sinh(high)]
    return [(asinh(v), fixed(v, 0)) for v in values]


def _plot(data: Mapping[str, Any]) -> str:
    (x0, x1), (y0, y1) = data["range"]
    axes = Axes(BOX, (x0, x1), (y0, y1))
    bent_x, bent_y = (data[axis] in data["bent"] for axis in "xy")
    drawn = axes.grid(_marks(y0, y1, bent_y)) + axes.floor(_marks(x0, x1, bent_x))
    drawn += text((BOX[0] + BOX[1]) / 2, BOX[3] + 38, data["x"] + (", bent axis" if bent_x else ""), "middle")
    drawn += text(0, 4, data["y"] + (", bent axis" if bent_y else ""))
    for group in COLOUR:
        here = (
            shape(SHAPE.get(group, "cross"), 2.6, axes.px(x), axes.py(y)) for x, y, g in data["points"] if g == group
        )
        if path := "".join(here):
            drawn += painted(path, group, 'opacity="0.75"')
    drawn += _splits(axes, data["splits"]) + _corners(data["corners"]) + _ring(axes, data["picked"])
    # The area that a click is read in, over everything drawn.
    drawn += (
        f'<rect class="fb-plot" x="{BOX[0]}" y="{BOX[2]}" width="{BOX[1] - BOX[0]}" height="{BOX[3] - BOX[2]}" fill="transparent" '
        f'data-act="point" data-point="{x0} {x1} {y0} {y1}"/>'
    )
    alt = f"{data['title']}. {data['y']} against {data['x']} of {count(len(data['points']))} latents. Arrow keys choose one."
    picture = (
        f'<svg viewBox="0 -8 {SIZE[0]} {SIZE[1] + 8}" role="group" tabindex="0" aria-label="{esc(alt)}" '
        f'data-keys="ArrowLeft ArrowRight ArrowUp ArrowDown Enter" data-on="key" style="max-width:680px">{drawn}</svg>'
    )
    return f'<div class="sk-panel">{picture}<div class="sk-cap sk-legend">{_legend(data)}</div></div>'


def _splits(axes: Axes, splits: Sequence[float | None]) -> str:
    """Dotted lines that part the plot."""
    across, up = splits
    drawn = "" if up is None else axes.level(up)
    if across is not None:
        x = axes.px(across)
        drawn += f'<line class="ref" x1="{x:.1f}" x2="{x:.1f}" y1="{axes.top}" y2="{axes.bottom}"/>'
    return drawn


def _corners(names: Sequence[str]) -> str:
    """What the four parts are called: upper left, upper right, lower left, lower right."""
    left, right, top, bottom = BOX[0] + 6, BOX[1] - 6, BOX[2] + 12, BOX[3] - 7
    places = ((left, top, "start"), (right, top, "end"), (left, bottom, "start"), (right, bottom, "end"))
    return "".join(
        text(x, y, name, anchor, strong=True, halo=True) for (x, y, anchor), name in zip(places, names, strict=False)
    )


def _ring(axes: Axes, picked: Mapping[str, Any]) -> str:
    x, y = axes.px(picked["px"]), axes.py(picked["py"])
    left = x > BOX[1] - 60
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="var(--sk-ink)" stroke-width="1.6"/>'
    anchor = "end" if left else "start"
    return ring + text(x + (-13 if left else 13), y + 4, str(picked["latent"]), anchor, strong=True, halo=True)


def _legend(data: Mapping[str, Any]) -> str:
    groups = sorted({g for _, _, g in data["points"]}, key=list(COLOUR).index)
    return "".join(f"<span>{marker(g if g != 'other' else '')} {NAMES.get(g, g)}</span>" for g in groups)


def _side(data: Mapping[str, Any]) -> str:
    picked, i = data["picked"], data["id"]
    label = f"{marker(picked['label'])} {esc(picked['label'])}" if picked["label"] else "no label fits"
    rows = "".join(
        f'<tr><th scope="row">{esc(name)}</th><td class="sk-num">{esc(value)}</td></tr>'
        for name, value in picked["facts"]
    )
    word = "Close card" if data["open"] else "Open card"
    return (
        f'<div class="sk-panel pp-side" aria-live="polite"><h4>Latent {picked["latent"]}</h4><p class="sk-cap">{label}</p>'
        f'<table><tbody>{rows}</tbody></table><div class="sk-group live" style="margin-top:10px">'
        f'<label class="sk-vh" for="lm-{i}">Latent number</label><input id="lm-{i}" type="number" min="0" value="{picked["latent"]}" '
        f'style="width:76px" data-act="latent">{button(word, "open")}</div></div>'
    )


def _foot() -> str:
    return (
        '<div class="sk-foot"><span class="live">click a point</span><span class="live"><kbd>←</kbd> <kbd>→</kbd> next across'
        '</span><span class="live"><kbd>↑</kbd> <kbd>↓</kbd> next up</span><span class="live"><kbd>Enter</kbd> open card</span></div>'
    )
