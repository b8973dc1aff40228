"""Widgets of a model whose single tokens are hostile: in a plain page, live and saved. No Lab."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from playwright.sync_api import Browser
from transformers import GPT2Config, GPT2LMHeadModel

import saekit as sk
from saekit import explain, presets, viz, widgets
from tests.browser import lab, page
from tests.transcoders import per_layer

TOKENS = [token for token in page.HOSTILE if "\x00" not in token] + ["\u2028", "{{7*7}}", "\x1b[31m"]
TEXT = " ".join(f"a{token}b" for token in TOKENS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with lab.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One token for each hostile string, and one per byte."""
    folder = tmp_path_factory.mktemp("hostile")
    tokenizer = tiny.tokenizer()
    assert tokenizer.add_tokens(TOKENS) == len(TOKENS)
    torch.manual_seed(0)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes = {"n_positions": tiny.CONTEXT, "n_embd": tiny.WIDTH, "n_layer": 2, "n_head": 4, "vocab_size": len(tokenizer)}
    network = GPT2LMHeadModel(GPT2Config(**ends, **sizes))
    with torch.no_grad():
        network.transformer.wte.weight[-len(TOKENS) :] *= 30  # so that they are first and last in every list of logits
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sk.load_model(folder)


@pytest.fixture(scope="module")
def shown(model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, widgets.FeatureCard]:
    """Each widget, by name, with the hostile tokens in sight."""
    corpus = sk.load_corpus(model, [f"{token}{other}" for token in TOKENS for other in TOKENS])
    acts = sk.Activations(model, sk.Site("blocks.0.hook_resid_post"), corpus)
    coder, objective = presets.batch_topk(acts.d_in, 32, k=6)
    run = sk.train(coder, acts, objective, steps=20, batch_size=64, progress=widgets.TrainMonitor(acts))
    index = sk.Features.collect(model, run.coder, corpus, path=tmp_path_factory.mktemp("index"), progress=False)
    latent = int(index.table.density.idxmax())
    tried = widgets.FeatureCard(index, latent, text=TEXT)
    tried.set_state(tab="try")
    output = widgets.FeatureCard(index, latent)
    output.set_state(tab="output")
    card, browser = widgets.FeatureCard(index, latent), widgets.FeatureBrowser(index)
    card.set_state(mode="top")
    browser.set_state(open=True)
    for hostile, each in zip(TOKENS, [latent, *index.search().index], strict=False):
        index.notes.put(int(each), text=hostile, star=True)
    tabs = {name: widgets.FeatureCard(index, latent) for name in ("labels", "neighbours", "tokens")}
    for name, each in tabs.items():
        each.set_state(tab=name, rule=True)
    scope = widgets.PromptMicroscope(model, run.coder, TEXT, "".join(TOKENS), features=index)
    scope.act("at", [1.0, 1.0])
    game = widgets.JudgeGame(index, explanation=explain.Explanation(TEXT + " `a`"), judges=[_failing])
    game.act("answer", "")
    circuit = widgets.CircuitView(sk.trace(model, per_layer(model), "".join(TOKENS)))
    circuit.set_state(groups=({"name": TEXT, "nodes": _two(circuit)},), pin="g0")
    return {
        "strip": widgets.TokenStrip(model, run.coder, TEXT, latent), "card": card, "tried": tried, "output": output,
        "guess": widgets.TokenStrip(model, run.coder, TEXT, latent, guess=True), "browser": browser,
        "steer": widgets.SteerSlider(model, run.coder, latent, TEXT, maximum=9.0, strength=8.0),
        "microscope": scope, "game": game, "circuit": circuit, **tabs,
        "attention": widgets.AttentionView(model, TEXT, scored=TOKENS[0]),
        "heads": widgets.HeadView(model, run.coder, latent, TEXT, features=index),
        "patching": widgets.PatchingMap([[0.0] * len(TOKENS)], TOKENS, clean=1, corrupt=0, metric=TOKENS[0]),
    }  # fmt: skip


def _failing(prompt: str) -> str:
    raise explain.JudgeError("".join(TOKENS))


def _two(circuit: widgets.CircuitView) -> tuple[int, ...]:
    return tuple(node["id"] for node in circuit.compute()["nodes"] if node["kind"] == "latent")[:2]


NAMES = ("strip", "guess", "steer", "browser", "microscope", "game", "attention", "heads", "patching", "circuit")
NAMES += ("card", "tried", "output", "labels", "neighbours", "tokens")


def is_harmless(browser: Browser, path: Path, width: int) -> None:
    asked: list[str] = []
    context = browser.new_context(offline=True, viewport={"width": width, "height": 900})
    opened = context.new_page()
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(path.as_uri())
    assert asked == [path.as_uri()]
    assert opened.evaluate("window.hacked") is None
    assert opened.locator("body :is(script, img, iframe, b > b, link)").count() == 0
    assert opened.locator("body").evaluate(page.WIDER) == []
    assert opened.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    context.close()


@pytest.mark.parametrize("width", [1000, 720])
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_token_is_shown_as_text(browser, shown, tmp_path: Path, name: str, width: int):
    live, saved = tmp_path / "live.html", tmp_path / "saved.html"
    live.write_text(page.document(f'<div class="sk-root">{shown[name].html}</div>'), "utf-8")
    saved.write_text(shown[name].to_html(), "utf-8")
    for path in (live, saved):
        assert "&lt;scr" in path.read_text("utf-8").split("</style>")[1]  # long ones are cut
        is_harmless(browser, path, width)


def test_a_note_and_a_page_are_harmless_too(browser, tmp_path: Path):
    notes = "".join(viz.note("bad", token, token, token, details=token) for token in TOKENS)
    path = tmp_path / "notes.html"
    path.write_text(viz.page(TOKENS[0] + "</title>", viz.framed(notes, TOKENS[2])), "utf-8")
    is_harmless(browser, path, 720)
