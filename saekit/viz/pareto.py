"""Many coders on two scales: what each spends and what it loses, with controls as grey crosses."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any, NamedTuple

from .chart import Axes, text, ticks
from .html import count, esc, fixed, percent
from .marks import shape

SIZE = (600, 360)
BOX = (52, 584, 16, 308)
SHAPES = ("circle", "square", "triangle", "diamond", "plus", "down", "hourglass", "pentagon")
COLOURS = 6


class Metric(NamedTuple):
    """How a column is shown. less: smaller is better."""

    name: str
    unit: str
    less: bool = True
    log: bool = False
    share: bool = False
    digits: int = 3

    def shown(self, value: float) -> str:
        if value != value:
            return "–"
        return percent(value) if self.share else fixed(value, self.digits)


METRICS = {
    "l0": Metric("L0", "latents on per token", log=True, digits=1),
    "fvu": Metric("FVU", "fraction of variance unexplained", log=True),
    "ce_recovered": Metric("CE recovered", "share of the loss that zeros would add", less=False),
    "kl": Metric("KL", "nats per token, to the model as it is", log=True),
    "dead": Metric("Dead", "share of latents never on", share=True),
    "dense": Metric("Dense", "share of latents on at more than a tenth of the tokens", share=True),
    "l2_ratio": Metric("Length ratio", "|reconstruction| / |activation|", less=False),
}


def pareto(data: Mapping[str, Any]) -> str:
    """The plot. `data` is what `widgets.ParetoPlot.compute` gives."""
    return (
        f'<section class="sk" aria-label="Sparsity against fidelity"><div class="sk-head"><div><h3 class="sk-title">{esc(_finding(data))}'
        f'</h3><p class="sk-sub">{esc(_about(data))}</p></div></div>{_bar(data)}<div class="sk-body sk-rule">'
        f'<div class="sk-cols sk-collapse pp"><div>{_plot(data)}</div>{_side(data)}</div></div>{_foot(data)}</section>'
    )


def _finding(data: Mapping[str, Any]) -> str:
    best, control = data["best"], data["beside"]
    x, y = METRICS[data["x"]], METRICS[data["y"]]
    if best is None:
        return "No coder is shown"
    lead = f"{best['short']}: {y.name} {y.shown(best['y'])} at {x.name} {x.shown(best['x'])}"
    if not data["selected"]:
        lead = f"{'Lowest' if y.less else 'Highest'} {y.name}: {best['short']}, {y.shown(best['y'])} at {x.name} {x.shown(best['x'])}"
    if control is None:
        return lead
    better = (control["y"] >= best["y"]) if not y.less else (control["y"] <= best["y"])
    word = "does as well or better" if better else "has"
    return f"{lead}; the control {control['short']} {word}{':' if better else ''} {y.shown(control['y'])}"


def _about(data: Mapping[str, Any]) -> str:
    low, high = data["n"]
    n = count(low) if low == high else f"{count(low)} to {count(high)}"
    return f"{count(data['coders'])} coders and {count(data['controls'])} controls; {n} tokens each" if high else ""


def _bar(data: Mapping[str, Any]) -> str:
    i = data["id"]

    def choice(axis: str, label: str) -> str:
        options = "".join(
            f'<option value="{m}"{" selected" if m == data[axis] else ""}>{METRICS[m].name}</option>'
            for m in data["metrics"]
        )
        return (
            f'<div class="sk-field"><label for="pp-{axis}-{i}">{label}</label>'
            f'<select id="pp-{axis}-{i}" data-act="{axis}">{options}</select></div>'
        )

    boxes = "".join(
        f'<label class="sk-check"><input type="checkbox" data-act="variant" data-arg="{esc(v["name"])}"'
        f"{' checked' if v['shown'] else ''}>{_legend(v['look'])}<span>{esc(v['name'])}</span></label>"
        for v in data["variants"]
    )
    seeds = (
        f'<label class="sk-check"><input type="checkbox" data-act="seeds"{" checked" if data["seeds"] else ""}> Show seeds</label>'
        if data["several_seeds"]
        else ""
    )
    return (
        f'<div class="sk-bar">{choice("x", "Across")}{choice("y", "Up")}{seeds}<fieldset class="sk-field">'
        f'<legend>Variants</legend><div class="pp-set">{boxes}</div></fieldset></div>'
    )


def _mark(look: Mapping[str, Any], x: float, y: float, r: float = 5.5) -> str:
    """A variant's marker: a star where it was added, a grey cross for a control, else a shape with its colour."""
    if look["control"]:
        return f'<path d="{shape("cross", 0.9 * r, x, y)}" fill="none" stroke="var(--sk-mark)" stroke-width="1.8"/>'
    if look["star"]:
        return f'<path d="{shape("star", r, x, y)}" fill="var(--sk-ink)" stroke="var(--sk-surface)" stroke-width="1"/>'
    kind, colour = SHAPES[look["place"] % len(SHAPES)], f"var(--sk-c{look['place'] % COLOURS + 1})"
    if kind == "plus":
        return f'<path d="{shape(kind, r, x, y)}" fill="none" stroke="{colour}" stroke-width="2.2"/>'
    return f'<path d="{shape(kind, r, x, y)}" fill="{colour}" stroke="var(--sk-surface)" stroke-width="1"/>'


