"""Exercises and quiz of notebook 10. The references have no annotations, so that a solution runs where it is pasted."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from ..attribute import logit_diff
from ..circuits import Graph, trace
from ..circuits.intervene import Latent
from ..circuits.supernodes import suggest
from ..hooks import freezes
from .exercise import Chapter, Exercise, NotYet, Question, Setting, first_fault, not_a_function, tried

SOLVED = ("print(values[0", "]", ")")  # prompt, answer, rival
UNSOLVED = ("def f(self, path, size):\n    self.size =", " size", " path")
OTHERS = (
    SOLVED,
    UNSOLVED,
    ("first = rows[max(counts)", "]", ")"),
    ("import os\nimport sys\n\nprint(os", ".", ")"),
    ("for item", " in", ","),
    ("with open(path)", " as", ":"),
)
LEGIBLE = 60  # nodes of a pruned graph
DENSE = {"775 and 782 at the last token": [(0, 5, 775), (0, 5, 782)]}  # of the solved graph
GROUPS, MEMBERS, BAR = 6, 4, 0.6  # 10.3
Groups = Mapping[str, Sequence[Latent]]
HELD = ("patterns", "norms", "mlps")


# -- 10.1


def direct_effect(read, activation, decoder, encoder, bias):
    """What a latent adds to the pre-activation of a later one by the direct way."""
    hold = ("patterns", "norms", "mlps")
    write = activation * decoder
    return (read(write, hold) - read(0 * write, hold)) @ encoder


class Reader:
    """`read(extra, hold)`: what the MLP of one layer reads at one token, [d], when `extra` is added to what the MLP of
    an earlier layer writes at some token. hold: what stays as it was on the prompt, any of HELD; else it answers.

    source, target: (layer, position). Raises ValueError for other words in `hold`.
    """

    def __init__(self, model: Any, tokens: Int[Tensor, "1 pos"], source: tuple[int, int], target: tuple[int, int]):
        self.model, self.tokens, self.source, self.target = model, tokens, source, target
        self.was: dict[str, Tensor] = {}
        with torch.no_grad(), model.hooks([(name, self._keep) for name in self._names(HELD)]):
            model(tokens)

    def _keep(self, x: Tensor, hook: Any) -> None:
        self.was[hook.name] = x

    def _names(self, hold: Sequence[str]) -> list[str]:
        model, first = self.model, self.source[0] + 1
        mlps = [f"blocks.{layer}.hook_mlp_out" for layer in range(first, model.cfg.n_layers)] if "mlps" in hold else []
        return [name for name in model.hook_dict if freezes(name, "patterns" in hold, "norms" in hold)] + mlps

    @torch.no_grad()
    def __call__(self, extra: Float[Tensor, " d"], hold: Sequence[str] = ()) -> Float[Tensor, " d"]:
        hold = (hold,) if isinstance(hold, str) else hold
        if unknown := [word for word in hold if word not in HELD]:
            raise ValueError(f"hold={unknown[0]!r}: there are {', '.join(HELD)}")
        (layer, at), (later, there), found = self.source, self.target, []

        def write(x: Tensor, hook: Any) -> Tensor:
            return x.index_add(1, torch.tensor([at]), extra.detach()[None, None].to(x))

        hooks = [(name, lambda x, hook: self.was[hook.name]) for name in self._names(hold)]
        hooks += [(f"blocks.{layer}.hook_mlp_out", write)]
        hooks += [(f"blocks.{later}.mlp.hook_in", lambda x, hook: found.append(x[0, there]))]
        with self.model.hooks(hooks):
            self.model(self.tokens)
        return found[0]


def way(model: Any, coders: Any, graph: Graph, source: int, target: int) -> tuple:
    """What `direct_effect` takes, for two latents of a graph: (read, activation, decoder, encoder, bias)."""
    (layer, p, i), (later, q, j) = (place(graph, node) for node in (source, target))
    a, b = coders.banks[layer], coders.banks[later]
    read = Reader(model, torch.tensor([graph.ids]), (layer, p), (later, q))
    activation = float(graph.nodes["activation"][source])
    return read, activation, a.W_dec[i].detach(), b.W_enc[:, j].detach(), float(b.b_enc[j])


def strong_edges(graph: Graph, n: int = 5) -> list[tuple[int, int]]:
    """(source, target) of the strongest edge between latents into each of n latents that are most influential."""
    latent, influence = (graph.nodes["kind"] == "latent").to_numpy(), graph.influence()
    order = np.argsort(-np.where(latent & graph.expanded, influence, -1))
    rows = ((np.where(latent, graph.weights[[target]].toarray()[0], 0.0), target) for target in order.tolist())
    return [(int(np.abs(row).argmax()), target) for row, target in islice((r for r in rows if r[0].any()), n)]


def _chosen_edge(setting: Setting) -> tuple[Graph, int, int]:
    """A strong edge over several layers, so that norms, patterns and MLPs all lie on the way."""
    graph = traced(*setting, *SOLVED)
    layer = graph.nodes["layer"].to_numpy()
    pairs = strong_edges(graph, 20)
    return graph, *next((pair for pair in pairs if layer[pair[1]] - layer[pair[0]] > 1), pairs[0])


def _effects(read: Reader, activation: float, decoder: Tensor, encoder: Tensor, bias: float) -> Iterator:
    """What known slips give, and what to say of each."""
    write = activation * decoder

    def rise(hold: Sequence[str], extra: Tensor = write) -> float:
        return float((read(extra, hold) - read(0 * write, hold)) @ encoder)

    right, whole = rise(HELD), float(read(write, HELD) @ encoder)
    yield rise(()), "Nothing is held. MLPs, heads and norms in between all answer: this is the total effect."
    yield (
        rise(("patterns", "mlps")),
        "The norms are not held. What is added changes the size that they divide by, so the effect is not linear.",
    )
    yield rise(("norms", "mlps")), "The attention patterns are not held: the heads begin to look elsewhere."
    yield rise(("patterns", "norms")), "The MLPs in between are not held. Their answers are other nodes of the graph."
    yield whole, "This is all that the target reads. Take away what it reads without the extra."
    yield whole + bias, "This is the whole pre-activation. What of it comes from the source? Take the difference."
    yield (
        right + bias,
        "The target's bias is in it. It is there with and without the source, so it is no part of the edge.",
    )
    yield -right, "The sign is turned: with the extra, less without."
    yield (
        rise(HELD, decoder),
        "This is the effect of one unit. The source is on by `activation`, so it writes that many.",
    )
    yield (
        float(write @ encoder),
        "A dot product alone skips the way: heads and norms lie between what is written and what is read.",
    )
    yield rise(HELD, activation * encoder), "You send the encoder along the way. It says what a latent looks for."


def _effect_faults(answer: Any, setting: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "direct_effect")
    graph, source, target = _chosen_edge(setting)
    given = way(*setting, graph, source, target)
    got = torch.as_tensor(tried(answer, *given)).detach()
    if got.numel() != 1:
        yield f"The shape is {tuple(got.shape)}. An edge is one number: take the dot product with the encoder."
    right, got = float(graph.weights[target, source]), float(got)
    if not _near(got, right):
        said = (said for slip, said in _effects(*given) if _near(got, slip))
        yield next(
            said, f"This edge is {got:.3g} by yours, and other in the graph. Hold everything; with less without."
        )


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-4 * (1 + abs(b))


# -- 10.2


def influence_and_kept(weights, p, share):
    """The influence of every node [n], and the fewest nodes that hold `share` of all of it."""
    size = np.abs(weights)
    sums = size.sum(1, keepdims=True)
    A = size / np.where(sums > 0, sums, 1)
    influence = p @ np.linalg.inv(np.eye(len(A)) - A) - p
    order = np.argsort(-influence)
    enough = 1 + np.searchsorted(np.cumsum(influence[order]), share * influence.sum())
    return influence, order[:enough]


def _small_graph(n: int = 30, inputs: int = 6, seed: int = 0) -> tuple[Float64[np.ndarray, "n n"], np.ndarray]:
    """(weights, p): sources stand before their targets, inputs have no row, the last two nodes are targets."""
    draw = np.random.default_rng(seed)
    weights = np.tril(draw.normal(size=(n, n)) * (draw.random((n, n)) < 0.6) * draw.exponential(size=n), -1)
    weights[:inputs] = 0
    weights[-1, -2] = 0
    p = np.zeros(n)
    p[-2:] = 0.55, 0.25
    return weights, p


def _shares(weights: np.ndarray, by: int) -> np.ndarray:
    """Weights divided by their sum along an axis, where it is not 0."""
    sums = weights.sum(by, keepdims=True)
    return np.divide(weights, sums, out=np.zeros_like(weights), where=sums != 0)


def _influences(weights: np.ndarray, p: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
    """What known slips give, and what to say of each."""

    def all_paths(A: np.ndarray) -> np.ndarray:
        return p @ np.linalg.inv(np.eye(len(A)) - A)

    size = np.abs(weights)
    A = _shares(size, 1)
    yield all_paths(A), "The targets themselves are counted. Take p away: a target does not explain itself."
    signed = "Signs are kept, so paths cancel. Influence asks how much runs along an edge, whatever its sign."
    yield all_paths(_shares(weights, 1)) - p, signed
    yield all_paths(weights / np.where(size.sum(1) > 0, size.sum(1), 1)[:, None]) - p, signed
    yield all_paths(weights) - p, f"{signed} And each row should sum to 1."
    yield (
        all_paths(size) - p,
        "The rows are not divided by their sums, so a node with large weights gives away too much.",
    )
    columns = "You divided by the sums of the columns. What a node gets is shared among its sources: its row sums to 1."
    yield all_paths(_shares(size, 0)) - p, columns
    yield p @ A, "That is one step only. Influence runs along paths of every length: A + A^2 + A^3 + ..."
    yield p @ (A + A @ A), "Those are two steps. Influence runs along paths of every length."
    yield np.linalg.inv(np.eye(len(A)) - A) @ p - p, "The matrix is on the wrong side. Rows are targets, so it is p A."
    yield all_paths(A) - p / p.sum(), "You took away another p than the one you began with."


def _influence_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "influence_and_kept")
    weights, p = _small_graph()
    given = tried(answer, weights.copy(), p.copy(), 0.8)
    if not isinstance(given, tuple | list) or len(given) != 2:
        yield "Return two things: the influence of every node, and the nodes that are kept."
    got, kept = np.asarray(given[0], float), np.asarray(given[1])
    if got.shape != p.shape:
        yield f"The influence has shape {got.shape}. Wanted is one number for each of {len(p)} nodes."
    right, enough = influence_and_kept(weights, p, 0.8)
    if not np.allclose(got, right):
        said = (said for slip, said in _influences(weights, p) if slip.shape == got.shape and np.allclose(got, slip))
        yield next(said, "This is another influence. Absolute values; rows that sum to 1; p (A + A^2 + ...).")
    nodes = set(np.flatnonzero(kept).tolist() if kept.dtype == bool else kept.astype(int).tolist())
    if nodes != set(enough.tolist()):
        yield f"The influence is right. {_kept_fault(nodes, right, len(enough))}"


def _kept_fault(nodes: set[int], influence: np.ndarray, enough: int) -> str:
    order, share = np.argsort(-influence), influence[[*nodes]].sum() / influence.sum()
    if nodes == set(order[: enough - 1].tolist()):
        return f"Your nodes hold {share:.1%}, just too little. The one that crosses the line belongs to them."
    if nodes == set(order[: round(0.8 * len(influence))].tolist()):
        return "You keep 80 % of the nodes. Wanted are the nodes that hold 80 % of the influence."
    if nodes == set(np.flatnonzero(influence >= 0.8 * influence.max()).tolist()):
        return "You compare with the largest one. Wanted is a share of the sum."
    if nodes == set(np.argsort(influence)[: len(nodes)].tolist()):
        return "You began with the weakest nodes. Sort from the strongest."
    return f"You keep {len(nodes)} nodes with {share:.1%} of it. Wanted are the fewest that hold 80 %: the strongest."


# -- 10.3


def supernodes(setting):
    """Up to six groups of latents, {name: [(layer, position, latent), ...]}, that most influence runs through."""
    graph, _ = legible(traced(*setting, *UNSOLVED))
    pos, found = graph.nodes.pos, {}
    for nodes in suggest(graph, 0.7).values():  # alike in what they write, in their edges and in their places
        for at in sorted({*pos[nodes]}):
            mine = [node for node in nodes if pos[node] == at][:4]
            found[f"{graph.tokens[at].strip()} at {at}: {', '.join(graph.nodes.label[mine])}"] = mine
    best = sorted(found, key=lambda name: -explained(graph, found[name]))[:6]
    return {name: [place(graph, node) for node in found[name]] for name in best}


def explained(graph: Graph, nodes: Sequence[int]) -> float:
    """The share of the targets' influence that runs through these nodes; a path through several counts once."""
    passes = ~np.isin(np.arange(len(graph)), nodes)
    stopped = replace(graph, weights=csr_array(diags_array(passes.astype(float)) @ graph.weights))
    stopped.weights.eliminate_zeros()
    return float(stopped.influence()[[*nodes]].sum() / graph.nodes["probability"].sum())


