"""Latents by tokens of a text: a heatmap with sums, the error under each token, and what a second text changes."""

from collections.abc import Iterator, Mapping
from typing import Any

from .heat import Cell, cells, cut, hatching, over, plain
from .html import count, esc, fixed, percent, piece, signed
from .marks import ramp
from .notes import button, empty
from .tokens import esc_raw

SHOWN = {"a": "A", "b": "B", "difference": "A − B"}
METRICS = {
    "activation": "activation",
    "attribution": "activation × gradient, in logits of the target",
    "ablation": "the target less the target without the latent there, in logits",
}
PASSES = {
    "activation": "one pass of the model",
    "attribution": "one pass forward, one back",
    "ablation": "one pass for each cell, many at a time",
}
ROW, HEAD, LABELS, TOTALS, PAD = 24, 70, 196, 92, 44  # pixels
SUMS, ERRORS = 72, 46  # below the rows
ROOM = 598  # for the cells of a frame that is 1000 wide
KEYS = "ArrowLeft ArrowRight ArrowUp ArrowDown Home End Enter x"


def prompt_microscope(data: Mapping[str, Any]) -> str:
    """The microscope. `data` is what `widgets.PromptMicroscope.compute` gives."""
    most = max((abs(v) for row in data["rows"] for v in row["values"]), default=0.0)
    return (
        f'<section class="sk" aria-label="Prompt microscope">{_head(data, most)}{_texts(data)}{_bar(data)}'
        f'<div class="sk-body sk-rule">{_heat(data, most) if data["rows"] else _nothing(data)}{_below(data)}</div>{_foot(data)}'
        "</section>"
    )


def _head(data: Mapping[str, Any], most: float) -> str:
    sides, rows = data["sides"], data["rows"]
    if data["show"] == "difference":
        title = f"{count(sides['a'])} latents are on in A only, {count(sides['b'])} in B only, {count(sides['both'])} in both"
        marks = "▲ on in A only &nbsp; ● in both &nbsp; ▼ in B only; negative cells are hatched"
    else:
        first = f"latent {rows[0]['latent']}{_comma(rows[0]['name'])} has the largest sum" if rows else "none"
        title, marks = f"{count(data['active'])} latents are on; {first}", "latents of the largest sums first"
    if data["account"] and rows and data["show"] != "difference":
        top = rows[0]
        title = f"{data['targets'][data['target']]} is {signed(data['account']['target'])}; latent {top['latent']}{_comma(top['name'])} has the largest cells"
        marks = "negative cells are hatched; latents of the largest attribution first"
    scale = ramp("0", fixed(most)) if most and data["show"] != "difference" and not data["account"] else ""
    return (
        f'<div class="sk-head"><div><h3 class="sk-title">{esc(title)}</h3><p class="sk-sub"><span class="sk-mono">{esc(data["site"])}'
        f"</span> · {METRICS[data['metric']]} · {marks}</p></div>{scale}</div>"
    )


def _comma(name: str) -> str:
    return f", {name}," if name else ""


# -- controls


def _texts(data: Mapping[str, Any]) -> str:
    if data["contrast"] is None:
        aside = f'<div class="pm-alone live">{button("Compare with a second text", "compare")}</div>'
        return f'<div class="sk-cols sk-collapse pm-in is-alone">{_text(data, "text", "Text", 0)}{aside}</div>'
    return f'<div class="sk-cols sk-collapse pm-in">{_text(data, "text", "Text A", 0)}{_text(data, "contrast", "Text B, the contrast", 1)}</div>'


def _text(data: Mapping[str, Any], name: str, title: str, side: int) -> str:
    i = f"pm-{name}-{data['id']}"
    return (
        f'<div class="sk-field"><label for="{i}">{title}<span>{count(data["n"][side])} of {count(data["room"])} tokens</span></label>'
        f'<textarea id="{i}" rows="3" spellcheck="false" data-act="{name}">{esc_raw(data[name])}</textarea></div>'
    )


