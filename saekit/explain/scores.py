"""How well an explanation fits its latent: five scores, for any judge, on documents it was not made from."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from scipy import stats

from ..features import Latent
from .explanation import Explanation
from .judges import Judge, JudgeError, name_of
from .passages import OFF, QUARTERS
from .questions import (
    Question,
    detection_questions,
    fuzzing_questions,
    intruder_questions,
    mixed,
    sides,
    simulation_questions,
)

Z = 1.959964  # a 95 % interval
DRAWS = 400  # of a bootstrap


def detection(
    explanation: Any, latent: Latent, judge: Judge, *, n: int = 50, per_question: int = 5, seed: int = 0
) -> dict:
    """How well the explanation tells passages that the latent fires in from others; `detection_questions` asks.

    score: balanced accuracy, (share of firing passages found + share of silent ones left alone) / 2, 0.5 by chance;
    f1 of the firing ones; `quarters`: the share found in each quarter of the latent's firings, by rank.
    With every score: low, high, its 95 % interval; n, the judgements it is made of; asked; failures, those that could
    not be read, which are left out; records, a dict for each passage.

    Warns of failures. Raises JudgeError when half of the answers or more cannot be read or the judge does not answer;
    ValueError for an empty explanation and a latent with too few passages. (Paulo et al. 2024, 2410.13928.)
    """
    questions = detection_questions(explanation, latent, n=n, per_question=per_question, seed=seed)
    return graded(questions, answered(questions, judge))


def fuzzing(
    explanation: Any, latent: Latent, judge: Judge, *, n: int = 50, per_question: int = 5, seed: int = 0
) -> dict:
    """How well the explanation tells the tokens that the latent is on at from others of the same passages.

    Score, keys and errors as those of `detection`; `fuzzing_questions` asks. (Paulo et al. 2024.)
    """
    questions = fuzzing_questions(explanation, latent, n=n, per_question=per_question, seed=seed)
    return graded(questions, answered(questions, judge))


def simulation(explanation: Any, latent: Latent, judge: Judge, *, n: int = 20, seed: int = 0) -> dict:
    """How well activations guessed from the explanation correlate with the latent's, over the tokens of n passages.

    score: Pearson's r, NaN where all guesses are alike; its interval from resampled passages; `quarters`: the same
    over the passages of each quarter and those without firings. Keys and errors else as those of `detection`.
    (Bills et al. 2023, Language models can explain neurons in language models.)
    """
    questions = simulation_questions(explanation, latent, n=n, seed=seed)
    return correlated(questions, answered(questions, judge))


def intruder(explanation: Any, latent: Latent, judge: Judge, *, n: int = 20, seed: int = 0) -> dict:
    """How well a reader finds the passage that the latent does not fire in among four that it does.

    It needs no explanation: only the rules judge looks at it, give None for others. accuracy is 0.2 by chance; score:
    its balanced form `0.375 + 0.625 accuracy`, the mean of the shares of intruders and of others named rightly, 0.5
    by chance. quarters: the accuracy for each. Keys and errors else as those of `detection`.
    (Paulo and Belrose 2025, 2507.08473.)
    """
    questions = intruder_questions(explanation, latent, n=n, seed=seed)
    return picked(questions, answered(questions, judge))


def embedding(explanation: Any, latent: Latent, judge: Any = None, *, n: int = 50, seed: int = 0) -> dict:
    """How well the similarity of explanation and passage tells those that the latent fires in: no question is asked.

    judge: texts -> array [n, d], or has such a method `embed`; TF-IDF of the train documents unless given, and
    `saekit.explain.embedders` has the model's own embeddings. score: AUC of the cosines, ties count half; its interval
    from resampled passages; `quarters`: the AUC of each against the silent ones. ValueErrors as those of `detection`.
    (Paulo et al. 2024.)
    """
    from .embedders import tfidf

    explanation = Explanation.of(explanation)
    passages, truth = mixed(*sides(latent, n, seed), seed)
    texts = [Question(explanation.text, truth=(1.0,))]
    texts += [Question(p.text, truth=(float(t),)) for p, t in zip(passages, truth, strict=True)]
    judge = tfidf(latent.features) if judge is None else judge
    cosines = _cosines(np.asarray(getattr(judge, "embed", judge)(texts), float))
    fires, parts = np.array(truth, bool), np.array([p.part for p in passages])
    quarters = {q: _auc(cosines[keep], fires[keep]) for q in QUARTERS if (keep := (parts == q) | ~fires)[fires].any()}
    low, high = _resampled(_auc, [cosines[fires], cosines[~fires]], seed)
    records = [_record(p, bool(t), float(c)) for p, t, c in zip(passages, truth, cosines, strict=True)]
    return {"score": _auc(cosines, fires), "low": low, "high": high, "n": len(passages), "asked": len(passages),
            "failures": 0, "quarters": quarters, "records": records}  # fmt: skip


# -- from questions to answers


def answered(questions: Sequence[Question], judge: Judge) -> list[str]:
    """The judge's answers. Raises JudgeError, with its name, when it cannot be reached or takes too long."""
    answers: list[str] = []
    for question in questions:
        try:
            answers.append(judge(question))
        except (JudgeError, OSError) as error:
            where = f"{len(answers)} of {len(questions)} questions were answered"
            raise JudgeError(f"{name_of(judge)}: {str(error) or type(error).__name__} ({where})") from error
    return _readable(questions, answers, name_of(judge))


