"""A latent by the tokens it is on at."""

import pandas as pd

from ..features import Latent
from .examples import live


def tokens(latent: Latent, n: int = 20) -> pd.DataFrame:
    """The n token ids that make up most of a latent's firings, on all tokens of the corpus.

    Columns of `Latent.tokens`: token, id, seen, fires, precision = P(on | token), recall = P(token | on), mean,
    mean_on; and f1 = 2 fires / (seen + firings), of "the token is this one" as an explanation. Raises ValueError for a
    dead latent.
    """
    table = live(latent).tokens(n)
    return table.assign(f1=2 * table.fires / (table.seen + latent.count))
