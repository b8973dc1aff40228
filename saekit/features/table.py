"""All latents as a table, and looking for some of them."""

import difflib
import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .notes import Note
from .tally import BEFORE

if TYPE_CHECKING:
    from .index import Features

TOKENS = 4  # a latent is listed with


def table_of(features: "Features") -> pd.DataFrame:
    """A row for each latent; see `Features.table`."""
    index, latents = features.index, pd.RangeIndex(len(features), name="latent")
    count = index.histogram.sum(1)
    alive = count > 0
    peak = np.zeros(len(latents))
    peak[alive] = index.top.values[index.top.offsets[:-1][alive], BEFORE]
    plain = {"density": count / features.n, "max": peak, "mean": index.total / np.maximum(count, 1)}
    # By F1 alone every latent would be named by the commonest label, which any detector matches half of the time.
    best = features.label_scores().assign(above=lambda table: table.f1 - table.always_fire)
    best = best.sort_values("above", ascending=False, kind="stable").drop_duplicates("latent")
    best = best.set_index("latent").drop(columns=["density", "above"])
    nothing = {"label": "", "context": False}
    labels = {name: best[name].reindex(latents, fill_value=nothing.get(name, 0.0)) for name in best}
    return pd.DataFrame(plain | labels | {"tokens": _peak_tokens(features)}, index=latents)


def _peak_tokens(features: "Features") -> list[tuple[str, ...]]:
    """The tokens at which each latent's largest firings are, most frequent first."""
    held = features.index.top
    shown = features.excerpts.tokens(held.place)
    peaks = (Counter(shown[held.slice_of(latent)]) for latent in range(len(features)))
    return [tuple(token for token, _ in found.most_common(TOKENS)) for found in peaks]


def tokens_of(features: "Features", latent: int, n: int | None) -> pd.DataFrame:
    """A row for each token id that a latent is on at; see `Latent.tokens`."""
    held = features.index.tokens
    mine = held.slice_of(latent)
    order = np.argsort(-held.count[mine], kind="stable")[:n]
    ids, fires, total = held.token[mine][order], held.count[mine][order], held.total[mine][order]
    seen, on = held.seen[ids], features.index.histogram[latent].sum()
    shown = [features.excerpts.pieces[i] for i in ids]
    return pd.DataFrame(
        {"token": shown, "id": ids, "seen": seen, "fires": fires, "precision": fires / np.maximum(seen, 1),
         "recall": fires / max(on, 1), "mean": total / np.maximum(seen, 1), "mean_on": total / np.maximum(fires, 1)}
    )  # fmt: skip


def found(
    features: "Features", query: str | int, label: str | None, token: str | None, regex: str | None, starred: bool
) -> pd.DataFrame:
    """Rows of the table, best F1 first; see `Features.search`."""
    rows = features.table[features.table["max"] > 0]
    if query := str(query).strip().lower():
        rows = (
            rows[rows.index == int(query)] if query.isdecimal() else rows[_mentions(rows, query, features.notes.all())]
        )
    if label is not None:
        rows = rows[rows.label == known(label, features.meetings.labels)]
    if starred:
        rows = rows[rows.index.isin([latent for latent, note in features.notes.all().items() if note.get("star")])]
    if token is not None:
        rows = rows[[any(token in (t, t.strip()) for t in tokens) for tokens in rows.tokens]]
    if regex is not None:
        pattern = _compiled(regex)
        rows = rows[[_shows(features, latent, pattern) for latent in rows.index]]
    return rows.sort_values("f1", ascending=False, kind="stable")


def _mentions(rows: pd.DataFrame, query: str, notes: dict[int, Note]) -> list[bool]:
    noted = {latent for latent, note in notes.items() if query in note.get("text", "").lower()}
    return [
        latent in noted or query in label.lower() or any(query in token.lower() for token in tokens)
        for latent, label, tokens in zip(rows.index, rows.label, rows.tokens, strict=True)
    ]


def _shows(features: "Features", latent: int, pattern: re.Pattern[str]) -> bool:
    held, chosen = features.index.top, features.index.top.slice_of(latent)
    return any(pattern.search(features.excerpts.text(int(place))) for place in held.place[chosen])


def known(label: str, labels: tuple[str, ...]) -> str:
    if label not in labels:
        close = ", ".join(difflib.get_close_matches(label, labels) or labels) or "none: this corpus has no labels"
        raise ValueError(f"no label {label!r}; there are {close}")
    return label


def _compiled(regex: str) -> re.Pattern[str]:
    try:
        return re.compile(regex)
    except re.error as error:
        raise ValueError(f"regex={regex!r} is not a regular expression: {error}") from error
