"""Exercises and quiz of notebook 15. The references have no annotations, so that a solution runs where it is pasted."""

from collections.abc import Iterator
from typing import Any

import torch

from .exercise import Chapter, Exercise, Question, Setting, first_fault, not_a_function, tried

ROWS, D, D_SAE = 50, 6, 9  # of the tensors that answers are tried on


def _near(a: Any, b: Any, tolerance: float = 1e-4) -> bool:
    a, b = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * (1 + b.abs().max()))


# -- 15.1


def angular_distance(a, b):
    """Mean over rows of arccos(cosine) / pi, of activations a and b [rows, d], each without its mean over rows."""
    a, b = a - a.mean(0), b - b.mean(0)
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return (cosine.arccos() / torch.pi).mean()


def _layers() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [50, 6] of two layers: alike, far from the origin, and longer in the second."""
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(ROWS, D, generator=draw) + torch.tensor([4.0, 1, 0, 0, -2, 0])
    return a, 3 * (a + 0.7 * torch.randn(ROWS, D, generator=draw)) + 1


def _distances(a: torch.Tensor, b: torch.Tensor) -> Iterator[tuple[torch.Tensor, str]]:
    """What known slips come to, and what to say of each."""
    a_0, b_0 = a - a.mean(0), b - b.mean(0)
    cosine = torch.cosine_similarity(a_0, b_0, dim=1)
    yield (
        torch.cosine_similarity(a, b, dim=1).arccos().mean() / torch.pi,
        "The rows still have their mean. All tokens share it, so layers look closer than they are. Take it away first.",
    )
    yield (
        torch.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True), dim=1).arccos().mean()
        / torch.pi,
        "You took away the mean of each row over its coordinates. What tokens share is the mean over rows.",
    )
    yield cosine.arccos().mean(), "That is the angle in radians. Divide by pi, so that opposite rows are 1 apart."
    yield cosine.arccos().mean() * 180 / torch.pi, "That is the angle in degrees. Half a turn should count as 1."
    yield 1 - cosine.mean(), "That is one minus the cosine. It is small for small angles; take the angle itself."
    yield cosine.mean(), "That is the mean cosine, which is 1 where layers agree. A distance is 0 there."
    yield (
        cosine.mean().arccos() / torch.pi,
        "You average the cosines and take one angle of that. Take the angle of each row, then the mean.",
    )
    yield (
        torch.cosine_similarity(a_0, b_0, dim=0).arccos().mean() / torch.pi,
        "The angle is taken along columns. A token is a row, so sum over dim 1.",
    )
    yield (a_0 - b_0).norm(dim=1).mean(), "That is the length of the difference. Later layers are longer; use angles."


def _distance_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "angular_distance")
    a, b = _layers()
    got = torch.as_tensor(tried(answer, a.clone(), b.clone())).detach().double()
    right = angular_distance(a, b)
    if got.numel() != 1:
        yield f"The result has the shape {tuple(got.shape)}, but it is one number: take the mean over rows."
    if not _near(got.reshape(()), right):
        said = (said for slip, said in _distances(a, b) if _near(got.reshape(()), slip))
        yield next(said, f"You get {got.item():.3f} for two layers that are alike, which is another quantity.")


# -- 15.2


def norm_penalty(f, W_dec):
    """Mean over rows of sum_i f_i (|W_dec_i at site A| + |W_dec_i at site B|); f [rows, d_sae], W_dec [d_sae, 2 d]."""
    A, B = W_dec.chunk(2, dim=1)
    return (f * (A.norm(dim=1) + B.norm(dim=1))).sum(1).mean()


def _codes() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    f = torch.randn(ROWS, D_SAE, generator=draw).relu()
    return f, torch.randn(D_SAE, 2 * D, generator=draw) * torch.cat([torch.ones(D), torch.full((D,), 2.5)])


def _penalties(f: torch.Tensor, W: torch.Tensor) -> Iterator[tuple[torch.Tensor, str]]:
    A, B = (part.norm(dim=1) for part in W.chunk(2, dim=1))
    yield (
        (f * W.norm(dim=1)).sum(1).mean(),
        "You take one length over both sites together. Then a latent gains nothing from leaving one of them.",
    )
    yield (f * (A.square() + B.square())).sum(1).mean(), "You add squared lengths. The penalty adds the lengths."
    yield f.sum(1).mean(), "The decoder is not in it, so large rows with small codes would pay nothing."
    yield (f * (A + B)).sum(), "You sum over the rows, so the penalty would grow with the batch. Take their mean."
    yield (f * (A + B)).mean(), "You average over latents too. Sum over the latents, then take the mean over rows."
    yield (f * (A + B) / 2).sum(1).mean(), "You take the mean of the two lengths. The penalty is their sum."
    yield (f * A * B).sum(1).mean(), "You multiply the two lengths. A latent of one site would then pay nothing at all."
    yield (A + B).sum(), "The codes are not in it. A latent should pay for how strongly it is on."
    even, odd = W[:, 0::2].norm(dim=1), W[:, 1::2].norm(dim=1)
    yield (
        (f * (even + odd)).sum(1).mean(),
        "You split the columns in turn. The first half belongs to site A, the second to B.",
    )


def _penalty_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "norm_penalty")
    f, W = _codes()
    got = torch.as_tensor(tried(answer, f.clone(), W.clone())).detach().double()
    if got.numel() != 1:
        yield f"The result has the shape {tuple(got.shape)}, but a penalty is one number for the whole batch."
    if not _near(got.reshape(()), norm_penalty(f, W)):
        said = (said for slip, said in _penalties(f, W) if _near(got.reshape(()), slip))
        yield next(said, f"You get {got.item():.2f}, which is another quantity. What does each latent pay?")


# -- 15.3


def share_of_b(W_dec, length_a, length_b):
    """n_B / (n_A + n_B) for each latent [d_sae]; n: its decoder's norm at a site, over the mean length there."""
    A, B = W_dec.chunk(2, dim=1)
    n_a, n_b = A.norm(dim=1) / length_a, B.norm(dim=1) / length_b
    return n_b / (n_a + n_b)


