"""Notebook 02: references, a message for each wrong answer, hooks that are left on, and what the notebook claims."""

import numpy as np
import pytest
import torch

import saekit as sk
from saekit import patching
from saekit.attribute import patterns
from saekit.hooks import capture
from saekit.lesson import nb02
from saekit.lesson.exercise import Setting, judge
from tests.lesson import answers

EXERCISES = {exercise.id: exercise for exercise in nb02.CHAPTER.exercises}
every = pytest.mark.parametrize("name", EXERCISES)


@pytest.fixture(scope="module")
def setting() -> Setting:
    """What the notebook has: what a wrong answer does depends on it."""
    return Setting(sk.load_model(), None)


@pytest.fixture
def model(setting):
    """Each test leaves the model without hooks."""
    yield setting.model
    assert nb02.hooked(setting.model) == 0


@every
def test_the_reference_passes_and_its_printed_source_too(name, setting):
    answers.reference_passes(EXERCISES[name], setting, {"torch": torch})


@every
def test_a_stub_is_not_yet(name, setting):
    answers.stubs_are_not_yet(EXERCISES[name], setting)


@every
@pytest.mark.parametrize("thing", [-1, 0.5, "text", (1, 2), [], {}, torch.zeros(2), torch.zeros(3, 3), [["a"], 2]])
def test_nothing_breaks_a_check(name, thing, setting, model):
    answers.is_refused(EXERCISES[name], setting, thing)


@every
def test_a_check_leaves_no_trace(name, setting, model):
    answers.leaves_no_trace(EXERCISES[name], setting)


@every
def test_an_exercise_is_complete(name):
    answers.is_complete(EXERCISES[name])


def test_questions():
    answers.questions_are_sound(nb02.QUESTIONS)


# -- other right answers


def test_other_right_answers_pass(setting, model):
    def by_capture(model, text):
        return capture(model, text, "blocks.2.hook_resid_post")["blocks.2.hook_resid_post"]

    def by_loop(patterns, n):
        places = range(n + 1, 2 * n + 1)
        return sum(patterns[:, :, q, q - n + 1] for q in places) / n

    def in_place(model, clean, corrupt, layer, pos):
        _, cache = model.run_with_cache(clean)
        with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", lambda x, hook: put(x))]):

            def put(x):
                x[0, pos] = cache["resid_pre", layer][0, pos]
                return x

            return model(corrupt)

    def by_pattern(model, tokens, layer, head):
        """Without attention nothing is brought."""
        keep = (torch.arange(model.cfg.n_heads) != head).float()[:, None, None]
        return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", lambda x, hook: x * keep)])

    for name, answer in (("2.1", by_capture), ("2.2", by_loop), ("2.3", in_place), ("2.4", by_pattern)):
        verdict = judge(EXERCISES[name], answer, setting)
        assert verdict.passed, (name, verdict.message)


# -- wrong answers


def at(name, then=lambda x: x, bos=True):
    """A way to get 2.1 wrong: another name, or a part of the tensor."""
    return lambda model, text: then(capture(model, model.to_tokens(text, prepend_bos=bos), name)[name])


def scored(step=1, first=1, last=1, over=lambda x: x.mean(-1)):
    """A way to get 2.2 wrong: another key, other tokens, another average."""

    def answer(patterns, n):
        q = torch.arange(n + first, 2 * n + last)
        return over(patterns[:, :, q, q - n + step])

    return answer


def swapped(patterns, n):
    q = torch.arange(n + 1, 2 * n + 1)
    return patterns[:, :, q - n + 1, q].mean(-1)


def fixed_n(patterns, n):
    q = torch.arange(13, min(25, patterns.shape[-1]))
    return patterns[:, :, q, q - 11].mean(-1)


def put(site="resid_pre", pos=lambda p, n: p, swap=False, shift=0):
    """A way to get 2.3 wrong: another site, other positions, the runs swapped."""

    def answer(model, clean, corrupt, layer, p):
        source, into = (corrupt, clean) if swap else (clean, corrupt)
        return nb02._patch(model, source, into, f"blocks.{layer + shift}.hook_{site}", pos(p, clean.shape[1]))

    return answer


def silent(place, site="attn.hook_z", layer_off=0):
    """A way to get 2.4 wrong: zero at another place."""

    def answer(model, tokens, layer, head):
        where = f"blocks.{(layer + layer_off) % model.cfg.n_layers}.{site}"
        return nb02._changed(model, tokens, where, lambda x: x.__setitem__(place(head), 0))

    return answer


def mean_head(model, tokens, layer, head):
    def change(z):
        z[:, :, head] = z[:, :, head].mean((0, 1))

    return nb02._changed(model, tokens, f"blocks.{layer}.attn.hook_z", change)


def left(model, tokens, layer, head):
    def off(z, hook):
        z = z.clone()
        z[:, :, head] = 0
        return z

    model.add_hook(f"blocks.{layer}.attn.hook_z", off)
    return model(tokens)


