"""Attention patterns: every head as a small picture, one of them large, and the text under one of its rows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .heat import Cell, cells, cut, over, plain
from .html import count, esc, fixed, named, percent, piece
from .marks import bar, ramp, step
from .tokens import numbered

THUMB, LARGE = 36, 310  # pixels
LEVELS = ((0.1, 3), (0.3, 5), (0.6, 7))  # of a small picture: attention from here on, step of the ramp
FAINT = 0.02  # of the scale; what is below is not drawn
LEFT, TOP = 66, 66
ARROWS = "ArrowLeft ArrowRight ArrowUp ArrowDown"


def attention_view(data: Mapping[str, Any]) -> str:
    """The viewer. `data` is what `widgets.AttentionView.compute` gives."""
    return (
        f'<section class="sk" aria-label="Attention patterns">{_head(data)}{_bar(data)}<div class="sk-body sk-rule">'
        f'<div class="sk-cols sk-collapse av"><div>{_heads(data)}{_sources(data)}</div>{_pattern(data)}</div>{_text(data)}</div>'
        f"{_foot(data)}</section>"
    )


def head_name(layer: int, head: int) -> str:
    return f"{layer}.{head}"


# -- words


def _head(data: Mapping[str, Any]) -> str:
    scale = ramp("0", fixed(data["most"])) if data["most"] else ""
    return (
        f'<div class="sk-head"><div><h3 class="sk-title">{esc(_finding(data))}</h3><p class="sk-sub">{_about(data)}</p></div>'
        f"{scale}</div>"
    )


def _finding(data: Mapping[str, Any]) -> str:
    name, pos = head_name(data["layer"], data["head"]), data["pos"]
    first = max(range(pos + 1), key=data["weights"].__getitem__)
    at, share = _word(data, pos), percent(data["weights"][first], 0)
    if data["sink"] is not None and first == 0:
        return f"From {at}, head {name} looks mostly at BOS, {share}: it finds little to move"
    where = "itself" if first == pos else f"{_word(data, first)}, {_back(pos - first)}"
    return f"From {at}, head {name} looks most at {where}: {share}"


def _about(data: Mapping[str, Any]) -> str:
    parts = [f"{count(len(data['tokens']))} tokens"]
    if data["sink"] is not None:
        parts.append(f"BOS takes {percent(data['sink'], 0)} of this head's attention on average")
    if data["scores"] is not None:
        layer, head = data["best"]
        mine, best = data["scores"][data["layer"]][data["head"]], data["scores"][layer][head]
        strongest = "the largest of all" if (layer, head) == (data["layer"], data["head"]) else ""
        rest = strongest or f"largest {fixed(best)}, head {head_name(layer, head)}"
        parts.append(f"{esc(data['scored'])} {fixed(mine)}, {rest}")
    return " · ".join(parts)


def _word(data: Mapping[str, Any], i: int) -> str:
    return repr(cut(plain(data["tokens"][i]), 18)) if not (i == 0 and data["sink"] is not None) else "BOS"


def _back(n: int) -> str:
    return "the token before" if n == 1 else f"{count(n)} tokens back"


def _bar(data: Mapping[str, Any]) -> str:
    if data["sink"] is None:
        return ""
    return (
        '<div class="sk-bar" role="group" aria-label="What to show"><label class="sk-check"><input type="checkbox" data-act="bos"'
        f"{' checked' if data['bos'] else ''}> Show attention on BOS</label>"
        '<span class="sk-cap" style="align-self:center">A head must look somewhere; BOS is where it looks when it has nothing to '
        "fetch. Without it the colours are for the rest.</span></div>"
    )


# -- all heads


def _heads(data: Mapping[str, Any]) -> str:
    rows = f'<div class="av-row" aria-hidden="true"><span class="sk-cap">head</span>{"".join(f"<span class=sk-cap>{h}</span>" for h in range(data["n_heads"]))}</div>'
    rows += "".join(
        f'<div class="av-row"><span class="sk-cap">layer {layer}</span>{"".join(_thumb(data, layer, h) for h in range(data["n_heads"]))}</div>'
        for layer in data["layers"]
    )
    more = (
        f'<p class="sk-cap">layers {data["layers"][0]} to {data["layers"][-1]} of {data["n_layers"]}; ↑ and ↓ go on</p>'
    )
    keys = f'data-keys="{ARROWS}" data-on="heads"'
    levels = " and ".join((", ".join(percent(low, 0) for low, _ in LEVELS[:-1]), percent(LEVELS[-1][0], 0)))
    said = "Each picture is one head: rows look, columns are looked at"
    return (
        f'<h4 class="sk-h">All heads</h4><p class="sk-cap">{said}; {levels} of attention and more.</p>'
        f'<div class="sk-scroll"><div class="av-heads" role="group" aria-label="{said}. Arrows move between heads." data-roving {keys}>{rows}</div></div>'
        f"{more if len(data['layers']) < data['n_layers'] else ''}"
    )


def _thumb(data: Mapping[str, Any], layer: int, head: int) -> str:
    on = (layer, head) == (data["layer"], data["head"])
    side, runs = data["thumbs"][layer][head]
    drawn = "".join(
        f'<path d="{"".join(f"M{x} {y + 0.5:g}h{n}" for x, y, n in found)}" stroke="var(--sk-a{colour})" stroke-width="1.06"/>'
        for (_, colour), found in zip(LEVELS, runs, strict=True)
    )
    score = "" if data["scores"] is None else fixed(data["scores"][layer][head])
    best = data["best"] == (layer, head)
    said = f"Head {head_name(layer, head)}" + (f", {data['scored']} {score}" if score else "") + (", largest" * best)
    words = f"{'★' if best else ''}{score or head_name(layer, head)}"
    return (
        f'<button type="button" class="av-thumb{" is-best" if best else ""}" aria-pressed="{str(on).lower()}" tabindex="{0 if on else -1}" '
        f'data-act="pick" data-arg="{head_name(layer, head)}" aria-label="{esc(said)}" title="{esc(said)}"><svg viewBox="0 0 {side} {side}" width="{THUMB}" '
        f'height="{THUMB}" aria-hidden="true" fill="none" preserveAspectRatio="none">{drawn}</svg><span>{words}</span></button>'
    )


def runs(rows: Sequence[Sequence[float]]) -> list[list[tuple[int, int, int]]]:
    """(column, row, length) of what lies at each of LEVELS, but below the next."""
    found: list[list[tuple[int, int, int]]] = [[] for _ in LEVELS]
    for y, row in enumerate(rows):
        last = None
        for x, value in enumerate([*row, 0.0]):
            level = sum(value >= low for low, _ in LEVELS) - 1
            if last is not None and level != last[0]:
                found[last[0]].append((last[1], y, x - last[1]))
                last = None
            if level >= 0 and last is None:
                last = (level, x)
    return found


# -- one head


def _pattern(data: Mapping[str, Any]) -> str:
    n, pos = len(data["tokens"]), data["pos"]
    side = min(max(LARGE / n, 1.8), 26)
    wide = side * n
    marked = {i for i in (pos, *(k for k, _, _ in data["top"][:3])) if i >= 0}
    every = side >= 13
    drawn = f'<rect x="{LEFT}" y="{TOP}" width="{wide:.1f}" height="{wide:.1f}" class="av-ground"/>'
    drawn += cells(_cells(data, side), data["most"], (side - (side > 5), side - (side > 5)))
    y = TOP + pos * side
    drawn += f'<rect x="{LEFT}" y="{y:.1f}" width="{(pos + 1) * side:.1f}" height="{max(side, 3):.1f}" class="av-at"/>'
    names = "".join(
        f'<text class="{"v" if i == pos else "m"}" x="{LEFT - 5}" y="{TOP + (i + 0.5) * side + 4:.1f}" text-anchor="end">{esc(cut(plain(_shown(data, i)), 10))}</text>'
        for i in (range(n) if every else [pos])
    )
    heads = "".join(
        over(LEFT + (i + 0.5) * side + 3, TOP - 5, cut(plain(_shown(data, i)), 9))
        for i in (range(n) if every else _apart(marked, data, side))
    )
    axes = f'<text x="{LEFT + wide:.0f}" y="{TOP + wide + 14:.0f}" text-anchor="end">looked at →</text><text x="{LEFT}" y="{TOP + wide + 14:.0f}">↓ looking</text>'
    hit = f'<rect x="{LEFT}" y="{TOP}" width="{wide:.1f}" height="{wide:.1f}" fill="transparent" class="pm-plot" data-act="at" data-point="0 {n} {n} 0"/>'
    alt = f"Attention pattern of head {head_name(data['layer'], data['head'])}, {n} by {n}. {_finding(data)}"
    return (
        f'<div class="sk-scroll"><svg width="{LEFT + wide + 16:.0f}" height="{TOP + wide + 22:.0f}" role="img" aria-label="{esc(alt)}" '
        f'style="max-width:none">{drawn}{names}{heads}{axes}{hit}</svg></div>'
    )


def _cells(data: Mapping[str, Any], side: float) -> Iterator[Cell]:
    for q, row in enumerate(data["pattern"]):
        for k, value in enumerate(row):
            if value > FAINT * data["most"] and value > 0:
                yield LEFT + k * side, TOP + q * side, value, ""


def _apart(marked: set[int], data: Mapping[str, Any], side: float) -> list[int]:
    """Of the columns with a name, those that do not run into a stronger one's."""
    kept: list[int] = []
    for i in sorted(marked, key=lambda i: -data["weights"][i]):
        if all(abs(i - j) * side >= 14 for j in kept):
            kept.append(i)
    return kept


