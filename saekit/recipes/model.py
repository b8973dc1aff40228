"""Train `tiny-python`: a GPT-2 of 4 layers, width 256, 8 heads, context 256, on the text of `recipes/text.py`.

    python -m saekit.recipes.model [--tokens 22_000_000] [--out runs/model]
    python -m saekit.recipes.model --start FOLDER [--tokens 6_000_000] [--out runs/settled]

Matrices inside the blocks are trained by Muon, the rest by AdamW; the rate warms up, stays, and falls linearly over
the second half. The last quarter of the run reads the standard library alone, since that is the text the notebooks
look at. Every window is the BOS token and 255 tokens of the stream; which window comes when is a function of
the seed alone. A checkpoint is written every few minutes, and the same command goes on from it.

With `--start` the weights of a folder are trained on at a quarter of the rate, on the library without its tests; the
mean of the weights before and after is kept, which does better on held-out text than either.
"""

import argparse
import csv
import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from .text import Source, training_text

CONTEXT = 256
CHARACTERS_PER_PACKAGE = 6_000_000  # so that no single package sets the tone
LIBRARY_REPEATS = 3
FINISH = 0.75  # of the run; from here on only the standard library and its tests


Mix = Callable[[list[Source], int], list[str]]  # sources and a seed -> texts in their order


