"""An attribution graph as a picture that is pruned, grouped and changed, with what the kept part can do alone."""

from collections.abc import Mapping
from typing import Any

from .html import MINUS, THIN, count, esc, fixed, percent, piece
from .marks import INDENT, shape
from .notes import button, empty
from .waterfall import named_parts, waterfall
from .web import SHAPES, alone, factor, web

FORMATS = ("HTML", "SVG", "JSON")
FACTORS = (0.0, -1.0, 2.0)
NODES, EDGES = (30, 100), (50, 100)  # the sliders, in per cent
PRESSED = 'aria-pressed="{}"'


def circuit(data: Mapping[str, Any]) -> str:
    """The whole view. `data` is what `widgets.CircuitView.compute` gives."""
    return (
        f'<section class="sk" aria-label="Circuit view">{_head(data)}{_bar(data)}<div class="sk-body sk-rule"><div class="sk-cols sk-collapse cv">'
        f'<div>{_figure(data)}</div><div class="cv-side" aria-live="polite">{_side(data)}</div></div></div>'
        f'<div class="cv-ro" aria-live="polite">{_readout(data)}</div>{_foot(data)}</section>'
    )


def finding(data: Mapping[str, Any]) -> str:
    """What the kept nodes carry, in one line."""
    many, share = f"{count(data['kept'])} of {count(data['all'])} nodes", data["faithfulness"]
    if not data["path"]:
        return f"Pruned too far: no path is left to {data['target']}"
    if share is None:
        return f"{many} are kept; all of them together change {data['target']} by nothing"
    if share < 0.02:
        return f"{many} do not carry {data['target']}: faithfulness {percent(share, 0)}"
    return f"{many} carry {_share(share)} of {data['target']}"


def _head(data: Mapping[str, Any]) -> str:
    undo = button("Undo", "undo", disabled=not data["undo"])
    saves = "".join(button(name, "save", name, label=f"Save as {name}") for name in FORMATS)
    prompt = "".join(piece(INDENT.sub(r"\1  ", token)) for token in data["prompt"])
    return (
        f'<div class="sk-head"><div><h3 class="sk-title">{esc(finding(data))}</h3><p class="sk-sub">What made it, after '
        f'<span class="sk-mono cv-prompt">{prompt}</span></p></div><span class="sk-group">{undo}{saves}</span></div>'
    )


def picture(data: Mapping[str, Any]) -> str:
    """The web alone as an SVG file."""
    return alone(web(data | {"alt": _alt(data)}))


# -- controls


def _bar(data: Mapping[str, Any]) -> str:
    groups = (
        _toggle("Suggested groups", "suggest", data["suggested"])
        + button("Group selected", "key", "g", disabled=data["picked"] < 2)
        + button("Ungroup", "key", "u", disabled=not data["groups"])
    )
    on = " checked" if data["errors"] else ""
    return (
        f'<div class="sk-bar cv-bar">{_slider("node", "Influence kept by nodes", NODES, data)}{_slider("edge", "Weight kept by edges", EDGES, data)}'
        f'<label class="sk-check"><input type="checkbox" data-act="errors"{on}> Error nodes</label><span class="sk-group sk-push">{groups}</span></div>'
    )


def _toggle(words: str, act: str, on: bool, arg: object = "") -> str:
    return button(words, act, arg).replace(" data-act", f" {PRESSED.format(str(on).lower())} data-act", 1)


def _slider(name: str, label: str, ends: tuple[int, int], data: Mapping[str, Any]) -> str:
    low, high = ends
    now, i = round(100 * data[name]), f"cv-{name}-{data['id']}"
    names = " ".join(f"{v}{THIN}%" for v in range(low, high + 1))
    return (
        f'<div class="sk-field"><label for="{i}">{label} <output>{now}{THIN}%</output></label><input id="{i}" type="range" min="{low}" '
        f'max="{high}" step="1" value="{now}" data-act="{name}" data-live data-names="{names}"></div>'
    )


# -- the picture


def _figure(data: Mapping[str, Any]) -> str:
    if not data["path"]:
        return _stranded(data)
    return f'<div class="sk-scroll">{web(data | {"alt": _alt(data)})}</div>{_legend(data)}'


def _alt(data: Mapping[str, Any]) -> str:
    return (
        f"{finding(data)}. Layers from below, tokens from left to right; up and down follow the strongest edge, left and right "
        "the layer"
    )


