"""The training text of `tiny-python`: Python source found on this machine, without anything held out.

The text is the standard library of the running interpreter and the sources of the installed packages whose licence
is permissive. Held out, before anything else happens, are a dozen packages of the standard library, with their tests,
every vendored copy, and every file that shares 5 % of its 50-word runs with them.
"""

import hashlib
import importlib.metadata
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from saekit.corpus import HELD_OUT

NOT_TEXT = {"lib2to3", "encodings", "idlelib", "pydoc_data", "site-packages", "turtledemo", "__pycache__"}
VENDORED = {"_vendor", "vendor", "vendored", "_vendored", "externals", "extern", "tomli", "simplejson"}
GENERATED = {"plotly", "sympy", "torchgen", "google", "opentelemetry"}  # mostly tables and generated code
PERMISSIVE = re.compile(r"\b(MIT|BSD|Apache|PSF|Python Software Foundation|ISC|HPND|Unlicense)\b", re.I)
CHARACTERS = range(200, 300_001)
SHINGLE = 50  # words
WORD = re.compile(r"\w+|[^\w\s]")
BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2**64
INVERSE = pow(BASE, -1, 2**64)


class Source(NamedTuple):
    group: str  # "library", "tests" or the name of a distribution
    name: str
    text: str


def stdlib() -> Iterator[Source]:
    """The library and its tests, held-out packages included."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not NOT_TEXT.intersection(parts):
            yield from read(path, "tests" if {"test", "tests"}.intersection(parts) else "library", "/".join(parts))


def packages() -> Iterator[Source]:
    """The Python sources of every installed distribution with a permissive licence."""
    for dist in sorted(importlib.metadata.distributions(), key=lambda d: d.name.lower()):
        if not PERMISSIVE.search(licence(dist)) or dist.name.lower() == "saekit":
            continue
        for file in sorted(dist.files or [], key=str):
            if file.suffix == ".py" and not (GENERATED | NOT_TEXT).intersection(file.parts):
                yield from read(Path(str(dist.locate_file(file))), dist.name, str(file))


def licence(dist: importlib.metadata.Distribution) -> str:
    meta = dist.metadata
    classifiers = [c for c in meta.get_all("Classifier") or [] if c.startswith("License")]
    return " ".join([meta.get("License-Expression") or "", (meta.get("License") or "")[:200], *classifiers])


def read(path: Path, group: str, name: str) -> Iterator[Source]:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return
    if len(text) in CHARACTERS:
        yield Source(group, name, text)


def is_held_out(source: Source) -> bool:
    return source.group == "library" and source.name.split("/")[0] in HELD_OUT


def is_tied_to_held_out(source: Source) -> bool:
    """A test of a held-out package, or anything vendored: gone before the comparison of shingles."""
    parts = source.name.split("/")
    stems = {name.removesuffix(".py") for name in HELD_OUT}
    tests = {f"test_{stem}" for stem in stems}
    of_held_out = source.group == "tests" and any(part.removesuffix(".py") in tests | stems for part in parts)
    return of_held_out or bool(VENDORED.intersection(parts)) or "tomli" in source.group.lower()


def shingles(text: str) -> np.ndarray:
    """A 64-bit hash of each run of 50 words, in order of appearance.

    A polynomial in an odd base modulo 2**64, so that each window is a difference of two prefix sums, shifted back
    by the inverse power.
    """
    words = WORD.findall(text)
    if len(words) < SHINGLE:
        return np.zeros(0, np.uint64)
    ids = np.array([word_hash(w) for w in words], np.uint64)
    prefix = np.concatenate([np.zeros(1, np.uint64), np.cumsum(ids * powers(BASE, len(ids)))])
    return (prefix[SHINGLE:] - prefix[:-SHINGLE]) * powers(INVERSE, len(ids) - SHINGLE + 1)


def powers(base: int, n: int) -> np.ndarray:
    return np.cumprod(np.full(n, base, np.uint64)) * np.uint64(pow(base, -1, 2**64))


_hashes: dict[str, int] = {}


def word_hash(word: str) -> int:
    """The same in every process, unlike `hash`."""
    if word not in _hashes:
        _hashes[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    return _hashes[word]


def clean(candidates: Iterable[Source], held_out: Iterable[Source]) -> Iterator[Source]:
    """Drop what shares 5 % of its shingles with held-out text, and near-copies (half) of what came before."""
    forbidden = np.unique(np.concatenate([shingles(s.text) for s in held_out]))
    seen: set[int] = set()
    for source in candidates:
        runs = shingles(source.text)
        if is_tied_to_held_out(source) or (len(runs) and share_within(runs, forbidden) >= 0.05):
            continue
        sample = runs[runs % np.uint64(16) == 0].tolist()
        if len(sample) > 4 and sum(run in seen for run in sample) > len(sample) / 2:
            continue
        seen.update(sample)
        yield source


def share_within(runs: np.ndarray, ascending: np.ndarray) -> float:
    """The share of `runs` that are in `ascending`. `np.isin` would sort the whole of it again for every file."""
    at = np.minimum(np.searchsorted(ascending, runs), len(ascending) - 1)
    return float((ascending[at] == runs).mean())


def training_text() -> tuple[list[Source], list[Source]]:
    """(training sources, held-out sources), disjoint in the sense above, in a fixed order."""
    library = list(stdlib())
    held_out = [s for s in library if is_held_out(s)]
    rest = [s for s in library if not is_held_out(s)]
    return list(clean([*rest, *packages()], held_out)), held_out
