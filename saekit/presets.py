"""The zoo on one page: each function returns `(coder, objective)`, ready for `sk.train`; two of them return lists.

Coefficients assume the scale `sk.train` gives activations: mean norm sqrt(width), at each site. Defaults are for a
notebook (a few thousand latents, a million tokens); what to change at research size (16k latents and more, 100 million
tokens and more) is said where it matters, and otherwise nothing is. Anything else is an option by composition:
`objective + 1/8 * sk.multi_topk(4 * k)`, `+ sk.resample()`, `+ 3e-6 * sk.pre_act()`, `+ sk.ghost()`.
"""

from collections.abc import Sequence

from .coder import CoderStack, SparseCoder
from .losses import (
    Objective,
    align,
    anneal,
    aux_zipf,
    auxk,
    causal,
    fvu,
    gate_mse,
    kl,
    l0,
    l1,
    load_balance,
    lp,
    mse,
    pre_act,
    tanh,
    target_l0,
    tilted,
    warmup,
)
from .losses import downstream as downstream_fvu
from .losses import matryoshka as nested_fvu
from .nonlinearity import Gated, JumpReLU, ProLU, ReLU, Routed, TopK

Preset = tuple[SparseCoder, Objective]
Presets = tuple[list[SparseCoder], list[Objective]]
Stack = tuple[CoderStack, Objective]


# --- a penalty buys sparsity ---------------------------------------------------------------------------------------


def relu(d_in: int, d_sae: int, sparsity: float = 5.0) -> Preset:
    """`f = max(a, 0)`, norm-weighted L1 penalty (Bricken et al. 2023; Anthropic, April 2024). Source: one site.

    5 is Anthropic's weight for large runs. 512 latents of the shipped model at layer 2 end with an L0 of 29 at 1.2 and
    of 14 at 2.3, the recipe of its sweep.
    """
    return SparseCoder(d_in, d_sae, ReLU()), mse() + warmup(sparsity, over=0.05) * l1()


def gated(d_in: int, d_sae: int, sparsity: float = 5.0) -> Preset:
    """`f = 1[a > 0] max(a exp(r) + b, 0)`: a gate pays the penalty, a magnitude does not shrink (arXiv 2404.16014).

    The gate reconstructs too, through a decoder that this term cannot move. Source: one site. In the shipped sweep a
    weight of 2 leads to an L0 of 26, 3.8 to 12.
    """
    return SparseCoder(d_in, d_sae, Gated(d_sae), unit_norm=True), (
        mse() + warmup(sparsity, over=0.05) * l1() + gate_mse()
    )


def prolu(d_in: int, d_sae: int, sparsity: float = 0.3) -> Preset:
    """`f = a 1[a + b > 0, a > 0]`: the bias gates and never shifts (Taggart 2024). Source: one site.

    With the gradient called ProLU_ReLU; `ProLU(d_sae, straight=True)` is ProLU_STE, which needs longer runs: after 250k
    tokens of the shipped model its L0 was still above 200. The L0 falls off steeply with the weight: in the shipped
    sweep 0.27 leads to 17 and 0.31 to 7, while 0.2 was still at 190 after a million tokens.
    """
    return SparseCoder(d_in, d_sae, ProLU(d_sae, straight=False)), mse() + warmup(sparsity, over=0.05) * l1()


def p_anneal(d_in: int, d_sae: int, sparsity: float = 0.5, p_end: float = 0.2) -> Preset:
    """`f = max(a, 0)` under `sum (f n)^p`, p falling from 1 to p_end (Karvonen et al. 2024, arXiv 2408.00113).

    Source: one site. The penalty keeps the size of an L1 penalty while its shape nears L0; it asks for more sparsity
    than L1 of the same weight. In the shipped sweep 0.53 leads to an L0 of 27, 0.86 to 13.
    """
    if not 0 < p_end <= 1:
        raise ValueError(f"p_end={p_end}: give an exponent above 0 and up to 1")
    return SparseCoder(d_in, d_sae, ReLU()), mse() + warmup(sparsity, over=0.05) * lp(anneal(1.0, p_end))


