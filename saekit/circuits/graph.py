"""`Graph`: what made the logits of one prompt, as nodes and signed edges that add up."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from scipy.sparse import csr_array

KINDS = ("bias", "bos", "token", "position", "latent", "error", "logit")
COLUMNS = ("kind", "layer", "pos", "index", "activation", "probability", "label")


@dataclass(frozen=True, eq=False)
class Graph:
    """An attribution graph (Ameisen et al. 2025, Circuit Tracing): `weights[t, s]` is what source s adds to target t.

    Every row adds up: `weights[t].sum() + rest[t] == totals[t]`, where totals[t] is the pre-activation of a latent, or
    the value of a logit. An edge only runs upwards (s < t).

    nodes: one row a node, in the order of the computation; the index is 0, 1, ...
      kind         bias (all biases together), bos (what the MLPs write at the first token), token, position (their
                   embeddings), latent, error (what the transcoders of a layer leave out), logit
      layer        of a latent the layer it reads; -1 for bias, bos, token, position; n_layers for a logit
      pos          -1 for bias
      index        of a latent its number in its layer's transcoder; the vocabulary id of a token or a logit, -1 for
                   a target of several tokens; else -1
      activation   of a latent its value on this prompt; else 0
      probability  of a logit its weight in the influence, the model's probability; else 0
      label        what a reader sees; text from data, not escaped
    totals: 0 for nodes without a row: sources, and latents that were not expanded (`expanded`)
    rest: what the edges that were not kept, and in a pruned graph the nodes that were dropped, add to a row
    bound: the largest share of the influence that latents without a row could still explain
    coders: the transcoders; None in a graph read from a file, until given
    """

    nodes: pd.DataFrame
    weights: csr_array
    totals: Float64[np.ndarray, " nodes"]
    rest: Float64[np.ndarray, " nodes"]
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    model: Mapping[str, Any]
    coders: Any = field(default=None, repr=False)
    bound: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.nodes)
        if (*self.nodes.columns,) != COLUMNS or {*self.nodes["kind"]} - {*KINDS}:
            raise ValueError(f"nodes have columns {[*self.nodes.columns]}; they need {list(COLUMNS)}, kinds {KINDS}")
        if self.weights.shape != (n, n) or len(self.totals) != n or len(self.rest) != n:
            raise ValueError(
                f"{n} nodes, but weights {self.weights.shape}, {len(self.totals)} totals, {len(self.rest)} rests"
            )
        if len(self.ids) != len(self.tokens):
            raise ValueError(f"{len(self.ids)} token ids and {len(self.tokens)} tokens")
        entries = self.weights.tocoo()
        if (entries.row <= entries.col).any():
            raise ValueError("an edge runs downwards or from a node to itself; sources stand before their targets")

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        counts = self.nodes["kind"].value_counts()
        parts = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if kind in counts)
        return f"Graph({parts}; {self.weights.nnz:,} edges, {len(self.tokens)} tokens)"

    @property
    def expanded(self) -> np.ndarray:
        """Which nodes have a row."""
        return (np.diff(self.weights.indptr) > 0) | (self.totals != 0) | (self.rest != 0)

    @cached_property
    def shares(self) -> csr_array:
        """Each row's absolute weights, over their sum."""
        return shares(self.weights)

    @cached_property
    def blocks(self) -> tuple:
        """`shares` by layer, from the last to the first: what influence flows through."""
        from .influence import by_layer

        return tuple(block.compact() for block in by_layer(self, self.shares))

    def row(self, node: int) -> pd.DataFrame:
        """What makes a node: a line for each source, the strongest first, and for `rest` if any; they sum to its total.

        Columns: source (-1 for `rest`), label, contribution, share = contribution / total. Raises ValueError for a
        node without a row.
        """
        if not 0 <= node < len(self) or not self.expanded[node]:
            raise ValueError(f"node {node} has no row; graph.expanded says which have")
        span = slice(*self.weights.indptr[node : node + 2])
        source, value = self.weights.indices[span], self.weights.data[span]
        table = pd.DataFrame({"source": source, "label": self.nodes["label"].to_numpy()[source], "contribution": value})
        if self.rest[node] != 0:
            table.loc[len(table)] = -1, "rest", self.rest[node]
        table = table.sort_values("contribution", key=np.abs, ascending=False, ignore_index=True)
        return table.assign(share=table["contribution"] / self.totals[node])

    def influence(self) -> Float64[np.ndarray, " nodes"]:
        """How much of the targets each node explains through all paths: `circuits.influence.influence`."""
        from .influence import influence

        return influence(self)

    def prune(self, node: float = 0.8, edge: float = 0.98) -> "Graph":
        """The nodes and edges that hold these shares of the influence: `circuits.influence.prune`."""
        from .influence import prune

        return prune(self, node, edge)

    def scores(self) -> dict[str, float]:
        """Replacement and completeness: `circuits.influence.scores`."""
        from .influence import scores

        return scores(self)

    def predict(self, changes: Any, **options: Any) -> Float64[np.ndarray, " nodes"]:
        """By how much rows change when nodes are, by the graph alone: `circuits.intervene.predict`."""
        from .intervene import predict

        return predict(self, changes, **options)

    def intervene(self, model: Any, changes: Any, **options: Any) -> Any:
        """Change nodes and run the model: `circuits.intervene.intervene`."""
        from .intervene import intervene

        return intervene(self, model, changes, **options)

    def check(self, model: Any, top: int = 20, **options: Any) -> pd.DataFrame:
        """Predicted beside actual effects of the strongest latents: `circuits.intervene.check`."""
        from .intervene import check

        return check(self, model, top, **options)

    def faithfulness(self, model: Any, **options: Any) -> dict[str, Any]:
        """How much of the target these latents give on their own: `circuits.faithful.faithfulness`."""
        from .faithful import faithfulness

        return faithfulness(self, model, **options)

    def save(self, path: str | os.PathLike) -> Path:
        """Write it to one file, whole or not at all; see `own.write`. `Graph.load` gives it back exactly."""
        from . import own

        return own.write(self, Path(path))

    @staticmethod
    def load(path: str | os.PathLike, coders: Any = None, model: Any = None) -> "Graph":
        """A graph from a file of any format that `circuits.read` knows."""
        from .formats import read

        return read(path, coders, model)

    def to_neuronpedia(self, path: str | os.PathLike, **options: Any) -> Path:
        """Write the JSON of Neuronpedia and circuit-tracer's viewer; options as in `neuronpedia.write`."""
        from . import neuronpedia

        return neuronpedia.write(self, Path(path), **options)

    def to_circuit_tracer(self, path: str | os.PathLike, **options: Any) -> Path:
        """Write a `.pt` that circuit-tracer opens; options as in `circuit_tracer.write`."""
        from . import circuit_tracer

        return circuit_tracer.write(self, Path(path), **options)

    def to_networkx(self) -> Any:
        """A `networkx.DiGraph`; see `networks.to_networkx`."""
        from .networks import to_networkx

        return to_networkx(self)


def shares(weights: csr_array) -> csr_array:
    """Each row's absolute weights, over their sum; a row of zeros stays one."""
    size, filled = np.abs(weights.data), np.diff(weights.indptr) > 0
    sums = np.add.reduceat(size, weights.indptr[:-1][filled]) if len(size) else size
    size /= np.repeat(np.where(sums > 0, sums, 1.0), np.diff(weights.indptr)[filled])
    return csr_array((size, weights.indices, weights.indptr), weights.shape)
