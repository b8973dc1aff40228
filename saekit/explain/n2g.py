"""Neuron2Graph (Foote et al. 2023, arXiv 2305.19911): a latent as a trie of the contexts that it needs."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from ..features import Features, Latent
from ..hooks import capture
from .agreement import Agreement
from .examples import live
from .prompts import AT_ONCE, EMBEDDED, prompts, values_on
from .pruned import Pruned, pruned

ANY = -1  # a wildcard: a token that does not matter
Path = tuple[int, ...]  # ids from the activating token backwards; the last one is no wildcard


@dataclass
class Node:
    """What may stand further left; `end`: the latent is on whatever that is."""

    children: dict[int, "Node"] = field(default_factory=dict)
    end: bool = False


@dataclass(repr=False)
class Graph:
    """A trie of contexts: it fires where the tokens, read backwards, spell one of its paths.

    train, test: its agreement with the latent on the sampled tokens of either half of the documents.
    """

    root: Node
    pieces: dict[int, str]
    train: Agreement | None = None
    test: Agreement | None = None

    def fires(self, tokens: Int[np.ndarray | Tensor, "batch pos"]) -> Bool[np.ndarray, "batch pos"]:
        """Where it fires on token ids."""
        tokens = np.asarray(tokens)
        windows, pos = (at.reshape(-1) for at in np.indices(tokens.shape))
        return self.fires_at(tokens, windows, pos).reshape(tokens.shape)

    def fires_at(
        self, tokens: Int[np.ndarray, "batch pos"], window: Int[np.ndarray, " n"], pos: Int[np.ndarray, " n"]
    ) -> Bool[np.ndarray, " n"]:
        """Whether it fires at each of some positions."""
        fired = np.zeros(len(window), bool)
        waiting = [(self.root, np.arange(len(window)), 0)]
        while waiting:
            node, places, depth = waiting.pop()
            if node.end:
                fired[places] = True
                continue
            places = places[pos[places] >= depth]
            here = tokens[window[places], pos[places] - depth]
            for token, child in node.children.items():
                matching = places if token == ANY else places[here == token]
                if len(matching):
                    waiting.append((child, matching, depth + 1))
        return fired

    @property
    def paths(self) -> list[Path]:
        """All of its paths."""
        return sorted(path for path, node in self._nodes() if node.end)

    def words(self) -> list[str]:
        """Its paths as they are read, from left to right; `…` is any one token."""
        return ["".join("…" if i == ANY else self.pieces[i] for i in reversed(path)) for path in self.paths]

    def __len__(self) -> int:
        """Nodes, the root left out."""
        return sum(1 for _ in self._nodes()) - 1

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.words()[:3]))
        return f"Graph({len(self)} nodes, {len(self.paths)} paths: {shown}{', ...' if len(self.paths) > 3 else ''})"

    def _nodes(self) -> Iterator[tuple[Path, Node]]:
        waiting: list[tuple[Path, Node]] = [((), self.root)]
        while waiting:
            path, node = waiting.pop()
            yield path, node
            waiting += [((*path, token), child) for token, child in node.children.items()]


def n2g(
    latent: Latent,
    n: int = 10,
    *,
    keep: float = 0.5,
    important: float = 0.5,
    substitutes: int = 5,
    augment: str | None = "model",
    above: float = 0.5,
    mask: str | int = "unigram",
    seed: int = 0,
) -> Graph:
    """The trie of a latent's n strongest examples in the train documents, with its scores on both halves (Foote et al.
    2023, arXiv 2305.19911).

    Each example is `pruned` to `keep` of its activation; its tokens of importance >= `important` become nodes, the
    others wildcards. Each such token is also replaced by `substitutes` others, one at a time, and the path is added
    where the latent keeps half of its activation. augment, where the others come from: "model", its own next-token
    distribution there; "embedding", the nearest embeddings; None, no others. above: the share of its maximum from
    which on the latent counts as on in the scores, 0.5 in the paper. mask, seed: as in `pruned`.

    Raises ValueError for a dead latent, one without an example in the train documents, and another `augment`.
    """
    if augment not in ("model", "embedding", None):
        raise ValueError(f'augment={augment!r}: give "model", "embedding" or None')
    features, examples = live(latent).features, latent.top(n, documents="train")
    if not examples:
        raise ValueError(
            f"none of the examples kept of latent {latent.index} is in a train document: collect more text"
        )
    paths: set[Path] = set()
    for example in examples:
        found = pruned(latent, example, keep=keep, mask=mask, seed=seed)
        matter = np.array(found.importance) >= important
        matter[-1] = True  # the token it is on at
        paths |= {_path(ids, matter) for ids in _variants(latent, found, matter, substitutes, augment)}
    graph = Graph(_trie(paths), {i: features.excerpts.pieces[i] for path in paths for i in path if i != ANY})
    graph.train, graph.test = (_agreement(latent, graph, above, test) for test in (False, True))
    return graph


def _path(ids: Int[np.ndarray, " n"], matter: Bool[np.ndarray, " n"]) -> Path:
    return tuple(np.where(matter, ids, ANY)[matter.argmax() :][::-1].tolist())


def _trie(paths: set[Path]) -> Node:
    root = Node()
    for path in paths:
        node = root
        for token in path:
            node = node.children.setdefault(token, Node())
        node.end = True
    for node in _below(root):
        if node.end:
            node.children = {}  # longer paths add nothing
    return root


def _below(node: Node) -> Iterator[Node]:
    for child in node.children.values():
        yield child
        yield from _below(child)


def _variants(
    latent: Latent, found: Pruned, matter: Bool[np.ndarray, " n"], substitutes: int, augment: str | None
) -> list[Int64[np.ndarray, " n"]]:
    """The pruned ids, and those with one token replaced on which the latent keeps half of its activation."""
    ids = np.array(found.ids)
    if augment is None:
        return [ids]
    others = (_by_model if augment == "model" else _by_embedding)(latent.features, ids, substitutes)
    changed = []
    for at in np.flatnonzero(matter):
        for other in others[at]:
            changed.append(ids.copy())
            changed[-1][at] = other
    values = values_on(latent.features, latent.index, prompts(latent.features, changed))[:, -1]
    return [ids, *(row for row, value in zip(changed, values, strict=True) if value >= found.value / 2)]


@torch.no_grad()
def _by_model(features: Features, ids: Int[np.ndarray, " n"], m: int) -> Int64[np.ndarray, "n m"]:
    """The ids likeliest to stand at each place, by what is before it."""
    batch = torch.from_numpy(prompts(features, [ids]))
    logits = features.model(batch)[0]
    shown = len(features.excerpts.pieces)
    lead = features.corpus.lead
    first = logits[:1] if lead == 0 else logits[:0]  # nothing is before it, so that its own logits stand in
    return torch.cat([first, logits[max(lead - 1, 0) : -1]])[:, :shown].topk(m).indices.numpy()


def _by_embedding(features: Features, ids: Int[np.ndarray, " n"], m: int) -> Int64[np.ndarray, "n m"]:
    """The ids whose embeddings are nearest to each one's, by cosine."""
    E = _embeddings(features)
    cosine = E[torch.from_numpy(ids)] @ E.T
    cosine[torch.arange(len(ids)), torch.from_numpy(ids)] = -torch.inf
    return cosine.topk(m).indices.numpy()


def _embeddings(features: Features) -> Float[Tensor, "ids d_model"]:
    """The direction of every id's embedding, of those up to the corpus' largest."""
    width = min(features.model.cfg.n_ctx, AT_ONCE)
    ids = torch.arange(len(features.excerpts.pieces))
    padded = torch.nn.functional.pad(ids, (0, -len(ids) % width)).view(-1, width)
    found = [capture(features.model, row[None], EMBEDDED)[EMBEDDED][0] for row in padded]
    return torch.nn.functional.normalize(torch.cat(found)[: len(ids)].float(), dim=1)


def _agreement(latent: Latent, graph: Graph, above: float, test: bool) -> Agreement:
    features, sampled = latent.features, latent.features.index.sample
    tokens, values = sampled.firings(latent.index)
    truth = np.zeros(len(sampled.place), bool)
    truth[tokens[values > above * latent.max]] = True
    window, pos = np.divmod(sampled.place, features.corpus.tokens.shape[1])
    half = features.test_windows[window] == test
    return Agreement.of(graph.fires_at(features.corpus.tokens.numpy(), window[half], pos[half]), truth[half])
