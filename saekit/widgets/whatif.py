"""What the next token would be if latents of a graph were changed: run by the model, or as the graph predicts it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

from ..viz.web import short
from .wiring import Wiring

SHOWN = 5  # rows
PREDICTED = "linear prediction: gates and attention held"
RUN = "run by the model: latents downstream are computed again, attention held"


def answers(wiring: Wiring, model: Any, changes: Mapping[int, float]) -> dict[str, Any]:
    """Rows of the read-out: for targets that are tokens the probabilities, with all others as one; else their values.

    Without changes nothing is run. Without a model, or for a graph without coders, the change of each logit is
    `graph.predict(changes)`, and the tokens that are no targets are taken not to change.
    """
    logits = np.flatnonzero(wiring.kind == "logit")
    likely = bool((wiring.index[logits] >= 0).all())
    run = changes and model is not None and wiring.graph.coders is not None
    before, after = (_run if run else _predicted)(wiring, model, changes, logits, likely)
    names = [short(wiring.names[i], 10) for i in logits] + ["others"] * likely
    most = 1.0 if likely else max(np.abs([*before, *after]).max(), 1e-30)
    rows = [
        {"name": name, "before": float(a), "after": float(b), "probability": likely,
         "bars": (abs(a) / most, abs(b) / most)}
        for name, a, b in zip(names, before, after, strict=True)
    ]  # fmt: skip
    how = RUN if run else PREDICTED + ", the other tokens taken not to move" * likely
    scale = "Next-token probability" if likely else "Value of the target"
    return {"logits": _fewer(rows, likely), "how": how, "scale": scale}


def _fewer(rows: list[dict[str, Any]], likely: bool) -> list[dict[str, Any]]:
    """The likeliest; what is left of the probabilities goes to the others."""
    *rows, others = rows if likely else [*rows, None]
    rows = sorted(rows, key=lambda row: -max(row["before"], row["after"]) if likely else 0)
    if others is None:
        return rows[:SHOWN]
    for row in rows[SHOWN - 1 :]:
        for side in ("before", "after"):
            others[side] += row[side]
    return [*rows[: SHOWN - 1], others | {"bars": (others["before"], others["after"])}]


def _run(
    wiring: Wiring, model: Any, changes: Mapping[int, float], logits: np.ndarray, likely: bool
) -> tuple[np.ndarray, np.ndarray]:
    outcome = wiring.graph.intervene(model, changes, constrained=False)
    if not likely:
        return outcome.before[logits], outcome.after[logits]
    return tuple(_with_others(_softmax(z)[wiring.index[logits]]) for z in (outcome.logits_before, outcome.logits_after))


def _predicted(
    wiring: Wiring, model: Any, changes: Mapping[int, float], logits: np.ndarray, likely: bool
) -> tuple[np.ndarray, np.ndarray]:
    moved = wiring.graph.predict(changes, constrained=False)[logits]
    if not likely:
        return wiring.graph.totals[logits], wiring.graph.totals[logits] + moved
    p = _with_others(wiring.probability[logits])
    grown = p * np.exp(np.append(moved - moved.max(), -moved.max()))
    return p, grown / grown.sum()


def _with_others(p: Float64[np.ndarray, " targets"]) -> Float64[np.ndarray, " rows"]:
    return np.append(p, max(1 - p.sum(), 0.0))


def _softmax(z: Float64[np.ndarray, " vocab"]) -> Float64[np.ndarray, " vocab"]:
    e = np.exp(z - z.max())
    return e / e.sum()
