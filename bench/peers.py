"""Training against SAELens, dictionary_learning and sparsify, each in its own trainer, on the same activations.

They live in an environment of their own, and its interpreter is given to the benchmark:

    python -m venv peers
    peers/bin/pip install torch==2.13.0 sae-lens==6.54.0 dictionary-learning==0.1.0 eai-sparsify==1.3.3
    PEERS_PYTHON=peers/bin/python python bench/run.py peers peers_quality peers_fvu

With a build of torch for the CPU alone, `peers/bin/pip uninstall torchvision`: the one that comes along does not fit.
`peers` is speed, in a few minutes; `peers_quality` is the long one: a grid of learning rates, then seeds at the best;
`peers_fvu`, after it, is whether the other kinds learn as much in the same steps.
Settings are each tool's own; those that count steps or tokens for long runs are shares of the run, as ours are.
Rows have mean norm sqrt(d_in) for all, so that learning rates and coefficients mean the same.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from bench.measure import REPEATS, RESULTS, ratio, report
from bench.race.wire import Setup, Worker
from bench.training import D, F, K, activations

B = 4096
NAMES = {"saelens": "SAELens", "dictionary": "dictionary_learning", "sparsify_peer": "sparsify"}
BARS = {
    ("saelens", "topk"): 5, ("saelens", "batch_topk"): 5, ("saelens", "matryoshka"): 6, ("saelens", "relu"): 2,
    ("saelens", "gated"): 2, ("saelens", "jumprelu"): 2, ("dictionary", "topk"): 3, ("sparsify_peer", "topk"): 1.3,
    ("dictionary", "batch_topk"): None,
}  # fmt: skip
BUDGETED = ("topk", "batch_topk", "matryoshka")  # those with AuxK
START_L0 = 48  # of penalty methods; dense codes would be slow here and no run stays there
HELD = 1e-9  # a rate at which a step costs what it costs and moves nothing, so that the L0 of penalty methods stays

Workers = dict[str, Worker]


@contextlib.contextmanager
def workers(rows: int, threads: int = 2) -> Iterator[Workers]:
    """A process of ours and one of each peer, all started, with the same rows; none where PEERS_PYTHON is not set."""
    python = os.environ.get("PEERS_PYTHON")
    if not python:
        print("PEERS_PYTHON is not set: the comparison with other tools is left out (bench/peers.py says how)")
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "activations.npy"
        np.save(data, activations(rows)[:rows].numpy())
        running = {name: Worker(python, name, data, threads) for name in NAMES}
        running["ours"] = Worker(sys.executable, "ours", data, threads)
        try:
            yield running
        finally:
            for worker in running.values():
                worker.close()


def setup_of(kind: str, **options: Any) -> Setup:
    start, lr = (None, None) if kind in BUDGETED else (START_L0, HELD)
    return Setup(kind, D, F, K, **({"batch": B, "steps": 10**6, "start_l0": start, "lr": lr} | options))


# --- speed ---------------------------------------------------------------------------------------------------------


def speed(repeats: int = REPEATS) -> None:
    """Seconds of one step, ours and theirs in turn; a second part with a tenth of the latents held dead."""
    with workers(4 * B) as running:
        if not running:
            return
        rows = []
        for dead in (0.0, 0.1):
            pairs = [pair for pair in BARS if not dead or pair[1] in BUDGETED]
            rows += timed(running, pairs, dead, repeats)
        versions = {name: worker.versions for name, worker in running.items()}
    bars = [row for row in rows if row["bar"]]
    title = f"Training step against peers, d_in {D}, d_sae {F}, k {K}, batch {B}; two threads"
    report("peers", title, rows, "times faster", {"versions": versions, "met": all(r["met"] == "yes" for r in bars)})


def timed(running: Workers, pairs: list[tuple[str, str]], dead: float, repeats: int) -> list[dict[str, Any]]:
    """One row for each pair of (peer, kind)."""
    kinds = dict.fromkeys(kind for _, kind in pairs)
    ours = {
        ("ours", f"{kind} {mode}"): setup_of(kind, dead=dead, fast=mode == "bf16")
        for kind in kinds
        for mode in ("bf16", "fp32")
    }
    ways = ours | {pair: setup_of(pair[1], dead=dead) for pair in pairs}
    for (who, name), setup in ways.items():
        running[who].start(name, setup)
    seconds: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for repeat in range(-1, repeats):
        for who, name in ways:
            inner = 2 if who == "ours" else 1
            took = running[who].ask("steps", name=name, first=inner * (repeat + 1), n=inner) / inner
            if repeat >= 0:
                seconds[who, name].append(took)
    l0 = {way: running[way[0]].ask("l0", name=way[1]) for way in ways if way[1].split()[0] not in BUDGETED}
    for who, name in ways:
        running[who].ask("end", name=name)
    return [row_of(pair, dead, seconds, l0) for pair in pairs]


def row_of(pair: tuple[str, str], dead: float, seconds: dict, l0: dict) -> dict[str, Any]:
    bf16, fp32 = ("ours", f"{pair[1]} bf16"), ("ours", f"{pair[1]} fp32")
    best, exact = ratio(seconds, pair, bf16), ratio(seconds, pair, fp32)
    bar = None if dead else BARS[pair]
    return {
        "peer": f"{NAMES[pair[0]]} {pair[1]}" + (", AuxK active" if dead else ""),
        "theirs, tokens/s": B / median(seconds[pair]), "ours bf16, tokens/s": B / median(seconds[bf16]),
        "ours fp32, tokens/s": B / median(seconds[fp32]), "times faster": best["median"], "low": best["low"],
        "high": best["high"], "times faster, fp32": exact["median"], "bar": bar or "",
        "met": "" if bar is None else "yes" if best["median"] >= bar else "NO",
        "L0 while timed, ours / theirs": f"{l0[bf16]:.0f} / {l0[pair]:.0f}" if pair in l0 else f"{K} / {K}",
    }  # fmt: skip


# --- as much learned in the same steps -----------------------------------------------------------------------------

OTHERS = ("matryoshka", "relu", "gated", "jumprelu")  # what `quality` leaves out
WEIGHT = 2.0  # of the L1 penalty, on both sides
SPARSER = {"relu": {"sparsity": 1.6 * WEIGHT}, "gated": {"sparsity": 1.4 * WEIGHT}, "jumprelu": {"k": 28}}  # ours again


def fvu(threads: int = 2) -> None:
    """Held-out FVU after the same steps on the same batches, each at its tool's best rate of `peers_quality`.

    The L1 weight is the same on both sides, JumpReLU has its tool's own penalty. Theirs end with fewer latents on,
    so ours run once more with a stronger penalty, to an L0 no higher: read both columns.
    """
    tokens = SMALL["steps"] * SMALL["batch"]
    with workers(tokens + 24_576, threads) as running:
        if not running:
            return
        tries = [("ours", kind, {}) for kind in OTHERS] + [("ours", *sparser) for sparser in SPARSER.items()]
        tries += [("saelens", kind, {}) for kind in OTHERS]
        found = [
            (who, kind, options, one_run(running[who], kind, tokens, best_rate(who), SEEDS[0], **options))
            for who, kind, options in tries
        ]
    rows = [
        {"trainer": f"{NAMES.get(who, 'saekit')} {kind}{', sparser' if options else ''}", "FVU": run["fvu"],
         "L0": run["l0"], "dead share": run["dead"], "FVU at L0 32": run["fvu_at_k"] if kind == "matryoshka" else ""}
        for who, kind, options, run in found
    ]  # fmt: skip
    title = f"Held-out FVU in eval mode after {tokens:,} tokens, d_sae {SMALL['d_sae']}, the other kinds"
    report("peers_fvu", title, rows, "FVU")


def best_rate(who: str) -> float:
    """A tool's rate for TopK in the grid of `peers_quality`, which runs before this."""
    rows = json.loads((RESULTS / "peers_quality.json").read_text())["rows"]
    return {row["trainer"]: float(row["best rate"]) for row in rows}[f"{NAMES.get(who, 'saekit')} topk"]


