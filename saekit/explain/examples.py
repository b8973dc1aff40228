"""A latent by its examples."""

import pandas as pd

from ..features import Example, Latent


def max_act(latent: Latent, n: int = 20, *, documents: str | None = None) -> pd.DataFrame:
    """The n strongest firings of a latent, largest first: one per window of the corpus, no text shown twice (MaxAct).

    Columns: value, token, text, source, line, window, pos. documents: "train" or "test" for one half of the texts.
    Raises ValueError for a dead latent.
    """
    return _table(live(latent).top(n, documents=documents))


def quantiles(
    latent: Latent, n: int = 10, each: int = 5, *, by: str = "value", seed: int = 0, documents: str | None = None
) -> pd.DataFrame:
    """Up to `each` firings drawn at random from each of n ranges, the highest range first.

    by: "value", ranges of equal width, (0, max] cut in n (sae_vis, Neuronpedia); or "rank", ranges that hold equally
    many firings (Paulo et al. 2024, delphi). Columns: quantile, n for the highest; low, high and share, of all firings,
    of its range; then those of `max_act`. Raises ValueError for a dead latent, and for other ranges.
    """
    ways = {"value": Latent.value_quantiles, "rank": Latent.rank_quantiles}
    if by not in ways:
        raise ValueError(f'by={by!r}: give "value", for ranges of equal width, or "rank", for equally many firings')
    ranges = ways[by](live(latent), n, each, seed, documents=documents)
    tables = []
    for number, found in reversed([*enumerate(ranges, 1)]):
        about = {"quantile": number, "low": found.low, "high": found.high, "share": found.count / latent.count}
        tables.append(_table(found.examples).assign(**about))
    table = pd.concat([t for t in tables if len(t)] or tables, ignore_index=True)
    return table[["quantile", "low", "high", "share", *_COLUMNS]]


def live(latent: Latent) -> Latent:
    """The latent. Raises ValueError when it is dead."""
    if latent.dead:
        raise ValueError(
            f"latent {latent.index} is dead: it is on at none of the {latent.features.n:,} tokens of "
            f"{latent.features.corpus.source}, so there is nothing to explain it by; features.search() lists live ones"
        )
    return latent


_COLUMNS = ["value", "token", "text", "source", "line", "window", "pos"]


def _table(examples: list[Example]) -> pd.DataFrame:
    rows = [(e.value, e.tokens[e.peak], e.text, e.source, e.line, e.window, e.pos) for e in examples]
    return pd.DataFrame(rows, columns=_COLUMNS)