def left_patch(model, clean, corrupt, layer, pos):
    x = capture(model, clean, f"blocks.{layer}.hook_resid_pre")[f"blocks.{layer}.hook_resid_pre"]

    def off(y, hook):
        y = y.clone()
        y[:, pos] = x[:, pos]
        return y

    model.add_hook(f"blocks.{layer}.hook_resid_pre", off)
    return model(corrupt)


ALL = slice(None)
WRONG = {
    "2.1": {
        "no batch axis": at("blocks.2.hook_resid_post", lambda x: x[0]),
        "last token": at("blocks.2.hook_resid_post", lambda x: x[:, -1]),
        "BOS cut off": at("blocks.2.hook_resid_post", lambda x: x[:, 1:]),
        "no BOS": at("blocks.2.hook_resid_post", bos=False),
        "before": at("blocks.2.hook_resid_pre"),
        "between": at("blocks.2.hook_resid_mid"),
        "attention": at("blocks.2.hook_attn_out"),
        "mlp": at("blocks.2.hook_mlp_out"),
        "too late": at("blocks.3.hook_resid_post"),
        "logits": lambda model, text: model(text),
        "the cache": lambda model, text: model.run_with_cache(text)[1],
        "a list": lambda model, text: [1.0, 2.0],
        "pattern": at("blocks.2.attn.hook_pattern"),
        "misspelt": at("blocks.2.resid_post"),
        "a number": 3,
    },
    "2.2": {
        "itself": scored(0),
        "before it": scored(-1),
        "first copy too": lambda patterns, n: patterns.diagonal(1 - n, -2, -1).mean(-1),
        "last missing": scored(last=0),
        "first missing": scored(first=2),
        "sum": scored(over=lambda x: x.sum(-1)),
        "best": scored(over=lambda x: x.amax(-1)),
        "over heads": scored(over=lambda x: x.mean((1, 2))),
        "turned": scored(over=lambda x: x.mean(-1).T),
        "swapped": swapped,
        "previous": lambda patterns, n: scored(n - 1)(patterns, n),
        "anywhere": lambda patterns, n: patterns[:, :, n + 1 :].amax(-1).mean(-1),
        "fixed n": fixed_n,
        "per token": scored(over=lambda x: x),
        "others": scored(2),
        "a number": 3,
    },
    "2.3": {
        "swapped": put(swap=True),
        "nothing": lambda model, clean, corrupt, layer, pos: model(corrupt),
        "clean": lambda model, clean, corrupt, layer, pos: model(clean),
        "after": put("resid_post"),
        "neighbour": put(pos=lambda p, n: (p + 1) % n),
        "from there": put(pos=lambda p, n: slice(p, None)),
        "up to there": put(pos=lambda p, n: slice(0, p + 1)),
        "attention": put("attn_out"),
        "left on": left_patch,
        "last logits": lambda *given: nb02.patched(*given)[:, -1],
        "mean": lambda *given: nb02.patched(*given).mean(-1),
        "mlp": put("mlp_out"),
        "a number": 3,
    },
    "2.4": {
        "nothing": lambda model, tokens, layer, head: model(tokens),
        "all heads": silent(lambda head: ALL),
        "attention out": silent(lambda head: ALL, "hook_attn_out"),
        "a token": silent(lambda head: (ALL, head)),
        "a text": silent(lambda head: head),
        "a dimension": silent(lambda head: (..., head)),
        "last token": silent(lambda head: (ALL, -1, head)),
        "other layer": silent(lambda head: (ALL, ALL, head), layer_off=1),
        "neighbour": silent(lambda head: (ALL, ALL, head + 1)),
        "no query": silent(lambda head: (ALL, ALL, head), "attn.hook_q"),
        "mean": mean_head,
        "left on": left,
        "loss": lambda model, tokens, layer, head: nb02.without_head(model, tokens, layer, head).mean(),
        "mlp": silent(lambda head: ALL, "hook_mlp_out"),
        "a number": 3,
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_get_messages_of_their_own(name, setting, model):
    answers.wrong_answers_differ(EXERCISES[name], setting, WRONG[name])


def test_all_positions_patched_is_named(setting, model):
    """With everything put in, the corrupt run is the clean one."""
    verdict = judge(EXERCISES["2.3"], put(pos=lambda p, n: ALL), setting)
    assert verdict.passed is False and "All positions were patched" in verdict.message


def test_a_weight_that_was_changed_is_noticed():
    changed = sk.load_model()

    def answer(model, tokens, layer, head):
        right = nb02.without_head(model, tokens, layer, head)
        model.ln_final.original_component.weight.data.mul_(1.5)
        return right

    verdict = judge(EXERCISES["2.4"], answer, Setting(changed, None))
    assert verdict.passed is False and "a weight was changed" in verdict.message


# -- what the notebook shows and claims


def test_the_best_induction_head_is_needed(model):
    """Zeroing it raises the loss on the second copy by half a nat or more, and hardly that on the first."""
    tokens = nb02.repeated(model, n=8)
    scores = nb02.induction_scores(patterns(model, tokens), 32)
    best = divmod(int(scores.argmax()), scores.shape[1])
    before, after = (nb02.losses(x, tokens) for x in (model(tokens), nb02.without_head(model, tokens, *best)))
    assert scores.max() > 0.4
    assert after[1] - before[1] > 0.5
    assert abs(after[0] - before[0]) < 0.5 * (after[1] - before[1])


def test_the_best_induction_head_needs_the_one_that_looks_back(model):
    """Without the head that looks at the token before, the induction score falls to less than half."""
    tokens = nb02.repeated(model, n=8)
    looks = patterns(model, tokens)
    scores, back = nb02.induction_scores(looks, 32), nb02.one_back(looks)
    name = "{}.{}".format(*divmod(int(back.argmax()), model.cfg.n_heads))
    without = nb02.induction_scores(nb02.patterns_without(model, tokens, name), 32)
    assert back.max() > 0.7 and scores.max() > 0.4
    assert without.flatten()[scores.argmax()] < 0.5 * scores.max()


def test_losses_are_the_models_own(model):
    tokens = nb02.repeated(model, 8, 2)
    first, second = nb02.losses(model(tokens), tokens)
    assert (first + second) / 2 == pytest.approx(float(model(tokens, return_type="loss")), abs=1e-4)
    assert torch.equal(tokens[:, 1:9], tokens[:, 9:]) and (tokens[:, 0] == model.tokenizer.bos_token_id).all()


def test_the_last_row_of_the_lens_is_the_model(model):
    table = nb02.lens(model, "for item in")
    p, top = model("for item in")[0, -1].softmax(-1).max(0)
    assert table.iloc[-1, 0] == f"{model.tokenizer.decode([int(top)])!r} {p:.0%}"
    assert len(table) == model.cfg.n_layers


def test_memory_counts_what_is_held(model):
    name = "blocks.2.hook_resid_post"
    table = nb02.memory(model, "x = 1", name)
    n = model.to_tokens("x = 1").shape[1]
    assert table.loc[name, "MB"] == pytest.approx(4e-6 * n * model.cfg.d_model)
    assert table.loc["everything", "MB"] > 20 * table.loc[name, "MB"]


def test_contexts_are_the_strongest_and_some_half_as_strong(model):
    corpus = sk.load_corpus(model, split="held_out", files=1)
    hook = "blocks.2.mlp.hook_post"
    table = nb02.contexts(model, corpus, hook, [5, 900], n=2)
    x = torch.cat([capture(model, part, hook)[hook] for part in corpus.tokens.split(16)])
    x = x.masked_fill(~torch.as_tensor(corpus.mask)[..., None], -torch.inf)
    for neuron in (5, 900):
        best = x[..., neuron].amax(1).sort(descending=True).values[:2]
        assert table.loc[neuron].activation.tolist()[:2] == pytest.approx(best.tolist(), abs=0.06)
        assert table.loc[neuron].activation.tolist()[2:] == pytest.approx([float(best[0]) / 2] * 2, rel=0.1)
    assert table.text.str.contains("«").all()


def test_rises_are_differences_of_losses(model):
    tokens = nb02.repeated(model, 8, 2)
    table = nb02.rises(model, tokens, nb02.without_head)
    assert len(table) == model.cfg.n_layers * model.cfg.n_heads
    before = nb02.losses(model(tokens), tokens)
    after = nb02.losses(nb02.without_head(model, tokens, 2, 5), tokens)
    assert table.loc["2.5"].tolist() == pytest.approx([after[0] - before[0], after[1] - before[1]])
    looks = torch.diag(torch.tensor([0.2, 0.4, 0.6]), -1)[None, None]
    assert float(nb02.one_back(looks)) == pytest.approx(0.4)


def test_patching_the_brackets_finds_the_bracket_and_then_the_last_token(model):
    from saekit.recipes import tasks

    prompts = [p.text for p in tasks.bracket_closing(2, n=12)]
    found = []
    for text in prompts:
        clean = model.to_tokens(text)
        ids = clean[0].tolist()
        openers = {tasks.token(model, o): tasks.token(model, c) for o, c in tasks.CLOSERS.items()}
        place = max(i for i, t in enumerate(ids) if t in openers)
        other = next(t for t in openers if t != ids[place])
        corrupt = clean.clone()
        corrupt[0, place] = other
        right, wrong = openers[ids[place]], openers[other]
        values = patching(model, clean, corrupt, lambda x, a=right, b=wrong: x[:, -1, a] - x[:, -1, b])
        found.append((place, clean.shape[1] - 1, values.argmax(1).tolist()))
    early = np.mean([best[0] == place for place, _, best in found])
    late = np.mean([best[-1] == last for _, last, best in found])
    assert early >= 0.9 and late >= 0.9
