"""A question about an explanation as a game: passages to choose from, the answer, and scores beside other judges."""

from collections.abc import Mapping
from typing import Any

from .html import esc, fixed, piece
from .marks import INDENT, step
from .notes import button, note

GAMES = {"detection": "Where is it on?", "fuzzing": "Which highlights are right?", "intruder": "Find the intruder"}
ASKED = {
    "detection": "Choose every passage that fits the description somewhere.",
    "fuzzing": "Choose every passage whose boxed tokens fit the description.",
    "intruder": "Four passages are of one latent, boxed where it is on. Choose the one that is not.",
}
CHANCE = 0.5


def judge_game(data: Mapping[str, Any]) -> str:
    """The game. `data` is what `widgets.JudgeGame.compute` gives."""
    body = _over(data) if data["done"] else _question(data)
    return (
        f'<section class="sk" aria-label="Judge game, latent {data["latent"]}">{_head(data)}<div class="sk-body sk-rule">'
        f'<div class="sk-cols sk-collapse jg"><div>{body}</div>{_scores(data)}</div></div>{_foot(data)}</section>'
    )


def _head(data: Mapping[str, Any]) -> str:
    said = f"The description: {data['explanation']}" if data["explanation"] else "No description this time"
    i = data["id"]
    radios = "".join(
        f'<label><input type="radio" name="jg-{i}" value="{name}" data-act="game"{" checked" if name == data["game"] else ""}>'
        f"{GAMES[name]}</label>"
        for name in data["games"]
    )
    games = f'<div class="sk-bar"><span class="sk-seg" role="radiogroup" aria-label="Game">{radios}</span></div>'
    return (
        f'<div class="sk-head"><div><h3 class="sk-title">{esc(said)}</h3><p class="sk-sub">of latent {data["latent"]}, and passages '
        f"of documents it was not made from</p></div></div>{games if len(data['games']) > 1 else ''}"
    )


def _question(data: Mapping[str, Any]) -> str:
    over = data["truth"] is not None
    passages = "".join(_passage(data, i) for i in range(len(data["passages"])))
    word = "See the result" if data["asked"] == data["n"] else "Next question"
    chosen = len(data["marked"])
    act = button(word, "next", kind="is-main") if over else button(
        "Answer" if chosen or data["game"] == "intruder" else "Answer: none fits", "answer", kind="is-main",
        disabled=data["game"] == "intruder" and not chosen,
    )  # fmt: skip
    return (
        f'<h4 class="sk-h">Question {data["at"] + 1} of {data["n"]}</h4><p class="sk-cap">{ASKED[data["game"]]}</p>'
        f'<div class="jg-list" role="group" aria-label="Passages" data-keys="1 2 3 4 5 6 7 8 9" data-on="number">{passages}</div>'
        f'{_verdict(data) if over else ""}<div class="live" style="margin-top:10px">{act}</div>'
    )


def _passage(data: Mapping[str, Any], i: int) -> str:
    passage, over = data["passages"][i], data["truth"] is not None
    marked = i in (data["said"] if over else data["marked"])
    tokens = "".join(_token(data, passage, j, over) for j in range(len(passage["tokens"])))
    word = f'<span class="jg-n">{_tick(marked)} {i + 1}</span>'
    if not over:
        return (
            f'<button type="button" class="jg-p" data-act="mark" data-arg="{i}" aria-pressed="{str(marked).lower()}">{word}'
            f'<span class="jg-text">{tokens}</span></button>'
        )
    right = marked == (i in data["truth"])
    said = ("chosen" if marked else "left") + (", right" if right else ", wrong")
    kind = "good" if right else "bad"
    return (
        f'<div class="jg-p"><span class="jg-n">{_tick(marked)} {i + 1}</span><span class="jg-text">{tokens}</span>'
        f'<span class="sk-tag {kind}">{"✓" if right else "✕"} {said}</span></div>'
    )


def _tick(marked: bool) -> str:
    return f'<span aria-hidden="true">{"☑" if marked else "☐"}</span>'


