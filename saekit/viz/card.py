"""One latent on one card: what it responds to, what it does to the output, which labels it matches, a text to try."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from . import evidence
from .html import count, esc, fixed, percent, piece, signed
from .marks import family, ramp, step, strip
from .notes import button, empty, note
from .tokens import esc_raw, lines_of

TABS = {"examples": "Examples", "output": "Output", "labels": "Labels", "neighbours": "Neighbours", "tokens": "Tokens",
        "try": "Try it"}  # fmt: skip
MODES = {"top": "Top", "value": "By value", "rank": "By rank", "random": "Random active", "weighted": "Weighted"}
ABOUT = {
    "top": "The strongest firings, one of each window.",
    "value": "Some firings of each part of the range from 0 to the maximum.",
    "rank": "Five parts of equally many firings, some of each.",
    "random": "Every firing is as likely to be shown as any other.",
    "weighted": "Drawn in proportion to the activation: strong firings more often, as in importance sampling.",
}
NAMED = 0.3  # F1 from which a label is a name


def feature_card(data: Mapping[str, Any]) -> str:
    """A latent's card, one tab open. `data` is what `widgets.FeatureCard.compute` gives."""
    tabs = "".join(
        f'<button type="button" role="tab" data-act="tab" data-arg="{name}" aria-selected="{str(name == data["tab"]).lower()}" '
        f'tabindex="{0 if name == data["tab"] else -1}">{title}</button>'
        for name, title in TABS.items()
    )
    return (
        f'<section class="sk" aria-label="Feature card, latent {data["latent"]}" data-keys="[ ]" data-on="key">{_top(data)}'
        f'<div class="sk-tabs" role="tablist" aria-label="Views of latent {data["latent"]}" data-roving '
        f'data-keys="ArrowLeft ArrowRight" data-on="tabkey">{tabs}</div>'
        f'<div class="sk-body"><div role="tabpanel" class="fc-panel">{panel(data, data["tab"])}</div></div>{_foot(data)}'
        "</section>"
    )


def feature_page(data: Mapping[str, Any]) -> str:
    """The card for a file: every tab that needs no model, one below the other."""
    panels = "".join(
        f'<div class="sk-body sk-rule"><h4 class="sk-h">{TABS[name]}</h4>{panel(data, name)}</div>'
        for name in ("examples", "output", "labels", "neighbours", "tokens")[: 1 if data["dead"] else None]
    )
    return f'<section class="sk" aria-label="Feature card, latent {data["latent"]}">{_top(data)}{panels}{_foot(data)}</section>'


def panel(data: Mapping[str, Any], tab: str) -> str:
    """The content of one tab."""
    if data["dead"] and tab != "try":
        act = button("Open the next latent that is alive", "alive")
        return empty(
            f"Latent {data['latent']} was never on in {count(data['n'])} tokens",
            "It may be dead, or wait for text that this corpus does not hold.", act,
        )  # fmt: skip
    draw = {"examples": _examples, "output": _output, "labels": evidence.labels, "neighbours": evidence.neighbours,
            "tokens": evidence.tokens, "try": _try}  # fmt: skip
    return draw[tab](data)


# -- head


def _top(data: Mapping[str, Any]) -> str:
    i, latent = data["id"], data["latent"]
    go = (
        button("←", "step", -1, "is-icon", label="Previous latent")
        + f'<label class="sk-vh" for="fc-{i}">Latent number</label><input id="fc-{i}" type="number" min="0" '
        f'max="{data["d_sae"] - 1}" value="{latent}" style="width:76px" data-act="latent">'
        + button("→", "step", 1, "is-icon", label="Next latent")
        + button("Random", "random")
        + star(data["latent"], data["star"], "Star")
        + button("Save as a file", "save")
    )
    name = f" · {named(data)}" if named(data) else ""
    facts = [("Density", percent(data["density"]), "of tokens")]
    facts += [("Mean when on", fixed(data["mean"]), ""), ("Maximum", fixed(data["maximum"]), "")]
    if data["best"]:
        facts += [("Best-label F1", fixed(data["best"]["f1"]), f"always-fire {fixed(data['best']['always_fire'])}")]
    stats = "".join(f"<div><dt>{k}</dt><dd>{v}<small> {u}</small></dd></div>" for k, v, u in facts)
    alive = "dead in this corpus" if data["dead"] else "named by its best label" if named(data) else "no label fits"
    return (
        f'<div class="sk-head"><div><h3 class="sk-title">Latent {latent}{esc(name)}</h3>'
        f'<p class="sk-sub"><span class="sk-mono">{esc(data["site"])}</span> · {alive}</p></div>'
        f'<span class="sk-group live" role="group" aria-label="Choose a latent">{go}</span></div>'
        f'<div class="sk-cols sk-collapse fc-top"><dl class="sk-stats" style="gap:8px 18px">{stats}</dl>'
        f"<figure>{_histogram(data)}</figure></div>{note_line(data)}"
    )


