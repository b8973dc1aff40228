"""Growth over d_sae: time of a training step beside one dense product, and peak memory beside SAELens."""

import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench.measure import REPEATS, curves, interleaved, report
from bench.race.ours import Ours
from bench.race.wire import Setup, Worker
from bench.training import D, K, activations

SIZES = tuple(1024 * 2**i for i in range(7))
B = 2048
WIDE, WIDE_BATCH = 32_768, 4_096  # where peak memory is compared


def main() -> None:
    time()
    memory()


def time(repeats: int = REPEATS) -> None:
    """Time per token over d_sae, the slope of each in a log-log plot, and what one more latent costs.

    A step is `a + b d_sae`: the encoder's product grows, the work on the k entries of a token does not. So its slope
    is below that of the product while a counts; `b` is compared from the two largest sizes.
    """
    x = activations(B)[:B]
    seconds = {size: of_size(x, size, repeats) for size in SIZES}
    ways = list(seconds[SIZES[0]])
    micro = {way: [1e6 * median(seconds[size][way]) / B for size in SIZES] for way in ways}
    slopes = {way: slope(SIZES, micro[way]) for way in ways}
    upper = {way: slope(SIZES[3:], micro[way][3:]) for way in ways}
    more = {way: 1e3 * (micro[way][-1] - micro[way][-2]) / (SIZES[-1] - SIZES[-2]) for way in ways}
    rows = [{"d_sae": size} | {f"{way}, µs a token": micro[way][i] for way in ways} for i, size in enumerate(SIZES)]
    title = f"Growth of a TopK training step with d_sae: d_in {D}, k {K}, batch {B}"
    report(
        "growth",
        title,
        rows,
        f"{ways[0]}, µs a token",
        {"slopes": slopes, "slopes from 8k on": upper, "ns a token for one more latent": more},
    )
    labels = {f"{way} (slope {slopes[way]:.2f}, from 8k on {upper[way]:.2f})": micro[way] for way in ways}
    curves("growth", title, "d_sae", SIZES, "µs a token", labels)


def of_size(x: torch.Tensor, size: int, repeats: int) -> dict[str, list[float]]:
    W = torch.randn(size, D).T  # laid out as the encoder's weight is
    ways: dict[str, Any] = {}
    for name, fast in (("our step, bf16", True), ("our step, fp32", False)):
        ours = Ours(Setup("topk", D, size, K, B, 10**6, fast=fast), x)
        ways[name] = lambda ours=ours: ours.step(x)
    ways["dense product, fp32"] = lambda: x @ W
    return interleaved(ways, repeats)


def slope(sizes: tuple[int, ...], values: list[float]) -> float:
    """Least squares in log-log."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def memory() -> None:
    """Peak resident memory of a process that takes three steps, ours and SAELens', above what it is at rest."""
    contestants = {"saekit bf16": (sys.executable, "ours", True), "saekit fp32": (sys.executable, "ours", False)}
    if python := os.environ.get("PEERS_PYTHON"):
        contestants["SAELens fp32"] = (python, "saelens", False)
    else:
        print("PEERS_PYTHON is not set: the peak of SAELens is left out (bench/peers.py says how)")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "activations.npy"
        np.save(data, activations(2 * WIDE_BATCH)[: 2 * WIDE_BATCH].numpy())
        rows = [{"trainer": name} | peak(*how, data) for name, how in contestants.items()]
    if python:
        rows = [row | {"share of SAELens": row["peak MB"] / rows[-1]["peak MB"]} for row in rows]
    title = f"Peak memory of a TopK training step, d_in {D}, d_sae {WIDE}, batch {WIDE_BATCH}"
    report("growth_memory", title, rows, "peak MB")


def peak(python: str, module: str, fast: bool, data: Path) -> dict[str, float]:
    worker = Worker(python, module, data, torch.get_num_threads())
    rest = worker.ask("peak_mb")
    worker.start("wide", Setup("topk", D, WIDE, K, WIDE_BATCH, 10**6, fast=fast))
    worker.ask("steps", name="wide", first=0, n=3)
    found = worker.ask("peak_mb")
    worker.close()
    return {"peak MB": found, "of these at rest": rest, "above rest": found - rest}


if __name__ == "__main__":
    main()
