"""Stacks in formats that keep every layer in a file of its own: from banks to a stack, and which kind a stack is."""

from collections.abc import Sequence
from itertools import accumulate

from jaxtyping import Float
from torch import Tensor, nn

from ..coder import CoderStack, SparseCoder
from ..hooks import Site
from .parts import Parts


def per_layer(banks: Sequence[SparseCoder]) -> CoderStack:
    """Coders side by side, each of its own layer; the stack's site is theirs where all have one and no two the same."""
    stack = CoderStack(banks, [0, *accumulate(bank.d_out for bank in banks[:-1])])
    sites = [bank.site for bank in banks if bank.site is not None]
    reads = [name for site in sites for name in site.reads]
    writes = [name for site in sites for name in site.writes]
    known = len(sites) == len({*reads}) == len({*writes}) == len(banks)
    stack.site, stack.model = Site(reads, writes) if known else None, banks[0].model
    return stack.eval()


def cross_layer(banks: Sequence[SparseCoder], read: str, write: str, model: str | None) -> CoderStack:
    """Coders of layers 0 to n - 1, each of which writes its own layer and all later ones.

    `read` and `write` are hook names within a block.
    """
    n = len(banks)
    stack = CoderStack(banks, [layer * banks[0].d_in for layer in range(n)])
    reads, writes = ([f"blocks.{layer}.{hook}" for layer in range(n)] for hook in (read, write))
    stack.place(Site(reads, writes), None if model is None else {"name": model}, None)
    return stack.eval()


def from_own_layer(p: Parts) -> Parts:
    """A bank whose W_dec writes several layers, and whose b_dec and W_skip are those of the first alone."""
    rest = p.W_dec.shape[1] - len(p.b_dec)
    skip = None if p.W_skip is None else nn.functional.pad(p.W_skip, (0, rest))
    return p._replace(b_dec=nn.functional.pad(p.b_dec, (0, rest)), W_skip=skip)


def b_dec_of_layers(stack: CoderStack) -> Float[Tensor, "layers d"]:
    """What the banks' biases add up to, [layers, d]."""
    starts = zip(stack, stack.starts, strict=True)
    return sum(nn.functional.pad(bank.b_dec.detach(), (start, 0)) for bank, start in starts).view(len(stack), -1)


def crosses(stack: CoderStack) -> bool:
    """Whether banks write from their layer to the last one; or else their own. Raises ValueError for neither."""
    d, n = stack.banks[0].d_in, len(stack)
    shapes = [(bank.d_in, bank.d_out, start) for bank, start in zip(stack, stack.starts, strict=True)]
    if shapes == [(d, d, layer * d) for layer in range(n)]:
        return False
    if shapes == [(d, (n - layer) * d, layer * d) for layer in range(n)]:
        return True
    raise ValueError(
        f"banks of (d_in, d_out, first column) {shapes} are neither per-layer coders of one width nor a cross-layer "
        "transcoder; our own format holds them: sk.save(stack, path)"
    )