def _shares(W: torch.Tensor, a: float, b: float) -> Iterator[tuple[torch.Tensor, str]]:
    A, B = (part.norm(dim=1) for part in W.chunk(2, dim=1))
    n_a, n_b = A / a, B / b
    yield B / (A + B), "The lengths of the activations are not in it, so the site with longer ones always wins."
    yield A * a / (A * a + B * b), "You have the share of site A, and multiply where you should divide by the length."
    yield B * b / (A * a + B * b), "You multiply by the lengths. Divide, so that both sites are on one scale."
    yield n_a / (n_a + n_b), "That is the share of site A. Here 1 should mean: only at B."
    yield n_b / n_a, "That is the ratio of the two. It has no upper end; use the share, between 0 and 1."
    yield n_b.square() / (n_a.square() + n_b.square()), "You compare squared norms, which exaggerates every difference."
    yield n_b - n_a, "That is the difference. A weak latent would always look shared; use the share."
    yield n_b / (n_a + n_b).sum(), "You divide by the sum over all latents. Each latent has its own n_A + n_B."


def _share_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "share_of_b")
    W = _codes()[1]
    got = torch.as_tensor(tried(answer, W.clone(), 2.0, 7.0)).detach().double()
    if got.shape == (2 * D,) or got.shape == (D,):
        yield "The norm is taken down the columns. A latent is a row of W_dec, so use dim=1."
    if got.shape != (D_SAE,):
        yield f"The result has the shape {tuple(got.shape)}, but there is one share for each of {D_SAE} latents."
    if not _near(got, share_of_b(W, 2.0, 7.0)):
        yield next(
            (said for slip, said in _shares(W, 2.0, 7.0) if _near(got, slip)),
            "These are other numbers. Try a latent whose two parts are alike: its share should be one half.",
        )


# -- quiz


def _said(*options: str) -> Any:
    return lambda: list(options)


QUESTIONS = (
    Question(
        "15.a",
        "A latent of a crosscoder trained with the sum-of-norms penalty writes to model B only. What follows?",
        _said(
            "Model A does not have this feature",
            "Model B has it more strongly than model A",
            "Perhaps that A lacks it, perhaps only that the penalty found it cheaper",
        ),
        2,
        "The penalty pays for every bit of norm at a second site, so it also cuts weak ones to zero. Look whether A's "
        "activations show the feature, or train without the penalty.",
    ),
    Question(
        "15.b",
        "One coder for a group of two layers reads as many rows in all as two coders of one layer each. What is saved?",
        _said(
            "Half of the rows that are read in training",
            "Half of the latents to store and to look at",
            "Nothing, but the error is always smaller",
        ),
        1,
        "The rows were made equal. What is halved is the number of dictionaries, and of latents to explain.",
    ),
    Question(
        "15.c",
        "A latent is shared by the trained model and by its shuffled twin. What can it stand for?",
        _said(
            "Something the trained model has learned from context",
            "Which token is there, which any model knows from its input",
            "Nothing, since the twin knows nothing",
        ),
        1,
        "A shuffled model still gives each token a vector of its own. That much is in the input, and it is the floor "
        "that a claim about learned features must clear.",
    ),
)

CHAPTER = Chapter(
    "15",
    (
        Exercise(
            "15.1",
            "How far apart two layers point",
            6,
            angular_distance,
            first_fault(_distance_faults, "Right: centred over the tokens, one angle for each, in half turns."),
            (
                "First take from each layer what all its tokens have in common.",
                "cosine = a . b / (|a| |b|) for each row; its arccos is the angle; pi is half a turn.",
                "a - a.mean(0); torch.cosine_similarity(..., dim=1); then arccos, pi, mean",
            ),
        ),
        Exercise(
            "15.2",
            "What a crosscoder pays",
            5,
            norm_penalty,
            first_fault(_penalty_faults, "Right: each latent pays, when it is on, for its norm at every site."),
            (
                "Each latent has two vectors in its row of W_dec, one for each site. It pays for both.",
                "For one row of f: sum over i of f_i times (norm at A plus norm at B).",
                "W_dec.chunk(2, dim=1), .norm(dim=1) of each half, times f, sum over latents, mean over rows",
            ),
        ),
        Exercise(
            "15.3",
            "Where a latent lives",
            5,
            share_of_b,
            first_fault(_share_faults, "Right: 0 is only at A, 1 only at B, one half is both alike."),
            (
                "A site with longer activations needs longer decoder rows. Correct for that first.",
                "n = |decoder at the site| / (mean length there); the share is B's part of the two.",
                "W_dec.chunk(2, dim=1); each half's .norm(dim=1) over its length; b / (a + b)",
            ),
        ),
    ),
    QUESTIONS,
)
