"""Interleaved repeats, peak memory of a fresh process, and the files that a benchmark leaves behind."""

import html
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
REPEATS = 5


def interleaved(ways: dict[str, Callable[[], Any]], repeats: int = REPEATS, inner: int = 1) -> dict[str, list[float]]:
    """Seconds per call of each way, A B C A B C ..., after an unmeasured round: drift of the machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(-1, repeats):
        for name, call in ways.items():
            start = time.perf_counter()
            for _ in range(inner):
                call()
            if repeat >= 0:
                seconds[name].append((time.perf_counter() - start) / inner)
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> dict[str, float]:
    """How many times faster, repeat by repeat: median, lowest and highest."""
    each = [s / f for s, f in zip(seconds[slow], seconds[fast], strict=True)]
    return {"median": statistics.median(each), "low": min(each), "high": max(each)}


def peak_mb(call: Callable[..., Any], *args: Any) -> float:
    """Peak resident memory, in MB, of a fresh process that does this and nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (call, args))


def _peak(call: Callable[..., Any], args: tuple[Any, ...]) -> float:
    call(*args)
    status = Path("/proc/self/status")  # on Linux, getrusage would report the parent's peak where that is higher
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def machine() -> dict[str, Any]:
    return {"python": platform.python_version(), "torch": torch.__version__.split("+")[0],
            "threads": torch.get_num_threads(), "machine": platform.machine()}  # fmt: skip


def report(name: str, title: str, rows: list[dict[str, Any]], bar: str, extra: dict[str, Any] | None = None) -> None:
    """results/name.json, a Markdown table, and bars of the column `bar`."""
    RESULTS.mkdir(exist_ok=True)
    content = {"title": title, "rows": rows, **(extra or {}), "machine": machine()}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    lines = [f"# {title}", "", "| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(_shown(v) for v in row.values()) + " |" for row in rows]
    (RESULTS / f"{name}.md").write_text("\n".join([*lines, ""]))
    (RESULTS / f"{name}.svg").write_text(_bars(title, rows, bar))
    print("\n".join(lines), "\n", flush=True)


def _shown(value: Any) -> str:
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and value < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def _bars(title: str, rows: list[dict[str, Any]], bar: str) -> str:
    longest = max(row[bar] for row in rows)
    label = next(iter(rows[0]))
    parts = [f'<text x="8" y="20" font-weight="600">{html.escape(title)}</text>']
    for i, row in enumerate(rows):
        y = 36 + 26 * i
        parts.append(f'<text x="8" y="{y + 13}">{html.escape(str(row[label]))}</text>')
        parts.append(f'<rect x="300" y="{y}" width="{320 * row[bar] / longest:.1f}" height="18" fill="#828487"/>')
        parts.append(
            f'<text x="{308 + 320 * row[bar] / longest:.1f}" y="{y + 13}">{_shown(row[bar])} {html.escape(bar)}</text>'
        )
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {44 + 26 * len(rows)}" font-family="sans-serif" '
            f'font-size="13"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n')  # fmt: skip
