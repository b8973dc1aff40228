"""The renderers as functions: what is data is shown as text, numbers are set in one way, a page needs no network."""

import re
from html.parser import HTMLParser

import pytest

from saekit import viz
from saekit.viz.browser import ceiling
from saekit.viz.html import count, esc, fixed, percent, piece, signed
from saekit.viz.marks import COLOUR, family, shape, step, strip
from saekit.viz.tokens import lines_of

HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"'`&<>", "a\u202eb\u200fc\u2066d", "x" * 10_000,
    "</style><b>", "\x00\x1b[31m", "]]>", "{{7*7}}", "\ud800",
)  # fmt: skip


class Elements(HTMLParser):
    """Every element and attribute a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def is_harmless(text: str) -> bool:
    seen = Elements(text)
    handlers = [name for name, _ in seen.attributes if name.startswith("on")]
    foreign = [v for n, v in seen.attributes if n in ("src", "href") and v]
    return not handlers and not foreign and not {"script", "img", "iframe", "link", "object"} & set(seen.tags)


@pytest.mark.parametrize("token", HOSTILE)
def test_data_is_text_wherever_it_is_shown(token: str):
    shown = [
        esc(token), piece(token), piece(token, spaces=True), strip([token, "b"], [1.0, 0.0], 2.0, 0),
        viz.note("bad", token, token, token, details=token), viz.framed("", token), viz.page(token, esc(token)),
    ]  # fmt: skip
    for html in shown:
        assert is_harmless(html)
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f\x00\x1b]", html)


def test_a_long_token_is_cut_and_says_so():
    assert len(piece("x" * 10_000)) < 80
    assert "10,000 characters" in piece("x" * 10_000)


def test_a_page_asks_the_network_for_nothing():
    page = viz.page("t", viz.note("plain", "n"))
    assert "http" not in page
    assert "url(" not in page
    assert page.startswith("<!doctype html>")


def test_numbers():
    assert fixed(-0.5) == "\u22120.50"
    assert signed(0.5) == "+0.50"
    assert count(18_860) == "18\u202f860"
    assert percent(0.189) == "18.9\u202f%"
    assert percent(0.0004) == "0.04\u202f%"
    assert percent(0.5) == "50\u202f%"


def test_steps_of_the_ramp():
    assert [step(v, 7.0) for v in (-1, 0, 0.01, 1, 1.01, 6.9, 7, 8)] == [0, 0, 1, 1, 2, 7, 7, 7]


def test_lines_are_the_text():
    tokens = ["def", " f", "():", "\n    ", "x", "\n\n", "y"]
    lines = lines_of(tokens)
    assert [[i for i, _, _ in line] for line in lines] == [[0, 1, 2, 3], [4, 5], [6]]
    assert "".join(shown + after for line in lines for _, shown, after in line) == "".join(tokens)


def test_the_ceiling_of_f1_is_reached_by_the_best_possible_latent():
    for density, base in ((0.05, 0.2), (0.2, 0.2), (0.6, 0.2)):
        hits = min(density, base)
        precision, recall = hits / density, hits / base
        assert ceiling(density, base) == pytest.approx(2 * precision * recall / (precision + recall))


def test_every_family_has_a_marker_of_its_own():
    labels = {"docstring": "docstring", "depth 2+": "bracket", "control keyword": "keyword", "def name": "other"}
    assert {label: family(label) for label in labels} == labels
    drawn = {shape(kind, 4.0) for kind in ("square", "triangle", "diamond", "circle", "plus", "cross")}
    assert len(drawn) == 6 == len(COLOUR)


def test_a_strip_keeps_its_peak_in_sight():
    tokens = [f" word{i:02d}" for i in range(20)]
    values = [1.0] * 20
    shown = strip(tokens, values, 1.0, 15)
    assert "word15" in shown
    assert "word02" not in shown
    assert "word00" in strip(tokens, values, 1.0)


def test_note_refuses_another_kind():
    with pytest.raises(ValueError, match="good"):
        viz.note("great", "x")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, two: str) -> float:
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_ink_is_legible_on_every_step_of_the_ramp(theme: int):
    from saekit.viz.html import style

    values = {n: pair for n, *pair in re.findall(r"--sk-([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style())}
    inks = {i: values["on-lo" if i < 5 else "on-hi"][theme] for i in range(1, 8)}
    for i in range(1, 8):
        for ramp in "an":
            assert contrast(values[f"{ramp}{i}"][theme], inks[i]) >= 4.5
    ground = ("#ffffff", "#111111")[theme]
    for name in [f"c{i}" for i in range(1, 7)]:
        assert contrast(values[name][theme], ground) >= 3
    for name in ("good", "warn", "bad", "pos-ink", "neg-ink"):
        assert contrast(values[name][theme], ground) >= 4.5
