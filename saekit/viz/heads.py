"""Which heads write into a latent: bars that add up to its pre-activation, and one head from source to source."""

from collections.abc import Mapping
from typing import Any

from .attention import head_name
from .html import count, esc, fixed, named, percent, piece, signed
from .marks import bar
from .notes import button
from .tokens import numbered

KEYS = "ArrowUp ArrowDown"


def head_view(data: Mapping[str, Any]) -> str:
    """The view. `data` is what `widgets.HeadView.compute` gives."""
    return (
        f'<section class="sk" aria-label="Heads into latent {data["latent"]}"><div class="sk-head"><div><h3 class="sk-title">{esc(finding(data))}</h3>'
        f'<p class="sk-sub"><span class="sk-mono">{esc(data["site"])}</span> · pre-activation at token {data["pos"] + 1}, exact with the '
        f'attention patterns and norm scales of this text held fixed</p></div></div>{_bar(data)}<div class="sk-body sk-rule">'
        f'<div class="sk-cols sk-collapse hv"><div>{_account(data)}</div><div class="hv-side" aria-live="polite">{_head(data)}</div></div>{_text(data)}</div>{_foot()}</section>'
    )


def finding(data: Mapping[str, Any]) -> str:
    """What adds most to what the latent sees, and which of the heads does."""
    where = f"Latent {data['latent']}{_comma(data['name'])} at {_word(data, data['pos'])}, {fixed(data['pre'])}"
    top = max(data["terms"], key=lambda term: term["value"])
    parts = [] if top["head"] is not None else [f"{top['name']} adds most, {signed(top['value'])}"]
    best = max(data["heads"], key=lambda term: term["value"], default=None)
    if best is None:
        parts.append("no head comes before it")
    elif best["value"] <= 0:
        parts.append("no head adds to it")
    else:
        most = "most of the heads" if parts else "most"
        parts.append(f"head {head_name(*best['head'])} adds {most}, {signed(best['value'])}")
    return f"{where}: {'; '.join(parts)}"


def _comma(name: str) -> str:
    return f", {name}," if name else ""


def _word(data: Mapping[str, Any], i: int) -> str:
    return repr(named(data["tokens"][i]))


def _bar(data: Mapping[str, Any]) -> str:
    i = data["id"]
    return (
        f'<div class="sk-bar" role="group" aria-label="What to show"><div class="sk-field"><label for="hv-{i}">Latent</label><input id="hv-{i}" type="number" '
        f'min="0" max="{data["d_sae"] - 1}" value="{data["latent"]}" style="width:84px" data-act="latent"></div><dl class="sk-stats"><div><dt>pre-activation</dt>'
        f"<dd>{fixed(data['pre'])}</dd></div><div><dt>activation</dt><dd>{fixed(data['activation']) if data['activation'] else 'off'}</dd></div></dl>{button('Go to its strongest token', 'strongest')}"
        f'<label class="sk-check sk-push"><input type="checkbox" data-act="why"{" checked" if data["why"] else ""}> Why the head looks there</label></div>'
    )


# -- the account


def _account(data: Mapping[str, Any]) -> str:
    """A waterfall: each bar begins where the one above ends, and the last is the sum."""
    ends, total = [0.0], 0.0
    for term in data["terms"]:
        total += term["value"]
        ends.append(total)
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    rows = "".join(
        _term(data, term, (min(a, b) - low) / span, abs(b - a) / span)
        for term, a, b in zip(data["terms"], ends, ends[1:], strict=False)
    )
    whole = (min(0.0, total) - low) / span, abs(total) / span
    rows += _row("pre-activation", "the sum", total, *whole, "is-sum")
    return (
        f'<h4 class="sk-h">What the pre-activation is made of</h4><p class="sk-cap">Largest first; each bar begins where the last one ended. '
        f'Blue and hatched lowers it.</p><div class="hv-rows" role="group" aria-label="Terms; arrows move between the heads" data-roving data-keys="{KEYS}" data-on="move">{rows}</div>'
    )


def _term(data: Mapping[str, Any], term: Mapping[str, Any], left: float, wide: float) -> str:
    if term["head"] is None:
        return _row(term["name"], "", term["value"], left, wide)
    on = tuple(term["head"]) == data["head"]
    name = head_name(*term["head"])
    act = f'data-act="pick" data-arg="{name}" aria-pressed="{str(on).lower()}" tabindex="{0 if on else -1}"'
    return _row(f"head {name}", term["from"], term["value"], left, wide, "is-head", act)


