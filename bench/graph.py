"""Attribution graphs: rows a second and memory beside the expanded batch, influence, and how a trace grows."""

import time
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array

import saekit as sk
from bench.baselines import ExpandedBatch, power_series
from bench.measure import curves, interleaved, peak_mb, ratio, report
from saekit.circuits.frozen import Frozen
from saekit.circuits.graph import COLUMNS
from saekit.circuits.sources import Sources, contributions

TRANSCODERS = "tiny-python/mlp/transcoders"
BATCHES = (64, 256, 512)
LENGTHS = (8, 16, 32, 64)
NODES, LAYERS = 4000, 24


def main() -> None:
    rows()
    series()
    growth()


def sources(length: int) -> Sources:
    """A prompt of `length` tokens on the model that ships, with its transcoders."""
    model = sk.load_model()
    return Sources(Frozen(model, sk.load(TRANSCODERS), prompt(model, length)))


def prompt(model, length: int) -> torch.Tensor:
    """The first tokens of the held-out text."""
    return sk.load_corpus(model, split="held_out").tokens[:1, :length].clone()


def ours(length: int, batch: int) -> list[torch.Tensor]:
    """The rows of every latent, from the model on."""
    return all_rows(sources(length), batch, contributions)


def expanded(length: int, batch: int) -> list[torch.Tensor]:
    """The same from `batch` copies of the prompt; a smaller last batch leaves copies idle."""
    found = sources(length)
    copies = ExpandedBatch(found, batch)
    return all_rows(found, batch, lambda found, tap, pos, seeds: copies.rows(tap, pos, seeds))


def all_rows(found: Sources, batch: int, way) -> list[torch.Tensor]:
    made = []
    for bank, active in zip(found.frozen.banks, found.active, strict=True):
        for pos, seeds in zip(active.pos.split(batch), active.seed.split(batch), strict=True):
            made.append(way(found, bank.site.read, pos, seeds))
    return made


def rows(length: int = 24) -> None:
    """All rows of a graph both ways, from setting up to the last row, and the peak memory of a process doing that."""
    table = []
    for a, b in zip(ours(length, 64), expanded(length, 64), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    n = sum(len(active.pos) for active in sources(length).active)
    rest = peak_mb(sources, length)
    for batch in BATCHES:
        ways = {"ours": partial(ours, length, batch), "expanded batch": partial(expanded, length, batch)}
        seconds = interleaved(ways)
        speed = {f"{name}, rows/s": n / median(seconds[name]) for name in ways}
        times = ratio(seconds, "expanded batch", "ours")
        above = {f"{way.__name__}, MB above rest": peak_mb(way, length, batch) - rest for way in (ours, expanded)}
        table.append({"batch": batch} | speed | {"times faster": times["median"], "low": times["low"],
                     "high": times["high"]} | above)  # fmt: skip
    title = f"All {n:,} rows of a graph of {length} tokens: vector-Jacobian products of one prompt, or of copies"
    report("graph_rows", title, table, "times faster", {"MB at rest": rest})


def series() -> None:
    """Influence in one sweep of sparse rows beside the power series on a dense matrix.

    Both normalise the rows first; a graph keeps what it normalised, so that it is done once.
    """
    graph = layered(NODES, LAYERS)
    dense, p = (
        torch.tensor(graph.weights.toarray()).float(),
        torch.tensor(graph.nodes["probability"].to_numpy()).float(),
    )
    difference = float(np.abs(graph.influence() - power_series(dense, p).double().numpy()).max())
    ways = {"sweep": graph.influence, "sweep of a new graph": lambda: replace(graph).influence(),
            "power series": lambda: power_series(dense, p)}  # fmt: skip
    seconds = interleaved(ways)
    times, first = (ratio(seconds, "power series", name) for name in ("sweep", "sweep of a new graph"))
    table = [{"way": name, "ms": 1e3 * median(each)} for name, each in seconds.items()]
    extra = {"times faster": times, "times faster, new graph": first, "largest difference": difference,
             "edges": int(graph.weights.nnz)}  # fmt: skip
    title = f"Influence on {NODES:,} nodes in {LAYERS} layers: {times['median']:.0f} times faster"
    report("graph_influence", title, table, "ms", extra)


def layered(n: int, layers: int) -> sk.Graph:
    """Nodes in equal layers over 24 positions, an edge wherever causality allows one."""
    rng = np.random.default_rng(0)
    layer = np.arange(n) * layers // n
    pos = rng.integers(0, 24, n)
    kind = np.where(layer == 0, "token", np.where(layer == layers - 1, "logit", "latent"))
    pos[kind == "logit"] = 23
    p = np.where(kind == "logit", 1 / (kind == "logit").sum(), 0.0)
    columns = (kind, layer - 1, pos, np.arange(n), 1.0, p, "x")
    nodes = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
    allowed = (layer[None] < layer[:, None]) & (pos[None] <= pos[:, None]) & (layer[:, None] > 0)
    dense = np.where(allowed, rng.normal(size=(n, n)), 0.0)
    return sk.Graph(nodes, csr_array(dense), dense.sum(1), np.zeros(n), (), (), {"n_layers": layers})


def growth() -> None:
    """Seconds of a whole trace (bound 0) over the prompt's length, and of more and more rows of one prompt."""
    model, coders = sk.load_model(), sk.load(TRANSCODERS)
    traced = {}
    for length in LENGTHS:
        tokens, start = prompt(model, length), time.perf_counter()
        graph = sk.trace(model, coders, tokens, bound=0.0)
        traced[length] = time.perf_counter() - start, graph
    table = [{"tokens": n, "latents": int((g.nodes["kind"] == "latent").sum()), "rows": int(g.expanded.sum()),
              "edges": g.weights.nnz, "seconds": s} for n, (s, g) in traced.items()]  # fmt: skip
    title = "A whole trace (bound 0) on the model that ships, 4 transcoders, 32 latents a token and layer"
    report("graph_growth", title, table, "seconds")
    series = {"whole trace": [row["seconds"] for row in table]}
    for bound in (0.01, 0.05):
        series[f"bound {bound}"] = [_seconds(model, coders, n, bound=bound) for n in LENGTHS]
    curves("graph_growth", title, "tokens", LENGTHS, "seconds", series)
    counts = [2**i for i in range(8, 13)]
    rows = [_seconds(model, coders, 64, bound=0.0, nodes=n) for n in counts]
    curves("graph_growth_rows", "A trace of 64 tokens over the latents that get a row", "rows", counts, "seconds",
           {"bound 0": rows})  # fmt: skip


def _seconds(model, coders, length: int, **options) -> float:
    tokens, start = prompt(model, length), time.perf_counter()
    sk.trace(model, coders, tokens, **options)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
