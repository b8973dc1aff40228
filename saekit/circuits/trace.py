"""`trace`: the attribution graph of a prompt."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from scipy.sparse import csr_array, vstack
from torch import Tensor

from ..attribute.targets import LOGITS, Target, prompt_tokens, token_id
from ..corpus import pieces
from ..hooks import model_record
from .frozen import Frozen
from .graph import Graph, shares
from .influence import Block, flow
from .sources import BIAS, Sources, contributions

GRADIENTS = 2**28  # bytes that the gradients of one batch may take


class Progress(NamedTuple):
    """What a `progress` callback is told."""

    rows: int  # latents with a row
    latents: int  # all of them
    left: float  # the share of the influence that latents without a row could still explain


class Goal(NamedTuple):
    """A target of a graph: the sum over the vocabulary of `direction * logit`, before a soft cap."""

    index: int
    probability: float
    label: str
    direction: Float[Tensor, " vocab"]
    given: dict[str, list] | None = None  # a direction that is no token's: ids and weights


def trace(
    model: Any,
    coders: Any,
    prompt: str | Int[Tensor, " pos"] | Int[Tensor, "1 pos"],
    target: Any = None,
    *,
    logits: int = 10,
    mass: float = 0.95,
    bound: float = 0.01,
    nodes: int | None = None,
    edges: float = 1.0,
    batch: int | None = None,
    progress: Callable[[Progress], Any] | None = None,
) -> Graph:
    """The attribution graph of a prompt: what made its next token, node by node, in rows that add up.

    The weight of source s in the row of target t is `a_s d_s J v_t`: the vector that s writes, through the residual
    stream and the attention heads' OV circuits with patterns and norm scales held (J), read by the encoder of the
    latent t or by the direction of a logit (Ameisen et al. 2025, Circuit Tracing).

    coders: a stack of per-layer, skip or cross-layer transcoders, or a list of transcoders, for every layer's MLP
    target: None for the likeliest tokens, at most `logits` of them, until they have `mass` of the probability, each
      less the mean over the vocabulary; a token (text or id), a `Target` such as `sk.logit_diff(a, b)`, or a list
    bound: rows are made for the latents with the largest influence, until those without one hold at most this share.
      The influence that enters them is all that their rows could still pass on, so no node's influence is off by more
    nodes: at most so many latents get a row
    edges: the share of each row's absolute weights that is kept, the largest first; the others add up in `rest`
    batch: rows that are made at once; by default as many as 256 MB of gradients hold
    progress: called after every batch. Ctrl-C, or progress that returns True, ends early with the rows so far

    Raises ValueError for a prompt shorter than two tokens or longer than the context, coders of another model, a
    layer without one, a target of several tokens, and when no latent is on.
    """
    tokens = _tokens(model, prompt)
    frozen = Frozen(model, coders, tokens)
    goals = _goals(model, frozen.logits[0].float(), target, logits, mass)
    rows = _Rows(frozen, Sources(frozen), goals, edges, batch)
    with suppress(KeyboardInterrupt):
        for part in rows.until(bound, nodes):
            rows.add(*part)
            if progress and progress(Progress(rows.done, rows.latents, rows.left())):
                break
    about = {"directions": [goal.given for goal in goals]}
    return rows.graph(model_record(model), coders, about)


class _Rows:
    """Rows as they are made: those of the targets first, then of latents in the order of their influence."""

    def __init__(self, frozen: Frozen, sources: Sources, goals: Sequence[Goal], edges: float, batch: int | None):
        self.sources, self.edges, self.batch = sources, edges, batch or _fitting(frozen)
        top, last = frozen.model.cfg.n_layers, frozen.tokens.shape[1] - 1
        self.table = sources.table([("logit", top, last, g.index, 0.0, g.probability, g.label) for g in goals])
        self.kind, self.layer = (self.table[column].to_numpy() for column in ("kind", "layer"))
        self.start, n = self.table["probability"].to_numpy(), len(self.table)
        self.waiting, self.totals, self.rest = self.kind == "latent", np.zeros(n), np.zeros(n)
        self.latents, self.blocks = int(self.waiting.sum()), [[] for _ in range(top + 1)]  # by layer
        directions = torch.stack([goal.direction for goal in goals]).to(next(iter(frozen.leaves.values())))
        values = directions @ frozen.taps[LOGITS].detach()[0, 0]
        self._make(
            np.arange(len(sources), n), LOGITS, values.new_zeros(len(goals)).long(), directions, 0 * values, values
        )

    @property
    def done(self) -> int:
        """How many latents have a row."""
        return self.latents - int(self.waiting.sum())

    def left(self) -> float:
        """The share of the influence that ends in latents without a row."""
        blocks = (Block(nodes, shares(rows)) for layer in reversed(self.blocks) for nodes, rows in layer)
        self.through = flow(blocks, self.start)
        return float(self.through[self.waiting].sum() / self.start.sum())

    def until(self, bound: float, nodes: int | None) -> Iterator[tuple[int, Int[np.ndarray, " n"]]]:
        """(bank, nodes) to make rows for. Influence is refreshed when the rows have doubled, at least a batch."""
        most = self.latents if nodes is None else min(nodes, self.latents)
        while self.left() > bound and (room := most - self.done) > 0:
            order = np.flatnonzero(self.waiting & (self.through > 0))
            order = order[np.argsort(-self.through[order], kind="stable")]
            beyond = self.through[order].sum() - np.cumsum(self.through[order])
            enough = 1 + int(np.searchsorted(-beyond, -bound * self.start.sum()))
            chosen = np.sort(order[: min(room, max(self.batch, min(enough, self.done)))])
            for i, bank in enumerate(self.sources.frozen.banks):
                mine = chosen[self.layer[chosen] == bank.site.layer]
                for part in np.array_split(mine, -(-len(mine) // self.batch) or 1):
                    if len(part):
                        yield i, part

    def add(self, bank: int, nodes: Int[np.ndarray, " n"]) -> None:
        """Make the rows of these latents of one bank."""
        active = self.sources.active[bank]
        pos, _, value, seed, offset = (column[nodes - self.sources.first[bank]] for column in active)
        self._make(nodes, self.sources.frozen.banks[bank].site.read, pos, seed, offset, value)

    def _make(self, nodes: np.ndarray, tap: str, pos: Tensor, seeds: Tensor, offset: Tensor, value: Tensor) -> None:
        found = contributions(self.sources, tap, pos, seeds)
        found[:, BIAS] += offset
        row = found.double().cpu().numpy()
        kept = np.where(_strongest(row, self.edges), row, 0.0) if self.edges < 1 else row
        self.rest[nodes], self.totals[nodes] = (row - kept).sum(1), value.double().cpu().numpy()
        self.blocks[self.layer[nodes[0]]].append(Block(nodes, csr_array(kept)))
        self.waiting[nodes] = False

    def graph(self, model: dict[str, Any], coders: Any, about: dict[str, Any]) -> Graph:
        """What there is."""
        blocks, n = [block for layer in self.blocks for block in layer], len(self.table)
        order = np.full(n, sum(len(block.nodes) for block in blocks))  # a row of nothing, after the others
        order[np.concatenate([block.nodes for block in blocks])] = np.arange(order[0])
        wide = [csr_array((w.data, w.indices, w.indptr), (w.shape[0], n)) for _, w in blocks]
        weights = vstack([*wide, csr_array((1, n))], format="csr")[order]
        ids = tuple(self.sources.frozen.tokens[0].tolist())
        words = tuple(self.table["label"][self.kind == "token"])
        return Graph(self.table, weights, self.totals, self.rest, ids, words, model, coders, self.left(), about)


def _fitting(frozen: Frozen) -> int:
    """How many rows' gradients fit."""
    leaf = next(iter(frozen.leaves.values()))
    per_row = leaf.numel() * leaf.element_size() * (len(frozen.leaves) + 2)
    return int(np.clip(GRADIENTS // per_row, 16, 256))


def _strongest(row: Float64[np.ndarray, "n nodes"], share: float) -> Bool[np.ndarray, "n nodes"]:
    """The fewest entries of each row whose absolute values sum to `share` of all."""
    size = np.abs(row)
    order = np.argsort(-size, axis=1, kind="stable")
    ranked = np.take_along_axis(size, order, 1)
    before = np.cumsum(ranked, 1) - ranked
    keep = np.zeros(row.shape, bool)
    np.put_along_axis(keep, order, before < share * ranked.sum(1, keepdims=True), 1)
    return keep


def _tokens(model: Any, prompt: str | Tensor) -> Int[Tensor, "1 pos"]:
    tokens = prompt_tokens(model, prompt)
    if len(tokens) != 1:
        raise ValueError(f"a graph is of one prompt; got {len(tokens)}")
    return tokens


def _goals(model: Any, logits: Float[Tensor, " vocab"], target: Any, most: int, mass: float) -> list[Goal]:
    p = logits.softmax(0)
    if target is None:
        top = p.topk(min(most, len(p)))
        enough = 1 + int((top.values.cumsum(0) < mass).sum())
        target = top.indices[:enough].tolist()
    several = target if isinstance(target, Sequence) and not isinstance(target, str) else [target]
    return [_goal(model, p, one) for one in several]


def _goal(model: Any, p: Float[Tensor, " vocab"], target: Any) -> Goal:
    """A token's logit less the mean over the vocabulary, with its probability; or a `Target`, of weight 1."""
    if isinstance(target, Target):
        if target.read != LOGITS or target.pos != -1:
            raise ValueError(f"the target {target.label} is not of the logits at the last position; a graph's are")
        direction = target.direction(model)
        ids = torch.nonzero(direction)[:, 0]
        given = {"ids": ids.tolist(), "weights": direction[ids].tolist()}
        return Goal(int(ids) if len(ids) == 1 else -1, 1.0, target.label, direction, given)
    i = token_id(model, target, len(p))
    demeaned = torch.nn.functional.one_hot(torch.tensor(i, device=p.device), len(p)) - 1 / len(p)
    return Goal(i, float(p[i]), pieces(model.tokenizer, [i])[0], demeaned)
