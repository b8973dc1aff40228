"""Texts with character-span labels -> tokens with token labels, for a given model."""

import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from .labels import CONTEXT, IDENTITY, LABELS, Spans, python_spans
from .retrieve import retrieve
from .sources import HELD_OUT, Source, Text, open_source
from .store import Corpus, open_saved, save
from .windows import MIXED, Windows, fingerprint, pieces

__all__ = ["CONTEXT", "HELD_OUT", "IDENTITY", "LABELS", "Corpus", "Text", "fingerprint", "load_corpus", "pieces"]
__all__ += ["python_spans", "retrieve"]

_VERSION = 1  # of labels and file; another one labels anew
_BATCH = 32  # texts


def load_corpus(
    model: Any,
    source: Any = "stdlib",
    *,
    split: str | None = None,
    files: int | None = None,
    context: int | None = None,
    labels: Sequence[Spans] | None = None,
    cache: str | Path | None = None,
) -> Corpus:
    """Tokenize texts for a model, with labels for each token where there are any.

    model: has `.tokenizer` (a fast one, which knows offsets) and `.cfg.n_ctx`; or a tokenizer, with `context=`.
    source: "stdlib", the running Python's own library, labelled (see `python_spans`); "saekit", our sources, likewise;
        a path to a file, a folder (`.py` files are labelled), a saved dataset, a .jsonl or .parquet table;
        "hf:name" or a `datasets.Dataset`; a list of strings, with `labels`, a dict of spans for each, or without;
        a list of `Text`. Next to labelled texts, texts without labels (or that do not parse) are there, but not scored.
    split: "train" or "held_out": of the standard library by package (`HELD_OUT`), else a tenth of the texts by name.
    files: about how many texts to take, always the same ones, mid-sized where sizes are known. None: all.
    context: tokens in a window, BOS included; `model.cfg.n_ctx` unless given.
    cache: folder to keep the result of files and datasets in; `$SAEKIT_CACHE` or `~/.cache/saekit` unless given.

    Raises ValueError for what cannot make a corpus, OSError for what cannot be read, or written to a `cache` given.
    """
    tokenizer = _tokenizer(model)
    context = _context(model, tokenizer, context)
    documents = open_source(source, labels)
    chosen = documents.choose(split, files)
    if documents.identity is None:
        return _build(model, tokenizer, context, documents, chosen)
    folder = Path(cache or os.environ.get("SAEKIT_CACHE") or Path("~/.cache/saekit").expanduser()) / "corpus"
    special = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, _d_vocab(model)
    made_from = documents.name, documents.identity, chosen, fingerprint(tokenizer), special, context
    key = repr((_VERSION, sys.version, made_from))
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
    if (found := open_saved(path)) is not None:
        return found
    if cache is not None:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # before the work, not after it
    return _kept(_build(model, tokenizer, context, documents, chosen), path, required=cache is not None)


def _tokenizer(model: Any) -> Any:
    tokenizer = getattr(model, "tokenizer", model)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(
            f"{type(tokenizer).__name__} cannot tell which characters a token covers: give a model whose .tokenizer is "
            "a fast one, as transformers.AutoTokenizer.from_pretrained makes"
        )
    return tokenizer


def _context(model: Any, tokenizer: Any, context: int | None) -> int:
    longest = getattr(getattr(model, "cfg", None), "n_ctx", None) or tokenizer.model_max_length
    if context is None and longest > 1_000_000:  # how transformers says that it does not know
        raise ValueError(
            "how long is the context? The tokenizer does not say: give context=, or a model with cfg.n_ctx"
        )
    context = longest if context is None else context
    if not 4 <= context <= longest:
        raise ValueError(f"context={context} must lie between 4 and the model's context of {longest} tokens")
    return context


def _d_vocab(model: Any) -> int | None:
    return getattr(getattr(model, "cfg", None), "d_vocab", None)


def _build(model: Any, tokenizer: Any, context: int, documents: Source, chosen: list[int]) -> Corpus:
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    lead = int(bos is not None)
    windows = Windows(tokenizer, context - lead)
    for begin in tqdm(range(0, len(chosen), _BATCH), f"corpus {documents.name}", delay=1, leave=False):
        texts = [documents.read(i) for i in chosen[begin : begin + _BATCH]]
        windows.add([text for text in texts if text is not None and text.text.strip()])
    _check(windows, documents, chosen, _d_vocab(model))
    tokens, bits = _laid_out(windows, bos, tokenizer.pad_token_id)
    if 0 < len(windows.unlabelled) < len(windows.texts):
        bits[np.isin(windows.owners, list(windows.unlabelled))] |= 1 << MIXED
    return Corpus(
        source=documents.name,
        tokens=torch.from_numpy(tokens),
        bits=bits,
        text_ids=np.array(windows.owners, np.int32),
        texts=tuple(windows.texts),
        label_names=tuple(windows.bit_of)[1:],  # the first is mixed
        fingerprint=fingerprint(tokenizer),
        lead=lead,
    )


def _check(windows: Windows, documents: Source, chosen: list[int], d_vocab: int | None) -> None:
    if not windows.ids:
        raise ValueError(
            f"nothing to read in {documents.name}: {len(chosen)} of its {len(documents.names)} texts were chosen, and "
            "all of them are blank or no text. Give other texts, or another split"
        )
    if (longest := max(map(len, windows.ids))) < 2:
        raise ValueError(f"{documents.name} is too short: its longest text has {longest} token, and 2 are needed")
    if d_vocab is not None and (largest := max(int(ids.max()) for ids in windows.ids)) >= d_vocab:
        raise ValueError(f"the tokenizer gives token {largest}, but the model has {d_vocab}: is it another model's?")


def _laid_out(windows: Windows, bos: int | None, pad: int | None) -> tuple[np.ndarray, np.ndarray]:
    """BOS, ids, padding: both arrays are [doc, pos], as wide as the longest window."""
    lead = int(bos is not None)
    shape = len(windows.ids), lead + max(map(len, windows.ids))
    tokens = np.full(shape, next((token for token in (pad, bos) if token is not None), 0), np.int64)
    bits = np.zeros(shape, np.int32 if len(windows.bit_of) < 30 else np.int64)
    if bos is not None:
        tokens[:, 0] = bos
    for i, (ids, labels) in enumerate(zip(windows.ids, windows.bits, strict=True)):
        tokens[i, lead : lead + len(ids)] = ids
        bits[i, lead : lead + len(ids)] = labels
    return tokens, bits


def _kept(corpus: Corpus, path: Path, required: bool) -> Corpus:
    """The corpus from its cache file, memory-mapped; as it is if there is no room for a file."""
    try:
        save(corpus, path)
    except OSError as error:
        if required:
            raise
        warnings.warn(
            f"cannot keep the corpus in {path.parent} ({error}), so it will be made again next time; "
            "to keep it, set SAEKIT_CACHE=/a/folder/with/room",
            stacklevel=3,
        )
    return open_saved(path) or corpus
