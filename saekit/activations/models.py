"""`SideBySide`: the same site of several models, row by row."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ..corpus import Corpus
from ..hooks import Site
from .stream import Activations, Batch


class SideBySide:
    """The activations of several models at one `site`, laid side by side: row r is the same token in all of them.

    A source for `sk.train`, and what a crosscoder of two models learns from (model diffing, Lindsey et al. 2024). The
    models share their tokenizer, and each has its own scale. `options` are those of `sk.Activations`. What is trained
    here remembers every model, in order; no single model can take it in, so `sk.splice` refuses it: `sk.side(coder, i)`
    is its part in model i.

    Raises ValueError for fewer than two models, a model of another tokenizer, and what `sk.Activations` refuses.
    """

    def __init__(
        self, models: Sequence[Any], site: Site | str, corpus: Corpus, tokens: int | None = None, **options: Any
    ) -> None:
        if len(models) < 2:
            raise ValueError(f"{len(models)} model: lay at least 2 side by side; for one, use sk.Activations")
        if options.get("sequences"):
            raise ValueError(
                "models are laid side by side row by row, not in whole sequences: leave out sequences=True"
            )
        self.parts = [Activations(model, site, corpus, tokens, **options) for model in models]
        self.model, self.corpus, self.seed = tuple(models), corpus, self.parts[0].seed
        self.d_in, self.d_out = (sum(getattr(part, width) for part in self.parts) for width in ("d_in", "d_out"))
        names = [model.cfg.model_name for model in models]
        names = names if len(set(names)) == len(names) else [f"{name} {i}" for i, name in enumerate(names)]
        ends = zip(*((part.site.reads, part.site.writes) for part in self.parts), strict=True)
        self.site = Site(*([f"{n}: {h}" for n, hooks in zip(names, end, strict=True) for h in hooks] for end in ends))

    def __repr__(self) -> str:
        return f"SideBySide({self.site.name}; {len(self):,} tokens of width {self.d_in}, seed {self.seed})"

    def __len__(self) -> int:
        return len(self.parts[0])

    def held_out(self, rows: int) -> Batch:
        """About `rows` rows that the stream never serves; the same ones at every call."""
        return _joined([part.held_out(rows) for part in self.parts])

    def batches(self, size: int, start: int = 0, *, until: Callable[[], bool] = lambda: False) -> Iterator[Batch]:
        """Batches of `size` rows from row `start` of the stream on, until `until` says True.

        A stream is a function of its corpus, seed and position, so the models' own streams keep step.
        """
        for parts in zip(*(part.batches(size, start, until=until) for part in self.parts), strict=False):
            yield _joined(list(parts))


def _joined(parts: list[Batch]) -> Batch:
    x = torch.cat([part.x for part in parts], dim=1)
    return Batch(x, x if all(p.y is p.x for p in parts) else torch.cat([part.y for part in parts], dim=1))
