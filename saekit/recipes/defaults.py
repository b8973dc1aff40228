"""Measure the defaults of presets that no paper settles, on the shipped model.

    python -m saekit.recipes.defaults [--only p_anneal switch] [--tokens 250000] [--out runs/defaults.json]

1,024 latents at the residual stream after layer 2 (a crosscoder: after 1 and 3), one pass over the tokens, one thread.
The settings of a preset are trained on one stream, side by side; each gets a row: FVU, L0 and the share of latents that
are silent, on rows that were not trained on. Two more columns where they say something: `experts`, the number of
experts in use (the exponential of the entropy of their shares), and `agreement`, MMCS with the other coder.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.nn import functional as F

import saekit as sk
from saekit import evals, presets
from saekit.files import replacing

D_SAE, K = 1_024, 32
SITE = sk.Site("blocks.2.hook_resid_post")
TWO = sk.Site(("blocks.1.hook_resid_post", "blocks.3.hook_resid_post"))

Setting = tuple[str, Any]  # what is set, (coder, objective)


def p_anneal(d: int) -> Iterator[Setting]:
    for sparsity in (0.75, 1.5, 3.0):
        yield f"sparsity={sparsity}", presets.p_anneal(d, D_SAE, sparsity)


def switch(d: int) -> Iterator[Setting]:
    for weight in (0.0, 0.01, 0.1, 1.0):
        coder, _ = presets.switch(d, D_SAE, K)
        yield f"load_balance={weight}", (coder, sk.fvu() + weight * sk.load_balance())


def gated(d: int) -> Iterator[Setting]:
    """Why a quarter of its latents never fires, and what brings them back; AuxK's weight in units of the mse."""
    for sparsity in (2.5, 5.0):
        yield f"sparsity={sparsity}", presets.gated(d, D_SAE, sparsity)
    coder, objective = presets.gated(d, D_SAE)
    yield "+ resample", (coder, objective + sk.resample())
    coder, objective = presets.gated(d, D_SAE)
    yield "+ auxk", (coder, objective + d / 32 * sk.auxk())


def choices(d: int) -> Iterator[Setting]:
    """The allocations of one budget beside each other."""
    for name in ("topk", "batch_topk", "mutual_choice", "feature_choice"):
        yield name, getattr(presets, name)(d, D_SAE, K)


def crosscoder(d: int) -> Iterator[Setting]:
    for sparsity in (1.0, 2.0, 4.0):
        yield f"sparsity={sparsity}", presets.crosscoder(d, D_SAE, sparsity=sparsity)
    yield f"k={K}", presets.crosscoder(d, D_SAE, k=K)


def feature_aligned(d: int) -> Iterator[Setting]:
    """Two coders for each weight; every weight has a stream of its own, since coders on one stream are peers."""
    for weight in (0.0, 0.1, 0.3, 1.0):
        yield f"weight={weight}", presets.feature_aligned(d, D_SAE, K, weight=weight)


GRIDS: dict[str, Callable[[int], Iterator[Setting]]] = {
    f.__name__: f for f in (p_anneal, switch, gated, choices, crosscoder, feature_aligned)
}


def measure(name: str, model: Any, corpus: sk.Corpus, tokens: int, seed: int = 0) -> list[dict[str, Any]]:
    """A row for each setting of one grid."""
    acts = sk.Activations(model, TWO if name == "crosscoder" else SITE, corpus, tokens)
    torch.manual_seed(seed)
    settings = list(GRIDS[name](model.cfg.d_model))
    if name == "feature_aligned":
        runs = [sk.train(coders, acts, objectives, threads=1) for _, (coders, objectives) in settings]
        peers = [_agreement(a.coder, b.coder) for a, b in runs]
        rows = [scores(a.coder, acts) | {"agreement": agreement} for (a, _), agreement in zip(runs, peers, strict=True)]
    else:
        pairs = [made for _, made in settings]
        trained = sk.train([c for c, _ in pairs], acts, [o for _, o in pairs], threads=1)
        rows = [scores(run.coder, acts) for run in trained]
    return [{"preset": name, "setting": what} | row for (what, _), row in zip(settings, rows, strict=True)]


@torch.no_grad()
def scores(coder: sk.SparseCoder, acts: sk.Activations) -> dict[str, float]:
    """On held-out rows; for a crosscoder the share of latents that live at one site alone."""
    x, y = acts.held_out(16_384)
    y_hat, codes = coder(x)
    row = {
        "fvu": float((y - y_hat).square().sum() / (y - y.mean(0)).square().sum()),
        "l0": len(codes.values) / len(x), "silent": float((codes.counts() == 0).float().mean()),
    }  # fmt: skip
    if isinstance(coder.nonlinearity, sk.Routed):
        share = torch.bincount(coder.nonlinearity.route(x).expert, minlength=coder.nonlinearity.experts) / len(x)
        row["experts"] = float(torch.special.entr(share).sum().exp())
    if coder.n_sites > 1:
        row["single"] = float(((evals.relative_norms(coder, acts)[:, 0] - 0.5).abs() > 0.45).float().mean())
    return row


def _agreement(a: sk.SparseCoder, b: sk.SparseCoder) -> float:
    cosines = F.normalize(a.W_dec, dim=1) @ F.normalize(b.W_dec, dim=1).T
    return float((cosines.max(1).values.mean() + cosines.max(0).values.mean()) / 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--tokens", type=int, default=250_000)
    parser.add_argument("--out", type=Path, default=Path("runs/defaults.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = sk.load_model()
    corpus = sk.load_corpus(model, split="train")
    found: list[dict[str, Any]] = []
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        found += measure(name, model, corpus, args.tokens)
        print(pd.DataFrame([row for row in found if row["preset"] == name]).round(3).to_string(index=False), flush=True)
        with replacing(args.out) as temporary:
            temporary.write_text(json.dumps(found, indent=1))
