"""The gallery in Chromium, from disk, with the network off: search, order, keys, hostile tokens."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

import saekit as sk
from saekit.viz import gallery
from tests.browser import lab
from tests.test_features import collect, made

HOSTILE = "x = '</script><img src=x onerror=window.hacked=1>'  # <script>window.hacked=1</script> {}\n"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with lab.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def latents(tiny_models, tmp_path_factory) -> tuple[Path, list[int]]:
    corpus = sk.load_corpus(tiny_models["gpt2"], [HOSTILE.format(i) * 2 for i in range(8)])
    features = collect(tiny_models["gpt2"], corpus, made())
    chosen = features.table.index[features.table.density > 0][:6].tolist()
    return gallery.save_gallery(features, tmp_path_factory.mktemp("gallery") / "g.html", chosen), chosen


@pytest.fixture(params=["light", "dark"])
def page(request, browser: Browser, latents) -> Iterator[Page]:
    context = browser.new_context(color_scheme=request.param, offline=True, viewport={"width": 1000, "height": 900})
    page = context.new_page()
    page.asked, page.problems = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.goto(latents[0].as_uri())
    yield page
    assert page.asked == [latents[0].as_uri()] and page.problems == []
    assert page.evaluate("window.hacked") is None
    context.close()


def shown(page: Page) -> list[int]:
    return [int(text) for text in page.locator(".gl-row:not([hidden]) > b").all_inner_texts()]


def card(page: Page) -> str:
    return page.locator("#gl-card h3").inner_text()


def test_search_order_and_keys(page: Page, latents):
    _, chosen = latents
    assert shown(page) == chosen and card(page).startswith(f"Latent {chosen[0]}")
    page.locator(".gl-row").nth(2).click()
    assert card(page).startswith(f"Latent {chosen[2]}")
    page.locator("#gl-list").press("ArrowDown")
    assert card(page).startswith(f"Latent {chosen[3]}")
    page.locator("#gl-list").press("End")
    assert card(page).startswith(f"Latent {chosen[-1]}")
    page.locator("#gl-s").select_option("max")
    assert shown(page) != chosen and sorted(shown(page)) == sorted(chosen)
    page.locator("#gl-q").fill(str(chosen[0]))
    assert chosen[0] in shown(page) and card(page).removeprefix("Latent ").startswith(str(shown(page)[0]))
    page.locator("#gl-q").fill("no such word")
    assert shown(page) == [] and page.locator("#gl-none").is_visible() and not page.locator("#gl-card").is_visible()
    page.locator("#gl-q").fill("")
    assert len(shown(page)) == len(chosen) and page.locator("#gl-card").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
