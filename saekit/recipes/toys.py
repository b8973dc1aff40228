"""Measure what notebook 01 says of toys, over seeds, and write it to assets/measured.json under "toys".

python -m saekit.recipes.toys        two minutes on one core; every other key of the file stays as it is
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import saekit as sk
from saekit import evals, presets, toy
from saekit.lesson.nb01 import family, hidden_states, trap
from saekit.viz.geometry import form

from .measure import write

SEEDS = range(5)
FREQUENCIES = (0.5, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02)


def pentagons() -> dict[str, dict[str, float]]:
    """At each frequency: the number of seeds that end in a pentagon, and the features that are kept on average."""
    models = [toy.Bottleneck(5, 2, frequencies=FREQUENCIES, seed=seed).train() for seed in SEEDS]
    found = {}
    for i, p in enumerate(FREQUENCIES):
        W = [model.W[i] for model in models]
        kept = np.mean([(w.norm(dim=0) > 0.5).sum().item() for w in W])
        found[f"{p:g}"] = {
            "pentagons": sum(form(w.T.tolist()) == ", as a pentagon" for w in W),
            "kept": float(kept),
            "seeds": len(W),
        }
    return found


def trained(
    seed: int, source: toy.Superposition, make: Callable[..., presets.Preset], **options: Any
) -> sk.SparseCoder:
    """As the notebook trains: the seed, the coder, one pass."""
    torch.manual_seed(seed)
    coder, objective = make()
    how = {"batch_size": 1_024, "lr": 1e-2, "precision": "float32", "threads": 1, "progress": False}
    return sk.train(coder, source, objective, **(how | options)).coder


def of_seed(seed: int) -> dict[str, dict[str, float]]:
    """The five coders of the notebook on their toys."""
    hidden, rare, parents = hidden_states(seed), trap(seed), family(seed)
    coders = {
        "l1": (hidden, trained(seed, hidden, partial(presets.relu, 8, 32, sparsity=1.0))),
        "l1_sparse": (hidden, trained(seed, hidden, partial(presets.relu, 8, 20, sparsity=5.0))),
        "topk": (hidden, trained(seed, hidden, partial(presets.topk, 8, 32, k=1))),
        "trap": (rare, trained(seed, rare, partial(presets.batch_topk, 32, 256, k=6))),
        "absorption": (
            parents,
            trained(seed, parents, partial(presets.batch_topk, 16, 12, k=0.9), batch_size=512, lr=None),
        ),
    }
    scores = {name: evals.recovery(coder, source) for name, (source, coder) in coders.items()}
    scores["absorption"] |= evals.planted_absorption(*reversed(coders["absorption"]))
    return scores


def spread(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, lowest and highest over seeds, of each score."""
    return {
        name: {"mean": float(np.mean(v)), "low": float(np.min(v)), "high": float(np.max(v))}
        for name in runs[0]
        for v in [[run[name] for run in runs]]
    }


def main() -> None:
    torch.set_num_threads(1)
    seeds = [of_seed(seed) for seed in SEEDS]
    toys = {name: spread([scores[name] for scores in seeds]) for name in seeds[0]}
    toys |= {"pentagon": pentagons(), "seeds": len(SEEDS)}
    write({"toys": toys})


if __name__ == "__main__":
    main()
