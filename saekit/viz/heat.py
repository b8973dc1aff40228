"""Cells of a heatmap: all of one colour are one path, negative ones are hatched too, and the words stand on top."""

from collections.abc import Iterable

from .html import esc
from .marks import step

Cell = tuple[float, float, float, str]  # x, y, value, what is written in it


def cells(found: Iterable[Cell], most: float, size: tuple[float, float], hatch: str = "") -> str:
    """Cells of one size; `most` is the value of the last step of the ramp, `hatch` the id of a pattern from below."""
    groups: dict[tuple[bool, int], list[tuple[float, float, str]]] = {}
    for x, y, value, mark in found:
        groups.setdefault((value < 0, step(abs(value), most)), []).append((x, y, mark))
    return "".join(_group(*key, groups[key], size, hatch) for key in sorted(groups))


def _group(
    negative: bool, at: int, found: list[tuple[float, float, str]], size: tuple[float, float], hatch: str
) -> str:
    wide, tall = size
    path = "".join(f"M{x:.1f} {y:.1f}h{wide:.1f}v{tall:.1f}h{-wide:.1f}z" for x, y, _ in found)
    lines = f'<path d="{path}" style="fill:url(#{hatch})"/>' if negative and at and hatch else ""
    words = "".join(
        f'<text x="{x + wide / 2:.1f}" y="{y + tall / 2 + 4.5:.1f}">{esc(mark)}</text>' for x, y, mark in found if mark
    )
    colour = f"var(--sk-{'n' if negative else 'a'}{at})" if at else "var(--sk-surface)"
    ink = "var(--sk-ink)" if not at else "var(--sk-on-hi)" if at > 4 else "var(--sk-on-lo)"
    return f'<g class="pm-t" style="--c:{colour};--i:{ink}"><path d="{path}"/>{lines}{words}</g>'


def hatching(name: str) -> str:
    """The pattern over negative cells and bars, by an id of the page."""
    return (
        f'<defs><pattern id="{name}" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(-45)">'
        '<line x1="0" y1="0" x2="0" y2="5" stroke="var(--sk-hatch-lo)" stroke-width="2.4"/></pattern></defs>'
    )


def over(x: float, y: float, words: str, bold: bool = False) -> str:
    """Words over a column, turned."""
    strong = ' style="font-weight:700"' if bold else ""
    return f'<g transform="translate({x:.1f} {y}) rotate(-52)"><text class="m"{strong}>{esc(words)}</text></g>'


def plain(token: str) -> str:
    """A token in one line of plain text; escaped where it is used."""
    return token.replace("\n", "⏎").replace("\t", "→").replace(" ", "·")


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
