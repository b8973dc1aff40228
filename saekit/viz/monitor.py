"""The picture of a training run: six small figures, the best latent so far, and what happened."""

from collections.abc import Mapping, Sequence
from typing import Any

from .chart import Axes, figure, text, thin
from .html import THIN, count, esc, fixed, percent
from .marks import COLOUR, SHAPE, family, painted, shape, strip
from .notes import button, note, progress

SIZE = (292, 132)
BOX = (34, 270, 10, 104)
BINS = 20  # of density: quarters of a decade from 0.001 % to 100 %


def monitor(run: Mapping[str, Any]) -> str:
    """A run as one frame. `run` is what `widgets.TrainMonitor.compute` gives."""
    return (
        f'<section class="sk" aria-label="Training monitor">{_head(run)}{_progress(run)}{_settings(run)}'
        f'<div class="sk-body sk-rule">{_message(run)}{_figures(run)}{_lower(run)}</div>{_foot(run)}</section>'
    )


def _head(run: Mapping[str, Any]) -> str:
    controls = ""
    if run["controls"]:
        running, paused = run["state"] == "running", run["state"] == "paused"
        start = (
            button("▶ Resume", "resume", kind="is-main") if paused else button("‖ Pause", "pause", disabled=not running)
        )
        if run["settings"] and not (running or paused):
            start = button("▶ Start" if run["state"] == "ready" else "▶ Start again", "start", kind="is-main")
        stop = button("■ Stop and keep", "stop", disabled=not (running or paused), urgent=True)
        controls = f'<span class="sk-group" role="group" aria-label="Run">{start}{stop}</span>'
    return (
        f'<div class="sk-head"><div><h3 class="sk-title">{esc(_finding(run))}</h3>'
        f'<p class="sk-sub">{run["about"]}</p></div>{controls}</div>'
    )


def _finding(run: Mapping[str, Any]) -> str:
    fvu, step = run["history"].get("fvu") or [], count(run["step"])
    explained = f"{fixed(100 - 100 * fvu[-1], 1)}{THIN}% of the variance explained" if fvu else ""
    if fvu and fvu[-1] >= 1:
        explained = f"worse than always giving the mean (FVU {fixed(fvu[-1], 1)})"
    l0 = (run["history"].get("l0") or [None])[-1]
    by = f" by {fixed(l0, 1)} latents per {run['unit']}" if l0 is not None else ""
    return {
        "ready": "Ready to train",
        "running": f"Training: {explained}{by}" if fvu else "Training begins",
        "paused": f"Paused at step {step}; nothing is lost",
        "stopped": f"Stopped at step {step}: {explained}{by}; the coder so far is kept",
        "failed": f"Stopped at step {step}: the loss was no longer a number",
        "done": f"Trained: {explained}{by}",
    }[run["state"]]


def _progress(run: Mapping[str, Any]) -> str:
    step, steps = run["step"], run["steps"]
    if run["state"] == "ready":
        return ""
    words = f"step <b>{count(step)}</b> of {count(steps)}"
    if run["state"] == "running" and step:
        left = run["seconds"] / step * (steps - step)
        words += f" · <b>{_time(left)}</b> left"
    elif run["state"] in ("done", "stopped", "failed"):
        words += f" in {_time(run['seconds'])}"
    else:
        words += f" · {run['state']}"
    return (
        f'<div class="tm-run">{progress(step / max(steps, 1), "Training progress")}'
        f'<span class="sk-cap" role="status">{words}</span></div>'
    )


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _settings(run: Mapping[str, Any]) -> str:
    if not run["settings"]:
        return ""
    fields = []
    for name, (label, value, notches) in run["settings"].items():
        fields.append(
            f'<div class="sk-field"><label for="tm-{name}-{run["id"]}">{esc(label)} <output>{esc(notches[value])}</output></label>'
            f'<input id="tm-{name}-{run["id"]}" type="range" min="0" max="{len(notches) - 1}" step="1" value="{value}" '
            f'data-act="{name}" data-names="{esc(" ".join(notches))}"></div>'
        )
    return (
        '<div class="tm-set sk-rule" role="group" aria-label="Settings; changes apply to the next start">'
        f"{''.join(fields)}</div>"
    )