@lru_cache(maxsize=8)
def legible(graph: Graph, most: int = LEGIBLE) -> tuple[Graph, float]:
    """(the pruned graph, the share of the influence its nodes hold): the largest, in whole percent, of few nodes."""
    share = (bisect_right(range(100), most, key=lambda percent: len(graph.prune(percent / 100))) - 1) / 100
    return graph.prune(share), share


@lru_cache(maxsize=8)
def traced(model: Any, coders: Any, prompt: str, right: str, wrong: str) -> Graph:
    """The graph of a choice between two tokens, traced once."""
    return trace(model, coders, prompt, logit_diff(right, wrong))


def place(graph: Graph, node: int | np.integer) -> Latent:
    """(layer, position, index) of a node."""
    layer, pos, index = graph.nodes.loc[node, ["layer", "pos", "index"]]
    return int(layer), int(pos), int(index)


def grouped(view: Any) -> dict[str, list[Latent]]:
    """The groups of a `CircuitView`, as exercise 10.3 wants them."""
    return {group["name"]: [place(view.graph, node) for node in group["nodes"]] for group in view.state["groups"]}


def members(graph: Graph, groups: Groups) -> list[int]:
    """The nodes of groups, as far as the graph has them."""
    at = {place(graph, node): node for node in np.flatnonzero(graph.nodes["kind"] == "latent").tolist()}
    return [at[tuple(key)] for group in groups.values() for key in group if tuple(key) in at]


