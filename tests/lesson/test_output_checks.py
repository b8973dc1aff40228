"""Notebook 06: references against the package's own functions, a message for each wrong answer, what it shows."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import saekit as sk
from saekit import explain
from saekit.explain.lens import lens
from saekit.explain.output import mean_log_probs, prompts
from saekit.lesson import nb06
from saekit.lesson.exercise import Setting, judge
from tests.lesson import answers

EXERCISES = {exercise.id: exercise for exercise in nb06.CHAPTER.exercises}
NOWHERE = Setting(None, None)


@pytest.fixture(scope="module")
def setting() -> Setting:
    """What the notebook has: what a wrong answer does depends on them."""
    return Setting(sk.load_model(), sk.load("tiny-python/resid.2/batch_topk"))


@pytest.fixture(scope="module")
def corpus(setting):
    return sk.load_corpus(setting.model, split="held_out", files=2)


# -- right answers


@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_passes_and_its_printed_source_too(name, setting):
    names = {"torch": torch, "splice": sk.splice, "add": sk.add, "ablate": sk.ablate}
    names |= {"gap": nb06.gap, "on_at_end": nb06.on_at_end}
    answers.reference_passes(EXERCISES[name], setting, names)


def test_top_and_bottom_are_those_of_the_package(setting):
    norm, W_U = nb06.final(setting.model)
    for latent in (5, 900):
        up, down = nb06.top_and_bottom(setting.coder, norm, W_U, latent, 7)
        table = explain.vocab_proj(*setting, latent, n=7)
        assert up.tolist() == table.id[:7].tolist() and down.tolist() == table.id[:6:-1].tolist()


def test_token_change_is_the_packages(setting, corpus):
    texts = prompts(corpus, windows=3, length=12)
    change = nb06.token_change(*setting, texts, 17, 30.0)
    before, added = mean_log_probs(setting.model, texts), 30.0 * setting.coder.W_dec[[17]]
    np.testing.assert_allclose(
        change, mean_log_probs(setting.model, texts, setting.coder, added)[0] - before, atol=1e-4
    )


def test_other_right_answers_pass(setting):
    def by_hand(coder, norm, W_U, latent, n):
        row = coder.W_dec[latent]
        logits = ((norm(row) - norm(0 * row)) @ W_U).tolist()
        order = sorted(range(len(logits)), key=lambda i: -logits[i])
        return order[:n], order[-n:][::-1]

    def with_a_hook(model, coder, tokens, latent, strength):
        push = strength * coder.W_dec[latent] * (torch.arange(tokens.shape[1]) > 0)[:, None]
        before = model(tokens).log_softmax(-1)
        with model.hooks([(coder.site.read, lambda x, hook: x + push)]):
            return (model(tokens).log_softmax(-1) - before).flatten(0, 1).mean(0)

    def second_best(model, coder, tokens, right, wrong):
        """A latent of more than half the effect is enough."""
        table = nb06.support(model, coder, tokens, right, wrong)
        return int(table.index[table["drop"] >= 0.5 * table["drop"].max()][-1])

    for name, answer in (("6.1", by_hand), ("6.2", with_a_hook), ("6.3", second_best)):
        assert judge(EXERCISES[name], answer, setting).passed, name


# -- nothing written yet, and anything at all


@pytest.mark.parametrize("name", EXERCISES)
def test_a_stub_is_not_yet(name, setting):
    answers.stubs_are_not_yet(EXERCISES[name], setting)


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("thing", [-1, 0.5, "text", (1, 2), [], {}, torch.zeros(2), torch.zeros(3, 3)])
def test_nothing_breaks_a_check(name, thing, setting):
    answers.is_refused(EXERCISES[name], setting, thing)


@pytest.mark.parametrize("name", EXERCISES)
def test_a_check_leaves_no_trace(name, setting):
    tokens = setting.model.to_tokens("x = f(a)")
    before = setting.model(tokens)
    answers.leaves_no_trace(EXERCISES[name], setting)
    assert torch.equal(setting.model(tokens), before)


# -- wrong answers


def read_as(make=lambda coder, norm, latent: norm(coder.W_dec[latent]) - norm(0 * coder.W_dec[latent]), take=None):
    """A way to get 6.1 wrong: another vector before W_U, or another choice from the logits."""

    def answer(coder, norm, W_U, latent, n):
        logits = make(coder, norm, latent) @ W_U
        order = logits.argsort(descending=True)
        return (order[:n], order.flip(0)[:n]) if take is None else take(logits, order, n)

    return answer


def lensed(vector):
    return read_as(lambda coder, norm, latent: norm(vector(coder, latent)) - norm(0 * vector(coder, latent)))


def measured(edit=sk.add, keep=(True, True), of=lambda logits: logits.log_softmax(-1), then=None, sign=1):
    """A way to get 6.2 wrong. keep: the error, without and with the latent; of: what is compared; then: the average."""

    def answer(model, coder, tokens, latent, strength):
        def run(change, error):
            with sk.splice(model, coder, edit=change, keep_error=error):
                return of(model(tokens))

        change = run(edit(latent, sign * strength), keep[1]) - run(None, keep[0])
        return change.mean((0, 1)) if then is None else then(change)

    return answer


def by_table(pick):
    """A way to get 6.3 wrong: a latent chosen from what `support` measures, or from logits alone."""

    def answer(model, coder, tokens, right, wrong):
        table = nb06.support(model, coder, tokens, right, wrong)
        falls = nb06.without_each(model, coder, tokens, list(table.index))
        return int(pick(table.assign(right=falls[:, right].numpy(), wrong=falls[:, wrong].numpy())))

    return answer


def off(model, coder, tokens, right, wrong):
    rows = lens(model, coder.W_dec)
    return int((rows[:, right] - rows[:, wrong]).argmax())


def mean_first(model, coder, tokens, latent, strength):
    with sk.splice(model, coder, edit=sk.add(latent, strength)):
        after = model(tokens).softmax(-1).mean((0, 1))
    return (after / model(tokens).softmax(-1).mean((0, 1))).log()


WRONG = {
    "6.1": {
        "places changed": read_as(take=lambda logits, order, n: (order.flip(0)[:n], order[:n])),
        "lowered turned": read_as(take=lambda logits, order, n: (order[:n], order[-n:])),
        "raised turned": read_as(take=lambda logits, order, n: (order[:n].flip(0), order.flip(0)[:n])),
        "both turned": read_as(take=lambda logits, order, n: (order[:n].flip(0), order[-n:])),
        "a column": lensed(lambda coder, latent: coder.W_dec[:, latent]),
        "encoder": lensed(lambda coder, latent: coder.W_enc[:, latent]),
        "encoder's row": lensed(lambda coder, latent: coder.W_enc[latent]),
        "no norm": read_as(lambda coder, norm, latent: coder.W_dec[latent]),
        "with the bias": read_as(lambda coder, norm, latent: norm(coder.W_dec[latent])),
        "by size, raised": read_as(take=lambda logits, order, n: (logits.abs().topk(n).indices, order.flip(0)[:n])),
        "by size": read_as(take=lambda logits, order, n: nb06.ends(logits.abs(), n)),
        "logits": read_as(take=lambda logits, order, n: (logits[order][:n], logits[order].flip(0)[:n])),
        "all": read_as(take=lambda logits, order, n: logits),
        "one list": read_as(take=lambda logits, order, n: order[:n]),
        "too many": read_as(take=lambda logits, order, n: (order, order.flip(0))),
        "half right": read_as(take=lambda logits, order, n: (order[:n], order[n : 2 * n])),
        "another latent": lensed(lambda coder, latent: coder.W_dec[latent + 1]),
        "fails": read_as(lambda coder, norm, latent: coder.W_dec[:3]),
        "a number": 3,
    },
    "6.2": {
        "sign": lambda *given: -nb06.token_change(*given),
        "last place": measured(then=lambda change: change[:, -1].mean(0)),
        "first text": measured(then=lambda change: change[0].mean(0)),
        "error dropped": measured(keep=(True, False)),
        "error dropped twice": measured(keep=(False, False)),
        "clamped": measured(edit=sk.clamp),
        "taken away": measured(sign=-1),
        "logits": measured(of=lambda logits: logits),
        "probabilities": measured(of=lambda logits: logits.softmax(-1)),
        "summed": measured(then=lambda change: change.sum((0, 1))),
        "mean first": mean_first,
        "another strength": measured(sign=2),
        "every place": measured(then=lambda change: change),
        "fixed strength": lambda model, coder, tokens, latent, strength: nb06.token_change(
            model, coder, tokens, latent, nb06._busiest(model, coder, tokens)[1]
        ),
        "a number": 3,
    },
    "6.3": {
        "strongest": by_table(lambda table: table.activation.idxmax()),
        "sign": by_table(lambda table: table["drop"].idxmin()),
        "off": off,
        "no latent": lambda *given: 10**6,
        "several": lambda *given: [1, 2],
        "least": by_table(lambda table: table["drop"].abs().idxmin()),
        "a number": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_get_messages_of_their_own(name, setting):
    answers.wrong_answers_differ(EXERCISES[name], setting, WRONG[name])


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_is_complete(name):
    answers.is_complete(EXERCISES[name])


def test_questions_have_one_right_answer_and_a_reason():
    answers.questions_are_sound(nb06.QUESTIONS)


# -- what the notebook shows


def test_one_pass_takes_out_each_latent(setting):
    tokens, right, wrong = nb06._prompt(setting.model, 0)
    latents = list(nb06.on_at_end(*setting, tokens))[:4]
    falls = nb06.without_each(*setting, tokens, latents)
    before = setting.model(tokens)[0, -1]
    for latent, fall in zip(latents, falls, strict=True):
        with sk.splice(*setting, edit=sk.ablate(latent)):
            torch.testing.assert_close(fall, before - setting.model(tokens)[0, -1], atol=1e-3, rtol=1e-3)
    table = nb06.support(*setting, tokens, right, wrong)
    assert table["drop"].is_monotonic_decreasing and len(table) == len(nb06.on_at_end(*setting, tokens))
    assert table["drop"][latents[0]] == pytest.approx(float(falls[0, right] - falls[0, wrong]), abs=1e-3)
    assert table.activation.to_dict() == pytest.approx(nb06.on_at_end(*setting, tokens))
    control = explain.random_rows(setting.coder)
    with sk.splice(setting.model, control, edit=sk.ablate(latents[0])):
        after = nb06.gap(setting.model, tokens, right, wrong)
    assert table.random[latents[0]] == pytest.approx(float(before[right] - before[wrong]) - after, abs=1e-3)


def test_kinds_are_told_from_the_control():
    control = pd.DataFrame({"skew": 0.0, "kurtosis": np.linspace(-1, 1, 201)})
    shapes = pd.DataFrame({"skew": [2.0, -2.0, 0.1, 0.1], "kurtosis": [5.0, 5.0, 0.0, -1.5]})
    assert nb06.kinds(shapes, control).tolist() == ["promoter", "suppressor", "like a random row", "partition"]
    own = nb06.kinds(control.assign(skew=1.0), control)
    assert (own == "promoter").mean() == pytest.approx(0.01, abs=0.006)
    assert (own == "partition").mean() == pytest.approx(0.01, abs=0.006)


def test_quadrants_add_up():
    scores = pd.DataFrame({"input_score": [0.9, 0.9, 0.1, 0.1, 0.5], "output_score": [0.9, 0.1, 0.9, 0.1, 0.5]})
    parts = nb06.quadrants(scores, (0.5, 0.5))
    assert parts == pytest.approx({"both": 0.2, "detect only": 0.2, "predict only": 0.2, "neither": 0.4})


def test_agreement_is_the_rank_correlation(setting, corpus):
    found = nb06.agreement(*setting, corpus, n=2)
    assert found.shape == (2, 2) and found.abs().max().max() <= 1
    latent, ids = int(found.index[0]), prompts(corpus)
    x = sk.capture(setting.model, ids, setting.coder.site)[setting.coder.site.read][:, 1:].flatten(0, 1)
    largest = float(setting.coder.encode(x).dense()[:, latent].max())
    change = nb06.token_change(*setting, ids, latent, 2 * largest)
    rho = stats.spearmanr(lens(setting.model, setting.coder.W_dec[[latent]])[0], change).statistic
    assert found["its own"].iloc[0] == pytest.approx(rho, abs=1e-3)


def test_the_same_words_are_compared(setting):
    words, here = " the area of a square", '"""Return the area of a square."""'
    same = nb06.only_there(*setting, words, here, here)
    assert len(same) and same.difference.abs().max() == 0
    other = nb06.only_there(*setting, words, here, "# Return the area of a square.")
    assert other.difference.is_monotonic_decreasing and other.difference.iloc[0] > 0
    with pytest.raises(ValueError, match="are not in"):
        nb06.only_there(*setting, words, here, "x = 1")


def test_the_share_left_out(setting):
    text = "def f(x):\n    return x\n"
    left = nb06.error_share(*setting, text)
    tokens = setting.model.to_tokens(text, prepend_bos=True)
    x = sk.capture(setting.model, tokens, setting.coder.site)[setting.coder.site.read][0, 1:]
    rebuilt = setting.coder(x)[0]
    assert left.token.tolist() == setting.model.to_str_tokens(text)[1:]
    assert left.share.iloc[3] == pytest.approx(
        float((x[3] - rebuilt[3]).norm() ** 2 / (x[3] - setting.coder.b_dec).norm() ** 2), rel=1e-4
    )
    assert left.on.sum() == len(setting.coder.encode(x).values)


def test_a_piece_of_several_tokens_is_refused(setting):
    assert nb06.shown(setting.model, torch.tensor([nb06.token(setting.model, ")")])) == "')'"
    with pytest.raises(ValueError, match="tokens of this model, and one is needed"):
        nb06.token(setting.model, "a long piece of text")