def _bar(data: Mapping[str, Any]) -> str:
    i, show = data["id"], ""
    if data["contrast"] is not None:
        radios = "".join(
            f'<label><input type="radio" name="pm-show-{i}" value="{key}" data-act="show"'
            f"{' checked' if key == data['show'] else ''}>{title}</label>"
            for key, title in SHOWN.items()
        )
        show = (
            f'<div class="sk-field"><span class="sk-lab" id="pm-l-{i}">Show</span><span class="sk-seg" role="radiogroup" '
            f'aria-labelledby="pm-l-{i}">{radios}</span></div>'
        )
    values = "".join(
        f'<label><input type="radio" name="pm-metric-{i}" value="{key}" data-act="metric"'
        f"{' checked' if key == data['metric'] else ''}>{key.title()}</label>"
        for key in METRICS
    )
    show += (
        f'<div class="sk-field"><span class="sk-lab" id="pm-m-{i}">Cell value</span><span class="sk-seg" role="radiogroup" '
        f'aria-labelledby="pm-m-{i}">{values}</span></div>'
    )
    if data["account"]:
        options = "".join(
            f'<option value="{n}"{" selected" if n == data["target"] else ""}>{esc(plain(label))}</option>'
            for n, label in enumerate(data["targets"])
        )
        show += (
            f'<div class="sk-field"><label for="pm-target-{i}">Target</label><select id="pm-target-{i}" '
            f'data-act="target">{options}</select></div>'
        )
    rows = (
        f'<div class="sk-field" style="width:150px"><label for="pm-top-{i}">Latents shown <output>{data["top"]}</output></label>'
        f'<input id="pm-top-{i}" type="range" min="1" max="{data["most"]}" step="1" value="{data["top"]}" data-act="top"></div>'
    )
    alone = button("Remove text B", "alone", kind="is-quiet sk-push") if data["contrast"] is not None else ""
    return f'<div class="sk-bar" role="group" aria-label="What to show">{show}{rows}{alone}</div>'


# -- the heatmap: names, cells and row sums side by side, so that only the cells scroll


def _heat(data: Mapping[str, Any], most: float) -> str:
    n, rows = len(data["columns"]), data["rows"]
    wide = min(max(ROOM / n, 26), 46)
    height, bottom = HEAD + ROW * len(rows) + SUMS + ERRORS, HEAD + ROW * len(rows)
    alt = f"Heatmap of {len(rows)} latents, the rows, by {n} tokens, the columns; arrows move between cells"
    hatch = f"pm-h-{data['id']}"
    drawn = cells(_cells(data, most, wide), most, (wide - 1.5, ROW - 3), hatch)
    lines = "".join(
        f'<line class="grid" x1="0" x2="{n * wide:.0f}" y1="{HEAD + ROW * r + 23.5}" y2="{HEAD + ROW * r + 23.5}"/>'
        for r in range(len(rows))
    )
    hit = (
        f'<g data-act="at" data-point="0 {n} {len(rows)} 0" class="pm-plot"><rect x="0" y="{HEAD}" width="{n * wide:.1f}" '
        f'height="{ROW * len(rows)}" fill="transparent"/>{drawn}</g>'
    )
    drawn = (
        f"{hatching(hatch)}<g>{_tokens(data, wide)}{lines}</g>{hit}<g>{_sums(data, wide, bottom)}{_errors(data, wide, bottom + SUMS)}</g>"
        f"{_cursor(data, wide)}"
    )
    return (
        f'<div class="pm-heat"><svg width="{LABELS}" height="{height}" role="group" aria-label="Latents">{_names(data, height)}</svg>'
        f'<div class="sk-scroll"><svg width="{n * wide + PAD:.0f}" height="{height}" role="group" data-roving data-keys="{KEYS}" '
        f'data-on="move" aria-label="{alt}">{drawn}</svg></div>'
        f'<svg width="{TOTALS}" height="{height}" role="img" aria-label="Row sums">{_totals(data)}</svg></div>'
    )


def _names(data: Mapping[str, Any], height: int) -> str:
    drawn = ""
    for r, row in enumerate(data["rows"]):
        y = HEAD + ROW * r + 16
        drawn += f'<text x="0" y="{y}" class="v">{row["latent"]}</text><text x="44" y="{y}">{esc(cut(row["name"], 25))}</text>'
    bottom = HEAD + ROW * len(data["rows"])
    right = f'x="{LABELS - 8}" text-anchor="end"'
    return (
        drawn + f'<text {right} y="{HEAD - 8}">latent</text><text {right} y="{bottom + 40}">column sum</text>'
        f'<text {right} y="{bottom + SUMS + 26}">error share</text>'
    )


