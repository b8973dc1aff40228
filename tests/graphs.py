"""Random attribution graphs whose rows add up, for the tests of whatever reads a graph."""

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from saekit.circuits import Graph
from saekit.circuits.graph import COLUMNS

WORDS = ("def", " area", "(", "w", "):", "\n", "    ", "return")


def layered(seed: int = 0, *, layers: int = 3, tokens: int = 5, latents: int = 4, logits: int = 2) -> Graph:
    """`latents` at each layer and token but the first; an error at each; edges from below at random."""
    rng = np.random.default_rng(seed)
    rows = [("bias", -1, -1, -1, 0.0, 0.0, "bias"), ("bos", -1, 0, -1, 0.0, 0.0, "BOS")]
    words = ["<|endoftext|>", *(WORDS[i % len(WORDS)] for i in range(tokens - 1))]
    rows += [("token", -1, p, 10 + p, 0.0, 0.0, words[p]) for p in range(tokens)]
    rows += [("position", -1, p, -1, 0.0, 0.0, f"position {p}") for p in range(tokens)]
    for layer in range(layers):
        for p in range(1, tokens):
            chosen = np.sort(rng.choice(100, latents, replace=False))
            rows += [("latent", layer, p, int(i), float(rng.uniform(0.1, 3)), 0.0, f"{i}") for i in chosen]
        rows += [("error", layer, p, -1, 0.0, 0.0, f"error, layer {layer}") for p in range(1, tokens)]
    p = rng.dirichlet(np.ones(logits + 1))[:logits]
    rows += [("logit", layers, tokens - 1, 50 + i, 0.0, float(p[i]), f" out{i}") for i in range(logits)]
    nodes = pd.DataFrame(rows, columns=list(COLUMNS))
    layer, pos, n = nodes["layer"].to_numpy(), nodes["pos"].to_numpy(), len(nodes)
    target = nodes["kind"].isin(["latent", "logit"]).to_numpy()
    allowed = target[:, None] & (layer[None, :] < layer[:, None]) & (pos[None, :] <= pos[:, None])
    dense = np.where(allowed & (rng.random((n, n)) < 0.7), rng.normal(size=(n, n)), 0.0)
    return Graph(
        nodes, csr_array(dense), dense.sum(1), np.zeros(n), tuple(range(10, 10 + tokens)), tuple(words),
        {"name": "random", "processing": "raw", "d_model": 8, "n_layers": layers},
    )  # fmt: skip
