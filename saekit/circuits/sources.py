"""`Sources`: what each leaf of a frozen forward is the sum of, as nodes of a graph and the vectors they write."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..coder.sparse import Encoding
from ..corpus import pieces
from .frozen import EMBEDDINGS, Frozen
from .graph import COLUMNS

BIAS = 0  # the node of all biases


class Parts(NamedTuple):
    """The parts of one leaf: part i is `vectors[i]` at `pos[i]`, written by node `node[i]`."""

    node: Int[Tensor, " n"]
    pos: Int[Tensor, " n"]
    vectors: Float[Tensor, "n d"]

    def by_position(self, length: int, spare: int) -> tuple[Int[Tensor, "pos n"], Float[Tensor, "pos n d"]]:
        """(nodes, vectors) with as many places at each position, for one product; those to spare have node `spare`."""
        order = torch.argsort(self.pos, stable=True)
        counts = torch.bincount(self.pos, minlength=length)
        place = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[self.pos[order]]
        nodes = torch.full((length, int(counts.max())), spare, device=order.device)
        vectors = self.vectors.new_zeros(*nodes.shape, self.vectors.shape[1])
        nodes[self.pos[order], place], vectors[self.pos[order], place] = self.node[order], self.vectors[order]
        return nodes, vectors


class Active(NamedTuple):
    """The latents of one layer that are on, ordered by position: `value = <seed, x at pos> + offset`.

    With the gate held, that is the pre-activation, for a Gated coder the one of its magnitude path, which its
    activation equals; `slope` is what the value gains with `x W_enc`.
    """

    pos: Int[Tensor, " n"]
    latent: Int[Tensor, " n"]
    value: Float[Tensor, " n"]
    seed: Float[Tensor, "n d_in"]
    offset: Float[Tensor, " n"]


def slopes(coder: Any, found: Encoding) -> Float[Tensor, " nnz"]:
    """What the value of each entry gains with its pre-activation, its gate held."""
    gain = getattr(coder.nonlinearity, "log_gain", None)
    if gain is not None:
        return gain[found.codes.latents].exp()
    return torch.where(found.codes.values != 0, found.codes.values / found.a, 0.0)


class Sources:
    """The nodes of a prompt below its targets, and what they write.

    nodes: a table with the columns of a `Graph`, in its order
    parts: {leaf: Parts}; they add up to the leaf, because errors are what the transcoders leave of it
    active: for each bank, its latents; first: the number of its first latent's node

    Raises ValueError when no latent is on, and for activations that are not finite.
    """

    @torch.no_grad()
    def __init__(self, frozen: Frozen) -> None:
        self.frozen = frozen
        self.active = [self._active(i) for i in range(len(frozen.banks))]
        if not any(len(active.pos) for active in self.active):
            raise ValueError("no latent is on anywhere in this prompt: are these the transcoders of this model?")
        self.rows, self.first, self.error = self._nodes()
        self.parts = {name: self._parts(name, leaf.detach()[0]) for name, leaf in frozen.leaves.items()}
        self.dense = {name: part.by_position(len(frozen.coded), len(self)) for name, part in self.parts.items()}

    def __len__(self) -> int:
        return len(self.rows)

    def _active(self, i: int) -> Active:
        bank, coded = self.frozen.banks[i], torch.nonzero(self.frozen.coded)[:, 0]
        x = self.frozen.taps[bank.site.read].detach()[0, coded]
        found = bank.encoding(x.to(bank.W_enc.dtype))
        on = found.codes.values != 0
        rows, latent, f, a = (t[on] for t in (found.codes.rows, found.codes.latents, found.codes.values, found.a))
        slope = slopes(bank, found)[on]
        if not bool(f.isfinite().all()):
            raise ValueError(f"the transcoder of layer {bank.site.layer} gives activations that are not finite numbers")
        seed = (slope * bank.W_enc[:, latent]).T.to(x.dtype)
        offset = f - slope * a + slope * (bank.b_enc[latent] - bank.b_pre @ bank.W_enc[:, latent])
        return Active(coded[rows], latent, f.to(x.dtype), seed, offset.to(x.dtype))

    def _nodes(self) -> tuple[list[tuple], list[int], dict[tuple[int, int], int]]:
        """Rows of the table, the node of each bank's first latent, {(layer, pos): the node of its error}."""
        ids, coded = self.frozen.tokens[0].tolist(), self.frozen.coded.tolist()
        words = pieces(self.frozen.model.tokenizer, ids)
        rows: list[tuple] = [("bias", -1, -1, -1, 0.0, 0.0, "bias")]
        rows += [("bos", -1, p, -1, 0.0, 0.0, "BOS") for p, on in enumerate(coded) if not on][:1]
        rows += [("token", -1, p, i, 0.0, 0.0, words[p]) for p, i in enumerate(ids)]
        if EMBEDDINGS[1] in self.frozen.leaves:
            rows += [("position", -1, p, -1, 0.0, 0.0, f"position {p}") for p in range(len(ids))]
        first, error = [0] * len(self.active), {}
        for layer in range(self.frozen.model.cfg.n_layers):
            for bank, active in enumerate(self.active):
                if self.frozen.banks[bank].site.layer == layer:
                    first[bank] = len(rows)
                    found = (t.tolist() for t in (active.pos, active.latent, active.value))
                    rows += [("latent", layer, p, i, f, 0.0, str(i)) for p, i, f in zip(*found, strict=True)]
            error |= {(layer, p): len(rows) + k for k, p in enumerate(q for q, on in enumerate(coded) if on)}
            rows += [("error", layer, p, -1, 0.0, 0.0, f"error, layer {layer}") for p, on in enumerate(coded) if on]
        return rows, first, error

    def _parts(self, name: str, leaf: Float[Tensor, "pos d"]) -> Parts:
        every = torch.arange(len(leaf), device=leaf.device)
        if name in EMBEDDINGS:
            kind = ("token", "position")[EMBEDDINGS.index(name)]
            return Parts(every + next(i for i, row in enumerate(self.rows) if row[0] == kind), every, leaf)
        layer, coded = [*self.frozen.writers].index(name), self.frozen.coded
        parts = [self._written(i, columns, leaf) for i, columns in self.frozen.writers[name]]
        b_dec = sum(self.frozen.banks[i].b_dec[columns] for i, columns in self.frozen.writers[name]).to(leaf.dtype)
        at = every[coded]
        parts.append(Parts(torch.full_like(at, BIAS), at, b_dec.expand(len(at), -1)))
        left = leaf.clone()
        for part in parts:
            left.index_add_(0, part.pos, part.vectors, alpha=-1)
        nodes = [self.error[layer, p] if on else 1 for p, on in enumerate(coded.tolist())]  # 1: the node of BOS
        parts.append(Parts(torch.tensor(nodes, device=leaf.device), every, left))
        return Parts(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _written(self, i: int, columns: slice, leaf: Tensor) -> Parts:
        active = self.active[i]
        nodes = self.first[i] + torch.arange(len(active.pos), device=leaf.device)
        writes = self.frozen.banks[i].W_dec[active.latent, columns].to(leaf.dtype)
        return Parts(nodes, active.pos, active.value[:, None] * writes)

    def errors(self) -> dict[str, Float[Tensor, "pos d"]]:
        """{a layer's MLP output: what the transcoders leave of it}; 0 at BOS."""
        nodes = torch.tensor([*self.error.values()], device=self.frozen.tokens.device)
        out = {name: torch.zeros_like(self.frozen.leaves[name][0]).detach() for name in self.frozen.writers}
        for name, error in out.items():
            node, pos, vectors = self.parts[name]
            mine = torch.isin(node, nodes)
            error[pos[mine]] = vectors[mine]
        return out

    def table(self, targets: Sequence[tuple] = ()) -> pd.DataFrame:
        """The nodes, with those of the targets after them."""
        return pd.DataFrame([*self.rows, *targets], columns=list(COLUMNS))


def contributions(
    sources: Sources, tap: str, pos: Int[Tensor, " n"], seeds: Float[Tensor, "n tap"]
) -> Float[Tensor, "n nodes"]:
    """What every node adds to `<seeds[i], tap at pos[i]>`; the model's own biases are added to the node of biases."""
    return collected(sources, sources.frozen.pull(tap, pos, seeds), tap, pos, seeds)


def collected(
    sources: Sources,
    gradients: Mapping[str, Float[Tensor, "n upto d"]],
    tap: str,
    pos: Int[Tensor, " n"],
    seeds: Float[Tensor, "n tap"],
) -> Float[Tensor, "n nodes"]:
    """The same, from the gradients at the leaves."""
    out = seeds.new_zeros(len(sources) + 1, len(seeds))
    for name, g in gradients.items():
        nodes, vectors = (t[: g.shape[1]] for t in sources.dense[name])
        out.index_add_(0, nodes.flatten(), torch.bmm(vectors, g.permute(1, 2, 0)).flatten(0, 1))
    out[BIAS] += (seeds * sources.frozen.constants[tap][0, pos]).sum(1)
    return out[:-1].T