def _tokens(data: Mapping[str, Any], wide: float) -> str:
    """The tokens over their columns; those that differ between the texts are bold and marked."""
    drawn = ""
    for c, column in enumerate(data["columns"]):
        token = column["b"] if data["show"] == "b" or column["a"] is None else column["a"]
        words = cut(plain(token), 9) + (" ≠" if column["differs"] else "")
        drawn += over(c * wide + wide / 2 + 4, HEAD - 6, words, column["differs"])
    return drawn


def _cells(data: Mapping[str, Any], most: float, wide: float) -> Iterator[Cell]:
    for r, row in enumerate(data["rows"]):
        for c, value in enumerate(row["values"]):
            if row["a"][c] or row["b"][c] if data["show"] == "difference" else value:
                yield c * wide + 0.5, HEAD + ROW * r + 1, value, _mark(data, row, c, most)


def _mark(data: Mapping[str, Any], row: Mapping[str, Any], c: int, most: float) -> str:
    """What is written in a cell: which text the latent is on in; else the value, where it is large."""
    if data["show"] == "difference":
        return "●" if row["a"][c] and row["b"][c] else "▲" if row["a"][c] else "▼"
    value = row["values"][c]
    return fixed(value, 1 if abs(value) < 10 else 0) if abs(value) > 0.3 * most else ""


def _cursor(data: Mapping[str, Any], wide: float) -> str:
    r, c = data["cell"]
    row = data["rows"][r]
    alt = f"Latent {row['latent']}{_comma(row['name'])} at {_at(data, c)}: {_said(data, row, c)}"
    return (
        f'<rect class="pm-at" x="{c * wide + 0.5:.1f}" y="{HEAD + ROW * r + 1}" width="{wide - 1.5:.1f}" height="{ROW - 3}" rx="2" '
        f'tabindex="0" role="button" data-sight aria-label="{esc(alt)}"/>'
    )


def _sums(data: Mapping[str, Any], wide: float, top: int) -> str:
    """The sum of each column over the rows shown, as a bar up or down; the largest with its value."""
    sums, zero = data["sums"], top + 36
    most = max(map(abs, sums), default=0) or 1
    drawn = f'<line class="axis" x1="0" x2="{len(sums) * wide:.1f}" y1="{zero}" y2="{zero}"/>'
    for c, value in enumerate(sums):
        tall = 20 * abs(value) / most
        kind = f'class="{"sk-fill-neg" if value < 0 else "sk-fill-pos"}"'
        box = f'x="{c * wide + 4:.1f}" width="{wide - 8:.1f}" y="{zero if value < 0 else zero - tall:.1f}" height="{tall:.1f}"'
        drawn += f"<rect {box} {kind}/>" + (f'<rect {box} fill="url(#pm-h-{data["id"]})"/>' if value < 0 else "")
    peak = max(range(len(sums)), key=lambda c: abs(sums[c]))
    number = _total(data, sums[peak])
    y = zero - 24 if sums[peak] > 0 else zero + 32
    return drawn + f'<text class="v" x="{peak * wide + wide / 2:.1f}" y="{y}" text-anchor="middle">{number}</text>'


def _total(data: Mapping[str, Any], value: float) -> str:
    if data["account"]:
        return signed(value)
    return signed(value, 1) if data["show"] == "difference" else fixed(value, 1)


