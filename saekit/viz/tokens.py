"""A text as code lines with one button per token: a latent's activation over it, its true labels under it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .html import count, esc, fixed, named, percent, piece
from .marks import bar, ramp, step
from .notes import button

# Lanes under the text: name, its css pattern, the labels that are drawn in it.
LANES: dict[str, tuple[str, tuple[str, ...]]] = {
    "docstring": ("docstring", ("docstring",)),
    "comment": ("comment", ("comment",)),
    "string": ("string", ("string",)),
    "bracket depth": ("bracket", ("depth 1", "depth 2+", "depth 3+")),
    "keyword": ("keyword", ("keyword",)),
    "name defined": ("other", ("def name", "class name")),
    "import line": ("import", ("import line",)),
}


def token_strip(data: Mapping[str, Any]) -> str:
    """A text under one latent. `data` is what `widgets.TokenStrip.compute` gives."""
    return (
        f'<section class="sk" aria-label="Token strip for latent {data["latent"]}">{_head(data)}{_bar(data)}'
        f'<div class="sk-body sk-rule">{_body(data)}</div>{_foot(data)}</section>'
    )


def _head(data: Mapping[str, Any]) -> str:
    scale = "" if data["hidden"] else ramp("0", fixed(data["maximum"]))
    return (
        f'<div class="sk-head"><div><h3 class="sk-title">{esc(data["title"])}</h3>'
        f'<p class="sk-sub"><span class="sk-mono">{esc(data["site"])}</span> · {esc(data["about"])}</p></div>{scale}</div>'
    )


def _bar(data: Mapping[str, Any]) -> str:
    i = data["id"]
    checks = "".join(
        f'<label class="sk-check"><input type="checkbox" data-act="lane" data-arg="{name}" value="{name}"'
        f"{' checked' if name in data['lanes'] else ''}> {name} "
        f'<span class="sw k-{LANES[name][0]}" aria-hidden="true">{"12" if name == "bracket depth" else ""}</span></label>'
        for name in data["lanes_here"]
    )
    lanes = (
        f'<fieldset class="sk-field" style="flex:1 1 420px"><legend>True labels under the text</legend>'
        f'<span class="sk-group" style="gap:2px 12px">{checks}</span></fieldset>'
        if checks
        else '<span class="sk-cap" style="flex:1 1 420px">No labels: this text is not complete Python.</span>'
    )
    latent = (
        f'<div class="sk-field"><label for="ts-latent-{i}">Latent</label><input id="ts-latent-{i}" type="number" min="0" '
        f'max="{data["d_sae"] - 1}" value="{data["latent"]}" style="width:84px" data-act="latent"></div>'
        if data["guess"] is None
        else ""
    )
    spaces = (
        f'<label class="sk-check"><input type="checkbox" data-act="spaces"{" checked" if data["spaces"] else ""}> '
        "Show whitespace</label>"
    )
    return f'<div class="sk-bar" role="group" aria-label="What to show">{lanes}{spaces}{latent}</div>'


def _body(data: Mapping[str, Any]) -> str:
    if data["guess"] is not None:
        return _guess(data) + code(data)
    silent = data["silent"] or ""
    side = f'<div class="ts-insp" aria-live="polite">{_inspector(data)}</div>'
    return f'{_overview(data)}{silent}<div class="sk-cols sk-collapse ts">{code(data)}{side}</div>{_editor(data)}'


def _editor(data: Mapping[str, Any]) -> str:
    return (
        '<details class="sk-details" style="margin-top:8px"><summary>Change the text</summary>'
        f'<div class="sk-field"><label for="ts-text-{data["id"]}">Text<span>{count(len(data["tokens"]))} of '
        f'{count(data["room"])} tokens</span></label><textarea id="ts-text-{data["id"]}" rows="6" spellcheck="false" '
        f'data-act="text">{esc_raw(data["text"])}</textarea></div></details>'
    )


def esc_raw(text: str) -> str:
    """Text inside a textarea: markup is escaped, everything else stays as it is typed."""
    return "\n" + text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _overview(data: Mapping[str, Any]) -> str:
    """A bar for each token, over the whole width; a click goes there."""
    values, n, height, width = data["values"], len(data["tokens"]), 26, 900
    w = width / max(n, 1)
    drawn = f'<line class="axis" x1="0" x2="{width}" y1="{height + 0.5}" y2="{height + 0.5}"/>'
    for i, (token, value) in enumerate(zip(data["tokens"], values, strict=True)):
        if value > 0:
            h = height * value / data["maximum"]
            drawn += (
                f'<rect x="{i * w + 0.5:.1f}" y="{height - h:.1f}" width="{max(w - 1, 1):.1f}" height="{h:.1f}" '
                f'fill="var(--sk-a{max(3, step(value, data["maximum"]))})"/>'
            )
        if "\n" in token:
            x = f"{(i + 1) * w:.1f}"
            drawn += f'<line x1="{x}" x2="{x}" y1="{height}" y2="{height + 4}" stroke="var(--sk-control)"/>'
    at = (data["cursor"] + 0.5) * w
    drawn += (
        f'<path d="M{at:.1f} {height + 2}l4 6h-8Z" fill="var(--sk-ink)"/>'
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height}" stroke="var(--sk-ink)"/>'
    )
    alt = f"Activation at each of {n} tokens; {sum(v > 0 for v in values)} are above zero"
    return (
        f'<svg class="ts-over" viewBox="0 0 {width} 34" preserveAspectRatio="none" height="34" style="width:100%;cursor:pointer" '
        f'role="img" aria-label="{alt}" data-point="0 {n} 0 1" data-act="place">{drawn}</svg>'
        '<p class="sk-cap" style="margin-bottom:10px">activation along the text; ticks are line breaks<span class="live">; choose a place</span></p>'
    )


# -- the lines


def lines_of(tokens: Sequence[str]) -> list[list[tuple[int, str, str]]]:
    """Lines of (token, what ends this line, what begins the next): a token with a line break ends its line."""
    lines: list[list[tuple[int, str, str]]] = [[]]
    for i, token in enumerate(tokens):
        cut = token.rfind("\n") + 1
        lines[-1].append((i, token[:cut] if cut else token, token[cut:] if cut else ""))
        if cut:
            lines.append([])
    return lines if lines[-1] or len(lines) == 1 else lines[:-1]


def numbered(tokens: Sequence[str], draw: Callable[[int, str], str]) -> str:
    """The lines of a text with their numbers; draw(i, what token i has on its line) gives its HTML."""
    drawn, indent = "", ""
    for number, line in enumerate(lines_of(tokens), 1):
        body = esc(indent) + "".join(draw(i, shown) for i, shown, _ in line)
        indent = line[-1][2] if line else ""
        drawn += (
            f'<div class="sk-line"><span class="sk-lno" aria-hidden="true">{number}</span><span>{body}</span></div>'
        )
    return drawn


def code(data: Mapping[str, Any]) -> str:
    """The text, line by line, one button per token."""
    drawn, indent = "", ""
    for number, line in enumerate(lines_of(data["tokens"]), 1):
        here = [name for name in data["lanes"] if any(_in_lane(data, name, i) for i, _, _ in line)]
        spaces = f'<span class="ts-col" aria-hidden="true"><span class="sk-tok">{_blank(indent, data)}</span></span>'
        body = "".join(_token(data, i, shown, here) for i, shown, _ in line)
        drawn += f'<div class="sk-line"><span class="sk-lno" aria-hidden="true">{number}</span>{spaces if indent else ""}{body}</div>'
        indent = line[-1][2] if line else ""
    keys = "ArrowLeft ArrowRight ArrowUp ArrowDown Home End"
    alt = "The text, one button per token. Arrows move between tokens and lines."
    return (
        f'<div class="sk-code ts-code" role="group" aria-label="{alt}" data-roving data-keys="{keys}" data-on="move">'
        f"{drawn}</div>"
    )


def _blank(indent: str, data: Mapping[str, Any]) -> str:
    return f'<span class="sk-ws">{"·" * len(indent)}</span>' if data["spaces"] else esc(indent)


def _token(data: Mapping[str, Any], i: int, shown: str, lanes: Sequence[str]) -> str:
    value = 0.0 if data["hidden"] else data["values"][i]
    kinds = "sk-tok" + (f" a{step(value, data['maximum'])}" if value > 0 else "")
    kinds += " is-peak" if i == data["peak"] and value > 0 else ""
    kinds += " is-on" if i == data["cursor"] and data["guess"] is None else ""
    pressed = ""
    if data["guess"] is not None:
        marked = i in data["guess"]["marked"]
        kinds += " is-guess" if marked else ""
        pressed = f' aria-pressed="{str(marked).lower()}"'
    labels = [name for name in data["lanes_here"] if _in_lane(data, name, i)]
    said = "" if data["hidden"] else f", {fixed(value) if value > 0 else 'off'}"
    alt = esc(named(data["tokens"][i]) + said + "".join(f", {name}" for name in labels))
    drawn = "".join(_lane(data, name, i) for name in lanes)
    text = piece(shown, spaces=data["spaces"])
    return (
        f'<span class="ts-col"><button type="button" class="{kinds}" data-act="cursor" data-arg="{i}"{pressed} '
        f'tabindex="{0 if i == data["cursor"] else -1}" aria-label="{alt}">{text}</button>{drawn}</span>'
    )


def _in_lane(data: Mapping[str, Any], lane: str, i: int) -> bool:
    return any(data["labels"][name][i] for name in LANES[lane][1] if name in data["labels"])


def _depth(data: Mapping[str, Any], i: int) -> int:
    if not 0 <= i < len(data["tokens"]):
        return 0
    held = (
        n for n, name in enumerate(LANES["bracket depth"][1], 1) if name in data["labels"] and data["labels"][name][i]
    )
    return max(held, default=0)


def _lane(data: Mapping[str, Any], lane: str, i: int) -> str:
    on, pattern = _in_lane(data, lane, i), LANES[lane][0]
    kinds = f"ts-lane k-{pattern}" + (" on" if on else "")
    digit = ""
    if lane == "bracket depth":
        depth = _depth(data, i)
        kinds += " deep" if depth > 1 else ""
        digit = str(depth) if depth and _depth(data, i - 1) != depth else "&nbsp;"
    return f'<span class="{kinds}">{digit}</span>'


# -- beside the lines

NONE = '<span class="sk-cap">none of these</span>'


def _inspector(data: Mapping[str, Any]) -> str:
    i, value = data["cursor"], data["values"][data["cursor"]]
    share = value / data["maximum"]
    labels = [name for name in data["lanes_here"] if _in_lane(data, name, i)]
    tags = "".join(
        f'<span class="sk-tag"><span class="sw k-{LANES[n][0]}" aria-hidden="true">'
        f"{_depth(data, i) if n == 'bracket depth' else ''}</span>{n}"
        f"{f' {_depth(data, i)}' if n == 'bracket depth' else ''}</span>"
        for n in labels
    )
    expects = "".join(
        f'<dt class="sk-mono">{piece(t, spaces=True, longest=20)}</dt><dd>{percent(p)}</dd>' for t, p in data["expects"]
    )
    others = "".join(
        f"<tr class='{'is-on' if n == data['latent'] else ''}'><th scope='row'>"
        f"{button(str(n), 'latent', n, 'is-quiet', label=f'Show latent {n}')}</th><td class='sk-num'>{fixed(v)}</td></tr>"
        for n, v in data["strongest"]
    )
    shown = piece(data["tokens"][i], spaces=True, longest=80)
    return (
        f'<div><span class="sk-cap">Token {i + 1} of {len(data["tokens"])}</span><br><span class="ts-now">{shown}</span></div>'
        f'<dl class="sk-stats"><div><dt>Activation</dt><dd>{fixed(value) if value > 0 else "off"}</dd></div>'
        f"<div><dt>Of its maximum</dt><dd>{percent(share, 0) if value > 0 else '–'}</dd></div></dl>"
        f"{bar(share, f'{percent(share, 0)} of the maximum', width='100%')}"
        f'<div><h4 class="sk-h">True labels</h4><span class="sk-group">'
        f"{tags or NONE}</span></div>"
        f'<div><h4 class="sk-h">The model expects next</h4><dl class="kv">{expects}</dl></div>'
        f'<div><h4 class="sk-h">Strongest latents here</h4><table><tbody>{others}</tbody></table></div>'
    )


def _guess(data: Mapping[str, Any]) -> str:
    guess = data["guess"]
    words = f"{len(guess['marked'])} of {len(data['tokens'])} tokens marked"
    if guess["revealed"]:
        words = (
            f"You marked {len(guess['marked'])}; the latent is on at {guess['firing']}; {guess['both']} are in both: "
            f"overlap {fixed(guess['overlap'])} of 1"
        )
    act = (
        button("Guess again", "again")
        if guess["revealed"]
        else button("Reveal", "reveal", kind="is-main", disabled=not guess["marked"])
    )
    hint = "" if guess["revealed"] else '<p class="sk-cap">Choose the tokens where you expect it to be on.</p>'
    return (
        f'<div style="display:flex;gap:12px;align-items:center;margin-bottom:8px" role="status"><div><b>{words}</b>{hint}</div>'
        f'<span class="sk-push">{act}</span></div>'
    )


def _foot(data: Mapping[str, Any]) -> str:
    act = "<kbd>Enter</kbd> mark" if data["guess"] is not None else "colour and underline both show strength"
    return (
        '<div class="sk-foot"><span class="live"><kbd>←</kbd> <kbd>→</kbd> token</span>'
        f'<span class="live"><kbd>↑</kbd> <kbd>↓</kbd> line</span><span>{act}</span><span class="sk-push">one pass of the model · {fixed(1000 * data["seconds"], 0)} ms</span></div>'
    )
