"""`TokenStrip`: a text under one latent."""

import itertools
from typing import Any

from ..coder import SparseCoder
from ..viz.html import fixed, percent
from ..viz.notes import button, empty
from ..viz.tokens import LANES, lines_of, token_strip
from .reading import Reading, below_threshold, end_of, read
from .view import View

_ids = itertools.count()


class TokenStrip(View):
    """A text with a latent's activation at each token, true labels in lanes below, and what the model expects next.

    latent=None takes the strongest one. features: an index of the coder, for the latent's maximum on a corpus.
    guess=True asks first: clicks mark the tokens where the reader expects the latent to be on, and Reveal shows where
    it is, with the overlap `|marked and on| / |marked or on|` (Jaccard). Raises ValueError for an empty text, one that
    is longer than the context, and a latent that is out of range.
    """

    def __init__(
        self, model: Any, coder: SparseCoder, text: str, latent: int | None = None, *, features: Any = None,
        guess: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.coder, self.features, self.guess = model, coder, features, guess
        self._number = next(_ids)
        reading = read(model, coder, text)
        if latent is None:
            latent = int(reading.codes.latents[reading.codes.values.argmax()]) if len(reading.codes.values) else 0
        self._checked(latent)
        cursor = 0 if guess else int(reading.values(latent).argmax())
        lanes = ("docstring", "comment", "string", "bracket depth")
        super().__init__(
            text=text, latent=int(latent), cursor=cursor, lanes=lanes, spaces=False, marked=(), revealed=False
        )

    def _checked(self, latent: Any) -> None:
        if latent not in range(self.coder.d_sae):
            raise ValueError(
                f"latent {latent} is not in [0, {self.coder.d_sae}), the latents of this coder: choose one of these"
            )

    def check(self) -> None:
        self._checked(self._state["latent"])
        n = len(read(self.model, self.coder, self._state["text"]).tokens)
        if self._state["cursor"] not in range(n):
            raise ValueError(f"cursor={self._state['cursor']}: the text has {n} tokens, counted from 0")
        if unknown := set(self._state["lanes"]) - set(LANES):
            raise ValueError(f"no lane {sorted(unknown)[0]!r}; there are {', '.join(LANES)}")

    def compute(self) -> dict[str, Any]:
        state, reading = self._state, read(self.model, self.coder, self._state["text"])
        values = reading.values(state["latent"]).tolist()
        peak = max(range(len(values)), key=values.__getitem__)
        known = self.features[state["latent"]].max if self.features is not None else 0.0
        cursor, here = state["cursor"], [n for n in LANES if any(label in reading.labels for label in LANES[n][1])]
        return {
            "id": self._number, "site": self.coder.site.name, "latent": state["latent"], "d_sae": self.coder.d_sae,
            "text": state["text"], "tokens": reading.tokens, "values": values, "peak": peak, "cursor": cursor,
            "maximum": max(known, values[peak]) or 1.0, "labels": reading.labels, "lanes_here": here,
            "lanes": [name for name in here if name in state["lanes"]], "spaces": state["spaces"],
            "expects": reading.expects[cursor], "strongest": reading.strongest(cursor),
            "room": self.model.cfg.n_ctx - int(self.model.tokenizer.bos_token_id is not None),
            "hidden": self.guess and not state["revealed"], "guess": self._guessed(values) if self.guess else None,
            "silent": self._silent(reading) if not max(values) else None,
            "title": self._finding(reading, values), "about": self._about(values, known),
            "seconds": reading.seconds,
        }  # fmt: skip

    def _finding(self, reading: Reading, values: list[float]) -> str:
        """What this latent does on this text, in words that the data support."""
        latent, on = self._state["latent"], {i for i, v in enumerate(values) if v > 0}
        if self.guess and not self._state["revealed"]:
            return f"Where will latent {latent} be on?"
        if not on:
            return f"Latent {latent} is silent on this text"
        best, found = 0.0, ""
        for name, holds in reading.labels.items():
            if name.startswith("indent"):
                continue  # true of most of any short function
            has = {i for i, h in enumerate(holds) if h}
            overlap = len(on & has) / len(on | has)
            if overlap > best:
                best, found = overlap, name
        peak = reading.tokens[max(on, key=values.__getitem__)].strip() or "a line break or space"
        if best >= 0.5:
            return f"Latent {latent} is on at {len(on)} tokens, most of them labelled {found}"
        return f"Latent {latent} is on at {len(on)} of {len(values)} tokens, most strongly at {peak[:24]}"

    def _about(self, values: list[float], known: float) -> str:
        if self.guess and not self._state["revealed"]:
            return "commit to a guess first"
        where = f"its maximum on the corpus is {fixed(known)}" if known else f"its maximum here is {fixed(max(values))}"
        return f"on at {percent(sum(v > 0 for v in values) / len(values))} of the tokens · {where}"

    def _silent(self, reading: Reading) -> str:
        latent = self._state["latent"]
        near = below_threshold(self.coder, reading, latent)
        words = "It needs another text, or choose a latent that is on here."
        if near is not None:
            at, distance = near
            token = reading.tokens[at].strip()[:24]
            words = f"It comes closest at token {at + 1}, {token!r}: {fixed(distance)} below its threshold."
        strongest = int(reading.codes.latents[reading.codes.values.argmax()]) if len(reading.codes.values) else None
        act = (
            button(f"Show latent {strongest}, the strongest here", "latent", strongest) if strongest is not None else ""
        )
        return empty(f"Latent {latent} does not fire on this text", words, act)

    def _guessed(self, values: list[float]) -> dict[str, Any]:
        marked, on = set(self._state["marked"]), {i for i, v in enumerate(values) if v > 0}
        either = marked | on
        return {
            "marked": marked, "revealed": self._state["revealed"], "firing": len(on), "both": len(marked & on),
            "overlap": len(marked & on) / len(either) if either else 1.0,
        }  # fmt: skip

    @property
    def overlap(self) -> float:
        """Of the guess with the truth, 0 to 1. Raises ValueError before it is revealed."""
        if not (self.guess and self._state["revealed"]):
            raise ValueError("nothing is revealed yet: mark some tokens and press Reveal")
        return self.compute()["guess"]["overlap"]

    def render(self, data: dict[str, Any]) -> str:
        return token_strip(data)

    def act(self, name: str, arg: Any) -> None:
        state = self._state
        if name == "cursor" and self.guess:
            marked = set(state["marked"]) ^ {int(arg)} if not state["revealed"] else set(state["marked"])
            self.set_state(marked=tuple(sorted(marked)), cursor=int(arg))
        elif name in ("cursor", "latent"):
            self.set_state(**{name: int(arg)})
        elif name == "place":
            self.set_state(cursor=min(int(arg[0]), len(read(self.model, self.coder, state["text"]).tokens) - 1))
        elif name == "move":
            self.set_state(cursor=self._moved(str(arg)))
        elif name == "lane":
            lanes = set(state["lanes"]) | {arg[0]} if arg[1] else set(state["lanes"]) - {arg[0]}
            self.set_state(lanes=tuple(sorted(lanes, key=list(LANES).index)))
        elif name in ("reveal", "again"):
            self.set_state(revealed=name == "reveal", marked=state["marked"] if name == "reveal" else ())
        elif name in ("text", "last"):
            text = str(arg) if name == "text" else end_of(self.model, self._typed)
            self._typed = text
            read(self.model, self.coder, text)
            self.set_state(text=text, cursor=0, marked=(), revealed=False)
        else:
            super().act(name, arg)

    _typed = ""

    def _moved(self, key: str) -> int:
        """Where an arrow key leads."""
        cursor = self._state["cursor"]
        tokens = read(self.model, self.coder, self._state["text"]).tokens
        if key in ("Home", "End"):
            return 0 if key == "Home" else len(tokens) - 1
        if key in ("ArrowLeft", "ArrowRight"):
            return min(max(cursor + (1 if key == "ArrowRight" else -1), 0), len(tokens) - 1)
        lines = [[i for i, _, _ in line] for line in lines_of(tokens)]
        row = next(r for r, line in enumerate(lines) if cursor in line)
        step = 1 if key == "ArrowDown" else -1
        target = next((line for line in lines[row + step :: step] if line), None) if row + step >= 0 else None
        return target[min(lines[row].index(cursor), len(target) - 1)] if target else cursor

    def title(self) -> str:
        return f"Latent {self._state['latent']} on a text"
