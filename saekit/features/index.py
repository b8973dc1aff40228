"""`Features`: an index of every latent of a coder over a corpus, collected in one pass, kept on disk."""

import operator
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from ..coder import SparseCoder
from ..corpus import Corpus
from ..train.loop import interruptible
from . import store, table
from .again import reencoded
from .auc import auc
from .examples import Excerpts
from .forward import check, encoded, trim
from .latent import Latent
from .notes import Notes
from .scores import Meetings
from .store import Index
from .tally import Tally

FILE = "index.safetensors"


class Features:
    """The latents of `coder` on `model` over `corpus`: `len(features)` of them, `features[i]` is one, a `Latent`.

    Made by `collect` or `open`. n: tokens seen, BOS and padding left out.
    """

    def __init__(self, model: Any, coder: SparseCoder, corpus: Corpus, index: Index) -> None:
        self.model, self.coder, self.corpus, self.index = model, coder, corpus, index
        self.excerpts = Excerpts(corpus, model.tokenizer)

    @staticmethod
    def collect(
        model: Any,
        coder: SparseCoder,
        corpus: Corpus,
        *,
        path: str | os.PathLike | None = None,
        top: int = 32,
        sample: int = 32_768,
        seed: int = 0,
        progress: bool = True,
    ) -> "Features":
        """The index of all latents, from one pass over the corpus that ends at the coder's site.

        path: its folder; unless given, one of its own in `$SAEKIT_CACHE` or `~/.cache/saekit`. An index that is there
        for the same model, coder, corpus and settings is opened, memory-mapped; any other is replaced.
        top: how many of each latent's largest firings to keep, one per window. sample: how many tokens, drawn at
        random, to keep all codes of: co-firing, AUC, rules and tries are measured on them. seed: of what is drawn.
        Ctrl-C ends the pass and returns what was seen, with a warning; that is not kept on disk.

        Raises ValueError for a corpus of another tokenizer, a coder of another site, width or model or one still in
        training, and activations that are not finite; OSError when a `path` given cannot be written.
        """
        check(model, coder, corpus)
        if top < 1 or sample < 1 or not corpus.n_tokens:
            raise ValueError(
                f"top={top}, sample={sample}, {corpus.n_tokens} tokens: at least 1 firing and 1 token are needed"
            )
        about = store.identity(model, coder, corpus) | {"settings": {"top": top, "sample": sample, "seed": seed}}
        file = _file(path, about)
        index = _opened(file, about)
        if index is None and path is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=file.parent).close()  # before the work, not after it
        if index is None:
            index = _passed(model, coder, corpus, Tally(corpus, coder.d_sae, top, sample, seed), progress)
            trim()
            if index.n == corpus.n_tokens:
                index = _written(index, file, about, required=path is not None)
        return Features(model, coder, corpus, index)

    @staticmethod
    def open(path: str | os.PathLike, model: Any, coder: SparseCoder, corpus: Corpus) -> "Features":
        """The index in a folder, memory-mapped.

        Raises ValueError when there is none, when it is damaged, and when it belongs to another coder, model or
        corpus, naming both sides.
        """
        check(model, coder, corpus)
        file = Path(path).expanduser() / FILE
        index, about = store.read(file)
        store.check_same(file, about, store.identity(model, coder, corpus))
        return Features(model, coder, corpus, index)

    @property
    def n(self) -> int:
        """Tokens seen."""
        return self.index.n

    @cached_property
    def meetings(self) -> Meetings:
        """How often latents and labels meet."""
        return replace(Meetings.none(self.corpus, len(self)), counts=self.index.counts, base=self.index.base)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row for each latent.

        density: share of tokens it is on at. max, mean: its activations where it is on. label: the label that its
        F1 is furthest above always_fire, "" if none, with context, precision, recall, f1, always_fire of its scores.
        tokens: up to 4 tokens at which its largest firings are, most frequent first. A dead latent has zeros.
        """
        return table.table_of(self)

    @cached_property
    def notes(self) -> Notes:
        """Notes and stars of the latents of this coder, kept in `$SAEKIT_HOME` or `~/.saekit`."""
        return Notes(store.fingerprint({"coder": store.coder_identity(self.coder)}))

    @cached_property
    def test_windows(self) -> Bool[np.ndarray, " windows"]:
        """The windows of test documents, half of all; the others are for training. See `Corpus.test_windows`."""
        return self.corpus.test_windows()

    @cached_property
    def truth(self) -> Bool[np.ndarray, "m labels"]:
        """Which of `meetings.labels` hold at each sampled token."""
        return self.meetings.truth(self.corpus, self.index.sample.place)

    @cached_property
    def scored(self) -> Bool[np.ndarray, " m"]:
        """Which of the sampled tokens are scored."""
        return self.corpus.scored.reshape(-1)[self.index.sample.place]

    @cached_property
    def auc(self) -> pd.DataFrame:
        """For each latent and label, the chance that the latent is stronger at a token with the label than at one
        without (ties count half), over the scored ones of the sampled tokens. NaN where there are none of either."""
        index = pd.RangeIndex(len(self), name="latent")
        return pd.DataFrame(auc(self.index.sample, self.truth, self.scored), index, list(self.meetings.labels))

    @cached_property
    def neurons(self) -> pd.DataFrame:
        """A row for each label: the best single dimension of what the coder reads, with its sign, AUC and best F1.

        The baseline of a latent's AUC and F1, on up to 8,192 sampled tokens; see `saekit.features.neurons`.
        """
        index = pd.Index(self.meetings.labels, dtype=object, name="label")
        return pd.DataFrame(self.index.neurons._asdict(), index=index)

    def reencode(self, n: int = 100, seed: int = 0) -> pd.DataFrame:
        """n stored firings beside what the model and coder make of their windows now; see `saekit.features.again`.

        Columns: latent, window, pos, stored, again, error = |again - stored| / stored.
        """
        return reencoded(self, n, seed)

    def label_scores(self) -> pd.DataFrame:
        """A row for each (latent, label) that meet at least once: what `saekit.features.label_scores` measures."""
        return self.meetings.table()

    def search(
        self,
        query: str | int = "",
        *,
        label: str | None = None,
        token: str | None = None,
        regex: str | None = None,
        starred: bool = False,
    ) -> pd.DataFrame:
        """Rows of `table` to which everything given applies, best F1 first; never a dead latent.

        query: a latent's number; or a part of its label, of one of its tokens or of its note, in any case. label: its
        label. token: one of its tokens, with or without the blanks around it. regex: found in the text shown of one
        of its largest firings. starred: it has a star.
        Raises ValueError for a label that the corpus has not, and for a malformed regex.
        """
        return table.found(self, query, label, token, regex, starred)

    def __len__(self) -> int:
        return self.coder.d_sae

    def __getitem__(self, latent: Any) -> Latent:
        """Raises ValueError for what is not the number of a latent."""
        try:
            number = operator.index(latent)
        except TypeError as error:
            raise ValueError(f"latent {latent!r} is not a whole number; give one in [0, {len(self)})") from error
        if not 0 <= number < len(self):
            raise ValueError(f"latent {number} is not in [0, {len(self)}), the latents of this coder")
        return Latent(self, number)

    def __iter__(self) -> Iterator[Latent]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        where = f"{self.coder.site.name} of {self.model.cfg.model_name}"
        return f"Features({len(self):,} latents at {where} over {self.n:,} tokens of {self.corpus.source})"


def _passed(model: Any, coder: SparseCoder, corpus: Corpus, tally: Tally, progress: bool) -> Index:
    """The index after the pass, or after the part of it that there was time for."""
    try:
        with interruptible() as interrupted:
            for seen in encoded(model, coder, corpus, progress=progress):
                tally.add(seen.start, seen.part, seen.codes, seen.x)
                if interrupted.is_set():
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if tally.n == 0:
            raise
    if tally.n < corpus.n_tokens:
        warnings.warn(
            f"interrupted: this index holds {tally.n:,} of {corpus.n_tokens:,} tokens and is not kept on disk; "
            "collect once more for all of them",
            stacklevel=3,
        )
    return Index.of(tally)


def _file(path: str | os.PathLike | None, about: dict[str, Any]) -> Path:
    if path is not None:
        return Path(path).expanduser() / FILE
    cache = Path(os.environ.get("SAEKIT_CACHE") or Path("~/.cache/saekit").expanduser())
    return cache / "features" / store.fingerprint(about) / FILE


def _opened(file: Path, about: dict[str, Any]) -> Index | None:
    """The index of a file, if it is whole and was made for the same."""
    try:
        index, found = store.read(file)
    except ValueError:
        return None
    return index if found == about else None


def _written(index: Index, file: Path, about: dict[str, Any], required: bool) -> Index:
    """The index from its file, memory-mapped; as it is if there is no room for a file."""
    try:
        store.save(index, file, about)
    except OSError as error:
        if required:
            raise
        warnings.warn(
            f"cannot keep the index in {file.parent} ({error}), so it will be collected again next time; "
            "to keep it, set SAEKIT_CACHE=/a/folder/with/room, or give path=",
            stacklevel=3,
        )
    return _opened(file, about) or index
