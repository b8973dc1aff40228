"""Terms about what the model does when it runs on the reconstruction. They need a source of whole sequences."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import Windows
from ..hooks import rerun
from .fit import variance
from .objective import Objective, Step


class Outcome(NamedTuple):
    """What a forward pass came to, at the tokens of the batch."""

    logits: Float[Tensor, "rows vocab"]
    later: list[Float[Tensor, "rows d_model"]]  # the residual stream after each later layer


@dataclass(frozen=True, eq=False)
class Passes:
    """Forward passes on one batch of whole windows, each run once whoever asks for it."""

    windows: Windows
    _known: list = field(default_factory=list)

    @cached_property
    def clean(self) -> Outcome:
        """The model as it is, without gradient."""
        with torch.no_grad():
            return self._run({})

    def on(self, y_hat: Float[Tensor, "rows d_out"]) -> Outcome:
        """The model with these activations at the site, all tokens at once."""
        for given, outcome in self._known:
            if given is y_hat:
                return outcome
        w = self.windows
        full = y_hat.new_zeros(*w.mask.shape, y_hat.shape[1]).index_put((w.mask,), y_hat / w.scale)
        parts = full.tensor_split(len(w.site.writes), dim=-1)
        outcome = self._run(dict(zip(w.site.writes, parts, strict=True)))
        self._known.append((y_hat, outcome))
        return outcome

    @property
    def later(self) -> list[str]:
        """The residual stream after each layer that comes after the site."""
        w = self.windows
        names = [f"blocks.{i}.hook_resid_post" for i in range(w.site.layer or 0, w.model.cfg.n_layers)]
        return [name for name in names if name not in w.site.writes]

    def _run(self, replaced: dict[str, Tensor]) -> Outcome:
        w = self.windows
        logits, seen = rerun(w.model, w.tokens, replaced, w.mask, self.later)
        return Outcome(logits[w.mask], [seen[name][w.mask] for name in self.later])


def kl() -> Objective:
    """`mean_rows KL(p || p_hat)` in nats, p the model's next-token distribution, p_hat on the reconstruction.

    End-to-end training (Braun et al. 2024, arXiv 2405.12241). Raises ValueError without whole sequences.
    """

    def term(s: Step) -> Tensor:
        clean, spliced = (o.logits.log_softmax(-1) for o in (_passes(s).clean, _passes(s).on(s.y_hat)))
        return (clean.exp() * (clean - spliced)).sum(-1).mean()

    return Objective((("kl", 1.0, term),))


def downstream() -> Objective:
    """Mean over later layers of the FVU of the residual stream there, when the model runs on the reconstruction.

    The e2e + downstream variant of Braun et al. 2024, in units of the variance. Raises ValueError where no layer
    comes after the site.
    """

    def term(s: Step) -> Tensor:
        passes = _passes(s)
        if not passes.later:
            raise ValueError(f"no layer comes after {passes.windows.site.name!r}; train at an earlier site or use kl()")
        pairs = zip(passes.clean.later, passes.on(s.y_hat).later, strict=True)
        return torch.stack([(y - y_hat).square().sum() / variance(y) for y, y_hat in pairs]).mean()

    return Objective((("downstream", 1.0, term),))


def causal() -> Objective:
    """`|b g(f) + (1 - b) g(f') - g(b f + (1 - b) f')|^2`, in units of the logits' variance: latents act additively.

    f, f' are the codes of two windows of the batch, g the decoder and the rest of the model up to its logits, b uniform
    in (0, 1) (Menon et al. 2024, arXiv 2410.11767). The decoder is affine, so the mixture is one of reconstructions.
    Raises ValueError without whole sequences, and for a batch of one window.
    """

    def term(s: Step) -> Tensor:
        passes = _passes(s)
        mask = passes.windows.mask
        if len(mask) < 2:
            raise ValueError(f"causal compares windows, but a batch holds {len(mask)}; give train a larger batch_size")
        both = (mask & mask.roll(1, 0))[mask]  # rows that have a partner in the window before
        partner = _partners(mask)
        b = float(torch.rand((), generator=s.draw()))
        mixed = torch.where(both[:, None], b * s.y_hat + (1 - b) * s.y_hat[partner], s.y_hat)
        logits, expected = passes.on(s.y_hat).logits, passes.on(mixed).logits
        gap = b * logits + (1 - b) * logits[partner] - expected
        return gap[both].square().sum() / variance(logits[both].detach())

    return Objective((("causal", 1.0, term),))


def _partners(mask: Tensor) -> Tensor:
    """For each row, the row at the same position of the window before; itself where that is padding."""
    number = torch.zeros(mask.shape, dtype=torch.long).masked_scatter(mask, torch.arange(int(mask.sum())))
    return torch.where(mask.roll(1, 0), number.roll(1, 0), number)[mask]


def _passes(s: Step) -> Passes:
    if s.passes is None:
        raise ValueError("this term runs the model, so it needs whole sequences: sk.Activations(..., sequences=True)")
    return s.passes
