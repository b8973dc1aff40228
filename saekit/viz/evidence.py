"""What a latent matches: labels beside controls and a rule in words, other latents, tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from .html import count, esc, fixed, percent, piece
from .marks import bar, chips, marker, shape
from .notes import button, empty, note

# -- labels

WIDTH = 150


def labels(data: Mapping[str, Any]) -> str:
    """Precision, recall, F1 and AUC at each label, beside an always-firing detector and the best single neuron."""
    rows = data["labels"]
    if not rows:
        return _rule(data) + empty(
            "This corpus has no labels", "Collect the features on labelled text, such as load_corpus(model)."
        )
    above = [row["label"] for row in rows if row["context"] and _beats(row)]
    title = {0: "No label of context beats both controls"}.get(
        len(above), f"{', '.join(above[:3])}{' and more' if len(above) > 3 else ''} above both controls"
    )
    body = "".join(_label_row(row) for row in rows[:12])
    heads = "".join(
        f'<th scope="col" class="{kind}">{name}</th>'
        for name, kind in (
            ("True label", ""), ("Base rate", "sk-num"), ("Precision", "sk-num"), ("Recall", "sk-num"), ("F1", "sk-num"),
            ('0 <span style="float:right">1</span>', ""), ("AUC", "sk-num"), ("△ AUC", "sk-num"), ("vs controls", ""),
        )
    )  # fmt: skip
    return (
        f'{_rule(data)}<h4 class="sk-h">{esc(title[:1].upper() + title[1:])}</h4><p class="sk-cap" style="margin-bottom:6px">● this '
        "latent &nbsp; <b>|</b> a detector that always fires &nbsp; △ the best single neuron. On or off, no threshold is tuned for the "
        "latent; the neuron has its best one. A label that the token alone decides is no evidence.</p>"
        f'<div class="sk-scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _beats(row: Mapping[str, Any]) -> bool:
    """Whether the F1 is above both controls; a best neuron that is not known is none."""
    return row["f1"] > row["always_fire"] and not row["f1"] <= row["neuron_f1"]


def _rule(data: Mapping[str, Any]) -> str:
    """The rule that tells best where the latent is on, once it has been asked for."""
    rule = data["rule"]
    if rule is None:
        return f'<div class="live" style="margin-bottom:8px">{button("Say it as a rule", "rule")}</div>'
    if rule["problem"]:
        return note("warn", "No rule was found.", rule["problem"])
    words = f"F1 {fixed(rule['test'])} on documents held back, {fixed(rule['train'])} on those it was found in."
    return note("plain", f"On at: {rule['words']}", words)


def _label_row(row: Mapping[str, Any]) -> str:
    f1, always, neuron = row["f1"], row["always_fire"], row["neuron_f1"]
    identity = "" if row["context"] else ' <span class="sk-cap">(token identity)</span>'
    known = neuron == neuron
    alt = f"F1 {fixed(f1)}; always-fire {fixed(always)}; best neuron {fixed(neuron) if known else 'not known'}"
    triangle = (
        f'<path d="{shape("triangle", 4.5, WIDTH * neuron, 9.5)}" fill="none" stroke="var(--sk-ink-2)"/>'
        if known
        else ""
    )
    dots = (
        f'<svg width="{WIDTH}" height="18" viewBox="0 0 {WIDTH} 18" role="img" aria-label="{alt}" style="min-width:96px">'
        f'<line class="grid" x1="0" x2="{WIDTH}" y1="9.5" y2="9.5"/><line x1="0" x2="{WIDTH * f1:.1f}" y1="9.5" y2="9.5" '
        f'stroke="var(--sk-mark)" stroke-width="2"/><line x1="{WIDTH * always:.1f}" x2="{WIDTH * always:.1f}" y1="3" y2="16" '
        f'stroke="var(--sk-ink)" stroke-width="1.5"/>{triangle}'
        f'<path d="{shape("circle", 4.5, WIDTH * f1, 9.5)}" fill="var(--sk-ink)"/></svg>'
    )
    verdict = (
        '<span class="sk-tag good">✓ above both</span>' if _beats(row) and row["context"]
        else '<span class="sk-cap">above, no evidence</span>' if _beats(row)
        else '<span class="sk-cap">below a control</span>'
    )  # fmt: skip
    numbers = "".join(f'<td class="sk-num">{fixed(row[k])}</td>' for k in ("precision", "recall"))
    aucs = "".join(f'<td class="sk-num">{_or_dash(row[k])}</td>' for k in ("auc", "neuron_auc"))
    return (
        f'<tr><th scope="row">{marker(row["label"])} {esc(row["label"])}{identity}</th>'
        f'<td class="sk-num">{percent(row["base"])}</td>{numbers}<td class="sk-num"><b>{fixed(f1)}</b></td>'
        f"<td>{dots}</td>{aucs}<td>{verdict}</td></tr>"
    )


def _or_dash(value: float) -> str:
    return fixed(value) if value == value else "–"


# -- neighbours


def neighbours(data: Mapping[str, Any]) -> str:
    """The latents that are on at the same tokens, and those that write alike."""
    cosines = _others(data["similar"], "Writes in a similar direction", "cosine", ("cosine", "jaccard"))
    together = _others(data["cofiring"], "On at the same tokens", "jaccard", ("jaccard", "lift", "cosine"))
    return (
        f'<div class="sk-cols sk-collapse" style="grid-template-columns:1fr 1fr">{together}{cosines}</div><p class="sk-cap" '
        'style="margin-top:8px">Overlap: tokens where both are on, of those where either is (Jaccard), on sampled tokens. Lift: how '
        "much oftener than by chance. Cosine: of decoder rows.</p>"
    )


HEADS = {"cosine": "Cosine", "jaccard": "Overlap", "lift": "Lift"}


def _others(table: Any, title: str, main: str, columns: Sequence[str]) -> str:
    if not len(table):
        return f'<div class="sk-panel"><h4>{title}</h4><p class="sk-cap">No other latent was on together with it.</p></div>'
    heads = "".join(f'<th scope="col" class="sk-num">{HEADS[name]}</th>' for name in columns)
    rows = ""
    for latent, row in zip(table.index, table.to_dict("records"), strict=True):
        cells = "".join(
            f'<td class="sk-num">{"<b>" if name == main else ""}{fixed(row[name], 1 if name == "lift" else 2)}'
            f"{'</b>' if name == main else ''}</td>"
            for name in columns
        )
        label = (
            f"{marker(row['label'])} {esc(row['label'])}" if row["label"] else '<span class="sk-cap">no label</span>'
        )
        rows += (
            f'<tr><th scope="row">{button(str(latent), "latent", latent, "is-quiet", label=f"Open latent {latent}")}</th>'
            f'<td class="fb-label">{label}</td><td>{chips(row["tokens"][:2])}</td>{cells}</tr>'
        )
    return (
        f'<div class="sk-panel fc-near"><h4>{title}</h4><div class="sk-scroll"><table><thead><tr><th scope="col">Latent</th><th '
        f'scope="col">Best label</th><th scope="col">Top tokens</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div></div>'
    )


# -- tokens


def tokens(data: Mapping[str, Any]) -> str:
    """The tokens it is on at, with precision and recall of each."""
    table = data["tokens"]
    shown = float(table.recall.sum())
    rows = ""
    for row in table.to_dict("records"):
        alt = f"{fixed(row['precision'])} of its occurrences, {fixed(row['recall'])} of the firings"
        rows += (
            f'<tr><th scope="row"><span class="sk-chips"><span>{piece(row["token"], spaces=True, longest=16)}</span></span></th>'
            f'<td class="sk-num">{count(row["seen"])}</td><td class="sk-num">{count(row["fires"])}</td><td class="sk-num"><b>'
            f'{fixed(row["precision"])}</b></td><td>{bar(row["precision"], alt, None, "72px")}</td><td class="sk-num"><b>'
            f"{fixed(row['recall'])}</b></td><td>{bar(row['recall'], alt, None, '72px')}</td>"
            f'<td class="sk-num">{fixed(row["mean_on"])}</td></tr>'
        )
    heads = "".join(
        f'<th scope="col"{" class=sk-num" if right else ""}>{name}</th>'
        for name, right in (
            ("Token", 0), ("Seen", 1), ("On at", 1), ("Precision", 1), ("", 0), ("Recall", 1), ("", 0), ("Mean when on", 1))
    )  # fmt: skip
    return (
        f'<h4 class="sk-h">{percent(shown)} of the firings are at these {len(table)} tokens</h4><p class="sk-cap" '
        'style="margin-bottom:6px">Precision: of the times the token occurs, how often the latent is on. Recall: of its firings, how '
        f'many are at the token.</p><div class="sk-scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
