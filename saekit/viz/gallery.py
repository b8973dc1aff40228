"""Pages about latents that open from disk with no network: one latent, or many with a search."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..explain import dossier
from ..features import Features
from ..files import replacing
from .card import feature_page, named
from .html import count, esc, fixed, page, percent
from .marks import bar, chips, marker

LARGEST = 300_000  # bytes of one card
STRONG = 0.7
SCRIPT = Path(__file__).with_name("gallery.js")


def card_data(features: Features, latent: int, before: Any = None) -> dict[str, Any]:
    """What `viz.card` draws of one latent, without a widget. Raises ValueError for a latent out of range."""
    one = features[latent]
    return dossier.facts(one) | {
        "id": latent, "tab": "examples", "mode": "value", "slice": None, "groups": dossier.examples(one),
        "output": None if one.dead else dossier.effect(one, before), "labels": one.labels().to_dict("records"),
        "similar": one.similar(8), "cofiring": one.neighbours(8), "tokens": one.tokens(12), "rule": None, "tried": None,
    }  # fmt: skip


def latent_page(features: Features, latent: int) -> str:
    """One latent as one document: examples, what it does to the output, labels. Raises ValueError as `card_data`."""
    return page(f"Latent {latent}", feature_page(card_data(features, latent)))


def gallery(features: Features, latents: Iterable[int] | None = None, title: str = "") -> str:
    """Many latents as one document that can be searched and sorted: a list, and the card of the one chosen.

    latents: those to show, in this order; unless given, the 100 that are furthest above a detector that always fires.
    Raises ValueError for none, for one out of range, and for one that is dead.
    """
    chosen = _best(features) if latents is None else [features[i].index for i in latents]
    if not chosen:
        raise ValueError("no latents to show: name some that are alive")
    if dead := [i for i in chosen if features[i].dead]:
        raise ValueError(f"latent {dead[0]} is dead in this corpus: leave it away")
    before = dossier.unchanged(features)
    return gallery_page([card_data(features, i, before) for i in chosen], features.table.loc[chosen].to_dict("records"),
                        title or _finding(features, chosen))  # fmt: skip


def save_gallery(features: Features, path: str | os.PathLike, latents: Iterable[int] | None = None) -> Path:
    """Write `gallery` to a file, whole or not at all. Raises ValueError as it does, OSError for no room."""
    html = gallery(features, latents)
    with replacing(path) as temporary:
        temporary.write_text(html, "utf-8", errors="replace")
    return Path(path)


def gallery_page(cards: list[dict[str, Any]], rows: list[Mapping[str, Any]], title: str) -> str:
    """The document. cards: what `card_data` gives; rows: of `features.table`, in the same order."""
    entries = [_entry(data, row) for data, row in zip(cards, rows, strict=True)]
    labels = sorted({entry["label"] for entry in entries if entry["label"]})
    listed = "".join(_row(i, data, row) for i, (data, row) in enumerate(zip(cards, rows, strict=True)))
    frame = (
        f'<section class="sk gl" aria-label="Gallery of latents"><div class="sk-head"><div><h3 class="sk-title">{esc(title)}</h3>'
        f'<p class="sk-sub"><span class="sk-mono">{esc(cards[0]["site"])}</span> · {count(cards[0]["n"])} tokens of {esc(cards[0]["corpus"])} · <span id="gl-n" role="status">'
        f"{count(len(cards))} shown</span></p></div></div>{_controls(labels)}{HEADS}"
        f'<div class="gl-list" id="gl-list" role="listbox" aria-label="Latents" tabindex="0" aria-activedescendant="gl-0">{listed}'
        '</div><div class="sk-empty" id="gl-none" hidden><b>No latent matches</b><span>Take a word or the label away.</span></div>'
        '<div class="sk-foot"><span><kbd>↑</kbd> <kbd>↓</kbd> choose a latent</span></div></section>'
        f'<noscript><p class="sk">The cards need a browser that runs the script in this file.</p></noscript>'
        f'<div id="gl-card">{feature_page(cards[0])}</div>'
    )
    inlined = (
        json.dumps(entries, ensure_ascii=True).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    )
    script = (
        f'<script type="application/json" id="gl-data">{inlined}</script><script>{SCRIPT.read_text("utf-8")}</script>'
    )
    return page(title, f"<style>{STYLE}</style>{frame}{script}")


def _finding(features: Features, chosen: list[int]) -> str:
    strong = int((features.table.loc[chosen].f1 >= STRONG).sum())
    return f"{count(strong)} of {count(len(chosen))} latents match a label with F1 of {fixed(STRONG)} or more"


def _best(features: Features) -> list[int]:
    table = features.table[features.table["max"] > 0]
    above = (table.f1 - table.always_fire).sort_values(ascending=False, kind="stable")
    return above.index[:100].tolist()


def _entry(data: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """What the script knows of a card: what it is found and sorted by, and its picture."""
    card = feature_page(data)
    if len(card.encode("utf-8", "replace")) > LARGEST:
        raise ValueError(f"the card of latent {data['latent']} is larger than {LARGEST:,} bytes")
    words = " ".join([str(data["latent"]), str(row["label"]), named(data), *map(str, row["tokens"])]).lower()
    return {"latent": data["latent"], "label": row["label"] if named(data) else "", "words": words, "card": card,
            "f1": float(row["f1"]), "density": float(row["density"]), "max": float(row["max"])}  # fmt: skip


def _controls(labels: list[str]) -> str:
    options = "".join(f'<option value="{esc(label)}">{esc(label)}</option>' for label in labels)
    orders = {"": "as given", "f1": "best-label F1", "density": "density", "max": "maximum", "latent": "number"}
    by = "".join(f'<option value="{key}">{name}</option>' for key, name in orders.items())
    return (
        '<div class="gl-bar" role="search"><div class="sk-field" style="flex:1 1 220px"><label for="gl-q">Search</label>'
        '<input id="gl-q" type="search" placeholder="label, token or number"></div><div class="sk-field"><label for="gl-l">'
        f'Best label</label><select id="gl-l"><option value="">any label</option>{options}</select></div>'
        f'<div class="sk-field"><label for="gl-s">Order</label><select id="gl-s">{by}</select></div></div>'
    )


def _row(i: int, data: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    name = f"{marker(row['label'])} {esc(named(data))}" if named(data) else '<span class="sk-cap">no label fits</span>'
    alt = f"F1 {fixed(row['f1'])}; a detector that always fires {fixed(row['always_fire'])}"
    f1 = f"{bar(row['f1'], alt, row['always_fire'], '56px')} {fixed(row['f1'])}" if row["label"] else ""
    return (
        f'<div class="gl-row" role="option" id="gl-{i}" data-i="{i}" aria-selected="{str(i == 0).lower()}"><b class="sk-num">'
        f"{data['latent']}</b><span>{name}</span>{chips(list(row['tokens'])[:3])}"
        f'<span class="sk-num">{f1}</span><span class="sk-num sk-cap">{percent(row["density"])}</span></div>'
    )


HEADS = (
    '<div class="gl-heads sk-cap" aria-hidden="true"><span class="sk-num">Latent</span><span>Best label</span><span>Top tokens</span>'
    '<span class="sk-num">F1, <b>|</b> always-fire</span><span class="sk-num">Density</span></div>'
)
STYLE = """.gl-bar { display: flex; flex-wrap: wrap; gap: 8px 16px; padding: 8px 16px 12px }
.gl-list { max-height: 264px; overflow: auto; border-top: 1px solid var(--sk-line) }
.gl-row, .gl-heads { display: grid; grid-template-columns: 52px minmax(120px, 1.2fr) minmax(0, 2fr) 112px 64px; gap: 12px;
align-items: center; padding: 4px 16px } .gl-row { min-height: 30px; border-bottom: 1px solid var(--sk-line); cursor: pointer }
.gl-row:hover { background: var(--sk-raise) } .gl-row[aria-selected=true] { background: var(--sk-raise-2);
box-shadow: inset 3px 0 var(--sk-ink) } .gl .sk-empty { padding: 24px 16px }
.gl .sk-foot kbd { display: inline !important } #gl-card { margin-top: 16px } #gl-card > .sk { margin-bottom: 16px }
@container sk (max-width: 620px) { .gl-row, .gl-heads { grid-template-columns: 44px 1fr 112px } :is(.gl-row, .gl-heads) > :is(:nth-child(3), :nth-child(5)) { display: none } }"""
