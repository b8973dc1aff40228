"""`PromptMicroscope`: a text under the latents that are strongest on it, or what two texts differ in."""

import itertools
import math
from collections.abc import Hashable, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64

from ..coder import SparseCoder
from ..viz.card import feature_card, in_short
from ..viz.microscope import METRICS, SHOWN, prompt_microscope
from .card import FeatureCard
from .reading import Reading, end_of, first_token, read
from .view import View

_ids = itertools.count()
MOST = 30  # rows
KEYS = {"ArrowUp": (-1, 0), "ArrowDown": (1, 0), "ArrowLeft": (0, -1), "ArrowRight": (0, 1)}
Pair = tuple[int | None, int | None]


class PromptMicroscope(View):
    """A heatmap of a text: latents by tokens, each cell an activation, the latents of largest sum first.

    contrast: a second text; then activation in the first less activation in the second, where a token that only one
    of them has counts as off in the other (see `aligned`). features: an index of the coder, which names the rows by
    their best labels and opens a latent's card from a cell. Below each token: the column sum of what is shown, and the
    share of the site's activation that the coder leaves out, `|y - y_hat|^2 / |y - b|^2`.

    State: text, contrast, show (a, b, difference), metric (activation), top (rows, 1 to 30), cell (row, column; None:
    the largest), open (the card). Raises ValueError for texts that cannot be read, and for an index of another coder.
    """

    def __init__(
        self, model: Any, coder: SparseCoder, text: str, contrast: str | None = None, *, features: Any = None,
        top: int = 12,
    ) -> None:  # fmt: skip
        self.model, self.coder, self.features, self._number = model, coder, features, next(_ids)
        _check_index(features, coder)
        for each in (text, contrast):
            if each is not None:
                read(model, coder, each)
        self.card = None if features is None else FeatureCard(features, 0, text=text)
        show = "a" if contrast is None else "difference"
        state = {"text": text, "contrast": contrast, "show": show, "metric": "activation", "top": top}
        self._state = state
        self.check()
        super().__init__(**state, cell=None, open=False)

    def check(self) -> None:
        state = self._state
        for name, allowed in (("show", SHOWN), ("metric", METRICS)):
            if state[name] not in allowed:
                raise ValueError(f"{name}={state[name]!r}: choose one of {', '.join(allowed)}")
        if state["contrast"] is None and state["show"] != "a":
            raise ValueError(f"show={state['show']!r} needs a second text: give contrast=")
        if state["top"] not in range(1, MOST + 1):
            raise ValueError(f"top={state['top']!r}: give 1 to {MOST} rows")

    def compute(self) -> dict[str, Any]:
        state = self._state
        a, b = (None if t is None else read(self.model, self.coder, t) for t in (state["text"], state["contrast"]))
        pairs = [(i, None) for i in range(len(a.tokens))] if b is None else aligned(a.ids, b.ids)
        side = {"a": 0, "b": 1, "difference": None}[state["show"]]
        same = 0 if side is not None else unchanged(a, b)
        pairs = pairs[same:] if side is None else [pair for pair in pairs if pair[side] is not None]
        seen = [(a, 1.0, 0), (b, -1.0, 1)] if side is None else [((a, b)[side], 1.0, side)]
        latents, strength = strongest([(r, sign, [p[n] for p in pairs]) for r, sign, n in seen], self.coder.d_sae)
        shown = latents[: state["top"]]
        both = [None if r is None else placed(r, [p[n] for p in pairs], shown) for n, r in enumerate((a, b))]
        values = both[0] - both[1] if side is None else both[side]
        rows = zip(shown.tolist(), values, *_blank(both, values), strict=True)
        return {
            **state, "id": self._number, "site": self.coder.site.name, "most": MOST, "sides": _sides(a, b),
            "n": (len(a.tokens), b and len(b.tokens)), "room": self.model.cfg.n_ctx - len(first_token(self.model)),
            "columns": _columns(a, b, pairs), "rows": [self._row(*row) for row in rows], "active": len(latents),
            "sums": values.sum(0).tolist(), "share": float(strength[shown].sum() / max(strength.sum(), 1e-30)),
            "most_error": _rounded_up(a, b), "skipped": same, "cell": _cell(state["cell"], values),
            "named": self.features is not None,
            "card": self.card.compute() if state["open"] else None, "seconds": max(r.seconds for r in (a, b) if r),
        }  # fmt: skip

    def _row(self, latent: int, values: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
        name = in_short(self.features.table.loc[latent]) if self.features is not None else ""
        numbers = {"values": values, "a": a, "b": b}
        lists = {key: found.tolist() for key, found in numbers.items()}
        return {"latent": latent, "name": name, **lists, "total": float(values.sum())}

    def render(self, data: dict[str, Any]) -> str:
        card = f'<div data-scope="card">{feature_card(data["card"])}</div>' if data["card"] else ""
        return f"<div>{prompt_microscope(data)}{card}</div>"

    def static(self, data: dict[str, Any]) -> str:
        return prompt_microscope(data) + (self.card.static(data["card"]) if data["card"] else "")

    def act(self, name: str, arg: Any) -> None:
        state = self._state
        if name.startswith("card/"):
            self._on_card(name.removeprefix("card/"), arg)
        elif name == "at":
            data = self.compute()  # a click on the very edge is in the last cell
            row, column = min(int(arg[1]), len(data["rows"]) - 1), min(int(arg[0]), len(data["columns"]) - 1)
            self.pick_cell(row, column, open=self.features is not None)
        elif name == "move":
            self._move(str(arg))
        elif name in ("text", "contrast"):
            self._type(name, str(arg))
        elif name == "last":
            self._type(self._typed[0], end_of(self.model, self._typed[1]))
        elif name == "compare":
            self.set_state(contrast=state["text"], show="difference", cell=None)
        elif name == "alone":
            self.set_state(contrast=None, show="a", cell=None)
        elif name == "open":
            self.pick_cell(*self.compute()["cell"], open=not state["open"])
        elif name == "top":
            self.set_state(top=int(arg), cell=None)
        else:
            self.set_state(**{name: arg}, cell=None)

    _typed = ("text", "")

    def _type(self, name: str, text: str) -> None:
        self._typed = name, text
        read(self.model, self.coder, text)
        if self.card is not None and name == "text":
            self.card.set_state(text=text)
        self.set_state(**{name: text}, cell=None)

    def _move(self, key: str) -> None:
        data = self.compute()
        if key == "x" and data["contrast"] is not None:
            self.set_state(text=data["contrast"], contrast=data["text"], cell=None)
        if key == "x" or not data["rows"]:
            return
        (row, column), n = data["cell"], len(data["columns"])
        if key == "Enter":
            self.pick_cell(row, column, open=self.features is not None)
        elif key in ("Home", "End"):
            self.pick_cell(row, 0 if key == "Home" else n - 1)
        else:
            down, right = KEYS[key]
            self.pick_cell(min(max(row + down, 0), len(data["rows"]) - 1), min(max(column + right, 0), n - 1))

    def pick_cell(self, row: int, column: int, *, open: bool | None = None) -> None:
        """Select a cell; an open card follows to its latent. Raises ValueError for one that is not there."""
        data = self.compute()
        if row not in range(len(data["rows"])) or column not in range(len(data["columns"])):
            raise ValueError(f"cell ({row}, {column}): there are {len(data['rows'])} rows of {len(data['columns'])}")
        open = self._state["open"] if open is None else open and self.card is not None
        if open and self.card.state["latent"] != data["rows"][row]["latent"]:
            self.card.pick(data["rows"][row]["latent"])
        self.set_state(cell=(row, column), open=open)
        self.latent = data["rows"][row]["latent"]

    def pick(self, latent: int) -> None:
        """Select the row of a latent, where it has one: a linked widget can show any."""
        data = self.compute()
        for row, shown in enumerate(data["rows"]):
            if shown["latent"] == latent:
                self.pick_cell(row, data["cell"][1])

    def _on_card(self, name: str, arg: Any) -> None:
        if name == "save":  # only what is shown in the page can hand it a file
            self.send(self.card.file())
            return
        self.card.act(name, arg)
        self.draw()

    def title(self) -> str:
        return "Latents on a text"


def aligned(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Pair]:
    """Two texts side by side: (place in a, place in b) or None where one has nothing; both rise throughout.

    Runs of equal tokens are matched, the longest first (Ratcliff and Metzener 1988); tokens between them are paired
    from the left, and what one text has more of stands alone.
    """
    runs = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return [p for _, i, i_end, j, j_end in runs for p in itertools.zip_longest(range(i, i_end), range(j, j_end))]


def unchanged(a: Reading, b: Reading) -> int:
    """Tokens at the beginning that both texts share, but for the last of them: there nothing can differ."""
    n = min(len(a.ids), len(b.ids))
    same = next((i for i in range(n) if a.ids[i] != b.ids[i]), n)
    return max(same - 1, 0)


def strongest(
    seen: Sequence[tuple[Reading, float, Sequence[int | None]]], d_sae: int
) -> tuple[Int64[np.ndarray, " on"], Float64[np.ndarray, " d_sae"]]:
    """(latents, strongest first; the strength of every latent): the sum over columns of its |value|, where not 0.

    A value is the sum over readings of sign times activation; each comes with the token that stands in each column.
    """
    keys, values = [], []
    for reading, sign, places in seen:
        column = np.full(len(reading.tokens), -1)
        column[[place for place in places if place is not None]] = [c for c, p in enumerate(places) if p is not None]
        at = column[reading.codes.rows.numpy()]
        keys.append((reading.codes.latents.numpy() * len(places) + at)[at >= 0])
        values.append(sign * reading.codes.values.numpy().astype(np.float64)[at >= 0])
    n = len(seen[0][2])
    cells, which = np.unique(np.concatenate(keys), return_inverse=True)
    sums = np.abs(np.bincount(which, np.concatenate(values), len(cells)))
    strength = np.bincount(cells // n, sums, d_sae).astype(np.float64)
    order = np.argsort(-strength, kind="stable")
    return order[: np.count_nonzero(strength)], strength


def placed(
    reading: Reading, places: Sequence[int | None], latents: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, "rows columns"]:
    """The activations of some latents at the token that stands in each column; 0 where none does."""
    out = np.zeros((len(latents), len(places)), np.float64)
    real = np.array([place is not None for place in places], bool)
    for row, latent in enumerate(latents.tolist()):
        out[row, real] = reading.values(latent)[[place for place in places if place is not None]]
    return out


def _blank(both: list[np.ndarray | None], like: np.ndarray) -> list[np.ndarray]:
    return [np.zeros_like(like) if found is None else found for found in both]


def _columns(a: Reading, b: Reading | None, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The tokens of a column with the error at each; None where a text has nothing there."""
    found = []
    for pair in pairs:
        here = [None if i is None else r.tokens[i] for i, r in zip(pair, (a, b), strict=True)]
        errors = [None if i is None else float(r.error[i]) for i, r in zip(pair, (a, b), strict=True)]
        found.append({"a": here[0], "b": here[1], "differs": b is not None and here[0] != here[1], "errors": errors})
    return found


def _sides(a: Reading, b: Reading | None) -> dict[str, int]:
    """How many latents are on somewhere in A only, in B only, in both."""
    on_a, on_b = ({*r.codes.latents.tolist()} if r is not None else set() for r in (a, b))
    return {"a": len(on_a - on_b), "b": len(on_b - on_a), "both": len(on_a & on_b)}


def _cell(cell: tuple[int, int] | None, values: np.ndarray) -> tuple[int, int] | None:
    """The cell that was chosen, or the largest; None where nothing is on."""
    if not values.size:
        return None
    if cell is not None and cell[0] < len(values) and cell[1] < values.shape[1]:
        return tuple(cell)
    return divmod(int(np.abs(values).argmax()), values.shape[1])


def _rounded_up(*readings: Reading | None) -> float:
    """A round share, tenths, that no error share is above; 1 at most."""
    return min(math.ceil(10 * max(float(r.error.max()) for r in readings if r is not None)) / 10, 1.0) or 0.1


def _check_index(features: Any, coder: SparseCoder) -> None:
    if features is None or features.coder is coder:
        return
    same = features.coder.site == coder.site and features.coder.W_dec.shape == coder.W_dec.shape
    if not same or not torch.equal(features.coder.W_dec, coder.W_dec):
        raise ValueError(
            f"the index is of another coder, {features.coder.d_sae:,} latents at {features.coder.site.name!r}: collect "
            f"the features of this one, {coder.d_sae:,} latents at {coder.site.name!r}"
        )
