"""One latent's nonlinearity as a curve, and beside it the gradients that training gets from it."""

from collections.abc import Mapping, Sequence
from typing import Any

from .chart import Axes, figure, text
from .html import esc, fixed

SIZE = (400, 260)
BOX = (34, 388, 14, 220)
STEEP = 2.5  # the gradients' axis
WORDS = {
    "ReLU": "The bias that keeps it off below θ is also taken from every value above it.",
    "Gated": "A gate decides at θ; the magnitude has a bias of its own, so nothing is taken away. The step gives no gradient: the gate learns from its own losses.",
    "ProLU": "Its bias gates and never shifts. Backwards it is treated as a ReLU's bias, though the value does not depend on it.",
    "JumpReLU": "The step at θ has no gradient. Training uses a stand-in: only points within the band around θ move the threshold.",
    "TopK": "It is on where it is among the k largest of its token. The threshold is set by the others (ticks), not learned.",
    "BatchTopK": "After training it is one number for all latents, calibrated on text: a JumpReLU that was never trained by a gradient at θ.",
}


def explorer(data: Mapping[str, Any]) -> str:
    """The two figures and their controls. `data` is what `widgets.ActivationExplorer.compute` gives."""
    return (
        f'<section class="sk" aria-label="Activation explorer"><div class="sk-head"><div><h3 class="sk-title">{esc(_finding(data))}</h3>'
        f'<p class="sk-sub">{esc(WORDS[data["variant"]])}</p></div></div>{_bar(data)}<div class="sk-body sk-rule">'
        f'<div class="sk-cols sk-collapse ae">{_value(data)}{_gradients(data)}</div></div><div class="sk-foot"><span class="live">'
        "<kbd>←</kbd> <kbd>→</kbd> on a control</span><span>z is what the encoder column reads of the input, before any bias</span>"
        "</div></section>"
    )


def _at(data: Mapping[str, Any], z: float) -> float:
    """f at the point nearest to z."""
    return data["f"][min(range(len(data["z"])), key=lambda i: abs(data["z"][i] - z))]


def _finding(data: Mapping[str, Any]) -> str:
    z = min(data["at"] + 0.5, data["reach"])
    f = _at(data, z)
    what = f"At z = {fixed(z, 1)}, half a unit above its threshold, {data['variant']} gives {fixed(f, 1)}"
    if z - f > 0.05:
        return f"{what}: {fixed(z - f, 1)} too little"
    return f"{what}: nothing is lost"


def _bar(data: Mapping[str, Any]) -> str:
    i = data["id"]
    radios = "".join(
        f'<label><input type="radio" name="ae-{i}" value="{v}" data-act="variant"{" checked" if v == data["variant"] else ""}>{v}</label>'
        for v in data["variants"]
    )
    top = data["variant"] == "TopK"
    name, label, value = ("k", "k", data["k"]) if top else ("theta", "Threshold θ", data["theta"])
    low, high, step = (1, 9, 1) if top else (0, 2, 0.1)
    names = " ".join(fixed(low + step * n, 0 if top else 1) for n in range(round((high - low) / step) + 1))
    return (
        f'<div class="sk-bar"><fieldset class="sk-field"><legend>Nonlinearity</legend><div class="sk-seg">{radios}</div></fieldset>'
        f'<div class="sk-field" style="flex:1 1 160px"><label for="ae-{name}-{i}">{label} <output>{fixed(value, 0 if top else 1)}</output>'
        f'</label><input id="ae-{name}-{i}" type="range" min="{low}" max="{high}" step="{step}" value="{value}" data-act="{name}" '
        f'data-live data-names="{names}"></div></div>'
    )


def _pieces(values: Sequence[float], jump: float = 0.3) -> list[tuple[int, int]]:
    """Where a line is unbroken: (first, last) of each stretch without a jump."""
    cuts = [i for i in range(1, len(values)) if abs(values[i] - values[i - 1]) > jump]
    return list(zip([0, *cuts], [*cuts, len(values)], strict=True))


