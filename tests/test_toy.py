"""Toys: what they say of themselves is what is drawn; labels agree with a second way to compute them."""

import random

import numpy as np
import pytest
import torch

import saekit as sk
from saekit import presets, toy
from saekit.corpus import pieces

# -- superposition


def test_rows_are_features_times_dictionary():
    source = toy.Superposition(12, 6, frequencies=0.2)
    f, x = source.features(500)
    torch.testing.assert_close(x, f @ source.dictionary)
    torch.testing.assert_close(source.dictionary.norm(dim=1), torch.ones(12))
    noisy = toy.Superposition(12, 6, frequencies=0.2, noise=0.5)
    f, x = noisy.features(20_000)
    assert (x - f @ noisy.dictionary).std().item() == pytest.approx(0.5, rel=0.02)


def test_frequencies_and_values_are_as_told():
    p = toy.zipf(30, l0=3)
    source = toy.Superposition(30, 10, frequencies=p, values=(2.0, 0.5))
    f, _ = source.features(60_000)
    share = (f > 0).float().mean(0)
    assert ((share - p).abs() < 5 * (p * (1 - p) / 60_000).sqrt()).all()
    assert source.l0 == pytest.approx(3, rel=1e-5)
    assert f[f > 0].mean().item() == pytest.approx(2, rel=0.01)
    assert f[f > 0].std().item() == pytest.approx(0.5, rel=0.03)


def test_zipf_falls_as_one_over_the_rank_and_is_capped():
    p = toy.zipf(100, l0=4, most=0.5)
    assert p.max() == 0.5
    assert p.sum().item() == pytest.approx(4, rel=1e-5)
    assert (p[50] / p[99]).item() == pytest.approx(100 / 51, rel=1e-4)
    with pytest.raises(ValueError, match="l0=9"):
        toy.zipf(10, l0=9)


def test_pairs_are_correlated_and_frequencies_stay():
    source = toy.Superposition(20, 10, frequencies=0.1, correlation=0.8)
    on = (source.features(60_000)[0] > 0).double()
    together = np.corrcoef(on.T.numpy())
    pairs = together[np.arange(0, 20, 2), np.arange(1, 20, 2)]
    assert (pairs > 0.4).all()
    assert abs(together[0, 2:]).max() < 0.03
    assert on.mean(0).numpy() == pytest.approx(0.1, abs=0.006)


def test_children_are_on_only_under_their_parents():
    source = toy.hierarchy(3, 4, d_in=20, parent=0.2, child=0.05)
    on = source.features(60_000)[0] > 0
    for child, parent in source.parents.items():
        assert not (on[:, child] & ~on[:, parent]).any()
    assert on[:, 3:].float().mean(0).numpy() == pytest.approx(0.05, abs=0.005)
    assert on[:, :3].float().mean(0).numpy() == pytest.approx(0.2, abs=0.01)


def test_grandchildren_follow_the_whole_line():
    p = torch.tensor([0.1, 0.4, 0.2])
    on = toy.Superposition(3, 3, frequencies=p, parents={0: 2, 2: 1}).features(60_000)[0] > 0
    assert not (on[:, 0] & ~on[:, 1]).any()
    assert on.float().mean(0).numpy() == pytest.approx(p.numpy(), abs=0.01)


def test_the_stream_is_a_function_of_seed_and_position():
    source = toy.Superposition(8, 4)
    stream = source.batches(3_000)
    rows = torch.cat([next(stream).x for _ in range(6)])
    again = toy.Superposition(8, 4).batches(1_000, start=9_500)
    assert torch.equal(next(again).x, rows[9_500:10_500])
    assert not torch.equal(next(toy.Superposition(8, 4, seed=1).batches(1_000)).x, rows[:1_000])
    held_out = source.held_out(1_000).x
    assert torch.equal(held_out, source.held_out(1_000).x)
    assert not (held_out[:, None, 0] == rows[None, :, 0]).logical_and(held_out[:, None, 0] != 0).any()
    assert list(source.batches(10, until=lambda: True)) == []