def _message(run: Mapping[str, Any]) -> str:
    if run["state"] == "failed":
        kept = f"What was learned up to step {count(run['step'])} is kept. A lower rate usually mends it."
        return note("bad", f"The loss became infinite or NaN after step {count(run['step'])}.", kept)
    if run["state"] == "stopped":
        return note("good", f"Stopped at step {count(run['step'])} of {count(run['steps'])}.", run["kept"])
    return ""


# -- the six figures


def _figures(run: Mapping[str, Any]) -> str:
    if not run["history"].get("fvu"):
        return '<div class="sk-empty"><b>No step yet</b><span>The first figures come after a few steps.</span></div>'
    parts = [_fvu(run), _l0(run), _dead(run), _density(run), _labels(run), _cosines(run), _norms(run)]
    return f'<div class="sk-cols tm">{"".join(part for part in parts if part)}</div>'


def _axes(run: Mapping[str, Any], y: tuple[float, float], log_y: bool = False, right: float = BOX[1]) -> Axes:
    return Axes((BOX[0], right, *BOX[2:]), (0, run["total_tokens"]), y, log_y)


def _floor(axes: Axes, run: Mapping[str, Any]) -> str:
    """Three values of the token axis, the unit at the last."""
    total = run["total_tokens"]
    unit, name = (1e6, "M") if total >= 2e6 else (1e3, "k")
    digits = 0 if total / unit >= 8 else 1
    ticks = [(total * i / 4, fixed(total * i / 4 / unit, digits) + (f" {name}" if i == 4 else "")) for i in (0, 2, 4)]
    return axes.floor(ticks)


def _last(axes: Axes, xs: Sequence[float], ys: Sequence[float], words: str, below: bool = False) -> str:
    """The newest point, and its value beside it."""
    x, y = axes.px(xs[-1]), axes.py(ys[-1])
    dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="var(--sk-ink)"/>'
    if x > axes.right - 44:
        return dot + text(x, y + (16 if below else -7), words, "end", strong=True, halo=True)
    return dot + text(x + 6, y + (13 if below else 4), words, strong=True, halo=True)


def _series(run: Mapping[str, Any], name: str) -> tuple[list[float], list[float]]:
    history = run["history"]
    return thin(history["tokens"]), thin(history[name])


def _fvu(run: Mapping[str, Any]) -> str:
    xs, ys = _series(run, "fvu")
    high = next(top for top in (1, 10, 100, 10**9) if max(run["history"]["fvu"]) <= top * 1.05)
    low = 0.05 if min(ys) >= 0.05 else 0.005
    axes = _axes(run, (low, high), log_y=True)
    ghost = run["ghost"]
    pale = axes.line(thin(ghost["tokens"]), thin(ghost["fvu"]), "var(--sk-mark-soft)") if ghost else ""
    ticks = [(0.05, "0.05"), (0.1, "0.1"), (0.3, "0.3"), (1, "1")] if high == 1 else [(0.1, "0.1"), (1, "1")]
    if low < 0.05:
        ticks = [(0.01, "0.01"), (0.1, "0.1"), (1, "1")]
    drawn = axes.grid(ticks + [(high, count(high))] * (high > 1)) + _floor(axes, run) + pale
    if run["pca"]:
        drawn += axes.level(run["pca"], f"PCA, {run['pca_axes']} axes")
    drawn += axes.line(xs, ys) + _last(axes, xs, ys, fixed(ys[-1], 3))
    full = run["history"]["fvu"]
    before = full[int(0.8 * len(full))]
    falling = (
        "is still falling" if ys[-1] < 0.97 * before else "is rising" if ys[-1] > 1.05 * before else "has levelled off"
    )
    words = "is falling fast" if ys[-1] < 0.8 * before else "has hardly begun to fall" if len(full) < 8 else falling
    words = "is above 1: worse than the mean" if ys[-1] >= 1 and len(full) > 1 else words
    pale_words = "; pale: last run" if ghost else ""
    return figure(f"Unexplained variance {words}", f"FVU by {run['unit']}s, log axis{pale_words}", drawn, SIZE)


