"""`CoderStack`: coders of several layers that are trained and used together."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..codes import Codes, Support, beside
from ..hooks import Site
from .sparse import Encoding, Scale, SparseCoder


class CoderStack(nn.Module):
    """`y_hat = sum_l [bank l of x^l, written from column starts[l] on]`; `y_hat, codes = stack(x)`.

    x holds what the banks read, side by side; y what they write. Bank l owns the latents from `l d_sae` on. Banks that
    write their own layer only are per-layer transcoders; banks that write from their own layer to the last one are a
    cross-layer transcoder (Ameisen et al. 2025). Every bank is a `SparseCoder` with a site of its own, so that
    `sk.splice(model, stack)` puts them all in place.

    Raises ValueError when a bank would write past the end, and when a column is written by none.
    """

    def __init__(self, banks: Sequence[SparseCoder], starts: Sequence[int]) -> None:
        super().__init__()
        if len(banks) < 1 or len(banks) != len(starts):
            raise ValueError(f"{len(banks)} banks and {len(starts)} starts; give one start for each bank")
        ends = [start + bank.d_out for bank, start in zip(banks, starts, strict=True)]
        if (
            starts[0] != 0
            or any(b > max(ends[: i + 1]) for i, b in enumerate(starts[1:]))
            or sorted(starts) != [*starts]
        ):
            raise ValueError(
                f"banks that write columns {[*zip(starts, ends, strict=True)]} leave a gap or go backwards"
            )
        self.stacked, self.starts = nn.ModuleList(banks), tuple(starts)
        self.d_in, self.d_out = sum(bank.d_in for bank in banks), max(ends)
        self.d_sae = sum(bank.d_sae for bank in banks)
        self.site: Site | None = None
        self.model: dict | None = None
        self.tokenizer: str | None = None

    @property
    def banks(self) -> tuple[SparseCoder, ...]:
        """The coders it is made of."""
        return tuple(self.stacked)

    def __iter__(self) -> Iterator[SparseCoder]:
        return iter(self.stacked)

    def __len__(self) -> int:
        return len(self.stacked)

    def __bool__(self) -> bool:
        return True

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> tuple[Float[Tensor, "*batch d_out"], Codes]:
        """(y_hat, codes); the rows of the codes are the leading dimensions of x, flattened."""
        codes = self.encode(x)
        return self.decode(codes, x).reshape(*x.shape[:-1], self.d_out), codes

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """The codes of all banks, side by side. Raises ValueError where the width is not d_in."""
        codes = self.encoding(x).codes
        return codes if self.training else codes.on()

    def encoding(self, x: Float[Tensor, "*batch d_in"], *, fast: bool = False) -> Encoding:
        """Codes of all banks and the pre-activations they were chosen from."""
        if x.shape[-1] != self.d_in:
            raise ValueError(f"the stack reads width {self.d_in}, but the activations have width {x.shape[-1]}")
        parts = [b.encoding(part, fast=fast) for b, part in zip(self.banks, self.inputs(x), strict=True)]
        if any(part.route is not None for part in parts):
            raise ValueError("a bank of a stack cannot route its tokens: give it another nonlinearity than Routed")
        support, order = beside([part.codes.support for part in parts])
        values = torch.cat([part.codes.values for part in parts])[order]
        gate = torch.cat([part.codes.gate for part in parts])[order]
        a = torch.cat([part.a for part in parts])[order]
        return Encoding(Codes(support, values, gate), torch.cat([part.pre for part in parts], dim=1), a)

    def inputs(self, x: Float[Tensor, "*batch d_in"]) -> list[Float[Tensor, "rows _"]]:
        """What each bank reads of x."""
        return list(x.reshape(-1, self.d_in).split([bank.d_in for bank in self.banks], dim=1))

    def split(self, codes: Codes) -> list[Codes]:
        """The codes of each bank."""
        return [codes.columns(first, last) for first, last in self._ranges()]

    def add_up(self, outputs: list[Float[Tensor, "rows _"]]) -> Float[Tensor, "rows d_out"]:
        """y, from what each bank writes."""
        total = outputs[0].new_zeros(len(outputs[0]), self.d_out)
        for y, start in zip(outputs, self.starts, strict=True):
            total = total + nn.functional.pad(y, (start, self.d_out - start - y.shape[1]))
        return total

    def targets(self, y: Float[Tensor, "rows d_out"]) -> list[Float[Tensor, "rows _"]]:
        """The part of y that each bank writes."""
        return [y[:, start : start + bank.d_out] for bank, start in zip(self.banks, self.starts, strict=True)]

    def pre_activations(self, centred: Float[Tensor, "rows d_in"], fast: bool = False) -> Float[Tensor, "rows d_sae"]:
        """`(x - b_pre) W_enc + b_enc` of every bank, dense, of inputs with b_pre taken away."""
        parts = zip(self.banks, self.inputs(centred), strict=True)
        return torch.cat([bank.pre_activations(part, fast) for bank, part in parts], dim=1)

    def entries(self, x: Float[Tensor, "rows d_in"], support: Support) -> Float[Tensor, " nnz"]:
        """The pre-activations at the entries of `support` only, with gradient."""
        out = x.new_zeros(len(support.latents))
        for bank, part, (first, last) in zip(self.banks, self.inputs(x), self._ranges(), strict=True):
            mine = torch.nonzero((support.latents >= first) & (support.latents < last)).squeeze(1)
            codes = Codes(support, out).columns(first, last)
            out = out.index_put((mine,), bank.entries(part, codes.support))
        return out

    def decode(self, codes: Codes, x: Float[Tensor, "*batch d_in"] | None = None) -> Float[Tensor, "rows d_out"]:
        """What the banks write, added up; x where a bank has a skip connection."""
        if codes.d_sae != self.d_sae:
            raise ValueError(f"the stack has {self.d_sae} latents, but the codes have {codes.d_sae}")
        inputs = [None] * len(self) if x is None else self.inputs(x)
        parts = zip(self.banks, self.split(codes), inputs, strict=True)
        return self.add_up([bank.decode(part, read) for bank, part, read in parts])

    def written(self, codes: Codes) -> Float[Tensor, "rows d_out"]:
        """What the latents write, without biases and skip connections."""
        return self.add_up([bank.written(part) for bank, part in zip(self.banks, self.split(codes), strict=True)])

    def norms(self) -> Float[Tensor, " d_sae"]:
        """`|W_dec[i]|` over all the layers latent i writes."""
        return torch.cat([bank.norms() for bank in self.banks])

    def constrain(self) -> None:
        """Put the parameters of every bank back where the parametrisation has them."""
        for bank in self.banks:
            bank.constrain()

    def centre(self, b_pre: Float[Tensor, " d_in"], b_dec: Float[Tensor, " d_out"]) -> None:
        """Where training starts from. A column of y starts from the bias of the last bank that begins before it."""
        ends = [*self.starts[1:], self.d_out]
        for bank, part, start, end in zip(self.banks, self.inputs(b_pre[None]), self.starts, ends, strict=True):
            own = torch.zeros_like(bank.b_dec)
            own[: end - start] = b_dec[start:end]
            bank.centre(part[0], own)

    def calibrate(self, x: Float[Tensor, "rows d_in"]) -> None:
        """Set thresholds that stand in for a selection over the batch, on rows that were not trained on."""
        for bank, part in zip(self.banks, self.inputs(x), strict=True):
            bank.calibrate(part)

    def fold(self, scale_in: Scale = 1.0, scale_out: Scale = 1.0) -> None:
        """Make a stack of `scale_in * x -> scale_out * y` one of raw `x -> y`, and fold b_pre into b_enc.

        A bank that writes several layers follows each one's own scale.
        """
        scale_in = torch.as_tensor(scale_in).expand(self.d_in)
        scale_out = torch.as_tensor(scale_out).expand(self.d_out)
        for bank, part, start in zip(self.banks, self.inputs(scale_in[None]), self.starts, strict=True):
            bank.fold(part[0], scale_out[start : start + bank.d_out])

    def place(self, site: Site | None, model: dict | None, tokenizer: str | None) -> None:
        """Say where the stack belongs, and each bank: it reads one hook, and writes as many as fit its columns."""
        self.site, self.model, self.tokenizer = site, model, tokenizer
        if site is None or len(site.reads) != len(self) or self.d_out % len(site.writes):
            return
        width = self.d_out // len(site.writes)
        for bank, read, start in zip(self.banks, site.reads, self.starts, strict=True):
            writes = site.writes[start // width : (start + bank.d_out) // width]
            bank.place(Site(read, writes), model, tokenizer)

    def _ranges(self) -> list[tuple[int, int]]:
        """The latents of each bank: from, to."""
        edges = [0, *torch.tensor([bank.d_sae for bank in self.banks]).cumsum(0).tolist()]
        return list(pairwise(edges))
