"""Train the shipped coders on text that the model was trained on, none of it held out.

    python -m saekit.recipes.coder [--tokens N] [--layers 0 1 2 3] [--out saekit/assets/coders]

The text is the standard library and a sample of the model's other training text (`recipes/text.py`).
A checkpoint beside the output lets the same command go on after an interruption.
"""

import argparse
from pathlib import Path

import torch

import saekit as sk
from saekit import presets

from .text import training_text
from .tokenizer import sample

TOKENS = {2: 6_000_000}  # the layer that most notebooks use is trained longer
OTHERS = 4_000_000
CHARACTERS_PER_TOKEN = 3.4  # a little above what the tokenizer reaches, so that there is text enough


def corpus(model: object, tokens: int, seed: int) -> sk.Corpus:
    """About `tokens` tokens: the standard library first, then a seeded sample of its tests and the packages."""
    sources = training_text()[0]
    return sk.load_corpus(model, sample(sources, int(tokens * CHARACTERS_PER_TOKEN), seed))


def residual(
    model: object, text: sk.Corpus, tokens: int, out: Path, layer: int, d_sae: int = 2048, k: int = 32, seed: int = 0
) -> Path:
    """A BatchTopK coder of the residual stream after one layer, saved in float16."""
    acts = sk.Activations(model, sk.Site(f"blocks.{layer}.hook_resid_post"), text, tokens)
    torch.manual_seed(seed)
    coder, objective = presets.batch_topk(model.cfg.d_model, d_sae, k)
    checkpoint = Path("runs") / f"resid.{layer}-batch_topk-{tokens}.safetensors"
    run = sk.train(coder, acts, objective, steps=tokens // 2048, checkpoint=checkpoint)
    print(run, flush=True)
    return sk.save(run.coder, out / "tiny-python" / f"resid.{layer}" / "batch_topk", dtype=torch.float16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, help="of each coder")
    parser.add_argument("--out", type=Path, default=Path("saekit/assets/coders"))
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1, 2, 3])
    args = parser.parse_args()
    model = sk.load_model()
    for layer in args.layers:
        tokens = args.tokens or TOKENS.get(layer, OTHERS)
        print(residual(model, corpus(model, tokens, seed=0), tokens, args.out, layer), flush=True)
