"""Texts -> tokens with labels. Every text here is our own."""

import json
import os
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import saekit.corpus.sources as sources
import saekit.corpus.store as store
from saekit.corpus import HELD_OUT, IDENTITY, LABELS, Text, fingerprint, load_corpus, python_spans
from saekit.corpus.windows import token_bits
from saekit.hooks import hub_answers

MODEL_FOLDER = Path(sources.__file__).parents[1] / "assets" / "model"
CODE = '''"""Ünïcode 🙂 docs."""
import os


class Cat(object):
    # says (it)
    def purr(self, loud=True):
        return f"{self} purrs {loud!r}" + "é" * 3 if loud else [1, (2, {3: None})]
'''


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def model():
    tokenizer = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    return SimpleNamespace(tokenizer=tokenizer, cfg=SimpleNamespace(n_ctx=64, d_vocab=len(tokenizer)))


def merging_tokenizer(**special):
    """Tokens that cross everything: `):`, `=1`, a name with its bracket. No BOS unless given."""
    pieces = [*map(chr, range(32, 127)), "\n", "):", "=1", "f(", "é", '""', "<s>"]
    backend = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate([*pieces, "?"])}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(pattern=Regex(r'\):|=1|f\(|""|[\s\S]'), behavior="isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=32, **special)


# ------------------------------------------------------------------ tokens


@pytest.mark.parametrize("length", [3, 62, 63, 64, 79, 200])
def test_windows_hold_the_text_bos_first(model, length):
    text = " ".join(["lorem"] * length)
    ids = model.tokenizer(text, add_special_tokens=False).input_ids
    corpus = load_corpus(model, [text])
    assert corpus.tokens.dtype == torch.int64
    assert (corpus.tokens[:, 0] == model.tokenizer.bos_token_id).all()
    assert not corpus.mask[:, 0].any()
    rest = len(ids) % 63
    expected = ids if rest >= 16 or len(ids) < 63 else ids[: len(ids) - rest]
    assert corpus.tokens[torch.from_numpy(corpus.mask)].tolist() == expected
    assert corpus.n_tokens == len(expected) == corpus.mask.sum()
    assert corpus.tokens.shape[1] == min(64, 1 + len(ids))
    assert corpus.names == ["text 0"] * len(corpus)


def test_special_tokens_in_a_text_and_padding_are_masked(model):
    bos = model.tokenizer.bos_token
    corpus = load_corpus(model, [f"one {bos} two", "one two three four five six seven eight nine"])
    specials = corpus.tokens == model.tokenizer.bos_token_id
    assert (specials[:, 1:].sum(1) > 0)[0]
    assert not corpus.mask[specials.numpy()].any()


def test_leftover_truncation_of_a_tokenizer_changes_nothing(model):
    tokenizer = AutoTokenizer.from_pretrained(MODEL_FOLDER)
    before = fingerprint(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer(["some words to cut", "a"], truncation=True, max_length=2, padding="max_length")
    assert fingerprint(tokenizer) == before
    assert (
        load_corpus(tokenizer, ["one two three " * 20], context=64).n_tokens
        == load_corpus(model, ["one two three " * 20]).n_tokens
    )


def test_tokenizer_without_bos_has_no_lead():
    corpus = load_corpus(merging_tokenizer(), ["abcdef"])
    assert corpus.lead == 0
    assert corpus.mask.all()
    assert corpus.scored[0].tolist() == [False, False, True, True, True, True]
    with_eos = load_corpus(merging_tokenizer(eos_token="<s>"), ["abcdef"])
    assert with_eos.lead == 1
    assert with_eos.tokens.shape == (1, 7)


# ------------------------------------------------------------------ labels


def brute_force(tokenizer, text, spans):
    """Labels and `mixed` of each token, character by character."""
    states = [
        frozenset(label for label, found in spans.items() if any(a <= i < b for a, b in found))
        for i in range(len(text))
    ]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    for start, end in encoded.offset_mapping:
        visible = [i for i in range(start, end) if not text[i].isspace()] or list(range(start, end))
        covered = states[visible[0] : visible[-1] + 1]
        yield covered[0], len(set(covered)) > 1


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        CODE.replace("    ", "\t"),
        "if f(x)==1:\n f(y)\ndef f():pass\nx=1\nx=''\"\"  # é\n",
        Path(sources.__file__).read_text(),
    ],
)
@pytest.mark.parametrize("merging", [False, True])
def test_token_labels_agree_with_brute_force(model, text, merging):
    tokenizer = merging_tokenizer() if merging else model.tokenizer
    spans = python_spans(text)
    offsets = np.array(tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping)
    bit_of = {"mixed": 1} | {label: i for i, label in enumerate(spans, 2)}
    bits = token_bits(text, offsets, spans, bit_of)
    for packed, (labels, mixed) in zip(bits.tolist(), brute_force(tokenizer, text, spans), strict=True):
        assert packed == sum(1 << bit_of[label] for label in labels) | mixed << 1


