"""`ActivationExplorer`: one latent's nonlinearity as a curve, and the gradients that training gets from it."""

import itertools
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ..codes import Codes
from ..nonlinearity import Gated, JumpReLU, ProLU, ReLU, TopK
from ..viz.explorer import explorer
from .view import View

_ids = itertools.count()
REACH, POINTS = 3.0, 241  # of z, from -REACH
BANDWIDTH = 0.5  # of JumpReLU's kernel: ten times the one that is trained with, so that it can be seen
OTHERS = torch.linspace(-1.4, 2.6, 9)  # the pre-activations of the token's other latents, for TopK
VARIANTS = ("ReLU", "Gated", "ProLU", "JumpReLU", "TopK", "BatchTopK")


class Curves(NamedTuple):
    """What a latent does at each z, the product of its encoder column with the input, before any bias."""

    z: Float[Tensor, " points"]
    f: Float[Tensor, " points"]
    f_by_z: Float[Tensor, " points"]
    f_by_theta: Float[Tensor, " points"]
    gate_by_theta: Float[Tensor, " points"]
    theta: float  # where it turns on


def curves(variant: str, theta: float = 1.0, k: int = 3) -> Curves:
    """The curves of a nonlinearity of `saekit.nonlinearity` as it is in training, by its own forward and backward.

    Each turns on at z = theta, in its own way: ReLU by the encoder's bias -theta; Gated by the same in its gate, and a
    magnitude bias that puts it back; ProLU by its bias; JumpReLU by its threshold; BatchTopK by the threshold that was
    calibrated; TopK at the k-th largest of the token's other latents, whatever theta is.
    """
    z = torch.linspace(-REACH, REACH, POINTS, requires_grad=True)
    if variant == "TopK":
        return _topk(z, k)
    thetas = torch.full((POINTS,), float(theta), requires_grad=True)  # a latent for each point, all on one row
    codes = _codes(variant, z, thetas)
    f, gate = (torch.zeros(POINTS).index_put((codes.latents,), part) for part in (codes.values, codes.gate))
    return Curves(z.detach(), f.detach(), _slope(f, z), _slope(f, thetas), _slope(gate, thetas), float(theta))


def _codes(variant: str, z: Tensor, theta: Tensor) -> Codes:
    match variant:
        case "ReLU":
            return _apply(ReLU(), z - theta)
        case "Gated":
            return _apply(Gated(POINTS), z - theta, bias=theta)
        case "ProLU":
            return _apply(ProLU(POINTS), z, bias=-theta)
        case "JumpReLU":
            return _apply(JumpReLU(POINTS, bandwidth=BANDWIDTH), z, threshold=theta)
        case "BatchTopK":
            return _apply(TopK(1, along="batch").eval(), z, threshold=theta[0].detach())
    raise ValueError(f"variant={variant!r}: choose one of {', '.join(VARIANTS)}")


def _apply(nonlinearity: nn.Module, a: Float[Tensor, " points"], **given: Tensor) -> Codes:
    """The codes of one row; `given` are parameters with a gradient of their own."""
    with torch.no_grad():
        for name, value in given.items():
            getattr(nonlinearity, name).copy_(value)
    support = nonlinearity.support(a[None].detach())
    return functional_call(nonlinearity, given, (a[support.latents], support))


def _topk(z: Tensor, k: int) -> Curves:
    """Latent 0 of a token for each z, beside the same others each time."""
    pre = torch.cat([z[:, None], OTHERS.expand(POINTS, -1)], dim=1)
    nonlinearity = TopK(k)
    support = nonlinearity.support(pre.detach())
    codes = nonlinearity(pre[support.rows, support.latents], support)
    mine = codes.latents == 0
    f = torch.zeros(POINTS).index_put((codes.rows[mine],), codes.values[mine])
    off = torch.zeros(POINTS)
    return Curves(z.detach(), f.detach(), _slope(f, z), off, off, float(OTHERS.sort(descending=True).values[k - 1]))


def _slope(values: Tensor, by: Tensor) -> Float[Tensor, " points"]:
    """d values_i / d by_i; zero where there is no path."""
    (slope,) = torch.autograd.grad(values.sum(), by, retain_graph=True, allow_unused=True)
    return torch.zeros(POINTS) if slope is None else slope


class ActivationExplorer(View):
    """f(z) of one latent, and what its gradient sees, for each kind of nonlinearity.

    State: variant (of VARIANTS), theta (0 to 2), k (1 to 9, TopK only). Raises ValueError for what is out of range.
    """

    def __init__(self, variant: str = "ReLU", *, theta: float = 1.0, k: int = 3) -> None:
        self._number = next(_ids)
        super().__init__(variant=variant, theta=float(theta), k=int(k))
        self.check()

    def check(self) -> None:
        state = self._state
        if state["variant"] not in VARIANTS:
            raise ValueError(f"variant={state['variant']!r}: choose one of {', '.join(VARIANTS)}")
        if not 0 <= state["theta"] <= 2:
            raise ValueError(f"theta={state['theta']}: choose a threshold from 0 to 2")
        if state["k"] not in range(1, len(OTHERS) + 1):
            raise ValueError(f"k={state['k']}: choose 1 to {len(OTHERS)}")

    def compute(self) -> dict[str, Any]:
        found = curves(**self._state)
        lines = {name: values.tolist() for name, values in found._asdict().items() if name != "theta"}
        return {
            "id": self._number, "variants": VARIANTS, **self._state, **lines, "at": found.theta, "reach": REACH,
            "others": OTHERS.tolist() if self._state["variant"] == "TopK" else [], "bandwidth": BANDWIDTH,
        }  # fmt: skip

    def render(self, data: dict[str, Any]) -> str:
        return explorer(data)

    def act(self, name: str, arg: Any) -> None:
        kinds = {"theta": float, "k": int}
        self.set_state(**{name: kinds.get(name, str)(arg)})

    def title(self) -> str:
        return f"{self._state['variant']}, one latent"
