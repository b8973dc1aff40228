"""Coders on disk: `save`, `load`, and `pretrained`, the list of those that ship. One small file for each format.

`load` reads all of these. What `save(coder, path, format=sk.io.saelens)` and so on write:

| format              | one coder of           | a stack of   | what else it holds                |
|---------------------|------------------------|--------------|-----------------------------------|
| own                 | every kind             | every kind   | all there is; the default         |
| saelens             | all but routed         | -            | skips, d_out, standardised tokens |
| dictionary_learning | all but routed         | -            |                                   |
| gemma_scope         | all but topk, routed   | -            | d_out                             |
| circuit_tracer      | all but topk, routed   | all but topk | skips; cross-layer stacks         |
| sparsify            | topk                   | topk         | skips                             |
| gemma_scope_2       | -                      | -            | reads cross-layer stacks          |
| llama_scope         | -                      | -            |                                   |
| openai              | -                      | -            |                                   |

Kinds are relu, gated, prolu, jumprelu, topk, batch_topk, matryoshka, feature_choice and routed. Where a tool has no
name for one that a JumpReLU equals, it is written as that. Refused, because no coder here computes it: SAELens'
abstopk, matching_pursuit, temporal, and tokens scaled to one norm; sparsify's groupmax and signed;
dictionary_learning's IdentityDict.
"""

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import torch

from ..coder import CoderStack, SparseCoder
from ..hooks import hub_answers, model_record
from . import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    openai,
    own,
    saelens,
    sparsify,
)

SHIPPED = Path(__file__).parent.parent / "assets" / "coders"
SUFFIX = ".safetensors"

# Asked in this order whether a file or folder is theirs. `own` comes first: its names are also those of others.
FOREIGN = (saelens, sparsify, dictionary_learning, gemma_scope, llama_scope, gemma_scope_2, circuit_tracer, openai)


def save(
    coder: SparseCoder | CoderStack,
    path: str | os.PathLike,
    dtype: torch.dtype = torch.float32,
    *,
    format: ModuleType = own,
) -> Path:
    """Write a finished coder, whole or not at all, and return the path.

    format: ours unless given, one file with ".safetensors" added where it is missing; or another tool's, such as
    `sk.io.saelens` (also sparsify, dictionary_learning, gemma_scope, circuit_tracer), in its own layout and float32;
    a stack also as sparsify or circuit_tracer. `dtype` is that of the weights in our format; thresholds stay float32.

    Raises ValueError for a coder that is still training, which has a scale that would be lost, and for one that the
    other tool has no architecture for; OSError when the folder cannot be written.
    """
    if format is own:
        return own.write(coder, path, dtype)
    if not hasattr(format, "write"):
        raise ValueError(f"{getattr(format, '__name__', format)!r} is only read, not written")
    if dtype != torch.float32:
        raise ValueError(f"dtype={dtype}: other tools' formats are written in float32")
    if not isinstance(coder, CoderStack):
        return format.write(coder, Path(path))
    if not hasattr(format, "write_stack"):
        raise ValueError(
            f"{format.__name__!r} holds one coder, and this is a stack; our own format has: sk.save(stack, path)"
        )
    if coder.training:
        raise ValueError("this stack is still in training mode; sk.train returns it finished")
    return format.write_stack(coder, Path(path))


def load(name: str | Path) -> SparseCoder | CoderStack:
    """A finished coder or stack, in eval mode and float32: from a path, a name in `pretrained()`, or "hf:repo/path".

    The files decide the format; `help(sk.io)` lists those it may be. What comes back reads raw activations, whatever
    the file's own scale and centring.
    `evals.doctor` tells whether it fits the model at hand.

    Raises ValueError when nothing has that name, and when the file is cut short or is not a coder, saying what was
    expected and what was found.
    """
    path = _locate(str(name))
    return reader(path).read(path)


def reader(path: Path) -> ModuleType:
    """The module that reads this file or folder. Raises ValueError when none does."""
    if own.claims(path):
        return own
    for format in FOREIGN:
        if format.claims(path):
            return format
    if path.is_dir():
        names = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        known = ", ".join(format.__name__.rpartition(".")[2] for format in FOREIGN)
        raise ValueError(f"{str(path)!r} holds {names}: no coder of saekit, {known}")
    return own


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
        if path.exists():
            return path
    shipped = ", ".join(_shipped_name(path) for path in sorted(SHIPPED.rglob(f"*{SUFFIX}")))
    raise ValueError(f"no file and no shipped coder is called {name!r}; sk.pretrained() has: {shipped or 'nothing'}")


def _download(name: str) -> Path:
    """`hf:owner/repo/path/in/repo`, a file or a folder, or `hf:owner/repo`, from the hub or its cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    owner, _, rest = name.removeprefix("hf:").partition("/")
    repo, _, path = rest.partition("/")
    if not (owner and repo):
        raise ValueError(f"{name!r}: write hf:owner/repo/path/of/the/file, or hf:owner/repo for all of it")
    hub_answers()  # if it does not, only its cache is asked
    if not path:
        if (folder := _folder(f"{owner}/{repo}", "")) is None:
            raise ValueError(f"{name!r} is not in the local cache and the hub did not give it")
        return folder
    try:
        return Path(hf_hub_download(f"{owner}/{repo}", path if path.endswith(SUFFIX) else path + SUFFIX))
    except (LocalEntryNotFoundError, EntryNotFoundError, HfHubHTTPError) as error:
        if (folder := _folder(f"{owner}/{repo}", path)) is not None:
            return folder
        raise ValueError(f"{name!r} is not in the local cache and the hub did not give it: {error}") from error


def _folder(repo: str, path: str) -> Path | None:
    """A file with what lies beside it, or a folder; None where the hub has neither and the cache neither."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    beside = path.rpartition("/")[0]
    about = [f"{beside}/*.{kind}" if beside else f"*.{kind}" for kind in ("json", "yaml")]
    wanted = [f"{path}/*", path, *about] if path else ["*"]
    try:
        found = Path(snapshot_download(repo, allow_patterns=wanted)) / path
    except (LocalEntryNotFoundError, HfHubHTTPError):
        return None
    return found if found.exists() else None