def _readable(questions: Sequence[Question], answers: list[str], name: str) -> list[str]:
    """The answers. Warns of those that cannot be read; raises JudgeError when they are half of all, or more."""
    bad = [a for q, a in zip(questions, answers, strict=True) if q.read(str(a)) is None]
    if bad:
        words = f"judge {name} gave {len(bad)} of {len(answers)} answers that cannot be read, such as {bad[0]!r:.80}"
        if 2 * len(bad) >= len(answers):
            raise JudgeError(f"{words}; it was asked for {questions[0].slots} numbers in a list")
        warnings.warn(f"{words}; they are left out and counted in 'failures'", stacklevel=4)
    return [str(answer) for answer in answers]


# -- from answers to scores


def graded(questions: Sequence[Question], answers: Sequence[str]) -> dict:
    """The score of answers to detection or fuzzing questions; see `detection`."""
    said, records = [], []
    for question, answer in zip(questions, answers, strict=False):
        for p, t, guess in zip(question.passages, question.truth, question.read(answer) or (), strict=False):
            said.append((bool(t), bool(guess), p.part))
            records.append(_record(p, bool(t), guess))
    truth, guess = (np.array([row[i] for row in said], bool) for i in (0, 1))
    hit, calm = guess[truth], ~guess[~truth]
    score, low, high = _balanced(hit, calm)
    f1 = 2 * hit.sum() / max(hit.sum() + guess.sum() + (~guess & truth).sum(), 1)
    parts = np.array([row[2] for row in said], object)[truth]
    quarters = {q: float(hit[parts == q].mean()) for q in QUARTERS if (parts == q).any()}
    return {"score": score, "low": low, "high": high, "f1": float(f1), **_counted(questions, answers, len(said)),
            "quarters": quarters, "records": records}  # fmt: skip


def correlated(questions: Sequence[Question], answers: Sequence[str]) -> dict:
    """The score of answers to simulation questions; see `simulation`."""
    read = [(q, np.array(levels)) for q, a in zip(questions, answers, strict=False) if (levels := q.read(a))]
    moments = np.array([_moments(levels, np.array(q.truth)) for q, levels in read]).reshape(-1, 6)
    parts = np.array([q.passages[0].part for q, _ in read], object)
    quarters = {q: _pearson(moments[(parts == q) | (parts == OFF)]) for q in QUARTERS if (parts == q).any()}
    low, high = _resampled(lambda chosen, _: _pearson(moments[chosen]), [np.arange(len(read))], 0)
    records = [_record(q.passages[0], list(q.truth), levels.tolist()) for q, levels in read]
    counted = _counted(questions, answers, sum(q.slots for q, _ in read))
    return {"score": _pearson(moments), "low": low, "high": high, **counted, "quarters": quarters, "records": records}


def picked(questions: Sequence[Question], answers: Sequence[str]) -> dict:
    """The score of answers to intruder questions; see `intruder`."""
    read = [(q, said[0]) for q, a in zip(questions, answers, strict=False) if (said := q.read(a))]
    right = np.array([said == q.truth[0] for q, said in read], bool)
    parts = np.array([next(p.part for p in q.passages if p.part in QUARTERS) for q, _ in read], object)
    quarters = {q: float(right[parts == q].mean()) for q in QUARTERS if (parts == q).any()}
    accuracy, low, high = (0.375 + 0.625 * x for x in _wilson(right))
    records = [_record(q.passages[int(q.truth[0]) - 1], q.truth[0], said) for q, said in read]
    return {"score": accuracy, "low": low, "high": high, "accuracy": _mean(right),
            **_counted(questions, answers, len(read)), "quarters": quarters, "records": records}  # fmt: skip


