"""An explanation: words about a latent, and where they can be decided, the tokens they hold at."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from ..corpus import Corpus
from ..features import Features

Holds = Callable[[Corpus], Bool[np.ndarray, "doc pos"]]
QUOTED = re.compile(r"`([^`]+)`|\"([^\"]+)\"|'([^']+)'")


@dataclass(frozen=True)
class Explanation:
    """text: what a judge is told. holds: corpus -> boolean array [doc, pos], the tokens that the words hold at."""

    text: str
    holds: Holds | None = None

    @staticmethod
    def of(said: Any) -> "Explanation":
        """A string; a rule, which has `words` and `fires(corpus)`; an explanation. Raises ValueError for no words."""
        if isinstance(said, Explanation):
            return said
        text, holds = (said, None) if isinstance(said, str) else (str(said.words), said.fires)
        if not text.strip():
            raise ValueError("the explanation is empty: say in a few words what the latent responds to")
        return Explanation(text, holds)

    def __str__(self) -> str:
        return self.text

    def predicate(self, features: Features) -> Holds:
        """`holds`, or what the text itself names: the labels of the corpus in it, and the tokens it quotes.

        Raises ValueError for words that name neither, which only a reader can judge.
        """
        if self.holds is not None:
            return self.holds
        labels = _named(self.text, features.corpus.label_names)
        quoted = [a or b or c for a, b, c in QUOTED.findall(self.text)]
        if not labels and not quoted:
            raise ValueError(
                f"{self.text!r:.80} names no label of {features.corpus.source!r} and quotes no token, so rules cannot "
                "decide it: quote tokens, give Explanation(text, holds), or ask another judge"
            )
        return lambda corpus: _mentioned(features, corpus, labels, quoted)


def _named(text: str, names: Sequence[str]) -> list[str]:
    """The labels in a text as whole words, also in the plural; of two at one place the longer."""
    found = []
    for name in sorted(names, key=len, reverse=True):
        pattern = rf"(?<!\w){re.escape(name)}s?(?!\w)"
        found += [name] * bool(re.search(pattern, text))
        text = re.sub(pattern, "\n", text)
    return found


def _mentioned(features: Features, corpus: Corpus, labels: list[str], quoted: list[str]) -> Bool[np.ndarray, "doc pos"]:
    """The tokens that have one of the labels or are one of those quoted, with or without the blanks around."""
    named = np.array([piece in quoted or piece.strip() in quoted for piece in features.excerpts.pieces])
    holds = named[corpus.tokens.numpy()]
    for label in labels:
        holds = holds | corpus.labels[label]
    return holds & corpus.mask
