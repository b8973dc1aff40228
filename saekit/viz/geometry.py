"""Features as arrows in two dimensions, their Gram matrix, and the share of a dimension that each one has."""

from collections.abc import Mapping
from itertools import pairwise
from math import atan2, degrees, hypot, pi
from typing import Any

from .chart import Axes, figure, text
from .html import THIN, esc, fixed, percent
from .marks import COLOUR, SHAPE, painted, shape, step
from .notes import button

KEPT = 0.5  # the length from which a feature counts as represented
SIDE, REACH = 272, 1.35  # of the arrows' picture, in pixels and in units of length
EVEN = 0.22  # radians by which an angle may miss a regular polygon
SHAPES = {3: "triangle", 4: "square", 5: "pentagon", 6: "hexagon", 7: "heptagon", 8: "octagon"}
GROUPS = ("docstring", "comment", "string", "bracket")  # a pair's colour and marker are those of a family of labels


def toy_geometry(data: Mapping[str, Any]) -> str:
    """Controls and three figures. `data` is what `widgets.ToyGeometry.compute` gives."""
    again = button("Start over", "again", label="Start over from other random weights")
    return (
        f'<section class="sk" aria-label="Toy geometry"><div class="sk-head"><div><h3 class="sk-title">{esc(_finding(data))}'
        f'</h3><p class="sk-sub">{_about(data)}</p></div><span class="sk-group live">{again}</span></div>{_bar(data)}'
        f'<div class="sk-body sk-rule"><div class="sk-cols tg">{_arrows(data)}{_gram(data)}{_bars(data)}</div></div>'
        f'<div class="sk-foot"><span class="live"><kbd>←</kbd> <kbd>→</kbd> on a slider</span><span>features with one marker are a '
        f'pair</span><span class="sk-push">seed {data["seed"]} · trained in {fixed(data["seconds"], 1)} s</span></div></section>'
    )


# -- words


def _kept(data: Mapping[str, Any]) -> list[int]:
    return [i for i, column in enumerate(data["columns"]) if hypot(*column) > KEPT]


def _finding(data: Mapping[str, Any]) -> str:
    n, kept = len(data["columns"]), _kept(data)
    how_many = f"All {n} features are kept" if len(kept) == n else f"{len(kept)} of {n} features are kept"
    return f"{how_many}{form([data['columns'][i] for i in kept])}"


def form(columns: list[list[float]]) -> str:
    """How directions lie: at right angles, in opposite pairs, as a regular polygon; otherwise nothing is claimed."""
    n = len(columns)
    angles = sorted(atan2(y, x) for x, y in columns)
    gaps = [b - a for a, b in pairwise([*angles, angles[0] + 2 * pi])] if n else []
    if n == 2:
        angle = min(gaps)
        return (
            ", at a right angle" if abs(angle - pi / 2) < EVEN else ", as an opposite pair" if angle > pi - EVEN else ""
        )
    if n in SHAPES and all(abs(gap - 2 * pi / n) < EVEN for gap in gaps):
        return ", as two opposite pairs" if n == 4 else f", as a {SHAPES[n]}"
    return ", not evenly spread" if n > 2 else ""


def _about(data: Mapping[str, Any]) -> str:
    words = (
        f'<span class="sk-mono">x̂ = ReLU(WᵀWx + b)</span> · {percent(max(data["kept"], 0), 0)} of the weighted squares explained; '
        f"two features alone would give {percent(data['two'], 0)}"
    )
    if not data["rows"]:
        return words
    near = [cosine for _, _, cosine in data["pairs"]]
    found = sum(cosine > 0.95 for cosine in near)
    return f"{words} · SAE: {found} of {len(near)} kept directions found, cosine above 0.95"


# -- controls


def _bar(data: Mapping[str, Any]) -> str:
    fields = "".join(_slider(name, data) for name in data["notches"])
    on = " checked" if data["sae"] else ""
    check = f'<label class="sk-check live"><input type="checkbox" data-act="sae"{on}> SAE on Wx</label>'
    return f'<div class="sk-bar tg-bar">{fields}{check}</div>'


def _slider(name: str, data: Mapping[str, Any]) -> str:
    label, values = data["notches"][name]
    names, now, i = [_shown(name, value) for value in values], values.index(data[name]), f"tg-{name}-{data['id']}"
    return (
        f'<div class="sk-field"><label for="{i}">{esc(label)} <output>{esc(names[now])}</output></label><input id="{i}" type="range" '
        f'min="0" max="{len(values) - 1}" step="1" value="{now}" data-act="{name}" data-names="{esc(" ".join(names))}"></div>'
    )


