"""Graphs for networkx, which has paths, flows and layouts."""

from typing import TYPE_CHECKING

from .graph import Graph

if TYPE_CHECKING:
    import networkx


def to_networkx(graph: Graph) -> "networkx.DiGraph":
    """A directed graph: the nodes 0, 1, ... with the columns of `graph.nodes`, total and rest; edges with weight.

    An edge runs from a source to its target. The graph's own attributes are ids, tokens, model and bound.
    """
    import networkx

    found = networkx.DiGraph(ids=graph.ids, tokens=graph.tokens, model=dict(graph.model), bound=graph.bound)
    rows = graph.nodes.assign(total=graph.totals, rest=graph.rest).to_dict("records")
    found.add_nodes_from(enumerate(rows))
    edges = graph.weights.tocoo()
    found.add_weighted_edges_from(zip(edges.col.tolist(), edges.row.tolist(), edges.data.tolist(), strict=True))
    return found
