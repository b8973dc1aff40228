"""Attribution graphs: rows a second and memory beside the expanded batch, influence, and how a trace grows."""

import time
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
BATCHES = (16, 64, 256)
LENGTHS = (8, 16, 32, 64, 128)
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


def rows(length: int = 24) -> None:
    """Rows of the last layer's latents, both ways, with the same numbers; peak memory of a process that makes them."""
    torch.manual_seed(0)
    found, table = sources(length), []
    tap, active = found.frozen.banks[-1].site.read, found.active[-1]
    for batch in BATCHES:
        some = torch.randperm(len(active.pos))[:batch]
        pos, seeds = active.pos[some], active.seed[some]
        copies = ExpandedBatch(found, batch)
        ways = {"ours": lambda p=pos, s=seeds: contributions(found, tap, p, s),
                "expanded batch": lambda p=pos, s=seeds, c=copies: c.rows(tap, p, s)}  # fmt: skip
        a, b = (call() for call in ways.values())
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        seconds = interleaved(ways, inner=2)
        peaks = {f"{name}, peak MB": peak_mb(_peak, name, length, batch) for name in ("at rest", *ways)}
        speed = {f"{name}, rows/s": batch / median(seconds[name]) for name in ways}
        times = ratio(seconds, "expanded batch", "ours")
        table.append({"batch": batch} | speed | {"times faster": times["median"], "low": times["low"],
                     "high": times["high"]} | peaks)  # fmt: skip
    title = f"Rows of an attribution graph of {length} tokens: vector-Jacobian products of one prompt or of copies"
    report("graph_rows", title, table, "times faster")


def _peak(way: str, length: int, batch: int) -> None:
    torch.set_num_threads(1)
    found = sources(length)
    tap, active = found.frozen.banks[-1].site.read, found.active[-1]
    pos, seeds = active.pos[:batch], active.seed[:batch]
    if way == "ours":
        contributions(found, tap, pos, seeds)
    elif way == "expanded batch":
        ExpandedBatch(found, batch).rows(tap, pos, seeds)


def series() -> None:
    """Influence in one sweep of sparse rows beside the power series on a dense matrix, normalisation in both."""
    graph = layered(NODES, LAYERS)
    dense, p = (
        torch.tensor(graph.weights.toarray()).float(),
        torch.tensor(graph.nodes["probability"].to_numpy()).float(),
    )
    difference = float(np.abs(graph.influence() - power_series(dense, p).double().numpy()).max())
    seconds = interleaved({"sweep": graph.influence, "power series": lambda: power_series(dense, p)})
    times = ratio(seconds, "power series", "sweep")
    table = [{"way": name, "ms": 1e3 * median(each)} for name, each in seconds.items()]
    extra = {"times faster": times, "largest difference": difference, "edges": int(graph.weights.nnz)}
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
    counts = [2**i for i in range(7, 13)]
    rows = [_seconds(model, coders, 64, bound=0.0, nodes=n) for n in counts]
    curves("graph_growth_rows", "A trace of 64 tokens over the latents that get a row", "rows", counts, "seconds",
           {"bound 0": rows})  # fmt: skip


def _seconds(model, coders, length: int, **options) -> float:
    tokens, start = prompt(model, length), time.perf_counter()
    sk.trace(model, coders, tokens, **options)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