def _shown(data: Mapping[str, Any], i: int) -> str:
    return "BOS" if i == 0 and data["sink"] is not None else data["tokens"][i]


def _sources(data: Mapping[str, Any]) -> str:
    """Where the chosen token looks, adding up to 100 %."""
    rows = "".join(
        _source(
            f'<span class="sk-mono">{piece(_shown(data, k), spaces=True, longest=16)}</span>',
            fixed(k - data["pos"], 0),
            why,
            value,
        )
        for k, value, why in data["top"]
    )
    if left := data["pos"] + 1 - len(data["top"]):
        rows += _source(f"{count(left)} others", "", "", 1 - sum(value for _, value, _ in data["top"]))
    head = '<tr><th scope="col">token</th><th scope="col" class="sk-num">place</th><th scope="col">it is</th><th scope="col" colspan="2" class="sk-num">attention</th></tr>'
    return (
        f'<div class="av-sources" aria-live="polite"><h4 class="sk-h">From <span class="sk-mono">{piece(_shown(data, data["pos"]), spaces=True, longest=24)}</span>, '
        f"token {data['pos'] + 1}</h4><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>"
    )


def _source(token: str, place: str, why: str, value: float) -> str:
    share = percent(value, 0)
    return (
        f'<tr><th scope="row">{token}</th><td class="sk-num">{place}</td><td>{esc(why)}</td><td>{bar(value, share, width="44px")}</td>'
        f'<td class="sk-num">{share}</td></tr>'
    )