def test_overlapping_and_random_spans_agree_with_brute_force(model):
    random = np.random.default_rng(0)
    text = "".join(random.choice(list("ab (\n\u3000🙂é"), 300))
    spans = {f"l{i}": [tuple(sorted(pair)) for pair in random.integers(0, 301, (9, 2)).tolist()] for i in range(9)}
    corpus = load_corpus(model, [text], labels=[spans], context=64)
    expected = list(brute_force(model.tokenizer, text, spans))[: corpus.n_tokens]
    for label in spans:
        assert corpus.labels[label][corpus.mask].tolist() == [label in labels for labels, _ in expected]
    assert corpus.labels["mixed"][corpus.mask].tolist() == [mixed for _, mixed in expected]


def test_merged_tokens_are_mixed_and_not_scored():
    corpus = load_corpus(merging_tokenizer(), [Text("x=1;f(x):", "t", {"bracket": [(5, 7)], "number": [(2, 3)]})])
    assert corpus.labels["mixed"].tolist() == [[False, True, False, True, False, False]]
    assert corpus.scored.tolist() == [[False, False, True, False, True, True]]
    assert corpus.labels["bracket"].tolist() == [[False, False, False, False, True, False]]


def test_a_span_of_mixed_is_not_scored_and_labels_are_a_mapping(model):
    corpus = load_corpus(model, ["one two three four five six"], labels=[{"mixed": [(8, 18)], "mine": [(4, 7)]}])
    assert list(corpus.labels) == ["mixed", "mine"]
    assert corpus.scored.sum() < corpus.mask.sum() - 2
    assert corpus.identity_labels == frozenset()
    with pytest.raises(KeyError, match="no label 'docstring'; this corpus has mixed, mine"):
        corpus.labels["docstring"]


def test_more_than_thirty_labels(model):
    spans = {f"label {i}": [(i, i + 1)] for i in range(60)}
    corpus = load_corpus(model, ["a " * 60], labels=[spans])
    assert corpus.labels["label 58"].sum() == 1
    with pytest.raises(ValueError, match="labels or more, but 61 are the most"):
        load_corpus(model, ["some words"], labels=[{f"label {i}": [(0, 1)] for i in range(70)}])


