"""The widgets under mouse and keys, in JupyterLab in a real browser, offline. SAEKIT_SHOTS=folder keeps pictures.

One page for all: each test has a widget of its own, and every wait is for something that is seen on the page.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser import lab, page

GENEROUS = 60_000  # ms: another process may have the processor


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=GENEROUS)
    with lab.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    root = home / "notebooks"
    root.mkdir()
    page.write(root / "widgets.ipynb", page.WIDGETS)
    page.write(root / "training.ipynb", page.TRAINING)
    with lab.server(root, home) as address:
        yield address
        assert "Traceback" not in (home / "server.log").read_text()


@pytest.fixture(scope="module")
def notebook(browser: Browser, address: str) -> Iterator[lab.Notebook]:
    notebook = lab.Notebook(browser, address, "widgets.ipynb")
    notebook.page.set_default_timeout(GENEROUS)
    assert [out for out in notebook.run_all(timeout=300) if out["output_type"] == "error"] == []
    yield notebook
    notebook.close()


@pytest.fixture
def widget(notebook: lab.Notebook) -> Iterator[Callable[[str], Locator]]:
    """The widget of a cell, by the cell's name. Afterwards nothing has gone wrong in silence."""
    yield lambda name: notebook.cell(list(page.WIDGETS).index(name)).locator(".sk-root")
    assert notebook.errors() == []
    assert notebook.console == []
    assert notebook.outside == []
    expect(notebook.page.locator(".sk-root .sk-note details")).to_have_count(0)  # a traceback, folded


def numbers(texts: list[str]) -> list[float]:
    """Numbers as they are set on the page: a true minus, thin spaces, units."""
    return [float(re.sub(r"[^\d.-]", "", text.replace("\u2212", "-"))) for text in texts]


# -- a text


def test_tokens_are_reached_by_mouse_and_keys(widget):
    strip = widget("strip")
    tokens, cursor, inspector = (
        strip.locator(".ts-code button"),
        strip.locator(".ts-insp .sk-cap"),
        strip.locator(".ts-insp"),
    )
    n = tokens.count()
    tokens.nth(3).click()
    expect(cursor.first).to_have_text(f"Token 4 of {n}")
    before = inspector.inner_text()
    lines = [line.locator("button").count() for line in strip.locator(".ts-code .sk-line").all()]
    below = lines[0] + 3
    for key, at in (
        ("ArrowRight", 4), ("ArrowLeft", 3), ("ArrowDown", below), ("ArrowUp", 3), ("End", n - 1),
        ("ArrowRight", n - 1), ("Home", 0), ("ArrowUp", 0), ("ArrowLeft", 0),
    ):  # fmt: skip
        strip.page.keyboard.press(key)
        expect(cursor.first).to_have_text(f"Token {at + 1} of {n}")
        expect(tokens.nth(at)).to_be_focused()
    assert inspector.inner_text() != before


def test_lanes_are_shown_and_hidden(widget):
    strip = widget("strip")
    lanes = strip.locator(".ts-code .ts-lane.k-keyword.on")
    expect(lanes).to_have_count(0)
    strip.locator('input[value="keyword"]').check()
    expect(lanes).to_have_count(2)  # def, return
    strip.locator('input[value="keyword"]').uncheck()
    expect(lanes).to_have_count(0)


def test_brackets_show_how_deep_they_are(widget):
    line = widget("strip").locator(".ts-code .sk-line").nth(3)  # sides = [width, (height, "metres")]
    digits = "".join(line.locator(".ts-lane.k-bracket").all_text_contents())
    assert re.sub(r"\s", "", digits) == "121"


def test_another_latent_by_number_by_list_and_by_place(widget):
    strip = widget("strip")
    title, box = strip.locator(".sk-title"), strip.locator('input[type="number"]')
    box.fill("5")
    box.press("Enter")
    expect(title).to_contain_text("Latent 5 ")
    box.fill("999999")
    box.press("Enter")
    expect(strip.get_by_role("alert")).to_contain_text("latent 999999 is not in [0, 2048)")
    expect(title).to_contain_text("Latent 5 ")
    other = strip.locator(".ts-insp table button").nth(1)
    latent = other.inner_text()
    other.click()
    expect(title).to_contain_text(f"Latent {latent} ")
    expect(box).to_have_value(latent)
    expect(strip.get_by_role("alert")).to_have_count(0)
    bars = strip.locator(".ts-over")
    size, n = bars.bounding_box(), strip.locator(".ts-code button").count()
    bars.click(position={"x": size["width"] * 0.7, "y": size["height"] / 2})
    expect(strip.locator(".ts-insp .sk-cap").first).to_have_text(f"Token {int(0.7 * n) + 1} of {n}")


def test_a_text_is_typed_and_answered(widget):
    strip = widget("strip")
    strip.locator("summary").click()
    box, size = (
        strip.locator("textarea"),
        strip.locator(".sk-field", has=strip.page.locator("textarea")).locator("label"),
    )
    before, n = box.input_value(), size.inner_text()
    box.press("Control+Home")
    box.press_sequentially("x = 12\n", delay=20)
    expect(size).not_to_have_text(n)
    expect(box).to_be_visible()
    assert box.evaluate("box => [box === document.activeElement, box.selectionStart]") == [True, 7]
    strip.page.keyboard.type("y")
    expect(strip.locator(".ts-code .sk-line").nth(1)).to_contain_text("ydef area")
    assert box.input_value() == "x = 12\ny" + before


def test_a_text_that_cannot_be_read_is_kept_with_a_way_on(widget):
    strip = widget("strip")
    box, says = strip.locator("textarea"), strip.get_by_role("alert")
    if not box.is_visible():
        strip.locator("summary").click()
    box.fill("")
    expect(says).to_contain_text("The text is empty")
    expect(box).to_be_focused()
    assert box.input_value() == ""
    long = "word = 1\n" * 400
    box.fill(long)
    expect(says).to_contain_text("tokens long.The model reads 255")
    assert box.input_value() == long
    says.get_by_role("button", name="Use the last 255").click()
    expect(says).to_have_count(0)
    expect(strip.locator(".ts-code button")).to_have_count(255)
    assert 0 < len(box.input_value()) < len(long)
    assert long.endswith(box.input_value())


def test_a_guess_is_marked_and_revealed(widget):
    strip = widget("guess")
    tokens, words = strip.locator(".ts-code button"), strip.get_by_role("status").locator("b")
    on = re.compile(r"\ba[1-7]\b")
    tokens.nth(11).click()
    expect(words).to_contain_text("1 of ")
    strip.page.keyboard.press("ArrowRight")
    expect(tokens.nth(12)).to_be_focused()
    strip.page.keyboard.press("Enter")
    expect(words).to_contain_text("2 of ")
    tokens.nth(0).click()
    tokens.nth(0).click()
    tokens.nth(2).click()
    expect(words).to_contain_text("3 of ")
    assert [t for t in tokens.all() if on.search(t.get_attribute("class"))] == []
    strip.get_by_role("button", name="Reveal").click()
    expect(words).to_contain_text("overlap")
    kinds = [token.get_attribute("class") for token in tokens.all()]
    marked, firing = {2, 11, 12}, {i for i, kind in enumerate(kinds) if on.search(kind)}
    assert {i for i, kind in enumerate(kinds) if "is-guess" in kind} == marked
    assert f"overlap {len(marked & firing) / len(marked | firing):.2f} of 1" in words.inner_text()
    strip.get_by_role("button", name="Guess again").click()
    expect(words).to_contain_text("0 of ")


