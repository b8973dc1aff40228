"""Attribution by addition: what reads the residual stream, split into what wrote it. Every table sums to its total."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .stream import Stream, Terms, labelled
from .targets import AnyTarget, Target, on, prompt_tokens

Prompt = str | Int[Tensor, "_ pos"] | Int[Tensor, " pos"]


def direct(model: Any, prompt: Prompt, target: AnyTarget, coders: Any = ()) -> pd.DataFrame:
    """Who wrote what the target reads, with norm scales and attention patterns as they are on this prompt.

    The target reads the residual stream at its position: `sk.logit` and `sk.logit_diff` through the final norm and
    the unembedding (direct logit attribution), `sk.pre_activation` through a latent's encoder row (Kissane et al.
    2024, arXiv 2406.17759). What is there is a sum:
      embed, position      the embeddings
      head                 head of layer, from the source at pos: `A[q, k] v[k] W_O`; all heads and sources
      mlp                  of a layer
      b_O, b_norm, b_U, b_enc    biases of attention, of the norm, of the unembedding, of the latent
    `coders`: each takes the place of what it reconstructs, as latent, error, b_dec, and bos (all that is at BOS, where
    no coder is trained): one at the residual stream that of everything below it, one at a layer's attention or MLP
    output, or a transcoder, that of this layer's.

    Columns: kind, site, layer, head, pos, token, latent, contribution; strongest first. `attrs`: target, total, which
    is the sum. Raises ValueError for a prompt of fewer than two tokens or longer than the context, a target that is
    not linear or does not read the stream, a coder that does not fit or is not read, and a model whose stream holds
    more than these parts.
    """
    target, stream, seeds = _read(model, prompt, target, coders)
    terms = stream.reading(target.read, seeds)
    terms.add("b_enc", torch.tensor([[target.constant]], dtype=torch.float64))
    return _table(stream, terms, target, stream.values(target.read, seeds).sum() + target.constant)


def ov(model: Any, prompt: Prompt, target: AnyTarget, layer: int, head: int, coders: Any = ()) -> pd.DataFrame:
    """What one head moved to the target, by what it read at the sources: its OV circuit.

    `A[q, k] <LN(part of x[k]) W_V W_O, g>` for each source position k and part of the residual stream before the layer,
    with g what the target reads of the head (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits).
    Columns and `coders` as in `direct`, of what the layer reads: give one at the residual stream for latent to latent
    through a head. b_norm holds b_V. The sum is that of the head's rows in `direct`. Raises ValueError as `direct`, and
    for a head that the target does not read.
    """
    _check_head(model, layer, head)
    target, stream, seeds = _read(model, prompt, target, coders)
    v, z, out = (f"blocks.{layer}.{name}" for name in ("attn.hook_v", "attn.hook_z", "hook_attn_out"))
    hook, parts = stream.origin(target.read)
    if not {out, z} & {*parts}:
        raise ValueError(f"{target.label} is read at {target.read!r}, where layer {layer} has not written")
    g = stream.pull(target.read, hook, seeds)
    g = (g if z in parts else stream.pull(out, z, g)).unflatten(2, (model.cfg.n_heads, -1))[0, :, head]
    seed = g.new_zeros(1, len(g), stream.seen[v].shape[-1])
    seed[0, :, stream.columns(v, head)] = stream.pattern(layer)[head].to(g.dtype).T @ g
    return _table(stream, stream.reading(v, seed), target, stream.values(v, seed).sum())


def qk(model: Any, prompt: Prompt, layer: int, head: int, query: int, key: int, coders: Any = ()) -> pd.DataFrame:
    """Why a head looks from one position at another: its score there, split over both sides.

    The score, before the soft cap of a model that has one, is bilinear in what the head reads at the two positions:
    `S = q M k`, so `S[i, j] = (part i of x_query) (part j of x_key)` through W_Q, W_K, the rotation and the norms,
    their scales frozen. A matrix: rows are parts at the query, columns parts at the key, both named as in `direct`;
    b_norm holds b_Q and b_K. `attrs`: score, which is the sum. Raises ValueError as `direct`, for a key that this query
    does not see, and where scores are not bilinear.
    """
    _check_head(model, layer, head)
    tokens, name = prompt_tokens(model, prompt), f"blocks.{layer}.attn.hook_"
    n = tokens.shape[1]
    if not (-n <= query < n and -n <= key < n) or key % n > query % n:
        raise ValueError(f"a query at {query} does not see a key at {key} in a prompt of {n} tokens")
    query, key = query % n, key % n
    stream = Stream(model, tokens, coders, f"{name}q", f"{name}k", f"{name}attn_scores")
    score, form = _bilinear(stream, name, head, query, key)
    (rows, q), (columns, k) = (_side(stream, name + side, head, pos) for side, pos in (("q", query), ("k", key)))
    matrix = q @ form.double().cpu() @ k.T
    _adds_up(matrix, score)
    table = pd.DataFrame(matrix.numpy(), pd.MultiIndex.from_frame(rows), pd.MultiIndex.from_frame(columns))
    table.attrs = {"score": score}
    return table


def _side(stream: Stream, reader: str, head: int, pos: int) -> tuple[pd.DataFrame, Float[Tensor, "rows d_head"]]:
    """What each part gives to the query, or the key, of a head."""
    mine = stream.columns(reader, head)
    seeds = torch.zeros_like(stream.seen[reader].detach()).repeat(len(mine), 1, 1)
    seeds[torch.arange(len(mine)), pos, mine] = 1.0
    return stream.reading(reader, seeds).table()


def _bilinear(
    stream: Stream, name: str, head: int, query: int, key: int
) -> tuple[float, Float[Tensor, "d_head d_head"]]:
    """(S, M): the score before the cap, and M with S = q M k; the rotation is in M."""
    heads, n, cap = stream.model.cfg.n_heads, stream.tokens.shape[1], stream.model.cfg.attn_scores_soft_cap
    score = stream.seen[f"{name}attn_scores"].view(heads, n, n)[head, query, key]
    if score < torch.finfo(score.dtype).min / 2:
        raise ValueError(f"a query at {query} does not see a key at {key}: the window of this layer is shorter")
    score = cap * torch.atanh(score / cap) if cap > 0 else score
    (along,) = torch.autograd.grad(score, stream.seen[f"{name}q"], create_graph=True)
    along = along[0, query, stream.columns(f"{name}q", head)]
    seeds = torch.eye(len(along)).to(along)
    (form,) = torch.autograd.grad(along, stream.seen[f"{name}k"], seeds, retain_graph=True, is_grads_batched=True)
    return score.item(), form[:, 0, key, stream.columns(f"{name}k", head)].detach()


def _read(
    model: Any, prompt: Prompt, target: AnyTarget, coders: Any
) -> tuple[Target, Stream, Float[Tensor, "1 pos _"]]:
    """(the target on this model, the stream, <seed, x> = m)."""
    target = on(model, target)
    if not isinstance(target, Target):
        raise ValueError(
            f"{target.label} need not be linear; give sk.logit, sk.logit_diff, sk.pre_activation, sk.Target"
        )
    tokens = prompt_tokens(model, prompt, target)
    stream = Stream(model, tokens, coders, target.read)
    seeds = target.weights.new_zeros(1, tokens.shape[1], len(target.weights))
    seeds[0, target.pos] = target.weights
    return target, stream, seeds


def _check_head(model: Any, layer: int, head: int) -> None:
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    if layer not in range(layers) or head not in range(heads):
        raise ValueError(f"head {head} of layer {layer}: this model has {heads} heads in each of {layers} layers")


def _table(stream: Stream, terms: Terms, target: Target, total: Tensor) -> pd.DataFrame:
    rows, values = terms.table()
    _adds_up(values, total.item())
    table = labelled(rows, stream.model, stream.tokens).assign(contribution=values[:, 0].numpy())
    table = table.sort_values("contribution", key=np.abs, ascending=False, kind="stable", ignore_index=True)
    table.attrs = {"target": target.label, "total": total.item()}
    return table


def _adds_up(values: Tensor, total: float) -> None:
    """Raise ValueError where the parts are not all there are: an architecture that adds something else."""
    if abs(values.sum().item() - total) > 1e-3 * (1 + values.abs().sum().item()):
        raise ValueError(
            f"the parts sum to {values.sum().item():.6g}, not to {total:.6g}: this architecture has more between its "
            "parts than norms, attention and biases"
        )
