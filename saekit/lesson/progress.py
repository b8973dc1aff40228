"""How far a learner is: one local JSON file, `{notebook: {id: record}}`. It is never sent anywhere."""

import json
import os
from pathlib import Path
from typing import Any

from ..files import damaged_aside, replacing

Record = dict[str, Any]
EMPTY: Record = {"attempts": 0, "passed": False, "hints": 0, "seen": False, "guesses": []}


class Progress:
    """The records of one notebook, in `folder`/progress.json; `$SAEKIT_HOME` or `~/.saekit` unless given.

    A damaged file is moved aside, and where the folder cannot be written the records live in memory. `news` holds what
    is to be said about that, until `told` takes it. Other notebooks' records in the file are left as they are.
    """

    def __init__(self, notebook: str, folder: str | os.PathLike | None = None) -> None:
        self.notebook = notebook
        self.path = Path(folder or os.environ.get("SAEKIT_HOME") or "~/.saekit").expanduser() / "progress.json"
        self.news: list[tuple[str, str]] = []
        self._memory: dict[str, dict[str, Record]] | None = None  # in use once writing has failed
        self._last: dict[str, dict[str, Record]] = {}
        self._read()

    def of(self, name: str) -> Record:
        """The record of one exercise, question or prediction; all zero where there is none."""
        return EMPTY | {"guesses": []} | self._read().get(self.notebook, {}).get(name, {})

    def put(self, name: str, **changes: Any) -> None:
        """Change a record and write the file. The file is read again first: another notebook may have written."""
        everything = self._read()
        everything.setdefault(self.notebook, {})[name] = self.of(name) | changes
        self._write(everything)

    def told(self) -> list[tuple[str, str]]:
        """What is to be said, once."""
        news, self.news = self.news, []
        return news

    def _read(self) -> dict[str, dict[str, Record]]:
        if self._memory is not None:
            return self._memory
        try:
            found = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            return self._in_memory(error)
        except ValueError:
            found = None
        return found if _is_progress(found) else self._moved_aside()

    def _write(self, everything: dict[str, dict[str, Record]]) -> None:
        self._last = everything
        if self._memory is not None:
            return
        try:
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps(everything, indent=1) + "\n", "utf-8")
        except OSError as error:
            self._in_memory(error)

    def _in_memory(self, error: OSError) -> dict[str, dict[str, Record]]:
        self._memory = self._last
        self.news.append(
            (
                "Your progress is kept for this session only.",
                f"{error}. To keep it, set SAEKIT_HOME to a folder that you can write to, and restart the kernel.",
            )
        )
        return self._memory

    def _moved_aside(self) -> dict[str, dict[str, Record]]:
        try:
            aside = damaged_aside(self.path)
        except OSError as error:
            return self._in_memory(error)
        self.news.append(("The progress file was damaged, so it starts afresh.", f"The old one is {aside}."))
        return {}


def _is_progress(found: Any) -> bool:
    if not isinstance(found, dict) or not all(isinstance(notebook, dict) for notebook in found.values()):
        return False
    return all(_is_record(record) for notebook in found.values() for record in notebook.values())


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and all(type(record.get(k, v)) is type(v) for k, v in EMPTY.items())