def _row(name: str, more: str, value: float, left: float, wide: float, kind: str = "", act: str = "") -> str:
    tag = 'button type="button"' if act else "div"
    paint = (
        "is-sum"
        if kind == "is-sum"
        else "sk-fill-neg sk-hatched"
        if value < 0
        else "sk-fill-pos"
        if kind
        else "is-plain"
    )
    said = f'aria-label="{esc(f"{name}, {signed(value)}")}"' if act else ""
    return (
        f'<{tag} class="hv-row {kind}" {act} {said}><span>{esc(name)}</span><span class="sk-cap sk-mono">{piece(more, spaces=kind == "is-head", longest=14)}</span>'
        f'<span class="hv-track"><i class="{paint}" style="left:{100 * left:.2f}%;width:{max(100 * wide, 0.3):.2f}%"></i></span><span class="sk-num">{signed(value)}</span></{tag.split()[0]}>'
    )


# -- one head


def _head(data: Mapping[str, Any]) -> str:
    if data["head"] is None:
        return '<p class="sk-cap">No head comes before this site: what the latent sees is made of the direct terms alone.</p>'
    rows = "".join(_source(data, source) for source in data["sources"])
    rest = data["rest"]
    if rest["n"]:
        rows += _line(f"{count(rest['n'])} others", "", rest["attention"], None, rest["value"])
    head = "".join(
        f'<th scope="col"{kind}>{words}</th>'
        for words, kind in (
            ("from", ""),
            ("place", ' class="sk-num"'),
            ("attention", ' colspan="2" class="sk-num"'),
            ("× carries", ' class="sk-num"'),
            ("= adds", ' class="sk-num"'),
        )
    )
    total = next(term["value"] for term in data["heads"] if tuple(term["head"]) == data["head"])
    return (
        f'<h4 class="sk-h">Head {head_name(*data["head"])} adds {signed(total)}</h4><p class="sk-cap">Attention times what the head would carry from there, seen by the latent.</p>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{_pairs(data)}"
    )


def _source(data: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    token = f'<span class="sk-mono">{piece(data["tokens"][source["pos"]], spaces=True, longest=14)}</span>'
    back = source["pos"] - data["pos"]
    carries = source["value"] / source["attention"] if source["attention"] > 1e-6 else None
    return _line(token, "itself" if not back else fixed(back, 0), source["attention"], carries, source["value"])


def _line(token: str, place: str, attention: float, carries: float | None, value: float) -> str:
    share = percent(attention, 0)
    return (
        f'<tr><th scope="row">{token}</th><td class="sk-num">{place}</td><td>{bar(attention, share, width="44px")}</td><td class="sk-num">{share}</td>'
        f'<td class="sk-num">{"" if carries is None else fixed(carries)}</td><td class="sk-num"><b>{signed(value)}</b></td></tr>'
    )


def _pairs(data: Mapping[str, Any]) -> str:
    """Why the head looks there: the attention score in parts, where it was asked for."""
    if not data["pairs"]:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{esc(query)}</th><td>{esc(key)}</td><td class="sk-num"><b>{signed(value)}</b></td></tr>'
        for query, key, value in data["pairs"]["rows"]
    )
    pair = data["pairs"]
    rows += f'<tr><th scope="row">all other pairs</th><td></td><td class="sk-num">{signed(pair["rest"])}</td></tr>'
    at = f'<span class="sk-mono">{piece(data["tokens"][pair["pos"]], spaces=True, longest=14)}</span>'
    head = '<tr><th scope="col">here</th><th scope="col">there</th><th scope="col" class="sk-num">score</th></tr>'
    return (
        f'<h4 class="sk-h" style="margin-top:10px">Why it looks at {at}: score {fixed(pair["score"])}</h4><p class="sk-cap">The score before the softmax, in pairs of what is read '
        f"here and there.</p><table><thead>{head}</thead><tbody>{rows}</tbody></table>"
    )


# -- the text


def _text(data: Mapping[str, Any]) -> str:
    def token(i: int, shown: str) -> str:
        here = i == data["pos"]
        return (
            f'<button type="button" class="sk-tok{" is-on" if here else ""}" data-act="pos" data-arg="{i}" tabindex="{0 if here else -1}" '
            f'aria-label="{esc(named(data["tokens"][i]))}, token {i + 1}">{piece(shown)}</button>'
        )

    lines = numbered(data["tokens"], token)
    alt = "The text, one button per token. Arrows move between tokens."
    return f'<div class="sk-code av-text" role="group" aria-label="{alt}" data-roving data-keys="ArrowLeft ArrowRight Home End" data-on="go">{lines}</div>'


def _foot() -> str:
    return '<div class="sk-foot"><span class="live"><kbd>↑</kbd> <kbd>↓</kbd> heads</span><span class="live"><kbd>←</kbd> <kbd>→</kbd> in the text: the token</span></div>'
