"""`FeatureCard`: one latent."""

import itertools
import random
from typing import Any

from ..explain import dossier, rules
from ..viz.card import MODES, TABS, feature_card, feature_page
from ..viz.html import fixed
from .reading import below_threshold, end_of, read
from .view import View

_ids = itertools.count()
NEAR, TOKENS = 8, 12  # rows of a table
WRAPS = {"comment": "# {}", "string": 'text = "{}"', "docstring": 'def f():\n    """{}"""'}
TEXT = 'def double(x):\n    """Return twice the value."""\n    # numbers only\n    return 2 * x\n'


class FeatureCard(View):
    """One latent of an index: its examples, decoder row and measured output, labels with controls, neighbours, tokens,
    a text to try, a rule in words, a note and a star.

    State: latent, tab (examples, output, labels, neighbours, tokens, try), mode (top, value, rank, random, weighted),
    slice (a tenth of the maximum, or None), text, rule (whether one is asked for). Notes and stars are those of
    `features.notes`, written at once. Raises ValueError for a latent out of range; a text that cannot be read, and a
    rule that cannot be found, are answered in the tab.
    """

    def __init__(self, features: Any, latent: int, *, text: str = TEXT) -> None:
        self.features, self._number = features, next(_ids)
        self._outputs: dict[int, dict[str, Any] | None] = {}
        self._rules: dict[int, dict[str, Any]] = {}
        self._before: Any = None
        super().__init__(latent=int(latent), tab="examples", mode="value", slice=None, text=text, rule=False)

    def check(self) -> None:
        state = self._state
        self.features[state["latent"]]  # raises for one out of range
        for name, allowed in (("tab", TABS), ("mode", MODES), ("slice", (None, *range(10)))):
            if state[name] not in allowed:
                raise ValueError(f"{name}={state[name]!r}: choose one of {', '.join(map(str, allowed))}")

    def compute(self) -> dict[str, Any]:
        tab = self._state["tab"]
        return self._facts() | self._tab(tab) | {"tried": self._tried() if tab == "try" else None}

    def _facts(self) -> dict[str, Any]:
        """What is shown whatever the tab."""
        state = self._state
        rule = self._rule(state["latent"]) if state["rule"] and state["tab"] == "labels" else None
        return dossier.facts(self.features[state["latent"]]) | {
            "id": self._number, "tab": state["tab"], "mode": state["mode"], "slice": state["slice"], "rule": rule,
        }  # fmt: skip

    def _tab(self, tab: str) -> dict[str, Any]:
        """What one tab shows of a latent that is alive."""
        latent = self.features[self._state["latent"]]
        if latent.dead:
            return {}
        if tab == "neighbours":
            return {"similar": latent.similar(NEAR), "cofiring": latent.neighbours(NEAR)}
        found = {
            "examples": self._groups, "output": self._output, "labels": lambda one: one.labels().to_dict("records"),
            "tokens": lambda one: one.tokens(TOKENS),
        }  # fmt: skip
        return {"groups" if tab == "examples" else tab: found[tab](latent)} if tab in found else {}

    # -- tabs

    def _groups(self, latent: Any) -> list[dict[str, Any]]:
        """Examples in groups, each with its range and share of the firings."""
        chosen, mode = self._state["slice"], self._state["mode"]
        if chosen is not None:
            return [dossier.within(latent, chosen, chosen + 1, 8, f"Tenth {chosen + 1} of 10")]
        if mode in ("value", "rank"):
            return dossier.examples(latent) if mode == "value" else dossier.by_rank(latent)
        return dossier.drawn(latent, mode)

    def _output(self, latent: Any) -> dict[str, Any] | None:
        """Decoder row against measurement; None where the coder does not write to the residual stream."""
        if latent.index not in self._outputs:
            if self._before is None:
                self._before = dossier.unchanged(self.features)
            self._outputs[latent.index] = dossier.effect(latent, self._before)
        return self._outputs[latent.index]

    def _rule(self, latent: int) -> dict[str, Any]:
        """The rule of a latent in words with its F1; or why there is none."""
        if latent not in self._rules:
            try:
                rule = rules(self.features[latent])
                found = {"words": rule.words, "train": rule.train.f1, "test": rule.test.f1, "problem": ""}
            except ValueError as error:
                found = {"problem": str(error)}
            self._rules[latent] = found
        return self._rules[latent]

    def _tried(self) -> dict[str, Any]:
        model, coder, text = self.features.model, self.features.coder, self._state["text"]
        room = model.cfg.n_ctx - int(model.tokenizer.bos_token_id is not None)
        tried = {"text": text, "n": 0, "room": room, "seconds": 0.0, "problem": "", "actions": ""}
        try:
            reading = read(model, coder, text)
        except ValueError as error:
            n = len(model.tokenizer(text, add_special_tokens=False).input_ids)
            return tried | {"problem": str(error), "actions": getattr(error, "actions", ""), "n": n}
        values = reading.values(self._state["latent"])
        at = int(values.argmax())
        near = below_threshold(coder, reading, self._state["latent"])
        words = f"It comes closest at token {near[0] + 1}: {fixed(near[1])} below its threshold." if near else ""
        return tried | {
            "tokens": reading.tokens, "values": values.tolist(), "at": at, "peak": float(values[at]), "near": words,
            "at_token": reading.tokens[at].strip()[:24] or "a blank", "n": len(values), "seconds": reading.seconds,
        }  # fmt: skip

    # -- the page

    def render(self, data: dict[str, Any]) -> str:
        return feature_card(data)

    def static(self, data: dict[str, Any]) -> str:
        for tab in TABS:
            data = data | self._tab(tab)
        return feature_page(data)

    def act(self, name: str, arg: Any) -> None:
        state, n = self._state, len(self.features)
        if name == "latent":
            self.pick(int(arg))
        elif name == "step" or (name == "key" and arg in "[]"):
            step = int(arg) if name == "step" else 1 if arg == "]" else -1
            self.pick((state["latent"] + step) % n)
        elif name in ("random", "alive"):
            alive = self.features.table.index[self.features.table.density > 0]
            later = [i for i in alive if i > state["latent"]] or list(alive)
            self.pick(int(random.choice(alive) if name == "random" else later[0]))
        elif name == "tabkey":
            names = list(TABS)
            step = 1 if arg == "ArrowRight" else -1
            self.set_state(tab=names[(names.index(state["tab"]) + step) % len(names)])
        elif name == "slice":
            chosen = int(arg)
            self.set_state(slice=None if state["slice"] == chosen else chosen, tab="examples")
        elif name == "mode":
            self.set_state(mode=arg, slice=None)
        elif name == "rule":
            self.set_state(rule=True, tab="labels")
        elif name == "star":
            self._keep(int(arg), star=not self.features[int(arg)].star)
        elif name.startswith("note "):
            self._keep(int(name.removeprefix("note ")), text=str(arg))
        elif name == "wrap":
            self.set_state(text=WRAPS[arg].format(self._words()))
        elif name == "last":
            self.set_state(text=end_of(self.features.model, state["text"]))
        elif name == "save":
            self.send(self.file())
        else:
            super().act(name, arg)

    def _keep(self, latent: int, **changes: Any) -> None:
        """Write a note or a star, for the latent it was made at. Raises OSError where there is no room."""
        self.features.notes.put(self.features[latent].index, **changes)
        self.draw()

    def file(self) -> dict[str, str]:
        """What the page saves: a name and the document."""
        return {"download": f"latent-{self._state['latent']}.html", "text": self.to_html()}

    def _words(self) -> str:
        """The text without what a wrap would put around it, on one line."""
        lines = (line.strip().strip("#\"'").strip() for line in self._state["text"].splitlines())
        return " ".join(line for line in lines if line)[:200]

    def pick(self, latent: int) -> None:
        """Another latent, from its first examples."""
        self.set_state(latent=latent, slice=None, rule=False)

    def title(self) -> str:
        return f"Latent {self._state['latent']}"
