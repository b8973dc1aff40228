"""Threads and precision: what is given, else what a short measurement finds fastest."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..coder import CoderStack, SparseCoder


@torch.no_grad()
def plan_for(coder: SparseCoder | CoderStack, x: Tensor, precision: str | None, threads: int | None) -> dict[str, Any]:
    """Threads and precision of the encoder product: what is given, else the fastest of a short measurement."""
    if precision not in (None, "float32", "bfloat16"):
        raise ValueError(f"precision={precision!r}: choose 'float32', 'bfloat16', or None to measure")
    counts = [threads] if threads else sorted({1, torch.get_num_threads()})
    precisions = [precision] if precision else ["float32", "bfloat16"]
    best = min((_seconds(coder, x, n, p), n, p) for n in counts for p in precisions)
    return {"threads": best[1], "precision": best[2]}


def _seconds(coder: SparseCoder | CoderStack, x: Tensor, threads: int, precision: str) -> float:
    with threads_set_to(threads):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            coder.pre_activations(x, precision == "bfloat16")
            times.append(time.perf_counter() - start)
    return min(times[1:])


@contextlib.contextmanager
def threads_set_to(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