def _legend(look: Mapping[str, Any]) -> str:
    return f'<svg class="sk-marker" width="16" height="16" viewBox="-8 -8 16 16" aria-hidden="true">{_mark(look, 0, 0)}</svg>'


# -- the plot


def _scale(values: Sequence[float], metric: Metric) -> tuple[float, float]:
    """The ends of an axis, with room beyond the values; their logarithms on a log axis."""
    at = [_place(v, metric) for v in values]
    room = 0.08 * (max(at) - min(at)) or 0.1 * abs(at[0]) or 0.1
    return min(at) - room, max(at) + room


def _place(value: float, metric: Metric) -> float:
    return log10(max(value, 1e-6)) if metric.log else value


def _marks(low: float, high: float, metric: Metric) -> list[tuple[float, str]]:
    found = ticks(10**low, 10**high, log=True) if metric.log else ticks(low, high)
    return [(_place(v, metric), percent(v, 0) if metric.share else f"{v:.4g}") for v in found]


def _axes(data: Mapping[str, Any]) -> Axes:
    x, y, points = METRICS[data["x"]], METRICS[data["y"]], data["points"]
    ends = [v for p in points for v in (p["low"], p["high"]) if v is not None]
    return Axes(BOX, _scale([p["x"] for p in points], x), _scale([p["y"] for p in points] + ends, y))


def nearest(data: Mapping[str, Any], across: float, up: float) -> str:
    """The name of the point nearest to a place of the plot, in shares of its width and height from the lower left."""
    axes, x, y = _axes(data), METRICS[data["x"]], METRICS[data["y"]]
    at = (BOX[0] + across * (BOX[1] - BOX[0]), BOX[3] - up * (BOX[3] - BOX[2]))

    def distance(p: Mapping[str, Any]) -> float:
        return (axes.px(_place(p["x"], x)) - at[0]) ** 2 + (axes.py(_place(p["y"], y)) - at[1]) ** 2

    return min(data["points"], key=distance)["name"]


def _plot(data: Mapping[str, Any]) -> str:
    x, y, points = METRICS[data["x"]], METRICS[data["y"]], data["points"]
    if not points:
        return '<div class="sk-empty"><b>Nothing is shown</b><span>Tick a variant above.</span></div>'
    axes = _axes(data)
    drawn = axes.grid(_marks(*axes.y, y)) + axes.floor(_marks(*axes.x, x))
    drawn += text((BOX[0] + BOX[1]) / 2, BOX[3] + 36, f"{x.name}: {x.unit}{', log axis' if x.log else ''}", "middle")
    at = {p["name"]: (axes.px(_place(p["x"], x)), axes.py(_place(p["y"], y))) for p in points}
    marks = _front([at[name] for name in data["front"]]) + "".join(
        _whisker(p, axes, y, at[p["name"]][0]) for p in points
    )
    marks += "".join(_mark(p["look"], *at[p["name"]]) + _name(p, *at[p["name"]], data["selected"]) for p in points)
    hits = (
        f'<rect x="{BOX[0]}" y="{BOX[2]}" width="{BOX[1] - BOX[0]}" height="{BOX[3] - BOX[2]}" fill="transparent" '
        'data-act="at" data-point="0 1 0 1"/>'
    )
    hits += "".join(_hit(p, *at[p["name"]], x, y, data) for p in points)
    drawn += (
        f"<g>{marks}</g><g>{hits}</g>"  # apart, so that a point keeps its element, and the focus, when it is selected
    )
    better = "lower" if y.less else "higher"
    title = f"{y.name} by {x.name}: {better} is better"
    alt = f"{title}; {count(len(points))} points. " + "; ".join(_words(p, x, y) for p in points)
    return (
        f'<div class="sk-panel"><h4>{esc(title)}</h4><p class="sk-cap">{esc(y.unit)}{", log axis" if y.log else ""}; the line joins '
        f'the coders that none beats on both</p><svg viewBox="0 0 {SIZE[0]} {SIZE[1]}" role="group" data-roving '
        f'aria-label="{esc(alt)}" style="max-width:700px">{drawn}</svg></div>'
    )


