"""Files and folders that are written whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well, and vanishes when it does not.

    Whatever stood at `path` stays until the new file is complete and on the disk. Raises OSError naming `path`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write {str(path)!r}: {error.strerror}; choose a folder you can write to"
        ) from error
    os.close(handle)
    try:
        yield Path(name)
        Path(name).chmod(0o666 & ~_umask())  # mkstemp and safetensors make files that only their owner can read
        with Path(name).open("rb+") as written:
            os.fsync(written.fileno())
        Path(name).replace(path)
    except (OSError, SafetensorError) as error:  # the second is what safetensors makes of a full disk
        raise OSError(f"{str(path)!r} was not written, what was there is kept: {error}") from error
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | os.PathLike, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """As `replacing`, for a folder: a temporary one that takes the place of `path` when the block ends well.

    Raises ValueError where `path` is a file, or holds anything that is not `ours` and would be lost; OSError naming
    `path` where it cannot be written.
    """
    path = Path(path)
    if others := [path] if path.is_file() else [entry for entry in path.glob("*") if not ours(entry)]:
        raise ValueError(f"{str(path)!r} would be replaced, and with it {others[0].name!r}; choose an empty folder")
    room = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        new, old = room / "new", room / "old"
        new.mkdir()
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{str(path)!r} was not written, what was there is kept: {error}") from error
    finally:
        if room is not None:
            if old.exists() and not path.exists():
                old.rename(path)
            shutil.rmtree(room, ignore_errors=True)


def save_json(content: Any, path: str | os.PathLike) -> Path:
    """Write JSON, whole or not at all. Raises ValueError for numbers that JSON has not, OSError for no room."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")
    return Path(path)


def damaged_aside(path: Path) -> Path:
    """Rename a file that cannot be used to `{stem}.damaged-{n}{suffix}`, the next free n; where it is now.

    Raises OSError where its folder cannot be written.
    """
    numbers = (path.with_name(f"{path.stem}.damaged-{n}{path.suffix}") for n in count(1))
    return path.replace(next(aside for aside in numbers if not aside.exists()))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
