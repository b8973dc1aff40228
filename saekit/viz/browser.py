"""All latents at once: a table, and density against F1 with the ceiling that density sets."""

from collections.abc import Mapping
from math import log10
from typing import Any

import numpy as np

from .card import star
from .chart import Axes, text
from .html import count, esc, fixed, percent
from .marks import COLOUR, SHAPE, bar, chips, family, marker, painted, shape
from .notes import button, empty

COLUMNS = (("star", "", False), ("latent", "Latent", True), ("label", "Best label", False), ("tokens", "Top tokens", False), ("f1", "F1", True),
           ("", "", False), ("density", "Density", True), ("max", "Max", True))  # fmt: skip
SIZE = (372, 284)
DECADES = 5  # of density, below 1


def ceiling(density: float, base: float) -> float:
    """The best F1 a latent of this density can reach on a label of this base rate: `2 min(d, p) / (p + d)`."""
    return 2 * min(density, base) / (density + base) if density + base else 0.0


def feature_browser(data: Mapping[str, Any]) -> str:
    """The browser. `data` is what `widgets.FeatureBrowser.compute` gives."""
    return (
        f'<section class="sk" aria-label="Feature browser"><div class="sk-head"><div><h3 class="sk-title">{esc(_finding(data))}'
        f'</h3><p class="sk-sub"><span class="sk-mono">{esc(data["site"])}</span> · F1 of each latent with the label it matches '
        f'best</p></div><span class="sk-group live">{button("Save as a file", "save")}</span></div>{_bar(data)}'
        f'<div class="sk-body sk-rule"><div class="sk-cols sk-collapse fb"><div style="min-width:0">{_table(data)}</div>'
        f"<div>{_scatter(data)}{_picked(data)}</div></div></div>{_foot(data)}</section>"
    )


def _finding(data: Mapping[str, Any]) -> str:
    if not data["found"]:
        return "No latent matches"
    return f"{count(data['strong'])} of {count(data['found'])} latents match a label with F1 of 0.70 or more"


def _bar(data: Mapping[str, Any]) -> str:
    i, (low, high) = data["id"], data["range"]
    options = "".join(
        f'<option value="{esc(label)}"{" selected" if label == data["label"] else ""}>{esc(label or "any label")}</option>'
        for label in ["", *data["labels"]]
    )
    ends = f"{percent(10.0**low)} to {percent(10.0**high)}"
    return (
        '<div class="sk-bar" role="search">'
        f'<div class="sk-field" style="flex:1 1 190px"><label for="fb-q-{i}">Search</label><input id="fb-q-{i}" type="search" '
        f'placeholder="label, token, note or number" value="{esc(data["query"])}" data-act="query"></div>'
        f'<div class="sk-field"><label for="fb-l-{i}">Best label</label><select id="fb-l-{i}" data-act="label">{options}</select>'
        f'</div><fieldset class="sk-field" style="width:196px"><legend style="width:100%">Density <b>{ends}</b></legend>'
        f'<div class="fb-dual"><input type="range" min="{-DECADES}" max="0" step="0.1" value="{low}" data-act="low" '
        f'aria-label="Lowest density, log scale"><input type="range" min="{-DECADES}" max="0" step="0.1" value="{high}" '
        'data-act="high" aria-label="Highest density, log scale"></div></fieldset>'
        f'<div class="sk-group" style="gap:0 12px">{_check(data, "context", "Hide token-identity labels")}'
        f"{_check(data, 'dense', 'Hide dense')}{_check(data, 'starred', 'Starred')}</div></div>"
    )


def _check(data: Mapping[str, Any], name: str, words: str) -> str:
    on = " checked" if data[name] else ""
    return f'<label class="sk-check"><input type="checkbox" data-act="{name}"{on}> {words}</label>'


