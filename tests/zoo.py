"""Every preset at a tiny size, and codes and objectives written out again with dense matrices and plain autograd."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from saekit import presets
from saekit.coder import CoderStack, SparseCoder
from saekit.losses import Objective, Step, ghost
from saekit.nonlinearity import Gated, JumpReLU, ProLU, ReLU, Routed, TopK

D, F, ROWS, K = 16, 64, 96, 4
WIDTHS = (8, 24, F)
SITES = 2

PRESETS = {
    "relu": lambda: presets.relu(D, F, sparsity=0.3),
    "gated": lambda: presets.gated(D, F, sparsity=0.3),
    "topk": lambda: presets.topk(D, F, k=K),
    "batch_topk": lambda: presets.batch_topk(D, F, k=K),
    "prolu": lambda: presets.prolu(D, F, sparsity=0.3),
    "prolu straight": lambda: (SparseCoder(D, F, ProLU(F, straight=True)), presets.prolu(D, F, sparsity=0.3)[1]),
    "jumprelu": lambda: presets.jumprelu(D, F, l0=K),
    "jumprelu step": lambda: presets.jumprelu(D, F, step=0.01),
    "jumprelu tanh": lambda: presets.jumprelu(D, F, saturating=0.5),
    "switch": lambda: presets.switch(D, F, k=K, experts=4),
    "matryoshka": lambda: presets.matryoshka(D, F, k=K, widths=WIDTHS),
    "p_anneal": lambda: presets.p_anneal(D, F, sparsity=0.3),
    "feature_choice": lambda: presets.feature_choice(D, F, k=K),
    "mutual_choice": lambda: presets.mutual_choice(D, F, k=K),
    "feature_aligned": lambda: tuple(made[0] for made in presets.feature_aligned(D, F, k=K)),
    "end_to_end": lambda: presets.end_to_end(D, F, k=K, downstream=0.5, local=0.2),
    "layer_group": lambda: tuple(made[1] for made in presets.layer_group(D, F, k=K)),
    "specialized": lambda: presets.specialized(D, F, k=K),
    "formal": lambda: presets.formal(D, F, k=K),
    "transcoder": lambda: presets.transcoder(D, F, k=K, d_out=10),
    "skip_transcoder": lambda: presets.skip_transcoder(D, F, k=K),
    "crosscoder": lambda: presets.crosscoder(D, F, n_sites=SITES, sparsity=0.3),
    "crosscoder k": lambda: presets.crosscoder(D, F, n_sites=SITES, k=K),
    "per_layer_transcoders": lambda: presets.per_layer_transcoders(D, F, n_layers=SITES, k=K, skip=True),
    "cross_layer_transcoder": lambda: presets.cross_layer_transcoder(D, F, n_layers=SITES, l0=K),
    "cross_layer_transcoder tanh": lambda: presets.cross_layer_transcoder(D, F, n_layers=SITES, saturating=0.5),
    "meta_sae": lambda: presets.meta_sae(D, F, k=K),
    "gated stack": lambda: (stack(lambda: Gated(F), unit_norm=True), presets.gated(D, F, sparsity=0.3)[1]),
    "relu stack": lambda: (stack(ReLU), presets.relu(D, F, sparsity=0.3)[1] + 0.2 * ghost()),
}
RUNS_THE_MODEL = {"end_to_end", "formal"}  # their objectives need whole sequences; their coders do not
WITHOUT_MODEL = [name for name in PRESETS if name not in RUNS_THE_MODEL]


def stack(nonlinearity: Callable[[], nn.Module], **options: bool) -> CoderStack:
    """Two layers, of which the first writes both."""
    banks = [SparseCoder(D, F, nonlinearity(), d_out=D * (SITES - i), **options) for i in range(SITES)]
    return CoderStack(banks, [D * i for i in range(SITES)])


def made(name: str, seed: int = 0) -> tuple[SparseCoder | CoderStack, Objective]:
    """The preset with biases, thresholds and norms that are not at their trivial start."""
    torch.manual_seed(seed)
    coder, objective = PRESETS[name]()
    with torch.no_grad():
        for bank in coder.banks:
            _stir(bank)
    return coder, objective


def _stir(coder: SparseCoder) -> None:
    if coder.b_enc.requires_grad:
        coder.b_enc.normal_(0, 0.1).sub_(0.1 if isinstance(coder.nonlinearity, ReLU) else 0.0)
    coder.b_dec.normal_(0, 0.1)
    coder.b_pre.normal_(0, 0.1)
    coder.W_enc.add_(0.1 * torch.randn(coder.d_in, coder.d_sae))
    if coder.W_skip is not None:
        coder.W_skip.normal_(0, 0.1)
    match coder.nonlinearity:
        case JumpReLU() as jump:
            jump.threshold.uniform_(0.0, 0.2)
            jump.bandwidth = 0.3
        case Gated() as gate:
            gate.log_gain.normal_(0, 0.2)
            gate.bias.normal_(0, 0.2)
        case ProLU() as prolu:
            prolu.bias.normal_(0, 0.3)
        case Routed() as routed:
            routed.b_router.normal_(0, 0.2)


def inputs(coder: SparseCoder | CoderStack, rows: int = ROWS, seed: int = 1) -> tuple[Tensor, Tensor]:
    """(x, y) of the coder's widths; y is x where it reconstructs its input."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, coder.d_in, generator=draw)
    if isinstance(coder, SparseCoder) and coder.W_skip is None and coder.d_out == coder.d_in:
        return x, x
    return x, x @ torch.randn(coder.d_in, coder.d_out, generator=draw) / coder.d_in**0.5


