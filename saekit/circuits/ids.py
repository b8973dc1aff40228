"""What circuit-tracer's and Neuronpedia's JSON calls a node: its id, its feature number, its layer."""

import warnings
from math import isqrt
from typing import NamedTuple

from .graph import Graph

FEATURE = {"error": -1, "bias": -2, "bos": -3, "position": -4}  # of nodes that have no number there


class Name(NamedTuple):
    """The fields that tell a node from the others."""

    node_id: str
    feature: int
    layer: str
    jsNodeId: str


def cantor(layer: int, index: int) -> int:
    """One number for a layer and a latent: `(l + i)(l + i + 1) / 2 + i`, Cantor's pairing function."""
    return (layer + index) * (layer + index + 1) // 2 + index


def uncantor(number: int) -> tuple[int, int]:
    """(layer, index) of `cantor`."""
    diagonal = (isqrt(8 * number + 1) - 1) // 2
    index = number - diagonal * (diagonal + 1) // 2
    return diagonal - index, index


def vocabulary(graph: Graph) -> int:
    """The number of tokens the model knows; one more than the largest id in the graph where it is not told."""
    known = [*graph.ids, *graph.nodes["index"][graph.nodes["kind"].isin(["token", "logit"])]]
    return int(graph.model.get("d_vocab") or max(known, default=-1) + 1)


def names(graph: Graph) -> list[Name]:
    """The name of every node; a target of several tokens has an id from `vocabulary(graph)` on, as circuit-tracer's.

    The id of an error, `0_{layer}_{pos}`, may be that of a latent of layer 0. It is then `err_{layer}_{pos}`, and a
    UserWarning tells. Raises ValueError for a node without a token, and for two nodes of one id.
    """
    found, target = [], vocabulary(graph)
    columns = (graph.nodes[column] for column in ("kind", "layer", "pos", "index"))
    for kind, layer, pos, index in zip(*columns, strict=True):
        if pos < 0 and kind != "bias":
            raise ValueError(f"{kind} {index} of layer {layer} is at no token (pos {pos}); the format needs one")
        if kind == "logit" and index < 0:
            index, target = target, target + 1
        found.append(_name(kind, int(layer), int(pos), int(index), last=int(graph.model["n_layers"]) + 1))
    return _told_apart(found, graph.nodes["kind"].tolist())


def _name(kind: str, layer: int, pos: int, index: int, last: int) -> Name:
    if kind == "latent":
        return Name(f"{layer}_{index}_{pos}", cantor(layer, index), str(layer), f"{layer}_{index}-0")
    if kind == "error":
        return Name(f"0_{layer}_{pos}", FEATURE[kind], str(layer), f"{layer}_{pos}-0")
    if kind == "logit":
        return Name(f"{last}_{index}_{pos}", index, str(last), f"L_{index}-{pos}")
    pos = max(pos, 0)
    if kind == "token":
        return Name(f"E_{index}_{pos}", pos, "E", f"E_{index}-{pos}")
    return Name(f"E_{kind}_{pos}", FEATURE[kind], "E", f"E_{kind}-{pos}")


def _told_apart(found: list[Name], kinds: list[str]) -> list[Name]:
    others = {name.node_id for name, kind in zip(found, kinds, strict=True) if kind != "error"}
    renamed = [
        name._replace(node_id=f"err{name.node_id[1:]}") if kind == "error" and name.node_id in others else name
        for name, kind in zip(found, kinds, strict=True)
    ]
    if changed := [old.node_id for old, new in zip(found, renamed, strict=True) if old != new]:
        warnings.warn(
            f"the ids of {len(changed)} errors, such as {changed[0]!r}, are also those of latents of layer 0: "
            f"these errors are called err_... instead", UserWarning, stacklevel=4,
        )  # fmt: skip
    ids = [name.node_id for name in renamed]
    if len({*ids}) < len(ids):
        raise ValueError(f"two nodes have the id {next(i for i in ids if ids.count(i) > 1)!r}; merge them first")
    return renamed