# -- heads, patching, hooks


def test_pointing_at_a_token_shows_where_it_looks(widget):
    view = widget("attention")
    title, tokens = view.locator(".sk-title"), view.locator(".av-text button")
    tokens.nth(7).click()
    expect(view.locator(".av-sources h4")).to_contain_text("token 8")
    chosen = title.inner_text()
    tokens.nth(12).hover()
    expect(view.locator(".av-sources h4")).to_contain_text("token 13")
    view.locator(".sk-foot").hover()
    expect(title).to_have_text(chosen)
    tokens.nth(7).focus()
    view.page.keyboard.press("ArrowRight")
    expect(view.locator(".av-sources h4")).to_contain_text("token 9")
    expect(tokens.nth(8)).to_be_focused()
    view.page.keyboard.press("Home")
    expect(title).to_contain_text("From BOS")


def test_heads_are_chosen_by_mouse_and_keys(widget):
    view = widget("attention")
    heads, title = view.locator(".av-thumb"), view.locator(".sk-title")
    expect(heads).to_have_count(32)
    expect(view.locator(".av-thumb.is-best")).to_have_count(1)
    heads.nth(8 * 2 + 4).click()
    expect(title).to_contain_text("head 2.4")
    for key, name in (("ArrowUp", "1.4"), ("ArrowLeft", "1.3"), ("ArrowDown", "2.3")):
        view.page.keyboard.press(key)
        expect(title).to_contain_text(f"head {name}")
        expect(view.locator(f'[data-arg="{name}"]')).to_be_focused()
    darkest = view.locator("g.pm-t path").last  # the first token looks at itself, and that is BOS
    before = darkest.get_attribute("d")
    view.get_by_label("Show attention on BOS").uncheck()
    expect(darkest).not_to_have_attribute("d", before)
    view.get_by_label("Show attention on BOS").check()
    expect(darkest).to_have_attribute("d", before)


def test_patched_cells_are_chosen_by_mouse_and_keys(widget):
    shown = widget("patching")
    detail, at = shown.locator(".pa-low h4"), shown.locator(".pm-at")
    expect(shown.locator(".sk-title")).to_contain_text("What restores the answer most sits at '['")
    expect(detail).to_contain_text("token 7, restored before layer 0")
    at.focus()
    for key, words in (("ArrowUp", "token 7, restored before layer 1"), ("End", "token 8, restored before layer 1")):
        shown.page.keyboard.press(key)
        expect(detail).to_contain_text(words)
        expect(at).to_be_focused()
    plot = shown.locator(".pm-plot > rect")
    box = plot.bounding_box()
    plot.click(position={"x": box["width"] * 0.99, "y": 4}, force=True)
    expect(detail).to_contain_text("token 8, restored before layer 3")


def test_a_head_is_followed_to_its_sources(widget):
    view = widget("heads")
    side, rows = view.locator(".hv-side"), view.locator("button.hv-row")
    total = numbers(view.locator(".hv-row > .sk-num").all_inner_texts())
    assert abs(sum(total[:-1]) - total[-1]) < 0.1
    rows.first.click()
    name = rows.first.locator("span").first.inner_text().capitalize()
    expect(side.locator("h4").first).to_contain_text(name)
    view.page.keyboard.press("ArrowDown")
    expect(side.locator("h4").first).to_contain_text(rows.nth(1).locator("span").first.inner_text().capitalize())
    expect(rows.nth(1)).to_be_focused()
    view.get_by_label("Why the head looks there").check()
    expect(side).to_contain_text("Why it looks at")
    view.locator(".av-text button").nth(5).click()
    expect(view.locator(".sk-sub")).to_contain_text("token 6")


def test_a_hook_is_found_by_mouse_and_keys(widget):
    drawn = widget("hooks")
    title = drawn.locator(".sk-title")
    drawn.locator('[data-arg="attn.hook_pattern"]').click()
    expect(title).to_contain_text("blocks.0.attn.hook_pattern: 1 × 8 × ")
    for key, words in (("ArrowRight", "blocks.0.attn.hook_z"), ("ArrowUp", "blocks.1.attn.hook_z")):
        drawn.page.keyboard.press(key)
        expect(title).to_contain_text(words)
    drawn.get_by_label("Layer 3").click()
    expect(title).to_contain_text("blocks.3.attn.hook_z")


# -- many coders


def test_points_are_found_by_pointer_and_keys_and_selected(widget):
    plot = widget("pareto")
    title, points, box = plot.locator(".sk-title"), plot.locator(".pp-hit"), plot.locator("svg rect[data-act]").first
    expect(title).to_have_text("Lowest FVU: topk-32, 0.100 at L0 32.0; the control pca-32 has 0.300")
    points.first.locator("> circle").hover()
    expect(points.first.locator(".pp-cross")).to_have_css("opacity", "1")
    points.first.locator("> circle").click()
    expect(title).to_contain_text("topk-16: FVU 0.200")
    expect(points.first).to_be_focused()
    plot.page.keyboard.press("ArrowRight")
    expect(points.nth(1)).to_be_focused()
    expect(points.nth(1).locator(".pp-cross")).to_have_css("opacity", "1")
    plot.page.keyboard.press("Enter")
    expect(title).to_contain_text("topk-32: FVU 0.100")
    area = box.bounding_box()
    box.click(position={"x": area["width"] - 4, "y": area["height"] / 2})
    expect(title).to_contain_text("relu-32: FVU 0.150")


def test_variants_are_hidden_and_shown(widget):
    plot = widget("pareto")
    points = plot.locator(".pp-hit")
    plot.locator('input[data-arg="topk"]').uncheck()
    expect(points).to_have_count(2)
    plot.locator('input[data-arg="topk"]').check()
    expect(points).to_have_count(4)


# -- one latent


def test_tabs_by_mouse_and_keys(widget):
    card = widget("card")
    tabs = card.get_by_role("tab")
    for i, sight in enumerate((".fc-ex", ".fc-log", "table", ".fc-near table", "table", "textarea")):
        tabs.nth(i).click()
        expect(card.locator(f".fc-panel {sight}").first).to_be_visible()
        expect(tabs.nth(i)).to_have_attribute("aria-selected", "true")
    for key, at in (("ArrowRight", 0), ("ArrowRight", 1), ("ArrowLeft", 0), ("ArrowLeft", 5), ("ArrowRight", 0)):
        card.page.keyboard.press(key)
        expect(tabs.nth(at)).to_be_focused()
        expect(tabs.nth(at)).to_have_attribute("aria-selected", "true")