def config(vocab_size: int) -> GPT2Config:
    return GPT2Config(
        vocab_size=vocab_size, n_positions=CONTEXT, n_embd=256, n_layer=4, n_head=8,
        attn_pdrop=0, embd_pdrop=0, resid_pdrop=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip


# --- the stream of tokens ---------------------------------------------------------------------------------------


def mix(sources: list[Source], seed: int) -> list[str]:
    """The library three times, its tests once, every package up to its cap; shuffled by file."""
    rng, texts, used = random.Random(seed), [], dict[str, int]()
    for source in rng.sample(sources, len(sources)):
        capped = source.group not in ("library", "tests")
        used[source.group] = used.get(source.group, 0) + len(source.text)
        if not capped or used[source.group] <= CHARACTERS_PER_PACKAGE:
            texts += [source.text] * (LIBRARY_REPEATS if source.group == "library" else 1)
    rng.shuffle(texts)
    return texts


def finish(sources: list[Source], seed: int) -> list[str]:
    """The standard library and its tests, once each."""
    texts = [s.text for s in sources if s.group in ("library", "tests")]
    return random.Random(seed).sample(texts, len(texts))


def settle(sources: list[Source], seed: int) -> list[str]:
    """The standard library without its tests, once."""
    texts = [s.text for s in sources if s.group == "library"]
    return random.Random(seed).sample(texts, len(texts))


def stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    """All texts as one row of token ids, each text after a BOS."""
    encoded = (e.ids for i in range(0, len(texts), 256) for e in tokenizer.backend_tokenizer.encode_batch(
        texts[i : i + 256], add_special_tokens=False))  # fmt: skip
    return np.concatenate([np.array([tokenizer.bos_token_id, *ids], np.uint16) for ids in encoded])


def prepare(
    tokenizer: PreTrainedTokenizerFast, out: Path, seed: int, mixes: tuple[Mix, Mix]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(training stream, finishing stream, held-out stream), made once and kept under `out`."""
    files = out / "train.npy", out / "finish.npy", out / "held_out.npy"
    if not all(f.exists() for f in files):
        train, held_out = training_text()
        np.save(files[2], stream(tokenizer, [s.text for s in held_out]))
        np.save(files[1], stream(tokenizer, mixes[1](train, seed)))
        np.save(files[0], stream(tokenizer, mixes[0](train, seed)))
    return np.load(files[0], mmap_mode="r"), np.load(files[1]), np.load(files[2])


def windows(tokens: np.ndarray, which: np.ndarray, bos: int) -> torch.Tensor:
    """[window, 256]: BOS, then 255 tokens of the stream from position 255 * which."""
    rows = tokens[which[:, None] * (CONTEXT - 1) + np.arange(CONTEXT - 1)].astype(np.int64)
    return torch.from_numpy(np.concatenate([np.full((len(rows), 1), bos), rows], axis=1))


def batch_at(tokens: np.ndarray, step: int, batch: int, seed: int, bos: int) -> torch.Tensor:
    n = (len(tokens) // (CONTEXT - 1)) // batch  # batches in an epoch
    order = np.random.default_rng([seed, step // n]).permutation(n * batch)
    return windows(tokens, np.sort(order[(step % n) * batch : (step % n + 1) * batch]), bos)


# --- training ---------------------------------------------------------------------------------------------------


def loss_of(model: GPT2LMHeadModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.transformer(ids, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden)
    return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def optimizers(model: GPT2LMHeadModel, scale: float) -> list[torch.optim.Optimizer]:
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and ".h." in n]
    outer = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".h." in n)]
    return [
        torch.optim.Muon(inner, lr=scale * 4e-3, momentum=0.95, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=scale * 2e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def rate(progress: float) -> float:
    """Warm up over 2 % of the run, hold, fall linearly to 2 % over the second half."""
    return min(progress / 0.02, 1.0, max((1 - progress) / 0.5, 0.02))


def train(
    model: GPT2LMHeadModel,
    tokens: np.ndarray,
    last: np.ndarray,
    total: int,
    out: Path,
    batch: int,
    seed: int,
    bos: int,
    scale: float = 1.0,
) -> None:
    opts, steps = optimizers(model, scale), math.ceil(total / (batch * CONTEXT))
    peaks = [group["lr"] for opt in opts for group in opt.param_groups]
    step, saved, log = restore(model, opts, out), time.monotonic(), out / "loss.csv"
    compiled = torch.compile(loss_of)
    while step < steps:
        for group, peak in zip((g for o in opts for g in o.param_groups), peaks, strict=True):
            group["lr"] = peak * rate((step + 1) / steps)
        loss = compiled(model, batch_at(tokens if step < FINISH * steps else last, step, batch, seed, bos))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        step += 1
        if step % 50 == 0 or step == steps:
            with log.open("a", newline="") as f:
                csv.writer(f).writerow([step, step * batch * CONTEXT, round(loss.item(), 4), round(time.time())])
        if time.monotonic() - saved > 180 or step == steps:
            checkpoint(model, opts, step, out)
            saved = time.monotonic()


@torch.no_grad()
def halfway(model: GPT2LMHeadModel, start: str) -> None:
    """Move the weights to the mean of what they are and what a folder holds."""
    for weight, before in zip(model.parameters(), GPT2LMHeadModel.from_pretrained(start).parameters(), strict=True):
        weight.copy_((weight + before.float()) / 2)


def checkpoint(model: GPT2LMHeadModel, opts: list[torch.optim.Optimizer], step: int, out: Path) -> None:
    temporary = out / "checkpoint.tmp"
    torch.save({"step": step, "model": model.state_dict(), "opts": [o.state_dict() for o in opts]}, temporary)
    temporary.replace(out / "checkpoint.pt")


def restore(model: GPT2LMHeadModel, opts: list[torch.optim.Optimizer], out: Path) -> int:
    if not (out / "checkpoint.pt").exists():
        return 0
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    model.load_state_dict(state["model"])
    for opt, saved in zip(opts, state["opts"], strict=True):
        opt.load_state_dict(saved)
    return state["step"]


@torch.no_grad()
def mean_loss(model: GPT2LMHeadModel, tokens: np.ndarray, bos: int) -> float:
    """Nats per token over all full windows, in float32."""
    n, total = len(tokens) // (CONTEXT - 1), 0.0
    for i in range(0, n, 16):
        ids = windows(tokens, np.arange(i, min(i + 16, n)), bos)
        total += F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
    return total / (n * (CONTEXT - 1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=22_000_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", default="runs/tokenizer")
    parser.add_argument("--start", metavar="FOLDER", help="go on from these weights, on the library alone")
    parser.add_argument("--out", type=Path, default=Path("runs/model"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    mixes, scale = ((settle, settle), 0.25) if args.start else ((mix, finish), 1.0)
    text, last, held_out = prepare(tokenizer, args.out, args.seed, mixes)
    model = (
        GPT2LMHeadModel.from_pretrained(args.start).float() if args.start else GPT2LMHeadModel(config(len(tokenizer)))
    )
    print(f"{len(text):,} training tokens, {len(held_out):,} held out, {args.tokens:,} to train on", flush=True)
    train(model, text, last, args.tokens, args.out, args.batch, args.seed, tokenizer.bos_token_id, scale)
    if args.start:
        halfway(model, args.start)
    model.half().save_pretrained(args.out / "final")
    tokenizer.save_pretrained(args.out / "final")
    held_out_loss = mean_loss(model.float(), held_out, tokenizer.bos_token_id)
    print(json.dumps({"held_out_loss": held_out_loss, "tokens": args.tokens}))
