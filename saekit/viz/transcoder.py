"""What an SAE and what a transcoder stands in for, side by side: one picture of the stream of a layer."""

from collections.abc import Sequence

from .chart import text
from .html import Html, esc

WIDE, TALL, STREAM = 330, 256, 70  # in pixels; where the residual stream runs
ON = (1, 4, 6)  # of the eight latents that are drawn
COLOURS = {"ink": "var(--sk-ink)", "pos": "var(--sk-pos)", "mark": "var(--sk-mark)"}


def two_coders(captions: Sequence[str]) -> Html:
    """An SAE at the stream, and a transcoder over the MLP, each with a caption in words."""
    parts = (("An SAE: out of the stream, and back", _sae), ("A transcoder: from the MLP's input to its output", _over))
    figures = "".join(
        f'<figure><h4 class="sk-h">{esc(title)}</h4><svg viewBox="0 0 {WIDE} {TALL}" width="{WIDE}" role="img" '
        f'style="max-width:100%" aria-label="{esc(f"{title}. {caption}")}"><defs>{_tips()}</defs>{draw()}</svg>'
        f'<figcaption class="sk-cap">{esc(caption)}</figcaption></figure>'
        for (title, draw), caption in zip(parts, captions, strict=True)
    )
    return Html(
        '<section class="sk" aria-label="SAE and transcoder"><div class="sk-body"><div class="sk-cols" '
        f'style="grid-template-columns:repeat(auto-fit,minmax(280px,1fr))">{figures}</div></div></section>'
    )


def _sae() -> str:
    loop = _way(f"M{STREAM} 200H182V145", "pos") + _way(f"M182 108V56H{STREAM + 4}", "pos")
    words = text(84, 217, "an activation x") + text(84, 46, "about the same x")
    return _stream() + loop + _latents(182) + _dot(200) + words


def _over() -> str:
    box = (
        '<rect x="120" y="106" width="60" height="40" rx="6" fill="var(--sk-raise-2)" stroke="var(--sk-control)" '
        f'stroke-dasharray="4 3"/>{text(150, 130, "MLP", "middle")}'
    )
    mlp = _way(f"M{STREAM} 200H150V149", "mark") + _way("M150 106V59", "mark")
    coder = _way(f"M{STREAM} 200H262V145", "pos") + _way(f"M262 108V56H{STREAM + 9}", "pos")
    plus = f'<circle cx="{STREAM}" cy="56" r="8" fill="var(--sk-surface)" stroke="{COLOURS["ink"]}"/>'
    plus += f'<path d="M{STREAM - 4} 56h8M{STREAM} 52v8" stroke="{COLOURS["ink"]}" stroke-width="1.4"/>'
    words = text(84, 217, "what the MLP reads") + text(84, 42, "what it adds, or about that")
    return _stream() + mlp + coder + box + _latents(262) + _dot(200) + plus + words


def _stream() -> str:
    """The residual stream, from below."""
    foot = TALL - 10
    return (
        f'<path d="M{STREAM} {foot}V10" stroke="{COLOURS["ink"]}" stroke-width="2.4" fill="none" marker-end="url(#tc-ink)"/>'
        f'<g transform="rotate(-90 46 {foot})">{text(46, foot, "residual stream")}</g>'
    )


def _tips() -> str:
    return "".join(
        f'<marker id="tc-{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0 0L8 4L0 8Z" fill="{colour}"/></marker>'
        for name, colour in COLOURS.items()
    )


def _way(path: str, colour: str) -> str:
    return f'<path d="{path}" fill="none" stroke="{COLOURS[colour]}" stroke-width="2" marker-end="url(#tc-{colour})"/>'


def _dot(y: float) -> str:
    return f'<circle cx="{STREAM}" cy="{y}" r="4" fill="{COLOURS["ink"]}"/>'


def _latents(x: float) -> str:
    """Eight latents around x, some of them on, between an encoder and a decoder."""
    cells = "".join(
        f'<rect x="{x - 55 + 14 * i}" y="118" width="12" height="16" rx="2" stroke="var(--sk-mark)" '
        f'fill="{"var(--sk-pos)" if i in ON else "var(--sk-surface)"}"/>'
        for i in range(8)
    )
    return cells + text(x + 8, 168, "encoder") + text(x + 8, 92, "decoder")