def test_a_coder_trains_on_it_and_is_saved(tmp_path):
    source = toy.Superposition(16, 8, frequencies=0.1, tokens=20_000)
    torch.manual_seed(0)
    coder, objective = presets.topk(8, 16, k=2)
    run = sk.train(coder, source, objective, batch_size=500, progress=False)
    assert run.steps == 40
    assert run.history.fvu.iloc[-1] < 0.7 * run.history.fvu.iloc[0]
    again = sk.load(sk.save(run.coder, tmp_path / "toy"))
    assert again.site.name == "superposition"
    x = source.held_out(50).x
    assert torch.equal(again(x)[0], run.coder(x)[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frequencies": 0.0}, "lie in"),
        ({"frequencies": torch.tensor([0.1, 0.2])}, "2 frequencies for 4"),
        ({"correlation": 1.0}, "correlation=1.0"),
        ({"correlation": 0.5, "parents": {1: 0}}, "one of them"),
        ({"parents": {9: 0}}, "features 0 to 3"),
        ({"frequencies": torch.tensor([0.1, 0.2, 0.1, 0.1]), "parents": {1: 0}}, "child 1 is on 0.2"),
        ({"parents": {0: 1, 1: 0}}, "its own ancestor"),
        ({"dictionary": torch.ones(3, 4)}, r"\(3, 4\), expected \(4, 3\)"),
        ({"tokens": 0}, "tokens=0"),
    ],
)
def test_toys_that_cannot_be_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        toy.Superposition(4, 3, **options)


# -- the bottleneck


def test_the_bottleneck_computes_what_it_says():
    model = toy.Bottleneck(4, 3, frequencies=[0.3, 0.6], importance=0.5, seed=1)
    model.b = torch.randn(2, 4)
    x = model.features(7)
    for m in range(2):
        W, b, total = model.W[m].double(), model.b[m].double(), 0.0
        for row in x[m].double():
            x_hat = (W.T @ (W @ row) + b).clamp(min=0)
            total += sum(0.5**i * (row[i] - x_hat[i]) ** 2 for i in range(4))
        assert model.losses(x)[m].item() == pytest.approx(total.item() / 7, rel=1e-5)


def test_features_of_the_bottleneck_are_as_frequent_as_told():
    model = toy.Bottleneck(6, 2, frequencies=[0.1, 0.4], correlation=-0.9)
    x = model.features(40_000)
    assert (x > 0).float().mean(1) == pytest.approx(np.array([[0.1] * 6, [0.4] * 6]), abs=0.01)
    assert x[x > 0].mean().item() == pytest.approx(0.5, abs=0.01) and x.max() <= 1
    together = np.corrcoef((x[1] > 0).double().T.numpy())
    assert together[0, 1] < -0.5 and abs(together[0, 2]) < 0.03


def test_dimensionality_of_known_shapes():
    model = toy.Bottleneck(5, 2)
    angle = torch.arange(5) * 2 * torch.pi / 5
    model.W = 1.3 * torch.stack([angle.cos(), angle.sin()])[None]
    torch.testing.assert_close(model.dimensionality(), torch.full((1, 5), 0.4))
    model.W = torch.tensor([[[1.0, -1.0, 0, 0, 0], [0, 0, 2.0, 0, 0]]])
    torch.testing.assert_close(model.dimensionality(), torch.tensor([[0.5, 0.5, 1, 0, 0]]))


def test_rare_features_share_dimensions_and_frequent_ones_do_not():
    """At 1 fewer than five features are kept; at 0.05 all five, as a pentagon. Importance decides which are kept."""
    often, rarely = toy.Bottleneck(5, 2, frequencies=[1.0, 0.05]).train(500).W
    assert (often.norm(dim=0) > 0.5).sum() < 5
    assert rarely.norm(dim=0).numpy() == pytest.approx(1.15, abs=0.15)
    unequal = toy.Bottleneck(5, 2, frequencies=1.0, importance=0.5).train(500)
    assert (unequal.W[0].norm(dim=0) > 0.5).tolist() == [True, True, False, False, False]
    angles = torch.atan2(*rarely).sort().values
    gaps = torch.cat([angles.diff(), angles[:1] - angles[-1:] + 2 * torch.pi])
    assert gaps.numpy() == pytest.approx(2 * np.pi / 5, abs=0.1)


def test_training_goes_on_from_the_weights_there_are_and_is_seeded():
    one, same, other = (toy.Bottleneck(5, 2, seed=seed).train(40) for seed in (0, 0, 1))
    assert torch.equal(one.W, same.W) and not torch.equal(one.W, other.W)
    x = one.features(20_000)
    before, W = one.losses(x), one.W
    one.train(200)
    assert one.losses(x) < before and not torch.equal(one.W, W)
    assert not one.W.requires_grad


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"d_hidden": 0}, "d_hidden=0"),
        ({"frequencies": 0.0}, "frequencies=0.0"),
        ({"frequencies": [0.1, 1.2]}, "1.2"),
        ({"importance": 0.0}, "importance=0.0"),
        ({"correlation": 1.0}, "correlation=1.0"),
    ],
)
def test_bottlenecks_that_cannot_be_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        toy.Bottleneck(5, **options)


# -- formal languages


