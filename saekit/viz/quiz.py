"""A question with choices, and the status line of a notebook."""

from collections.abc import Mapping
from typing import Any

from .html import Html, esc
from .notes import button, note


def quiz(data: Mapping[str, Any]) -> str:
    """A question. `data` is what `widgets.Quiz.compute` gives."""
    rows = ""
    for i, option in enumerate(data["options"]):
        shown = option if isinstance(option, Html) else esc(option)
        on = " checked" if i == data["choice"] else ""
        off = " disabled" if data["committed"] else ""
        rows += f'<label><input type="radio" name="qz-{data["id"]}" value="{i}" data-act="choice"{on}{off}><span>{shown}</span></label>'
    pictures = " is-pictures" if any(isinstance(o, Html) for o in data["options"]) else ""
    word = "Commit this guess" if data["answer"] is None else "Check"
    act = "" if data["committed"] else button(word, "commit", kind="is-main", disabled=data["choice"] is None)
    again = button("Try again", "again") if data["committed"] and data["correct"] is False else ""
    return (
        f'<section class="sk" aria-label="Question"><div class="sk-body"><fieldset class="sk-field"><legend class="sk-quiz-q">'
        f'{esc(data["question"])}</legend><div class="qz{pictures}">{rows}</div></fieldset>'
        f'<div style="margin-top:10px;display:grid;gap:8px;justify-items:start">{act}{_verdict(data)}{again}</div></div></section>'
    )


def _verdict(data: Mapping[str, Any]) -> str:
    if not data["committed"]:
        return ""
    if data["answer"] is None:
        return note("plain", "Your guess is kept.", "Run the next cell to see what is measured.")
    if data["correct"]:
        return note("good", "Right.", data["why"])
    return note("warn", "Not this one.", "Look again at what each choice would mean.")


def status(facts: Mapping[str, str], warnings: frozenset[str] = frozenset()) -> str:
    """One line of facts; those in `warnings` carry a mark and a word."""
    cells = "".join(
        f'<div class="{"warn" if name in warnings else ""}"><dt>{esc(name)}</dt><dd>{"! " if name in warnings else ""}{esc(value)}'
        "</dd></div>"
        for name, value in facts.items()
    )
    return f'<section class="sk" aria-label="Status"><dl class="sk-status">{cells}</dl></section>'