# --- quality at equal tokens ---------------------------------------------------------------------------------------

RATES, SEEDS = (2e-3, 5e-3, 1.2e-2), (0, 1, 2)
SMALL = {"d_sae": 2048, "batch": 1024, "steps": 300}
QUALITY = {
    "saelens": ("topk", "batch_topk"), "dictionary": ("topk", "batch_topk"), "sparsify_peer": ("topk",),
    "ours": ("topk", "batch_topk"),
}  # fmt: skip


def quality(threads: int = 2) -> None:
    """A grid of learning rates for each, then seeds at its best; FVU at L0 32, dead share."""
    tokens = SMALL["steps"] * SMALL["batch"]
    with workers(tokens + 24_576, threads) as running:
        if not running:
            return
        rows = [compared(running[who], kind, tokens) for who, kinds in QUALITY.items() for kind in kinds]
        short = [after_50_steps(running[who], tokens) for who in ("ours", "saelens")]
    peers = [row for row in rows if not row["trainer"].startswith("saekit")]
    best = min(row["FVU at L0 32"] for row in peers)
    for row in rows:
        row["relative to the best peer"] = row["FVU at L0 32"] / best - 1
    title = (
        f"Quality after {tokens:,} tokens: d_sae {SMALL['d_sae']}, k {K}, {SMALL['steps']} steps of {SMALL['batch']}, "
        f"rates {', '.join(f'{r:g}' for r in RATES)} for all, mean of {len(SEEDS)} seeds at the best"
    )
    report("peers_quality", title, rows, "FVU at L0 32")
    report("peers_l0", "Eval-mode L0 of BatchTopK with k 16 after 50 steps of 2,048 tokens", short, "eval-mode L0")