def test_python_beside_text_scores_python_only(model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.py").write_bytes(b"# -*- coding: latin-1 -*-\r\nx = '\xe9'  # \xfc\r\n" + b"y = [1]\r\n" * 9)
    (tmp_path / "in" / "b.py").write_text("def broken(:\n" * 9)
    (tmp_path / "in" / "c.txt").write_text("only words here, and more of them")
    (tmp_path / "in" / "d.png").write_bytes(b"\x89PNG\0\xff")
    (tmp_path / "in" / ".hidden.py").write_text("x = 1\n")
    corpus = load_corpus(model, tmp_path / "in")
    assert sorted(set(corpus.names)) == ["a.py", "b.py", "c.txt"]
    assert {name for name, scored in zip(corpus.names, corpus.scored, strict=True) if scored.any()} == {"a.py"}
    assert corpus.labels["string"].any()
    assert set(corpus.label_names) == set(LABELS)
    assert corpus.identity_labels == IDENTITY
    alone = load_corpus(model, tmp_path / "in" / "c.txt")
    assert alone.scored.any()
    assert alone.label_names == ()


# ------------------------------------------------------------------ the standard library


@pytest.fixture(scope="module")
def library(model, tmp_path_factory):
    model = SimpleNamespace(tokenizer=model.tokenizer, cfg=SimpleNamespace(n_ctx=256))
    return load_corpus(model, files=40, cache=tmp_path_factory.mktemp("library"))


def test_library_labels_make_sense(library):
    rates = {label: on[library.scored].mean() for label, on in library.labels.items()}
    bounds = {"docstring": (0.1, 0.35), "comment": (0.05, 0.3), "string": (0.05, 0.25), "bracket": (0.2, 0.45)}
    bounds |= {"depth 2+": (0.01, 0.08), "depth 3+": (0.0005, 0.02), "keyword": (0.02, 0.08), "number": (0.003, 0.03)}
    bounds |= {"indent 1": (0.1, 0.5), "indent 2": (0.15, 0.5), "argument": (0.005, 0.04), "mixed": (0, 0)}
    assert all(low <= rates[label] <= high for label, (low, high) in bounds.items()), rates
    labels = library.labels
    assert library.labels["mixed"].sum() < 0.05 * library.n_tokens
    assert not (labels["docstring"] & (labels["comment"] | labels["string"])).any()
    assert (labels["bracket"] == (labels["depth 1"] | labels["depth 2+"])).all()
    assert not (labels["depth 3+"] & ~labels["depth 2+"]).any()
    assert not any((labels[name] & ~library.mask).any() for name in labels)


def test_parts_of_the_library(library, model):
    parts = {split: sources.open_source("stdlib").choose(split, None) for split in (None, "train", "held_out")}
    names = sources.open_source("stdlib").names
    assert sorted(parts["train"] + parts["held_out"]) == parts[None]
    assert {names[i].split("/")[0] for i in parts["held_out"]} == set(HELD_OUT)
    assert not any({"test", "tests", "site-packages", "idlelib"} & set(name.split("/")) for name in names)
    assert len(set(library.names)) == 40
    assert set(load_corpus(model, files=3, split="held_out").names) < {names[i] for i in parts["held_out"]}


def test_a_python_without_its_library_says_what_to_install(model, monkeypatch, tmp_path):
    monkeypatch.setattr(sources.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(OSError, match=r"no \.py files in .* install python3-full"):
        load_corpus(model)


def test_our_own_sources(model):
    corpus = load_corpus(model, "saekit")
    assert "corpus/labels.py" in corpus.names
    assert corpus.labels["docstring"].any()


# ------------------------------------------------------------------ other sources


def test_split_is_a_tenth_by_name(model):
    texts = [Text(f"words of text {i}", f"name {i}") for i in range(300)]
    both = [set(load_corpus(model, texts, split=split).names) for split in ("train", "held_out")]
    assert not both[0] & both[1]
    assert len(both[0] | both[1]) == 300
    assert 10 < len(both[1]) < 60
    assert set(load_corpus(model, texts[::-1], split="held_out").names) == both[1]
    assert load_corpus(model, texts, files=7).names == load_corpus(model, texts, files=7).names
    assert len(load_corpus(model, texts, files=7)) == 7


TABLE = {"id": [1, 2, 3], "text": ["the first text", None, "the third text"]}


@pytest.mark.parametrize("kind", ["memory", "disk", "dict", "dict on disk", "jsonl", "parquet"])
def test_datasets(model, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    data = datasets.Dataset.from_dict(TABLE)
    path = tmp_path / kind
    if kind == "memory":
        path = data
    elif kind == "dict":
        path = datasets.DatasetDict(train=data, test=data.select([0]))
    elif kind == "disk":
        data.save_to_disk(path)
    elif kind == "dict on disk":
        datasets.DatasetDict(only=data).save_to_disk(path)
    else:
        path = tmp_path / f"table.{kind}"
        data.to_json(path) if kind == "jsonl" else data.to_parquet(path)
    corpus = load_corpus(model, path)
    assert [name.rpartition("/")[2] for name in corpus.names] == ["0", "2"]
    assert model.tokenizer.decode(corpus.tokens[1][torch.from_numpy(corpus.mask[1])]) == "the third text"
    assert corpus.scored.any()


def test_hub_without_a_network_fails_at_once(model, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    hub_answers.cache_clear()
    begun = time.monotonic()
    with pytest.raises(OSError, match=r"cannot load 'hf:someone/something' from the hub .* unset HF_HUB_OFFLINE"):
        load_corpus(model, "hf:someone/something")
    assert time.monotonic() - begun < 5


# ------------------------------------------------------------------ the object


def test_slices_are_corpora(model):
    corpus = load_corpus(
        model, [CODE, "other words", CODE * 3], labels=[python_spans(CODE), {}, python_spans(CODE * 3)]
    )
    part = corpus[1:3]
    assert len(part) == 2
    assert part.names == corpus.names[1:3]
    assert (part.scored == corpus.scored[1:3]).all()
    assert (part.labels["string"] == corpus.labels["string"][1:3]).all()
    picked = corpus[np.array(corpus.names) == "text 1"]
    assert picked.names == ["text 1"]
    assert [one.names for one in corpus] == [[name] for name in corpus.names]
    assert corpus[-1].tokens.tolist() == corpus.tokens[-1:].tolist()
    assert f"{corpus.n_tokens:,} tokens" in repr(corpus)
    assert "docstring" in repr(corpus.labels)


def test_check_model(model):
    corpus = load_corpus(model, ["some words"])
    corpus.check_model(model)
    corpus.check_model(model.tokenizer)
    other = merging_tokenizer()
    with pytest.raises(ValueError, match=rf"tokenized by {corpus.fingerprint}, but .* {fingerprint(other)}"):
        corpus.check_model(other)


# ------------------------------------------------------------------ the cache


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.py").write_text(CODE * 2)
    (folder / "b.py").write_text(CODE)
    return folder


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "bits", "text_ids")
    ) and (one.texts == other.texts and one.label_names == other.label_names and one.fingerprint == other.fingerprint)


def forbid(*args):
    raise AssertionError("read again")


def test_cached_and_made_again_when_anything_changes(model, folder, own_cache, monkeypatch):
    first = load_corpus(model, folder)
    assert len(list(own_cache.rglob("*"))) == 2  # a folder and a file, nothing temporary
    with monkeypatch.context() as patch:
        patch.setattr(sources, "_read", forbid)
        again = load_corpus(model, folder)
    assert same(first, again)
    again.tokens[0, 0] = 5  # a private page, not the file
    assert same(first, load_corpus(model, folder))
    os.utime(folder / "b.py", (1, 1))
    load_corpus(model, folder)
    load_corpus(model, folder, context=32)
    load_corpus(model, folder, files=1)
    assert len(list(own_cache.rglob("*.safetensors"))) == 4


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "foreign", "words"])
def test_damaged_cache_is_made_again(model, folder, own_cache, damage):
    first = load_corpus(model, folder)
    first = replace(first, tokens=first.tokens.clone(), bits=first.bits.copy(), text_ids=first.text_ids.copy())
    (path,) = own_cache.rglob("*.safetensors")
    whole = path.read_bytes()
    damaged = {
        "truncated": whole[:-9],
        "empty": b"",
        "flipped": whole[:-200] + bytes([whole[-200] ^ 1]) + whole[-199:],
        "foreign": json.dumps({"a": 1}).encode() * 9,
        "words": whole.replace(b"a.py", b"b.py"),
    }
    path.unlink()
    path.write_bytes(damaged[damage])
    assert store.open_saved(path) is None
    assert same(first, load_corpus(model, folder))
    assert same(first, store.open_saved(path))