def _group_faults(answer: Any, setting: Setting) -> Iterator[str]:
    if callable(answer):
        yield "This is a function. Hand over the groups themselves: what it returns."
    groups = {str(name): [tuple(map(int, key)) for key in keys] for name, keys in dict(answer).items()}
    if not any(groups.values()):
        raise NotYet
    full = traced(*setting, *UNSOLVED)
    yield from _member_faults(full, [key for keys in groups.values() for key in keys])
    graph, _ = legible(full)
    for name, keys in groups.items():
        if len({pos for _, pos, _ in keys}) > 1:
            words = ", ".join(repr(graph.tokens[pos]) for pos in sorted({pos for _, pos, _ in keys}))
            yield f"Group {name!r} joins several tokens: {words}. One supernode, one place."
        if len(keys) > MEMBERS:
            yield f"Group {name!r} has {len(keys)} latents. At most {MEMBERS}: a group of everything says nothing."
    if len(groups) > GROUPS:
        yield f"These are {len(groups)} supernodes. At most {GROUPS}, so that somebody can follow the story."
    nodes = members(graph, groups)
    share, added = explained(graph, nodes), float(graph.influence()[nodes].sum())
    if share < BAR <= added:
        yield (
            f"{share:.0%} of the influence runs through them. Their influences add up to {added:.0%}, but a path that "
            "meets two of them counts once."
        )
    if share < BAR:
        yield f"{share:.0%} of the influence runs through them; {BAR:.0%} are wanted. Which large nodes are left?"