def _stranded(data: Mapping[str, Any]) -> str:
    nodes = f"{count(data['kept'])} node{'s' * (data['kept'] != 1)}"
    return empty(
        "No path from the input to the logits is left",
        f"At {percent(data['node'], 0)} of the influence and {percent(data['edge'], 0)} of the weight {nodes} remain, and none leads through.",
        f'<span class="sk-group">{button("Back to 80 % of both", "reset")}</span>',
    )


def _legend(data: Mapping[str, Any]) -> str:
    kinds = [kind for kind in SHAPES if any(node["kind"] == kind for node in data["nodes"])]
    marks = "".join(
        f'<span><svg width="14" height="14" viewBox="-8 -8 16 16" aria-hidden="true"><g class="nd {kind}"><path class="body" '
        f'd="{shape(SHAPES[kind], 5)}"/></g></svg>{kind}</span>'
        for kind in kinds
    )
    lines = "".join(
        f'<span><svg width="26" height="8" aria-hidden="true"><path class="e w3 is-near{kind}" d="M0 4H26"/></svg>{word}</span>'
        for kind, word in (("", "raises"), (" neg", "lowers"))
    )
    return f'<div class="sk-cap cv-leg">{marks}{lines}<span>size and width: influence</span></div>'


# -- the pinned node


def _side(data: Mapping[str, Any]) -> str:
    pin = data["pinned"]
    if pin is None:
        return f'<p class="sk-cap">{_picked(data)}Pin a node to see what made it.</p>'
    return f"{_about(pin, data['id'])}{_made_of(pin)}{_change(pin)}{_actions(pin, data)}"


def _picked(data: Mapping[str, Any]) -> str:
    return f"{count(data['picked'])} selected. " if data["picked"] else ""


def _about(pin: Mapping[str, Any], i: int) -> str:
    title = f'<h4 class="cv-name">{esc(pin["name"])}</h4>'
    if pin["kind"] == "group":
        title = (
            f'<h4 class="cv-name fc-kept">{esc(pin["name"])}</h4><div class="sk-field live"><label for="cv-name-{i}">Name of the group</label><input id="cv-name-{i}" type="text" '
            f'maxlength="40" value="{esc(pin["name"])}" data-act="rename"></div>'
        )
    return f'<div><span class="sk-cap">{esc(pin["where"])}</span>{title}<span class="sk-cap">{esc(pin["facts"])}</span></div>'


def _made_of(pin: Mapping[str, Any]) -> str:
    if not pin["parts"]:
        return f'<p class="sk-cap cv-made">{esc(pin["why"])}</p>'
    unit, digits = (f"% of {pin['of']}", 1) if pin["shares"] else (f"units of {pin['of']}", 2)
    drawn = waterfall(named_parts(pin["parts"]), unit="%" if pin["shares"] else "", digits=digits)
    pale = (
        '<p class="sk-cap">pale: not in the picture</p>'
        if any(p.get("pale") for p in named_parts(pin["parts"]))
        else ""
    )
    return f'<div class="cv-made"><h4 class="sk-h">Its input, in {esc(unit)}</h4>{drawn}{pale}</div>'


def _change(pin: Mapping[str, Any]) -> str:
    if not pin["changes"]:
        return ""
    choices = "".join(_toggle(f"× {factor(f)}", "change", pin["factor"] == f, f"{f:g}") for f in FACTORS)
    return f'<div class="live"><h4 class="sk-h">Change it, and read the logits below</h4><span class="sk-group">{choices}</span></div>'


