"""A coder that standardises every token, which no weights can express."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..coder import Encoding, SparseCoder
from ..codes import Codes

EPSILON = 1e-5  # added to the standard deviation


class PerToken(SparseCoder):
    """`y_hat = std (f W_dec + b_dec) + mean` with `f` of `(x - mean) / (std + 1e-5)`: mean and std of each token's x.

    Its codes are `std f`: in units of raw activations, so that an edit of a code by v moves the activations by
    `v W_dec_i`, as for every other coder. Divide by the token's standard deviation to get the f that its makers show.
    Decoding needs x, from which mean and std are taken.
    """

    def encoding(self, x: Float[Tensor, "*batch d_in"], *, fast: bool = False) -> Encoding:
        """Codes in raw units, and the pre-activations of the standardised token."""
        if x.shape[-1] != self.d_in:
            raise ValueError(f"the coder reads width {self.d_in}, but the activations have width {x.shape[-1]}")
        mean, std = _moments(x.reshape(-1, self.d_in))
        found = super().encoding((x.reshape(-1, self.d_in) - mean) / (std + EPSILON), fast=fast)
        return found._replace(codes=found.codes.with_values(found.codes.values * std[found.codes.rows, 0]))

    def decode(self, codes: Codes, x: Float[Tensor, "*batch d_in"] | None = None) -> Float[Tensor, "rows d_out"]:
        """The reconstruction in raw units. Raises ValueError without x."""
        if x is None:
            raise ValueError("this coder standardises every token: decode(codes, x) needs the input x")
        mean, std = _moments(x.reshape(-1, self.d_in))
        return super().decode(codes, x) + (std - 1) * self.b_dec + mean


def _moments(x: Float[Tensor, "rows d"]) -> tuple[Float[Tensor, "rows 1"], Float[Tensor, "rows 1"]]:
    return x.mean(1, keepdim=True), torch.std(x, dim=1, keepdim=True)