def jumprelu(
    d_in: int, d_sae: int, l0: float = 32, *, step: float | None = None, saturating: float | None = None
) -> Preset:
    """`f = a 1[a > theta]`, theta learned per latent (Rajamanoharan et al. 2024, arXiv 2407.14435). Source: one site.

    Driven to the mean L0 `l0`. Or with `step`, the weight of a plain L0 penalty, 1e-3 to 1e-2: read the L0 it leads to.
    Or with `saturating`, about 5 to 20, the weight of Anthropic's tanh penalty (January 2025): a kernel of width 2 that
    reaches all parameters, a penalty that grows over the whole run, and a loss on low pre-activations. Its support is
    half of all entries, so it trains densely.
    """
    if saturating is not None:
        wide = JumpReLU(d_sae, bandwidth=2.0, theta0=0.1, through_input=True)
        return SparseCoder(d_in, d_sae, wide), mse() + warmup(saturating, over=1.0) * tanh() + 3e-6 * pre_act()
    return SparseCoder(d_in, d_sae, JumpReLU(d_sae)), fvu() + _l0_penalty(l0, step) + 1 / 32 * auxk()


def _l0_penalty(target: float, step: float | None) -> Objective:
    return warmup(0.5, over=0.2) * target_l0(target) if step is None else warmup(step, over=1.0) * l0()


# --- a budget is given ---------------------------------------------------------------------------------------------


def topk(d_in: int, d_sae: int, k: int = 32) -> Preset:
    """The k largest latents of each token (Gao et al. 2024, arXiv 2406.04093). Source: one site."""
    return SparseCoder(d_in, d_sae, TopK(k), unit_norm=True), fvu() + 1 / 32 * auxk()


def batch_topk(d_in: int, d_sae: int, k: float = 32) -> Preset:
    """k latents a token on average over the batch (Bussmann et al. 2024, arXiv 2412.06410). Source: one site."""
    return SparseCoder(d_in, d_sae, TopK(k, along="batch"), unit_norm=True), fvu() + 1 / 32 * auxk()


def mutual_choice(d_in: int, d_sae: int, k: float = 32) -> Preset:
    """The k * rows best matches of tokens and latents, freely allocated (Ayonrinde 2024, arXiv 2411.02124).

    The selection is that of BatchTopK; what is new is the term for latents used too rarely. Source: one site.
    """
    return SparseCoder(d_in, d_sae, TopK(k, along="batch"), unit_norm=True), fvu() + 1 / 32 * aux_zipf(k)


def feature_choice(d_in: int, d_sae: int, k: float = 32, zipf: float = 1.0) -> Preset:
    """Each latent its own best tokens, m_i of them, `sum m_i = k * rows` (Ayonrinde 2024, arXiv 2411.02124).

    m_i falls with the rank of the latent as `(rank + 8)^-zipf`. Source: one site; batches with k * rows well above
    d_sae, so at research size `sk.train(..., batch_size=)` grows with d_sae.
    """
    coder = SparseCoder(d_in, d_sae, TopK(k, along="feature", d_sae=d_sae, zipf=zipf), unit_norm=True)
    return coder, fvu() + 1 / 32 * aux_zipf(k, exponent=zipf)


def switch(d_in: int, d_sae: int, k: int = 32, experts: int = 8) -> Preset:
    """`f = p_e TopK(a)` on the latents of one expert of several (Mudide et al. 2024, arXiv 2410.08201).

    Only the routed expert is computed, so the encoder costs 1 / experts. Source: one site. Research size: 16 to 64
    experts.
    """
    return SparseCoder(d_in, d_sae, Routed(d_in, d_sae, experts, TopK(k)), unit_norm=True), (
        fvu() + 0.01 * load_balance()
    )