def star(latent: int, on: bool, word: str = "") -> str:
    """The button that gives a latent its star or takes it away."""
    shown = f'<span aria-hidden="true">{"★" if on else "☆"}</span>{f" {word}" if word else ""}'
    kind = "sk-btn" if word else "star"
    return (
        f'<button type="button" class="{kind}" data-act="star" data-arg="{latent}" aria-pressed="{str(on).lower()}" '
        f'aria-label="Star {latent}"{"" if word else " tabindex=-1"}>{shown}</button>'
    )


def note_line(data: Mapping[str, Any]) -> str:
    """Where a note about a latent is written; the text of it where nothing can be written."""
    i, latent = data["id"], data["latent"]
    kept = f'<p class="fc-kept"><span class="sk-cap">Note</span> {esc(data["note"])}</p>' if data["note"] else ""
    return (
        f'{kept}<div class="fc-note live"><label class="sk-cap" for="fc-note-{i}">Note</label><input id="fc-note-{i}" type="text" '
        f'maxlength="500" placeholder="what you think it is" value="{esc(data["note"])}" data-act="note {latent}"></div>'
    )


def _histogram(data: Mapping[str, Any]) -> str:
    """Firings by tenths of the maximum, on a log axis; a bar filters the examples."""
    counts, maximum = data["histogram"], data["maximum"]
    if not sum(counts):
        return ""
    x0, width, height = 40, 300, 54
    decades = max(1, len(str(max(counts))) - (max(counts) == 10 ** (len(str(max(counts))) - 1)))

    def y(n: float) -> float:
        return height - height * max(log10(n), 0) / decades

    drawn = ""
    for power in range(decades + 1):
        at = y(10**power) + 8.5
        drawn += f'<line class="grid" x1="{x0}" x2="{x0 + width}" y1="{at:.1f}" y2="{at:.1f}"/>'
        if power in (0, decades):
            drawn += f'<text x="{x0 - 5}" y="{at + 4:.1f}" text-anchor="end">{count(10**power)}</text>'
    stop = data["slice"] or 0
    for i, n in enumerate(counts):
        on = data["slice"] == i
        alt = f"Activation {fixed(maximum * i / 10, 1)} to {fixed(maximum * (i + 1) / 10, 1)}: {count(n)} firings"
        tall = f'y="{y(n) + 8:.1f}" height="{height - y(n):.1f}"' if n else f'y="{height + 7}" height="1"'
        drawn += (
            f'<g tabindex="{0 if i == stop else -1}" role="button" aria-pressed="{str(on).lower()}" data-act="slice" data-arg="{i}" aria-label="{alt}">'
            f'<title>{alt}</title><rect x="{x0 + i * 30}" y="0" width="30" height="{height + 8}" fill="transparent"/>'
            f'<rect class="b" x="{x0 + i * 30 + 1}" {tall} width="28" rx="1.5" '
            f'fill="var(--sk-a{max(2, step(i + 1, 10))})" stroke="{"var(--sk-ink)" if on else "none"}" stroke-width="1.5"/></g>'
        )
    drawn += f'<line class="axis" x1="{x0}" x2="{x0 + width}" y1="{height + 8.5}" y2="{height + 8.5}"/>'
    for share, anchor in ((0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1, "end")):
        value = fixed(maximum * share, 1) if share else "0"
        drawn += f'<text x="{x0 + width * share}" y="{height + 22}" text-anchor="{anchor}">{value}</text>'
    drawn += f'<text x="{x0}" y="{height + 37}">activation · firings, log axis<tspan class="live"> · choose a bar</tspan></text>'
    alt = f"Histogram of {count(sum(counts))} firings by tenths of the maximum"
    return f'<svg class="fc-hist" viewBox="0 0 350 100" role="group" data-roving aria-label="{alt}" style="max-width:390px">{drawn}</svg>'


