"""The recipes' own logic, on text and models of our own; the long runs themselves are not repeated here."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from saekit.recipes import labels, tasks, text, tokenizer
from saekit.recipes import model as recipe
from saekit.recipes.text import Source

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda_ mu nu xi omicron pi rho sigma tau".split()


def prose(seed: int, n: int = 400) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(rng.choice(WORDS, n))


def test_shingles_are_hashes_of_runs_of_fifty_words():
    runs = text.shingles(prose(0))
    shifted = text.shingles("extra " + prose(0))
    assert len(runs) == 400 - 50 + 1
    assert np.array_equal(shifted[1:], runs)
    assert len(np.unique(runs)) == len(runs)
    assert len(text.shingles("too short")) == 0


def test_clean_drops_copies_tests_and_vendored_files_of_what_is_held_out():
    secret = prose(1)
    held_out = [Source("library", "json/decoder.py", secret)]
    kept = Source("library", "ast.py", prose(2))
    candidates = [
        kept,
        Source("somewhere", "copied.py", prose(3)[:1000] + secret[:1500]),
        Source("tests", "test/test_json/test_scan.py", prose(4)),
        Source("pip", "pip/_vendor/tool.py", prose(5)),
        Source("somewhere", "near_copy.py", kept.text + " more"),
        Source("somewhere", "fresh.py", prose(6)),
    ]
    assert [s.name for s in text.clean(candidates, held_out)] == ["ast.py", "fresh.py"]


def test_share_within_is_isin():
    rng = np.random.default_rng(0)
    runs, forbidden = rng.integers(0, 50, 200).astype(np.uint64), np.unique(rng.integers(0, 50, 20)).astype(np.uint64)
    assert text.share_within(runs, forbidden) == np.isin(runs, forbidden).mean()


def test_held_out_packages_are_found_in_this_python():
    names = {s.name for s in text.stdlib() if text.is_held_out(s)}
    assert {"json/decoder.py", "textwrap.py", "email/parser.py"} <= names
    assert "ast.py" not in names


def test_tokenizer_never_merges_brackets_quotes_or_line_starts():
    made = tokenizer.train([Source("library", "a.py", 'def f(x):\n    """Say."""\n    return g(x)[0]\n' * 50)], 400)
    pieces = made.encode('def f(x):\n    """Say."""\n    return g(x)[0]').tokens
    assert pieces.count('"""') == 2
    assert pieces.count("ĊĠĠĠĠ") == 2
    assert {"(", ")", "[", "]"} <= set(pieces)
    assert made.token_to_id(tokenizer.BOS) == 0


def test_windows_start_with_bos_and_batches_cover_an_epoch_once():
    stream = np.arange(255 * 40, dtype=np.uint16)
    seen = [recipe.batch_at(stream, step, 4, 0, 9) for step in range(10)]
    assert all((b[:, 0] == 9).all() for b in seen)
    assert torch.equal(torch.cat(seen)[:, 1:].flatten().sort().values, torch.arange(255 * 40))
    assert not torch.equal(recipe.batch_at(stream, 0, 4, 0, 9), recipe.batch_at(stream, 10, 4, 0, 9))


def test_a_resumed_model_is_the_unbroken_one(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda f: f)
    monkeypatch.setattr(recipe, "CONTEXT", 16)
    stream = np.random.default_rng(0).integers(1, 60, 3000).astype(np.uint16)

    def fresh():
        torch.manual_seed(0)
        config = recipe.config(60)
        config.n_embd, config.n_layer, config.n_head = 16, 1, 2
        return recipe.GPT2LMHeadModel(config)

    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole, part, rest = fresh(), fresh(), fresh()
    recipe.train(whole, stream, stream[::-1].copy(), 8 * 64, tmp_path / "whole", 4, 0, 0)
    with monkeypatch.context() as patch:
        calls = iter(range(100))
        patch.setattr(recipe, "loss_of", lambda m, ids: _stop(next(calls)) or recipe_loss(m, ids))
        patch.setattr(recipe.time, "monotonic", iter(range(0, 10**6, 1000)).__next__)  # a checkpoint at every step
        with pytest.raises(KeyboardInterrupt):
            recipe.train(part, stream, stream[::-1].copy(), 8 * 64, tmp_path / "parts", 4, 0, 0)
    recipe.train(rest, stream, stream[::-1].copy(), 8 * 64, tmp_path / "parts", 4, 0, 0)
    for a, b in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.equal(a, b)


recipe_loss = recipe.loss_of


def _stop(step: int) -> None:
    if step == 5:
        raise KeyboardInterrupt


def test_tasks_have_one_right_answer():
    for p in tasks.bracket_closing(3):
        assert sum(p.text.count(b) for b in "([{") == 3
        assert {*p.answers, *p.others} == {")", "]", "}"}
        assert tasks.CLOSERS[[c for c in p.text if c in tasks.CLOSERS][-1]] == p.answers[0]
    for p in tasks.attribute_copying():
        assert p.text.endswith(f"self.{p.answers[0].strip()} =")
        assert all(o.strip() in p.text for o in p.others)
        assert p.answers[0] not in p.others
    assert tasks.bracket_closing(2) == tasks.bracket_closing(2)
    assert len(tasks.keywords()) == 200


