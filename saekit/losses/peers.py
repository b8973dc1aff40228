"""A term that looks at the other coders on the same stream."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ..coder import SparseCoder
from .objective import Objective, Step


def align(rows: int = 256) -> Objective:
    """`mean over peers of 1 - MMCS(W_dec, peer)`, MMCS the mean over latents of the largest cosine, both ways.

    Mutual feature regularisation: features that several coders find are likelier the data's own (Marks et al. 2024,
    arXiv 2411.01220). The peers get no gradient here; their own objectives align them. A seeded draw of `rows` latents
    stands for all of them at each step. Stacks are aligned bank by bank. Raises ValueError when the coder trains alone.
    """

    def term(s: Step) -> Tensor:
        if not s.peers:
            raise ValueError("align needs peers: train several coders on one stream, sk.train([a, b], acts, [o, o])")
        draw = s.draw()
        pairs = [pair for peer in s.peers for pair in zip(s.coder.banks, peer.banks, strict=True)]
        scores = [_agreement(F.normalize(a.dictionary(), dim=1), b, rows, draw) for a, b in pairs]
        return 1 - torch.stack(scores).mean()

    return Objective((("align", 1.0, term),))


def _agreement(mine: Float[Tensor, "n d"], peer: SparseCoder, rows: int, draw: torch.Generator) -> Float[Tensor, ""]:
    """MMCS both ways."""
    other = F.normalize(peer.W_dec.detach(), dim=1)
    return (_mmcs(mine, other, rows, draw) + _mmcs(other, mine, rows, draw)) / 2


def _mmcs(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], rows: int, draw: torch.Generator) -> Float[Tensor, ""]:
    """Mean over `rows` rows of a of the largest cosine to a row of b; the gradient is of these pairs only."""
    chosen = torch.randperm(len(a), generator=draw)[:rows].to(a.device)
    with torch.no_grad():
        nearest = (a[chosen] @ b.T).argmax(1)
    return (a[chosen] * b[nearest]).sum(1).mean()