# -- examples


def _examples(data: Mapping[str, Any]) -> str:
    radios = "".join(
        f'<label><input type="radio" name="fc-mode-{data["id"]}" value="{mode}" data-act="mode"'
        f"{' checked' if mode == data['mode'] else ''}>{title}</label>"
        for mode, title in MODES.items()
    )
    head = (
        '<div style="display:flex;gap:12px;align-items:center;flex-wrap:wrap;margin-bottom:6px">'
        f'<span class="sk-seg live" role="radiogroup" aria-label="Which examples">{radios}</span>'
        f'<span class="sk-push">{ramp("0", fixed(data["maximum"]))}</span></div>'
        f'<p class="sk-cap">{ABOUT[data["mode"]] if data["slice"] is None else ""}</p>'
    )
    if data["slice"] is not None:
        low, high = data["maximum"] * data["slice"] / 10, data["maximum"] * (data["slice"] + 1) / 10
        n = data["histogram"][data["slice"]]
        head += note("plain", f"Only activations from {fixed(low)} to {fixed(high)}: {count(n)} firings.",
                     actions=button("Show all", "slice", data["slice"], "is-quiet"))  # fmt: skip
    return head + "".join(_group(group, data["maximum"]) for group in data["groups"])


def _group(group: Mapping[str, Any], maximum: float) -> str:
    rows = "".join(
        f'<div class="fc-ex"><b class="sk-num">{fixed(e.value)}</b>{strip(e.tokens, e.values, maximum, e.peak)}'
        f'<span class="sk-cap src" title="{esc(e.source)}">{esc(_short(f"{e.source}:{e.line}"))}</span></div>'
        for e in group["examples"]
    )
    rows = rows or '<span class="sk-cap">none was kept from this range</span>'
    return (
        f'<div class="fc-q"><div><h4 class="sk-h">{esc(group["title"])}</h4><span class="sk-cap">{fixed(group["low"])} to '
        f"{fixed(group['high'])}<br>{percent(group['share'])} of firings</span></div><div>{rows}</div></div>"
    )


def _short(place: str) -> str:
    return place if len(place) <= 24 else "…" + place[-23:]


# -- output


def _output(data: Mapping[str, Any]) -> str:
    out = data["output"]
    if out is None:
        return empty("This coder does not write to the residual stream", "Its rows cannot be read as tokens.")
    most = max(abs(v) for _, v in [*out["up"], *out["down"]]) or 1
    change = max(abs(v) for _, v in [*out["more"], *out["less"]]) or 1
    agree = f"{out['agree']} of 10 agree with the decoder row. A random direction of the same norm: {out['agree_random']} of 10."
    early = ""
    if out["early"]:
        after = (
            "1 layer comes after this site. It rewrites"
            if out["early"] == 1
            else f"{out['early']} layers come after this site. They rewrite"
        )
        early = note(
            "warn", "A guess this early in the model.", f"{after} what the row says, so trust the measured column."
        )
    return (
        f'{early}<div class="sk-cols sk-collapse" style="grid-template-columns:1fr 1fr 1fr">'
        f'<div class="sk-panel"><h4>Raises the logit of</h4><p class="sk-cap" style="margin-bottom:8px">decoder row through '
        f"the final norm and unembedding</p>{_tokens(out['up'], most)}</div>"
        f'<div class="sk-panel"><h4>Lowers the logit of</h4><p class="sk-cap" style="margin-bottom:8px">the same row, its ten '
        f"lowest</p>{_tokens(out['down'][::-1], most)}</div>"
        f'<div class="sk-panel"><h4>Measured when it is added, +{fixed(out["strength"], 0)} max</h4><p class="sk-cap" '
        f'style="margin-bottom:8px">change in log probability, nats, mean of {count(out["places"])} places</p>'
        f'{_tokens(out["more"][:5], change)}<div style="height:8px"></div>{_tokens(out["less"][:-6:-1], change)}'
        f'<p class="sk-cap" style="margin-top:8px">{agree}</p></div></div>'
    )