def test_a_bar_of_the_histogram_chooses_examples(widget):
    card = widget("card")
    card.get_by_role("tab").first.click()
    bars, note = card.locator(".fc-hist g"), card.locator(".fc-panel .sk-note")
    bars.nth(4).click()
    expect(note).to_contain_text("Only activations from")
    expect(bars.nth(4)).to_have_attribute("aria-pressed", "true")
    low, high = numbers(re.findall(r"[\d.]+", note.inner_text().removeprefix("Only activations"))[:2])
    assert all(low <= value <= high + 0.01 for value in numbers(card.locator(".fc-ex > b").all_inner_texts()))
    card.page.keyboard.press("ArrowRight")
    expect(bars.nth(5)).to_be_focused()
    card.page.keyboard.press("Enter")
    expect(bars.nth(5)).to_have_attribute("aria-pressed", "true")
    expect(bars.nth(4)).to_have_attribute("aria-pressed", "false")
    card.page.keyboard.press("Enter")
    expect(note).to_have_count(0)
    expect(bars.nth(5)).to_be_focused()


def test_examples_from_the_top_and_at_random(widget):
    card = widget("card")
    card.get_by_role("tab").first.click()
    heads, values = card.locator(".fc-q h4"), card.locator(".fc-ex > b")
    card.get_by_text("Random active").click()
    expect(heads).to_have_text(["At random"])
    card.page.keyboard.press("ArrowRight")
    expect(heads).to_have_text(["Weighted"])
    card.page.keyboard.press("ArrowRight")  # radios go round
    expect(heads).to_have_text(["Strongest"])
    shown = numbers(values.all_inner_texts())
    assert shown == sorted(shown, reverse=True)
    assert shown[0] == max(numbers(card.locator(".sk-stats dd").all_inner_texts()[2:3]))
    card.get_by_text("By rank").click()
    expect(heads).to_have_text([f"Part {n} of 5" for n in (5, 4, 3, 2, 1)])
    card.get_by_text("By value").click()
    expect(heads.first).to_have_text("Top tenth")


def test_other_latents(widget):
    card = widget("card")
    title, box = card.locator(".sk-title"), card.locator('input[type="number"]')
    card.get_by_role("tab").first.click()
    box.fill("7")
    box.press("Enter")
    expect(title).to_contain_text(re.compile(r"^Latent 7\b"))
    card.get_by_role("button", name="Next latent").click()
    expect(title).to_contain_text(re.compile(r"^Latent 8\b"))
    expect(box).to_have_value("8")
    card.get_by_role("button", name="Previous latent").click()
    expect(title).to_contain_text(re.compile(r"^Latent 7\b"))
    card.page.keyboard.press("[")
    card.page.keyboard.press("[")
    expect(title).to_contain_text(re.compile(r"^Latent 5\b"))
    card.page.keyboard.press("]")
    expect(title).to_contain_text(re.compile(r"^Latent 6\b"))
    card.get_by_role("button", name="Random").click()
    expect(title).not_to_contain_text(re.compile(r"^Latent 6\b"))


def test_a_latent_that_is_not_there(widget):
    card = widget("card")
    title, box, says = card.locator(".sk-title"), card.locator('input[type="number"]'), card.get_by_role("alert")
    before = title.inner_text()
    box.fill("2048")
    box.press("Enter")
    expect(says).to_contain_text("latent 2048 is not in [0, 2048)")
    expect(title).to_have_text(before)
    expect(card.locator(".fc-hist g")).to_have_count(10)
    expect(box).to_be_focused()
    box.fill("3")
    box.press("Enter")
    expect(says).to_have_count(0)
    expect(title).to_contain_text("Latent 3")


def test_a_text_of_ones_own_and_its_contrasts(widget):
    card = widget("card")
    card.get_by_role("tab").last.click()
    box, shown = card.locator("textarea"), card.locator(".fc-panel .sk-code")
    for typed in ("total = 1", "rate = 2"):
        box.fill(typed)
        expect(shown).to_contain_text(typed)
    for wrap, text in (("comment", "# rate = 2"), ("string", 'text = "rate = 2"')):
        card.get_by_role("button", name=f"Try as a {wrap}").click()
        expect(box).to_have_value(text)
        expect(shown).to_contain_text(text)
        box.fill("rate = 2")
        expect(shown).to_have_text(re.compile(r"^rate = 2$"))
    box.fill("new = 3")  # and no pause before the next click: what was typed goes first
    card.get_by_role("button", name="Try as a docstring").click()
    expect(box).to_have_value(re.compile("^def f.*new = 3", re.DOTALL))
    expect(shown).to_contain_text("new = 3")


def test_a_card_is_saved(widget):
    card = widget("card")
    with card.page.expect_download() as saved:
        card.get_by_role("button", name="Save as a file").click()
    number = card.locator('input[type="number"]').input_value()
    assert saved.value.suggested_filename == f"latent-{number}.html"
    assert f"Latent {number}" in saved.value.path().read_text("utf-8")


def test_neighbours_are_opened(widget):
    card = widget("card")
    card.get_by_role("tab", name="Neighbours").click()
    other = card.locator(".fc-near tbody th button").first
    latent = other.inner_text()
    other.click()
    expect(card.locator(".sk-title")).to_contain_text(re.compile(rf"^Latent {latent}\b"))
    other = card.locator(".fc-near").nth(1).locator("tbody th button").nth(1)
    latent = other.inner_text()
    other.press("Enter")
    expect(card.locator(".sk-title")).to_contain_text(re.compile(rf"^Latent {latent}\b"))
    expect(card.get_by_role("tab", name="Neighbours")).to_have_attribute("aria-selected", "true")


def test_a_rule_is_asked_for(widget):
    card = widget("card")
    card.get_by_role("tab", name="Labels").click()
    ask = card.get_by_role("button", name="Say it as a rule")
    ask.press("Enter")
    expect(card.locator(".fc-panel .sk-note")).to_contain_text(re.compile("On at: .*F1 0|No rule was found", re.DOTALL))
    card.get_by_role("button", name="Next latent").click()
    expect(ask).to_be_visible()


def test_a_note_and_a_star_stay_with_their_latent(widget):
    card, browser = widget("card"), widget("browser")
    title, note = card.locator(".sk-title"), card.get_by_label("Note")
    star = card.locator(".sk-head [data-act=star]")
    box = card.locator('input[type="number"]')
    box.fill("11")
    box.press("Enter")
    expect(title).to_contain_text(re.compile(r"^Latent 11\b"))
    star.press("Enter")
    expect(star).to_have_attribute("aria-pressed", "true")
    note.fill("eleven <b>")  # and no pause before the next click
    card.get_by_role("button", name="Next latent").click()
    expect(title).to_contain_text(re.compile(r"^Latent 12\b"))
    expect(note).to_have_value("")
    expect(star).to_have_attribute("aria-pressed", "false")
    card.get_by_role("button", name="Previous latent").click()
    expect(note).to_have_value("eleven <b>")
    browser.get_by_label("Starred").check()
    expect(browser.locator(".fb tbody tr")).to_have_count(1)
    expect(browser.locator(".fb-noted")).to_have_attribute("title", "eleven <b>")
    browser.get_by_label("Starred").uncheck()
    expect(browser.locator(".fb tbody tr")).not_to_have_count(1)  # or the search below would seem to be done already
    search = browser.get_by_role("searchbox")
    search.fill("ELEVEN <")
    expect(browser.locator(".fb tbody tr")).to_have_count(1)
    row = browser.locator(".fb tbody tr")
    row.click()
    expect(row).to_have_attribute("aria-selected", "true")
    browser.page.keyboard.press("s")
    expect(row.locator("[data-act=star]")).to_have_attribute("aria-pressed", "false")
    expect(row).to_be_focused()
    browser.get_by_label("Note on latent 11").fill("")
    expect(browser.locator(".sk-empty")).to_contain_text("No latent matches")
    search.fill("")
    expect(browser.locator(".fb tbody tr")).to_have_count(14)