def matryoshka(d_in: int, d_sae: int, k: float = 32, widths: Sequence[int] | None = None) -> Preset:
    """Nested dictionaries: the first w latents reconstruct on their own, for each w (arXiv 2503.17547).

    `widths`: d_sae / 16, / 8, / 4, / 2 and d_sae unless given; they ascend and end at d_sae. Source: one site.
    """
    widths = tuple(widths or sorted({max(1, d_sae // share) for share in (16, 8, 4, 2, 1)}))
    if widths[-1] != d_sae:
        raise ValueError(f"widths={widths} end at {widths[-1]}, but d_sae={d_sae}: the last level holds all latents")
    coder = SparseCoder(d_in, d_sae, TopK(k, along="batch"), unit_norm=True)
    coder.widths = widths
    return coder, nested_fvu(widths) + 1 / 32 * auxk()


# --- another source or another aim ---------------------------------------------------------------------------------


def feature_aligned(d_in: int, d_sae: int, k: int = 32, n: int = 2, weight: float = 0.1) -> Presets:
    """n TopK coders that are drawn to find the same latents (Marks et al. 2024, arXiv 2411.01220).

    Lists of n, to be trained together on one stream: `sk.train(coders, acts, objectives)`. Source: one site.
    """
    if n < 2:
        raise ValueError(f"n={n}: latents are aligned between coders, so train at least 2")
    coders = [SparseCoder(d_in, d_sae, TopK(k), unit_norm=True) for _ in range(n)]
    return coders, [fvu() + 1 / 32 * auxk() + warmup(weight, over=0.1) * align() for _ in coders]


def end_to_end(d_in: int, d_sae: int, k: float = 32, *, downstream: float = 0.0, local: float = 0.0) -> Preset:
    """`KL(p || p_hat)` of the model's predictions on the reconstruction, not its error (arXiv 2405.12241).

    `downstream`: the weight of the FVU at later layers (1 is of the KL's size); `local`: that of the FVU here.
    Source: whole sequences, `sk.Activations(..., sequences=True)`; a step costs about two passes of the model.
    """
    objective = kl()
    objective = objective + downstream * downstream_fvu() if downstream else objective
    objective = objective + local * fvu() if local else objective
    return SparseCoder(d_in, d_sae, TopK(k, along="batch"), unit_norm=True), objective


def layer_group(d_in: int, d_sae: int, k: float = 32, n_groups: int = 2) -> Presets:
    """One coder for each group of similar layers (Ghilardi et al. 2024, arXiv 2410.21508).

    Lists of n_groups. Source of each: the pooled sites of one of `sk.layer_groups(model, corpus, n_groups)`:
    `sk.train(coder, sk.Activations(model, group, corpus), objective)`.
    """
    if n_groups < 1:
        raise ValueError(f"n_groups={n_groups}: give at least 1")
    pairs = [batch_topk(d_in, d_sae, k) for _ in range(n_groups)]
    return [coder for coder, _ in pairs], [objective for _, objective in pairs]


def specialized(d_in: int, d_sae: int, k: float = 32, tilt: float = 2.0) -> Preset:
    """A coder of a sub-domain, whose loss leans to the tokens it fits worst (Muhamed et al. 2024, arXiv 2411.00743).

    Source: one site, over the part of a corpus that is about the domain, `sk.retrieve(model, corpus, seeds)`. tilt 0
    is the mean, 10 and more little but the worst tokens of a batch.
    """
    return SparseCoder(d_in, d_sae, TopK(k, along="batch"), unit_norm=True), tilted(tilt) + 1 / 32 * auxk()


def formal(d_in: int, d_sae: int, k: int = 16, weight: float = 0.1) -> Preset:
    """TopK with a causal term: what latents do to the model's logits adds up (Menon et al. 2024, arXiv 2410.11767).

    Source: whole sequences of a formal language, `sk.Activations(..., sequences=True)`; `batch_size` at least two
    windows.
    """
    return SparseCoder(d_in, d_sae, TopK(k), unit_norm=True), fvu() + 1 / 32 * auxk() + weight * causal()


def meta_sae(d_in: int, d_sae: int, k: float = 4) -> Preset:
    """A coder of another coder's decoder rows: latents made of latents (Leask et al. 2025, arXiv 2502.04878).

    Source: `sk.Rows.of_decoder(coder)`; d_in is that coder's d_out. d_sae about a quarter of its latents, at research
    size a twentieth.
    """
    return SparseCoder(d_in, d_sae, TopK(k, along="batch"), unit_norm=True), fvu() + 1 / 32 * auxk()


# --- from one place to another, and several at once ----------------------------------------------------------------


def transcoder(d_in: int, d_sae: int, k: int = 32, d_out: int | None = None) -> Preset:
    """`y_hat = f(x) W_dec + b_dec`: an MLP's output from its input (Dunefsky et al. 2024, arXiv 2406.11944).

    Source: a site that reads the input and writes the output, `Site("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")`.
    """
    return SparseCoder(d_in, d_sae, TopK(k), d_out=d_out, unit_norm=True), fvu() + 1 / 32 * auxk()


def skip_transcoder(d_in: int, d_sae: int, k: int = 32, d_out: int | None = None) -> Preset:
    """A transcoder with `+ x W_skip`, for the linear part of the MLP (Paulo et al. 2025, arXiv 2501.18823).

    Source: as `transcoder`.
    """
    return SparseCoder(d_in, d_sae, TopK(k), d_out=d_out, skip=True, unit_norm=True), fvu() + 1 / 32 * auxk()


def crosscoder(d_in: int, d_sae: int, n_sites: int = 2, sparsity: float = 2.0, k: float | None = None) -> Preset:
    """One code for several sites of width d_in: `f = max(sum_l x^l W_enc^l + b, 0)` (Lindsey et al. 2024).

    `mse + sparsity sum_i f_i sum_l |W_dec,i^l|`: the sum of norms lets a latent live at some sites only. With k given,
    BatchTopK instead, which has no pull towards a single site. Source: the sites side by side, `Site(("blocks.0...",
    "blocks.1..."))`; or one site of two models, `sk.SideBySide([a, b], site, corpus)`. `evals.relative_norms` says
    where latents live, `sk.side(coder, i)` is one site's part. Raises ValueError for one site.
    """
    if n_sites < 2:
        raise ValueError(f"n_sites={n_sites}: a crosscoder joins at least 2 sites; for one, use relu or batch_topk")
    if k is not None:
        chosen = TopK(k, along="batch")
        return SparseCoder(d_in * n_sites, d_sae, chosen, n_sites=n_sites, unit_norm=True), fvu() + 1 / 32 * auxk()
    coder = SparseCoder(d_in * n_sites, d_sae, ReLU(), n_sites=n_sites)
    return coder, mse() + warmup(sparsity * n_sites**0.5, over=0.05) * l1()


def per_layer_transcoders(d_in: int, d_sae: int, n_layers: int, k: int = 32, *, skip: bool = False) -> Stack:
    """A transcoder of d_sae latents for each layer's MLP, trained side by side (arXiv 2501.18823).

    Source: a site that reads all inputs and writes all outputs, `Site(("blocks.0.mlp.hook_in", ...),
    ("blocks.0.hook_mlp_out", ...))`.
    """
    if n_layers < 1:
        raise ValueError(f"n_layers={n_layers}: give at least 1")
    banks = [SparseCoder(d_in, d_sae, TopK(k), skip=skip, unit_norm=True) for _ in range(n_layers)]
    return CoderStack(banks, [d_in * layer for layer in range(n_layers)]), fvu() + 1 / 32 * auxk()


def cross_layer_transcoder(
    d_in: int, d_sae: int, n_layers: int, l0: float = 32, *, step: float | None = None, saturating: float | None = None
) -> Stack:
    """Latents that read one layer and write it and all later ones: `y^l = sum_(m <= l) f^m W_dec^(m to l)`.

    d_sae latents and a mean L0 of `l0` for each layer; `step`, `saturating` as in `jumprelu` (Ameisen et al. 2025).
    Source: as `per_layer_transcoders`. There are d_sae d_in n_layers (n_layers + 1) / 2 decoder weights.
    """
    if n_layers < 2:
        raise ValueError(f"n_layers={n_layers}: a cross-layer transcoder spans at least 2; for one, use transcoder")
    wide = {"bandwidth": 2.0, "theta0": 0.1, "through_input": True} if saturating is not None else {}
    banks = [
        SparseCoder(d_in, d_sae, JumpReLU(d_sae, **wide), d_out=d_in * (n_layers - layer)) for layer in range(n_layers)
    ]
    stack = CoderStack(banks, [d_in * layer for layer in range(n_layers)])
    if saturating is not None:
        return stack, mse() + warmup(saturating, over=1.0) * tanh() + 3e-6 * pre_act()
    return stack, fvu() + _l0_penalty(l0 * n_layers, step) + 1 / 32 * auxk()
