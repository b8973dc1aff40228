"""Train a tiny GPT-2 on each formal language of `saekit.toy`: a minute or two each on one core.

    python -m saekit.recipes.languages [--languages dyck expressions sentences] [--out runs/languages]

Two layers of width 64, four heads, context 64. Texts are drawn as they are needed and never repeat; each is learned
from its BOS to the BOS that ends it. Printed, and kept in `measured.json` beside the model: the loss on texts that were
not trained on, that of the best guess without context, and the share of sampled texts that are in the language.
`sk.load_model(folder)` loads the result, and `sk.load_corpus(model, language.texts(1000))` labels text for it.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from saekit.toy import LANGUAGES, Language

CONTEXT = 64
LENGTH = CONTEXT - 4  # of a text; with a BOS at both ends it fits
HELD_OUT = 1_000_003  # seed of the texts that are not trained on
NONE = -100  # a target that does not count


def tiny(vocab: int) -> GPT2LMHeadModel:
    """Two layers of width 64."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab, n_positions=CONTEXT, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0,
            attn_pdrop=0, embd_pdrop=0, resid_pdrop=0,
        )
    )  # fmt: skip


def batch(language: Language, tokenizer: Any, n: int, seed: int) -> torch.Tensor:
    """n texts [n, longest + 2], BOS at both ends, NONE after the second."""
    rows = [
        tokenizer(text.text, add_special_tokens=False).input_ids for text in language.texts(n, length=LENGTH, seed=seed)
    ]
    ids = torch.full((n, max(map(len, rows)) + 2), NONE)
    for i, row in enumerate(rows):
        ids[i, : len(row) + 2] = torch.tensor([tokenizer.bos_token_id, *row, tokenizer.bos_token_id])
    return ids


def loss_of(model: GPT2LMHeadModel, ids: torch.Tensor) -> torch.Tensor:
    """Nats per token."""
    logits = model(ids.clamp(min=0)).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=NONE)


def train(language: Language, folder: Path, *, steps: int = 1_500, size: int = 32, seed: int = 0) -> dict[str, float]:
    """Train on `steps` batches of `size` texts, save model and tokenizer, and return what was measured."""
    torch.manual_seed(seed)
    tokenizer, begun = language.tokenizer(), time.process_time()
    model = tiny(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.01)
    for step in tqdm(range(steps), language.name, leave=False):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min((step + 1) / 50, 1.0, 2 * (steps - step) / steps)
        loss = loss_of(model, batch(language, tokenizer, size, seed * steps + step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    measured = scores(language, model, tokenizer) | {"steps": steps, "cpu_seconds": time.process_time() - begun}
    (folder / "measured.json").write_text(json.dumps(measured, indent=1))
    return measured


@torch.no_grad()
def scores(language: Language, model: GPT2LMHeadModel, tokenizer: Any, n: int = 200) -> dict[str, float]:
    """loss and loss_without_context on n fresh texts; accepted: share in the language, of n samples that ended."""
    held_out = batch(language, tokenizer, n, HELD_OUT)
    counts = torch.bincount(held_out[:, 1:][held_out[:, 1:] != NONE], minlength=len(tokenizer)).double()
    share = counts / counts.sum()
    start = torch.full((n, 1), tokenizer.bos_token_id)
    sampled = model.generate(
        start, attention_mask=torch.ones_like(start), do_sample=True, top_k=0, max_new_tokens=CONTEXT - 1,
        pad_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    ended = [row[1:][: int((row[1:] == 0).nonzero()[0])] for row in sampled if bool((row[1:] == 0).any())]
    texts = [language.separator.join(tokenizer.convert_ids_to_tokens(row)) for row in ended]
    return {
        "loss": float(loss_of(model, held_out)),
        "loss_without_context": float(-(share * share.clamp(min=1e-12).log()).sum()),
        "accepted": sum(map(language.accepts, texts)) / len(texts) if texts else math.nan,
        "ended": len(texts) / n,
        "n": n,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=list(LANGUAGES))
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/languages"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.languages:
        print(name, json.dumps(train(LANGUAGES[name], args.out / name, steps=args.steps, seed=args.seed)), flush=True)
