"""The naming game: examples of latents that have a letter and no name yet."""

from collections.abc import Mapping, Sequence

from ..features import Example
from .html import Html, esc, fixed, show
from .marks import strip


def naming(letters: Mapping[str, Sequence[tuple[str, Sequence[Example]]]], maxima: Mapping[str, float]) -> Html:
    """A block for each letter: groups of examples, coloured by activation, without source or label."""
    drawn = "".join(_latent(letter, groups, maxima[letter]) for letter, groups in letters.items())
    return show(
        '<section class="sk" aria-label="The naming game"><div class="sk-head"><div><h3 class="sk-title">'
        f'{len(letters)} latents without a name</h3><p class="sk-sub">the activation at the bold token stands before '
        f"each example; colour and underline show it at the others</p></div></div>{drawn}</section>"
    )


def _latent(letter: str, groups: Sequence[tuple[str, Sequence[Example]]], maximum: float) -> str:
    shown = "".join(_group(title, examples, maximum) for title, examples in groups)
    return f'<div class="sk-body sk-rule"><h4 class="sk-h">Latent {esc(letter)}</h4>{shown}</div>'


def _group(title: str, examples: Sequence[Example], maximum: float) -> str:
    rows = "".join(
        f'<div class="fc-ex"><b class="sk-num">{fixed(e.value)}</b>{strip(e.tokens, e.values, maximum, e.peak)}</div>'
        for e in examples
    )
    rows = rows or '<span class="sk-cap">none was kept</span>'
    return f'<div class="fc-q"><span class="sk-cap">{esc(title)}</span><div>{rows}</div></div>'
