"""Where texts come from: the standard library, files and folders, strings, Hugging Face datasets."""

import hashlib
import os
import sysconfig
import tokenize
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from saekit.hooks import hub_answers

from .labels import Spans, python_spans

HELD_OUT = ("json", "email", "wsgiref", "curses", "tomllib", "zoneinfo", "sqlite3")
HELD_OUT += ("textwrap.py", "shlex.py", "fractions.py", "configparser.py")
"""Packages and modules of the standard library that models and coders are never trained on."""

_NOT_LIBRARY = {"test", "tests", "idle_test", "lib2to3", "encodings", "idlelib", "pydoc_data", "turtledemo"}
_NOT_LIBRARY |= {"site-packages", "dist-packages"}
_TABLES = {".parquet": "parquet", ".jsonl": "json"}  # read through `datasets`
_MID_SIZED = range(4_000, 40_000)  # bytes; what `files=` prefers


class Text(NamedTuple):
    """One document. `spans`: label -> half-open character spans; None when it has no labels, so is never scored."""

    text: str
    name: str = "text"
    spans: Spans | None = None


@dataclass(frozen=True)
class Source:
    """Documents that are read one at a time."""

    name: str
    names: list[str]  # of the documents
    read: Callable[[int], Text | None]  # None: not a text, left out
    sizes: list[int] | None = None  # bytes, where they cost nothing to know
    identity: str | None = None  # changes when the documents do; None: too cheap or too fleeting to be cached
    held_out: Callable[[str], bool] = lambda name: _hash(name) % 10 == 0

    def choose(self, split: str | None, files: int | None) -> list[int]:
        """Documents of one side of the split; `files` of them picked by a hash of their names, mid-sized ones first."""
        if split not in (None, "train", "held_out"):
            raise ValueError(f"split must be None, 'train' or 'held_out', not {split!r}")
        if files is not None and files < 1:
            raise ValueError(f"files must be at least 1, or None for all of them, not {files}")
        chosen = [
            i for i, name in enumerate(self.names) if split is None or self.held_out(name) == (split == "held_out")
        ]
        if files is None or files >= len(chosen):
            return chosen
        odd = [self.sizes is not None and size not in _MID_SIZED for size in self.sizes or self.names]
        return sorted(sorted(chosen, key=lambda i: (odd[i], _hash(self.names[i])))[:files])


def open_source(source: Any, labels: Sequence[Spans] | None = None) -> Source:
    """The documents that `source` names, as `load_corpus` says. Raises ValueError or OSError when there are none."""
    if labels is not None and (isinstance(source, str | Path) or len(labels) != len(source)):
        raise ValueError("labels= takes one dict of spans for each string of a list, and nothing but a list of strings")
    if isinstance(source, str) and source == "stdlib":
        return _stdlib()
    if isinstance(source, str) and source == "saekit":
        package = Path(__file__).parents[1]
        return _files("saekit", package, _walk(package, ".py"))
    if isinstance(source, str) and source.startswith("hf:"):
        return _hub(source)
    if isinstance(source, str | Path):
        return _path(Path(source).expanduser())
    if hasattr(source, "column_names"):
        return _dataset(source, "dataset")
    if isinstance(source, Sequence):
        return _strings(source, labels)
    raise ValueError(f"no corpus from a {type(source).__name__}: give 'stdlib', 'saekit', 'hf:name', a path, a list")


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8])


def _stdlib() -> Source:
    library = Path(sysconfig.get_path("stdlib"))
    source = _files("stdlib", library, _walk(library, ".py", absent=_NOT_LIBRARY))
    if not source.names:
        raise OSError(
            f"no .py files in {library}: this Python comes without its library's sources. Use one that has them: from "
            "python.org, conda or uv, or the full package of your system (Debian and Ubuntu: apt install python3-full)"
        )
    return replace(source, held_out=lambda name: name.split("/")[0] in HELD_OUT)


