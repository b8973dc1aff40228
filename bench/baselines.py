"""What the peers' training step does, written from its description: everything dense.

Encoder product, top-k, scatter into a dense code, decoder product, autograd through all of it, fused Adam.
"""

import torch
from torch import Tensor, nn


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
