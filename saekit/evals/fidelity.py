"""How well a coder reconstructs activations, and what the model loses when it runs on the reconstruction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ..coder import CoderStack, SparseCoder
from ..corpus import Corpus
from ..features.forward import check
from ..hooks import capture, splice
from ..nonlinearity import ReLU

Coder = SparseCoder | CoderStack

WINDOWS = 2  # per forward pass
BOOTSTRAPS = 1_000


def fidelity(model: Any, coder: Coder, corpus: Corpus, *, tokens: int = 50_000, seed: int = 0) -> dict[str, float]:
    """Reconstruction, sparsity and behaviour over about `tokens` tokens, BOS and padding left out.

    fvu: `sum |y - y_hat|^2 / sum |y - mean y|^2`, one mean over all tokens; fvu_low, fvu_high: its 95 % interval,
    windows resampled. cosine: mean of cos(y, y_hat). l2_ratio: mean of |y_hat| / |y|; 1 is no shrinkage.
    l0: mean number of latents on. dense: share of latents on in more than a tenth of the tokens. dead: share on in
    none; it falls as n grows.
    ce, ce_coder, ce_zero, ce_mean: loss in nats a token, of the model as it is, on the reconstruction, and with the
    site's activations set to zero or to their mean. ce_recovered: `(ce_zero - ce_coder) / (ce_zero - ce)`, with its
    interval; zero ablation is so harsh that this saturates, so read ce_coder - ce as well.
    ce_recovered_mean: the same against the mean. kl: mean KL(p || p_coder) in nats. n: tokens measured.

    Raises ValueError when the corpus is of another tokenizer, or the coder of another site, width or model.
    """
    return fidelities(model, [coder], corpus, tokens=tokens, seed=seed)[0]


def fidelities(
    model: Any, coders: Sequence[Coder], corpus: Corpus, *, tokens: int = 50_000, seed: int = 0
) -> list[dict[str, float]]:
    """`fidelity` of several coders of one site, on the same tokens; the passes without a coder run once for all.

    Raises ValueError also where there is no coder, or where two sites differ.
    """
    check_all(model, coders, corpus)
    chosen = drawn(corpus, tokens, seed)
    batches = [batch_of(corpus, chosen[i : i + WINDOWS]) for i in range(0, len(chosen), WINDOWS)]
    sums = [_window_sums(model, coders, *batch) for batch in batches]
    mean = sum(s[0]["y_sum"] for s in sums) / sum(s[0]["n"].sum() for s in sums)
    ablated = [_ablated_losses(model, coders[0], *batch, mean) for batch in batches]
    return [_scored([s[i] for s in sums], ablated, mean, seed) for i in range(len(coders))]


def check_all(model: Any, coders: Sequence[Coder], corpus: Corpus) -> None:
    """Raise ValueError unless there are coders, all of one site, and each fits model and corpus."""
    for coder in coders:
        check(model, coder, corpus)
    if len(sites := {coder.site.name for coder in coders}) != 1:
        found = f"{len(sites)} sites, {', '.join(sorted(sites))}" if sites else "no coder"
        raise ValueError(f"{found}: give one or more coders, all of one site")


def _scored(sums: list[dict[str, Any]], ablated: list[dict[str, Any]], mean: np.ndarray, seed: int) -> dict[str, float]:
    per_window = {k: np.concatenate([s[k] for s in sums]) for k in sums[0] if k not in ("y_sum", "on")}
    per_window |= {k: np.concatenate([s[k] for s in ablated]) for k in ablated[0]}
    on = sum(s["on"] for s in sums)
    scores = _scores(per_window, mean) | _spread(on, int(per_window["n"].sum())) | _intervals(per_window, mean, seed)
    return {name: float(value) for name, value in scores.items()}


def drawn(corpus: Corpus, tokens: int, seed: int) -> Int[np.ndarray, " n"]:
    """Windows with about this many tokens, drawn without replacement, in the order of the corpus."""
    rows = corpus.mask.sum(1)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(rows > 1))
    if not len(order):
        raise ValueError("the corpus has no window with two tokens; give a longer text")
    return np.sort(order[: int(np.searchsorted(rows[order].cumsum(), tokens)) + 1])


def batch_of(corpus: Corpus, windows: np.ndarray) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """(tokens, mask) of these windows."""
    return corpus.tokens[torch.from_numpy(windows)], torch.from_numpy(corpus.mask[windows])


@torch.no_grad()
def _window_sums(
    model: Any, coders: Sequence[Coder], tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
) -> list[dict[str, Any]]:
    """For each coder, per window: sums over its tokens, in float64."""
    seen = capture(model, tokens, coders[0].site)
    clean = model(tokens).log_softmax(-1)
    return [_reconstruction(c, seen, mask) | _losses(model, c, tokens, mask, clean) for c in coders]


def _reconstruction(coder: Coder, seen: dict[str, Tensor], mask: Bool[Tensor, "batch pos"]) -> dict[str, Any]:
    window = torch.arange(len(mask))[:, None].expand_as(mask)[mask]
    y = coder.site.targets(seen)[mask]
    y_hat, codes = coder(coder.site.inputs(seen)[mask])
    y, y_hat = y.double(), y_hat.double()

    def total(values: Tensor) -> np.ndarray:
        return torch.zeros(len(mask), dtype=torch.float64).index_add(0, window, values.double()).numpy()

    return {
        "n": total(torch.ones(len(y))), "sse": total((y - y_hat).square().sum(1)), "ss": total(y.square().sum(1)),
        "y_dot": torch.zeros(len(mask), y.shape[1]).double().index_add(0, window, y).numpy(),
        "cosine": total(F.cosine_similarity(y, y_hat)),
        "l2_ratio": total(y_hat.norm(dim=1) / y.norm(dim=1).clamp(min=1e-8)),
        "l0": total(codes.on().offsets.diff()), "on": codes.counts().numpy(), "y_sum": y.sum(0).numpy(),
    }  # fmt: skip


def _losses(
    model: Any, coder: Coder, tokens: Tensor, mask: Tensor, clean: Float[Tensor, "batch pos vocab"]
) -> dict[str, np.ndarray]:
    """Loss of the model as it is and on the reconstruction, and the KL between them, summed per window."""
    with splice(model, coder, keep_error=False, where=mask):
        spliced = model(tokens).log_softmax(-1)
    predicts = mask[:, 1:].double()  # position i predicts the token at i + 1
    kl = (clean.exp() * (clean - spliced)).sum(-1)[:, :-1]
    return {
        "m": predicts.sum(1).numpy(), "ce": _ce(clean, tokens, predicts), "ce_coder": _ce(spliced, tokens, predicts),
        "kl": (kl * predicts).sum(1).numpy(),
    }  # fmt: skip


def _ce(log_probs: Float[Tensor, "batch pos vocab"], tokens: Tensor, predicts: Tensor) -> np.ndarray:
    return -(log_probs[:, :-1].gather(2, tokens[:, 1:, None])[..., 0].double() * predicts).sum(1).numpy()


@torch.no_grad()
def _ablated_losses(model: Any, coder: Coder, tokens: Tensor, mask: Tensor, mean: np.ndarray) -> dict[str, np.ndarray]:
    losses = {}
    for name, value in (("ce_zero", np.zeros_like(mean)), ("ce_mean", mean)):
        constant = _constant(coder, torch.from_numpy(value).float())
        with splice(model, constant, keep_error=False, where=mask):
            losses[name] = _ce(model(tokens).log_softmax(-1), tokens, mask[:, 1:].double())
    return losses


def _constant(coder: Coder, value: Float[Tensor, " d_out"]) -> Coder:
    """What stands where the coder stands and writes the same vector everywhere: a bias and no latent that is ever on.

    For a stack, one for each of its layers.
    """
    banks = coder.banks
    values = value.chunk(len(banks))
    with torch.random.fork_rng(devices=[]):
        made = [SparseCoder(bank.d_in, 1, ReLU(), d_out=len(part)) for bank, part in zip(banks, values, strict=True)]
    for one, part in zip(made, values, strict=True):
        one.b_enc.fill_(-torch.inf)
        one.b_dec.copy_(part)
    starts = [i * len(values[0]) for i in range(len(made))]
    constant = made[0] if isinstance(coder, SparseCoder) else CoderStack(made, starts)
    constant.place(coder.site, coder.model, coder.tokenizer)
    return constant.eval()


def _scores(sums: dict[str, np.ndarray], mean: np.ndarray) -> dict[str, float]:
    n, m = sums["n"].sum(), sums["m"].sum()
    scores = {k: sums[k].sum() / n for k in ("cosine", "l2_ratio", "l0")}
    scores |= {k: sums[k].sum() / m for k in ("ce", "ce_coder", "ce_zero", "ce_mean", "kl")}
    return {"fvu": _fvu(sums, mean), **scores, **_recovered(scores), "n": n}


def _recovered(ce: dict[str, float]) -> dict[str, float]:
    def share(floor: str) -> float:
        return (ce[floor] - ce["ce_coder"]) / (ce[floor] - ce["ce"])

    return {"ce_recovered": share("ce_zero"), "ce_recovered_mean": share("ce_mean")}


def _fvu(sums: dict[str, np.ndarray], mean: np.ndarray) -> float:
    """The variance about one fixed mean: `sum |y - mean|^2 = sum |y|^2 - 2 mean . sum y + n |mean|^2`."""
    variance = sums["ss"].sum() - 2 * sums["y_dot"].sum(0) @ mean + sums["n"].sum() * (mean @ mean)
    return sums["sse"].sum() / variance


def _spread(on: Int[np.ndarray, " d_sae"], n: int) -> dict[str, float]:
    density = on / n
    return {"dense": (density > 0.1).mean(), "dead": (on == 0).mean()}


def _intervals(sums: dict[str, np.ndarray], mean: np.ndarray, seed: int) -> dict[str, float]:
    """95 % percentile intervals; windows are what is drawn again, because tokens of one window are not independent."""
    rng, n = np.random.default_rng(seed), len(sums["n"])
    draws = []
    for _ in range(BOOTSTRAPS):
        weights = np.bincount(rng.integers(n, size=n), minlength=n)
        drawn = {k: (weights @ v) for k, v in sums.items()}
        fvu = drawn["sse"] / (drawn["ss"] - 2 * drawn["y_dot"] @ mean + drawn["n"] * (mean @ mean))
        draws.append((fvu, (drawn["ce_zero"] - drawn["ce_coder"]) / (drawn["ce_zero"] - drawn["ce"])))
    low, high = np.percentile(np.array(draws), [2.5, 97.5], axis=0)
    return {"fvu_low": low[0], "fvu_high": high[0], "ce_recovered_low": low[1], "ce_recovered_high": high[1]}
