"""`Places`: which positions of a prompt are told apart, and which are summed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ..corpus import pieces

By = str | Mapping[str, str]
OTHER = "other"


class Places(NamedTuple):
    """Positions are one place ("sum"), each a place ("position"), or one for each category of {token: category}."""

    by: By
    names: tuple[str, ...]

    @property
    def summed(self) -> bool:
        """Whether nothing is told apart."""
        return self.by == "sum"

    def of(self, model: Any, tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "rows pos"]:
        """The number of every position's place; one row where it is the same for all prompts.

        Raises ValueError for prompts of another length, where positions are told apart.
        """
        batch, n = tokens.shape
        if self.by == "sum":
            return tokens.new_zeros(1, n)
        if self.by == "position":
            if n != len(self.names):
                raise ValueError(f"prompts of {n} tokens, but the circuit tells {len(self.names)} positions apart")
            return torch.arange(n, device=tokens.device)[None]
        number = {name: i for i, name in enumerate(self.names)}
        words = pieces(model.tokenizer, tokens.flatten().tolist())
        return tokens.new_tensor([number[self.by.get(word, OTHER)] for word in words]).view(batch, n)


def places_of(model: Any, by: By, tokens: Int[Tensor, "batch pos"]) -> Places:
    """The places of these prompts; a position is named by its token where all prompts have the same.

    Raises ValueError for what is neither of the three.
    """
    if by == "sum":
        return Places(by, ("all positions",))
    if by == "position":
        columns = [pieces(model.tokenizer, column) for column in tokens.T.tolist()]
        return Places(by, tuple(column[0] if len({*column}) == 1 else "…" for column in columns))
    if not isinstance(by, Mapping) or not all(isinstance(part, str) for pair in by.items() for part in pair):
        raise ValueError(f'by={by!r}: give "sum", "position", or {{token: category}}, both strings')
    return Places(by, (*dict.fromkeys([*by.values(), OTHER]),))