def step_of(
    coder: SparseCoder | CoderStack, x: Tensor, y: Tensor, dead: Tensor, progress: float = 0.5, fast: bool = False
) -> Step:
    encoding = coder.encoding(x, fast=fast)
    density = torch.where(dead, 0.0, torch.linspace(0.002, 0.2, len(dead)))
    peers = (peer(coder),) if isinstance(coder, SparseCoder) else ()
    return Step(coder, x, y, coder.decode(encoding.codes, x), encoding, dead, progress, density, peers)


def peer(coder: SparseCoder) -> SparseCoder:
    """Another coder of the same widths."""
    torch.manual_seed(99)
    return SparseCoder(coder.d_in, coder.d_sae, ReLU(), d_out=coder.d_out)


# --- codes, densely ------------------------------------------------------------------------------------------------


def dictionary(coder: SparseCoder) -> Tensor:
    return coder.W_dec / coder.W_dec.norm(dim=1, keepdim=True) if coder.unit_norm and coder.training else coder.W_dec


def dense_codes(coder: SparseCoder, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(f, gate, a) as matrices [rows, d_sae], from the equations alone; straight-through where the paper has it so."""
    centred = x - coder.b_pre
    a = centred @ coder.W_enc + coder.b_enc
    match coder.nonlinearity:
        case ReLU():
            return a.relu(), a.relu(), a
        case Gated() as gate:
            f = (a > 0) * (a * gate.log_gain.exp() + gate.bias).relu()
            return f, a.relu(), a
        case ProLU() as prolu:
            on = ((a > 0) & (a + prolu.bias > 0)).float()
            size = a.detach() if prolu.straight else 1.0
            own = a if not prolu.straight else a + size * (a - a.detach())
            f = on * (own + size * (prolu.bias - prolu.bias.detach()))
            return f, f, a
        case TopK() as topk:
            f = a.relu() * _chosen(topk, a.detach())
            return f, f, a
        case JumpReLU() as jump:
            return *_jump(jump, a), a
        case Routed() as routed:
            p = torch.softmax(centred @ routed.W_router + routed.b_router, dim=1)
            best = p.argmax(1)
            mine = torch.arange(coder.d_sae) // routed.width == best[:, None]
            among = torch.where(mine, a.detach(), -torch.inf)
            keep = torch.zeros_like(a).scatter(1, among.topk(routed.inner.k, dim=1).indices, 1.0)
            f = a.relu() * keep * p.gather(1, best[:, None])
            return f, f, a
    raise AssertionError(coder.nonlinearity)


def _chosen(topk: TopK, a: Tensor) -> Tensor:
    if topk.along == "token":
        return torch.zeros_like(a).scatter(1, a.topk(topk.k, dim=1).indices, 1.0)
    if not topk.training:
        return (a > topk.threshold).float()
    if topk.along == "batch":
        return torch.zeros(a.numel()).scatter(0, a.flatten().topk(topk.k * len(a)).indices, 1.0).view_as(a)
    rank = a.argsort(dim=0, descending=True).argsort(dim=0)  # of each entry in its column
    return (rank < topk.budget(a)).float()


def _jump(jump: JumpReLU, a: Tensor) -> tuple[Tensor, Tensor]:
    theta, eps = jump.threshold, jump.bandwidth
    near = ((a - theta).abs() < eps / 2).float().detach()
    on = (a > theta).float()
    # value on the left, surrogate gradient on the right of the minus: together they are the straight-through estimator
    moved = theta.detach() - theta
    if jump.through_input:
        moved = moved + a - a.detach()
    return a * on + near * theta.detach() / eps * moved, on + near / eps * moved


# --- objectives, densely -------------------------------------------------------------------------------------------


def dense_loss(name: str, coder: nn.Module, x: Tensor, y: Tensor, dead: Tensor, progress: float = 0.5) -> Tensor:
    """The objective of a preset, from its equations alone."""
    return _Dense(coder, x, y, dead, progress).loss(name)


class _Dense:
    def __init__(self, coder: nn.Module, x: Tensor, y: Tensor, dead: Tensor, progress: float) -> None:
        self.coder, self.x, self.y, self.dead, self.progress = coder, x, y, dead, progress
        parts = list(zip(coder.banks, coder.inputs(x), strict=True))
        self.f, self.gate, self.a = (
            torch.cat(t, dim=1) for t in zip(*(dense_codes(b, p) for b, p in parts), strict=True)
        )
        starts = getattr(coder, "starts", (0,))
        sizes = [bank.d_sae for bank in coder.banks]
        self.W = torch.cat(
            [
                nn.functional.pad(dictionary(b), (s, coder.d_out - s - b.d_out))
                for b, s in zip(coder.banks, starts, strict=True)
            ]
        )
        self.base = sum(
            nn.functional.pad(
                b.b_dec + (0 if b.W_skip is None else p @ b.W_skip), (s, coder.d_out - s - b.d_out)
            ).expand(len(x), -1)
            for (b, p), s in zip(parts, starts, strict=True)
        )
        self.n = self.W.unflatten(1, (getattr(coder, "n_sites", 1), -1)).norm(dim=2).sum(1)
        assert sum(sizes) == self.f.shape[1]
        self.y_hat = self.f @ self.W + self.base
        self.ramp = min(1.0, progress / 0.05)

    def loss(self, name: str) -> Tensor:
        base, _, option = name.partition(" ")
        aux = self.aux(torch.where(self.dead, self.a, -torch.inf).detach(), int(self.dead.sum())) / 32
        if base in ("relu", "prolu") or name == "crosscoder":
            weight = 0.3 * SITES**0.5 if base == "crosscoder" else 0.3
            ghosts = 0.2 * self.ghosts() if option == "stack" else 0.0
            return self.mse() + weight * self.ramp * (self.gate * self.n).sum(1).mean() + ghosts
        if base == "p_anneal":
            p = 1 - 0.8 * (self.progress - 0.2) / 0.7
            on = (self.gate > 0).float()
            penalty = (((self.gate * self.n + 0.01) ** p - 0.01**p) * on).sum(1).mean()
            return self.mse() + 0.3 * self.ramp * penalty * ((self.gate * self.n).sum(1).mean() / penalty).detach()
        if base == "gated":
            through = self.y - (self.gate @ self.W.detach() + self.base.detach())
            return self.mse() + 0.3 * self.ramp * self.gate.sum(1).mean() + through.square().sum(1).mean()
        if option == "tanh":
            theta = torch.cat([bank.nonlinearity.threshold for bank in self.coder.banks])
            low = ((theta - self.a).relu() * self.n).sum(1).mean()
            return self.mse() + 0.5 * self.progress * torch.tanh(4 * self.f * self.n).sum(1).mean() + 3e-6 * low
        if option == "step":
            return self.fvu() + 0.01 * self.progress * self.gate.sum(1).mean() + aux
        if base in ("jumprelu", "cross_layer_transcoder"):
            mean = self.gate.sum() / (len(self.x) * K * len(self.coder.banks))
            return self.fvu() + 0.5 * min(1.0, self.progress / 0.2) * (mean + 1e-3).log().square() + aux
        if base == "switch":
            routed = self.coder.nonlinearity
            p = torch.softmax((self.x - self.coder.b_pre) @ routed.W_router + routed.b_router, dim=1)
            sent = nn.functional.one_hot(p.argmax(1), 4).float().mean(0)
            return self.fvu() + 0.01 * 4 * (sent * p.mean(0)).sum()
        if base == "matryoshka":
            heads = [self.f[:, :w] @ self.W[:w] + self.base for w in WIDTHS]
            return sum(self.fvu(head) for head in heads) / len(WIDTHS) + aux
        if base in ("feature_choice", "mutual_choice"):
            want = self.want()
            rare = want > 0
            ranked = torch.where(rare, self.a * want, -torch.inf).detach()
            return self.fvu() + self.aux(ranked, int(rare.sum()), want) / 32
        if base == "specialized":
            error = (self.y - self.y_hat).square().sum(1)
            tilt = torch.log(torch.exp(2.0 * error / error.mean().detach()).mean()) / 2.0
            return tilt * self.fvu().detach() + aux
        if base == "feature_aligned":
            other = nn.functional.normalize(peer(self.coder).W_dec.detach(), dim=1)
            cosines = self.W @ other.T
            mmcs = (cosines.max(1).values.mean() + cosines.max(0).values.mean()) / 2
            return self.fvu() + aux + 0.1 * (1 - mmcs)
        return self.fvu() + aux  # topk, batch_topk and all that differ from them in their source

    def mse(self) -> Tensor:
        return (self.y - self.y_hat).square().sum(1).mean()

    def fvu(self, y_hat: Tensor | None = None) -> Tensor:
        error = self.y - (self.y_hat if y_hat is None else y_hat)
        return error.square().sum() / (self.y - self.y.mean(0)).square().sum()

    def ghosts(self) -> Tensor | float:
        if not bool(self.dead.any()):
            return 0.0
        error = (self.y - self.y_hat).detach()
        g = (self.a.exp() * self.dead) @ self.W
        g = g * (error.norm(dim=1) / (2 * g.norm(dim=1))).detach()[:, None]
        misfit = (error - g).square().sum(1).mean()
        return misfit * (self.mse() / misfit).detach()

    def want(self) -> Tensor:
        density = torch.where(self.dead, 0.0, torch.linspace(0.002, 0.2, len(self.dead)))
        rank = density.argsort(descending=True, stable=True).argsort()
        due = 1 / (rank + 8.0)
        return (1 - density / (due * K / due.sum())).clamp(min=0)

    def aux(self, ranked: Tensor, among: int, want: Tensor | float = 1.0) -> Tensor | float:
        k_aux = min(self.coder.banks[0].d_in // 2, among)
        if not k_aux:
            return 0.0
        keep = torch.zeros_like(self.a).scatter(1, ranked.topk(k_aux, dim=1).indices, 1.0)
        error = (self.y - self.y_hat).detach()
        fit = (error - (self.a * keep * want).relu() @ self.W).square().sum()
        return fit / (error - error.mean(0)).square().sum()
