"""Train the shipped coders on text that the model was trained on, none of it held out.

    python -m saekit.recipes.coder [--tokens 12_000_000] [--out saekit/assets/coders]

The text is a seeded mix of the standard library and the installed packages (`recipes/text.py`), as for the model.
A checkpoint beside the output lets the same command go on after an interruption.
"""

import argparse
import random
from pathlib import Path

import torch

import saekit as sk
from saekit import presets

from .model import mix
from .text import training_text

CHARACTERS_PER_TOKEN = 3.0  # a little below what the tokenizer reaches, so that there is text enough


def corpus(model: object, tokens: int, seed: int) -> sk.Corpus:
    """About `tokens` tokens of the training mix."""
    texts = list(dict.fromkeys(mix(training_text()[0], seed)))
    random.Random(seed).shuffle(texts)
    chosen, characters = [], 0
    while texts and characters < tokens * CHARACTERS_PER_TOKEN:
        chosen.append(texts.pop())
        characters += len(chosen[-1])
    return sk.load_corpus(model, chosen)


def residual(tokens: int, out: Path, layer: int = 2, d_sae: int = 2048, k: int = 32, seed: int = 0) -> Path:
    """A BatchTopK coder of the residual stream after one layer, saved in float16."""
    model = sk.load_model()
    acts = sk.Activations(model, sk.Site(f"blocks.{layer}.hook_resid_post"), corpus(model, tokens, seed), tokens)
    torch.manual_seed(seed)
    coder, objective = presets.batch_topk(model.cfg.d_model, d_sae, k)
    checkpoint = Path("runs") / f"resid.{layer}-batch_topk.safetensors"
    run = sk.train(coder, acts, objective, steps=tokens // 2048, checkpoint=checkpoint)
    print(run, flush=True)
    return sk.save(run.coder, out / "tiny-python" / f"resid.{layer}" / "batch_topk", dtype=torch.float16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=12_000_000)
    parser.add_argument("--out", type=Path, default=Path("saekit/assets/coders"))
    args = parser.parse_args()
    print(residual(args.tokens, args.out))
