"""`Activations`: the stream of activations a coder trains on.

The stream is a pure function of (model, corpus, sites, seed, position). Windows of the corpus are visited in a seeded
order, in blocks; a block is harvested by one pass of the model that stops at the last hook needed, its rows are
shuffled, and they are served one batch after another, across the borders of blocks. BOS and padding are left out.
A resumed run harvests its current block again and goes on at the same row.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..corpus import Corpus
from ..files import replacing
from ..hooks import Site, capture, model_record

HELD_OUT_SHARE = 1 / 32  # of the windows: for calibration and the curves of a run, never in the stream
FORWARD_WINDOWS = 4


class Batch(NamedTuple):
    """Rows of a site: what the coder reads, and what it is to reconstruct."""

    x: Float[Tensor, "rows d_in"]
    y: Float[Tensor, "rows d_out"]


class Windows(NamedTuple):
    """The rows of whole windows, in their order, with what a forward pass on them needs."""

    x: Float[Tensor, "rows d_in"]
    y: Float[Tensor, "rows d_out"]
    tokens: Int[Tensor, "windows pos"]
    mask: Bool[Tensor, "windows pos"]  # the tokens whose rows these are
    model: Any
    site: Site
    scale: float | Float[Tensor, " d_out"] = 1.0  # what y was multiplied by


@runtime_checkable
class Source(Protocol):
    """What `sk.train` asks of a source of training data. `site`, `model` and `corpus` may be None."""

    site: Site | None
    model: Any
    corpus: Any
    seed: int
    d_in: int
    d_out: int

    def __len__(self) -> int: ...

    def held_out(self, rows: int) -> Batch: ...

    def batches(
        self, size: int, start: int = 0, *, until: Callable[[], bool] = lambda: False
    ) -> Iterator[Batch | Windows]: ...


class Activations:
    """Activations at `site` of `model` over `corpus`: `tokens` rows, then the same windows again in a new order.

    `site`: a Site; a list of sites is pooled, each row from one of them. `block`: rows that are held and shuffled
    together. `cache`: a folder that keeps harvested blocks, so that a second run does not need the model.
    `sequences=True`: batches are whole windows, as many as hold about the rows asked for, for objectives that run the
    model on the reconstruction (`kl`, `downstream`, `causal`); nothing is shuffled within them, and nothing cached.

    Raises ValueError for an unknown hook, another tokenizer's corpus, sites of different width, a corpus too short to
    hold any windows back, and activations that are not finite; OSError when the cache cannot be written.
    """

    def __init__(
        self,
        model: Any,
        site: Site | str | Sequence[Site],
        corpus: Corpus,
        tokens: int | None = None,
        *,
        seed: int = 0,
        block: int = 32_768,
        cache: str | os.PathLike | None = None,
        sequences: bool = False,
    ) -> None:
        sites = [site] if isinstance(site, Site | str) else list(site)
        self.sites = [Site(s) if isinstance(s, str) else s for s in sites]
        self.model, self.corpus, self.seed = model, corpus, seed
        corpus.check_model(model)
        self.d_in, self.d_out = _common_widths(model, self.sites)
        rows = corpus.mask.sum(1) * len(self.sites)
        self._train, self._held_out = _split(rows, tokens, seed)
        self._rows = rows
        self._per_block = max(1, int(block / max(1.0, rows[self._train].mean())))
        self.sequences = sequences
        if sequences and (cache is not None or len(self.sites) > 1):
            raise ValueError(
                "whole sequences come from one site and are not cached: leave out cache, or sequences=True"
            )
        self.cache = None if cache is None else _opened(Path(cache), self._fingerprint())

    def __repr__(self) -> str:
        names = ", ".join(site.name for site in self.sites)
        return f"Activations({names}; {len(self):,} tokens of width {self.d_in}, seed {self.seed})"

    def __len__(self) -> int:
        """Rows in one pass over the windows."""
        return int(self._rows[self._train].sum())

    @property
    def site(self) -> Site:
        """The site a coder trained here belongs to; the first one where several are pooled."""
        return self.sites[0]

    @property
    def held_out_windows(self) -> Int[np.ndarray, " n"]:
        """Windows of the corpus that the stream never serves, in a seeded order."""
        return self._held_out

    def batches(
        self, size: int, start: int = 0, *, until: Callable[[], bool] = lambda: False
    ) -> Iterator[Batch | Windows]:
        """Batches of `size` rows from row `start` of the stream on, without end; of whole sequences, about that many.

        `until` is asked before every pass of the model; once it says True the stream ends, without its last block.
        """
        if self.sequences:
            yield from self._whole(size, start, until)
            return
        left = Batch(torch.empty(0, self.d_in), torch.empty(0, self.d_out))  # fewer rows than a batch
        for block in self._blocks(start, until):
            while len(left.x) + len(block.x) >= size:
                need = size - len(left.x)
                yield _below(left, _rows(block, 0, need))
                left, block = _rows(left, 0, 0), _rows(block, need, None)
            left = _below(left, block)

    def held_out(self, rows: int) -> Batch:
        """About `rows` rows that the stream never serves; the same ones at every call."""
        per_window = self._rows[self._held_out].mean()
        batch = self._harvest(self._held_out[: max(1, int(np.ceil(rows / per_window)))])
        return _rows(batch, 0, rows)

    def _whole(self, size: int, start: int, until: Callable[[], bool]) -> Iterator[Windows]:
        """Batch number `start / size` of whole windows and those after it."""
        per_batch = max(1, round(size / float(self._rows[self._train].mean())))
        position = start // size * per_batch
        while not until():
            chosen = [self._window(position + i) for i in range(per_batch)]
            position += per_batch
            index = torch.tensor(chosen)
            mask = torch.from_numpy(self.corpus.mask[index.numpy()])
            seen = capture(self.model, self.corpus.tokens[index], self.site)
            x = _finite(self.site.inputs(seen)[mask], self.site)
            y = x if self.site.writes == self.site.reads else _finite(self.site.targets(seen)[mask], self.site)
            yield Windows(x, y, self.corpus.tokens[index], mask, self.model, self.site)

    def _window(self, position: int) -> int:
        epoch, place = divmod(position, len(self._train))
        return int(np.random.default_rng([self.seed, epoch]).permutation(self._train)[place])

    def _blocks(self, start: int, until: Callable[[], bool]) -> Iterator[Batch]:
        """The blocks of the stream, the first one without the rows before `start`."""
        epoch, skip = divmod(start, len(self))
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(self._train)
            for i in range(0, len(order), self._per_block):
                windows = order[i : i + self._per_block]
                rows = int(self._rows[windows].sum())
                if skip < rows:
                    block = self._block(windows, epoch, i, until)
                    if block is None:
                        return
                    yield _rows(block, skip, None)
                skip = max(0, skip - rows)
            epoch += 1

    def _block(self, windows: Int[np.ndarray, " n"], epoch: int, i: int, until: Callable[[], bool]) -> Batch | None:
        """One block, shuffled; from the cache where it is there. None if the stream was to end before it was whole."""
        shuffle = np.random.default_rng([self.seed, epoch, i])
        if self.cache is None:
            return self._harvest(windows, shuffle, until)
        shard = self.cache / f"{epoch:03d}-{i:07d}.safetensors"
        try:
            found = load_file(shard)
            return Batch(found["x"], found.get("y", found["x"]))
        except (FileNotFoundError, SafetensorError):
            block = self._harvest(windows, shuffle, until)
            if block is None:
                return None
            with replacing(shard) as temporary:
                save_file({"x": block.x} if block.y is block.x else block._asdict(), temporary)
            return block

    @torch.no_grad()
    def _harvest(
        self,
        windows: Int[np.ndarray, " n"],
        shuffle: np.random.Generator | None = None,
        until: Callable[[], bool] = lambda: False,
    ) -> Batch | None:
        """Every row of these windows at every site, each written straight to its place; None if told to end."""
        n = int(self._rows[windows].sum())
        places = torch.from_numpy(np.arange(n) if shuffle is None else shuffle.permutation(n))
        x = torch.empty(n, self.d_in)
        y = x if all(site.writes == site.reads for site in self.sites) else torch.empty(n, self.d_out)
        done = 0
        for i in range(0, len(windows), FORWARD_WINDOWS):
            if until():
                return None
            chosen = np.sort(windows[i : i + FORWARD_WINDOWS])
            mask = torch.from_numpy(self.corpus.mask[chosen])
            seen = capture(self.model, self.corpus.tokens[torch.from_numpy(chosen)], *self.sites)
            for site in self.sites:
                inputs = site.inputs(seen)[mask]
                at = places[done : done + len(inputs)]
                x[at] = _finite(inputs, site)
                if y is not x:
                    y[at] = _finite(site.targets(seen)[mask], site)
                done += len(inputs)
        return Batch(x, y)

    def _fingerprint(self) -> str:
        about = [model_record(self.model), self.corpus.fingerprint, [s.name for s in self.sites], self._per_block]
        windows = hashlib.sha256(self.corpus.tokens[torch.from_numpy(self._train)].numpy()).hexdigest()
        return hashlib.sha256(json.dumps([*about, self.seed, windows]).encode()).hexdigest()[:16]


def _common_widths(model: Any, sites: list[Site]) -> tuple[int, int]:
    widths = {site.name: site.check(model) for site in sites}
    if len(set(widths.values())) > 1:
        raise ValueError(f"pooled sites must have the same width; these have {widths}")
    return next(iter(widths.values()))


def _split(rows: Int[np.ndarray, " windows"], tokens: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(windows of the stream, windows held out), both in a seeded order; the stream has just `tokens` rows or more."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(rows))
    if len(order) < 2:
        raise ValueError(f"a corpus of {len(order)} windows with text; at least 2 are needed, one of them held out")
    n = max(1, int(len(order) * HELD_OUT_SHARE))
    held_out, train = order[:n], order[n:]
    if tokens is not None:
        if tokens < 1:
            raise ValueError(f"tokens={tokens}: give a positive number, or None for the whole corpus")
        train = train[: int(np.searchsorted(rows[train].cumsum(), tokens)) + 1]
    return train, held_out


def _finite(x: Tensor, site: Site) -> Tensor:
    if not bool(torch.isfinite(x.sum())) and not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).any(1).sum())
        raise ValueError(
            f"{bad} of {len(x)} activations at {site.name!r} are NaN or infinite; load the model in float32"
        )
    return x.float()


def _rows(batch: Batch, start: int, stop: int | None) -> Batch:
    x = batch.x[start:stop]
    return Batch(x, x if batch.y is batch.x else batch.y[start:stop])


def _below(upper: Batch, lower: Batch) -> Batch:
    """One batch below the other. An autoencoder's target stays its input: the same tensor, not a copy."""
    if not len(upper.x):
        return lower
    x = torch.cat([upper.x, lower.x])
    return Batch(x, x if lower.y is lower.x else torch.cat([upper.y, lower.y]))


def _opened(folder: Path, fingerprint: str) -> Path:
    folder = folder / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    return folder
