"""Widgets: kernel time from an event of the page to the HTML that answers it, the worst of many beside the median."""

import itertools
import time
from statistics import median

import numpy as np

import saekit as sk
from bench.measure import report
from saekit import widgets

CODER = "tiny-python/resid.2/batch_topk"
CALLS = 40
TEXT = 'def double(x):\n    """Return twice the value."""\n    return {} * x\n'


def main() -> None:
    model, coder = sk.load_model(), sk.load(CODER)
    features = sk.Features.collect(model, coder, sk.load_corpus(model, split="held_out", files=20), progress=False)
    card, browser = widgets.FeatureCard(features, 0), widgets.FeatureBrowser(features)
    strip = widgets.TokenStrip(model, coder, TEXT.format(1), features=features)
    slider = widgets.SteerSlider(model, coder, 5, TEXT.format(1), maximum=features[5].max)
    latents = itertools.cycle(np.random.default_rng(0).permutation(len(features)).tolist())
    numbers = itertools.count(2)

    def on(widget: widgets.FeatureCard, tab: str) -> None:
        widget.set_state(tab=tab)

    ways = {
        "FeatureCard, another latent, Examples": (
            lambda: on(card, "examples"),
            lambda: card.act("latent", next(latents)),
        ),
        "FeatureCard, another latent, Output": (lambda: on(card, "output"), lambda: card.act("latent", next(latents))),
        "FeatureCard, another latent, Labels": (lambda: on(card, "labels"), lambda: card.act("latent", next(latents))),
        "FeatureCard, text typed in Try it": (
            lambda: on(card, "try"),
            lambda: card.act("text", TEXT.format(next(numbers))),
        ),
        "FeatureBrowser, selection": (lambda: None, lambda: browser.act("latent", next(latents))),
        "FeatureBrowser, selection with an open card": (
            lambda: browser.set_state(open=True),
            lambda: browser.act("latent", next(latents)),
        ),
        "FeatureBrowser, search": (lambda: None, lambda: browser.act("query", str(next(numbers) % 10))),
        "TokenStrip, cursor": (lambda: None, lambda: strip.act("cursor", next(numbers) % 20)),
        "TokenStrip, text typed": (lambda: None, lambda: strip.act("text", TEXT.format(next(numbers)))),
        "SteerSlider, strength": (lambda: None, lambda: slider.act("strength", float(next(numbers) % 16) / 2)),
    }
    rows = []
    for name, (prepare, call) in ways.items():
        prepare()
        call()
        milliseconds = []
        for _ in range(CALLS):
            start = time.perf_counter()
            call()
            milliseconds.append(1e3 * (time.perf_counter() - start))
        rows.append({"event": name, "median ms": median(milliseconds), "worst ms": max(milliseconds)})
    report("widgets", f"Kernel time of an event, {CALLS} calls each", rows, "median ms")


if __name__ == "__main__":
    main()