# -- the microscope


def test_cells_are_reached_by_mouse_and_keys_and_open_cards(widget):
    scope = widget("microscope")
    at, picked, card = scope.locator(".pm-at"), scope.locator(".pm-low h4").first, scope.locator('[data-scope="card"]')
    plot = scope.locator(".pm-plot > rect")
    expect(scope.locator(".sk-title")).to_have_text(
        re.compile(r"^\d+ latents are on in A only, \d+ in B only, \d+ in both$")
    )
    plot.click(position={"x": 40, "y": 12 + 24})
    expect(card).to_be_visible()
    expect(picked).to_contain_text(re.compile(r"at column \d+,"))
    start = int(re.search(r"at column (\d+),", picked.inner_text())[1]) - 1
    latent = re.match(r"Latent (\d+)", picked.inner_text())[1]
    expect(card.locator(".sk-title")).to_contain_text(f"Latent {latent}")
    at.focus()
    for key, token in (("ArrowRight", 2), ("ArrowLeft", 1), ("Home", 0), ("ArrowLeft", 0)):
        scope.page.keyboard.press(key)
        expect(picked).to_contain_text(f"at column {start + token},")
        expect(at).to_be_focused()
    scope.page.keyboard.press("ArrowDown")
    expect(picked).not_to_contain_text(f"Latent {latent} ")
    scope.page.keyboard.press("End")
    expect(at).to_be_in_viewport()
    scope.get_by_role("button", name="Close the card").click()
    expect(card).to_have_count(0)
    at.focus()
    scope.page.keyboard.press("Enter")
    expect(card).to_be_visible()
    scope.get_by_role("button", name="Close the card").click()
    expect(card).to_have_count(0)


def test_the_two_texts_are_shown_in_turn_typed_and_swapped(widget):
    scope = widget("microscope")
    a, b = scope.get_by_label("Text A"), scope.get_by_label("Text B")
    before, title = (a.input_value(), b.input_value()), scope.locator(".sk-title")
    difference = title.inner_text()
    scope.locator(".sk-seg label").nth(0).click()
    expect(title).to_contain_text("has the largest sum")
    expect(scope.locator(".pm-heat text", has_text="▲")).to_have_count(0)
    scope.page.keyboard.press("ArrowRight")
    expect(scope.locator("input[value=b]")).to_be_checked()
    scope.page.keyboard.press("ArrowRight")
    expect(title).to_have_text(difference)
    scope.locator(".pm-at").focus()
    scope.page.keyboard.press("x")
    expect(a).to_have_value(before[1])
    expect(b).to_have_value(before[0])
    scope.page.keyboard.press("x")
    expect(a).to_have_value(before[0])
    top = scope.get_by_label("Latents shown")
    top.press("End")
    expect(scope.locator(".pm-heat > svg").first.locator("text.v")).to_have_count(30)
    for _ in range(22):
        top.press("ArrowLeft")
    expect(scope.locator(".pm-heat > svg").first.locator("text.v")).to_have_count(8)
    b.fill("")
    expect(scope.get_by_role("alert")).to_contain_text("The text is empty")
    b.fill("x" * 3000)
    scope.get_by_role("button", name=re.compile("Use the last")).click()
    expect(scope.get_by_role("alert")).to_have_count(0)
    scope.get_by_role("button", name="Remove text B").click()
    expect(b).to_have_count(0)
    scope.get_by_role("button", name="Compare with a second text").click()
    expect(scope.locator(".sk-empty")).to_contain_text("The two texts give the same activations")
    b.fill(before[1])
    expect(title).to_have_text(difference)


def test_a_microscope_without_an_index_opens_nothing(widget):
    scope = widget("alone microscope")
    scope.locator(".pm-at").press("ArrowRight")
    scope.page.keyboard.press("Enter")
    expect(scope.locator('[data-scope="card"]')).to_have_count(0)
    expect(scope.locator(".pm-low h4").first).to_contain_text("Latent")


# -- the game


def test_a_game_is_played_by_mouse_and_keys(widget):
    game = widget("game")
    passages, head = game.locator("button.jg-p"), game.locator(".jg h4").first
    expect(head).to_have_text(re.compile(r"^Question 1 of \d+$"))
    n = int(head.inner_text().split()[-1])
    answer = game.get_by_role("button", name=re.compile("^Answer"))
    expect(answer).to_have_text("Answer: none fits")
    passages.first.click()
    expect(passages.first).to_have_attribute("aria-pressed", "true")
    expect(answer).to_have_text("Answer")
    expect(passages.first).to_be_focused()
    game.page.keyboard.press("2")
    expect(passages.nth(1)).to_have_attribute("aria-pressed", "true")
    game.page.keyboard.press("Tab")
    game.page.keyboard.press("Enter")
    expect(passages.nth(1)).to_have_attribute("aria-pressed", "false")
    answer.click()
    for i in range(n):
        expect(game.locator(".jg-p .sk-tag")).to_have_count(4)
        expect(game.locator(".jg-side h4")).to_have_text(f"Scores after {i + 1} of {n}")
        scores = game.locator(".jg-side tbody tr")
        expect(scores).to_have_count(4)
        expect(scores.nth(3)).to_contain_text("no answer from http://127.0.0.1:9 within 5 s")
        game.get_by_role("button", name=re.compile("^(Next question|See the result)")).press("Enter")
        if i + 1 < n:
            expect(head).to_have_text(f"Question {i + 2} of {n}")
            answer.press("Enter")
    expect(game.locator(".sk-note")).to_contain_text("chance is 0.50")
    game.get_by_role("button", name="Other passages").click()
    expect(head).to_have_text(f"Question 1 of {n}")
    game.get_by_text("Find the intruder").click()
    expect(game.locator(".sk-title")).to_have_text("No description this time")
    expect(answer).to_be_disabled()
    passages.nth(3).click()
    expect(answer).to_be_enabled()
    game.page.keyboard.press("1")
    expect(game.locator("button.jg-p[aria-pressed=true]")).to_have_count(1)
    answer.click()
    expect(game.locator(".jg .sk-note")).to_contain_text(re.compile("Right|It was passage"))
    game.get_by_text("Where is it on?").click()
    expect(head).to_have_text(f"Question 1 of {n}")


# -- all latents


def rows(browser: Locator, column: int) -> list[str]:
    return browser.locator(f".fb tbody tr > :nth-child({column})").all_inner_texts()


