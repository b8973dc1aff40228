"""Coders on disk: `save`, `load`, and `pretrained`, the list of those that ship."""

from pathlib import Path
from typing import Any

import pandas as pd

from ..coder import CoderStack, SparseCoder
from ..hooks import hub_answers, model_record
from . import own

SHIPPED = Path(__file__).parent.parent / "assets" / "coders"
SUFFIX = ".safetensors"

save = own.write


def load(name: str | Path) -> SparseCoder | CoderStack:
    """A finished coder, in eval mode and float32: from an existing path, a name in `pretrained()`, or "hf:repo/path".

    Raises ValueError when nothing has that name, and when the file is cut short or is not a coder, saying what was
    expected and what was found.
    """
    return own.read(_locate(str(name)))


def pretrained(model: Any = None) -> pd.DataFrame:
    """The coders that ship with saekit: a row each; only those that fit `model`, if one is given."""
    cards = [own.card(path) | {"name": _shipped_name(path)} for path in sorted(SHIPPED.rglob(f"*{SUFFIX}"))]
    columns = ["name", "model", "site", "nonlinearity", "d_in", "d_sae", "MB"]
    table = pd.DataFrame(cards, columns=columns)
    return table if model is None else table[table.model == model_record(model)["name"]].reset_index(drop=True)


def _shipped_name(path: Path) -> str:
    return path.relative_to(SHIPPED).with_suffix("").as_posix()


def _locate(name: str) -> Path:
    if name.startswith("hf:"):
        return _download(name)
    for path in (Path(name), Path(name + SUFFIX), SHIPPED / (name + SUFFIX)):
        if path.is_file():
            return path
    shipped = ", ".join(_shipped_name(path) for path in sorted(SHIPPED.rglob(f"*{SUFFIX}")))
    raise ValueError(f"no file and no shipped coder is called {name!r}; sk.pretrained() has: {shipped or 'nothing'}")


def _download(name: str) -> Path:
    """`hf:owner/repo/path/in/repo`, from the hub or its cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    owner, _, rest = name.removeprefix("hf:").partition("/")
    repo, _, path = rest.partition("/")
    if not (owner and repo and path):
        raise ValueError(f"{name!r}: write hf:owner/repo/path/of/the/file")
    hub_answers()  # if it does not, only its cache is asked
    try:
        return Path(hf_hub_download(f"{owner}/{repo}", path if path.endswith(SUFFIX) else path + SUFFIX))
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise ValueError(f"{name!r} is not in the local cache and the hub did not give it: {error}") from error
