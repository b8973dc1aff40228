"""Interleaved repeats, peak memory of a fresh process, and the files that a benchmark leaves behind."""

import html
import json
import math
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
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


COLOURS = ("#0072b2", "#d55e00", "#555555", "#009e73")
MARKS = ("circle", "square", "diamond", "circle")


def curves(name: str, title: str, x_name: str, x: Sequence[float], y_name: str, series: dict[str, list[float]]) -> None:
    """results/name.svg: lines over x, both axes logarithmic, with a grid at the x values and at powers of ten."""
    low, high = (
        math.floor(math.log10(min(map(min, series.values())))),
        math.ceil(math.log10(max(map(max, series.values())))),
    )

    def at(a: float, b: float) -> tuple[float, float]:
        right = (math.log(a) - math.log(x[0])) / (math.log(x[-1]) - math.log(x[0]))
        return 70 + 480 * right, 340 - 280 * (math.log10(b) - low) / (high - low)

    parts = [f'<text x="8" y="20" font-weight="600">{html.escape(title)}</text>']
    for value in x:
        left, _ = at(value, 10**low)
        parts.append(f'<path d="M{left:.1f} 60V340" stroke="#ddd"/>')
        parts.append(f'<text x="{left:.1f}" y="358" text-anchor="middle">{value:,}</text>')
    for power in range(low, high + 1):
        _, top = at(x[0], 10**power)
        parts.append(f'<path d="M70 {top:.1f}H550" stroke="#ddd"/>')
        parts.append(f'<text x="62" y="{top + 4:.1f}" text-anchor="end">{10**power:,}</text>')
    parts += [f'<text x="310" y="380" text-anchor="middle">{x_name}</text>', f'<text x="8" y="46">{y_name}</text>']
    for i, (label, values) in enumerate(series.items()):
        points = [at(a, b) for a, b in zip(x, values, strict=True)]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[i]}" stroke-width="2"/>')
        parts += [_mark(MARKS[i], COLOURS[i], a, b) for a, b in [*points, (78, 404 + 20 * i)]]
        parts.append(f'<text x="92" y="{408 + 20 * i}">{html.escape(label)}</text>')
    height = 414 + 20 * len(series)
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" font-family="sans-serif" '
           f'font-size="13"><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n')  # fmt: skip
    (RESULTS / f"{name}.svg").write_text(svg)


def _mark(shape: str, colour: str, x: float, y: float) -> str:
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if shape == "diamond" else ""
    return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="{colour}"{turn}/>'
