"""Graphs as the JSON that Neuronpedia and circuit-tracer's viewer read: nodes with ids, links with signed weights.

After Neuronpedia's schema of graphs and circuit-tracer 0.5. Both have one kind for what is neither latent, error,
token nor logit, "bias"; our biases, BOS and positions are of it, in the row of the tokens, with the ids `E_bias_0`,
`E_bos_0` and `E_position_{pos}`. What only saekit knows is in `metadata.generation_settings`, free for anything.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from ..files import save_json
from ..io.tensors import needed, settings
from .foreign import assembled
from .graph import Graph
from .ids import cantor, names, vocabulary

TYPES = {
    "latent": "cross layer transcoder", "error": "mlp reconstruction error", "token": "embedding", "logit": "logit",
    "bias": "bias", "bos": "bias", "position": "bias",
}  # fmt: skip
LISTING = "graph-metadata.json"
_KINDS = {feature_type: kind for kind, feature_type in reversed(TYPES.items())}
_ID = {
    "latent": r"(?P<layer>\d+)_(?P<index>\d+)_\d+", "token": r"E_(?P<index>\d+)_\d+", "error": ".*",
    "logit": r"\d+_(?P<index>\d+)_\d+", "bias": r"E_(?P<kind>bos|position)_\d+|.*",
}  # fmt: skip
_READ = ("slug", "scan", "pinned", "supernodes")  # what `about` has of a graph that was read
_OUTPUT = re.compile(r'Output "(.*)" \(p=([\d.]+)\)', re.DOTALL)


def claims(path: Path) -> bool:
    """Whether this file begins like a JSON object."""
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1] == b"{"


def write(
    graph: Graph,
    path: Path,
    *,
    slug: str | None = None,
    scan: str | Sequence[str] | None = None,
    pinned: Sequence[int] | None = None,
    supernodes: Mapping[str, Sequence[int]] | None = None,
    details: Mapping[str, str] | None = None,
    info: Mapping[str, Any] | None = None,
    node_threshold: float | None = None,
    listed: bool = False,
) -> Path:
    """Write a graph, whole or not at all, and return the path; ".json" is added where it is missing.

    Prune first: viewers draw hundreds of nodes, not more.
    slug: its name there, that of the file unless given. scan: the model's id at Neuronpedia, the last part of the
    model's name unless given; or the names of the transcoders, which become "custom-" and a hash. details: where
    latents are explained, {"feature_json_base_url": ...} (see `explain.save_details`) or {"neuronpedia_source_set":
    ...}. info: description, creator_name, creator_url, source_urls. pinned: nodes that are drawn at once; supernodes:
    {label: nodes}; None: those that were read with the graph. node_threshold: where the viewer's slider starts.
    listed: also list it in `graph-metadata.json` beside it, where circuit-tracer's local viewer looks.
    A node's `influence` is the share of all influence that it and the stronger ones have; None for logits.
    Neuronpedia takes files of 1 KB to 100 MB. Raises ValueError for names it refuses, nodes without a token, two nodes
    of one id and numbers that no node has; UserWarning where an error is renamed, see `ids.names`.
    """
    path, called = path if path.suffix == ".json" else path.with_name(path.name + ".json"), names(graph)
    ids = [name.node_id for name in called]
    metadata = _metadata(graph, path.stem if slug is None else slug, scan) | {
        "feature_details": dict(details or {}),
        "info": {"generator": {"name": "saekit", "version": version("saekit")}} | dict(info or {}),
        "generation_settings": _settings(graph, ids), "pruning_settings": dict(graph.about.get("pruning", {})),
    }  # fmt: skip
    if node_threshold is not None:
        metadata["node_threshold"] = float(node_threshold)
    edges = graph.weights.tocoo()
    content = {
        "metadata": metadata, "qParams": _chosen(graph, ids, pinned, supernodes), "nodes": _nodes(graph, called),
        "links": [
            {"source": ids[s], "target": ids[t], "weight": float(w)}
            for t, s, w in zip(edges.row.tolist(), edges.col.tolist(), edges.data.tolist(), strict=True)
        ],
    }  # fmt: skip
    save_json(content, path)
    if listed:
        _list(metadata, path.with_name(LISTING))
    return path


def _metadata(graph: Graph, slug: str, scan: str | Sequence[str] | None) -> dict[str, Any]:
    scan = graph.about.get("scan") if scan is None else scan
    transcoders = [] if scan is None or isinstance(scan, str) else list(scan)
    if transcoders:
        scan = "custom-" + hashlib.sha1("-".join(transcoders).encode(), usedforsecurity=False).hexdigest()
    scan = str(graph.model.get("name")).rpartition("/")[2] if scan is None else scan
    for what, name in (("slug", slug), ("scan", scan)):
        if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
            raise ValueError(f"{what}={name!r}: give letters, digits, '_', '.' and '-' only, as Neuronpedia does")
    return {
        "slug": slug, "scan": scan, "transcoder_list": transcoders, "prompt_tokens": list(graph.tokens),
        "prompt": "".join(graph.tokens), "schema_version": 1,
    }  # fmt: skip


def _settings(graph: Graph, ids: list[str]) -> dict[str, Any]:
    """What it takes to make the same graph again."""
    return {
        "totals": {ids[i]: float(graph.totals[i]) for i in np.flatnonzero(graph.expanded)},
        "model": dict(graph.model), "bound": float(graph.bound), "virtual_ids_from": vocabulary(graph),
        "about": {key: value for key, value in graph.about.items() if key not in _READ},
    }  # fmt: skip


def _chosen(graph: Graph, ids: list[str], pinned: Any, supernodes: Any) -> dict[str, Any]:
    """`qParams`: what a viewer shows first. Read ids that are no longer in the graph are left out."""
    known = {*ids}
    kept = [i for i in graph.about.get("pinned", []) if i in known]
    groups = [[label, *(i for i in members if i in known)] for label, *members in graph.about.get("supernodes", [])]
    if pinned is not None:
        kept = [_id(ids, node) for node in pinned]
    if supernodes is not None:
        groups = [[str(label), *(_id(ids, node) for node in members)] for label, members in supernodes.items()]
    return {"pinnedIds": kept, "supernodes": groups, "linkType": "both", "clickedId": "", "sg_pos": ""}


def _id(ids: list[str], node: int) -> str:
    if not 0 <= node < len(ids):
        raise ValueError(f"node {node}: the graph has the nodes 0 to {len(ids) - 1}")
    return ids[node]


def _nodes(graph: Graph, called: Sequence[Any]) -> list[dict[str, Any]]:
    influence, first = _cumulative(graph.influence()), (graph.nodes["kind"] == "logit").to_numpy().argmax()
    found = []
    for i, (name, row) in enumerate(zip(called, graph.nodes.itertuples(index=False), strict=True)):
        logit = row.kind == "logit"
        label = f'Output "{row.label}" (p={row.probability:.3f})' if logit else row.label
        found.append({
            **name._asdict(), "ctx_idx": max(int(row.pos), 0), "feature_type": TYPES[row.kind], "clerp": label,
            "token_prob": float(row.probability), "is_target_logit": logit and i == int(first), "run_idx": 0,
            "reverse_ctx_idx": 0, "influence": None if logit else float(influence[i]),
            "activation": float(row.activation) if row.kind == "latent" else None,
        })  # fmt: skip
    return found


def _cumulative(influence: Float64[np.ndarray, " nodes"]) -> Float64[np.ndarray, " nodes"]:
    """The share of the sum that an entry and the larger ones make up."""
    order = np.argsort(-influence, kind="stable")
    shares = np.empty(len(influence))
    shares[order] = np.cumsum(influence[order]) / max(influence.sum(), 1e-30)
    return np.minimum(shares, 1.0)


def _list(metadata: Mapping[str, Any], path: Path) -> None:
    """Put a graph in the list of its folder, in the place of one of its name."""
    graphs = settings(path).get("graphs", []) if path.exists() else []
    save_json({"graphs": [g for g in graphs if g.get("slug") != metadata["slug"]] + [metadata]}, path)


def read(path: Path, coders: Any = None) -> Graph:
    """The graph in the file. One that saekit wrote comes back whole; `about` has its slug, scan, pinned, supernodes.

    Of others, edges that are not there count as none, and totals and `rest` are as `foreign.assembled` says. pinned
    and supernodes are ids. Raises ValueError for what is no such JSON, fields that are missing, a feature_type that is
    not known, two nodes of one id, links from or to no node, twice the same or downwards: it names them.
    """
    file = settings(path)
    try:
        metadata, nodes, links = needed(path, file, "metadata", "nodes", "links")
        if odd := [name for name, part in (("nodes", nodes), ("links", links)) if not _objects(part)]:
            raise ValueError(f"{odd[0]!r} is no list of objects")
        (tokens,) = needed(path, metadata, "prompt_tokens")
        own, chosen = metadata.get("generation_settings") or {}, file.get("qParams") or {}
        rows = [_row(node, tokens, metadata.get("schema_version") == 1, own.get("virtual_ids_from")) for node in nodes]
        number = _numbered([node["node_id"] for node in nodes])
        last = max((row[1] for row in rows if row[0] == "logit"), default=max((row[1] for row in rows), default=0) + 1)
        ids = {row[2]: row[3] for row in rows if row[0] == "token"}
        totals = {number[i]: total for i, total in own["totals"].items()} if "totals" in own else None
        return assembled(
            rows, *_edges(links, number), totals, ids=tuple(ids.get(pos, -1) for pos in range(len(tokens))),
            tokens=tuple(tokens), coders=coders, bound=own.get("bound", 0.0),
            model=own.get("model") or {"name": metadata.get("scan"), "processing": None, "n_layers": last},
            about={
                **own.get("about", {}), "slug": metadata.get("slug"), "scan": metadata.get("scan"),
                "pinned": chosen.get("pinnedIds", []), "supernodes": chosen.get("supernodes", []),
            },
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is no whole graph ({type(error).__name__}: {error})") from error


def _objects(part: Any) -> bool:
    return isinstance(part, list) and all(isinstance(each, dict) for each in part)


def _row(node: Mapping[str, Any], tokens: Sequence[str], paired: bool, virtual: int | None) -> tuple:
    """A node as a row of `Graph.nodes`. Its feature_type tells its kind; ids alone are ambiguous in some files."""
    kind, found, pos = _kind(node, len(tokens))
    label, index = str(node.get("clerp") or ""), int(found.get("index") or -1)
    if kind == "latent":
        layer, value = int(found["layer"]), float(node.get("activation") or 0.0)
        if paired and node.get("feature") not in (None, cantor(layer, index)):
            raise ValueError(f"node {node['node_id']!r} has feature {node['feature']}, not {cantor(layer, index)}")
        return "latent", layer, pos, index, value, 0.0, label or str(index)
    if kind == "error":
        return "error", int(node["layer"]), pos, -1, 0.0, 0.0, label or f"error, layer {node['layer']}"
    if kind == "token":
        return "token", -1, pos, index, 0.0, 0.0, label or tokens[pos]
    if kind == "bias":
        return found["kind"] or kind, -1, pos if found["kind"] else -1, -1, 0.0, 0.0, label or kind
    said = _OUTPUT.fullmatch(label)
    chance = node.get("token_prob", said and said[2])
    index = -1 if virtual is not None and index >= virtual else index
    return "logit", int(node["layer"]) - 1, pos, index, 0.0, float(chance or 0.0), said[1] if said else label


def _kind(node: Mapping[str, Any], tokens: int) -> tuple[str, dict[str, str | None], int]:
    """(the kind of a node, what its id says, its position). Raises ValueError where they do not fit."""
    name = node.get("node_id")
    if missing := [key for key in ("node_id", "feature_type", "layer", "ctx_idx") if node.get(key) is None]:
        raise ValueError(f"node {name!r} has no {missing[0]!r}")
    if (kind := _KINDS.get(node["feature_type"])) is None:
        raise ValueError(f"node {name!r} has feature_type {node['feature_type']!r}; known are {', '.join(_KINDS)}")
    if (found := re.fullmatch(_ID[kind], name, re.DOTALL)) is None:
        raise ValueError(f"node {name!r} is of type {node['feature_type']!r}, whose ids are like {_ID[kind]}")
    if not 0 <= (pos := int(node["ctx_idx"])) < tokens:
        raise ValueError(f"node {name!r} has ctx_idx {pos}; the prompt has {tokens} tokens")
    return kind, found.groupdict(), pos


def _numbered(ids: Sequence[str]) -> dict[str, int]:
    number = {name: place for place, name in enumerate(ids)}
    if len(number) < len(ids):
        twice = next(name for place, name in enumerate(ids) if number[name] != place)
        raise ValueError(f"two nodes have the id {twice!r}, so that its links could be of either")
    return number


def _edges(links: Sequence[Mapping[str, Any]], number: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(targets, sources, weights) of links, by the numbers of nodes."""
    found = {}
    for link in links:
        if missing := [key for key in ("source", "target", "weight") if link.get(key) is None]:
            raise ValueError(f"link {dict(link)} has no {missing[0]!r}")
        if dangling := [link[end] for end in ("source", "target") if link[end] not in number]:
            raise ValueError(f"the link from {link['source']!r} to {link['target']!r}: no node is {dangling[0]!r}")
        if not np.isfinite(weight := float(link["weight"])):
            raise ValueError(f"the link from {link['source']!r} to {link['target']!r} has the weight {weight}")
        if found.setdefault(pair := (number[link["target"]], number[link["source"]]), weight) is not weight:
            raise ValueError(f"two links go from {link['source']!r} to {link['target']!r}: {found[pair]} and {weight}")
    ends = np.array([*found], np.int64).reshape(-1, 2)
    return ends[:, 0], ends[:, 1], np.array([*found.values()], np.float64)
