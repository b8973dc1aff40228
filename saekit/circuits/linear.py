"""A graph run as the linear model that it is: what its rows become when nodes are left out or changed."""

import numpy as np
from jaxtyping import Float64

from .graph import Graph
from .influence import by_layer


def run(
    graph: Graph, held: Float64[np.ndarray, "nodes runs"], *, rest: bool = True
) -> Float64[np.ndarray, "nodes runs"]:
    """Rows `z_t = sum_s weights[t, s] r_s + rest_t`, where r_s is the share of its value that node s keeps.

    held: r of the nodes that are set (0: left out, 2: doubled), NaN for those that follow from their rows,
    `r_s = z_s / totals_s`, or 1 where there is no row. rest: whether what is not in the graph adds to the rows.
    Gates, attention and norms stay as they were, so a latent can fall below its threshold, or 0, without being cut.
    """
    z = np.where(rest, graph.rest, 0.0)[:, None].repeat(held.shape[1], 1)
    follows, r = graph.expanded & (graph.totals != 0), np.where(np.isnan(held), 1.0, held)
    for nodes, weights in reversed([*by_layer(graph, graph.weights)]):
        z[nodes] += weights @ r
        mine = nodes[follows[nodes]]
        r[mine] = np.where(np.isnan(held[mine]), z[mine] / graph.totals[mine, None], held[mine])
    return z
