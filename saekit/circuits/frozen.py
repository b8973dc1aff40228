"""`Frozen`: one prompt through a model in which attention, norms and MLPs are held, so that the rest is linear."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..attribute.targets import LOGITS
from ..coder import CoderStack, SparseCoder
from ..hooks import check_fit, freezes, frozen, not_bos

EMBEDDINGS = ("embed.hook_out", "pos_embed.hook_out")  # the second where positions are embedded
LAST = "unembed.hook_in"
PREFIXES = 6  # lengths of the start of a prompt that have a graph of their own

Leaves = Mapping[str, Float[Tensor, "batch pos d"]]


class Frozen:
    """Logits and what transcoders read, as affine functions of a few leaves (Ameisen et al. 2025, Circuit Tracing).

    Attention patterns and norm scales are constants; the leaves are the embeddings and, for each layer, what the
    residual stream receives from its MLP, less the linear skip path of a transcoder that has one.

    leaves: {hook: [1, pos, d]}, in the order of the computation, with gradient
    taps: {hook: [1, pos, d]} at what the banks read, and the logits of the last position, [1, 1, vocab]
    constants: {hook: the same shapes}: the taps with all leaves at zero, that is what the model's biases give
    coded: where transcoders are on, [pos]: everywhere but at BOS
    """

    def __init__(self, model: Any, coders: Any, tokens: Int[Tensor, "1 pos"]) -> None:
        self.model, self.tokens = model, tokens
        self.banks = banks_of(model, coders)
        self.writers = _writers(model, self.banks)
        self.coded: Bool[Tensor, " pos"] = not_bos(model, tokens)[0]
        self.held: dict[str, Tensor] = {}
        self.leaves: dict[str, Tensor] = {}
        self.prefixes: dict[int, Frozen] = {}
        with torch.enable_grad():
            self.logits, self.taps = self._run(1, self._leaf)
        self.constants = self.replay({name: torch.zeros_like(leaf) for name, leaf in self.leaves.items()})

    @torch.no_grad()
    def replay(self, leaves: Leaves) -> dict[str, Float[Tensor, "batch pos _"]]:
        """The taps of a batch of other leaves, with the patterns and scales of the prompt."""
        batch = max(len(leaf) for leaf in leaves.values())
        return self._run(batch, lambda name, x: leaves[name].expand(batch, -1, -1))[1]

    def pull(
        self, tap: str, pos: Int[Tensor, " n"], seeds: Float[Tensor, "n tap"]
    ) -> dict[str, Float[Tensor, "n upto d"]]:
        """{leaf: the gradient of `<seeds[i], tap at pos[i]>` for each i}: n vector-Jacobian products of one graph.

        Nothing after a position reaches it, so the gradients go as far as the last one needed, rounded up.
        """
        graph = self if tap == LOGITS else self._prefix(int(pos.max()) + 1)
        y = graph.taps[tap]
        v = y.new_zeros(len(seeds), *y.shape)
        v[torch.arange(len(seeds), device=v.device), 0, pos] = seeds
        leaves = [*graph.leaves.values()]
        grads = torch.autograd.grad(y, leaves, v, retain_graph=True, allow_unused=True, is_grads_batched=True)
        return {name: g[:, 0] for name, g in zip(self.leaves, grads, strict=True) if g is not None}

    def _prefix(self, length: int) -> "Frozen":
        """The same for the start of the prompt, one of `PREFIXES` lengths."""
        step = -(-len(self.coded) // PREFIXES)
        length = min(-(-length // step) * step, len(self.coded))
        if length == len(self.coded):
            return self
        if length not in self.prefixes:
            start = copy(self)
            start.tokens, start.coded, start.held, start.leaves = self.tokens[:, :length], self.coded[:length], {}, {}
            with torch.enable_grad():
                start.logits, start.taps = start._run(1, start._leaf)
            self.prefixes[length] = start
        return self.prefixes[length]

    def hold(self, patterns_only: bool = False) -> list[tuple[str, Callable]]:
        """Hooks that keep patterns, and norm scales, at what the first pass saw."""
        names = [name for name in self.model.hook_dict if freezes(name, norms=not patterns_only)]
        return [(name, partial(self._hold, name=name)) for name in names]

    def _hold(self, x: Tensor, hook: Any, name: str) -> Tensor:
        return self.held.setdefault(name, x.detach()).expand_as(x)

    def _leaf(self, name: str, x: Tensor) -> Tensor:
        self.leaves[name] = x.detach().clone().requires_grad_()
        return self.leaves[name]

    def _run(self, batch: int, leaf: Callable[[str, Tensor], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        taps: dict[str, Tensor] = {}

        def source(x, hook, name):
            skipped = self.skip(name, taps)
            return leaf(name, x - skipped) + skipped

        def tap(x, hook, name):
            taps[name] = x

        sources = [name for name in EMBEDDINGS if name in self.model.hook_dict] + [*self.writers]
        hooks = [(name, partial(source, name=name)) for name in sources]
        hooks += [(name, partial(tap, name=name)) for name in (*(bank.site.read for bank in self.banks), LOGITS)]
        with frozen(self.model), self.model.hooks([*self.hold(), *hooks, (LAST, lambda x, hook: x[:, -1:])]):
            logits = self.model(self.tokens.expand(batch, -1))
        return logits[:, -1].detach(), taps

    def skip(self, name: str, taps: Mapping[str, Tensor]) -> Tensor | float:
        """What the linear skip paths of the banks that write `name` add there; 0 at BOS."""
        paths = [(self.banks[i], columns) for i, columns in self.writers.get(name, ())]
        parts = [taps[b.site.read] @ b.W_skip[:, columns].detach() for b, columns in paths if b.W_skip is not None]
        return sum(parts) * self.coded[:, None] if parts else 0.0


def banks_of(model: Any, coders: Any) -> tuple[SparseCoder, ...]:
    """The transcoders of a stack or a list, one for each layer they read, in that order.

    Raises ValueError for coders of another model, autoencoders, and two that read the same layer.
    """
    several = coders if isinstance(coders, Iterable) and not isinstance(coders, CoderStack) else [coders]
    banks = [bank for coder in several for bank in coder.banks]
    for bank in banks:
        check_fit(model, bank.site, bank, writes=True)
        if len(bank.site.reads) > 1 or bank.site.layer is None or bank.site.read in bank.site.writes:
            raise ValueError(f"a coder at {bank.site.name!r}; a graph needs transcoders, that read a layer's MLP input")
    layers = [bank.site.layer for bank in banks]
    if twice := {layer for layer in layers if layers.count(layer) > 1}:
        raise ValueError(f"several coders read layer {min(twice)}; give one transcoder for each layer")
    return tuple(sorted(banks, key=lambda bank: bank.site.layer))


def _writers(model: Any, banks: Sequence[SparseCoder]) -> dict[str, list[tuple[int, slice]]]:
    """{a layer's MLP output: the banks that write it, and which of their columns}. A hook has several names."""
    names, points = [f"blocks.{layer}.hook_mlp_out" for layer in range(model.cfg.n_layers)], model.hook_dict
    found: dict[str, list[tuple[int, slice]]] = {name: [] for name in names}
    for i, bank in enumerate(banks):
        width = bank.d_out // len(bank.site.writes)
        for j, write in enumerate(bank.site.writes):
            place = [name for name in names if points[name] is points[write]]
            if not place:
                raise ValueError(f"a transcoder writes {write!r}; a graph needs what the residual stream gets: {names}")
            found[place[0]].append((i, slice(j * width, (j + 1) * width)))
    if missing := [layer for layer, name in enumerate(names) if not found[name]]:
        raise ValueError(f"no transcoder writes layer {missing}; a graph needs one for each of {len(names)} layers")
    return found