def test_search_and_filters(widget):
    browser = widget("browser")
    found, title = browser.locator(".sk-pager .sk-cap"), browser.locator(".sk-title")
    every = title.inner_text()
    search, label = browser.get_by_role("searchbox"), browser.get_by_role("combobox")
    label.select_option("comment")
    expect(title).not_to_have_text(every)
    assert {text.strip() for text in rows(browser, 3)} == {"comment"}
    expect(label).to_have_value("comment")
    label.select_option("")
    expect(title).to_have_text(every)
    search.press_sequentially("12", delay=10)
    expect(browser.locator(".fb tbody th", has_text=re.compile(r"^12$"))).to_be_visible()
    expect(search).to_be_focused()
    search.fill("no such thing <b>")
    expect(browser.locator(".sk-empty")).to_contain_text("No latent matches these filters")
    expect(browser.locator(".sk-empty")).to_contain_text("no such thing <b>")
    browser.get_by_role("button", name="Clear filters").click()
    expect(title).to_have_text(every)
    expect(search).to_have_value("")
    browser.get_by_text("Hide token-identity labels").click()
    expect(title).not_to_have_text(every)
    assert not any("keyword" in text for text in rows(browser, 3))
    browser.get_by_text("Hide token-identity labels").click()
    expect(title).to_have_text(every)
    expect(found).to_contain_text("1 to 14 of")


def test_the_range_of_density(widget):
    browser = widget("browser")
    low, high = browser.locator('[data-act="low"]'), browser.locator('[data-act="high"]')
    title, ends = browser.locator(".sk-title"), browser.locator("legend b")
    every = title.inner_text()
    low.focus()
    for _ in range(40):  # tenths of a decade, faster than the answers come
        low.press("ArrowRight")
    expect(ends).to_have_text(re.compile(r"^10\.0.% to 100.%$"))
    expect(low).to_have_value("-1")
    assert min(numbers(rows(browser, 7))) >= 10
    low.press("Home")
    expect(title).to_have_text(every)
    high.focus()
    for _ in range(20):
        high.press("ArrowLeft")
    expect(ends).to_have_text(re.compile(r"to 1\.0.%$"))
    expect(high).to_have_value("-2")
    assert max(numbers(rows(browser, 7))) <= 1
    high.press("End")
    expect(title).to_have_text(every)


def test_the_table_is_sorted_and_turned(widget):
    browser = widget("browser")
    pager = browser.locator(".sk-pager .sk-cap")
    for name, column in (("Density", 7), ("Max", 8), ("Latent", 2), ("F1", 5)):
        head = browser.locator("th .sk-sort", has_text=name)
        head.click()
        expect(head).to_contain_text(re.compile("[↓↑]"))
        falls = "↓" in head.inner_text()
        shown = numbers(rows(browser, column))
        assert shown == sorted(shown, reverse=falls)
        head.press("Enter")
        expect(head).to_contain_text("↑" if falls else "↓")
        shown = numbers(rows(browser, column))
        assert shown == sorted(shown, reverse=not falls)
        head.press("Enter")
        expect(head).to_contain_text("↓" if falls else "↑")
    expect(browser.get_by_role("button", name="Previous")).to_be_disabled()
    browser.get_by_role("button", name="Next").click()
    expect(pager).to_contain_text("15 to 28 of")
    expect(browser.locator('.fb tbody tr[tabindex="0"]')).to_have_count(1)  # keys still lead into the table
    browser.get_by_role("button", name="Previous").click()
    expect(pager).to_contain_text("1 to 14 of")


def test_a_latent_is_chosen_in_the_table_and_in_the_scatter(widget):
    browser = widget("browser")
    lines, picked, ring = (
        browser.locator(".fb tbody tr"),
        browser.locator(".fb-pick b"),
        browser.locator(".fb svg circle"),
    )
    numbers = browser.locator(".fb tbody th").all_inner_texts()
    lines.nth(5).click()
    expect(picked).to_have_text(numbers[5])
    place = ring.bounding_box()
    for key, at in (("ArrowDown", 6), ("ArrowDown", 7), ("ArrowUp", 6)):
        browser.page.keyboard.press(key)
        expect(picked).to_have_text(numbers[at])
        expect(lines.nth(at)).to_be_focused()
    browser.page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    expect(picked).not_to_have_text(numbers[6])
    assert all(abs(ring.bounding_box()[side] - place[side]) < 3 for side in ("x", "y"))  # that one, or one as close


def test_a_card_opens_below(widget):
    browser = widget("browser")
    lines, picked, card = (
        browser.locator(".fb tbody tr"),
        browser.locator(".fb-pick b"),
        browser.locator('[data-scope="card"]'),
    )
    numbers = browser.locator(".fb tbody th").all_inner_texts()
    lines.nth(1).focus()
    browser.page.keyboard.press("Enter")
    expect(card.locator(".sk-title")).to_contain_text(f"Latent {numbers[1]}")
    lines.nth(2).click()
    expect(card.locator(".sk-title")).to_contain_text(f"Latent {numbers[2]}")
    card.get_by_role("tab", name="Labels").click()
    expect(card.locator(".fc-panel table")).to_be_visible()
    card.get_by_role("button", name="Next latent").click()
    expect(picked).to_have_text(str(int(numbers[2]) + 1))
    with browser.page.expect_download() as saved:
        card.get_by_role("button", name="Save as a file").click()
    assert saved.value.suggested_filename == f"latent-{picked.inner_text()}.html"
    with browser.page.expect_download() as saved:
        browser.get_by_role("button", name="Save as a file").first.click()
    assert saved.value.suggested_filename == "features.html"
    browser.get_by_role("button", name="Close card").click()
    expect(card).to_have_count(0)


# -- the others


def test_steering(widget):
    steer = widget("steer")
    title, slider, bars = steer.locator(".sk-title"), steer.get_by_role("slider"), steer.locator(".sl-bars i")
    expect(title).to_contain_text("Without steering the next token is")
    before = [bar.get_attribute("style") for bar in bars.all()]
    slider.focus()
    for _ in range(8):
        slider.press("ArrowRight")
    expect(steer.locator("output")).to_have_text("+4.0")
    expect(title).to_contain_text("At +4.0 times its maximum the next token")
    expect(slider).to_have_value("4")
    expect(slider).to_be_focused()
    assert [bar.get_attribute("style") for bar in bars.all()] != before
    slider.press("Home")
    expect(title).to_contain_text("At \u22124.0 times its maximum")
    size, n = steer.locator("label span"), steer.locator("label span").inner_text()
    steer.locator("textarea").fill("import os\nimport ")
    expect(size).not_to_have_text(n)
    steer.locator("textarea").fill("")
    expect(steer.get_by_role("alert")).to_contain_text("The text is empty")
    steer.locator("textarea").fill("import ")
    expect(steer.get_by_role("alert")).to_have_count(0)


def test_a_question_is_answered(widget):
    quiz = widget("quiz")
    check, says = quiz.get_by_role("button", name="Check"), quiz.locator(".sk-note")
    expect(check).to_be_disabled()
    quiz.get_by_label("a property of the data").check()
    check.click()
    expect(says).to_contain_text("Not this one.")
    expect(quiz.get_by_role("radio").first).to_be_disabled()
    quiz.get_by_role("button", name="Try again").click()
    expect(says).to_have_count(0)
    expect(quiz.locator(":checked")).to_have_count(0)
    quiz.get_by_label("a unit of the SAE").check()
    for _ in range(5):  # faster than the answers come
        quiz.page.keyboard.press("ArrowDown")
        quiz.page.keyboard.press("ArrowUp")
    expect(quiz.get_by_label("a unit of the SAE")).to_be_checked()
    check.click()
    expect(says).to_contain_text("Right.")
    expect(says).to_contain_text("It is a unit.")


