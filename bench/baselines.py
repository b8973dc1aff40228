"""What the peers do, written from its description.

Their training step, everything dense: encoder product, top-k, scatter into a dense code, decoder product, autograd
through all of it, fused Adam. Their rows of an attribution graph, and their influence.
"""

import torch
from torch import Tensor, nn

from saekit.circuits.sources import Sources, collected


class DenseTopK(nn.Module):
    """A TopK autoencoder with dense codes and unit-norm decoder rows, and AuxK as in Gao et al. 2024."""

    def __init__(self, d_in: int, d_sae: int, k: int, along: str = "token") -> None:
        super().__init__()
        rows = nn.functional.normalize(torch.randn(d_sae, d_in), dim=1)
        self.k, self.along = k, along
        self.W_enc, self.b_enc = nn.Parameter(rows.T.contiguous()), nn.Parameter(torch.zeros(d_sae))
        self.W_dec, self.b_dec = nn.Parameter(rows.clone()), nn.Parameter(torch.zeros(d_in))
        self.register_buffer("b_pre", torch.zeros(d_in))

    def codes(self, a: Tensor) -> Tensor:
        if self.along == "token":
            top = a.topk(self.k, dim=1, sorted=False)
            return torch.zeros_like(a).scatter(1, top.indices, top.values.relu())
        top = a.flatten().topk(self.k * len(a), sorted=False)
        return torch.zeros_like(a).flatten().scatter(0, top.indices, top.values.relu()).view_as(a)

    def loss(self, x: Tensor, dead: Tensor) -> Tensor:
        a = (x - self.b_pre) @ self.W_enc + self.b_enc
        y_hat = self.codes(a) @ self.W_dec + self.b_dec
        loss = (x - y_hat).square().sum() / (x - x.mean(0)).square().sum()
        if not bool(dead.any()):
            return loss
        error = (x - y_hat).detach()
        top = a.masked_fill(~dead, -torch.inf).topk(min(x.shape[1] // 2, int(dead.sum())), dim=1, sorted=False)
        aux = torch.zeros_like(a).scatter(1, top.indices, top.values.relu()) @ self.W_dec
        return loss + (error - aux).square().sum() / (error - error.mean(0)).square().sum() / 32


class DenseLearner:
    """One step: forward, backward, gradient projected off the decoder rows, clip, fused Adam, rows back to norm 1."""

    def __init__(self, coder: DenseTopK, lr: float) -> None:
        self.coder, self.optimizer = coder, torch.optim.Adam(coder.parameters(), lr=lr, fused=True)

    def step(self, x: Tensor, dead: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.coder.loss(x, dead).backward()
        with torch.no_grad():
            W, grad = self.coder.W_dec, self.coder.W_dec.grad
            grad.addcmul_((grad * W).sum(1, keepdim=True), W, value=-1)
            nn.utils.clip_grad_norm_(self.coder.parameters(), 1.0)
            self.optimizer.step()
            W.div_(W.norm(dim=1, keepdim=True))


class ExpandedBatch:
    """Rows as circuit-tracer makes them: one forward pass of as many copies of the prompt as there are rows in a batch.

    A row's vector is added to the gradient of its own copy, at what its target reads, by a hook on that tensor; the
    pass back starts there from zeros.
    """

    def __init__(self, sources: Sources, copies: int) -> None:
        self.sources, self.frozen, self.copies = sources, sources.frozen, copies
        self.leaves: dict[str, Tensor] = {}
        with torch.enable_grad():
            _, self.taps = self.frozen._run(copies, self._leaf)

    def _leaf(self, name: str, x: Tensor) -> Tensor:
        self.leaves[name] = x.detach().expand(self.copies, -1, -1).clone().requires_grad_()
        return self.leaves[name]

    def rows(self, tap: str, pos: Tensor, seeds: Tensor) -> Tensor:
        """[rows, nodes], the same numbers as `saekit.circuits.sources.contributions`."""

        def inject(grad: Tensor) -> Tensor:
            grad = grad.clone()
            grad[torch.arange(len(pos)), pos] += seeds
            return grad

        handle = self.taps[tap].register_hook(inject)
        try:
            y, leaves = self.taps[tap], [*self.leaves.values()]
            grads = torch.autograd.grad(y, leaves, torch.zeros_like(y), retain_graph=True, allow_unused=True)
        finally:
            handle.remove()
        found = {name: g[: len(seeds)] for name, g in zip(self.leaves, grads, strict=True) if g is not None}
        return collected(self.sources, found, tap, pos, seeds)


def power_series(weights: Tensor, start: Tensor) -> Tensor:
    """Influence as circuit-tracer has it: `p (A + A^2 + ...)` on a dense matrix, until a term is zero."""
    A = weights.abs()
    A = A / A.sum(1, keepdim=True).clamp(min=1e-10)
    term, total = start @ A, torch.zeros_like(start)
    while bool(term.any()):
        total += term
        term = term @ A
    return total
