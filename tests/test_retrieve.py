"""The part of a corpus that is about a domain."""

import math
from collections import Counter

import numpy as np
import pytest

import saekit as sk

COLOURS = "red green blue red red blue"
SHAPES = "round square oval round square"


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models["gpt2"]


@pytest.fixture(scope="module")
def corpus(model):
    """Three kinds of text in turn: colours, shapes, numbers."""
    return sk.load_corpus(model, [COLOURS + " x", SHAPES + " y", "0 1 2 3 4 5 6 7 8 9"] * 5)


def test_windows_of_the_domain_are_found_in_order(model, corpus):
    found = sk.retrieve(model, corpus, ["blue green red"], windows=5)
    assert found.text_ids.tolist() == [0, 3, 6, 9, 12]
    assert np.array_equal(found.tokens, corpus[::3].tokens)
    both = sk.retrieve(model, corpus, ["blue green", "square oval"], windows=10)
    assert [i % 3 for i in both.text_ids] == [0, 1] * 5


def test_it_is_the_equation(model, tiny_corpus):
    """TF-IDF and cosines again, from counts of one text at a time."""
    seed = "small large round"
    texts = [
        Counter(row[keep].tolist()) for row, keep in zip(tiny_corpus.tokens.numpy(), tiny_corpus.mask, strict=True)
    ]
    n, df = len(texts), Counter(token for text in texts for token in text)

    def vector(counts):
        weights = {t: c * (math.log((1 + n) / (1 + df[t])) + 1) for t, c in counts.items()}
        length = math.sqrt(sum(w * w for w in weights.values()))
        return {t: w / length for t, w in weights.items()}

    asked = vector(Counter(model.tokenizer(seed, add_special_tokens=False).input_ids))
    scores = [sum(w * asked.get(t, 0) for t, w in vector(text).items()) for text in texts]
    best = sorted(sorted(range(n), key=lambda i: -scores[i])[:7])
    found = sk.retrieve(model, tiny_corpus, [seed], windows=7)
    assert np.array_equal(found.tokens, tiny_corpus[best].tokens)


def test_chance_has_no_part_in_it(model, corpus):
    ties = sk.retrieve(model, corpus, ["0 9"], windows=3)
    assert ties.text_ids.tolist() == [2, 5, 8]
    assert np.array_equal(sk.retrieve(model, corpus, ["0 9"], windows=3).tokens, ties.tokens)
    assert len(sk.retrieve(model, corpus, ["a token that no window holds: {}"], windows=15)) == 15


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": []}, r"seeds=\[\]"),
        ({"seeds": ["red", ""]}, "none of them empty"),
        ({"seeds": "red"}, "give a list of texts"),
        ({"seeds": ["red"], "windows": 0}, "windows=0: the corpus has 15"),
        ({"seeds": ["red"], "windows": 16}, "windows=16"),
    ],
)
def test_bad_input_is_named(model, corpus, options, words):
    with pytest.raises(ValueError, match=words):
        sk.retrieve(model, corpus, **options)


def test_a_sub_corpus_is_a_source(model, corpus):
    found = sk.retrieve(model, corpus, ["red"], windows=5)
    acts = sk.Activations(model, "blocks.1.hook_resid_post", found)
    assert next(acts.batches(8)).x.shape == (8, 32)