def test_accuracy_of_a_model_that_knows_and_one_that_does_not(tiny_models):
    class Fixed:
        tokenizer = tiny_models["gpt2"].tokenizer

        def __init__(self, best):
            self.best = self.tokenizer(best, add_special_tokens=False).input_ids[0]

        def to_tokens(self, text, prepend_bos):
            return torch.zeros(1, 3, dtype=torch.long)

        def __call__(self, ids):
            return torch.zeros(1, 3, 300).index_fill(2, torch.tensor(self.best), 5.0)

    prompts = [tasks.Prompt("x", (")",), ("]", "}"))] * 50
    knows, does_not = tasks.accuracy(Fixed(")"), prompts), tasks.accuracy(Fixed("]"), prompts)
    assert (knows["value"], does_not["value"]) == (1.0, 0.0)
    assert knows["low"] < 1
    assert knows["chance"] == pytest.approx(1 / 3)


def test_the_best_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    y = rng.random(200) < 0.3
    score = np.round(rng.normal(size=200) + y, 1)  # with ties
    threshold, best = labels.best_threshold(score, y)
    every = [f1_score(y, score > t) for t in np.arange(-4, 5, 0.05)]
    assert best == pytest.approx(max(every))
    assert labels.f1(score > threshold, y) == pytest.approx(best)
    assert f1_score(y, score > threshold) == pytest.approx(best)


def test_label_sets_are_chosen_on_one_side_and_scored_on_the_other():
    """Two latents that hold half of the label each, a dimension that holds a little; then one of them is broken."""
    rng = np.random.default_rng(0)
    y = rng.random(4_000) < 0.3
    first = rng.random(4_000) < 0.5
    codes = (rng.random((4_000, 30)) < 0.2).astype(np.float16)
    codes[:, 3], codes[:, 7] = y & first, y & ~first
    x = rng.normal(size=(4_000, 6)).astype(np.float16)
    x[:, 2] -= 2 * y
    broken = codes.copy()
    broken[:, 7] = 0
    train, held_out = labels.Tokens(codes, x, {"a": y}), labels.Tokens(broken, x, {"a": y})
    card = labels.label_card(train, train, "a")
    assert {3, 7} <= set(card["set"]) and len(card["set"]) == 5
    assert card["set_f1"] == pytest.approx(1.0)
    assert card["f1"] == pytest.approx(f1_score(y, codes[:, card["latent"]] > 0))
    assert card["dimension"] == 2
    assert card["always_fire"] == pytest.approx(f1_score(y, np.ones_like(y)))
    assert labels.label_card(train, held_out, "a")["set_f1"] < 0.9


def test_a_tiny_model_learns_a_formal_language(tmp_path):
    """A tenth of a minute of it: better than a guess, booted, with a corpus whose labels are those of the texts."""
    import saekit as sk
    from saekit import toy
    from saekit.recipes import languages

    measured = languages.train(toy.EXPRESSIONS, tmp_path / "model", steps=40, size=16)
    assert measured["loss"] < 0.9 * measured["loss_without_context"]
    model = sk.load_model(tmp_path / "model")
    corpus = sk.load_corpus(model, toy.EXPRESSIONS.texts(20))
    assert corpus.tokens.shape[1] <= model.cfg.n_ctx
    assert corpus.labels["due 1"].any()
    logits = model(corpus.tokens[:2])
    assert logits.shape[-1] == len(toy.EXPRESSIONS.tokenizer())


@pytest.mark.long
@pytest.mark.parametrize(("name", "share"), [("dyck", 0.8), ("expressions", 0.8), ("sentences", 0.5)])
def test_most_of_what_a_trained_model_says_is_in_the_language(name, share, tmp_path):
    """Whole texts of up to 60 words; one wrong word in a text of a dozen sentences counts against it."""
    from saekit import toy
    from saekit.recipes import languages

    measured = languages.train(toy.LANGUAGES[name], tmp_path / "model")
    assert measured["accepted"] > share
    assert measured["ended"] > 0.9


@pytest.mark.parametrize("name", ["switch", "crosscoder", "feature_aligned"])
def test_settings_are_measured_side_by_side(name, tiny_models, tiny_corpus, monkeypatch):
    import saekit as sk
    from saekit.recipes import defaults

    first, second = (sk.Site(f"blocks.{i}.hook_resid_post") for i in (0, 1))
    for what, value in {"D_SAE": 64, "K": 4, "SITE": first, "TWO": sk.Site((first.read, second.read))}.items():
        monkeypatch.setattr(defaults, what, value)
    rows = defaults.measure(name, tiny_models["gpt2"], tiny_corpus, 4_096)
    assert [row["setting"] for row in rows] == [what for what, _ in defaults.GRIDS[name](32)]
    assert all(row["fvu"] > 0 and row["l0"] > 0 and 0 <= row["silent"] <= 1 for row in rows)
    extra = {"switch": "experts", "crosscoder": "single", "feature_aligned": "agreement"}[name]
    assert all(0 <= row[extra] <= (8 if name == "switch" else 1) for row in rows)
