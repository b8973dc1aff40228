"""`HeadView`: which heads write into a latent, from which tokens, and why they look there."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from ..attribute import direct, patterns, pre_activation, qk
from ..coder import SparseCoder
from ..corpus import pieces
from ..hooks import capture, to_tokens
from ..viz.heads import head_view
from .view import View

_ids = itertools.count()
TERMS, SOURCES, PAIRS = 12, 6, 6  # rows at most
Head = tuple[int, int]


class HeadView(View):
    """A latent's pre-activation at one token as a sum over heads, MLPs, embeddings and biases; one head in detail.

    The sum is `attribute.direct` of `attribute.pre_activation`: patterns and norm scales as they are on this text. The
    chosen head's part is `A[q, k] v[k] W_O` seen by the latent, from each token k. Its score for the token it brings
    most from is split by `attribute.qk` where `why` is on. text: a string or token ids; pos: the token, counted with
    BOS, the one where the latent is strongest unless given; features: an index, which names the latent; coders: take
    the place of what they reconstruct in the account and in the score.
    State: latent, pos, head (layer, head; None: the largest), why. Raises ValueError for an empty or long text, a
    latent, token or head that is not there, and what `attribute.direct` refuses.
    """

    def __init__(
        self, model: Any, coder: SparseCoder, latent: int, text: str | Int[Tensor, "..."], pos: int | None = None, *,
        features: Any = None, coders: Sequence[SparseCoder] = (), why: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.coder, self.features, self.coders = model, coder, features, list(coders)
        self.ids = to_tokens(model, text)
        self.tokens = pieces(model.tokenizer, self.ids[0].tolist())
        if self.ids[0, 0] == model.tokenizer.bos_token_id:
            self.tokens[0] = "BOS"
        self.patterns, self._number = patterns(model, self.ids).numpy(), next(_ids)
        with torch.no_grad():
            self.codes = coder.encode(coder.site.inputs(capture(model, self.ids, coder.site))[0]).dense()
        self._tables: dict[tuple[int, int], pd.DataFrame] = {}
        self._scores: dict[tuple[int, ...], pd.DataFrame] = {}
        self._checked(latent)
        pos = int(self.codes[1:, latent].argmax()) + 1 if pos is None else pos % len(self.tokens)
        super().__init__(latent=int(latent), pos=pos, head=None, why=why)

    def _checked(self, latent: Any) -> None:
        if latent not in range(self.coder.d_sae):
            raise ValueError(
                f"latent {latent} is not in [0, {self.coder.d_sae}), the latents of this coder: choose one of these"
            )

    def check(self) -> None:
        self._checked(self._state["latent"])
        if self._state["pos"] not in range(len(self.tokens)):
            raise ValueError(f"pos={self._state['pos']!r}: the text has {len(self.tokens)} tokens, BOS among them")
        if self._state["head"] is not None and tuple(self._state["head"]) not in self.heads():
            raise ValueError(f"head {self._state['head']}: no such head comes before {self.coder.site.name!r}")

    def table(self) -> pd.DataFrame:
        """The account: a row for each term, `contribution` adding up to the pre-activation."""
        key = self._state["latent"], self._state["pos"]
        if key not in self._tables:
            target = pre_activation(self.coder, key[0], key[1])
            self._tables[key] = direct(self.model, self.ids, target, self.coders)
        return self._tables[key]

    def heads(self) -> dict[Head, float]:
        """What each head adds, over all sources, the largest first."""
        table = self.table()
        sums = table[table.kind == "head"].groupby(["layer", "head"]).contribution.sum()
        return {tuple(map(int, head)): float(v) for head, v in sums.sort_values(key=np.abs, ascending=False).items()}

    def compute(self) -> dict[str, Any]:
        state, heads = self._state, self.heads()
        chosen = tuple(state["head"]) if state["head"] is not None else max(heads, key=heads.get, default=None)
        sources, rest = self._sources(chosen)
        name = "" if self.features is None else str(self.features.table.label[state["latent"]])
        return {
            "id": self._number, "latent": state["latent"], "d_sae": self.coder.d_sae, "name": name, "why": state["why"],
            "site": self.coder.site.name, "pos": state["pos"], "tokens": self.tokens, "head": chosen,
            "pre": float(self.table().attrs["total"]), "activation": float(self.codes[state["pos"], state["latent"]]),
            "heads": [{"head": head, "value": value} for head, value in heads.items()],
            "terms": self._terms(heads, chosen), "sources": sources, "rest": rest,
            "pairs": self._pairs(chosen, sources) if state["why"] and chosen and sources else None,
        }  # fmt: skip

    def _terms(self, heads: dict[Head, float], chosen: Head | None) -> list[dict[str, Any]]:
        """The largest terms and the chosen head, the largest first; the rest as one."""
        table = self.table()
        rest = table[table.kind != "head"]
        names = [_named(*row) for row in zip(rest.kind, rest.layer, rest.site, strict=True)]
        terms = [
            {"head": None, "name": n, "from": "", "value": v} for n, v in _summed(names, rest.contribution.tolist())
        ]
        terms += [{"head": head, "name": "", "from": self._from(head), "value": v} for head, v in heads.items()]
        terms.sort(key=lambda term: -abs(term["value"]))
        shown = [t for i, t in enumerate(terms) if i < TERMS or (t["head"] is not None and t["head"] == chosen)]
        if left := [term for term in terms if term not in shown]:
            value = sum(term["value"] for term in left)
            shown.append({"head": None, "name": f"{len(left)} others", "from": "", "value": value})
        return shown

    def _rows(self, head: Head) -> pd.DataFrame:
        table = self.table()
        return table[(table.kind == "head") & (table.layer == head[0]) & (table["head"] == head[1])]

    def _from(self, head: Head) -> str:
        """The token that a head brings most from."""
        return self.tokens[int(self._rows(head).pos.iloc[0])]

    def _sources(self, head: Head | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The strongest sources of a head; the others together."""
        if head is None:
            return [], {"n": 0, "attention": 0.0, "value": 0.0}
        rows, row = self._rows(head), self.patterns[(*head, self._state["pos"])]
        top, others = rows[:SOURCES], rows[SOURCES:]
        found = [
            {"pos": int(pos), "attention": float(row[pos]), "value": float(value)}
            for pos, value in zip(top.pos, top.contribution, strict=True)
        ]
        n = self._state["pos"] + 1 - len(found)
        left = 1 - sum(source["attention"] for source in found)
        return found, {"n": n, "attention": max(left, 0.0), "value": float(others.contribution.sum())}

    def _pairs(self, head: Head, sources: list[dict[str, Any]]) -> dict[str, Any]:
        """The score for the first source, as pairs of what is read here and there."""
        pos = sources[0]["pos"]
        key = (*head, self._state["pos"], pos)
        if key not in self._scores:
            self._scores[key] = qk(self.model, self.ids, *key, self.coders)
        table = self._scores[key]
        sides = [
            [_part(self.tokens, row) for row in side.to_frame().itertuples()] for side in (table.index, table.columns)
        ]
        rows = {}
        for (i, j), value in np.ndenumerate(table.to_numpy()):
            pair = sides[0][i], sides[1][j]
            rows[pair] = rows.get(pair, 0.0) + float(value)
        top = sorted(rows.items(), key=lambda item: -abs(item[1]))[:PAIRS]
        shown = [(*pair, value) for pair, value in top]
        score = float(table.attrs["score"])
        return {"pos": pos, "rows": shown, "score": score, "rest": score - sum(value for *_, value in shown)}

    def render(self, data: dict[str, Any]) -> str:
        return head_view(data)

    def act(self, name: str, arg: Any) -> None:
        state = self._state
        if name == "pick":
            layer, head = str(arg).split(".")
            self.set_state(head=(int(layer), int(head)))
        elif name == "move":
            order = [term["head"] for term in self.compute()["terms"] if term["head"] is not None]
            at = order.index(self.compute()["head"]) + (1 if arg == "ArrowDown" else -1)
            self.set_state(head=order[min(max(at, 0), len(order) - 1)])
        elif name == "go":
            to = {"Home": 0, "End": len(self.tokens) - 1}.get(
                str(arg), state["pos"] + (1 if arg == "ArrowRight" else -1)
            )
            self.set_state(pos=min(max(to, 0), len(self.tokens) - 1), head=None)
        elif name == "pos":
            self.set_state(pos=int(arg), head=None)
        elif name == "latent":
            self._checked(int(arg))
            self.set_state(latent=int(arg), head=None)
        elif name == "strongest":
            self.set_state(pos=int(self.codes[1:, state["latent"]].argmax()) + 1, head=None)
        else:
            super().act(name, arg)

    def title(self) -> str:
        return f"Heads into latent {self._state['latent']}"


def _summed(names: Sequence[str], values: Sequence[float]) -> list[tuple[str, float]]:
    sums: dict[str, float] = {}
    for name, value in zip(names, values, strict=True):
        sums[name] = sums.get(name, 0.0) + float(value)
    return list(sums.items())


def _named(kind: str, layer: int, site: str) -> str:
    """A term that is no head, in words; terms of one name are added up."""
    if kind == "mlp":
        return f"MLP {layer}"
    if kind.startswith("b_"):
        return "biases"
    words = {"embed": "the token", "position": "its position", "latent": "latents", "bos": "BOS"}.get(kind, kind)
    return f"{words}, {site}" if site else words


def _part(tokens: Sequence[str], row: Any) -> str:
    """A part of what a head reads, in words."""
    if row.kind == "head":
        return f"head {row.layer}.{row.head}"
    if row.kind == "latent":
        return f"latent {row.latent}, {row.site}"
    return _named(row.kind, row.layer, row.site)