@pytest.fixture(params=toy.LANGUAGES)
def language(request):
    return toy.LANGUAGES[request.param]


def test_texts_are_seeded_and_in_the_language(language):
    texts = language.texts(50, length=40, seed=3)
    assert texts == language.texts(50, length=40, seed=3)
    assert texts[0] != language.texts(1, length=40, seed=4)[0]
    for text in texts:
        assert language.accepts(text.text)
        assert len(words_of(language, text.text)) <= 40


def words_of(language, text):
    return text.split(" ") if language.separator else list(text)


def test_a_word_left_out_or_foreign_is_rejected(language):
    rng = random.Random(0)
    wrong = 0
    for text in language.texts(40):
        words = words_of(language, text.text)
        del words[rng.randrange(len(words))]
        wrong += not language.accepts(language.separator.join(words))
    assert wrong > 25  # an adjective may be missing, and a sentence still be one
    assert not language.accepts("")
    assert not language.accepts("?")


def test_load_corpus_takes_them(language):
    texts = language.texts(30)
    tokenizer = language.tokenizer()
    corpus = sk.load_corpus(tokenizer, texts, context=64)
    assert len(corpus) == 30
    assert not corpus.labels["mixed"].any()
    assert corpus.n_tokens == sum(len(words_of(language, text.text)) for text in texts)
    ids = corpus.tokens[0][torch.from_numpy(corpus.mask[0])]
    assert language.separator.join(p.strip() for p in pieces(tokenizer, ids)) == texts[0].text
    for label in corpus.label_names:
        marked = sum(end - start for text in texts for start, end in text.spans.get(label, ()))
        assert marked >= corpus.labels[label].sum() > 0


def labels_of(language, text):
    """[set of labels of each word]."""
    found, start = [], 0
    for word in words_of(language, text.text):
        found.append({label for label, spans in text.spans.items() if any(a <= start < b for a, b in spans)})
        start += len(word) + len(language.separator)
    return found


def test_bracket_labels_count_what_is_open():
    for text in toy.DYCK.texts(20):
        for i, labels in enumerate(labels_of(toy.DYCK, text)):
            read = text.text[: i + 1]
            while (shorter := read.replace("()", "").replace("[]", "")) != read:
                read = shorter  # what is left is what is open
            depth = len(read)
            assert ("depth 1" in labels, "depth 2" in labels, "depth 3+" in labels) == (
                depth == 1,
                depth == 2,
                depth > 2,
            )
            assert ("in round" in labels) == read.endswith("(")
            assert ("in square" in labels) == read.endswith("[")
    assert labels_of(toy.DYCK, toy.DYCK.texts(1)[0])[-1] == set()


def parsed(words):
    """The tree of one prefix expression, each node (place, children), by recursion."""
    place = len(PLACES)
    PLACES.append(place)
    word = words[place]
    return place, [parsed(words) for _ in range({"+": 2, "-": 2, "*": 2, "~": 1}.get(word, 0))]


PLACES: list[int] = []


def test_expression_labels_agree_with_the_tree():
    for text in toy.EXPRESSIONS.texts(20):
        words, labels = words_of(toy.EXPRESSIONS, text.text), labels_of(toy.EXPRESSIONS, text)
        while words:
            PLACES.clear()
            tree = parsed(words)
            roles = {}

            def visit(node, depth, role, roles=roles):
                roles[node[0]] = (depth, role)
                names = ["unary operand"] if len(node[1]) == 1 else ["first operand", "second operand"]
                for child, name in zip(node[1], names, strict=False):
                    visit(child, depth + 1, name)

            visit(tree, 0, None)
            size = len(roles)
            for place, (depth, role) in roles.items():
                expected = {"number" if words[place].isdigit() else "operator"} | ({role} if role else set())
                expected |= {f"depth {depth}" if depth < 3 else "depth 3+"} if depth else set()
                got = {label for label in labels[place] if not label.startswith("due")}
                assert got == expected
            assert not any(label.startswith("due") for label in labels[size - 1])
            assert words[size] == ";" and labels[size] == set()
            words, labels = words[size + 1 :], labels[size + 1 :]


def test_word_classes_need_the_context():
    classes = {}
    for text in toy.SENTENCES.texts(200):
        for word, labels in zip(words_of(toy.SENTENCES, text.text), labels_of(toy.SENTENCES, text), strict=True):
            classes.setdefault(word, set()).update(labels & {"noun", "verb", "adjective"})
    assert classes["saw"] == {"noun", "verb"}
    assert classes["light"] == {"noun", "adjective"}
    assert classes["the"] == set()


def test_a_length_without_room_is_named(language):
    with pytest.raises(ValueError, match="length=3"):
        language.texts(1, length=3)
