"""Notes and stars of latents: one small JSON file for each coder, which outlives every index."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

from ..files import damaged_aside, replacing

Note = dict[str, Any]


class Notes:
    """What a reader wrote about the latents of one coder: `notes[3]` is {"star": bool, "text": str}.

    Kept in `$SAEKIT_HOME/notes`, or `~/.saekit/notes`, in a file named by the coder's weights, so that a note stays
    with its latent whatever the corpus. Every change is written at once, whole or not at all, into what the file says
    by then; keys that this version does not know are kept. A damaged file is moved aside, with a warning.
    """

    def __init__(self, coder: str, folder: str | os.PathLike | None = None) -> None:
        home = Path(folder or os.environ.get("SAEKIT_HOME") or "~/.saekit").expanduser()
        self.path = home / "notes" / f"{coder}.json"

    def __getitem__(self, latent: int) -> Note:
        return {"star": False, "text": ""} | self.all().get(latent, {})

    def put(self, latent: int, **changes: Any) -> None:
        """Change the note of a latent. Raises OSError, with what is on disk unharmed, when it cannot be written."""
        content = self._read()
        latents = content.setdefault("latents", {})
        latents[str(latent)] = latents.get(str(latent), {}) | changes
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")

    def all(self) -> dict[int, Note]:
        """Every latent that has a note; none, with a warning, where the file cannot be read."""
        try:
            latents = self._read().get("latents", {})
        except OSError as error:
            warnings.warn(f"the notes cannot be read: {error}", stacklevel=3)
            return {}
        return {int(latent): note for latent, note in latents.items() if latent.isdecimal()}

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            content = None
        return content if _is_notes(content) else self._moved_aside()

    def _moved_aside(self) -> dict[str, Any]:
        aside = damaged_aside(self.path)
        warnings.warn(
            f"the notes in {self.path} were damaged, so they start afresh; the old ones: {aside}", stacklevel=4
        )
        return {}


def _is_notes(content: Any) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("latents", {}), dict):
        return False
    return all(_is_note(note) for note in content.get("latents", {}).values())


def _is_note(note: Any) -> bool:
    if not isinstance(note, dict):
        return False
    return isinstance(note.get("star", False), bool) and isinstance(note.get("text", ""), str)