def _words(p: Mapping[str, Any], x: Metric, y: Metric) -> str:
    return f"{p['name']}: {y.name} {y.shown(p['y'])} at {x.name} {x.shown(p['x'])}"


def _front(corners: Sequence[tuple[float, float]]) -> str:
    if len(corners) < 2:
        return ""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
    return f'<path d="M{path}" fill="none" stroke="var(--sk-mark-soft)" stroke-width="5" stroke-linejoin="round"/>'


def _whisker(p: Mapping[str, Any], axes: Axes, y: Metric, x: float) -> str:
    if p["low"] is None:
        return ""
    low, high = axes.py(_place(p["low"], y)), axes.py(_place(p["high"], y))
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="var(--sk-mark)" stroke-width="1.2"/>'
    )


def _name(p: Mapping[str, Any], x: float, y: float, selected: str | None) -> str:
    """Controls and added points carry their name; the selected one a ring and its name."""
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" fill="none" stroke="var(--sk-ink)" stroke-width="1.6"/>'
    chosen = p["name"] == selected
    if not (chosen or p["look"]["control"] or p["look"]["star"]):
        return ""
    left = x > BOX[1] - 110
    words = text(x + (-13 if left else 13), y + 4, p["short"], "end" if left else "start", strong=chosen, halo=True)
    return (ring if chosen else "") + words


def _hit(p: Mapping[str, Any], x: float, y: float, across: Metric, up: Metric, data: Mapping[str, Any]) -> str:
    """Where the pointer or the keys find a point; hair lines and values are shown by the style sheet."""
    left = x > (BOX[0] + BOX[1]) / 2
    words = f"{p['short']} · {up.name} {up.shown(p['y'])} · {across.name} {across.shown(p['x'])}"
    lines = (
        f'<line class="ref" x1="{BOX[0]}" x2="{x:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<line class="ref" x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{BOX[3]}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="var(--sk-ink)" stroke-width="1.2"/>'
    )
    words = text(x + (-14 if left else 14), y - 12, words, "end" if left else "start", strong=True, halo=True)
    stop = data["stop"] == p["name"]
    return (
        f'<g class="pp-hit" tabindex="{0 if stop else -1}" role="button" aria-pressed="{str(p["name"] == data["selected"]).lower()}" '
        f'data-act="selected" data-arg="{esc(p["name"])}" aria-label="{esc(_words(p, across, up))}">'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="transparent"/><g class="pp-cross">{lines}{words}</g></g>'
    )


# -- the selected coder


def _side(data: Mapping[str, Any]) -> str:
    best, control = data["best"], data["beside"]
    if best is None:
        return '<div class="sk-panel"><h4>No coder</h4></div>'
    rows = ""
    for name, metric in METRICS.items():
        if name in best["values"]:
            other = "" if control is None else metric.shown(control["values"].get(name, float("nan")))
            rows += (
                f'<tr><th scope="row" title="{esc(metric.unit)}">{metric.name}</th><td class="sk-num"><b>'
                f'{metric.shown(best["values"][name])}</b>{_interval(best["values"], name, metric)}</td><td class="sk-num">{other}</td></tr>'
            )
    head = (
        "Selected"
        if data["selected"]
        else ("Lowest" if METRICS[data["y"]].less else "Highest") + f" {METRICS[data['y']].name}"
    )
    beside = "" if control is None else esc(control["short"])
    note = f"{esc(beside)}: the best control that spends no more" if control else ""
    return (
        f'<div class="sk-panel pp-side" aria-live="polite"><h4>{head}: {esc(best["short"])}</h4><table><thead><tr><th></th>'
        f'<th class="sk-num" scope="col">coder</th><th class="sk-num" scope="col">{beside}</th></tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="sk-cap">{note}</p></div>'
    )


def _interval(values: Mapping[str, float], name: str, metric: Metric) -> str:
    if f"{name}_low" not in values:
        return ""
    low, high = (metric.shown(values[f"{name}_{end}"]) for end in ("low", "high"))
    return f'<br><span class="sk-unit">{low} to {high}</span>'


def _foot(data: Mapping[str, Any]) -> str:
    return (
        '<div class="sk-foot"><span class="live"><kbd>←</kbd> <kbd>→</kbd> next point</span><span class="live"><kbd>Enter</kbd> select'
        "</span><span>✕ control · ★ added · bars: 95 % interval</span></div>"
    )
