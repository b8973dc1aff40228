"""Every preset at a tiny size, and each one's objective written out again with dense matrices and plain autograd."""

import torch
from torch import Tensor

from saekit import presets
from saekit.coder import SparseCoder
from saekit.losses import Objective, Step

D, F, ROWS, K = 16, 64, 96, 4

PRESETS = {
    "relu": lambda: presets.relu(D, F, sparsity=0.3),
    "topk": lambda: presets.topk(D, F, k=K),
    "batch_topk": lambda: presets.batch_topk(D, F, k=K),
    "jumprelu": lambda: presets.jumprelu(D, F, l0=K),
}


def made(name: str, seed: int = 0) -> tuple[SparseCoder, Objective]:
    """The preset with biases, thresholds and norms that are not at their trivial start."""
    torch.manual_seed(seed)
    coder, objective = PRESETS[name]()
    with torch.no_grad():
        coder.b_enc.normal_(0, 0.1)
        coder.b_dec.normal_(0, 0.1)
        coder.b_pre.normal_(0, 0.1)
        coder.W_enc.add_(0.1 * torch.randn(D, F))
        if name == "jumprelu":
            coder.nonlinearity.threshold.uniform_(0.0, 0.2)
            coder.nonlinearity.bandwidth = 0.3
        if name == "relu":
            coder.b_enc.sub_(0.1)
    return coder, objective


def step_of(coder: SparseCoder, x: Tensor, y: Tensor, dead: Tensor, progress: float = 0.5, fast: bool = False) -> Step:
    codes, pre = coder.encoding(x, fast=fast)
    return Step(coder, x, y, coder.decode(codes, x), codes, pre, dead, progress)


def dense_loss(name: str, coder: SparseCoder, x: Tensor, y: Tensor, dead: Tensor, progress: float = 0.5) -> Tensor:
    """The objective of `name`, from its equations alone."""
    a = (x - coder.b_pre) @ coder.W_enc + coder.b_enc
    W = coder.W_dec / coder.W_dec.norm(dim=1, keepdim=True) if coder.unit_norm else coder.W_dec
    f, penalty = _codes_and_penalty(name, coder, a, W, progress)
    y_hat = f @ W + coder.b_dec
    error = (y - y_hat).detach()
    if name == "relu":
        return (y - y_hat).square().sum(1).mean() + penalty
    masked = torch.where(dead, a, torch.full_like(a, -torch.inf))
    k_aux = min(D // 2, int(dead.sum()))
    aux = 0.0
    if k_aux:
        keep = torch.zeros_like(a).scatter(1, masked.topk(k_aux, dim=1).indices, 1.0)
        aux = (error - (a * keep).relu() @ W).square().sum() / (error - error.mean(0)).square().sum()
    return (y - y_hat).square().sum() / (y - y.mean(0)).square().sum() + penalty + aux / 32


def _codes_and_penalty(name: str, coder: SparseCoder, a: Tensor, W: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    if name == "relu":
        f = a.relu()
        return f, 0.3 * min(1.0, progress / 0.05) * (f * W.norm(dim=1)).sum(1).mean()
    if name == "topk":
        return a.relu() * torch.zeros_like(a).scatter(1, a.topk(K, dim=1).indices, 1.0), torch.zeros(())
    if name == "batch_topk":
        keep = torch.zeros(a.numel()).scatter(0, a.flatten().topk(K * len(a)).indices, 1.0).view_as(a)
        return a.relu() * keep, torch.zeros(())
    theta, eps = coder.nonlinearity.threshold, coder.nonlinearity.bandwidth
    near = ((a - theta).abs() < eps / 2).float().detach()
    on = (a > theta).float()
    # value on the left, surrogate gradient on the right of the minus: together they are the straight-through estimator
    gate = on + near / eps * (theta.detach() - theta)
    f = a * on + near * theta.detach() / eps * (theta.detach() - theta)
    return f, min(1.0, progress / 0.2) * (gate.sum() / (len(a) * K) - 1).square()
