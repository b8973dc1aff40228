"""`PromptMicroscope`: a text under the latents that are strongest on it, or what two texts differ in."""

import itertools
import math
from collections.abc import Hashable, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int, Int64

from ..attribute import Target
from ..coder import SparseCoder
from ..codes import Codes
from ..viz.card import feature_card, in_short
from ..viz.microscope import METRICS, SHOWN, prompt_microscope
from .card import FeatureCard
from .effects import Effects, choices, effects, without
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

    A cell can also be what the latent there does to the prediction after the text, in logits of a target: attribution,
    activation times gradient (`Effects`), or ablation, the target less what it is without the latent there. target: a
    `Target`; without it, and beside it, the likeliest next tokens are offered. Rows are then the latents of the
    largest attribution, and an account adds them, the other latents, the error and the bias up to the whole.

    State: text, contrast, show (a, b, difference), metric (activation, attribution, ablation), target (its place in
    the list), top (rows, 1 to 30), cell (row, column; None: the largest), open (the card). Raises ValueError for texts
    that cannot be read, a target of several tokens, and an index of another coder.
    """

    def __init__(
        self, model: Any, coder: SparseCoder, text: str, contrast: str | None = None, *, features: Any = None,
        target: Target | None = None, metric: str = "activation", top: int = 12,
    ) -> None:  # fmt: skip
        self.model, self.coder, self.features, self._number = model, coder, features, next(_ids)
        self.given = () if target is None else (target.on(model),)
        _check_index(features, coder)
        for each in (text, contrast):
            if each is not None:
                read(model, coder, each)
        self.card = None if features is None else FeatureCard(features, 0, text=text)
        show = "a" if contrast is None else "difference"
        state = {"text": text, "contrast": contrast, "show": show, "metric": metric, "target": 0, "top": top}
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
        if state["metric"] != "activation" and state["target"] not in range(n := len(self.targets())):
            raise ValueError(f"target={state['target']!r}: give its place among the {n} targets, 0 to {n - 1}")

    def targets(self) -> tuple[Target, ...]:
        """What the prediction can be measured by: the target that was given, and those that the text suggests."""
        return self.given + choices(self.model, self.coder, self._state["text"])

    def compute(self) -> dict[str, Any]:
        state = self._state
        texts = [state["text"], state["contrast"]]
        a, b = (None if t is None else read(self.model, self.coder, t) for t in texts)
        pairs = [(i, None) for i in range(len(a.tokens))] if b is None else aligned(a.ids, b.ids)
        side = {"a": 0, "b": 1, "difference": None}[state["show"]]
        same = 0 if side is not None else unchanged(a, b)
        pairs = pairs[same:] if side is None else [pair for pair in pairs if pair[side] is not None]
        sides = ((0, 1.0), (1, -1.0)) if side is None else ((side, 1.0),)
        found = self._effects(texts) if state["metric"] != "activation" else [None, None]
        codes = [r and (e or r).codes for r, e in zip((a, b), found, strict=True)]
        seen = [(codes[n], sign, [p[n] for p in pairs]) for n, sign in sides]
        latents, strength = strongest(seen, self.coder.d_sae)
        shown = latents[: state["top"]]
        account = _account(found, sides, shown) if state["metric"] != "activation" else None
        if state["metric"] == "ablation":
            codes = [t and self._without(t, shown) for t in texts]
        both = [None if c is None else placed(c, [p[n] for p in pairs], shown) for n, c in enumerate(codes)]
        values = both[0] - both[1] if side is None else both[side]
        rows = zip(shown.tolist(), values, *_blank(both, values), strict=True)
        cell = _cell(state["cell"], values)
        return {
            **state, "id": self._number, "site": self.coder.site.name, "most": MOST, "sides": _sides(a, b),
            "n": (len(a.tokens), b and len(b.tokens)), "room": self.model.cfg.n_ctx - len(first_token(self.model)),
            "columns": _columns(a, b, pairs), "rows": [self._row(*row) for row in rows], "active": len(latents),
            "sums": values.sum(0).tolist(), "share": float(strength[shown].sum() / max(strength.sum(), 1e-30)),
            "most_error": _rounded_up(a, b), "skipped": same, "cell": cell,
            "named": self.features is not None,
            "card": self.card.compute() if state["open"] else None, "account": account,
            "targets": [target.label for target in self.targets()] if account else [],
            "measures": self._measures(texts, found, int(shown[cell[0]]), pairs[cell[1]]) if account and cell else [],
            "seconds": sum(part.seconds for n, _ in sides for part in ((a, b)[n], found[n]) if part),
        }  # fmt: skip

    def _effects(self, texts: Sequence[str | None]) -> list[Effects | None]:
        target = self.targets()[self._state["target"]]
        return [None if text is None else effects(self.model, self.coder, text, target) for text in texts]

    def _without(self, text: str, latents: Int[np.ndarray, " rows"]) -> Codes:
        target = self.targets()[self._state["target"]]
        return without(self.model, self.coder, text, target, tuple(latents.tolist()))

    def _measures(
        self, texts: Sequence[str | None], found: Sequence[Effects | None], latent: int, pair: Pair
    ) -> list[dict[str, float] | None]:
        """For each text: activation, attribution and ablation of a latent at a token; None where it has no token."""
        told: list[dict[str, float] | None] = []
        for text, effect, place in zip(texts, found, pair, strict=True):
            if text is None or place is None:
                told.append(None)
                continue
            one = np.array([latent])
            codes = read(self.model, self.coder, text).codes, effect.codes, self._without(text, one)
            values = (float(placed(c, [place], one)[0, 0]) for c in codes)
            told.append(dict(zip(METRICS, values, strict=True)))
        return told

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
        elif name == "target":
            self.set_state(target=int(arg), cell=None)
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
    seen: Sequence[tuple[Codes, float, Sequence[int | None]]], d_sae: int
) -> tuple[Int64[np.ndarray, " on"], Float64[np.ndarray, " d_sae"]]:
    """(latents, strongest first; the strength of every latent): the sum over columns of its |value|, where not 0.

    A value is the sum over texts of sign times activation; each comes with the token that stands in each column.
    """
    keys, values = [], []
    for codes, sign, places in seen:
        column = np.full(len(codes), -1)
        column[[place for place in places if place is not None]] = [c for c, p in enumerate(places) if p is not None]
        at = column[codes.rows.numpy()]
        keys.append((codes.latents.numpy() * len(places) + at)[at >= 0])
        values.append(sign * codes.values.numpy().astype(np.float64)[at >= 0])
    n = len(seen[0][2])
    cells, which = np.unique(np.concatenate(keys), return_inverse=True)
    sums = np.abs(np.bincount(which, np.concatenate(values), len(cells)))
    strength = np.bincount(cells // n, sums, d_sae).astype(np.float64)
    order = np.argsort(-strength, kind="stable")
    return order[: np.count_nonzero(strength)], strength


def placed(
    codes: Codes, places: Sequence[int | None], latents: Int[np.ndarray, " rows"]
) -> Float64[np.ndarray, "rows columns"]:
    """The values of some latents at the token that stands in each column; 0 where none does."""
    row, dense = np.full(codes.d_sae, -1), np.zeros((len(latents), len(codes) + 1))  # the last column: no token
    row[latents] = np.arange(len(latents))
    at = row[codes.latents.numpy()]
    dense[at[at >= 0], codes.rows.numpy()[at >= 0]] = codes.values.numpy()[at >= 0]
    return dense[:, [-1 if place is None else place for place in places]]


def _account(
    found: Sequence[Effects | None], sides: Sequence[tuple[int, float]], shown: Int[np.ndarray, " rows"]
) -> dict[str, float]:
    """Attribution to the latents shown, to the others, to error and bias; they add up to `total`. And the target."""
    parts = dict.fromkeys(("shown", "others", "error", "bias", "total", "target"), 0.0)
    for n, sign in sides:
        codes, mine = found[n].codes, torch.from_numpy(shown)
        here = float(codes.values[torch.isin(codes.latents, mine)].double().sum())
        told = {"shown": here, "others": float(codes.values.double().sum()) - here, "error": found[n].error,
                "bias": found[n].bias, "total": found[n].total, "target": found[n].value}  # fmt: skip
        parts = {name: parts[name] + sign * told[name] for name in parts}
    return parts


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