def _counted(questions: Sequence[Question], answers: Sequence[str], n: int) -> dict[str, int]:
    """n, how many questions were asked, and to how many of them the answer could not be read."""
    failures = sum(q.read(a) is None for q, a in zip(questions, answers, strict=False))
    return {"n": n, "asked": len(answers), "failures": failures}


def _record(passage: Any, truth: Any, prediction: Any) -> dict:
    return {"tokens": passage.tokens, "values": passage.values, "highlighted": passage.marked, "part": passage.part,
            "truth": truth, "prediction": prediction, "correct": truth == prediction}  # fmt: skip


# -- numbers


def _mean(x: np.ndarray) -> float:
    return float(x.mean()) if len(x) else float("nan")


def _wilson(right: np.ndarray) -> tuple[float, float, float]:
    """A share with its Wilson interval; NaN of nothing."""
    n, p = len(right), _mean(right)
    if not n:
        return p, p, p
    middle, half = (
        (p + Z**2 / (2 * n)) / (1 + Z**2 / n),
        Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n),
    )
    return p, max(float(middle - half), 0.0), min(float(middle + half), 1.0)


def _balanced(hit: np.ndarray, calm: np.ndarray) -> tuple[float, float, float]:
    """The mean of two shares, with the interval that their Wilson intervals make (Newcombe 1998)."""
    (a, a_low, a_high), (b, b_low, b_high) = _wilson(hit), _wilson(calm)
    middle = (a + b) / 2
    return middle, middle - np.hypot(a - a_low, b - b_low) / 2, middle + np.hypot(a_high - a, b_high - b) / 2


def _auc(score: np.ndarray, truth: np.ndarray) -> float:
    """The chance that one of the true scores more than one of the others; ties count half."""
    positives = truth.sum()
    if not 0 < positives < len(truth):
        return float("nan")
    ranks = stats.rankdata(score)[truth].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


def _moments(guess: Float[np.ndarray, " tokens"], truth: Float[np.ndarray, " tokens"]) -> Float64[np.ndarray, " 6"]:
    """What the correlation over some tokens is made of: sums, so that passages add up."""
    return np.array([len(guess), guess.sum(), truth.sum(), guess @ guess, truth @ truth, guess @ truth])


def _pearson(moments: Float64[np.ndarray, "passages 6"]) -> float:
    """Over the tokens of all passages; NaN where one side is constant."""
    n, x, y, xx, yy, xy = moments.sum(0)
    spread = np.array([xx - x * x / max(n, 1), yy - y * y / max(n, 1)])
    if n == 0 or (spread <= 1e-12 * np.array([xx, yy])).any():
        return float("nan")
    return float((xy - x * y / n) / np.sqrt(spread.prod()))


def _cosines(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " rest"]:
    """Of the first with each of the others; 0 with a vector of zeros."""
    norms = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    return np.round(vectors[1:] @ vectors[0] / (norms[1:] * norms[0]), 12)


def _resampled(statistic: Any, groups: Sequence[np.ndarray], seed: int) -> tuple[float, float]:
    """The 95 % interval of `statistic(values, of the first group)` under resampling within each group; NaN of NaN."""
    rng, found = np.random.default_rng(seed), []
    first = np.repeat([True, False][: len(groups)], [len(group) for group in groups])
    for _ in range(DRAWS):
        found.append(statistic(np.concatenate([rng.choice(g, len(g)) for g in groups]), first))
    found = np.array(found)[~np.isnan(found)]
    return tuple(np.quantile(found, [0.025, 0.975]).tolist()) if len(found) > DRAWS / 2 else (float("nan"),) * 2


def shuffled(explanations: dict[int, Any], seed: int = 0) -> dict[int, Any]:
    """The control of every score: each latent gets another one's explanation. Raises ValueError for fewer than two."""
    if len(explanations) < 2:
        raise ValueError(f"{len(explanations)} explanations cannot be shuffled: give at least 2")
    latents = np.random.default_rng(seed).permutation(list(explanations)).tolist()
    return {latent: explanations[other] for latent, other in zip(latents, [*latents[1:], latents[0]], strict=True)}