# -- the text


def _text(data: Mapping[str, Any]) -> str:
    lines = numbered(data["tokens"], lambda i, shown: _token(data, i, shown))
    alt = "The text, one button per token; colour shows where the chosen one looks. Arrows move between tokens."
    return (
        f'<div class="sk-code av-text" role="group" aria-label="{alt}" data-roving data-hover="over" '
        f'data-keys="ArrowLeft ArrowRight Home End" data-on="move">{lines}</div>'
    )


def _token(data: Mapping[str, Any], i: int, shown: str) -> str:
    weight = data["weights"][i] if data["bos"] or i or data["sink"] is None else 0.0
    at = step(weight, data["most"]) if weight > FAINT * data["most"] else 0
    kinds = "sk-tok" + (f" a{at}" if at else "") + (" is-on" if i == data["pos"] else "")
    said = f"{named(_shown(data, i))}, token {i + 1}" + (
        f", {percent(data['weights'][i], 0)}" if i <= data["pos"] else ""
    )
    words = "BOS" if _shown(data, i) == "BOS" and i == 0 else piece(shown, spaces=False)
    return (
        f'<button type="button" class="{kinds}" data-act="pos" data-arg="{i}" tabindex="{0 if i == data["pinned"] else -1}" '
        f'aria-label="{esc(said)}">{words}</button>'
    )


def _foot(data: Mapping[str, Any]) -> str:
    return (
        '<div class="sk-foot"><span class="live">point at a token, or <kbd>←</kbd> <kbd>→</kbd> in the text</span>'
        '<span class="live"><kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd> among the heads</span>'
        f'<span class="sk-push">colour and underline both show attention · one pass of the model · {fixed(1000 * data["seconds"], 0)} ms</span></div>'
    )