def compared(worker: Worker, kind: str, tokens: int) -> dict[str, Any]:
    """The best rate of the grid, then seeds. TopK has L0 32 as it is, BatchTopK with a threshold that gives 32."""
    score = "fvu" if kind == "topk" else "fvu_at_k"
    grid = {rate: one_run(worker, kind, tokens, rate, SEEDS[0]) for rate in RATES}
    rate = min(grid, key=lambda r: grid[r][score])
    runs = [grid[rate], *(one_run(worker, kind, tokens, rate, seed) for seed in SEEDS[1:])]
    average = {key: mean(run[key] for run in runs) for key in runs[0]}
    return {
        "trainer": f"{NAMES.get(worker.module, 'saekit')} {kind}", "best rate": f"{rate:g}",
        "FVU at L0 32": average[score], "lowest": min(run[score] for run in runs),
        "highest": max(run[score] for run in runs), "dead share": average["dead"],
        "own eval mode, L0": average["l0"], "own eval mode, FVU": average["fvu"],
        "grid": ", ".join(f"{grid[r][score]:.3f} at {r:g}" for r in RATES),
    }  # fmt: skip


def one_run(worker: Worker, kind: str, tokens: int, rate: float, seed: int, **options: float) -> dict[str, float]:
    settings = {"k": K, "sparsity": WEIGHT} | options
    worker.start("run", Setup(kind, D, lr=rate, seed=seed, fast=True, **settings, **SMALL))
    worker.ask("steps", name="run", first=0, n=SMALL["steps"])
    return worker.ask(
        "score", name="run", calibration=(tokens, tokens + 8_192), held_out=(tokens + 8_192, tokens + 24_576)
    )


def after_50_steps(worker: Worker, tokens: int) -> dict[str, Any]:
    worker.start("short", Setup("batch_topk", D, 1024, 16, 2048, 50, fast=True))
    worker.ask("steps", name="short", first=0, n=50)
    found = worker.ask(
        "score", name="short", calibration=(tokens, tokens + 8_192), held_out=(tokens + 8_192, tokens + 24_576)
    )
    return {"trainer": NAMES.get(worker.module, "saekit"), "k": 16, "eval-mode L0": found["l0"], "FVU": found["fvu"],
            "relative to k": found["l0"] / 16 - 1}  # fmt: skip