def _errors(data: Mapping[str, Any], wide: float, top: int) -> str:
    """The share of each token's activation that the coder leaves out; of B beside A as an outline."""
    zero, drawn = (
        top + 30,
        f'<line class="axis" x1="0" x2="{len(data["columns"]) * wide:.1f}" y1="{top + 30}" y2="{top + 30}"/>',
    )
    drawn += f'<line class="ref" x1="0" x2="{len(data["columns"]) * wide:.1f}" y1="{top + 6}" y2="{top + 6}"/>'
    for c, column in enumerate(data["columns"]):
        for side, share in enumerate(column["errors"]):
            if share is None or {"a": 1, "b": 0}.get(data["show"]) == side:
                continue
            tall = 24 * min(share / data["most_error"], 1)
            line = side and data["show"] == "difference"
            paint = 'fill="none" stroke="var(--sk-ink)"' if line else 'fill="var(--sk-mark)"'
            inset = 6 if line else 4
            drawn += f'<rect x="{c * wide + inset:.1f}" width="{wide - 2 * inset:.1f}" y="{zero - tall:.1f}" height="{tall:.1f}" {paint}/>'
    return drawn


def _totals(data: Mapping[str, Any]) -> str:
    most = max((abs(row["total"]) for row in data["rows"]), default=0) or 1
    drawn = f'<text x="{TOTALS}" y="{HEAD - 8}" text-anchor="end">row sum</text>'
    for r, row in enumerate(data["rows"]):
        y, wide = HEAD + ROW * r, 40 * abs(row["total"]) / most
        negative = row["total"] < 0
        box = f'x="2" y="{y + 7}" width="{wide:.1f}" height="10" rx="1.5"'
        drawn += f'<rect {box} class="{"sk-fill-neg" if negative else "sk-fill-pos"}"/>'
        drawn += f'<rect {box} fill="url(#pm-h-{data["id"]})"/>' if negative else ""
        number = _total(data, row["total"])
        drawn += f'<text class="v" x="{TOTALS}" y="{y + 16}" text-anchor="end">{number}</text>'
    bottom = HEAD + ROW * len(data["rows"]) + SUMS
    return (
        drawn
        + f'<text x="{TOTALS}" y="{bottom + 10}" text-anchor="end">{percent(data["most_error"], 0)}, dotted</text>'
    )


# -- below


def _below(data: Mapping[str, Any]) -> str:
    if not data["rows"]:
        return ""
    return f'<div class="sk-cols sk-collapse pm-low"><div class="sk-panel" aria-live="polite">{_picked(data)}</div>{_account(data)}</div>'


def _picked(data: Mapping[str, Any]) -> str:
    r, c = data["cell"]
    row, column = data["rows"][r], data["columns"][c]
    facts = [] if data["account"] else _values(data, row, column, c)
    if data["measures"]:
        for metric in METRICS:
            told = ["no token" if m is None else signed(m[metric]) if m else "" for m in data["measures"]]
            facts.append((metric.title(), " · ".join(told if data["contrast"] is not None else told[:1])))
    if data["show"] == "difference":
        facts.append(("A − B", signed(row["values"][c])))
    facts += [("Row", f"{r + 1}<small> of {count(data['active'])}</small>")]
    facts += [("Error share", " · ".join(percent(e, 0) for e in column["errors"] if e is not None))]
    stats = "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts)
    tokens = dict.fromkeys(t for t in (column["a"], column["b"]) if t is not None)
    place = c + 1 + data["skipped"]
    shown = " / ".join(f'<span class="sk-mono">{piece(t, spaces=True, longest=24)}</span>' for t in tokens)
    word = f"Close the card of latent {row['latent']}" if data["open"] else f"Open latent {row['latent']}"
    act = button(word, "open") if data["named"] else ""
    name = f" · {esc(row['name'])}" if row["name"] else ""
    return (
        f'<h4>Latent {row["latent"]}{name} at {"column" if data["show"] == "difference" else "token"} {place}, {shown}</h4><dl class="sk-stats" style="margin:6px 0">{stats}</dl>'
        f'<span class="live">{act}</span>'
    )


def _values(
    data: Mapping[str, Any], row: Mapping[str, Any], column: Mapping[str, Any], c: int
) -> list[tuple[str, str]]:
    """The activation in each text."""
    facts = []
    for side, name in (("a", "In A"), ("b", "In B")):
        if data["contrast"] is not None or side == "a":
            value = "no token" if column[side] is None else fixed(row[side][c]) if row[side][c] > 0 else "off"
            facts.append((name if data["contrast"] is not None else "Activation", value))
    return facts


PARTS = {"shown": "latents shown", "others": "other latents", "error": "error", "bias": "bias"}