def _l0(run: Mapping[str, Any]) -> str:
    xs, ys = _series(run, "l0")
    target = run["target_l0"]
    # A coder may start with half of its latents on; the figure keeps to where it ends.
    top = max(1.5 * (target or 0), 1.25 * ys[-1], 4)
    axes = _axes(run, (0, top))
    ticks = [(top * i / 3, fixed(top * i / 3, 0)) for i in range(4)]
    drawn = axes.grid(ticks) + _floor(axes, run) + (axes.level(target) if target else "")
    drawn += axes.line(xs, ys) + _last(axes, xs, ys, fixed(ys[-1], 1), below=True)
    title = f"{fixed(ys[-1], 1)} latents are on per {run['unit']}"
    if target:
        off = ys[-1] / target - 1
        where = "holds at" if abs(off) < 0.05 else "is above" if off > 0 else "is below"
        title = f"L0 {where} its target of {target:g}"
    return figure(title, f"latents on per {run['unit']}", drawn, SIZE)


def _dead(run: Mapping[str, Any]) -> str:
    xs, ys = _series(run, "dead")
    top = max(0.1, 1.2 * max(ys))
    axes = _axes(run, (0, top))
    ticks = [(top * i / 2, percent(top * i / 2, 0)) for i in range(3)]
    area = f"{axes.path(xs, ys)}L{axes.px(xs[-1]):.1f} {axes.bottom}L{axes.px(xs[0]):.1f} {axes.bottom}Z"
    drawn = axes.grid(ticks) + _floor(axes, run) + f'<path d="{area}" fill="var(--sk-mark-soft)" opacity=".6"/>'
    drawn += axes.line(xs, ys) + _last(axes, xs, ys, percent(ys[-1]))
    title = "No latent is dead" if ys[-1] == 0 else f"{percent(ys[-1])} of the latents are dead"
    return figure(title, "share silent for a tenth of the run", drawn, SIZE)


HATCH = (
    '<defs><pattern id="{id}" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<line x1="0" y1="0" x2="0" y2="5" stroke="var(--sk-mark)" stroke-width="2"/></pattern></defs>'
)


def _density(run: Mapping[str, Any]) -> str:
    probe = run["probe"]
    if not probe:
        return ""
    bins, silent, n = probe["density_bins"], probe["silent"], probe["rows"]
    top = max(*bins, silent, 1)
    axes = Axes(BOX, (-1, BINS), (0, 1.1 * top))
    width = (BOX[1] - BOX[0]) / (BINS + 1)
    drawn = HATCH.format(id=f"tm-hatch-{run['id']}") + axes.grid(
        [(0, "0"), (top / 2, count(top / 2)), (top, count(top))]
    )
    for i, height in enumerate([silent, *bins]):
        fill = f'url(#tm-hatch-{run["id"]})" stroke="var(--sk-mark)' if i == 0 else "var(--sk-mark)"
        x, y = BOX[0] + i * width + 0.75, axes.py(height)
        drawn += f'<rect x="{x:.1f}" y="{y:.1f}" width="{width - 1.5:.1f}" height="{BOX[3] - y:.1f}" fill="{fill}"/>'
    drawn += axes.floor([(-0.5, "off"), (4, "0.01"), (8, "0.1"), (12, "1"), (16, "10"), (20, f"100{THIN}%")])
    low, high = probe["density_range"]
    title = f"Most latents fire on {percent(low)} to {percent(high)}"
    return figure(title, f"latents per bin of density, log axis; {count(n)} {run['seen']}", drawn, SIZE)


def _labels(run: Mapping[str, Any]) -> str:
    """The best F1 of any latent for each label, named at the end of its line."""
    curves = run["labels"]
    if not curves or not run["label_tokens"]:
        return ""
    right, xs = 178.0, thin(run["label_tokens"])
    axes = _axes(run, (0, 1), right=right)
    drawn = axes.grid([(0, "0"), (0.5, "0.5"), (1, "1")])
    drawn += axes.floor([(0, "0"), (run["total_tokens"] / 2, "half way")])
    ordered = sorted(curves.items(), key=lambda item: -item[1][-1])
    places = _apart([axes.py(values[-1]) + 4 for _, values in ordered], 13, BOX[3] + 4)
    for (name, values), words_y in zip(ordered, places, strict=True):
        ys, group = thin(values), family(name)
        colour, kind = f"var(--sk-c{COLOUR[group]})", SHAPE.get(group, "cross")
        x, y = axes.px(xs[-1]), axes.py(ys[-1])
        drawn += axes.line(xs, ys, colour) + painted(shape(kind, 3.4, x, y), group)
        drawn += f'<path d="M{x + 6:.1f} {y:.1f}L{right + 4} {words_y - 4:.1f}" stroke="var(--sk-line-2)"/>'
        drawn += painted(shape(kind, 3.4, right + 11, words_y - 4), group)
        drawn += (
            f'<text x="{right + 19}" y="{words_y:.1f}">{esc(name)} <tspan class="v">{fixed(values[-1])}</tspan></text>'
        )
    names = [name for name, _ in ordered[:2]]
    title = f"Best latents: {names[0]}" + (f", then {names[1]}" if len(names) > 1 else "")
    return figure(title, "F1 of the best latent for each label, held-out tokens", drawn, SIZE)


