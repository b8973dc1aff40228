"""`FeatureCard`: one latent."""

import itertools
import random
from typing import Any

from ..explain import token_change, vocab_proj
from ..explain.output import mean_log_probs, prompts, random_direction
from ..viz.card import MODES, TABS, feature_card, feature_page, name_of
from ..viz.html import count, fixed, percent
from .reading import below_threshold, end_of, read
from .view import View

_ids = itertools.count()
STRENGTH = 2.0  # of the maximum: how strongly a latent is added to measure its output
DECILES = (("Top decile", 9, 10), ("6th to 9th", 5, 9), ("3rd to 5th", 2, 5), ("1st and 2nd", 0, 2))
WRAPS = {"comment": "# {}", "string": 'text = "{}"', "docstring": 'def f():\n    """{}"""'}
TEXT = 'def double(x):\n    """Return twice the value."""\n    # numbers only\n    return 2 * x\n'


class FeatureCard(View):
    """One latent of an index: examples by decile, decoder row and measured output, labels with controls, a text to try.

    State: latent, tab (examples, output, labels, try), mode (top, decile, random), slice (a tenth of the maximum, or
    None), text. Raises ValueError for a latent out of range; a text that cannot be read is answered in the tab.
    """

    def __init__(self, features: Any, latent: int, *, text: str = TEXT) -> None:
        self.features, self._number = features, next(_ids)
        self._outputs: dict[int, dict[str, Any] | None] = {}
        self._before: Any = None
        super().__init__(latent=int(latent), tab="examples", mode="decile", slice=None, text=text)

    def check(self) -> None:
        state = self._state
        self.features[state["latent"]]  # raises for one out of range
        for name, allowed in (("tab", TABS), ("mode", MODES), ("slice", (None, *range(10)))):
            if state[name] not in allowed:
                raise ValueError(f"{name}={state[name]!r}: choose one of {', '.join(map(str, allowed))}")

    def compute(self) -> dict[str, Any]:
        state, features = self._state, self.features
        latent = features[state["latent"]]
        row = features.table.loc[state["latent"]]
        best = {"f1": row.f1, "always_fire": row.always_fire} if row.label else None
        named = best is not None and row.f1 > row.always_fire
        tab = state["tab"]
        return {
            "id": self._number, "latent": state["latent"], "d_sae": len(features), "site": features.coder.site.name,
            "name": name_of(row.label) if named else "", "best": best, "dead": latent.dead, "n": features.n,
            "density": latent.density, "mean": latent.mean, "maximum": latent.max, "corpus": features.corpus.source,
            "histogram": latent.histogram(10).tolist(), "tab": tab, "mode": state["mode"], "slice": state["slice"],
            "groups": self._groups(latent) if tab == "examples" else [],
            "output": self._output(state["latent"]) if tab == "output" and not latent.dead else None,
            "labels": latent.labels().to_dict("records") if tab == "labels" else [],
            "tried": self._tried() if tab == "try" else None,
        }  # fmt: skip

    # -- tabs

    def _groups(self, latent: Any) -> list[dict[str, Any]]:
        """Examples in groups, each with its range and share of the firings."""
        if latent.dead:
            return []
        state, firings = self._state, latent.histogram(10)
        if state["slice"] is not None:
            return [self._group(latent, f"Decile {state['slice'] + 1}", state["slice"], state["slice"] + 1, 8)]
        if state["mode"] == "top":
            return [self._listed("Strongest", "one per window", f"of {count(latent.count)} firings", latent.top(10))]
        if state["mode"] == "random":
            return [self._listed("At random", "any strength", "seed 0", latent.sample(10))]
        return [self._group(latent, title, low, high, 3) for title, low, high in DECILES if firings[low:high].sum()]

    def _group(self, latent: Any, title: str, low: int, high: int, n: int) -> dict[str, Any]:
        floor, ceiling = latent.max * low / 10, latent.max * high / 10
        strongest = [e for e in latent.top(n) if e.value > floor]
        examples = strongest if high == 10 else latent.sample(n, floor, ceiling)
        firings = latent.histogram(10)
        share = f"{percent(firings[low:high].sum() / max(firings.sum(), 1))} of firings"
        return self._listed(title, f"{fixed(floor)} to {fixed(ceiling)}", share, examples)

    def _listed(self, title: str, span: str, share: str, examples: list) -> dict[str, Any]:
        return {"title": title, "range": span, "share": share, "examples": examples}

    def _output(self, latent: int) -> dict[str, Any] | None:
        """Decoder row against measurement; None where the coder does not write to the residual stream."""
        if latent not in self._outputs:
            self._outputs[latent] = self._measured(latent)
        return self._outputs[latent]

    def _measured(self, latent: int) -> dict[str, Any] | None:
        model, coder, corpus = self.features.model, self.features.coder, self.features.corpus
        try:
            row = vocab_proj(model, coder, latent)
        except ValueError:
            return None
        strength = STRENGTH * self.features[latent].max
        ids = prompts(corpus)
        self._before = mean_log_probs(model, ids) if self._before is None else self._before
        change = token_change(model, coder, latent, corpus, strength=strength, before=self._before)
        control = mean_log_probs(model, ids, random_direction(coder, latent), 0, strength) - self._before
        ten = set(row.id[:10])
        layer = coder.site.layer

        def pairs(table: Any, name: str) -> list[tuple[str, float]]:
            return list(zip(table.token, table[name], strict=True))

        return {
            "up": pairs(row[:10], "logit"), "down": pairs(row[10:], "logit"),
            "strength": STRENGTH, "places": ids.numel(),
            "more": pairs(change[:10], "change"), "less": pairs(change[10:], "change"),
            "agree": len(ten & set(change.id[:10])), "agree_random": len(ten & set(control.topk(10).indices.tolist())),
            "early": 0 if layer is None else model.cfg.n_layers - 1 - layer,
        }  # fmt: skip

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
        latent = self.features[self._state["latent"]]
        rest = {} if latent.dead else {"output": self._output(latent.index), "groups": self._groups(latent)}
        return feature_page(data | rest | {"labels": latent.labels().to_dict("records")})

    def act(self, name: str, arg: Any) -> None:
        state, n = self._state, len(self.features)
        if name == "latent":
            self.show(int(arg))
        elif name == "step" or (name == "key" and arg in "[]"):
            step = int(arg) if name == "step" else 1 if arg == "]" else -1
            self.show((state["latent"] + step) % n)
        elif name in ("random", "alive"):
            alive = self.features.table.index[self.features.table.density > 0]
            later = [i for i in alive if i > state["latent"]] or list(alive)
            self.show(int(random.choice(alive) if name == "random" else later[0]))
        elif name == "tabkey":
            names = list(TABS)
            step = 1 if arg == "ArrowRight" else -1
            self.set_state(tab=names[(names.index(state["tab"]) + step) % len(names)])
        elif name == "slice":
            chosen = int(arg)
            self.set_state(slice=None if state["slice"] == chosen else chosen, tab="examples")
        elif name == "mode":
            self.set_state(mode=arg, slice=None)
        elif name == "wrap":
            self.set_state(text=WRAPS[arg].format(self._words()))
        elif name == "last":
            self.set_state(text=end_of(self.features.model, state["text"]))
        elif name == "save":
            self.send(self.file())
        else:
            super().act(name, arg)

    def file(self) -> dict[str, str]:
        """What the page saves: a name and the document."""
        return {"download": f"latent-{self._state['latent']}.html", "text": self.to_html()}

    def _words(self) -> str:
        """The text without what a wrap would put around it, on one line."""
        lines = (line.strip().strip("#\"'").strip() for line in self._state["text"].splitlines())
        return " ".join(line for line in lines if line)[:200]

    def show(self, latent: int) -> None:
        """Another latent, from its first examples."""
        self.set_state(latent=latent, slice=None)

    def title(self) -> str:
        return f"Latent {self._state['latent']}"
