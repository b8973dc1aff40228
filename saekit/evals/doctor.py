"""Does a coder fit the model at hand, and if not, why not? Files say too little, so the faults are tried out."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call

from ..coder import SparseCoder
from ..corpus import Corpus
from ..features.forward import check
from ..hooks import Site, capture
from ..nonlinearity import TopK

ROWS = 1_024  # at a time
WORTH_SAYING = 0.7  # a fault explains a coder when undoing it brings the FVU below this share of what it was
GOOD = 0.02  # an FVU below which nothing is looked for
POOR = 0.9  # from here on a coder hardly beats the mean


class Diagnosis(NamedTuple):
    """What was measured, and what is wrong, in words and with the remedy; the likeliest fault first."""

    scores: dict[str, float]
    faults: list[str]

    def __repr__(self) -> str:
        measured = ", ".join(f"{name} {value:.4g}" for name, value in self.scores.items() if not np.isnan(value))
        return "\n".join([measured, *(f"- {fault}" for fault in self.faults or ["no fault found"])])


class _Trial(NamedTuple):
    """One fault undone: the reconstruction that there would be without it."""

    words: str
    reconstruct: Callable[[Tensor], Tensor]


@torch.no_grad()
def doctor(model: Any, coder: SparseCoder, corpus: Corpus, *, tokens: int = 2_000, seed: int = 0) -> Diagnosis:
    """FVU and L0 of a coder on about `tokens` tokens of a model, and the fault, if undoing one helps.

    Tried: inputs scaled by another factor; thresholds in other units; b_dec taken away from the input never or twice;
    tokens centred or standardised; encoder, decoder or skip connection transposed, where they are square; text without
    BOS; another layer. Besides, L0 is compared with the k that the coder declares.

    scores: fvu (about one mean), l0, declared_l0 (NaN where nothing is declared), dead, fvu_best: with the likeliest
    fault undone. bos_norm, bos_l0: |x| at BOS against the mean of the other tokens, and latents on there: BOS is an
    outlier that most coders never saw, so that it is left out everywhere else. n: tokens.

    Raises ValueError when widths, site, tokenizer or the model's processing do not fit in the first place.
    """
    check(model, coder, corpus)
    chosen = _windows(corpus, tokens, seed)
    x, y, bos = _rows(model, coder.site, corpus[chosen])
    l0, dead = _sparsity(coder, x)
    scores = {"fvu": _fvu(y, _by_rows(coder, x)), "l0": l0, "declared_l0": _declared(coder), "dead": dead}
    found = [] if scores["fvu"] < GOOD else _tried(model, coder, corpus[chosen], x, y)
    scores["fvu_best"] = min([scores["fvu"], *(fvu for fvu, _ in found)])
    scores |= _at_bos(coder, bos, x) | {"n": float(len(x))}
    return Diagnosis(scores, _faults(scores, found))


def _faults(scores: dict[str, float], found: list[tuple[float, str]]) -> list[str]:
    """Sentences: what helps, best first; an L0 that is not as declared; or that nothing explains it."""
    enough = min(WORTH_SAYING * scores["fvu"], POOR)
    better = sorted((fvu, words) for fvu, words in found if fvu < enough)
    better = [(fvu, words) for fvu, words in better if fvu < 2 * better[0][0] + GOOD]
    faults = [f"{words} (FVU {scores['fvu']:.3g} -> {fvu:.3g})" for fvu, words in better]
    l0, declared = scores["l0"], scores["declared_l0"]
    if not np.isnan(declared) and not declared / 1.5 < l0 < declared * 1.5:
        faults.append(f"L0 is {l0:.3g}, but the coder declares {declared:.3g}: its threshold does not fit this text")
    if not better and scores["fvu"] > POOR:
        faults.append(
            f"it hardly beats the mean (FVU {scores['fvu']:.3g}), and none of the usual faults explains that: "
            "was it trained on another model, or another checkpoint of this one?"
        )
    return faults


def _tried(model: Any, coder: SparseCoder, corpus: Corpus, x: Tensor, y: Tensor) -> list[tuple[float, str]]:
    """(FVU without the fault, its words) of every trial; the best scale stands for all scales."""
    scales = [(_fvu(y, t.reconstruct(x)), t.words) for t in _scaled(coder, x)]
    others = [(_fvu(y, t.reconstruct(x)), t.words) for t in (*_shifted(coder), *_transposed(coder))]
    return [min(scales), *others, *_elsewhere(model, coder, corpus)]


def _scaled(coder: SparseCoder, x: Float[Tensor, "rows d_in"]) -> Iterator[_Trial]:
    """Other scales of the input, and of the thresholds alone."""
    named = {
        x.shape[1] ** 0.5 / float(x.norm(dim=1).mean()): "mean norm sqrt(d), as SAELens scales",
        1 / float(x.square().sum(1).mean().sqrt()): "mean square norm 1, as Gemma Scope and dictionary_learning scale",
    }
    named |= {1 / c: f"the inverse of what gives {words}: folded twice" for c, words in list(named.items())}
    named |= {4.0**i: "" for i in range(-4, 5) if i}
    for c, words in named.items():
        why = f" ({words})" if words else ""
        yield _Trial(
            f"it expects activations multiplied by {c:.3g}{why}; coder.fold({c:.4g}, {c:.4g}) puts that right",
            lambda x, c=c: _by_rows(coder, x * c) / c,
        )
        if (threshold := _used_threshold(coder)) is not None:
            yield _Trial(
                f"its thresholds are in other units, {c:.3g} times as large{why}; coder.nonlinearity.rescale({c:.4g})",
                lambda x, other={"nonlinearity.threshold": threshold * c}: _by_rows(coder, x, other),
            )


def _used_threshold(coder: SparseCoder) -> Tensor | None:
    along_token = isinstance(coder.nonlinearity, TopK) and coder.nonlinearity.along == "token"
    return None if along_token else getattr(coder.nonlinearity, "threshold", None)


def _shifted(coder: SparseCoder) -> Iterator[_Trial]:
    """Another centre of the input."""
    if coder.d_in == coder.d_out:
        yield _Trial(
            "it expects b_dec to be taken away from its input; coder.b_enc -= coder.b_dec @ coder.W_enc",
            lambda x: _by_rows(coder, x - coder.b_dec),
        )
        yield _Trial(
            "b_dec is taken away from its input, which it does not expect; coder.b_enc += coder.b_dec @ coder.W_enc",
            lambda x: _by_rows(coder, x + coder.b_dec),
        )
    yield _Trial(
        "it expects every token to have mean 0, as on a model whose weights TransformerLens has centred; "
        "load the model with that processing",
        lambda x: _of_standardised(coder, x, torch.ones(())),
    )
    yield _Trial(
        "it expects every token to be standardised (layer_norm), which a plain coder does not do",
        lambda x: _of_standardised(coder, x, x.std(dim=1, keepdim=True) + 1e-5),
    )


def _of_standardised(coder: SparseCoder, x: Tensor, std: Tensor) -> Float[Tensor, "rows d_out"]:
    """The reconstruction from `(x - mean) / std` of each token; of an autoencoder, taken back to raw units."""
    mean = x.mean(1, keepdim=True)
    y_hat = _by_rows(coder, (x - mean) / std)
    return y_hat * std + mean if coder.d_in == coder.d_out else y_hat


def _transposed(coder: SparseCoder) -> Iterator[_Trial]:
    """Square matrices, whose shape does not tell."""
    for name in ("W_enc", "W_dec", "W_skip"):
        matrix = getattr(coder, name)
        if matrix is not None and matrix.shape[0] == matrix.shape[1]:
            yield _Trial(
                f"{name} is transposed; coder.{name} = torch.nn.Parameter(coder.{name}.T)",
                lambda x, other={name: matrix.T}: _by_rows(coder, x, other),
            )


def _elsewhere(model: Any, coder: SparseCoder, corpus: Corpus) -> Iterator[tuple[float, str]]:
    """The same coder on text without BOS, and at the same place of other layers."""
    if corpus.lead:
        x, y, _ = _rows(model, coder.site, corpus, bos=False)
        yield (
            _fvu(y, _by_rows(coder, x)),
            "it was trained on text without BOS: give it tokens that do not start with one",
        )
    for site in _sites_elsewhere(model, coder.site):
        x, y, _ = _rows(model, site, corpus)
        yield _fvu(y, _by_rows(coder, x)), f"it belongs at {site.name!r}, not at {coder.site.name!r}"


def _sites_elsewhere(model: Any, site: Site) -> list[Site]:
    """The same place in the other layers."""
    if site.layer is None:
        return []

    def moved(names: tuple[str, ...], layer: int) -> tuple[str, ...]:
        return tuple(name.replace(f"blocks.{site.layer}.", f"blocks.{layer}.") for name in names)

    layers = [layer for layer in range(model.cfg.n_layers) if layer != site.layer]
    found = [Site(moved(site.reads, layer), moved(site.writes, layer)) for layer in layers]
    return [other for other in found if {*other.reads, *other.writes} <= model.hook_dict.keys()]


def _windows(corpus: Corpus, tokens: int, seed: int) -> np.ndarray:
    rows = corpus.mask.sum(1)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(rows > 1))
    if not len(order):
        raise ValueError("the corpus has no window with two tokens; give a longer text")
    return np.sort(order[: int(np.searchsorted(rows[order].cumsum(), tokens)) + 1])


def _rows(
    model: Any, site: Site, corpus: Corpus, bos: bool = True
) -> tuple[Float[Tensor, "rows d_in"], Float[Tensor, "rows d_out"], Float[Tensor, "windows d_in"]]:
    """(what the coder reads, what it reconstructs, what it reads at BOS); bos=False: the windows without it."""
    first = 0 if bos else corpus.lead
    mask, parts = torch.from_numpy(corpus.mask[:, first:]), []
    for i in range(0, len(corpus), 4):
        seen = capture(model, corpus.tokens[i : i + 4, first:], site)
        inside = mask[i : i + 4]
        parts.append((site.inputs(seen)[inside], site.targets(seen)[inside], site.inputs(seen)[:, 0]))
    x, y, at_start = (torch.cat(part).float() for part in zip(*parts, strict=True))
    return x, y, at_start[: len(corpus) if corpus.lead and bos else 0]


def _by_rows(coder: SparseCoder, x: Tensor, other: dict[str, Tensor] | None = None) -> Float[Tensor, "rows d_out"]:
    """The reconstruction, with `other` weights in place of the coder's own."""
    return torch.cat([functional_call(coder, other or {}, (part,))[0] for part in x.split(ROWS)])


def _fvu(y: Tensor, y_hat: Tensor) -> float:
    fvu = (y.double() - y_hat).square().sum() / (y.double() - y.double().mean(0)).square().sum()
    return float(fvu) if bool(torch.isfinite(fvu)) else float("inf")


def _sparsity(coder: SparseCoder, x: Tensor) -> tuple[float, float]:
    """(L0, share of latents that were never on)."""
    codes = [coder.encode(part) for part in x.split(ROWS)]
    on = sum(c.counts() for c in codes)
    return float(on.sum()) / len(x), float((on == 0).float().mean())


def _declared(coder: SparseCoder) -> float:
    return float(getattr(coder.nonlinearity, "k", float("nan")))


def _at_bos(coder: SparseCoder, bos: Tensor, x: Tensor) -> dict[str, float]:
    if not len(bos):
        return {"bos_norm": float("nan"), "bos_l0": float("nan")}
    return {"bos_norm": float(bos.norm(dim=1).mean() / x.norm(dim=1).mean()), "bos_l0": _sparsity(coder, bos)[0]}