def _apart(places: list[float], gap: float, lowest: float) -> list[float]:
    """Falling places moved so that words `gap` high do not overlap and none is below `lowest`."""
    out: list[float] = []
    for y in places:
        out.append(max(y, out[-1] + gap) if out else y)
    for i in range(len(out) - 1, -1, -1):
        limit = lowest if i == len(out) - 1 else out[i + 1] - gap
        out[i] = min(out[i], limit)
    return out


def _cosines(run: Mapping[str, Any]) -> str:
    """How near the true features the dictionary has come: a toy's answer key."""
    rows, probe = run["cosines"], run["probe"]
    if not rows:
        return ""
    axes = _axes(run, (0, 1))
    drawn = axes.grid([(0, "0"), (0.5, "0.5"), (1, "1")]) + _floor(axes, run)
    drawn += _band(axes, thin(run["label_tokens"]), rows, fixed(rows[-1][1]), below=True) + axes.level(probe["bar"])
    title = f"{probe['found']} of {probe['n_features']} true features are found"
    return figure(title, f"best cosine of each: median, 10th to 90th percentile; dotted: {probe['bar']}", drawn, SIZE)


def _band(axes: Axes, xs: list[float], rows: Sequence[Sequence[float]], words: str, below: bool = False) -> str:
    """Low, middle and high: a band, a line, and the newest value."""
    low, middle, high = (thin([row[i] for row in rows]) for i in range(3))
    down = axes.path(xs[::-1], low[::-1]).replace("M", "L", 1)
    band = f'<path d="{axes.path(xs, high)}{down}Z" fill="var(--sk-mark-soft)" opacity=".7"/>'
    return band + axes.line(xs, middle) + _last(axes, xs, middle, words, below)


def _norms(run: Mapping[str, Any]) -> str:
    rows = run["norms"]
    if not rows:
        return ""
    low, _, high = zip(*rows, strict=True)
    top = max(2.0, 1.2 * max(high))
    axes = _axes(run, (0, top))
    drawn = axes.grid([(0, "0"), (top / 2, fixed(top / 2, 1)), (top, fixed(top, 1))]) + _floor(axes, run)
    drawn += _band(axes, thin(run["label_tokens"]), rows, fixed(rows[-1][1]))
    same = max(high) - min(low) < 0.02
    title = "Decoder norms are held at 1" if same else f"Decoder norms run from {fixed(low[-1])} to {fixed(high[-1])}"
    return figure(title, "median; band from the 10th to the 90th percentile", drawn, SIZE)


# -- below


def _lower(run: Mapping[str, Any]) -> str:
    best, events = run["best"], run["events"]
    parts = ""
    if best:
        examples = "".join(strip(e["tokens"], e["values"], best["max"]) for e in best["examples"])
        parts += (
            f'<div class="sk-panel"><h4>Best latent so far: {best["latent"]}, {esc(best["label"])}, F1 {fixed(best["f1"])} '
            f'<span class="sk-unit">always-fire {fixed(best["always_fire"])}</span></h4>{examples}</div>'
        )
    rows = "".join(
        f'<dt class="sk-num">step {count(step)}</dt><dd>{esc(words)}</dd>' for step, words in events[-4:][::-1]
    )
    if rows:
        parts += f'<div class="sk-panel"><h4>What happened</h4><dl class="tm-log">{rows}</dl></div>'
    return f'<div class="sk-cols sk-collapse tm-low">{parts}</div>' if parts else ""


def _foot(run: Mapping[str, Any]) -> str:
    speed = run["step"] * run["batch_size"] / run["seconds"] if run["seconds"] else 0
    facts = [f"<b>{count(round(speed, -2))}</b> {run['unit']}s/s"] if run["step"] else []
    facts += [esc(fact) for fact in run["facts"]]
    spans = "".join(f"<span>{fact}</span>" for fact in facts)
    return f'<div class="sk-foot">{spans}<span class="sk-push">drawn at most twice a second</span></div>'
