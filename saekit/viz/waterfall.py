"""A waterfall: parts that add up, each from where the last one ended, and their sum."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from .html import esc, fixed, signed

MOST = 8  # parts with a name of their own


def waterfall(parts: Sequence[Mapping[str, Any]], *, unit: str = "%", digits: int = 1) -> str:
    """Rows of name, bar and value. parts: name, value, and how it is drawn: pale (left out of the picture), plain (grey).

    The sum is that of the values, not of what is drawn.
    """
    ends = [0.0, *accumulate(part["value"] for part in parts)]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    rows = "".join(
        _part(part, (min(a, b) - low) / span, abs(b - a) / span, (0 - low) / span, digits)
        for part, a, b in zip(parts, ends, ends[1:], strict=False)
    )
    total = ends[-1]
    said = ", ".join(f"{part['name']} {fixed(part['value'], digits)}" for part in parts)
    left, wide = (min(0.0, total) - low) / span, abs(total) / span
    return (
        f'<div class="wf" role="img" aria-label="{esc(f"Waterfall: {said}; sum {fixed(total, digits)} {unit}")}">{rows}'
        f'<span class="tot">sum</span><span class="bar tot">{_bar("t", left, wide)}</span><span class="sk-num tot">{fixed(total, digits)}</span></div>'
    )


def named_parts(parts: Sequence[Mapping[str, Any]], most: int = MOST) -> list[Mapping[str, Any]]:
    """The parts of largest size, then the others as one or two, then the plain ones, which keep their names."""
    sources = sorted((p for p in parts if not p.get("plain")), key=lambda p: -abs(p["value"]))
    more = [*_together(sources[most:], False), *_together(sources[most:], True)]
    return [*sources[:most], *more, *(p for p in parts if p.get("plain"))]


def _together(parts: Sequence[Mapping[str, Any]], pale: bool) -> list[Mapping[str, Any]]:
    """Parts without a name of their own: those that are in the picture, or those that are not."""
    mine = [part for part in parts if bool(part.get("pale")) == pale]
    name = f"{len(mine)} not shown" if pale else f"{len(mine)} other{'s' * (len(mine) > 1)}"
    return [{"name": name, "value": sum(p["value"] for p in mine), "plain": True, "pale": pale}] if mine else []


def _part(part: Mapping[str, Any], left: float, wide: float, zero: float, digits: int) -> str:
    pale = part.get("pale")
    kind = "c" if part.get("plain") else "sk-fill-neg sk-hatched" if part["value"] < 0 else "sk-fill-pos"
    out = ' class="out"' if pale else ""
    name = esc(part["name"])
    return (
        f'<span{out} title="{name}">{name}</span><span class="bar">{_bar(kind + (" out" if pale else ""), left, wide)}'
        f'<b style="left:{100 * zero:.1f}%"></b></span><span class="sk-num">{signed(part["value"], digits)}</span>'
    )


def _bar(kind: str, left: float, wide: float) -> str:
    return f'<i class="{kind}" style="left:{100 * left:.1f}%;width:{100 * max(wide, 0.008):.1f}%"></i>'