def _member_faults(graph: Graph, keys: list[tuple]) -> Iterator[str]:
    kinds = {place(graph, node): kind for node, kind in enumerate(graph.nodes["kind"])}
    for key in keys:
        if len(key) != 3:
            yield f"{key} is no place of a latent: give (layer, position, latent)."
        kind = kinds.get(key)
        if kind == "logit":
            yield f"{key} is the target. It does not explain itself: logits do not count."
        if kind == "error":
            yield f"{key} is an error, what the transcoders leave out. It has influence, but it explains nothing."
        if kind is None:
            yield f"{key} is off on this prompt, or not there at all: choose among the latents of the table."
        if kind != "latent":
            yield f"{key} is a {kind}, which is given, not computed. Group latents."
    if twice := [key for key in keys if keys.count(key) > 1]:
        yield f"{twice[0]} is there twice. It can be told once."


# -- quiz


def _said(*options: str) -> Callable[[], list[str]]:
    return lambda: list(options)


QUESTIONS = (
    Question(
        "10.a",
        "Why does a graph use transcoders, and not SAEs of the residual stream?",
        _said(
            "They have more latents",
            "A transcoder stands in for the MLP, so what lies between two latents is linear",
            "SAEs cannot be read",
        ),
        1,
        "Between two SAEs lies an MLP, which is not linear. With a transcoder in its place only heads and norms are "
        "left, and with these held an edge is a product of fixed matrices.",
    ),
    Question(
        "10.b",
        "A latent has a large influence, and its edge into the target is near zero. How can that be?",
        _said(
            "The graph is wrong",
            "Influence runs along paths: it acts through other latents",
            "Its effects are all negative",
        ),
        1,
        "An edge is one step. Influence adds up the absolute shares along all paths, of any length and sign.",
    ),
    Question(
        "10.c",
        "The graph says nothing about why a head looks at the bracket. Why?",
        _said(
            "Heads do not matter here",
            "The transcoders left it out as an error",
            "Attention patterns were held, so whatever made them has no edges",
        ),
        2,
        "Patterns are constants of the graph. What moves information is in it, what decides where to look is not.",
    ),
)