def _shown(name: str, value: float) -> str:
    """A value without a blank in it, as a list of names wants it."""
    return percent(value, 0) if name == "frequency" else f"{value:g}".replace("-", "\u2212")


# -- figures


def _group(feature: int) -> str:
    return GROUPS[feature // 2 % len(GROUPS)]


def _arrows(data: Mapping[str, Any]) -> str:
    axes = Axes((0, SIDE, 0, SIDE), (-REACH, REACH), (-REACH, REACH))
    unit = (axes.px(1) - axes.px(-1)) / 2
    middle = SIDE / 2
    drawn = f'<circle class="grid" cx="{middle}" cy="{middle}" r="{unit:.1f}"/>'
    drawn += f'<path class="grid" d="M0 {middle}H{SIDE}M{middle} 0V{SIDE}"/>'
    for feature, latent, _ in data["pairs"]:
        (x, y), (u, v) = data["columns"][feature], data["rows"][latent]
        ends = f'x1="{axes.px(x):.1f}" y1="{_y(axes, y):.1f}" x2="{axes.px(u):.1f}" y2="{_y(axes, v):.1f}"'
        drawn += f'<line {ends} stroke="var(--sk-ink)" stroke-width="1" stroke-dasharray="1 2"/>'
    for i, (x, y) in enumerate(data["columns"]):
        drawn += _arrow(axes, x, y, f"var(--sk-c{COLOUR[_group(i)]})") + painted(
            shape(SHAPE[_group(i)], 4.5, axes.px(x), _y(axes, y)), _group(i)
        )
    for x, y in data["rows"]:
        drawn += _arrow(axes, x, y, "var(--sk-ink)", 'stroke-dasharray="5 3"', head=True)
    drawn += _names(axes, data["columns"])
    caption = "solid: columns of W; " + ("dashed: decoder rows" if data["rows"] else "circle: length 1")
    return figure(_nearest(data["columns"]), caption, drawn, (SIDE, SIDE), _spoken(data))


def _nearest(columns: list[list[float]]) -> str:
    """The smallest angle between two of the kept directions."""
    angles = sorted(atan2(y, x) for x, y in columns if hypot(x, y) > KEPT)
    gaps = [b - a for a, b in pairwise([*angles, angles[0] + 2 * pi])] if len(angles) > 1 else []
    if not gaps:
        return "Fewer than two directions are kept"
    return f"The closest directions are {degrees(min(gaps)):.0f}° apart"


def _names(axes: Axes, columns: list[list[float]]) -> str:
    """Numbers beyond the tips; one for all that end at nearly the same place, none for a feature that was dropped."""
    places: list[tuple[float, float, list[str]]] = []
    for i, (x, y) in enumerate(columns):
        long = hypot(x, y)
        if long < 0.15:
            continue
        x, y = x * (1 + 0.19 / long), y * (1 + 0.19 / long)
        near = next((names for u, v, names in places if hypot(u - x, v - y) < 0.16), None)
        near.append(str(i + 1)) if near else places.append((x, y, [str(i + 1)]))
    return "".join(
        text(axes.px(x), _y(axes, y) + 4, ", ".join(names), "middle", strong=True, halo=True) for x, y, names in places
    )


def _y(axes: Axes, value: float) -> float:
    return axes.py(max(-REACH, min(REACH, value)))


def _arrow(axes: Axes, x: float, y: float, colour: str, extra: str = "", head: bool = False) -> str:
    px, py, middle = axes.px(x), _y(axes, y), SIDE / 2
    line = f'<path d="M{middle} {middle}L{px:.1f} {py:.1f}" fill="none" stroke="{colour}" stroke-width="2.2" {extra}/>'
    if not head:
        return line
    long = max(hypot(px - middle, py - middle), 1e-6)
    ux, uy = (px - middle) / long, (py - middle) / long
    wings = [(px - 8 * ux - 4 * s * uy, py - 8 * uy + 4 * s * ux) for s in (1, -1)]
    (ax, ay), (bx, by) = wings
    return (
        line
        + f'<path d="M{ax:.1f} {ay:.1f}L{px:.1f} {py:.1f}L{bx:.1f} {by:.1f}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
    )


def _spoken(data: Mapping[str, Any]) -> str:
    """The arrows in words."""
    parts = [
        f"feature {i + 1}: length {hypot(x, y):.2f}"
        + (f" at {degrees(atan2(y, x)):.0f} degrees" if hypot(x, y) > KEPT else "")
        for i, (x, y) in enumerate(data["columns"])
    ]
    parts += [
        f"latent {latent} meets feature {feature + 1} at cosine {cosine:.2f}"
        for feature, latent, cosine in data["pairs"]
    ]
    return f"{_finding(data)}. {'; '.join(parts)}."


def _gram(data: Mapping[str, Any]) -> str:
    gram, n = data["gram"], len(data["gram"])
    cell = min(46.0, (SIDE - 24) / n)
    drawn = "".join(
        f'<pattern id="tg{kind}-{data["id"]}" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<line x1="0" y1="0" x2="0" y2="5" stroke="var(--sk-hatch{kind})" stroke-width="2"/></pattern>'
        for kind in ("", "-lo")
    )
    drawn = f"<defs>{drawn}</defs>"
    for i in range(n):
        drawn += text(20 + (i + 0.5) * cell, 12, str(i + 1), "middle") + text(
            12, 24 + (i + 0.5) * cell, str(i + 1), "middle"
        )
        for j in range(n):
            drawn += _cell(gram[i][j], 20 + j * cell, 20 + i * cell, cell, data["id"], 2 if n <= 5 else 1)
    apart = [abs(gram[i][j]) for i in range(n) for j in range(n) if i != j]
    worst = max(apart)
    title = (
        "No two features disturb each other" if worst < 0.1 else f"Features disturb each other by up to {fixed(worst)}"
    )
    size = (SIDE, round(24 + n * cell))
    return figure(title, "WᵀW, row to column; hatched: negative", drawn, size, f"{title}. {_rows_spoken(gram)}")


def _cell(value: float, x: float, y: float, side: float, number: int, digits: int) -> str:
    level = step(abs(value), 1.0) if abs(value) >= 0.05 else 0
    fill = f"var(--sk-{'a' if value > 0 else 'n'}{level})" if level else "none"
    box = f'<rect x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{side - 1:.1f}" height="{side - 1:.1f}" rx="2"'
    drawn = f'{box} fill="{fill}" stroke="var(--sk-line)"/>'
    if level and value < 0:
        drawn += f'{box} fill="url(#tg{"" if level > 4 else "-lo"}-{number})"/>'
    halo = f";paint-order:stroke;stroke:{fill};stroke-width:4px" if value < 0 else ""
    ink = f'style="fill:var(--sk-on-{"hi" if level > 4 else "lo"}){halo}"' if level else ""
    words = fixed(value, digits) if level else "·"
    return f'{drawn}<text x="{x + side / 2:.1f}" y="{y + side / 2 + 4:.1f}" text-anchor="middle" {ink}>{words}</text>'


def _rows_spoken(gram: list[list[float]]) -> str:
    return " ".join(f"Row {i + 1}: {', '.join(f'{v:.2f}' for v in row)}." for i, row in enumerate(gram))


def _bars(data: Mapping[str, Any]) -> str:
    shares, n = data["dimensionality"], len(data["dimensionality"])
    axes = Axes((30, 250, 10, SIDE - 74), (0, n), (0, 1))
    drawn = axes.grid([(0, "0"), (0.5, "½"), (1, "1")])
    width = (axes.right - axes.left) / n
    for i, share in enumerate(shares):
        x, y = axes.px(i) + 3, axes.py(share)
        colour = f"var(--sk-c{COLOUR[_group(i)]})"
        drawn += (
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 6:.1f}" height="{axes.bottom - y:.1f}" fill="{colour}"/>'
        )
        drawn += text(x + width / 2 - 3, y - 4, fixed(share, 2 if n < 7 else 1), "middle", strong=True, halo=True)
        drawn += painted(shape(SHAPE[_group(i)], 4, x + width / 2 - 3, axes.bottom + 12), _group(i))
    drawn += axes.floor([(i + 0.5, "") for i in range(n)])
    drawn += "".join(text(axes.px(i + 0.5), axes.bottom + 32, str(i + 1), "middle") for i in range(n))
    total = sum(shares)
    title = f"Together they fill {fixed(total, 1)} of 2{THIN}dimensions"
    alt = f"{title}. " + "; ".join(f"feature {i + 1}: {share:.2f}" for i, share in enumerate(shares))
    return figure(title, "dimensionality: the share of a dimension each has", drawn, (SIDE, SIDE - 34), alt)
