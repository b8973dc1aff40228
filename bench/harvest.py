"""Harvest: `capture` and the whole activation stream against the bare model that stops at the same layer."""

import itertools

import torch

import saekit as sk
from bench.measure import interleaved, ratio, report

WINDOWS = 16


def main() -> None:
    model = sk.load_model()
    corpus = sk.load_corpus(model, split="train")[: 64 * WINDOWS]
    tokens = corpus.tokens[:WINDOWS].clone()
    rows = []
    for layer in (1, 2, 3):
        name = f"blocks.{layer}.hook_resid_post"
        last = layer == model.cfg.n_layers - 1  # there the bare model can only run to its logits
        acts = sk.Activations(model, sk.Site(name), corpus, block=16_384)

        def bare(layer: int = layer, last: bool = last) -> None:
            with torch.no_grad():
                model(tokens, return_type="logits") if last else model(tokens, stop_at_layer=layer + 1)

        def stream(acts: sk.Activations = acts) -> None:
            next(itertools.islice(acts.batches(4096), 2, None))  # three batches: one block of four

        ways = {"bare": bare, "capture": lambda name=name: sk.capture(model, tokens, name)}
        seconds = interleaved(ways, inner=2)
        times = ratio(seconds, "bare", "capture")
        block = interleaved({"stream": stream, "bare": bare})
        per_token = sorted(block["stream"])[2] / int(acts._rows[acts._train[: acts._per_block]].sum())
        bare_per_token = sorted(block["bare"])[2] / tokens.numel()
        rows.append({"site": name, "capture / bare speed": times["median"], "low": times["low"], "high": times["high"],
                     "stream / bare speed": bare_per_token / per_token, "stream tokens/s": 1 / per_token})  # fmt: skip
    report("harvest", f"Harvest of {WINDOWS} windows of 256 tokens", rows, "capture / bare speed")


if __name__ == "__main__":
    main()
