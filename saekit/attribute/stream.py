"""What a residual stream is the sum of, and how much of a linear reading of it each part gives.

With attention patterns and norm scales frozen, whatever reads the residual stream reads it affinely, and the stream is
the sum of the embeddings and of what each layer wrote. So a reading splits into terms that add up to it.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..codes import dot
from ..corpus import pieces
from ..hooks import at_sites, capture, check_fit, frozen, not_bos
from .nodes import read
from .setting import EMBEDDED
from .targets import LOGITS

COLUMNS = ["kind", "site", "layer", "head", "pos", "latent"]
NORMED = "ln_final.hook_out"


class Terms:
    """Rows that add up: what each is, and what it gives to each of n readings."""

    def __init__(self) -> None:
        self.rows: list[pd.DataFrame] = []
        self.values: list[Float[Tensor, "rows n"]] = []

    def add(self, kind: str | np.ndarray, values: Float[Tensor, "rows n"], **where: Any) -> None:
        """Rows of one kind; `where`: site, layer, head, pos, latent, of each row or of all."""
        row = dict.fromkeys(COLUMNS, -1) | {"kind": kind, "site": ""} | where
        self.rows.append(pd.DataFrame(row, index=range(len(values))))
        self.values.append(values.detach().double().cpu())

    def table(self) -> tuple[pd.DataFrame, Float[Tensor, "rows n"]]:
        """All rows but those that give nothing."""
        values = torch.cat(self.values)
        some = (values != 0).any(1)
        return pd.concat(self.rows, ignore_index=True)[some.numpy()].reset_index(drop=True), values[some]


class Stream:
    """One frozen forward pass of one prompt, kept for vector-Jacobian products, and the coders on it."""

    def __init__(self, model: Any, tokens: Int[Tensor, "_ pos"], coders: Any, *names: str) -> None:
        if len(tokens) != 1:
            raise ValueError(f"{len(tokens)} prompts; give one")
        self.model, self.tokens, self.pairs = model, tokens, at_sites(coders)
        for site, coder in self.pairs:
            check_fit(model, site, coder)
            if len(site.writes) != 1:
                raise ValueError(f"the coder at {site.name!r} writes {len(site.writes)} hooks; here it must write one")
        self.known = _readers(model)
        attention = [f"blocks.{i}.attn.hook_{x}" for i in range(model.cfg.n_layers) for x in ("z", "v", "pattern")]
        stream = [name for hook, parts in self.known.values() for name in (hook, *parts)]
        wanted = dict.fromkeys([*stream, *attention, NORMED, *names])
        with frozen(model, qk_norms=True), model.hooks([(EMBEDDED, lambda x, hook: x.detach().requires_grad_())]):
            self.seen = capture(model, tokens, *(site for site, _ in self.pairs), *wanted, grad=True)
        self.kept = not_bos(model, tokens)

    def same(self, a: str, b: str) -> bool:
        """Whether two names are of one hook."""
        return self.model.hook_dict[a] is self.model.hook_dict[b]

    def pull(self, y: str, x: str, seeds: Float[Tensor, "n pos _"]) -> Float[Tensor, "n pos _"]:
        """d<seed, y>/dx, for each seed."""
        if self.same(y, x):
            return seeds
        ends, seeds = (self.seen[y], self.seen[x]), seeds[:, None].to(self.seen[y].dtype)
        (found,) = torch.autograd.grad(*ends, seeds, retain_graph=True, is_grads_batched=True)
        return found[:, 0]

    def values(self, name: str, seeds: Float[Tensor, "n pos _"]) -> Float[Tensor, "pos n"]:
        """<seed, what is at a hook>, at each position."""
        return torch.einsum("npd,pd->pn", seeds, self.seen[name][0].detach().to(seeds.dtype))

    def origin(self, reader: str) -> tuple[str, list[str]]:
        """(hook, parts): the reader is affine in what is at the hook, which is the sum of the parts."""
        for name, found in self.known.items():
            if self.same(name, reader):
                return found
        raise ValueError(f"{reader!r} does not read the residual stream; what does: {[*self.known][:8]}, ...")

    def reading(self, reader: str, seeds: Float[Tensor, "n pos _"]) -> Terms:
        """The terms of <seed, what is at the reader>. Raises ValueError for a coder of what it does not read."""
        terms, (hook, parts) = Terms(), self.origin(reader)
        g, left = self.pull(reader, hook, seeds), list(self.pairs)
        for pair in self.pairs:
            at, covered = self.origin(pair[0].write)
            if self.same(at, pair[0].write) and {*covered} <= {*parts}:
                parts = [part for part in parts if part not in covered]
                self._coder(terms, *pair, g)
                left.remove(pair)
        for part in parts:
            self._part(terms, part, g, left)
        if left:
            raise ValueError(
                f"{reader!r} does not read what the coder at {left[0][0].name!r} writes, or another covers it"
            )
        self._biases(terms, reader, seeds, self.values(hook, g).sum(0))
        return terms

    def _part(self, terms: Terms, part: str, g: Float[Tensor, "n pos d"], left: list) -> None:
        """The terms of one part; a coder of heads takes its place and leaves the list."""
        layer = int(part.split(".")[1]) if part.startswith("blocks.") else -1
        values, pos = self.values(part, g), np.arange(g.shape[1])
        if part.endswith(".hook_attn_out"):
            z = f"blocks.{layer}.attn.hook_z"
            g = self.pull(part, z, g)
            terms.add("b_O", (values - self.values(z, g)).sum(0, keepdim=True), layer=layer)
            self._part(terms, z, g, left)
        elif not part.endswith(".hook_z"):
            kind = {EMBEDDED: "embed", "pos_embed.hook_out": "position"}.get(part, "mlp")
            terms.add(kind, values, layer=layer, pos=pos)
        elif own := [pair for pair in left if self.same(pair[0].write, part)]:
            self._coder(terms, *own[0], g)
            left.remove(own[0])
        else:
            per_source = self._heads(layer, g)  # [head, pos, n]
            heads = np.repeat(np.arange(len(per_source)), len(pos))
            terms.add("head", per_source.flatten(0, 1), layer=layer, head=heads, pos=np.tile(pos, len(per_source)))

    def pattern(self, layer: int) -> Float[Tensor, "head query key"]:
        """The attention pattern of a layer."""
        heads, pos = self.model.cfg.n_heads, self.tokens.shape[1]
        return self.seen[f"blocks.{layer}.attn.hook_pattern"].detach().view(heads, pos, pos)

    def columns(self, name: str, head: int) -> Int[Tensor, " d_head"]:
        """Where a head's query, key or value is at a hook; query heads may share keys and values."""
        layer, width, heads = name.split(".")[1], self.seen[name].shape[-1], self.model.cfg.n_heads
        d_head = self.seen[f"blocks.{layer}.attn.hook_z"].shape[-1] // heads
        return head * (width // d_head) // heads * d_head + torch.arange(d_head)

    def _heads(self, layer: int, g: Float[Tensor, "n pos _"]) -> Float[Tensor, "head key n"]:
        """`A[q, k] <v[k], g[q]>`, summed over q."""
        pattern, name = self.pattern(layer).to(g.dtype), f"blocks.{layer}.attn.hook_v"
        v = self.seen[name][0].detach().to(g.dtype)
        v = torch.stack([v[:, self.columns(name, head)] for head in range(len(pattern))])
        return torch.einsum("hqk,hkd,nqhd->hkn", pattern, v, g.unflatten(2, (len(pattern), -1)))

    def _coder(self, terms: Terms, site: Any, coder: Any, g: Float[Tensor, "n pos d"]) -> None:
        """The terms of what a coder makes of one part: latents, error and b_dec; all that is at BOS as one."""
        g, here = g.to(coder.W_dec.dtype), (g != 0).any(2).any(0)
        codes, error, y_hat = read(site, coder, self.seen, self.kept)
        codes, where = (
            codes.where(here[codes.rows]),
            {"site": site.name, "layer": -1 if site.layer is None else site.layer},
        )
        W_dec, rows = coder.dictionary().detach(), codes.rows.numpy(force=True)
        each = [codes.values * dot(gi.contiguous(), W_dec, codes.support) for gi in g]
        terms.add("latent", torch.stack(each, 1), **where, pos=rows, latent=codes.latents.numpy(force=True))
        per_pos, pos = torch.einsum("npd,pd->pn", g, error), np.arange(g.shape[1])
        kind = np.where(self.kept[0].numpy(force=True), "error", "bos")
        terms.add(kind, per_pos, **where, pos=pos)
        bias = torch.einsum("npd,pd->n", g[:, here], (y_hat - coder.written(codes))[here])
        terms.add("b_dec", bias[None], **where)

    def _biases(self, terms: Terms, reader: str, seeds: Float[Tensor, "n pos _"], stream: Float[Tensor, " n"]) -> None:
        """What lies between the stream and the reader: biases of the norm, and of the map behind it."""
        total = self.values(reader, seeds).sum(0)
        if self.same(reader, LOGITS):
            normed = self.values(NORMED, self.pull(reader, NORMED, seeds)).sum(0)
            terms.add("b_U", (total - normed)[None])
            total = normed
        terms.add("b_norm", (total - stream)[None])


def _sources(model: Any) -> list[str]:
    """The hooks of the embeddings."""
    return [name for name in (EMBEDDED, "pos_embed.hook_out") if name in model.hook_dict]


def _readers(model: Any) -> dict[str, tuple[str, list[str]]]:
    """{hook: (hook', parts)}: what is at a hook is affine in what is at hook', which is the sum of the parts."""
    stream, known = _sources(model), {}
    known |= {name: (name, [name]) for name in stream}
    for block in (f"blocks.{i}" for i in range(model.cfg.n_layers)):
        attn, mlp, z = (f"{block}.{name}" for name in ("hook_attn_out", "hook_mlp_out", "attn.hook_z"))
        mid = stream if model.cfg.parallel_attn_mlp else [*stream, attn]
        of_heads = dict.fromkeys((f"{block}.attn.hook_{x}" for x in "qkv"), (f"{block}.ln1.hook_in", stream))
        known |= of_heads | {name: (name, [name]) for name in (attn, mlp, z)}
        known |= {name: (name, stream) for name in (f"{block}.hook_resid_pre", f"{block}.ln1.hook_in")}
        known |= {
            f"{block}.ln2.hook_in": (f"{block}.ln2.hook_in", mid),
            f"{block}.mlp.hook_in": (f"{block}.ln2.hook_in", mid),
        }
        stream = [*stream, attn, mlp]
        known[f"{block}.hook_resid_post"] = (f"{block}.hook_resid_post", stream)
    known |= dict.fromkeys(("ln_final.hook_in", LOGITS), ("ln_final.hook_in", stream))
    return {name: found for name, found in known.items() if {name, found[0]} <= model.hook_dict.keys()}


def labelled(rows: pd.DataFrame, model: Any, tokens: Int[Tensor, "1 pos"]) -> pd.DataFrame:
    """The rows with the token at their position; none for what has no position."""
    words = np.array([*pieces(model.tokenizer, tokens[0].tolist()), ""], dtype=object)
    rows.insert(5, "token", words[rows["pos"]])
    return rows
