"""Measure what ships, and write it to assets/measured.json, from which every number in prose is read.

python -m saekit.recipes.measure [--beside NAME=FOLDER_OF_ANOTHER_MODEL]
python -m saekit.recipes.measure --coder NAME    only this coder, the rest of the file as it is
"""

import argparse
import copy
import importlib.metadata
import json
import multiprocessing
import os
import platform
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import saekit as sk
from saekit import evals
from saekit.features import label_scores
from saekit.files import replacing

from . import labels
from .tasks import known_answers
from .text import is_held_out, stdlib

MEASURED = Path(__file__).parent.parent / "assets" / "measured.json"
LABELS = ("docstring", "comment", "string", "bracket", "def name", "argument", "import line")
CARDS, TRAIN_FILES = ("docstring", "comment"), 60
TOKENS = 50_000  # of the held-out packages, for fidelity


@torch.no_grad()
def held_out_loss(model: Any) -> dict[str, float]:
    """Nats a token and a byte over the held-out packages, in windows of one text, BOS first, padding left out.

    A byte is what models with different tokenizers can be compared by.
    """
    texts = [s.text for s in stdlib() if is_held_out(s)]
    corpus = sk.load_corpus(model, texts)
    total = predicted = 0.0
    for i in range(0, len(corpus), 16):
        ids, mask = corpus.tokens[i : i + 16], torch.from_numpy(corpus.mask[i : i + 16])[:, 1:]
        losses = F.cross_entropy(model(ids)[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        total, predicted = total + losses[mask].double().sum().item(), predicted + mask.sum().item()
    return {"nats_per_token": total / predicted, "nats_per_byte": total / sum(map(len, texts)), "tokens": predicted}


def of_model(model: Any) -> dict[str, Any]:
    return {"held_out_loss": held_out_loss(model), "known_answer_tasks": known_answers(model)}


def of_coder(name: str) -> dict[str, Any]:
    """A shipped coder's card: fidelity on held-out packages, its best latent for each label, and label sets.

    best_latent is the best on the held-out text itself; label_cards choose on training packages (`recipes/labels.py`).
    """
    model, coder = sk.load_model(), sk.load(name)
    held_out = sk.load_corpus(model, split="held_out")
    scores = label_scores(model, coder, held_out)
    best = scores.loc[scores.groupby("label").f1.idxmax()].set_index("label")
    columns = ["latent", "f1", "always_fire"]
    return {
        "fidelity": evals.fidelity(model, coder, held_out, tokens=TOKENS),
        "fidelity_at_l0_32": evals.fidelity(model, recalibrated(model, coder, held_out), held_out, tokens=TOKENS),
        "best_latent": {label: best.loc[label, columns].to_dict() for label in LABELS},
        "label_cards": label_cards(model, coder, held_out),
    }


def label_cards(model: Any, coder: sk.SparseCoder, held_out: sk.Corpus) -> dict[str, Any]:
    train = labels.read(model, coder, sk.load_corpus(model, split="train", files=TRAIN_FILES), CARDS)
    test = labels.read(model, coder, held_out, CARDS)
    return {label: labels.label_card(train, test, label) for label in CARDS}


def recalibrated(model: Any, coder: sk.SparseCoder, corpus: sk.Corpus) -> sk.SparseCoder:
    """A copy whose threshold gives its k as the mean L0 of this very text: new text can shift it by a few percent."""
    again = copy.deepcopy(coder)
    pre = []
    for i in range(0, len(corpus), 16):
        part = corpus[i : i + 16]
        x = coder.site.inputs(sk.capture(model, part.tokens, coder.site))[torch.from_numpy(part.mask)]
        pre.append(coder.pre_activations(x - coder.b_pre))
    again.nonlinearity.calibrate(pre)
    return again


def versions() -> dict[str, str]:
    names = ("torch", "transformer-lens", "transformers", "tokenizers", "numpy")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n).split("+")[0] for n in names}


def main(beside: dict[str, str]) -> None:
    model = sk.load_model()
    names = list(sk.pretrained(model).name)
    # Several processes of one thread each; many threads on small products wait for one another.
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), torch.set_num_threads, (1,)) as pool:
        coders = pool.map_async(of_coder, names, chunksize=1)
        measured = {
            "model": of_model(model),
            "beside": {name: of_model(sk.load_model(folder)) for name, folder in beside.items()},
            "coders": dict(zip(names, coders.get(), strict=True)),
            "versions": versions(),
        }
    write(kept() | measured)


def kept() -> dict[str, Any]:
    """What was measured before, by this recipe and others."""
    return json.loads(MEASURED.read_text()) if MEASURED.exists() else {}


def write(measured: dict[str, Any]) -> None:
    with replacing(MEASURED) as temporary:
        temporary.write_text(json.dumps(measured, indent=1, default=float) + "\n")
    print(MEASURED.read_text())


def again(name: str) -> None:
    """Measure one coder again."""
    measured = kept()
    measured["coders"][name] = of_coder(name)
    write(measured | {"versions": versions()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--beside", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--coder", metavar="NAME")
    args = parser.parse_args()
    again(args.coder) if args.coder else main(dict(pair.split("=", 1) for pair in args.beside))