# -- the chapter

CHAPTER = Chapter(
    "10",
    (
        Exercise(
            "10.1",
            "A direct effect",
            8,
            direct_effect,
            first_fault(_effect_faults, "It is the edge of the graph: linear, and nothing in between answers."),
            (
                "read(extra, hold) runs the model with something added where the source writes. What does the source "
                "write? How do you read one latent off a vector?",
                "(read(what the source writes) - read(nothing)) times the encoder, with patterns, norms and MLPs held.",
                "write = activation * decoder, then (read(write, hold) - read(0 * write, hold)) @ encoder.",
            ),
        ),
        Exercise(
            "10.2",
            "Influence, and what to keep",
            8,
            influence_and_kept,
            first_fault(_influence_faults, "The influence of every node, and the fewest that hold the share."),
            (
                "Make every row a set of shares first: absolute values, divided by the sum of the row.",
                "p (A + A^2 + A^3 + ...) = p (1 - A)^-1 - p. Then sort, and add up from the strongest.",
                "influence = p @ np.linalg.inv(np.eye(len(A)) - A) - p; order = np.argsort(-influence); np.cumsum says "
                "how many it takes. Rows of zeros stay zero.",
            ),
        ),
        Exercise(
            "10.3",
            "A story in six supernodes",
            15,
            supernodes,
            first_fault(_group_faults, "At most six supernodes, and most of the influence runs through them."),
            (
                "Which words does the prompt choose between? Look at the latents at those tokens, and at the last one.",
                "Take the largest latents of a token together. To measure: "
                "nb10.explained(small, nb10.members(small, groups)).",
                "Sort by influence, gather by position, keep the four strongest of a token, and write "
                '{"name": [(layer, position, latent), ...], ...}.',
            ),
            runs=True,
        ),
    ),
    QUESTIONS,
)
