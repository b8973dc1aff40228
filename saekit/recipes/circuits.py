"""Measure circuits with known answers on what ships, and write them to assets/measured.json under "circuits".

python -m saekit.recipes.circuits [--only brackets copying]        a quarter of an hour on one core

Each circuit is found on one set of prompts and tested on another, seeded differently; where a task has few prompts the
two overlap. Sites are the residual stream after layers 0, 1 and 2. After the last layer the latents are left out: what
is there is read by the unembedding alone, so they would say the answer over again. All that later layers know passes
each site, so a circuit of three sites has to be good at three cuts in a row; a second one ("alone") is of one site.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest, pearsonr, spearmanr

import saekit as sk
from saekit.circuits.curve import drawn_like
from saekit.lesson import known

from .measure import MEASURED, write

ALONE = 1  # the one site of a second circuit
SITES, SHARES, BAR = (0, 1, 2), (0.005, 0.01, 0.02, 0.049, 0.1), 0.049
FOUND, TESTED, SWAPPED, RANDOM, CHECKED = 64, 50, 200, 20, 4
TASKS: dict[str, Callable[..., known.Pairs]] = {
    "brackets": known.brackets,
    "copying": known.copying,
    "copying of six names": known.copying_few,
    "induction": known.induction,
    "induction of six names": known.induction_few,
}


def of_task(model: Any, coders: list[Any], make: Callable[..., known.Pairs], by: str) -> dict[str, Any]:
    """One task, with positions told apart or summed."""
    pairs, test, many = make(model, FOUND), make(model, TESTED, seed=1), make(model, SWAPPED, seed=2)
    circuit = sk.feature_circuit(model, coders, pairs.clean, pairs.targets, patch=pairs.patch, by=by, edges=0)
    active = len(circuit.active)
    sizes = [int(share * active) for share in SHARES]
    ask = {"patch": pairs.patch, "sizes": sizes, "random": RANDOM}
    curve = sk.faithfulness(model, coders, circuit, test.clean, test.targets, **ask)
    latents = circuit.latents(int(BAR * active))
    rng = np.random.default_rng(0)
    arms = {arm: rows.drop(columns="arm").to_dict("list") for arm, rows in curve.groupby("arm")}
    errors = circuit.nodes[circuit.nodes["kind"] == "error"].groupby("site")["effect"].sum()
    return {
        "active": active, "latents": len(latents), "right": right(model, many), "margin": curve.attrs["model"],
        "curve": arms, "levels": {arm: curve.attrs[arm] for arm in arms},
        "effects": circuit.sums.to_dict("list"), "errors": errors.to_dict(),
        "flips": flips(model, coders, latents, circuit, many),
        "random_flips": flips(model, coders, drawn_like(circuit.active, latents, rng), circuit, many),
    }  # fmt: skip


def right(model: Any, pairs: known.Pairs) -> dict[str, float]:
    """On how many prompts the right answer beats the wrong one."""
    return wilson((known.margins(model, pairs.clean, pairs.right, pairs.wrong) > 0).numpy())


def flips(
    model: Any, coders: list[Any], nodes: pd.DataFrame, circuit: sk.FeatureCircuit, pairs: known.Pairs
) -> dict[str, float]:
    """On how many of the prompts that are answered right a swap of these latents turns the answer to the patch's."""
    found = sk.swapped(model, coders, nodes, circuit.places, pairs.clean, pairs.patch, pairs.targets)
    was_right = found[found["before"] > 0]
    return wilson(was_right["flipped"].to_numpy())


def wilson(hits: np.ndarray) -> dict[str, float]:
    """A share with its 95 % interval."""
    low, high = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return {"value": float(hits.mean()), "low": low, "high": high, "n": len(hits)}


def agreement(model: Any, coders: list[Any], pairs: known.Pairs) -> dict[str, dict[str, float]]:
    """How well gradients foretell ablation to the patch, over all nodes of some prompts."""
    rows = []
    for i, target in enumerate(pairs.targets[:CHECKED]):
        given = model, coders, pairs.clean[i], target
        tables = [f(*given, patch=pairs.patch[i]) for f in (sk.attribute, sk.integrated_gradients, sk.ablations)]
        keys = ["site", "pos", "kind", "latent"]
        rows.append(
            pd.concat([table.set_index(keys)["effect"] for table in tables], axis=1, keys=["atp", "ig", "exact"])
        )
    table = pd.concat(rows)
    return {
        name: {"pearson": float(pearsonr(table[name], table.exact)[0]),
               "spearman": float(spearmanr(table[name], table.exact)[0]), "n": len(table)}
        for name in ("atp", "ig")
    }  # fmt: skip


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    model, before = sk.load_model(), json.loads(MEASURED.read_text()).get("circuits", {})
    coders = [sk.load(f"tiny-python/resid.{layer}/batch_topk") for layer in SITES]
    for name in names:
        ways = ("position", "sum") if name == "brackets" else ("position",)
        found: dict[str, Any] = {by: of_task(model, coders, TASKS[name], by) for by in ways}
        found["alone"] = of_task(model, coders[ALONE : ALONE + 1], TASKS[name], "position")
        found["agreement"] = agreement(model, coders, TASKS[name](model, CHECKED, seed=3))
        before[name] = found
        kept = pd.DataFrame(found["position"]["curve"]["errors kept"])
        print(name, found["position"]["flips"], found["agreement"], kept.round(2).to_string(), sep="\n", flush=True)
        write({"circuits": before | {"sites": list(SITES), "share": BAR}})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    main(parser.parse_args().only)
