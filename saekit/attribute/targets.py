"""`Target`: the number that an attribution explains."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..corpus import pieces
from ..hooks import Site, to_tokens

LOGITS = "unembed.hook_out"  # before the soft cap of a model that has one


@dataclass(frozen=True, eq=False)
class Target:
    """m = <w, x[pos]> + constant, with x what the model has at hook `read`: the logits, unless told otherwise.

    weights: w, as {token: weight}, tokens being strings or ids, or as a vector of x's width. Logits are those before
    the soft cap, where a model has one: they are what adds up.
    """

    weights: Mapping[str | int, float] | Float[Tensor, " width"]
    label: str
    read: str = LOGITS
    pos: int = -1
    constant: float = 0.0

    def direction(self, model: Any) -> Float[Tensor, " width"]:
        """w as a vector: over the vocabulary, or as wide as what is read.

        Raises ValueError for a string that is not one token of the model, an id that it does not have, and a vector
        of another width.
        """
        width, like = Site(self.read).check(model)[0], next(model.parameters())
        if not isinstance(self.weights, Mapping):
            if self.weights.shape != (width,):
                raise ValueError(f"the target has shape {(*self.weights.shape,)}, but {self.read!r} is {width} wide")
            return self.weights.detach().to(like.device, torch.promote_types(self.weights.dtype, like.dtype))
        vector = torch.zeros(width, dtype=like.dtype, device=like.device)
        for token, weight in self.weights.items():
            vector[token_id(model, token, width)] += weight
        return vector

    def on(self, model: Any) -> "Target":
        """The same with w as a vector. Raises ValueError as `direction` does."""
        return replace(self, weights=self.direction(model))

    def __call__(self, x: Float[Tensor, "batch pos width"]) -> Float[Tensor, " batch"]:
        """m of each prompt. Raises ValueError where a token is still a string: `target.on(model)` looks it up."""
        if not isinstance(self.weights, Mapping):
            dtype = torch.promote_types(x.dtype, self.weights.dtype)
            return x[:, self.pos].to(dtype) @ self.weights.to(dtype) + self.constant
        if words := [token for token in self.weights if isinstance(token, str)]:
            raise ValueError(f"{words[0]!r} has no id without a model: target.on(model) gives it one")
        return sum(x[:, self.pos, token] * weight for token, weight in self.weights.items()) + self.constant


def logit(token: str | int) -> Target:
    """The logit of a token at the last position. A string must be one token of the model it is used with."""
    return Target({token: 1.0}, _name(token))


def logit_diff(a: str | int, b: str | int) -> Target:
    """The logit of a less that of b, at the last position. Raises ValueError when they are the same."""
    if a == b:
        raise ValueError(f"the logit of {a!r} less itself is 0; give two tokens that differ")
    return Target({a: 1.0, b: -1.0}, f"{_name(a)} - {_name(b)}")


def _name(token: str | int) -> str:
    return repr(token) if isinstance(token, str) else f"token {token}"


def pre_activation(coder: Any, latent: int, pos: int = -1) -> Target:
    """What a latent is on above: `<e, x[pos] - b_pre> + b_enc`, with e its column of W_enc.

    Raises ValueError for a latent that the coder does not have, and a coder that reads several hooks.
    """
    if latent not in range(coder.d_sae):
        raise ValueError(f"latent {latent} is not in [0, {coder.d_sae}), the latents of this coder")
    if coder.site is None or len(coder.site.reads) != 1:
        raise ValueError(f"a pre-activation is read at one hook, but this coder's site is {coder.site}")
    column = coder.W_enc[:, latent].detach()
    constant = float(coder.b_enc[latent] - coder.b_pre @ column)
    return Target(column, f"latent {latent} of {coder.site.name}", coder.site.reads[0], pos, constant)


def token_id(model: Any, token: str | int, vocab: int) -> int:
    """The id of a token. Raises ValueError for a string of several tokens, and an id that the model does not have."""
    if isinstance(token, str):
        ids = model.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            split = ", ".join(repr(piece) for piece in pieces(model.tokenizer, ids)) or "none"
            raise ValueError(f"{token!r} is {len(ids)} tokens of {model.cfg.model_name!r} ({split}); a target is one")
        return int(ids[0])
    if token not in range(vocab):
        raise ValueError(f"token {token} is not in [0, {vocab}), the vocabulary of {model.cfg.model_name!r}")
    return int(token)


@dataclass(frozen=True)
class Custom:
    """Any function of the logits, in the place of a `Target`."""

    function: Callable[[Float[Tensor, "batch pos vocab"]], Float[Tensor, " batch"]]
    label: str
    read: str = LOGITS

    def __call__(self, x: Float[Tensor, "batch pos vocab"]) -> Float[Tensor, " batch"]:
        m = self.function(x)
        if not isinstance(m, Tensor) or m.shape != x.shape[:1]:
            shape = (*m.shape,) if isinstance(m, Tensor) else type(m).__name__
            raise ValueError(f"{self.label} gave {shape}; a target gives one number for each prompt, ({len(x)},)")
        return m


@dataclass(frozen=True, eq=False)
class Each:
    """A target of its own for each prompt, all read at one place: m_b = <w_b, x[b, pos]> + constant_b."""

    weights: Float[Tensor, "batch width"]
    constants: Float[Tensor, " batch"]
    label: str
    read: str
    pos: int

    def take(self, prompts: Int[Tensor, " n"]) -> "Each":
        """The targets of these prompts, in this order."""
        return replace(self, weights=self.weights[prompts], constants=self.constants[prompts])

    def __call__(self, x: Float[Tensor, "batch pos width"]) -> Float[Tensor, " batch"]:
        return (x[:, self.pos] * self.weights.to(x.dtype)).sum(-1) + self.constants.to(x.dtype)


# A token stands for its logit; of several prompts, each can have its own.
AnyTarget = Target | Each | Callable[[Tensor], Tensor] | str | int | Sequence[Target | str | int]


def each(model: Any, targets: Sequence[Target | str | int]) -> Each:
    """One target for each prompt. Raises ValueError for none, functions, and targets read at several places."""
    found = [on(model, target) for target in targets]
    if not found or not all(isinstance(target, Target) for target in found):
        raise ValueError(f"{len(found)} targets, one for each prompt: give tokens, sk.logit_diff(a, b) or sk.Target")
    if len(places := {(target.read, target.pos) for target in found}) > 1:
        raise ValueError(f"the targets are read at {sorted(places)}; targets of several prompts are read at one place")
    (read, pos), weights = places.pop(), torch.stack([target.weights for target in found])
    constants = weights.new_tensor([target.constant for target in found])
    labels = {target.label for target in found}
    return Each(weights, constants, labels.pop() if len(labels) == 1 else f"{len(found)} targets", read, pos)


def on(model: Any, target: AnyTarget) -> Target | Custom | Each:
    """A target ready for use on this model: a token's logit, its tokens looked up, a plain function wrapped."""
    if isinstance(target, Each):
        return target
    if isinstance(target, list | tuple):
        return each(model, target)
    if isinstance(target, str | int):
        target = logit(target)
    if isinstance(target, Target):
        return target.on(model)
    return Custom(target, getattr(target, "__name__", "the target"))


def prompt_tokens(model: Any, prompt: Any, target: Any = None) -> Int[Tensor, "batch pos"]:
    """The prompt's tokens, BOS first. Raises ValueError for fewer than two tokens, and more than the model takes."""
    tokens = to_tokens(model, prompt)
    pos, n = getattr(target, "pos", -1), tokens.shape[1]
    if n < 2:
        raise ValueError(f"a prompt of {n} token has nothing before the last one to attribute to; give at least two")
    if not -n <= pos < n:
        raise ValueError(f"the target is at position {pos}, but the prompt has {n} tokens")
    if isinstance(target, Each) and len(target.weights) != len(tokens):
        raise ValueError(f"{len(target.weights)} targets for {len(tokens)} prompts; give one, or one for each")
    return tokens
