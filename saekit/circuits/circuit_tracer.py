"""circuit-tracer's graphs, `.pt`: read without running what is pickled in them, written so that they open there.

Their nodes are latents, errors, tokens and logits, their matrix is dense and float32: 4 n^2 bytes. Our nodes of other
kinds (biases, BOS, positions), what these add to each row, totals and all else lie in an attribute of the file's
`cfg`. circuit-tracer carries it along unread, and our reader puts it back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy.sparse import csr_array
from torch import Tensor

from ..corpus import pieces
from . import own, stand_ins
from .foreign import assembled
from .graph import Graph
from .ids import vocabulary
from .stand_ins import Config, LogitTarget

Row = tuple  # a node, its columns in the order of `graph.COLUMNS`
_SIZES = ("n_layers", "d_model", "d_head", "n_heads", "d_mlp", "d_vocab")
_WORDS = ("tokenizer_name", "model_name", "original_architecture")


def claims(path: Path) -> bool:
    """Whether this is a file of `torch.save`: a zip archive, or a bare pickle of old."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02")


def write(graph: Graph, path: Path, model: Any = None, scan: str | list[str] | None = None) -> Path:
    """Write a graph, whole or not at all, and return the path; ".pt" is added where it is missing.

    model: tells the sizes that circuit-tracer's `cfg` holds and a graph does not; without it they are 0, and d_vocab is
    one more than the largest id in the graph: ids from there on are targets of several tokens.
    scan: the name of the transcoders, which circuit-tracer needs to draw them; it warns without.
    Raises ValueError for nodes that are at no token, OSError when the folder cannot be written.
    """
    cfg, nodes = _config(graph, model), _rows(graph)
    tokens = range(len(graph.ids))
    if lost := [r[:4] for r in nodes if r[0] in ("latent", "error") and r[2] not in tokens]:
        raise ValueError(f"{lost[0]} is at none of the {len(tokens)} tokens; circuit-tracer has no place for it")
    latents, targets = sorted(r for r in nodes if r[0] == "latent"), [r for r in nodes if r[0] == "logit"]
    theirs = [*latents, *_grid(cfg.n_layers, graph.ids, graph.tokens), *targets]
    at = _places(nodes, theirs)
    matrix, beside = _split(graph.weights, at, len(theirs))
    cfg.saekit = own.packed(replace(graph, weights=beside))
    path = path if path.suffix == ".pt" else path.with_name(path.name + ".pt")
    names = [LogitTarget(r[6], int(r[3]) if r[3] >= 0 else cfg.d_vocab + k) for k, r in enumerate(targets)]
    content = {
        "input_string": "".join(graph.tokens), "input_tokens": torch.tensor(graph.ids),
        "active_features": torch.tensor([r[1:4] for r in latents], dtype=torch.int64).reshape(-1, 3),
        "activation_values": torch.tensor([r[4] for r in latents], dtype=torch.float32),
        "selected_features": torch.arange(len(latents)), "adjacency_matrix": torch.from_numpy(matrix).float(),
        "logit_targets": names, "logit_probabilities": torch.tensor([r[5] for r in targets], dtype=torch.float32),
        "vocab_size": cfg.d_vocab, "cfg": cfg, "scan": scan,
    }  # fmt: skip
    stand_ins.save(content, path)
    return path


def read(path: Path, coders: Any = None, model: Any = None) -> Graph:
    """The graph in the file: of one that saekit wrote all there was, its weights to float32; `rest` is what they lack.

    Of circuit-tracer's own, totals and `rest` are as `foreign.assembled` says. model: tells the text of its tokens,
    which the file has as ids only. Raises ValueError for a file that is cut short, that holds more than plain data and
    the few classes that circuit-tracer writes, or whose parts do not fit.
    """
    found = stand_ins.load(path)
    try:
        return _graph(found, coders, model)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is no graph of circuit-tracer ({type(error).__name__}: {error})") from error


def _graph(found: dict[str, Any], coders: Any, model: Any) -> Graph:
    cfg, ids = vars(found["cfg"]), found["input_tokens"].flatten().tolist()
    text = [f"#{i}" for i in ids] if model is None else pieces(model.tokenizer, ids)
    rows = [*_latents(found), *_grid(int(cfg["n_layers"]), ids, text), *_targets(found, cfg, ids)]
    matrix = _matrix(found["adjacency_matrix"], len(rows))
    if "saekit" in cfg:
        kept = own.unpacked(*cfg["saekit"], coders)
        here, there = ({key for key in _keys(part) if key[0] in ("latent", "logit")} for part in (_rows(kept), rows))
        if here == there:  # else another tool has changed the file since
            return _restored(kept, _places(_rows(kept), rows), matrix)
    targets, sources = np.nonzero(matrix)
    about = {"name": cfg.get("model_name"), "processing": None, "n_layers": int(cfg["n_layers"])}
    return assembled(
        rows, targets, sources, matrix[targets, sources], ids=tuple(ids), tokens=tuple(text), coders=coders,
        model=about | {name: cfg.get(name) for name in ("d_model", "d_vocab")}, about={"scan": found.get("scan")},
    )  # fmt: skip


