"""What patching restores, layers by tokens: a heatmap with one cell chosen."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from .heat import Cell, cells, cut, hatching, over, plain
from .html import esc, fixed, named, percent, piece
from .marks import bar

ROW, HEAD, LABELS, ROOM = 30, 68, 96, 540  # pixels
LEAST = 0.3  # of the difference, or a layer is not said to hold the answer anywhere
KEYS = "ArrowLeft ArrowRight ArrowUp ArrowDown Home End"


def patching_map(data: Mapping[str, Any]) -> str:
    """The map. `data` is what `widgets.PatchingMap.compute` gives."""
    return (
        f'<section class="sk" aria-label="Activation patching"><div class="sk-head"><div><h3 class="sk-title">{esc(finding(data))}</h3>'
        f'<p class="sk-sub"><span class="sk-mono">{esc(data["site"])}</span> · one position of one layer restored to the clean run · '
        f"share of the difference in {esc(data['metric'])} that comes back; below 0 is blue and hatched</p></div></div>"
        f'<div class="sk-body sk-rule">{_heat(data)}{_detail(data)}</div>{_foot()}</section>'
    )


def finding(data: Mapping[str, Any]) -> str:
    """Where the largest share sits, layer by layer, as far as it is large enough to speak of."""
    best = [max(range(len(row)), key=row.__getitem__) for row in data["shares"]]
    held = [pos if row[pos] >= LEAST else None for row, pos in zip(data["shares"], best, strict=True)]
    if not any(pos is not None for pos in held):
        most = max(max(row) for row in data["shares"])
        return f"No single position restores much: {percent(most, 0)} at most"
    parts = []
    for pos, group in groupby(enumerate(held), key=lambda pair: pair[1]):
        layers = [layer for layer, _ in group]
        if pos is not None:
            parts.append(f"at {_word(data, pos)} in {_layers(layers)}")
    return "What restores the answer most sits " + ", then ".join(parts)


def _layers(layers: list[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0]}"
    return f"layers {layers[0]} {'and' if len(layers) == 2 else 'to'} {layers[-1]}"


def _word(data: Mapping[str, Any], pos: int) -> str:
    last = "the last token, " if pos == len(data["tokens"]) - 1 else ""
    return f"{last}{cut(plain(data['tokens'][pos]), 16)!r}"


def _heat(data: Mapping[str, Any]) -> str:
    n, rows = len(data["tokens"]), len(data["shares"])
    wide = min(max(ROOM / n, 34), 64)
    most = max(1.0, *(abs(v) for row in data["shares"] for v in row))
    height, hatch = HEAD + ROW * rows + 6, f"pa-h-{data['id']}"
    heads = "".join(_column(data, i, wide) for i in range(n))
    names = "".join(
        f'<text x="{LABELS - 10}" y="{_top(data, layer) + 19}" text-anchor="end">before layer {layer}</text>'
        for layer in range(rows)
    )
    drawn = cells(_cells(data, wide), most, (wide - 1.5, ROW - 3), hatch)
    hit = (
        f'<g data-act="at" data-point="0 {n} 0 {rows}" class="pm-plot"><rect x="0" y="{HEAD}" width="{n * wide:.1f}" '
        f'height="{ROW * rows}" class="av-ground"/>{drawn}</g>'
    )
    alt = (
        f"{finding(data)}. Heatmap of {rows} layers, the first at the bottom, by {n} tokens; arrows move between cells"
    )
    return (
        f'<div class="pm-heat"><svg width="{LABELS}" height="{height}" role="img" aria-label="Layers">{names}</svg>'
        f'<div class="sk-scroll"><svg width="{n * wide + 40:.0f}" height="{height}" role="group" data-roving data-keys="{KEYS}" '
        f'data-on="move" aria-label="{esc(alt)}">{hatching(hatch)}{heads}{hit}{_cursor(data, wide)}</svg></div></div>'
    )


def _top(data: Mapping[str, Any], layer: int) -> int:
    return HEAD + ROW * (len(data["shares"]) - 1 - layer)


def _column(data: Mapping[str, Any], i: int, wide: float) -> str:
    clean, corrupt = data["tokens"][i], data["corrupt_tokens"][i]
    words = cut(plain(clean), 10) if clean == corrupt else f"{cut(plain(clean), 6)} ≠ {cut(plain(corrupt), 6)}"
    return over(i * wide + wide / 2 + 4, HEAD - 6, words, clean != corrupt)


def _cells(data: Mapping[str, Any], wide: float) -> Iterator[Cell]:
    for layer, row in enumerate(data["shares"]):
        for i, share in enumerate(row):
            if abs(share) >= 0.005:
                yield i * wide + 0.5, _top(data, layer) + 1, share, fixed(100 * share, 0) if abs(share) >= 0.05 else ""


def _cursor(data: Mapping[str, Any], wide: float) -> str:
    layer, pos = data["cell"]
    said = f"{named(data['tokens'][pos])} before layer {layer}: {percent(data['shares'][layer][pos], 0)} comes back"
    return (
        f'<rect class="pm-at" x="{pos * wide + 0.5:.1f}" y="{_top(data, layer) + 1}" width="{wide - 1.5:.1f}" height="{ROW - 3}" rx="2" '
        f'tabindex="0" role="button" data-sight aria-label="{esc(said)}"/>'
    )


def _detail(data: Mapping[str, Any]) -> str:
    layer, pos = data["cell"]
    tokens = dict.fromkeys((data["tokens"][pos], data["corrupt_tokens"][pos]))
    shown = " / ".join(f'<span class="sk-mono">{piece(t, spaces=True, longest=24)}</span>' for t in tokens)
    share, patched = data["shares"][layer][pos], data["values"][layer][pos]
    facts = {"clean": data["clean"], "corrupt": data["corrupt"], "patched": patched}
    stats = "".join(f"<div><dt>{name}</dt><dd>{fixed(value)}</dd></div>" for name, value in facts.items())
    return (
        f'<div class="sk-panel pa-low" aria-live="polite"><h4>{esc(data["metric"][:1].upper() + data["metric"][1:])} with {shown}, token {pos + 1}, restored before layer {layer}</h4>'
        f'<dl class="sk-stats" style="margin:6px 0">{stats}<div><dt>comes back</dt><dd>{percent(share, 0)}</dd></div></dl>'
        f"{bar(share, percent(share, 0) + ' of the difference comes back', width='240px')}</div>"
    )


def _foot() -> str:
    return (
        '<div class="sk-foot"><span class="live"><kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd> cells</span><span>numbers are per cent; '
        "bold columns differ between the prompts: clean ≠ corrupt</span></div>"
    )