def _walk(folder: Path, suffix: str = "", absent: Collection[str] = ()) -> list[Path]:
    """Files under a folder, in order; nothing hidden, cached or absent."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and name != "__pycache__" and name not in absent]
        found += [Path(parent, name) for name in names if name[0] != "." and name.endswith(suffix)]
    return sorted(found)


def _files(name: str, folder: Path, paths: list[Path]) -> Source:
    names = [path.relative_to(folder).as_posix() for path in paths]
    stats = [path.stat() for path in paths]
    identity = repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats, strict=True)])
    return Source(name, names, lambda i: _read(paths[i], names[i]), [stat.st_size for stat in stats], identity)


def _read(path: Path, name: str) -> Text | None:
    """A file as text with newlines normalised, labelled if it is Python; None if it is not text."""
    try:
        if path.suffix == ".py":
            with tokenize.open(path) as file:  # obeys BOM and coding cookie
                text = file.read()
            return Text(text, name, python_spans(text))
    except (SyntaxError, UnicodeDecodeError):  # not for this Python: a text like any other
        pass
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else Text(text, name)


def _path(path: Path) -> Source:
    if path.is_dir() and ((path / "state.json").is_file() or (path / "dataset_dict.json").is_file()):
        import datasets

        return _dataset(datasets.load_from_disk(str(path)), str(path))
    if path.is_file() and path.suffix in _TABLES:
        import datasets

        return _dataset(datasets.load_dataset(_TABLES[path.suffix], data_files=str(path), split="train"), str(path))
    if path.is_dir():
        return _files(str(path), path, _walk(path))
    if path.is_file():
        return _files(str(path), path.parent, [path])
    raise FileNotFoundError(
        f"no file or folder {str(path)!r}: give an existing path, 'stdlib', 'saekit', 'hf:name', or a list of strings"
    )


def _hub(source: str) -> Source:
    import datasets

    hub_answers()  # if it does not, a copy in the cache may do; `datasets` would ask again for half a minute
    try:
        return _dataset(datasets.load_dataset(source.removeprefix("hf:"), split="train"), source)
    except OSError as error:
        raise OSError(
            f"cannot load {source!r} from the hub ({error}): check the name, connect to a network (and unset "
            "HF_HUB_OFFLINE), or give a local path, a datasets.Dataset or a list of strings"
        ) from error


def _dataset(data: Any, name: str) -> Source:
    if isinstance(data.column_names, dict):
        if "train" not in data and len(data) != 1:
            raise ValueError(f"{name} holds {sorted(data)}: give one of them, dataset[{sorted(data)[0]!r}]")
        data = data["train" if "train" in data else next(iter(data))]
    if not hasattr(data, "__len__"):
        raise ValueError("this dataset streams: take a part, load_corpus(model, [x['text'] for x in data.take(1000)])")
    strings = [
        column for column, kind in data.features.items() if getattr(kind, "dtype", None) in ("string", "large_string")
    ]
    columns = [column for column in ("text", "content", *strings) if column in strings]
    if not columns or ({"text", "content"}.isdisjoint(columns) and len(columns) > 1):
        raise ValueError(f"which column of {data.column_names} holds the text? Rename it to 'text'")
    texts = data.select_columns(columns[:1])

    def read(i: int) -> Text | None:
        text = texts[i][columns[0]]
        return Text(text, f"{name}/{i}") if text else None

    return Source(name, [f"{name}/{i}" for i in range(len(data))], read, identity=data._fingerprint + columns[0])


def _strings(source: Sequence[Any], labels: Sequence[Spans] | None) -> Source:
    def read(i: int) -> Text:
        given = source[i]
        text = given if isinstance(given, Text) else Text(given, f"text {i}", labels[i] if labels else None)
        return _checked(text)

    for given in source:
        if not isinstance(given, str | Text):
            raise ValueError(f"a list must hold strings or Text, not {type(given).__name__}: {given!r:.80}")
    names = [given.name if isinstance(given, Text) else f"text {i}" for i, given in enumerate(source)]
    return Source(f"{len(source)} texts", names, read)


def _checked(text: Text) -> Text:
    for label, found in (text.spans or {}).items():
        for start, end in found:
            if not 0 <= start <= end <= len(text.text):
                length = f"the text is {len(text.text)} characters long"
                raise ValueError(f"{text.name}: {label!r} spans {(start, end)}, but {length}")
    try:
        text.text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text.name} holds half a surrogate pair at character {error.start}: leave it out") from error
    return text
