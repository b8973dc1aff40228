"""A model whose one activation is plain to see: the token before, and this token."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import tiny
import torch
from torch import Tensor

import saekit as sk

SITE = sk.Site("blocks.0.hook_resid_post")
LIKELY = "abcef"  # the tokens it always expects next, in no order


class Bigrams(torch.nn.Module):
    """resid = [one-hot of the token before, one-hot of this token]; it expects `LIKELY` whatever came before."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = tiny.tokenizer()
        self.width = len(self.tokenizer)
        self.E = torch.nn.Parameter(torch.eye(self.width), requires_grad=False)
        self.hook_dict = {"embed.hook_out": SimpleNamespace(), SITE.read: SimpleNamespace()}
        self.cfg = SimpleNamespace(
            n_ctx=64, d_model=2 * self.width, d_vocab=self.width, n_layers=1, model_name="bigrams", device="cpu"
        )
        self._hooks: list = []

    @contextmanager
    def hooks(self, hooks: list) -> Iterator[None]:
        before, self._hooks = self._hooks, [*self._hooks, *hooks]
        try:
            yield
        finally:
            self._hooks = before

    def forward(self, tokens: Tensor, return_type=None, attention_mask=None) -> Tensor:
        here = self._seen("embed.hook_out", self.E[tokens])
        before = torch.nn.functional.pad(here, (0, 0, 1, 0))[:, :-1]
        self._seen(SITE.read, torch.cat([before, here], dim=-1))
        logits = torch.zeros(*tokens.shape, self.width)
        logits[..., ids(self, LIKELY)] = 1.0
        return logits

    def _seen(self, name: str, x: Tensor) -> Tensor:
        for which, see in self._hooks:
            if which(name) if isinstance(which, Callable) else which == name:
                out = see(x, hook=self.hook_dict[name])
                x = x if out is None else out
        return x


def ids(model: Bigrams, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def coder(model: Bigrams, latents: list[tuple[str, str]]) -> sk.SparseCoder:
    """A latent for each (tokens before, tokens): on by 1/2 where one of the first is before one of the second.

    No token before: on by 1/2 at the second. No token at all: dead.
    """
    coder = sk.SparseCoder(2 * model.width, len(latents), sk.ReLU()).eval().requires_grad_(False)
    coder.W_enc.zero_()
    for i, (before, here) in enumerate(latents):
        coder.W_enc[ids(model, before), i] = 1.0
        coder.W_enc[[model.width + j for j in ids(model, here)], i] = 1.0
        coder.b_enc[i] = -1.5 if before else -0.5
    coder.site = SITE
    return coder