def _rows(graph: Graph) -> list[Row]:
    return [*graph.nodes.itertuples(index=False, name=None)]


def _grid(n_layers: int, ids: Sequence[int], text: Sequence[str]) -> list[Row]:
    """Errors and tokens, which circuit-tracer has at every layer and position."""
    errors = [
        ("error", layer, pos, -1, 0.0, 0.0, f"error, layer {layer}")
        for layer in range(n_layers) for pos in range(len(ids))
    ]  # fmt: skip
    return errors + [("token", -1, pos, i, 0.0, 0.0, t) for pos, (i, t) in enumerate(zip(ids, text, strict=True))]


def _latents(found: dict[str, Any]) -> list[Row]:
    chosen = found["selected_features"].long()
    places, values = found["active_features"][chosen].tolist(), found["activation_values"][chosen].double().tolist()
    return [("latent", *map(int, place), a, 0.0, str(int(place[2]))) for place, a in zip(places, values, strict=True)]


def _targets(found: dict[str, Any], cfg: dict[str, Any], ids: list[int]) -> list[Row]:
    """Logits; the files of 2025 have `logit_tokens`, or a tensor, and no text."""
    told = found["logit_targets"] if "logit_targets" in found else found["logit_tokens"]
    told = [("", i) for i in told.tolist()] if isinstance(told, Tensor) else told
    last, size = (int(cfg["n_layers"]), len(ids) - 1), found.get("vocab_size") or cfg["d_vocab"]
    chances = found["logit_probabilities"].double().tolist()
    return [
        ("logit", *last, i if i < size else -1, 0.0, p, text or f"#{i}")
        for (text, i), p in zip(told, chances, strict=True)
    ]


def _keys(rows: Iterable[Row]) -> list[tuple]:
    """What tells a node from the others; of logits, which may share a token, their number."""
    number = count()
    return [("logit", next(number)) if row[0] == "logit" else row[:4] for row in rows]


def _places(ours: Sequence[Row], theirs: Sequence[Row]) -> Int64[np.ndarray, " ours"]:
    """The number of each of our nodes among theirs; -1 where it is not there."""
    number = {key: place for place, key in enumerate(_keys(theirs))}
    return np.array([number.get(key, -1) for key in _keys(ours)], np.int64)


def _matrix(found: Tensor, n: int) -> Float64[np.ndarray, "nodes nodes"]:
    if (shape := (*found.shape,)) != (n, n):
        raise ValueError(f"adjacency_matrix is {shape}, expected {(n, n)} from its latents, tokens, layers and logits")
    if not bool(torch.isfinite(found).all()):
        raise ValueError("adjacency_matrix holds NaN or infinite values")
    return found.double().numpy()


def _split(weights: csr_array, at: Int64[np.ndarray, " ours"], n: int) -> tuple[Float[np.ndarray, "n n"], csr_array]:
    """(the edges that both know, in their places there; the others in their places here)."""
    edges, matrix = weights.tocoo(), np.zeros((n, n), np.float32)
    both = (at[edges.row] >= 0) & (at[edges.col] >= 0)
    matrix[at[edges.row[both]], at[edges.col[both]]] = edges.data[both]
    others = csr_array((edges.data[~both], (edges.row[~both], edges.col[~both])), shape=weights.shape)
    return matrix, others


def _restored(kept: Graph, at: Int64[np.ndarray, " ours"], matrix: Float64[np.ndarray, "n n"]) -> Graph:
    both = np.flatnonzero(at >= 0)
    inside = matrix[np.ix_(at[both], at[both])]
    targets, sources = np.nonzero(inside)
    known = csr_array((inside[targets, sources], (both[targets], both[sources])), shape=kept.weights.shape)
    weights = csr_array(kept.weights + known)
    return replace(kept, weights=weights, rest=kept.totals - weights.sum(1))


def _config(graph: Graph, model: Any) -> Config:
    """What circuit-tracer knows of a model; `UnifiedConfig` there."""
    told = {"model_name": graph.model.get("name"), "d_vocab": vocabulary(graph), **graph.model}
    if model is not None:
        told |= {name: getattr(model.cfg, name, None) for name in (*_SIZES, *_WORDS)}
    cfg = Config()
    cfg.__dict__.update({name: int(told.get(name) or 0) for name in _SIZES})
    cfg.__dict__.update({name: str(told.get(name) or "") for name in _WORDS})
    cfg.n_key_value_heads = cfg.dtype = None
    return cfg