def _rate(density: float) -> str:
    return percent(density, max(0, min(3, -int(log10(density) // 1) - 2)))


# -- the table


def _table(data: Mapping[str, Any]) -> str:
    if not data["found"]:
        words = f"Widest effect: {data['widest']}."
        return empty("No latent matches these filters", words, button("Clear filters", "clear"))
    heads = ""
    for column, title, right in COLUMNS:
        kind = ' class="sk-num"' if right else ""
        if column == "star":
            heads += '<th scope="col"><span class="sk-vh">Star</span></th>'
            continue
        if column in ("", "tokens"):
            heads += f'<th scope="col"{kind}>{title}</th>'
            continue
        on = data["sort"] == column
        aria = f' aria-sort="{"descending" if data["descending"] else "ascending"}"' if on else ""
        arrow = (" ↓" if data["descending"] else " ↑") if on else ""
        heads += (
            f'<th scope="col"{kind}{aria}><button type="button" class="sk-sort" data-act="sort" data-arg="{column}">{title}{arrow}'
            "</button></th>"
        )
    shown = [row["latent"] for row in data["rows"]]
    stop = data["latent"] if data["latent"] in shown else shown[0]
    rows = "".join(_row(row, data["latent"], stop) for row in data["rows"])
    first, last = data["first"] + 1, data["first"] + len(data["rows"])
    pager = (
        f'<div class="sk-pager"><span class="sk-cap">{count(first)} to {count(last)} of {count(data["found"])}; the mark in each '
        "bar is a detector that always fires</span>"
        + button("Previous", "page", -1, "sk-push", disabled=data["first"] == 0)
        + button("Next", "page", 1, disabled=last >= data["found"])
        + "</div>"
    )
    return (
        f'<div class="sk-scroll"><table data-roving data-keys="ArrowUp ArrowDown Enter s" data-on="key"><caption class="sk-vh">Latents, '
        f"{count(data['found'])} rows</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{pager}"
    )


def _row(row: Mapping[str, Any], chosen: int, stop: int) -> str:
    on = row["latent"] == chosen
    f1, always = row["f1"], row["always_fire"]
    label = f"{marker(row['label'])} {esc(row['label'])}" if row["label"] else '<span class="sk-cap">none</span>'
    noted = (
        f' <span class="fb-noted" title="{esc(row["text"])}" aria-label="Note: {esc(row["text"])}">✎</span>'
        if row["text"]
        else ""
    )
    return (
        f'<tr class="is-link{" is-on" if on else ""}" data-act="latent" data-arg="{row["latent"]}" tabindex="{0 if row["latent"] == stop else -1}" '
        f'aria-selected="{str(on).lower()}"><td>{star(row["latent"], row["star"])}</td><th scope="row" class="sk-num">'
        f'{row["latent"]}{noted}</th><td class="fb-label" '
        f'title="{esc(row["label"])}">{label}</td><td>{chips(row["tokens"][:3])}</td><td class="sk-num"><b>{fixed(f1)}</b></td>'
        f"<td>{bar(f1, f'F1 {fixed(f1)}, always-fire {fixed(always)}', always, '48px')}</td>"
        f'<td class="sk-num">{percent(row["density"])}</td><td class="sk-num">{fixed(row["max"], 1)}</td></tr>'
    )


# -- the scatter


def _scatter(data: Mapping[str, Any]) -> str:
    picked, ring = data["picked"], ""
    axes = Axes((36, 358, 12, 246), (-DECADES, 0), (0, 1))
    drawn = axes.grid([(v, f"{v:g}") for v in (0, 0.25, 0.5, 0.75, 1)])
    drawn += axes.floor([(p, _rate(10.0**p)) for p in range(-DECADES, 1)])
    drawn += text(197, 279, "density: share of tokens where the latent is on", "middle") + text(0, 0, "best-label F1")
    drawn += "".join(_marks(data, axes, group, family(picked["label"])) for group in COLOUR)
    if picked["density"] > 0:
        base, x, y = picked["base"], axes.px(_log(picked["density"])), axes.py(picked["f1"])
        if base:
            places = [-DECADES + 0.05 * i for i in range(20 * DECADES + 1)]
            curve = axes.path(places, [ceiling(10.0**p, base) for p in places])
            words = f"ceiling for {picked['label']} ({percent(base)})"
            drawn += f'<path d="{curve}" fill="none" stroke="var(--sk-mark)" stroke-width="1.5"/>'
            drawn += text(axes.px(_log(base)) - 6, axes.py(1) + 12, words, "end", halo=True)
        ring = f'<circle class="fb-ring" cx="{x:.1f}" cy="{y:.1f}" r="9" tabindex="0" role="img" data-sight aria-label="{_ringed(picked)}"/>'
        drawn += text(x - 13, y + 4, str(picked["latent"]), "end", strong=True, halo=True)
    # The area that a click is read in, over everything drawn.
    drawn += (
        f'<rect class="fb-plot" x="36" y="12" width="322" height="234" fill="transparent" data-act="point" '
        f'data-point="{-DECADES} 0 0 1"/>'
    )
    drawn = f"<g>{drawn}</g>{ring}"  # apart, so that the ring keeps its element, and the focus, when it moves
    title = "Density against F1"
    if picked["base"] and picked["density"]:
        reach = picked["f1"] / max(ceiling(picked["density"], picked["base"]), 1e-9)
        title = f"{picked['latent']} reaches {percent(reach, 0)} of what its density allows"
    groups = [group for group in COLOUR if (data["family"] == group).any()]
    names = {"bracket": "bracket, depth", "keyword": "keyword", "other": "other"}
    legend = "".join(f"<span>{marker(g if g != 'other' else '')} {names.get(g, g)}</span>" for g in groups)
    alt = f"Scatter of {count(len(data['f1']))} latents, density against F1; the same data as the table"
    return (
        f'<div class="sk-panel"><h4>{esc(title)}</h4><p class="sk-cap">The grey curve is the best F1 any latent of that density '
        f'can reach.</p><svg viewBox="0 -12 {SIZE[0]} {SIZE[1] + 12}" role="group" aria-label="{alt}" '
        'data-roving data-keys="ArrowLeft ArrowRight ArrowUp ArrowDown Enter" data-on="along" '
        f'style="margin-top:6px;max-width:440px">{drawn}</svg><div class="sk-cap sk-legend">{legend}</div></div>'
    )


def _marks(data: Mapping[str, Any], axes: Axes, group: str, chosen: str) -> str:
    """The markers of one family as one path; of those that would hide each other, within 1.5 pixels, only one."""
    here = data["family"] == group
    if not here.any():
        return ""
    decades = np.maximum(np.log10(np.maximum(data["density"][here], 1e-30)), -DECADES)
    x = axes.left + (axes.right - axes.left) * (decades / DECADES + 1)
    y = axes.bottom - (axes.bottom - axes.top) * np.clip(data["f1"][here], 0, 1)
    places = np.unique(np.round(np.stack([x, y], 1) / 1.5).astype(np.int64), axis=0) * 1.5
    kind = SHAPE.get(group, "cross")
    path = "".join(shape(kind, 2.6, *place) for place in places.tolist())
    return painted(path, group, f'opacity="{0.5 if chosen != group else 0.9}"')


def _ringed(picked: Mapping[str, Any]) -> str:
    label = f", {picked['label']}" if picked["label"] else ""
    return esc(f"Latent {picked['latent']}{label}: F1 {fixed(picked['f1'])}, density {percent(picked['density'])}")


def _log(density: float) -> float:
    return max(log10(density), -DECADES) if density > 0 else -DECADES


def _picked(data: Mapping[str, Any]) -> str:
    picked, i = data["picked"], data["id"]
    label = f"{marker(picked['label'])} {esc(picked['label'])}" if picked["label"] else "no label fits"
    word = "Close card" if data["open"] else "Open card"
    kept = f'<p class="fc-kept"><span class="sk-cap">Note</span> {esc(picked["text"])}</p>' if picked["text"] else ""
    return (
        f'<div class="fb-pick" aria-live="polite"><div style="display:flex;gap:8px;align-items:center">'
        f"{star(picked['latent'], picked['star'])}<b>{picked['latent']}</b><span>{label}</span>"
        f'{button(word, "open", "", "sk-push")}</div>{kept}<div class="sk-field live" style="margin-top:6px"><label class="sk-vh" '
        f'for="fb-n-{i}">Note on latent {picked["latent"]}</label><input id="fb-n-{i}" type="text" maxlength="500" '
        f'placeholder="a note on latent {picked["latent"]}" value="{esc(picked["text"])}" data-act="note {picked["latent"]}"></div></div>'
    )


def _foot(data: Mapping[str, Any]) -> str:
    return (
        '<div class="sk-foot"><span class="live"><kbd>↑</kbd> <kbd>↓</kbd> move</span><span class="live"><kbd>Enter</kbd> open card'
        f'</span><span class="live"><kbd>s</kbd> star</span><span class="live"><kbd>←</kbd> <kbd>→</kbd> in the scatter</span><span class="sk-push">{count(data["alive"])} latents alive in {count(data["n"])} tokens, '
        f"{count(data['dead'])} silent and not shown</span></div>"
    )