def _line(axes: Axes, data: Mapping[str, Any], values: Sequence[float], colour: str, extra: str = "") -> str:
    return "".join(axes.line(data["z"][a:b], values[a:b], colour, extra) for a, b in _pieces(values) if b - a > 1)


def _value(data: Mapping[str, Any]) -> str:
    reach, at = data["reach"], data["at"]
    axes = Axes(BOX, (-reach, reach), (0, reach))
    drawn = axes.grid([(v, str(v)) for v in range(int(reach) + 1)]) + axes.floor(
        [(v, fixed(v, 0)) for v in range(-3, 4)]
    )
    drawn += axes.line([0, reach], [0, reach], "var(--sk-mark)", 'stroke-dasharray="2 3"')
    drawn += text(axes.px(0.55 * reach), axes.py(0.55 * reach) - 8, "f = z", "end")
    for other in data["others"]:
        x = axes.px(other)
        drawn += f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{BOX[3] - 9}" y2="{BOX[3]}" stroke="var(--sk-mark)" stroke-width="2"/>'
    drawn += f'<line class="ref" x1="{axes.px(at):.1f}" x2="{axes.px(at):.1f}" y1="{BOX[2]}" y2="{BOX[3]}"/>'
    drawn += text(
        axes.px(at) - 5,
        BOX[2] + 8,
        f"{'k-th of the others' if data['others'] else 'θ'} = {fixed(at, 1)}",
        "end",
        halo=True,
    )
    drawn += _line(axes, data, data["f"], "var(--sk-pos)", 'style="stroke-width:2.6"') + text(
        BOX[1], BOX[3] + 34, "z", "end"
    )
    others = "; ticks: the token's other latents" if data["others"] else ""
    return figure(
        "What it gives, f(z)", f"activation{others}", drawn, SIZE, f"{_finding(data)}. Off below z = {fixed(at, 1)}."
    )


# key, words, colour, dash: the dash tells them apart where colour does not
GRADIENTS = (
    ("f_by_z", "∂f/∂z", "var(--sk-c1)", ""),
    ("f_by_theta", "∂f/∂θ", "var(--sk-c2)", "6 3"),
    ("gate_by_theta", "∂gate/∂θ", "var(--sk-c3)", "2 3"),
)


def _gradients(data: Mapping[str, Any]) -> str:
    axes = Axes((BOX[0], BOX[1] - 62, *BOX[2:]), (-data["reach"], data["reach"]), (-STEEP, STEEP))
    drawn = axes.grid([(v, fixed(v, 0)) for v in (-2, -1, 0, 1, 2)]) + axes.floor(
        [(v, fixed(v, 0)) for v in range(-3, 4)]
    )
    shown, taken = [], []
    for key, words, colour, dash in GRADIENTS:
        values = data[key]
        if not any(values) or (key == "gate_by_theta" and values == data["f_by_theta"]):
            continue
        words += " and ∂gate/∂θ" if key == "f_by_theta" and values == data["gate_by_theta"] else ""
        drawn += axes.line(data["z"], values, colour, f'style="stroke-width:2.2" stroke-dasharray="{dash}"')
        y = axes.py(values[-1]) + 4
        while any(abs(y - other) < 13 for other in taken):
            y += 13
        taken.append(y)
        drawn += text(axes.right + 5, y, words.split(" and ")[0])
        drawn += "".join(text(axes.right + 5, y + 13, f"and {more}") for more in words.split(" and ")[1:])
        shown.append(words)
    title = "What its gradient sees" if len(shown) > 1 else "Only the value has a gradient, the threshold has none"
    caption = (
        f"JumpReLU's band is drawn {fixed(data['bandwidth'], 1)} wide"
        if data["variant"] == "JumpReLU"
        else "slope used in training"
    )
    caption += "; gate: what penalties read" if "gate" in "".join(shown) else ""
    return figure(
        title, caption, drawn + text(axes.right, BOX[3] + 34, "z", "end"), SIZE, f"{title}: {', '.join(shown)}"
    )