def _adds_up(data: Mapping[str, Any]) -> str:
    """What the target rests on, to first order: a bar whose parts add up to the whole."""
    account, size = data["account"], sum(abs(data["account"][part]) for part in PARTS) or 1
    bars = "".join(
        f'<span class="pm-{part}{" sk-hatched" if account[part] < 0 else ""}" style="width:{100 * abs(account[part]) / size:.1f}%"></span>'
        for part in PARTS
    )
    told = "".join(
        f'<dt><i class="pm-{part}{" sk-hatched" if account[part] < 0 else ""}" aria-hidden="true"></i>{words}</dt><dd>{signed(account[part])}</dd>'
        f"<dd>{percent(account[part] / account['total'], 1) if account['total'] else ''}</dd>"
        for part, words in PARTS.items()
    )
    rest = account["total"] - sum(account[part] for part in PARTS)
    return (
        f'<div class="sk-panel"><h4>Gradient × activation at this site: {signed(account["total"])} logits</h4>'
        f'<div class="pm-acc" role="img" aria-label="{", ".join(f"{words} {signed(account[p])}" for p, words in PARTS.items())}">{bars}</div>'
        f'<dl class="pm-told">{told}<dt>sum</dt><dd>{signed(account["total"])}</dd><dd>100 %</dd></dl>'
        f'<p class="sk-cap">Over all tokens but BOS; residual {rest:.0e}. Attribution is to first order: the model is not linear, so the sum need '
        f"not be the target itself, {signed(account['target'])}. Hatched: lowers it.</p>{_same(data)}</div>"
    )


def _account(data: Mapping[str, Any]) -> str:
    if data["account"]:
        return _adds_up(data)
    rows, of = len(data["rows"]), "that differ" if data["show"] == "difference" else "that are on"
    errors = [e for column in data["columns"] for e in column["errors"] if e is not None]
    mean, sides = sum(errors) / len(errors), "; A filled, B outlined" if data["show"] == "difference" else ""
    return (
        f'<div class="sk-panel"><h4>{count(rows)} of {count(data["active"])} latents {of} are shown</h4><p class="sk-cap">They hold '
        f"{percent(data['share'])} of the sum of all cells, signs aside. Row sums are over the whole text; column sums are over the "
        f"rows shown.</p><p class='sk-cap'>The coder leaves out {percent(mean)} of a token's activation on average, measured from its "
        f"bias: squared error over squared distance{sides}.</p>{_same(data)}</div>"
    )


def _same(data: Mapping[str, Any]) -> str:
    n = data["skipped"]
    return f'<p class="sk-cap">The first {count(n)} tokens are the same in both texts, and left out.</p>' if n else ""


def _nothing(data: Mapping[str, Any]) -> str:
    if data["show"] == "difference":
        return empty("The two texts give the same activations", "Change a word of one of them.")
    return empty("No latent is on in this text", "Try a longer text, or one more like what the coder was trained on.")


def _foot(data: Mapping[str, Any]) -> str:
    swap = '<span class="live"><kbd>x</kbd> swap A and B</span>' if data["contrast"] is not None else ""
    card = '<span class="live"><kbd>Enter</kbd> open the latent</span>' if data["named"] else ""
    return (
        f'<div class="sk-foot"><span class="live"><kbd>←</kbd> <kbd>→</kbd> <kbd>↑</kbd> <kbd>↓</kbd> cells</span>{card}{swap}'
        f'<span class="sk-push">{PASSES[data["metric"]]} · {fixed(1000 * data["seconds"], 0)} ms</span></div>'
    )


# -- words


def _at(data: Mapping[str, Any], c: int) -> str:
    column = data["columns"][c]
    return " / ".join(dict.fromkeys(cut(plain(t), 24) for t in (column["a"], column["b"]) if t is not None))


def _said(data: Mapping[str, Any], row: Mapping[str, Any], c: int) -> str:
    if data["show"] != "difference":
        return (signed if data["account"] else fixed)(row["values"][c]) if row["values"][c] else "off"
    return f"{signed(row['values'][c])}, A {fixed(row['a'][c])}, B {fixed(row['b'][c])}"
