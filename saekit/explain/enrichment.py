"""Which sets of tokens a latent's decoder row raises: closing brackets, keywords, names."""

import keyword
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..coder import SparseCoder
from ..corpus import pieces
from .selection import raised_tokens

CLOSERS = frozenset(")]}")


def token_sets(model: Any) -> dict[str, list[int]]:
    """The ids of a vocabulary that are of one kind, blanks around them aside, in a model of Python code.

    closer: closing brackets only. keyword: Python's. name: two or more characters that can be an identifier, whole or
    in part, and are no keyword. number: digits only. line start: a line break with what indents the next line. A kind
    that no token is of is left out.
    """
    found: dict[str, list[int]] = {}
    for i, piece in enumerate(pieces(model.tokenizer, range(model.cfg.d_vocab))):
        if kind := _kind(piece):
            found.setdefault(kind, []).append(i)
    return found


def _kind(piece: str) -> str:
    word = piece.strip()
    if not word:
        return "line start" if "\n" in piece else ""
    if set(word) <= CLOSERS:
        return "closer"
    if keyword.iskeyword(word):
        return "keyword"
    if word.isdigit():
        return "number"
    return "name" if word.isidentifier() and len(word) > 1 else ""


def enrichment(
    model: Any, coder: SparseCoder, sets: Mapping[str, Iterable[int]], *, n: int = 50, level: float = 0.05
) -> pd.DataFrame:
    """How many of the n tokens that each decoder row raises most are of each set, and how unlikely that is by chance.

    p: of drawing so many or more, `P(X >= found)` with X hypergeometric: n draws without replacement from V tokens, of
    which the set's are hits (the one-sided test of gene set enrichment). enriched: `p m < level`, m the number of rows
    of this table (Bonferroni). Columns: latent, set, found, expected, p, enriched; a row for each latent and set.
    Chance is not the only control: the unembedding groups tokens by itself, so random rows (`random_rows`) are
    enriched too. Raises ValueError for no sets, an empty one, ids that are no tokens, and n out of range.
    """
    V = model.cfg.d_vocab
    members = {name: np.unique(np.fromiter(ids, np.int64)) for name, ids in sets.items()}
    wrong = [name for name, ids in members.items() if not len(ids) or ids[0] < 0 or ids[-1] >= V]
    if not members or wrong or not 1 <= n <= V:
        raise ValueError(
            f"n={n}, sets {wrong or list(members)}: give token ids below {V} in each set, and n up to that"
        )
    raised = raised_tokens(model, coder, list(range(coder.d_sae)), n).numpy()
    parts = [_counted(name, np.isin(raised, ids).sum(1), len(ids), n, V) for name, ids in members.items()]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(enriched=table.p * len(table) < level)


def _counted(name: str, found: np.ndarray, size: int, n: int, V: int) -> pd.DataFrame:
    p = stats.hypergeom.sf(found - 1, V, size, n)
    return pd.DataFrame(
        {"latent": np.arange(len(found)), "set": name, "found": found, "expected": n * size / V, "p": p}
    )