def test_a_guess_is_committed_and_not_judged(widget):
    quiz = widget("prediction")
    quiz.get_by_text("yes").click()
    quiz.get_by_role("button", name="Commit this guess").click()
    expect(quiz.locator(".sk-note")).to_contain_text("Your guess is kept.")
    expect(quiz.get_by_role("button")).to_have_count(0)


def test_facts_stand_in_one_line(widget):
    status = widget("status")
    expect(status.locator("dt")).to_have_text(["model", "coder", "memory"])
    expect(status.locator("dd")).to_have_text(["tiny-python", "batch_topk", "! 1.9 GB"])
    assert len({round(fact.bounding_box()["y"]) for fact in status.locator("dt, dd").all()}) == 1


# -- what all have in common


@pytest.mark.parametrize("name", [name for name in page.WIDGETS if name.startswith("hostile")])
def test_text_from_data_stays_text(widget, name: str):
    shown = widget(name)
    assert shown.page.evaluate("window.hacked") is None
    expect(shown.locator("script, img, iframe, style, link")).to_have_count(0)
    if name not in ("hostile browser", "hostile steer"):  # one shows single tokens, the other's text is in an input
        expect(shown).to_contain_text("hacked")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f\x00\x1b]", shown.inner_text())
    assert shown.evaluate(page.WIDER) == []


def test_hostile_words_that_are_typed(widget):
    browser, card, strip = widget("hostile browser"), widget("hostile card"), widget("hostile strip")
    browser.get_by_role("searchbox").fill(page.HOSTILE[1])
    expect(browser.locator(".sk-empty")).to_contain_text(page.HOSTILE[1])
    assert browser.evaluate(page.WIDER) == []
    browser.get_by_role("button", name="Clear filters").click()
    card.get_by_role("tab").last.click()
    expect(card.locator(".fc-panel .sk-code")).to_contain_text(page.HOSTILE[0] + page.HOSTILE[1])
    assert card.locator("textarea").input_value() == page.HOSTILE[0] + page.HOSTILE[1]
    card.locator("textarea").fill(page.HOSTILE[2])
    expect(card.locator(".fc-panel .sk-code")).to_contain_text(page.HOSTILE[2])
    strip.locator("summary").click()
    strip.locator("textarea").fill(page.HOSTILE[4])
    expect(strip.get_by_role("alert")).to_contain_text("tokens long")
    strip.locator("textarea").fill(page.HOSTILE[3])
    expect(strip.get_by_role("alert")).to_have_count(0)
    for shown in (card, strip):
        assert shown.evaluate(page.WIDER) == []
    assert browser.page.evaluate("window.hacked") is None
    expect(browser.page.locator(".sk-root :is(script, img)")).to_have_count(0)


def test_one_tab_stop_for_all_that_belongs_together(widget, notebook: lab.Notebook):
    names = (
        "strip",
        "guess",
        "card",
        "browser",
        "hostile browser",
        "attention",
        "heads",
        "patching",
        "hooks",
        "circuit",
    )
    for name in names:
        groups = widget(name).locator("[data-roving]")
        stops = [group.locator('[tabindex="0"]').count() for group in groups.all() if group.is_visible()]
        assert stops == [1] * len(stops)
        assert stops
    strip, stops = widget("strip"), []
    focused = strip.locator(".ts-code button:focus")
    strip.locator('input[type="number"]').focus()
    while "Change the text" not in stops:
        notebook.page.keyboard.press("Tab")
        stops.append(notebook.page.evaluate("document.activeElement.textContent"))
        if focused.count():
            ring = focused.evaluate(
                "node => [getComputedStyle(node).outlineStyle, getComputedStyle(node).outlineWidth]"
            )
            assert ring == ["solid", "2px"]
            stops[-1] = "a token"
    assert stops.count("a token") == 1


def test_keys_are_not_commands_of_the_notebook(widget, notebook: lab.Notebook):
    strip = widget("strip")
    cells = notebook.page.locator(".jp-Notebook .jp-Cell").count()
    strip.locator(".ts-code button").first.click()
    for key in ("d", "d", "a", "b", "x", "m", "Shift+M"):
        notebook.page.keyboard.press(key)
    notebook.page.keyboard.press("End")
    expect(strip.locator(".ts-code button").last).to_be_focused()
    assert notebook.page.locator(".jp-Notebook .jp-Cell").count() == cells == len(page.WIDGETS)
    expect(strip).to_be_visible()


# The computed styles that are ours to say; tr has none that can be seen, and Lab leaves a space below an output.
STYLES = """root => [...root.querySelectorAll('.sk *')].filter(node => node.nodeName !== 'TR').map(node => {
    const style = getComputedStyle(node);
    const ours = `display float marginTop marginBottom paddingTop paddingLeft borderTopLeftRadius fontWeight
        borderBottomWidth fontSize lineHeight textAlign listStyleType overflowX whiteSpace tableLayout wordBreak`;
    const said = ours.split(/\\s+/).map(property => property + ': ' + style[property]).join('; ');
    return node.nodeName + '.' + (node.getAttribute('class') ?? '') + ' ' + said;
})"""


@pytest.mark.parametrize("name", ["status", "strip", "card", "browser", "steer", "quiz", "circuit", "plain"])
def test_labs_own_styles_do_not_reach_in(browser: Browser, widget, notebook: lab.Notebook, name: str):
    shown = notebook.cell(list(page.WIDGETS).index(name)).locator(".jp-OutputArea-output:has(.sk)").last
    width = round(shown.locator(".sk").first.bounding_box()["width"])
    alone = browser.new_page(viewport={"width": width + (name != "plain") * 4, "height": 900})  # .sk-root is 2 px wider
    alone.set_content(page.document(shown.inner_html()))
    assert shown.evaluate(STYLES) == alone.locator("body").evaluate(STYLES)
    alone.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_can_be_read(widget, notebook: lab.Notebook, theme: str):
    notebook.theme(theme)
    grounds, faint, small = notebook.page.evaluate(LEGIBLE)
    assert grounds == ["255 255 255" if theme == "light" else "17 17 17"]
    assert faint == []
    assert small == []
    notebook.theme("light")