def _token(data: Mapping[str, Any], passage: Mapping[str, Any], j: int, over: bool) -> str:
    """A token: boxed where it is highlighted; coloured by its activation once the question is answered."""
    at = step(passage["values"][j], data["maximum"]) if over else 0
    kinds = (f" a{at}" if at else "") + (" is-boxed" if j in passage["marked"] else "")
    shown = piece(INDENT.sub(r"\1  ", passage["tokens"][j]))
    return f'<span class="sk-tok{kinds}">{shown}</span>'


def _verdict(data: Mapping[str, Any]) -> str:
    n, truth, said = len(data["passages"]), data["truth"], data["said"]
    if data["game"] == "intruder":
        right = truth == said
        words = "Right." if right else f"It was passage {min(truth) + 1}."
        return note("good" if right else "warn", words, "Colours show where the latent is on.")
    right = sum((i in truth) == (i in said) for i in range(n))
    return note("good" if right == n else "warn", f"{right} of {n} right.", "Colours show where the latent is on.")


def _over(data: Mapping[str, Any]) -> str:
    own = data["scores"]["you"]
    rules = {name: s["score"] for name, s in data["scores"].items() if name != "you" and "score" in s}
    beside = f" The best other judge has {fixed(max(rules.values()))}." if rules else ""
    told = f" The label it matches best is {data['label']}." if data["label"] else ""
    acts = ""
    if len(data["games"]) > 1:
        acts = button("Other passages", "again", kind="is-main") + button("Another latent", "another")
    words = f"{fixed(own['low'])} to {fixed(own['high'])} is the 95 % interval of {own['n']} judgements.{beside}{told}"
    return (
        note("plain", f"Your score is {fixed(own['score'])}; chance is {fixed(CHANCE)}.", words)
        + f'<div class="sk-group live" style="margin-top:10px">{acts}</div>'
    )


# -- the other judges


def _scores(data: Mapping[str, Any]) -> str:
    rows = "".join(_score(name, score) for name, score in data["scores"].items())
    if not rows:
        return (
            '<div class="sk-panel jg-side"><h4>Scores</h4><p class="sk-cap">Answer the first question to see your score beside that '
            "of a judge that applies rules, and of one that always says the same.</p></div>"
        )
    unit = "balanced accuracy"
    return (
        f'<div class="sk-panel jg-side" aria-live="polite"><h4>Scores after {data["asked"]} of {data["n"]}</h4><table><thead><tr>'
        '<th scope="col">Judge</th><th scope="col"><span class="jg-ends"><span>0</span><span>1</span></span></th>'
        f'<th scope="col" class="sk-num">Score</th></tr></thead><tbody>{rows}</tbody></table><p class="sk-cap">{unit}; the mark is '
        f"chance, {fixed(CHANCE)}; below each score its 95 % interval</p></div>"
    )


def _score(name: str, score: Mapping[str, Any]) -> str:
    if "problem" in score:
        return (
            f'<tr><th scope="row">{esc(name[:40])}</th><td colspan="2"><span class="sk-warn">! no answer</span><br>'
            f'<span class="sk-cap jg-why">{esc(score["problem"][:300])}</span></td></tr>'
        )
    value = score["score"]
    known = value == value
    shown = fixed(value) if known else "–"
    span = f"{fixed(score['low'])} to {fixed(score['high'])}" if known else "one kind so far"
    bar = (
        f'<span class="sk-barcell" style="width:100%" role="img" aria-label="{esc(name[:40])}: {shown}"><i style="width:'
        f'{100 * value if known else 0:.0f}%"></i><b style="left:{100 * CHANCE:.0f}%"></b></span>'
    )
    return (
        f'<tr><th scope="row">{esc(name[:40])}</th><td>{bar}</td><td class="sk-num"><b>{shown}</b><br>'
        f'<span class="sk-unit">{span}</span></td></tr>'
    )


def _foot(data: Mapping[str, Any]) -> str:
    return (
        '<div class="sk-foot"><span class="live"><kbd>Tab</kbd> passages</span><span class="live"><kbd>Enter</kbd> choose</span>'
        f'<span class="live"><kbd>1</kbd> … <kbd>{max(len(data["passages"]), 1)}</kbd> choose by number</span>'
        "<span>boxed: highlighted; colour and underline: activation</span></div>"
    )
