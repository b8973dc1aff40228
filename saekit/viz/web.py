"""A web of nodes in layers: where each stands, how the edges run, what is marked with what."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any

from .html import MINUS, esc, style
from .marks import shape

SCRIPT = Path(__file__).with_name("web.js")
KEYS = "g u z Delete Backspace Escape"
GUTTER, ROOM = 62, 760  # px: names of the layers; the width that is filled
LINES = (150, 120, 90, 60, 30)  # px: how wide a line of a cell may be; the first with which all fits
DEEP, GAP = 30, 66  # px between the lines of a cell, and between layers
SHAPES = {"token": "square", "latent": "circle", "error": "diamond", "logit": "hexagon"}
WIDE = {"token": 13, "error": 17, "latent": 29, "logit": 98}
Place = tuple[float, float]


def web(data: Mapping[str, Any]) -> str:
    """The picture. nodes: id, kind (token, latent, error, logit, group), level (a row of `rows`, from below), column (all
    0 where there is one), size (0 to 1), text, said; pressed, picked, idle, factor. edges: source, target, weight, share;
    the weakest first. Everything that hangs on a node is named in its data-of, so that the script marks it unasked.
    """
    nodes, edges = data["nodes"], data["edges"]
    place, bottoms, width = _places(nodes, len(data["rows"]), len(data["columns"]))
    near, ways = _neighbours(edges), _ways(nodes, edges, place)
    height = bottoms[0] + 62
    rows = "".join(_row(name, y, width) for name, y in zip(data["rows"], bottoms, strict=True))
    lines = "".join(_edge(edge, place, data["at"]) for edge in edges)
    drawn = "".join(_node(node, place[node["id"]], near.get(node["id"], ()), ways[node["id"]], data) for node in nodes)
    return (
        f'<svg class="cv-web" data-web="" data-at="{data["at"]}" data-roving="" data-keys="{KEYS}" data-on="key" role="group" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" aria-label="{esc(data["alt"])}">{rows}<g>{lines}</g>{drawn}</svg>'
    )


def alone(svg: str) -> str:
    """The picture as a file of its own, in the colours of the light theme."""
    rules = "".join(re.findall(r"^(?:\.sk )?\.(?:nd|e)\b.*\n", style(), re.M))
    rules = re.sub(r"var\(--sk-([\w-]+)\)", lambda found: LIGHT[found[1]], FILE + rules)
    return svg.replace('<svg class="', f'<svg xmlns="{NAMESPACE}" class="sk ', 1).replace(
        ">", f"><style>{rules}</style>", 1
    )


NAMESPACE = "http://www.w3.org/2000/svg"
LIGHT = {"ink": "#1b1f24", "ink-2": "#56595d", "ink-3": "#6b6d71", "mark": "#828487", "line": "#e1e2e3", "line-2": "#c8c9ca",
         "surface": "#fff", "raise-2": "#ededed", "pos": "#de721e", "neg": "#3f86cf", "focus": "#1976d2"}  # fmt: skip
FILE = """svg { background: var(--sk-surface) } text { font: 11px system-ui, sans-serif; fill: var(--sk-ink-2) }
.m { font-family: monospace; fill: var(--sk-ink) } .v { fill: var(--sk-ink); font-weight: 600 } .grid { stroke: var(--sk-line) }
"""


# -- where the nodes stand


def _places(nodes: Sequence[Mapping], levels: int, columns: int) -> tuple[dict[Any, Place], list[float], float]:
    """(x and y of each node, y of each level from below, width)."""
    top, cells = levels - 1, {}
    for node in nodes:
        if node["level"] != top:
            cells.setdefault((node["level"], node["column"]), []).append(node)
    cells, widths = _fitted(cells, columns)
    widths = _stretched(widths, ROOM - GUTTER)
    lefts = [GUTTER + sum(widths[:c]) for c in range(columns)]
    width = GUTTER + sum(widths) + 6
    last = _lines([node for node in nodes if node["level"] == top], width - GUTTER)
    deep = [max((len(cell) for (level, _), cell in cells.items() if level == at), default=1) for at in range(top)]
    ys = _heights([*deep, len(last)])
    place: dict[Any, Place] = {}
    for (level, column), cell in cells.items():
        _stand(cell, lefts[column] + widths[column] / 2, ys[level], place)
    long = max(map(_long, last), default=0)
    _stand(last, max(width - long / 2 - 6, GUTTER) if columns > 1 else lefts[0] + widths[0] / 2, ys[top], place)
    return place, ys, width


def _fitted(cells: Mapping[tuple[int, int], Sequence[Mapping]], columns: int) -> tuple[dict, list[float]]:
    """(the lines of each cell, the width of each column): lines as long as they can be."""
    for room in LINES if columns > 1 else (ROOM - GUTTER - 20,):
        lines = {key: _lines(cell, room) for key, cell in cells.items()}
        widths = [WIDE["token"] + 0.0] * columns
        for (_, column), cell in lines.items():
            widths[column] = max(widths[column], *map(_long, cell))
        if sum(widths) <= ROOM - GUTTER:
            break
    return lines, widths


def _lines(cell: Iterable[Mapping], room: float) -> list[list[Mapping]]:
    """Nodes side by side, in as many lines as they need."""
    lines: list[list[Mapping]] = [[]]
    used = 0.0
    for node in cell:
        own = wide(node)
        if lines[-1] and used + own > room:
            lines.append([])
            used = 0.0
        lines[-1].append(node)
        used += own
    return lines


def _long(line: Iterable[Mapping]) -> float:
    return sum(wide(node) for node in line)


def wide(node: Mapping[str, Any]) -> float:
    """The width a node takes, in pixels; a group is as wide as its name."""
    return 6.3 * len(node["text"]) + 46 if node["kind"] == "group" else WIDE[node["kind"]]


def _stretched(widths: Sequence[float], room: float) -> list[float]:
    """At least the width of the room in all; what is over goes to the columns in proportion to theirs, and up to a limit."""
    over = min(room / max(sum(widths), 1), 2.6 if len(widths) > 1 else room)
    return [w * max(over, 1.0) for w in widths]


def _heights(deep: Sequence[int]) -> list[float]:
    """y of the lowest line of each level, from below; the topmost line is 34 px from the top."""
    ys, y = [], 34.0
    for lines in reversed(deep):
        y += (lines - 1) * DEEP
        ys.append(y)
        y += GAP
    return ys[::-1]


def _stand(cell: Sequence[Sequence[Mapping]], x: float, y: float, place: dict[Any, Place]) -> None:
    for i, line in enumerate(reversed(cell)):
        left = x - _long(line) / 2
        for node in line:
            place[node["id"]] = (left + wide(node) / 2, y - i * DEEP)
            left += wide(node)


# -- what leads where


def _neighbours(edges: Iterable[Mapping]) -> dict[Any, list]:
    near: dict[Any, list] = {}
    for edge in edges:
        near.setdefault(edge["source"], []).append(edge["target"])
        near.setdefault(edge["target"], []).append(edge["source"])
    return near


def _ways(nodes: Sequence[Mapping], edges: Iterable[Mapping], place: Mapping[Any, Place]) -> dict[Any, str]:
    """Where up and down (the strongest edge), left and right (the layer) lead from each node."""
    ways: dict[Any, list] = {node["id"]: ["-"] * 4 for node in nodes}
    for edge in edges:
        ways[edge["source"]][0], ways[edge["target"]][1] = edge["target"], edge["source"]
    levels: dict[int, list] = {}
    for node in nodes:
        levels.setdefault(node["level"], []).append(node["id"])
    for level in levels.values():
        for left, right in pairwise(sorted(level, key=lambda i: place[i])):
            ways[left][3], ways[right][2] = right, left
    return {i: " ".join(map(str, way)) for i, way in ways.items()}


# -- marks


def _row(name: str, y: float, width: float) -> str:
    line = f'<line class="grid" x1="{GUTTER - 8}" x2="{width:.0f}" y1="{y + 24:.0f}" y2="{y + 24:.0f}"/>'
    return f'<text x="0" y="{y + 4:.0f}">{esc(name)}</text>' + (line if name != "Tokens" else "")


def _edge(edge: Mapping[str, Any], place: Mapping[Any, Place], at: Any) -> str:
    (x, y), (u, v) = place[edge["source"]], place[edge["target"]]
    bend = max(18, abs(y - v) / 2)
    near = " is-near" if at in (edge["source"], edge["target"]) else ""
    thick = min(8, 1 + round(12 * sqrt(edge["share"])))
    return (
        f'<path class="e w{thick}{" neg" if edge["weight"] < 0 else ""}{near}" data-of="{edge["source"]} {edge["target"]}" '
        f'd="M{x:.0f} {y - 5:.0f}C{x:.0f} {y - bend:.0f} {u:.0f} {v + bend:.0f} {u:.0f} {v + 7:.0f}"/>'
    )


def _node(node: Mapping[str, Any], at: Place, near: Sequence, ways: str, data: Mapping[str, Any]) -> str:
    i, kind = node["id"], node["kind"]
    on = {
        "is-on": node["pressed"],
        "is-picked": node["picked"],
        "is-idle": node["idle"],
        "is-near": data["at"] in (i, *near),
    }
    classes = " ".join(["nd", kind, *(name for name, true in on.items() if true)])
    stop = 0 if i == data["at"] else -1
    return (
        f'<g class="{classes}" data-id="{i}" data-of="{" ".join(map(str, (i, *near)))}" data-to="{ways}" data-act="pin" data-shift="select" '
        f'data-arg="{i}" transform="translate({at[0]:.1f} {at[1]:.1f})" tabindex="{stop}" role="button" aria-pressed="{str(node["pressed"]).lower()}" '
        f'aria-label="{esc(node["said"])}"><title>{esc(node["said"])}</title>{_pill(node) if kind == "group" else _mark(node)}{_factor(node)}</g>'
    )


def _mark(node: Mapping[str, Any]) -> str:
    kind = node["kind"]
    r = round(5 + 9 * sqrt(node["size"]), 1) if kind == "latent" else {"token": 6, "error": 5, "logit": 9}[kind]
    words = {"latent": f'<text y="{-r - 4:.1f}" text-anchor="middle">{esc(node["text"])}</text>',
             "logit": f'<text class="m" y="-15" text-anchor="middle">{esc(node["text"])}</text>',
             "token": f'<text class="m" transform="translate(3 15) rotate(-48)" text-anchor="end">{esc(node["text"])}</text>'}  # fmt: skip
    return (
        f'<circle class="halo" r="{r + 6:.1f}"/><path class="body" d="{shape(SHAPES[kind], r)}"/>{words.get(kind, "")}'
    )


def _pill(node: Mapping[str, Any]) -> str:
    w = wide(node) - 12
    return (
        f'<rect class="halo" x="{-w / 2 - 4:.0f}" y="-17" width="{w + 8:.0f}" height="34" rx="17"/><rect class="body" x="{-w / 2:.0f}" y="-13" '
        f'width="{w:.0f}" height="26" rx="13"/><circle class="count" cx="{14 - w / 2:.0f}" r="9"/><text class="v many" x="{14 - w / 2:.0f}" y="4" '
        f'text-anchor="middle">{node["count"]}</text><text class="in" x="12" y="4" text-anchor="middle">{esc(node["text"])}</text>'
    )


def _factor(node: Mapping[str, Any]) -> str:
    if node["factor"] is None:
        return ""
    x = wide(node) / 2 - 4 if node["kind"] == "group" else 12
    return f'<text class="v by" x="{x:.0f}" y="15">×{factor(node["factor"])}</text>'


def factor(value: float) -> str:
    return f"{value:g}".replace("-", MINUS)


def short(token: str, most: int = 9) -> str:
    """A token as a label of a few characters; escaped where it is used."""
    word = token.replace("\n", "⏎").replace("\t", "→")
    word = "·" + word[1:] if word.startswith(" ") else word
    return word if len(word) <= most else word[: most - 1] + "…"
