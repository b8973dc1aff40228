"""One block of a transformer as a drawing: each place where activations can be read has its name on it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .html import count, esc
from .notes import button

WIDTH, HEIGHT, STREAM = 790, 318, 262
KEYS = "ArrowLeft ArrowRight ArrowUp ArrowDown"


class Place(NamedTuple):
    """Where a hook is drawn, and what is there. name: after `blocks.L.`, or whole outside the blocks."""

    name: str
    x: float
    y: float
    axes: str
    what: str
    inside: bool = True

    @property
    def short(self) -> str:
        return self.name.replace("hook_", "")

    def at(self, layer: int) -> str:
        return f"blocks.{layer}.{self.name}" if self.inside else self.name


PLACES = (
    Place("hook_embed", 32, STREAM, "text, token, d_model", "The vector of each token, before any layer; the position's vector is added to it.", False),
    Place("hook_resid_pre", 112, STREAM, "text, token, d_model", "The residual stream as this block finds it: the same as resid_post of the block before."),
    Place("attn.hook_q", 214, 62, "text, token, head, d_head", "What each head asks for at a token: its query."),
    Place("attn.hook_k", 214, 104, "text, token, head, d_head", "What each head offers at a token to be found by: its key."),
    Place("attn.hook_v", 214, 146, "text, token, head, d_head", "What each head would carry away from a token: its value."),
    Place("attn.hook_pattern", 322, 83, "text, head, from token, to token", "Where each head looks: shares that sum to 1 over the tokens up to its own."),
    Place("attn.hook_z", 364, 146, "text, token, head, d_head", "What each head brings: the values, averaged by its pattern. Zero it to remove a head."),
    Place("hook_attn_out", 364, 206, "text, token, d_model", "What all heads together add to the residual stream."),
    Place("hook_resid_mid", 462, STREAM, "text, token, d_model", "The residual stream between attention and MLP."),
    Place("mlp.hook_in", 560, 104, "text, token, d_model", "The residual stream after the norm, as the MLP reads it. Transcoders read here."),
    Place("mlp.hook_post", 650, 104, "text, token, neuron", "The neurons of the MLP, after the nonlinearity."),
    Place("hook_mlp_out", 650, 206, "text, token, d_model", "What the MLP adds to the residual stream. Transcoders write here."),
    Place("hook_resid_post", 744, STREAM, "text, token, d_model", "The residual stream as this block leaves it. Most SAEs here read and write it."),
)  # fmt: skip
WIRES = (
    "M150 262C176 262 160 62 186 62", "M150 262C176 262 160 104 186 104", "M150 262C176 262 160 146 186 146",
    "M242 62C260 62 256 83 273 83", "M242 104C260 104 256 83 273 83", "M242 146H336", "M364 96V133", "M364 159V193", "M364 219V253",
    "M500 262C526 262 506 104 532 104", "M588 104H615", "M650 117V193", "M650 219V253",
)  # fmt: skip


def hook_map(data: Mapping[str, Any]) -> str:
    """The drawing. `data` is what `widgets.HookMap.compute` gives."""
    return (
        f'<section class="sk" aria-label="Hook names"><div class="sk-head"><div><h3 class="sk-title">{esc(data["hook"])}: '
        f'{" × ".join(map(count, data["shape"])) if data["shape"] else "not in this model"}</h3><p class="sk-sub">one of {count(data["n_layers"])} '
        f"blocks of {esc(data['model'])}; the shape is that on a text of {count(data['n_tokens'])} tokens</p></div></div>{_bar(data)}"
        f'<div class="sk-body sk-rule">{_drawing(data)}{_detail(data)}</div>{_foot()}</section>'
    )


def _bar(data: Mapping[str, Any]) -> str:
    layers = "".join(
        button(str(i), "layer", i, kind="is-on" if i == data["layer"] else "", label=f"Layer {i}")
        for i in range(data["n_layers"])
    )
    layers = layers.replace('is-on"', '" aria-pressed="true"')
    return f'<div class="sk-bar"><div class="sk-field"><span class="sk-lab">Layer</span><span class="sk-group">{layers}</span></div></div>'


def _drawing(data: Mapping[str, Any]) -> str:
    stream = f'<path d="M8 {STREAM}H{WIDTH - 8}" class="hk-stream"/>'
    boxes = "".join(
        f'<rect x="{x}" y="24" width="{w}" height="206" rx="8" class="hk-box"/><text x="{x + 10}" y="42">{words}</text>'
        for x, w, words in ((172, 240, "attention moves between tokens"), (518, 184, "the MLP works at each token"))
    )
    wires = f'<path d="{"".join(WIRES)}" class="hk-wire"/>'
    plus = "".join(
        f'<circle cx="{x}" cy="{STREAM}" r="9" class="hk-plus"/><text x="{x}" y="{STREAM + 4}" text-anchor="middle" class="v">+</text>'
        for x in (364, 650)
    )
    names = "".join(_place(place, data) for place in PLACES)
    words = f'<text x="{WIDTH - 4}" y="{HEIGHT - 16}" text-anchor="end">after the last block: ln_final, then the unembedding gives logits</text>'
    words += f'<text x="8" y="{HEIGHT - 16}">the residual stream, one vector at each token</text>'
    alt = "A block: attention and MLP read from the residual stream and add to it. Arrows move between the hooks."
    return (
        f'<div class="sk-scroll"><svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{alt}" data-roving data-keys="{KEYS}" '
        f'data-on="move" style="max-width:none">{boxes}{stream}{wires}{plus}{names}{words}</svg></div>'
    )


def _place(place: Place, data: Mapping[str, Any]) -> str:
    on, there = place.name == data["name"], place.name in data["there"]
    wide = 6.9 * len(place.short) + 14
    kinds = "hk" + (" is-on" if on else "") + ("" if there else " is-off")
    said = f"{place.at(data['layer'])}: {place.what}"
    return (
        f'<g class="{kinds}" data-act="name" data-arg="{place.name}" role="button" tabindex="{0 if on else -1}" aria-label="{esc(said)}">'
        f'<title>{esc(said)}</title><rect x="{place.x - wide / 2:.1f}" y="{place.y - 13}" width="{wide:.1f}" height="26" rx="5"/>'
        f'<text class="m" x="{place.x}" y="{place.y + 4}" text-anchor="middle">{place.short}</text></g>'
    )


def _detail(data: Mapping[str, Any]) -> str:
    place = next(place for place in PLACES if place.name == data["name"])
    shape = " × ".join(map(count, data["shape"])) if data["shape"] else "not in this model"
    facts = f"<div><dt>{esc(place.axes)}</dt><dd>{shape}</dd></div><div><dt>kilobytes</dt><dd>{count(data['bytes'] / 1000)}</dd></div>"
    return (
        f'<div class="sk-panel" aria-live="polite"><h4>{esc(place.what)}</h4><dl class="sk-stats" style="margin:6px 0">{facts}</dl>'
        f'<p class="sk-mono">sk.capture(model, text, "{esc(data["hook"])}")</p></div>'
    )


def _foot() -> str:
    return (
        '<div class="sk-foot"><span class="live"><kbd>←</kbd> <kbd>→</kbd> hooks</span><span class="live"><kbd>↑</kbd> <kbd>↓</kbd> layer</span>'
        '<span class="sk-push">list(model.hook_dict) has all names</span></div>'
    )
