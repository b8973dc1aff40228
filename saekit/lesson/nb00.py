"""Exercises of notebook 00. The references have no annotations, so that a solution runs where it is pasted."""

from collections.abc import Iterator
from typing import Any

from ..circuits import Graph
from ..hooks import capture
from ..viz.circuit import finding
from ..viz.html import Html, esc, piece
from ..viz.web import web
from .exercise import Chapter, Exercise, NotYet, Setting, Verdict, first_fault, not_a_function, tried

TEXTS = ("x = 1", 'def greet(name):\n    return "Hello " + name\n', "")


# -- 0.1


def count_tokens(model, text):
    """How many tokens the model reads for this text, BOS included."""
    return model.to_tokens(text, prepend_bos=True).shape[1]


def _token_faults(answer: Any, setting: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "count_tokens")
    counts = [tried(answer, setting.model, text) for text in TEXTS]
    right = [count_tokens(setting.model, text) for text in TEXTS]
    if not all(isinstance(count, int) for count in counts):
        yield f"A count is a whole number, but you returned a {type(counts[0]).__name__}."
    if counts == [len(text) for text in TEXTS]:
        yield "You counted characters. The model reads tokens, and most tokens are several characters long."
    if counts == [len(text.split()) for text in TEXTS]:
        yield "You counted words. Brackets, quotes and line breaks are tokens too, and a rare word becomes several."
    if counts == [n - 1 for n in right]:
        yield "One is missing each time: the model also reads a token that marks the beginning."
    if counts == [n + 1 for n in right]:
        yield "One too many each time: the token that marks the beginning is counted twice."
    if len(set(counts)) == 1:
        yield "You return the same number for different texts. Compute it from text."
    if counts != right:
        n = next(i for i in range(len(TEXTS)) if counts[i] != right[i])
        yield f"For the text {TEXTS[n]!r} your count of {counts[n]} is not what the model reads."


# -- 0.2


def fires_at(model, coder, latent, text):
    """The positions in a text where a latent is on; 0 is the first token after BOS."""
    x = coder.site.inputs(capture(model, text, coder.site))[0]
    codes = coder.encode(x[1:])
    return codes.rows[codes.latents == latent].tolist()


def _click_verdict(answer: Any, _: Setting) -> Verdict:
    """`answer`: a TokenStrip that takes guesses, or (marked positions, true positions)."""
    marked, truth = answer if isinstance(answer, tuple) else _clicks(answer)
    marked, truth = set(marked), set(truth)
    if not marked:
        raise NotYet
    both, overlap = len(marked & truth), len(marked & truth) / len(marked | truth)
    advice = " Few are: look at the examples on its card again, then try the second snippet." if overlap < 0.3 else ""
    found = f"You marked {len(marked)} tokens, it fires at {len(truth)}, and {both} are both. Overlap: {overlap:.2f}."
    return Verdict(True, found + advice)


def _clicks(strip: Any) -> tuple[list[int], list[int]]:
    values = strip.compute()["values"]
    return list(strip.state["marked"]), [i for i, value in enumerate(values) if value > 0]


# -- what the notebook shows


def thumbnail(graph: Graph) -> Html:
    """The picture of a `CircuitView` alone, as it starts, with the prompt behind its BOS."""
    from ..widgets import CircuitView

    data = CircuitView(graph).compute()
    title, prompt = finding(data), "".join(map(piece, graph.tokens[1:]))
    drawn = web(data | {"alt": f"{title}. Layers from below, tokens from left to right"})
    return Html(
        '<section class="sk" style="max-width:712px" aria-label="A circuit"><div class="sk-head"><div>'
        f'<h3 class="sk-title">{esc(title)}</h3><p class="sk-sub">after <span class="sk-mono">{prompt}</span></p>'
        f'</div></div><div class="sk-body"><div class="sk-scroll">{drawn}</div></div></section>'
    )


CHAPTER = Chapter(
    "00",
    (
        Exercise(
            "0.1",
            "Count the tokens",
            2,
            count_tokens,
            first_fault(_token_faults, "Right: brackets, line breaks and the beginning all count as tokens."),
            (
                "model.to_tokens(text) turns a text into token numbers. Look at what it gives for a short text.",
                "The result has the shape [texts, tokens]. You want the second of these two numbers.",
                "model.to_tokens(text, prepend_bos=...).shape[...]: should the beginning be there, and which axis?",
            ),
        ),
        Exercise(
            "0.2",
            "Predict where a latent fires",
            4,
            fires_at,
            _click_verdict,
            (
                "Look at the examples on the latent's card. What do the coloured tokens have in common?",
                "Check the label table on the card: its best label says which kind of text to look for.",
                "Mark every token of the kind you found, also the small ones such as brackets and line breaks.",
            ),
        ),
    ),
)
