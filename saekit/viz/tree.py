"""One latent of a small dictionary, and the latents of a larger one that lie nearest to it."""

from collections.abc import Mapping
from typing import Any

from .chart import text
from .html import count, esc, fixed, percent
from .marks import COLOUR, SHAPE, family, painted, shape

WIDTH, ROW, BOX_WIDTH = 720, 44, 246
LEFT, RIGHT = 8, WIDTH - BOX_WIDTH - 8


def tree(data: Mapping[str, Any]) -> str:
    """The picture. `data` is what `widgets.SplitTree.compute` gives."""
    return (
        f'<section class="sk" aria-label="Feature splitting"><div class="sk-head"><div><h3 class="sk-title">{esc(_finding(data))}</h3>'
        f'<p class="sk-sub">Decoder cosine; a random direction\'s nearest latent of {count(data["wide"])} is at {fixed(data["random"])}'
        f'</p></div></div><div class="sk-body sk-rule"><div class="sk-scroll">{_drawn(data)}</div></div><div class="sk-foot"><span class="live">'
        '<kbd>←</kbd> <kbd>→</kbd> next latent</span><span class="live"><kbd>Enter</kbd> open its card</span><span>solid: '
        "its own, no other of the small ones is nearer; dashed: another is</span></div></section>"
    )


def _finding(data: Mapping[str, Any]) -> str:
    children, latent = data["children"], data["parent"]["latent"]
    own = sum(c["own"] for c in children)
    closest = f"the closest is at {fixed(children[0]['cosine'])}"
    if not own:
        return f"Latent {latent} has no latent of its own among the nearest of {count(data['wide'])}; {closest}"
    return f"{own} of the {len(children)} latents of {count(data['wide'])} nearest to latent {latent} are its own; {closest}"


def _drawn(data: Mapping[str, Any]) -> str:
    children = data["children"]
    height = ROW * len(children) + 26
    middle = 22 + ROW * len(children) / 2
    drawn = text(LEFT, 12, f"{count(data['narrow'])} latents") + text(RIGHT, 12, f"{count(data['wide'])} latents")
    for i, child in enumerate(children):
        y = 22 + ROW * (i + 0.5)
        dash = "" if child["own"] else ' stroke-dasharray="5 4"'
        x0, x1 = LEFT + BOX_WIDTH, RIGHT
        bend = f"M{x0} {middle:.1f}C{x0 + 80} {middle:.1f} {x1 - 110} {y:.1f} {x1} {y:.1f}"
        thick = 1 + 6 * max(child["cosine"], 0)
        drawn += f'<path d="{bend}" fill="none" stroke="var(--sk-mark-soft)" stroke-width="{thick:.1f}"{dash}/>'
        drawn += text(x1 - 8, y + 4, fixed(child["cosine"]), "end", strong=True, halo=True)
        drawn += _node(child, x1, y, "wide", data)
    drawn += _node(data["parent"], LEFT, middle, "narrow", data)
    alt = f"{_finding(data)}. Cosines {', '.join(fixed(c['cosine']) for c in children)}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="group" data-roving aria-label="{esc(alt)}" '
        f'style="max-width:{WIDTH}px;min-width:560px">{drawn}</svg>'
    )


def _node(node: Mapping[str, Any], x: float, y: float, side: str, data: Mapping[str, Any]) -> str:
    chosen = data["selected"] == [side, node["latent"]]
    stop = chosen or (data["selected"] is None and side == "narrow")
    label = node["label"] or "no label fits"
    facts = f"F1 {fixed(node['f1'])} · on at {percent(node['density'])}"
    words = f"Latent {node['latent']}, {label}, {facts}"
    group = family(node["label"])
    return (
        f'<g class="tr-node" tabindex="{0 if stop else -1}" role="button" aria-pressed="{str(chosen).lower()}" data-act="open" '
        f'data-arg="{side} {node["latent"]}" aria-label="{esc(words)}"><rect x="{x}" y="{y - 17:.1f}" width="{BOX_WIDTH}" height="34" rx="6" '
        f'fill="{"var(--sk-raise-2)" if chosen else "var(--sk-surface)"}" stroke="{"var(--sk-ink)" if chosen else "var(--sk-control)"}"/>'
        f"{painted(shape(SHAPE.get(group, 'cross'), 4.5, x + 16, y), group if group in COLOUR else 'other')}"
        f"{text(x + 30, y - 3, str(node['latent']), strong=True)}{text(x + 70, y - 3, label[:26])}"
        f"{text(x + 30, y + 11, facts)}</g>"
    )
