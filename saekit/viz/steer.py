"""Next-token probabilities before and after a latent is added."""

from collections.abc import Mapping
from math import log2
from typing import Any

from .html import count, esc, fixed, percent, piece, signed
from .tokens import esc_raw


def steer_slider(data: Mapping[str, Any]) -> str:
    """A slider and the bars it moves. `data` is what `widgets.SteerSlider.compute` gives."""
    return (
        f'<section class="sk" aria-label="Steering with latent {data["latent"]}"><div class="sk-head"><div>'
        f'<h3 class="sk-title">{esc(_finding(data))}</h3><p class="sk-sub">latent {data["latent"]} added at every token of '
        f'<span class="sk-mono">{esc(data["site"])}</span>, the coder\'s error kept</p></div></div>{_bar(data)}'
        f'<div class="sk-body sk-rule"><div class="sk-cols sk-collapse sl"><div>{_rows(data)}</div>{_side(data)}</div></div>'
        f'<div class="sk-foot"><span class="live"><kbd>←</kbd> <kbd>→</kbd> on the slider</span><span>outline: without; solid: '
        f'with</span><span class="sk-push">{fixed(1000 * data["seconds"], 0)} ms</span></div></section>'
    )


def _finding(data: Mapping[str, Any]) -> str:
    before, after = data["top_before"], data["top_after"]
    strength = data["strength"]
    if strength == 0:
        return f"Without steering the next token is {before}"
    if before == after:
        return f"At {signed(strength, 1)} times its maximum the next token is still {after}"
    return f"At {signed(strength, 1)} times its maximum the next token turns from {before} to {after}"


def _bar(data: Mapping[str, Any]) -> str:
    i, low, high = data["id"], *data["range"]
    names = " ".join(signed(low + 0.5 * n, 1) for n in range(round(2 * (high - low)) + 1))
    return (
        '<div class="sk-bar"><div class="sk-field" style="flex:1 1 300px">'
        f'<label for="sl-s-{i}">Strength, times the maximum of the latent ({fixed(data["maximum"], 1)})<output>'
        f'{signed(data["strength"], 1)}</output></label><input id="sl-s-{i}" type="range" min="{low}" max="{high}" step="0.5" '
        f'value="{data["strength"]}" data-act="strength" data-live data-names="{names}"></div></div>'
    )


def _rows(data: Mapping[str, Any]) -> str:
    most = max([p for row in data["rows"] for p in row[1:3]] + [1e-9])
    drawn = ""
    for token, before, after in data["rows"]:
        ratio = log2(max(after, 1e-9) / max(before, 1e-9))
        kind, glyph = ("up", "▲") if ratio > 0.05 else ("down sk-hatched", "▼") if ratio < -0.05 else ("", "·")
        drawn += (
            f'<span class="t"><span>{piece(token, spaces=True, longest=18)}</span></span><span class="sl-bars" role="img" '
            f'aria-label="{percent(before)} without, {percent(after)} with"><i class="{kind}" style="width:{100 * after / most:.1f}%">'
            f'</i><b style="width:{100 * before / most:.1f}%"></b></span><span class="sk-num">{percent(before)} → '
            f"<b>{percent(after)}</b> {glyph}</span>"
        )
    return f'<h4 class="sk-h">Next token, probability without and with</h4><div class="sl-row" style="margin-top:6px">{drawn}</div>'


def _side(data: Mapping[str, Any]) -> str:
    control = (
        f"A random direction as long moves the same distribution by {fixed(data['kl_random'])} nats; this latent by "
        f"<b>{fixed(data['kl'])}</b>."
    )
    return (
        f'<div class="sk-panel"><div class="sk-field"><label for="sl-t-{data["id"]}">Prompt<span>{count(data["n"])} of '
        f'{count(data["room"])} tokens</span></label><textarea id="sl-t-{data["id"]}" rows="5" spellcheck="false" '
        f'data-act="prompt">{esc_raw(data["prompt"])}</textarea></div><p class="sk-cap" style="margin-top:8px">{control}</p></div>'
    )
