"""From data to HTML: escaping, numbers, a standalone page.

Text that came from data goes through `esc` or `piece` before it becomes part of a page, and through nothing else.
"""

import unicodedata
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

CSS = Path(__file__).with_name("saekit.css")
MINUS, THIN = "\u2212", "\u202f"


class Html(str):
    """Text that is HTML already, and may be placed in a page as it stands."""

    def _repr_html_(self) -> str:
        return f"<style>{style()}</style>{self}"

    def __repr__(self) -> str:
        return f"Html({len(self):,} characters)"


@cache
def style() -> str:
    """The one stylesheet of every widget, figure and page."""
    return CSS.read_text("utf-8")


def show(html: str) -> Html:
    """HTML of ours as an object that a notebook displays, with its style."""
    return Html(html)


def page(title: str, html: str, script: str = "") -> str:
    """One document that opens from disk with no network. `script` is ours, and runs when all is there."""
    script = f'<script type="module">{script}</script>' if script else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{esc(title)}</title>'
        '<meta name="viewport" content="width=device-width"><meta name="generator" content="saekit">'
        f"<style>{style()}\n{_PAGE}</style>{script}</head>\n<body>{html}</body></html>\n"
    )


_PAGE = """:root { color-scheme: light dark } body { margin: 24px auto; padding: 0 16px; max-width: 1032px;
background: light-dark(#fff, #111) } body > .sk { margin-bottom: 16px }
.sk :is(.sk-bar, .sk-btn, .sk-act, .sk-tabs, .sk-details, .tm-set, .live), .sk-foot kbd { display: none !important }
.sk th .sk-btn { display: inline !important; padding: 0 } /* the name of a row */
.sk button { cursor: default !important } .fc-kept { display: block !important }"""


# -- text


def esc(text: Any) -> str:
    """Any text as text: markup is escaped, and control characters, which could turn or break a line, are shown."""
    return escape("".join(map(_visible, str(text))), quote=True)


def piece(token: str, *, spaces: bool = False, longest: int = 48) -> str:
    """A token as it is shown on a line: a line break as ⏎, a tab as →, cut in the middle when it is very long."""
    if len(token) > longest:
        half = longest // 2 - 4
        token = f"{token[:half]}… {len(token):,} characters …{token[-8:]}"
    shown = []
    for c in token:
        if c == "\n":
            shown.append('<span class="sk-ws">⏎</span>')
        elif c == "\t":
            shown.append('<span class="sk-ws">→</span>')
        elif c == " " and spaces:
            shown.append('<span class="sk-ws">·</span>')
        else:
            shown.append(escape(_visible(c), quote=True))
    return "".join(shown)


def named(token: str) -> str:
    """A token in words, for labels that are read aloud. Not escaped yet."""
    word = token.strip()
    return word[:60] if word else "line break" if "\n" in token else "space" if token else "nothing"


@cache
def _visible(c: str) -> str:
    if c in "\n\t":
        return c
    category = unicodedata.category(c)
    return f"‹{ord(c):02X}›" if category in ("Cc", "Cf", "Zl", "Zp", "Co", "Cs", "Cn") else c


# -- numbers, as they are set in the whole project: a true minus, thin spaces, a leading zero


def fixed(x: float, digits: int = 2) -> str:
    """0.84, −0.84."""
    return f"{x:,.{digits}f}".replace("-", MINUS).replace(",", THIN)


def signed(x: float, digits: int = 2) -> str:
    """+0.84, −0.84."""
    return ("+" if x > 0 else "") + fixed(x, digits)


def percent(x: float, digits: int | None = None) -> str:
    """12 %, 1.2 %, 0.03 %: more digits for smaller shares."""
    share = 100 * x
    if digits is None:
        digits = 0 if share >= 20 or share == 0 else 1 if share >= 0.95 else 2 if share >= 0.01 else 3
    return fixed(share, digits) + THIN + "%"


def count(n: float) -> str:
    """18 860."""
    return fixed(round(n), 0)