def _tokens(rows: Sequence[tuple[str, float]], most: float) -> str:
    drawn = ""
    for token, value in rows:
        kind = "sk-fill-neg sk-hatched" if value < 0 else "sk-fill-pos"
        drawn += (
            f'<span class="t"><span>{piece(token, spaces=True, longest=16)}</span></span>'
            f'<span><i class="{kind}" style="width:{100 * abs(value) / most:.0f}%"></i></span>'
            f'<span class="sk-num">{signed(value)}</span>'
        )
    return f'<div class="fc-log">{drawn}</div>'


# -- try it


def _try(data: Mapping[str, Any]) -> str:
    tried = data["tried"]
    i = data["id"]
    wraps = "".join(button(f"Try as a {kind}", "wrap", kind) for kind in ("comment", "string", "docstring"))
    if tried["problem"]:
        result = note("bad", tried["problem"], actions=tried["actions"])
    else:
        maximum = data["maximum"] or tried["peak"] or 1
        lines = "".join(_tried_line(line, tried, maximum) for line in _indented(tried["tokens"]))
        words = f"peak {fixed(tried['peak'])} at {tried['at_token']}" if tried["peak"] else "silent"
        more = "" if tried["peak"] else f'<p class="sk-cap">{esc(tried["near"])}</p>'
        result = f'<h4>Activation on it: {esc(words)}</h4>{more}<div class="sk-code sk-scroll" style="margin:6px 0 10px">{lines}</div>'
    return (
        '<div class="sk-cols sk-collapse" style="grid-template-columns:1fr 1fr"><div class="sk-field">'
        f'<label for="fc-text-{i}">Your text<span>{count(tried["n"])} of {count(tried["room"])} tokens</span></label>'
        f'<textarea id="fc-text-{i}" rows="8" spellcheck="false" data-act="text">{esc_raw(tried["text"])}</textarea>'
        f'<span class="sk-cap" role="status">Follows shortly after you stop typing · last run {fixed(1000 * tried["seconds"], 0)} ms'
        f'</span></div><div class="sk-panel">{result}<span class="sk-group">{wraps}</span></div></div>'
    )


def _tried_line(line: Sequence[tuple[int, str, str]], tried: Mapping[str, Any], maximum: float) -> str:
    values = [tried["values"][i] for i, _, _ in line]
    peak = next((n for n, (i, _, _) in enumerate(line) if i == tried["at"]), -1)
    return f'<div class="sk-line">{strip([shown for _, shown, _ in line], values, maximum, peak, whole=True)}</div>'


def _indented(tokens: Sequence[str]) -> list[list[tuple[int, str, str]]]:
    """Lines of tokens, the indentation of a line kept with the token that begins it."""
    lines, rest = [], ""
    for line in lines_of(tokens):
        shown = [(i, text, after) for i, text, after in line]
        if shown and rest:
            i, text, after = shown[0]
            shown[0] = (i, rest + text, after)
        rest = line[-1][2] if line else ""
        lines.append(shown)
    return lines


def _foot(data: Mapping[str, Any]) -> str:
    return (
        f'<div class="sk-foot"><span>{count(data["n"])} tokens of {esc(data["corpus"])}</span>'
        '<span>examples come from the whole range, not only the top</span><span class="sk-push live"><kbd>[</kbd> <kbd>]</kbd> '
        "previous, next · <kbd>←</kbd> <kbd>→</kbd> tabs</span></div>"
    )


def named(data: Mapping[str, Any]) -> str:
    """A latent's name by its best label, where that is above a detector that always fires; else nothing."""
    best = data["best"]
    return name_of(best["label"]) if best and best["above"] else ""


def name_of(label: str) -> str:
    """A latent's name by its best label."""
    inside = {"docstring": "inside a docstring", "comment": "inside a comment", "string": "inside a string"}
    return inside.get(label, "inside a bracket" if family(label) == "bracket" else label)


def in_short(row: Any) -> str:
    """A latent in few words, from its row of the table: a label it follows well, above chance, else a token."""
    if row.label and row.f1 > max(row.always_fire, NAMED):
        return name_of(row.label)
    return f"at {row.tokens[0].strip() or 'blanks'}" if row.tokens else ""
