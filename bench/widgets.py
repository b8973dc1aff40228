"""Widgets: kernel time from an event of the page to the HTML that answers it, the worst of many beside the median.

Bars: a card from an open index under 60 ms (also its Output tab, which runs the model), a text typed in Try it under
250 ms, filtering and sorting 16,384 latents under 100 ms, pruning a circuit under 50 ms.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np
import torch

import saekit as sk
from bench.measure import report
from saekit import widgets
from saekit.viz.card import TABS

CODER = "tiny-python/resid.2/batch_topk"
CALLS = 40
WIDE = 16_384
TEXT = 'def double(x):\n    """Return twice the value."""\n    return {} * x\n'
PROMPT = "def __init__(self, width, height):\n    self.width = width\n    self.height ="
Way = tuple[Callable[[], object], Callable[[], object], float | None]  # what is done before, the event, its bar in ms


def nothing() -> None:
    pass


def cards(features: sk.Features, numbers: Iterator[int]) -> dict[str, Way]:
    card = widgets.FeatureCard(features, 0)
    alive = features.table.index[features.table.density > 0].to_numpy()
    latents = itertools.cycle(np.random.default_rng(0).permutation(alive).tolist())

    def at(**state: str) -> Callable[[], None]:
        return lambda: card.set_state(**state)

    ways: dict[str, Way] = {
        f"FeatureCard, another latent, {title}": (
            at(tab=tab), lambda: card.act("latent", next(latents)), 60.0
        )
        for tab, title in TABS.items() if tab != "try"
    }  # fmt: skip
    for mode in ("rank", "weighted"):
        ways[f"FeatureCard, another latent, examples {mode}"] = (
            at(tab="examples", mode=mode), lambda: card.act("latent", next(latents)), 60.0,
        )  # fmt: skip
    ways["FeatureCard, text typed in Try it"] = (
        at(tab="try"), lambda: card.act("text", TEXT.format(next(numbers))), 250.0,
    )  # fmt: skip
    ways["FeatureCard, a rule"] = (
        nothing, lambda: (card.act("latent", next(latents)), card.act("rule", "")), None,
    )  # fmt: skip
    ways["FeatureCard, a note"] = (nothing, lambda: card.act("note 3", str(next(numbers))), 60.0)
    return ways


def browsers(features: sk.Features, numbers: Iterator[int], size: str) -> dict[str, Way]:
    browser = widgets.FeatureBrowser(features)
    alive = itertools.cycle(features.table.index[features.table.density > 0].tolist())
    sorts, lows = itertools.cycle(["density", "max", "f1", "label", "latent"]), itertools.cycle([-4.0, -3.5, -3.0])
    return {
        f"FeatureBrowser{size}, selection": (nothing, lambda: browser.act("latent", next(alive)), 100.0),
        f"FeatureBrowser{size}, sort": (nothing, lambda: browser.act("sort", next(sorts)), 100.0),
        f"FeatureBrowser{size}, density": (nothing, lambda: browser.act("low", next(lows)), 100.0),
        f"FeatureBrowser{size}, search": (
            lambda: browser.act("clear", ""), lambda: browser.act("query", "efg"[next(numbers) % 3]), 100.0,
        ),
        f"FeatureBrowser{size}, selection with an open card": (
            lambda: browser.set_state(query="", open=True), lambda: browser.act("latent", next(alive)), None,
        ),
    }  # fmt: skip


def texts(features: sk.Features, numbers: Iterator[int]) -> dict[str, Way]:
    model, coder = features.model, features.coder
    strip = widgets.TokenStrip(model, coder, TEXT.format(1), features=features)
    scope = widgets.PromptMicroscope(model, coder, TEXT.format(1), TEXT.replace('"""', "# "), features=features)
    slider = widgets.SteerSlider(model, coder, 5, TEXT.format(1), maximum=features[5].max)
    return {
        "TokenStrip, cursor": (nothing, lambda: strip.act("cursor", next(numbers) % 20), None),
        "TokenStrip, text typed": (nothing, lambda: strip.act("text", TEXT.format(next(numbers))), None),
        "SteerSlider, strength": (nothing, lambda: slider.act("strength", float(next(numbers) % 16) / 2), None),
        "PromptMicroscope, text typed": (nothing, lambda: scope.act("text", TEXT.format(next(numbers))), 250.0),
        "PromptMicroscope, a key": (nothing, lambda: scope.act("move", "ArrowDown"), None),
        "PromptMicroscope, a cell with its card": (
            nothing, lambda: scope.act("at", [3.0, float(next(numbers) % 8)]), None,
        ),
    }  # fmt: skip


def games(features: sk.Features, numbers: Iterator[int]) -> dict[str, Way]:
    game = widgets.JudgeGame(features)

    def answer() -> None:
        if game.human.question is None:
            game.act("again", "")
        game.act("answer", "")

    return {"JudgeGame, a passage": (nothing, lambda: game.act("mark", next(numbers) % 4), None),
            "JudgeGame, an answer": (nothing, answer, None)}  # fmt: skip


def circuits(model: object) -> dict[str, Way]:
    """A prompt of 25 tokens; the picture has 30 to 60 nodes, or when it is dense 90 to 160 with thousands of edges."""
    graph = sk.trace(model, sk.load("tiny-python/mlp/transcoders"), PROMPT)
    view = widgets.CircuitView(graph, model)
    shares, dense = itertools.cycle((60, 65, 70, 75)), itertools.cycle((82, 86, 90))
    pins = itertools.cycle([node["id"] for node in view.compute()["nodes"]])

    def at(edge: float) -> Callable[[], None]:
        return lambda: view.set_state(edge=edge)

    return {
        "CircuitView, a slider": (at(0.8), lambda: view.act("node", next(shares)), 50.0),
        "CircuitView, a slider, dense": (at(0.98), lambda: view.act("node", next(dense)), 50.0),
        "CircuitView, a node pinned": (at(0.8), lambda: view.act("pin", next(pins)), 50.0),
    }  # fmt: skip


def wide(model: object, corpus: sk.Corpus) -> sk.Features:
    """An index of many latents; what they mean does not matter here."""
    torch.manual_seed(0)
    coder = sk.SparseCoder(model.cfg.d_model, WIDE, sk.TopK(32)).eval().requires_grad_(False)
    coder.site = sk.Site("blocks.2.hook_resid_post")
    return sk.Features.collect(model, coder, corpus, progress=False)


def main() -> None:
    model, coder = sk.load_model(), sk.load(CODER)
    features = sk.Features.collect(model, coder, sk.load_corpus(model, split="held_out", files=20), progress=False)
    many = wide(model, sk.load_corpus(model, split="held_out", files=4))
    numbers = itertools.count(2)
    ways = cards(features, numbers) | browsers(features, numbers, "") | browsers(many, numbers, f" of {WIDE:,}")
    ways |= texts(features, numbers) | games(features, numbers) | circuits(model)
    rows = []
    for name, (prepare, call, bar) in ways.items():
        prepare()
        call()
        milliseconds = []
        for _ in range(CALLS):
            start = time.perf_counter()
            call()
            milliseconds.append(1e3 * (time.perf_counter() - start))
        rows.append({"event": name, "median ms": median(milliseconds), "worst ms": max(milliseconds), "bar ms": bar})
    report("widgets", f"Kernel time of an event, {CALLS} calls each", rows, "median ms")


if __name__ == "__main__":
    main()
