"""Train the shipped coders on text that the model was trained on, none of it held out.

    python -m saekit.recipes.coder [residual sublayers transcoders cross_layer sweep twin] [--out saekit/assets/coders]

The text is the standard library and a sample of the model's other training text (`recipes/text.py`).
Checkpoints in runs/ let the same command go on after an interruption.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import saekit as sk
from saekit import evals, presets

from .text import training_text
from .tokenizer import sample

RUNS = Path("runs")
BATCH = 2_048
CHARACTERS_PER_TOKEN = 3.4  # a little above what the tokenizer reaches, so that there is text enough

# Sparsity that leads to a mean L0 of about 16 and of about 32 at 512 latents of resid.2.
PENALTIES = {"relu": (2.3, 1.2), "gated": (3.8, 1.95), "prolu": (0.31, 0.27), "p_anneal": (0.86, 0.53)}
BUDGETS = ("topk", "batch_topk", "jumprelu", "matryoshka")
SEEDS = 3  # of batch_topk, for the spread between runs that differ in nothing else

Named = dict[str, tuple[Any, sk.Objective]]


def corpus(model: object, tokens: int, seed: int = 0) -> sk.Corpus:
    """About `tokens` tokens: the standard library first, then a seeded sample of its tests and the packages."""
    sources = training_text()[0]
    return sk.load_corpus(model, sample(sources, int(tokens * CHARACTERS_PER_TOKEN), seed))


def train_all(made: Named, model: Any, site: sk.Site, tokens: int, out: Path) -> None:
    """Train these coders on one stream and save each under its name, in float16."""
    acts = sk.Activations(model, site, corpus(model, tokens), tokens)
    coders, objectives = zip(*made.values(), strict=True)
    checkpoint = RUNS / f"{model.cfg.model_name}-{next(iter(made)).replace('/', '-')}-{tokens}.safetensors"
    steps = tokens // BATCH
    runs = sk.train(list(coders), acts, list(objectives), steps=steps, batch_size=BATCH, checkpoint=checkpoint)
    for name, run in zip(made, runs, strict=True):
        saved = sk.save(run.coder, out / model.cfg.model_name / name, dtype=torch.float16)
        print(saved, run, flush=True)


def seeded(preset: Callable[..., Any], *args: Any, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return preset(*args, **options)


def residual(model: Any, out: Path, layers: Sequence[int] = (0, 1, 2, 3)) -> None:
    """BatchTopK coders of the residual stream; the layer that most notebooks use is trained longer."""
    for layer in layers:
        made = {f"resid.{layer}/batch_topk": seeded(presets.batch_topk, model.cfg.d_model, 2048, k=32)}
        tokens = 6_000_000 if layer == 2 else 4_000_000
        train_all(made, model, sk.Site(f"blocks.{layer}.hook_resid_post"), tokens, out)


def sublayers(model: Any, out: Path, layer: int = 2) -> None:
    """BatchTopK coders of what one layer's attention and MLP add to the residual stream."""
    for name in ("attn", "mlp"):
        made = {f"{name}.{layer}/batch_topk": seeded(presets.batch_topk, model.cfg.d_model, 2048, k=32)}
        train_all(made, model, sk.Site(f"blocks.{layer}.hook_{name}_out"), 2_000_000, out)


def every_mlp(model: Any) -> sk.Site:
    """Reads the input of every MLP and writes its output."""
    layers = range(model.cfg.n_layers)
    return sk.Site([f"blocks.{i}.mlp.hook_in" for i in layers], [f"blocks.{i}.hook_mlp_out" for i in layers])


def transcoders(model: Any, out: Path) -> None:
    """A TopK transcoder for each layer's MLP, as one stack."""
    stack = seeded(presets.per_layer_transcoders, model.cfg.d_model, 1024, model.cfg.n_layers, k=32)
    train_all({"mlp/transcoders": stack}, model, every_mlp(model), 3_000_000, out)


def cross_layer(model: Any, out: Path) -> None:
    """A cross-layer transcoder of 512 latents a layer."""
    stack = seeded(presets.cross_layer_transcoder, model.cfg.d_model, 512, model.cfg.n_layers, l0=16)
    train_all({"mlp/cross_layer_transcoder": stack}, model, every_mlp(model), 2_000_000, out)


def frozen(d_in: int, d_sae: int, k: float) -> tuple[sk.SparseCoder, sk.Objective]:
    """The control of a dictionary that learned nothing: random decoder rows stay, the encoder learns to use them."""
    coder, objective = presets.batch_topk(d_in, d_sae, k)
    coder.W_dec.requires_grad_(False)
    return coder, objective


def swept(d_in: int, d_sae: int = 512) -> Named:
    """Every variant at two sparsities, BatchTopK with more seeds, and the control."""
    made: Named = {}
    for i, l0 in enumerate((16, 32)):
        for variant, penalty in PENALTIES.items():
            made[f"{variant}-{l0}"] = seeded(getattr(presets, variant), d_in, d_sae, sparsity=penalty[i])
        for variant in BUDGETS:
            made[f"{variant}-{l0}"] = seeded(getattr(presets, variant), d_in, d_sae, l0)
        made[f"frozen-{l0}"] = seeded(frozen, d_in, d_sae, l0)
    for seed in range(1, SEEDS):
        made[f"batch_topk-32-seed{seed}"] = seeded(presets.batch_topk, d_in, d_sae, 32, seed=seed)
    return {f"resid.2/sweep/{name}": pair for name, pair in made.items()}


def sweep(model: Any, out: Path) -> None:
    """The variants side by side on one stream at resid.2."""
    train_all(swept(model.cfg.d_model), model, sk.Site("blocks.2.hook_resid_post"), 1_500_000, out)


def twin(model: Any, out: Path) -> None:
    """The coder of a model with the same weights in random order."""
    other = evals.random_twin(model)
    made = {"resid.2/batch_topk": seeded(presets.batch_topk, model.cfg.d_model, 1024, k=32)}
    train_all(made, other, sk.Site("blocks.2.hook_resid_post"), 1_500_000, out)


PACK = (residual, sublayers, transcoders, cross_layer, sweep, twin)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="all unless given")
    parser.add_argument("--out", type=Path, default=Path("saekit/assets/coders"))
    args = parser.parse_args()
    for part in PACK:
        if not args.parts or part.__name__ in args.parts:
            part(sk.load_model(), args.out)