def test_cache_that_cannot_be_written_loses_nothing(model, folder, tmp_path, monkeypatch):
    kept = load_corpus(model, folder)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="set SAEKIT_CACHE="):
        assert same(kept, load_corpus(model, folder))
    with pytest.raises(OSError, match="file"):
        load_corpus(model, folder, cache=tmp_path / "file")


def test_full_disk_loses_nothing_and_leaves_nothing(model, folder, own_cache, monkeypatch):
    kept = load_corpus(model, folder, cache=own_cache / "other")

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise store.SafetensorError("No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert same(kept, load_corpus(model, folder))
    assert list((own_cache / "corpus").iterdir()) == []
    with pytest.raises(OSError, match="No space left"):
        load_corpus(model, folder, cache=own_cache / "third")


def test_strings_are_not_cached(model, own_cache):
    load_corpus(model, ["some words"])
    assert not own_cache.exists()


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([], {}, "nothing to read in 0 texts"),
        (["", " \n"], {}, "nothing to read in 2 texts"),
        (["a"], {}, "too short: its longest text has 1 token"),
        (["some words"], {"split": "test"}, "split must be None, 'train' or 'held_out', not 'test'"),
        (["some words"], {"files": 0}, "files must be at least 1"),
        (["some words"], {"context": 3}, "context=3 must lie between 4 and the model's context of 64"),
        (["some words"], {"context": 65}, "context=65 must lie between"),
        (["some words"], {"labels": []}, "labels= takes one dict of spans for each string"),
        ("stdlib", {"labels": [{}]}, "labels= takes"),
        (["some words"], {"labels": [{"x": [(3, 11)]}]}, r"text 0: 'x' spans \(3, 11\), but the text is 10 characters"),
        (["some words"], {"labels": [{"x": [(3, 2)]}]}, r"spans \(3, 2\)"),
        ([Text("some", "name", {"x": [(-1, 2)]})], {}, r"name: 'x' spans \(-1, 2\)"),
        ([b"bytes"], {}, "strings or Text, not bytes"),
        (["\ud800 lone"], {}, "text 0 holds half a surrogate pair at character 0"),
        (7, {}, "no corpus from a int"),
        (datasets.Dataset.from_dict({"a": ["x"], "b": ["y"]}), {}, "which column of .* holds the text"),
        (datasets.Dataset.from_dict(TABLE).to_iterable_dataset(), {}, "streams: take a part"),
        (
            datasets.DatasetDict(a=datasets.Dataset.from_dict(TABLE), b=datasets.Dataset.from_dict(TABLE)),
            {},
            "give one of",
        ),
    ],
)
def test_errors_name_the_value(model, source, options, message):
    with pytest.raises(ValueError, match=message):
        load_corpus(model, source, **options)


def test_paths_that_hold_no_text(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder 'stdlibb'"):
        load_corpus(model, "stdlibb")
    with pytest.raises(ValueError, match="nothing to read"):
        load_corpus(model, tmp_path)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\xff")
    with pytest.raises(ValueError, match="nothing to read"):
        load_corpus(model, tmp_path / "picture.png")


def test_tokenizers_that_will_not_do(model):
    with pytest.raises(ValueError, match="SimpleNamespace cannot tell which characters"):
        load_corpus(SimpleNamespace(bos_token_id=0), ["some words"])
    with pytest.raises(ValueError, match="give context="):
        load_corpus(model.tokenizer, ["some words"])
    small = SimpleNamespace(tokenizer=model.tokenizer, cfg=SimpleNamespace(n_ctx=64, d_vocab=3))
    with pytest.raises(ValueError, match="but the model has 3"):
        load_corpus(small, ["some words"])


def test_a_quiet_load_warns_of_nothing(model, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_corpus(model, folder)