def _actions(pin: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    found = button("Remove", "remove", pin["id"]) if pin["removes"] else ""
    if pin["card"] is not None:
        found += button("Close its card" if data["open"] else f"Open latent {pin['card']}", "open")
    if data["picked"]:
        found += f'<span class="sk-cap">{_picked(data)}</span>'
    return f'<div class="sk-group live">{found}</div>' if found else ""


# -- what the kept part can do


def _readout(data: Mapping[str, Any]) -> str:
    return f"{_kept(data)}{_alone(data)}{_without(data)}{_logits(data)}"


def _kept(data: Mapping[str, Any]) -> str:
    drawn = f"{count(data['drawn'][0])} of {count(data['drawn'][1])} edges"
    bound = f"<br>not traced: at most {percent(data['bound'])} of the influence" if data["bound"] else ""
    return (
        f'<div><span class="sk-cap">Kept</span><div class="cv-big">{count(data["kept"])} of {count(data["all"])} nodes</div>'
        f'<span class="sk-cap">{percent(data["kept"] / max(data["all"], 1))} of nodes, {drawn}{bound}</span></div>'
    )


def _alone(data: Mapping[str, Any]) -> str:
    share, random = data["faithfulness"], data["random"]
    return (
        f'<div><span class="sk-cap">Faithfulness, linear</span>{_meter(share, random, "Faithfulness")}'
        f'<span class="sk-cap">┊ random, same size: {_share(random)}{_run(data["measured"])}</span></div>'
    )


def _run(measured: Mapping[str, Any]) -> str:
    """Faithfulness when the model runs with these latents alone; or a button for it."""
    if measured["circuit"] is not None:
        both = _share(measured["circuit"]), _share(measured["random"])
        return f"<br>run by the model, errors kept: <b>{both[0]}</b>, random {both[1]}"
    return (
        f'<br><span class="live">{button("Run the model", "measure", kind="is-quiet")}</span>'
        if measured["able"]
        else ""
    )


def _without(data: Mapping[str, Any]) -> str:
    return (
        f'<div><span class="sk-cap">Left when it is removed</span>{_meter(data["left"], None, "Left")}'
        '<span class="sk-cap">0 % would be complete</span></div>'
    )


def _share(share: float | None) -> str:
    if share is None:
        return "none"
    if abs(share) >= 10:
        return f"over 1000{THIN}%" if share > 0 else f"under {MINUS}1000{THIN}%"
    return percent(share, 0)


def _meter(share: float | None, tick: float | None, name: str) -> str:
    alt = f"{name} {_share(share)}" + (f", random circuit {_share(tick)}" if tick is not None else "")
    mark = "" if tick is None else f'<b class="alt" style="left:{100 * min(max(tick, 0), 1):.1f}%"></b>'
    bar = f'<i style="width:{100 * min(max(share or 0, 0), 1):.1f}%"></i>{mark}'
    return f'<div class="cv-big">{_share(share)}</div><span class="sk-barcell" role="img" aria-label="{esc(alt)}">{bar}</span><br>'


def _logits(data: Mapping[str, Any]) -> str:
    changed = data["changed"]
    title = f"{esc(changed)}: before → after" if changed else data["scale"]
    rows = "".join(_logit(row, bool(changed)) for row in data["logits"])
    how = f'<span class="sk-cap">{esc(data["how"])}</span>' if changed else ""
    clear = f" {button('Change nothing', 'clear', kind='is-quiet')}" if changed else ""
    return f'<div><span class="sk-cap">{title}</span>{clear}<div class="cv-lg">{rows}</div>{how}</div>'


def _logit(row: Mapping[str, Any], changed: bool) -> str:
    show = (
        (lambda v: percent(v, 0 if v >= 0.01 or v < 5e-5 else None)) if row["probability"] else (lambda v: fixed(v, 2))
    )
    bars = f'<i style="width:{100 * row["bars"][0]:.1f}%"></i>' + (
        f'<b style="width:{100 * row["bars"][1]:.1f}%"></b>' if changed else ""
    )
    after = f" → <b>{show(row['after'])}</b>" if changed else ""
    return (
        f'<span class="sk-mono" title="{esc(row["name"])}">{esc(row["name"])}</span><span class="cv-two">{bars}</span>'
        f'<span class="sk-num">{show(row["before"])}{after}</span>'
    )


def _foot(data: Mapping[str, Any]) -> str:
    keys = (("↑</kbd> <kbd>↓", "strongest edge"), ("←</kbd> <kbd>→", "layer"), ("Enter", "pin"), ("Shift</kbd>+<kbd>Enter", "select"),
            ("g", "group"), ("u", "ungroup"), ("Del", "remove"), ("z", "undo"))  # fmt: skip
    walk = "".join(f'<span class="cv-walk"><kbd>{key}</kbd> {word}</span>' for key, word in keys[:2])
    rest = "".join(f'<span class="live"><kbd>{key}</kbd> {word}</span>' for key, word in keys[2:])
    return f'<div class="sk-foot">{walk}{rest}<span class="sk-push">{_exact(data["exact"])}</span></div>'


def _exact(off: float) -> str:
    """How far rows are from adding up: 3·10⁻⁷."""
    if not off:
        return "rows exact"
    mantissa, power = f"{off:.0e}".split("e")
    digits = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"rows exact to {mantissa}·10{digits}"
