"""How well the first latents of a dictionary do on their own: a curve for each coder, and a slider along it."""

from collections.abc import Mapping
from typing import Any

from .chart import Axes, text, ticks
from .html import count, esc, fixed

SIZE, BOX = (620, 280), (46, 500, 14, 228)
DASHES = ("", "7 4", "2 4")


def prefix(data: Mapping[str, Any]) -> str:
    """The picture. `data` is what `widgets.PrefixSlider.compute` gives."""
    return (
        f'<section class="sk" aria-label="Prefixes of dictionaries"><div class="sk-head"><div><h3 class="sk-title">{esc(_finding(data))}'
        f'</h3><p class="sk-sub">FVU from the first latents alone, the rest left out; {count(data["n"])} held-out tokens</p></div></div>'
        f'{_bar(data)}<div class="sk-body sk-rule">{_plot(data)}</div><div class="sk-foot"><span class="live"><kbd>←</kbd> <kbd>→</kbd> '
        "on the slider</span><span>marks on the axis: widths that were trained to do alone</span></div></section>"
    )


def _finding(data: Mapping[str, Any]) -> str:
    at, width = data["at"], data["widths"][data["at"]]
    found = ", ".join(f"{name} {fixed(curve[at], 3)}" for name, curve in data["curves"].items())
    return f"The first {count(width)} latents alone leave unexplained: {found}"


def _bar(data: Mapping[str, Any]) -> str:
    widths = data["widths"]
    names = " ".join(str(w) for w in widths)
    return (
        f'<div class="sk-bar"><div class="sk-field" style="flex:1 1 300px"><label for="px-{data["id"]}">Latents that may take part '
        f'<output>{widths[data["at"]]}</output></label><input id="px-{data["id"]}" type="range" min="0" max="{len(widths) - 1}" step="1" '
        f'value="{data["at"]}" data-act="at" data-live data-names="{names}"></div></div>'
    )


def _plot(data: Mapping[str, Any]) -> str:
    widths, at = data["widths"], data["at"]
    top = max(1.0, *(v for curve in data["curves"].values() for v in curve))
    axes = Axes(BOX, (0, len(widths) - 1), (0, top))
    drawn = axes.grid([(v, f"{v:.3g}") for v in ticks(0, top)])
    drawn += axes.floor([(i, str(w)) for i, w in enumerate(widths) if i % 2 == 0 or len(widths) < 9])
    for i, width in enumerate(widths):
        if width in data["trained"]:
            x = axes.px(i)
            drawn += f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{BOX[3] - 9}" y2="{BOX[3]}" stroke="var(--sk-ink)" stroke-width="2"/>'
    x, taken = axes.px(at), []
    drawn += f'<line class="ref" x1="{x:.1f}" x2="{x:.1f}" y1="{BOX[2]}" y2="{BOX[3]}"/>'
    for (name, curve), dash in zip(data["curves"].items(), DASHES, strict=False):
        colour = f"var(--sk-c{1 + DASHES.index(dash)})"
        drawn += axes.line(range(len(widths)), curve, colour, f'style="stroke-width:2.2" stroke-dasharray="{dash}"')
        drawn += f'<circle cx="{x:.1f}" cy="{axes.py(curve[at]):.1f}" r="4" fill="{colour}"/>'
        y = axes.py(curve[-1]) + 4
        y = y + 14 if any(abs(y - other) < 13 for other in taken) else y
        taken.append(y)
        drawn += text(BOX[1] + 6, y, name)
    drawn += text((BOX[0] + BOX[1]) / 2, BOX[3] + 34, "latents that may take part, log axis", "middle")
    alt = _finding(data)
    return f'<svg viewBox="0 0 {SIZE[0]} {SIZE[1]}" role="img" aria-label="{esc(alt)}" style="max-width:720px">{drawn}</svg>'
