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
    v, out = f"blocks.{layer}.attn.hook_v", f"blocks.{layer}.hook_attn_out"
    z, (hook, parts) = f"blocks.{layer}.attn.hook_z", stream.origin(target.read)
    g = stream.pull(target.read, hook, seeds)
    if out not in parts and z not in parts:
        raise ValueError(f"{target.label} is read at {target.read!r}, where layer {layer} has not written")
    g = g if z in parts else stream.pull(out, z, g)
    pattern, values = stream.heads(layer)
    kv_heads = stream.seen[v].shape[-1] // values.shape[-1]
    seed = values.new_zeros(1, len(values), kv_heads, values.shape[-1])
    of_head = g.unflatten(2, (len(pattern), -1))[0, :, head]
    seed[0, :, head // (len(pattern) // kv_heads)] = pattern[head].T @ of_head
    seed = seed.flatten(2)
    return _table(stream, stream.reading(v, seed), target, stream.values(v, seed).sum())


def qk(model: Any, prompt: Prompt, layer: int, head: int, query: int, key: int, coders: Any = ()) -> pd.DataFrame:
    """Why a head looks from one position at another: its score there, split over both sides.

    The score, before the soft cap of a model that has one, is bilinear in what the head reads at the two positions:
    `S = q M k`, so `S[i, j] = (part i of x_query) (part j of x_key)` through W_Q, W_K, the rotation and the norms,
    their scales frozen. Rows: parts at the query; columns: parts at the key, as in `direct`. `attrs`: score, which is
    the sum. Raises ValueError as `direct`, for a key that this query does not see, and where scores are not bilinear.
    """
    _check_head(model, layer, head)
    tokens, name = prompt_tokens(model, prompt), f"blocks.{layer}.attn.hook_"
    n = tokens.shape[1]
    if not (-n <= query < n and -n <= key < n) or key % n > query % n:
        raise ValueError(f"a query at {query} does not see a key at {key} in a prompt of {n} tokens")
    query, key = query % n, key % n
    stream = Stream(model, tokens, coders, f"{name}q", f"{name}k", f"{name}attn_scores")
    score, form = _bilinear(stream, name, head, query, key)
    sides = []
    for side, pos in (("q", query), ("k", key)):
        width, d_head = stream.seen[name + side].shape[-1], len(form)
        mine = head * d_head if side == "q" else head // (model.cfg.n_heads * d_head // width) * d_head
        seeds = form.new_zeros(d_head, n, width)
        seeds[torch.arange(d_head), pos, mine + torch.arange(d_head)] = 1.0
        sides.append(stream.reading(name + side, seeds).table())
    (rows, q), (columns, k) = sides
    matrix = q @ form.double() @ k.T
    _adds_up(matrix, score)
    table = pd.DataFrame(matrix.numpy(), pd.MultiIndex.from_frame(rows), pd.MultiIndex.from_frame(columns))
    table.attrs = {"score": score}
    return table


def _bilinear(
    stream: Stream, name: str, head: int, query: int, key: int
) -> tuple[float, Float[Tensor, "d_head d_head"]]:
    """(S, M): the score before the cap, and M with S = q M k; the rotation is in M."""
    n, cfg = stream.tokens.shape[1], stream.model.cfg
    capped = stream.seen[f"{name}attn_scores"].view(cfg.n_heads, n, n)[head, query, key]
    if capped < torch.finfo(capped.dtype).min / 2:
        raise ValueError(
            f"a query at {query} does not see a key at {key}: the window of layer {name.split('.')[1]} is shorter"
        )
    q, k = (stream.seen[name + side] for side in "qk")
    d_head = q.shape[-1] // cfg.n_heads
    cap = cfg.attn_scores_soft_cap
    score = capped if cap <= 0 else cap * torch.atanh(capped / cap)
    (along,) = torch.autograd.grad(score, q, create_graph=True)
    along = along[0, query].view(cfg.n_heads, d_head)[head]
    (form,) = torch.autograd.grad(along, k, torch.eye(d_head).to(along), retain_graph=True, is_grads_batched=True)
    kv_heads = k.shape[-1] // d_head
    form = form[:, 0, key].view(d_head, kv_heads, d_head)[:, head // (cfg.n_heads // kv_heads)]
    return score.item(), form.detach()


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