# The colours of the frames, text below a contrast of 4.5 to what is behind it, and text below 11 pixels.
LEGIBLE = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const rgb = colour => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const over = ([r, g, b, a], behind) => [r, g, b].map((c, i) => Math.round((c * a + behind[i] * (255 - a)) / 255));
    const ground = node => {
        const colour = rgb(getComputedStyle(node).backgroundColor);
        return over(colour, colour[3] < 255 && node.parentElement ? ground(node.parentElement) : [255, 255, 255]);
    };
    const light = colour => {
        const [r, g, b] = colour.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const under = (drawn, node, x, y) => [...(drawn?.querySelectorAll('rect') ?? [])].filter(rect => {
        const box = rect.getBoundingClientRect(), before = rect.compareDocumentPosition(node) & 4;
        const inside = box.left < x && x < box.right && box.top < y && y < box.bottom;
        return before && inside && getComputedStyle(rect).fill.startsWith('rgb') && rgb(getComputedStyle(rect).fill)[3];
    }).pop();
    const faint = [], small = [];
    for (const node of document.querySelectorAll('.sk *')) {
        const words = [...node.childNodes].filter(c => c.nodeType === 3 && c.nodeValue.trim());
        const box = node.getBoundingClientRect();
        if (!words.length || box.width <= 1 || node.disabled || /^(STYLE|TITLE|OPTION)$/i.test(node.nodeName)) continue;
        const style = getComputedStyle(node), drawn = node.ownerSVGElement;
        const middle = [box.left + box.width / 2, box.top + box.height / 2];
        const cell = node.closest('.pm-t')?.querySelector('path') ?? under(drawn, node, ...middle); // of a heatmap
        const below = ground(drawn ?? node), behind = cell ? over(rgb(getComputedStyle(cell).fill), below) : below;
        const ink = over(rgb(drawn ? style.fill : style.color), behind);
        const scale = drawn ? drawn.getBoundingClientRect().width / drawn.viewBox.baseVal.width : 1;
        const size = scale * parseFloat(style.fontSize);
        const what = node.nodeName + '.' + node.getAttribute('class') + ' ' + words[0].nodeValue.trim().slice(0, 30);
        if (contrast(ink, behind) < 4.5) faint.push([what, ink, behind]);
        if (size < 10.9) small.push([what, size]);
    }
    const frames = new Set([...document.querySelectorAll('.sk')].map(node => ground(node).join(' ')));
    return [[...frames], faint, small];
}"""


def test_controls_are_large_enough_to_hit(widget):
    small = []
    names = (
        "strip",
        "card",
        "browser",
        "steer",
        "quiz",
        "geometry",
        "microscope",
        "game",
        "attention",
        "heads",
        "circuit",
    )
    for name in names:
        shown = widget(name).locator(":is(.sk-btn, .sk-sort, [role=tab], select, input, .qz label, .sk-check):visible")
        boxes = [(control.bounding_box(), control) for control in shown.all()]
        small += [
            c.evaluate("c => c.outerHTML") for box, c in boxes if box["height"] < 22 and not c.get_attribute("type")
        ]
    assert small == []


SCROLLED = """root => [...root.querySelectorAll('.sk-scroll, .ts-code')]
    .filter(box => box.scrollWidth > box.clientWidth).map(box => box.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("width", [1000, 720])
def test_nothing_is_cut_or_wider_than_its_frame(widget, notebook: lab.Notebook, width: int):
    notebook.page.set_viewport_size({"width": width, "height": 900})
    for name in ("status", "strip", "guess", "card", "browser", "steer", "quiz", "prediction", "geometry"):
        assert widget(name).evaluate(page.WIDER) == []
        assert widget(name).evaluate(SCROLLED) == []
    card = widget("card")
    for name in ("microscope", "alone microscope", "game", "attention", "heads", "patching", "hooks", "circuit"):
        assert widget(name).evaluate(page.WIDER) == []
    for i in range(6):
        card.get_by_role("tab").nth(i).click()
        expect(card.get_by_role("tab").nth(i)).to_have_attribute("aria-selected", "true")
        assert card.evaluate(page.WIDER) == []
        assert card.evaluate(SCROLLED) == []
        if shots := os.environ.get("SAEKIT_SHOTS"):
            card.screenshot(path=Path(shots) / f"card{i}.{width}.png")
    if shots:
        notebook.photograph(Path(shots), f"widgets.{width}", width)
    notebook.page.set_viewport_size({"width": 1000, "height": 900})


@pytest.mark.parametrize(
    "name", ["card", "browser", "strip", "microscope", "attention", "patching", "heads", "circuit"]
)
def test_a_file_needs_no_network(browser: Browser, widget, home: Path, name: str):
    path = home / "notebooks" / f"{name}.html"
    assert path.stat().st_size < 300_000
    assert "http" not in path.read_text("utf-8")
    asked: list[str] = []
    context = browser.new_context(offline=True)
    shown = context.new_page()
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(path.as_uri())
    assert asked == [path.as_uri()]
    box = shown.locator(".sk").first.bounding_box()
    assert min(box["width"], box["height"]) > 300
    assert shown.locator(".sk-tok, .fb tbody tr, .pm-heat text, .nd").count() > 10
    expect(shown.locator(":is(.sk-bar, .sk-act, .live, .sk-head .sk-btn):visible")).to_have_count(0)
    assert all(text.strip() for text in shown.locator("tbody th").all_inner_texts())
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert shown.locator("body").evaluate(page.WIDER) == []
    context.close()


def test_a_geometry_follows_its_sliders(widget):
    geometry = widget("geometry")
    title, features = geometry.locator(".sk-title"), geometry.locator('[data-act="n_features"]')
    expect(title).to_have_text("All 5 features are kept, as a pentagon")
    features.press("Home")
    features.press("ArrowRight")
    expect(geometry.locator("output").first).to_have_text("3")
    expect(geometry.locator(".tg figure").first.locator("text")).to_have_count(3)
    expect(title).to_have_text(re.compile("of 3 features|All 3 features"))
    expect(features).to_be_focused()
    geometry.get_by_label("SAE on Wx").check()
    expect(geometry.locator(".sk-sub")).to_contain_text("kept directions found")
    geometry.get_by_role("button", name="Start over").click()
    expect(geometry.locator(".sk-foot")).to_contain_text("seed 1")
    expect(geometry.get_by_label("SAE on Wx")).to_be_checked()


# -- a circuit


def ids(nodes: Locator) -> list[str]:
    return [node.get_attribute("data-id") for node in nodes.all()]


def test_a_node_under_the_pointer_shows_its_edges(widget):
    circuit = widget("circuit")
    near, target = circuit.locator(".cv-web path.e.is-near"), circuit.locator(".nd.logit.is-on")
    at_rest = near.count()
    assert at_rest == circuit.locator(f'path.e[data-of~="{target.get_attribute("data-id")}"]').count() > 0
    picture = circuit.locator(".cv-web").inner_html()
    for node in circuit.locator(".nd.latent").all()[:4]:
        node.locator(".body").hover()
        own = circuit.locator(f'path.e[data-of~="{node.get_attribute("data-id")}"]').count()
        expect(near).to_have_count(own)
        expect(node).to_have_class(re.compile("is-near"))
    circuit.locator(".sk-title").hover()
    expect(near).to_have_count(at_rest)
    assert circuit.locator(".cv-web").inner_html() == picture  # nothing was asked of the kernel


def test_a_node_is_pinned_by_mouse_and_reached_by_keys(widget):
    circuit = widget("circuit")
    side, focused = circuit.locator(".cv-side"), circuit.locator(".nd:focus")
    target = circuit.locator(".nd.logit.is-on")
    target.locator(".body").click()
    up, down, *_ = target.get_attribute("data-to").split()
    assert up == "-"
    circuit.page.keyboard.press("ArrowDown")
    expect(focused).to_have_attribute("data-id", down)
    expect(circuit.locator(".cv-web path.e.is-near")).to_have_count(
        circuit.locator(f'path.e[data-of~="{down}"]').count()
    )
    latent = next(n for n in circuit.locator(".nd.latent").all() if n.get_attribute("data-to").split()[0] != "-")
    up = latent.get_attribute("data-to").split()[0]
    latent.locator(".body").click()
    expect(latent).to_have_class(re.compile("is-on"))
    circuit.page.keyboard.press("ArrowUp")
    circuit.page.keyboard.press("Enter")
    node = circuit.locator(f'.nd[data-id="{up}"]')
    expect(node).to_have_class(re.compile("is-on"))
    expect(node).to_be_focused()
    expect(side.locator(".wf .sk-num.tot")).to_have_text("100.0")
    assert circuit.locator('.cv-web [tabindex="0"]').count() == 1
    parts = numbers(side.locator(".wf .sk-num:not(.tot)").all_inner_texts())
    assert sum(parts) == pytest.approx(100, abs=0.06 * len(parts))
    for key, way in (("ArrowLeft", 2), ("ArrowRight", 3)):
        ways = focused.get_attribute("data-to").split()
        if ways[way] != "-":
            circuit.page.keyboard.press(key)
            expect(focused).to_have_attribute("data-id", ways[way])
    circuit.page.keyboard.press("Escape")
    expect(circuit.locator(".nd.logit.is-on")).to_have_count(1)


def test_sliders_prune_and_undo_brings_back(widget):
    circuit = widget("circuit")
    title, nodes = circuit.locator(".sk-title"), circuit.locator(".nd.latent")
    before, many = title.inner_text(), nodes.count()
    slider, undo = circuit.locator('[data-act="node"]'), circuit.get_by_role("button", name="Undo")
    value = slider.input_value()
    for _ in range(12):
        slider.press("ArrowLeft")
    expect(title).not_to_have_text(before)
    expect(slider).to_have_value(str(int(value) - 12))
    circuit.page.wait_for_function(
        "([n, many]) => n.querySelectorAll('.nd.latent').length < many", arg=[circuit.element_handle(), many]
    )
    slider.press("Home")
    circuit.locator('[data-act="edge"]').press("Home")
    expect(circuit.locator(".sk-empty")).to_contain_text("No path from the input to the logits is left")
    circuit.get_by_role("button", name="Back to 80 % of both").click()
    expect(circuit.locator(".cv-web")).to_be_visible()
    for _ in range(3):  # the way back, one slider, the other
        undo.click()
    expect(undo).to_be_disabled()
    expect(title).to_have_text(before)
    expect(slider).to_have_value(value)
    assert nodes.count() == many


def test_latents_are_grouped_changed_and_taken_apart(widget):
    circuit = widget("circuit")
    latents, side = circuit.locator(".nd.latent"), circuit.locator(".cv-side")
    first, second = ids(latents)[:2]
    for i in (first, second):
        circuit.locator(f'.nd[data-id="{i}"] .body').click(modifiers=["Shift"])
        expect(circuit.locator(f'.nd[data-id="{i}"]')).to_have_class(re.compile("is-picked"))
    circuit.page.keyboard.press("g")
    group = circuit.locator(".nd.group")
    expect(group).to_have_class(re.compile("is-on"))
    expect(group.locator("text").first).to_have_text("2")
    expect(circuit.locator(f'.nd[data-id="{first}"]')).to_have_count(0)
    side.get_by_label("Name of the group").fill("two of them")
    expect(group.locator("text.in")).to_have_text("two of them")
    expect(side.get_by_label("Name of the group")).to_be_focused()
    read = circuit.locator(".cv-ro")
    side.get_by_role("button", name="× 0").click()
    expect(read).to_contain_text("With “two of them” × 0: before → after")
    expect(read).to_contain_text("run by the model")
    expect(group.locator("text.by")).to_have_text("×0")
    read.get_by_role("button", name="Change nothing").click()
    expect(group.locator("text.by")).to_have_count(0)
    group.locator(".body").click()
    circuit.page.keyboard.press("u")
    expect(group).to_have_count(0)
    node = circuit.locator(f'.nd[data-id="{first}"]')
    expect(node).to_be_visible()
    node.locator(".body").click()
    circuit.page.keyboard.press("Delete")
    expect(node).to_have_count(0)
    assert circuit.locator(".nd:focus").count() == 1
    circuit.page.keyboard.press("z")
    expect(node).to_have_count(1)


def test_the_kept_latents_are_run_alone(widget):
    read = widget("circuit").locator(".cv-ro")
    read.get_by_role("button", name="Run the model").click()
    expect(read).to_contain_text("run by the model, errors kept")


# -- training


@pytest.fixture(scope="module")
def training(browser: Browser, address: str) -> Iterator[lab.Notebook]:
    notebook = lab.Notebook(browser, address, "training.ipynb")
    notebook.page.set_default_timeout(GENEROUS)
    notebook.command("notebook:run-all-cells")
    yield notebook
    notebook.close()


def steps(monitor: Locator) -> int:
    return int(numbers([monitor.locator(".tm-run b").first.inner_text()])[0])


def test_a_run_is_paused_and_stopped_in_the_middle_of_run_all(training: lab.Notebook):
    monitor, after = training.cell(1).locator(".sk-root"), training.cell(2).locator(".jp-OutputArea-output")
    pause, resume = (monitor.get_by_role("button", name=name) for name in ("Pause", "Resume"))
    expect(monitor.locator(".tm figure")).to_have_count(6)
    pause.click()
    expect(monitor.locator(".sk-title")).to_contain_text("Paused at step")
    at = steps(monitor)
    training.page.wait_for_timeout(1_000)
    assert steps(monitor) == at
    resume.click()
    expect(pause).to_be_enabled()
    training.page.wait_for_function(
        "([node, at]) => Number(node.querySelector('.tm-run b').textContent.replace(/\\D/g, '')) > at",
        arg=[monitor.element_handle(), at],
    )
    expect(after).to_have_count(0)
    training.page.evaluate("document.addEventListener('click', () => { window.clicked ??= Date.now() / 1000 }, true)")
    monitor.get_by_role("button", name="Stop and keep").click()
    expect(after).to_contain_text("stopped True training False site blocks.2.hook_resid_post fvu True")
    ended = float(re.search(r"ended (\d+\.\d+)", training.cell(1).locator(".jp-OutputArea").inner_text())[1])
    assert 0 < ended - training.page.evaluate("window.clicked") < 2
    expect(monitor.locator(".sk-note.good")).to_contain_text("Stopped at step")
    expect(monitor.get_by_role("button")).to_have_count(0)
    assert training.errors() == training.console == training.outside == []


def test_a_monitor_alone_starts_and_stops(training: lab.Notebook):
    monitor = training.cell(3).locator(".sk-root")
    latents = monitor.locator('[data-act="d_sae"]')
    latents.press("Home")
    expect(monitor.locator("output").nth(2)).to_have_text("256")
    steps = monitor.locator('[data-act="steps"]')
    steps.press("End")
    expect(monitor.locator("output").nth(4)).to_have_text("960")
    monitor.get_by_role("button", name="Start").click()
    expect(monitor.locator(".tm figure")).to_have_count(6)
    expect(monitor.locator(".sk-sub")).to_contain_text("256 → 256 latents")
    monitor.get_by_role("button", name="Stop and keep").click()
    expect(monitor.locator(".sk-note.good")).to_contain_text("Stopped at step")
    expect(monitor.get_by_role("button", name="Start again")).to_be_enabled()
    if shots := os.environ.get("SAEKIT_SHOTS"):
        training.photograph(Path(shots), "training")
    assert training.errors() == training.console == training.outside == []
