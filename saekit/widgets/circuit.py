"""`CircuitView`: an attribution graph that is pruned, followed, grouped and changed."""

import itertools
import math
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..circuits import Graph
from ..circuits.influence import subgraph
from ..viz.card import feature_card
from ..viz.circuit import circuit, finding, picture
from ..viz.html import page
from ..viz.web import SCRIPT, factor
from . import drawn
from .card import FeatureCard
from .view import View
from .whatif import answers
from .wiring import PLAIN, Id, Kept, Wiring, strongest

_ids = itertools.count()
MOST = 300  # latents and errors
SHARES = ("node", "edge")
UNDONE = (*SHARES, "errors", "gone", "groups", "changes")  # settings that Undo takes back
EDGE, LEGIBLE = 0.8, 60  # nodes in the first picture


class CircuitView(View):
    """A graph in layers by tokens: hover or focus a node for its edges, pin it for the waterfall of its row.

    graph: from `sk.trace`; of more than 300 latents and errors those with the largest influence are shown, `.graph`.
    model: for changes that are run; without it they are what the graph predicts. features: for each layer the
    `sk.Features` of its transcoder, or None, which name the latents and open their cards.

    Below: how much of the pinned logit (the likeliest unless one is pinned) the kept part gives alone, in the linear
    graph. Faithfulness is `(F(C) - F(0)) / (F - F(0))`, F with everything, C with the latents, errors and edges in the
    picture, 0 with no latent and no error; beside it the median of 20 circuits with as many latents in each layer, the
    same errors, and all edges among them. "Left" is the same for all that is not in C. What had been pruned away
    before, the graph's `rest`, counts as not in C.

    State: node, edge (shares of the influence that are kept, as in `graph.prune`), errors (whether their nodes are
    shown), pin, picked, gone (removed), groups ({name, nodes}), changes ({latent: factor}), open (the card). Nodes are
    numbers of `.graph.nodes`, groups g0, g1, ... Raises ValueError for what is out of range.
    """

    def __init__(self, graph: Graph, model: Any = None, features: Any = None) -> None:
        self.graph, self.model, self.features, self._number = strongest(graph, MOST), model, features, next(_ids)
        self._past: list[tuple[frozenset[str], dict[str, Any]]] = []
        self._card: FeatureCard | None = None
        self._answered: tuple[dict[int, float], dict[str, Any]] | None = None
        self._found: tuple[bytes, dict[str, Any]] = b"", {}
        self._suggested: tuple[dict[str, Any], ...] = ()
        self._all = _size(graph)
        self._wiring = Wiring(self.graph, features)
        self._likeliest = int(np.where(self._wiring.kind == "logit", self._wiring.probability, -1.0).argmax())
        super().__init__(
            node=self._start(), edge=EDGE, errors=True, pin=self._likeliest, picked=(), gone=(), groups=(), changes={},
            open=False,
        )  # fmt: skip
        self.check()

    def _start(self) -> float:
        """The largest share with which the first picture can be read."""
        nothing, wiring = np.zeros(len(self.graph), bool), self._wiring
        shares = (0.8, 0.7, 0.6, 0.5, 0.4)
        return next(
            (s for s in shares if (wiring.kept(s, EDGE, nothing).nodes & wiring.prunable).sum() <= LEGIBLE), 0.4
        )

    def check(self) -> None:
        state, latent = self._state, self._wiring.kind == "latent"
        for name in SHARES:
            if not 0 <= state[name] <= 1:
                raise ValueError(f"{name}={state[name]!r}: give a share between 0 and 1")
        for name, allowed in (("gone", self._wiring.prunable), ("changes", latent)):
            for i in state[name]:
                _one_of(i, allowed, name)
        for value in state["changes"].values():
            if not math.isfinite(value):
                raise ValueError(f"changes: {value!r} is not a finite factor")
        members = [i for group in state["groups"] for i in group["nodes"]]
        for i in members:
            _one_of(i, latent, "groups")
        if len({*members}) < len(members) or any(len(group["nodes"]) < 2 for group in state["groups"]):
            raise ValueError("groups: give each at least two latents, and no latent to two of them")
        for i in (state["pin"], *state["picked"]):
            self._members(i)

    def _members(self, i: Id) -> tuple[int, ...]:
        """The nodes of a group, or the one node. Raises ValueError for one that is not there."""
        if isinstance(i, str):
            if i[:1] != "g" or not i[1:].isdigit() or int(i[1:]) >= len(self._state["groups"]):
                raise ValueError(f"{i!r} is no group; there are {len(self._state['groups'])}, from g0 on")
            return tuple(self._state["groups"][int(i[1:])]["nodes"])
        _one_of(i, self._wiring.drawn, "pin")
        return (int(i),)

    # -- data

    def compute(self) -> dict[str, Any]:
        state, wiring, kept = self._state, self._wiring, self._kept()
        ids = drawn.grouped(state["groups"], kept)
        edges = wiring.edges(kept, ids)
        at = ids.get(state["pin"], state["pin"] if state["pin"] in ids.values() else self._likeliest)
        logit = at if isinstance(at, int) and wiring.kind[at] == "logit" else self._likeliest
        return {
            **state, "id": self._number, "at": at, "nodes": self._nodes(ids, edges, at), "edges": edges,
            "rows": drawn.levels(wiring)[0], "columns": [""] if wiring.summed else list(self.graph.tokens),
            "picked": len(state["picked"]), "kept": int((kept.nodes & wiring.prunable).sum()), "all": self._all[0],
            "drawn": (kept.weights.nnz, self._all[1]), "path": wiring.leads_through(kept), "bound": self.graph.bound,
            "target": drawn.target(wiring, logit), "prompt": drawn.prompt(wiring), "exact": wiring.exact,
            "undo": bool(self._past), "suggested": bool(state["groups"]) and state["groups"] == self._suggested,
            "pinned": drawn.pinned(wiring, state["groups"], state["changes"], at, kept, ids),
            "measured": self._measured(kept), "changed": self._changed(), "card": self._shown_card(at),
            **wiring.alone(kept, logit), **self._answers(),
        }  # fmt: skip

    def _nodes(self, ids: dict[int, Id], edges: list[dict[str, Any]], at: Id) -> list[dict[str, Any]]:
        state, joined = self._state, {end for edge in edges for end in (edge["source"], edge["target"])}
        return [
            node | {"pressed": node["id"] == at, "picked": node["id"] in state["picked"],
                    "idle": node["kind"] == "token" and node["id"] not in joined}
            for node in drawn.nodes(self._wiring, state["groups"], state["changes"], ids)
        ]  # fmt: skip

    def _kept(self) -> Kept:
        state, wiring = self._state, self._wiring
        out = np.zeros(len(self.graph), bool)
        out[list(state["gone"])] = True
        return wiring.kept(state["node"], state["edge"], out | (wiring.kind == "error") & (not state["errors"]))

    # -- what the model is run for

    def measure(self) -> dict[str, Any]:
        """Run the model with nothing but the latents in the picture: `graph.faithfulness` of what is shown.

        Raises ValueError without a model, or for a graph without coders."""
        if self.model is None or self.graph.coders is None:
            raise ValueError("nothing to run: give the model, and a graph that has its coders")
        kept = self._kept()
        shown = subgraph(self.graph, kept.nodes | ~self._wiring.drawn)
        self._found = kept.nodes.tobytes(), shown.faithfulness(self.model)
        self.draw()
        return self._found[1]

    def _measured(self, kept: Kept) -> dict[str, Any]:
        """Faithfulness as the model was last run, while the picture is the same."""
        able = self.model is not None and self.graph.coders is not None
        found = self._found[1] if self._found[0] == kept.nodes.tobytes() else None
        return {
            "able": able,
            "circuit": found and found["kept"]["circuit"],
            "random": found and found["kept"]["median"],
        }

    def _answers(self) -> dict[str, Any]:
        """What the changes do; kept until they are others."""
        changes = self._state["changes"]
        if self._answered is None or self._answered[0] != changes:
            self._answered = dict(changes), answers(self._wiring, self.model, changes)
        return self._answered[1]

    def _changed(self) -> str:
        """Which latents are changed, in words."""
        changes, groups = self._state["changes"], self._state["groups"]
        if not changes:
            return ""
        for group in groups:
            if {*group["nodes"]} == {*changes} and len({*changes.values()}) == 1:
                return f"With “{group['name']}” × {factor(next(iter(changes.values())))}"
        (i, by), *more = changes.items()
        return f"With latent {self._wiring.index[i]} × {factor(by)}" + (f" and {len(more)} more" if more else "")

    # -- the card

    def _shown_card(self, at: Id) -> dict[str, Any] | None:
        """The card of the pinned latent, where one is asked for."""
        if not self._state["open"] or isinstance(at, str) or (index := self._wiring.indexed(at)) is None:
            return None
        if self._wiring.kind[at] != "latent":
            return None
        latent = int(self._wiring.index[at])
        if self._card is None or self._card.features is not index:
            self._card = FeatureCard(index, latent)
        if self._card.state["latent"] != latent:
            self._card.pick(latent)
        return self._card.compute()

    # -- the page

    def render(self, data: dict[str, Any]) -> str:
        card = f'<div data-scope="card">{feature_card(data["card"])}</div>' if data["card"] else ""
        return f"<div>{circuit(data)}{card}</div>"

    def static(self, data: dict[str, Any]) -> str:
        return circuit(data) + (self._card.static(data["card"]) if data["card"] else "")

    def to_html(self) -> str:
        """One document with what is shown now; no network. Its script marks what hangs on a node, and nothing else."""
        script = f"{SCRIPT.read_text('utf-8')}\nwebs(document.body)()"
        return page(self.title(), self.static(self.compute()), script)

    def to_svg(self) -> str:
        """The picture alone, as an SVG file with its own colours, on white."""
        return picture(self.compute())

    def to_neuronpedia(self, path: str | os.PathLike) -> Path:
        """Write what is in the picture, with its groups and the pinned node, as `Graph.to_neuronpedia` does."""
        kept, wiring = self._kept(), self._wiring
        inside = kept.nodes | ~wiring.drawn
        number = {int(old): new for new, old in enumerate(np.flatnonzero(inside))}
        groups: dict[str, list[int]] = {}
        for group in self._state["groups"]:
            name = group["name"] if group["name"] not in groups else f"{group['name']} {len(groups) + 1}"
            groups[name] = [number[i] for i in group["nodes"] if i in number]
        pinned = [number[i] for i in self._members(self._state["pin"]) if i in number]
        graph = subgraph(self.graph, inside, wiring.shown(kept).weights)
        return graph.to_neuronpedia(
            path, pinned=pinned, supernodes={name: nodes for name, nodes in groups.items() if nodes}
        )

    def title(self) -> str:
        return finding(self.compute())

    # -- what is done to it

    def set_state(self, **values: Any) -> None:
        """Change settings and redraw; Undo takes it back. Moves of one slider count as one."""
        what = frozenset(name for name in UNDONE if name in values and values[name] != self._state[name])
        new = what and not (what <= {*SHARES} and self._past and self._past[-1][0] == what)
        with self._busy:
            self._past += [(what, dict(self._state))] * bool(new)
            try:
                super().set_state(**values)
            except Exception:
                self._past = self._past[: len(self._past) - bool(new)]
                raise

    def undo(self) -> None:
        """Take back the last change of what is shown; nothing where there is none."""
        with self._busy:
            if self._past:
                super().set_state(**self._past.pop()[1])

    def act(self, name: str, arg: Any) -> None:
        state = self._state
        if name in ("pin", "select"):
            getattr(self, name)(_id(arg))
        elif name == "key":
            self._key(*(arg if isinstance(arg, list) else (arg, state["pin"])))
        elif name in SHARES:
            self.set_state(**{name: int(arg) / 100})
        elif name == "reset":
            self.set_state(node=0.8, edge=EDGE)
        elif name == "undo":
            self.undo()
        elif name == "change":
            self._change(float(arg))
        elif name == "clear":
            self.set_state(changes={})
        elif name == "remove":
            self.remove(_id(arg))
        elif name == "measure":
            self.measure()
        elif name == "suggest":
            self.suggest()
        elif name == "rename":
            self.rename(state["pin"], str(arg))
        elif name == "open":
            self.set_state(open=not state["open"])
        elif name == "save":
            self.send(self.file(str(arg)))
        elif name.startswith("card/") and self._card is not None:
            self._on_card(name.removeprefix("card/"), arg)
        else:
            super().act(name, arg)

    def _key(self, key: str, i: Any) -> None:
        i = _id(i)
        if key == "g":
            self.group()
        elif key == "u":
            self.ungroup(i)
        elif key in ("Delete", "Backspace"):
            self.remove(i)
        elif key == "z":
            self.undo()
        elif key == "Escape":
            self.set_state(picked=()) if self._state["picked"] else self.set_state(pin=self._likeliest)

    def pin(self, i: Id) -> None:
        """Show what made a node or a group."""
        self.set_state(pin=i)

    def select(self, i: Id) -> None:
        """Select a node or a group for `group`; a second time, let it go."""
        picked = self._state["picked"]
        self.set_state(picked=tuple(p for p in picked if p != i) if i in picked else (*picked, i))

    def group(self, name: str = "") -> None:
        """Put the selected latents and groups together. Raises ValueError for fewer than two latents."""
        state, wiring = self._state, self._wiring
        members = [n for i in state["picked"] for n in self._members(i) if wiring.kind[n] == "latent"]
        if len(members) < 2:
            raise ValueError(
                f"{len(members)} latents are selected: select two or more, with Shift and a click or Enter"
            )
        others = tuple(g for g in state["groups"] if not {*g["nodes"]} & {*members})
        made = {"name": name or f"group {len(others) + 1}", "nodes": tuple(sorted({*members}))}
        self.set_state(groups=(*others, made), picked=(), pin=f"g{len(others)}")

    def ungroup(self, i: Id) -> None:
        """Take a group apart; all of them where `i` is none."""
        groups = self._state["groups"]
        own = int(i[1:]) if isinstance(i, str) else None
        left = tuple(g for n, g in enumerate(groups) if n != own) if own is not None else ()
        if groups:
            pin = self._members(i)[0] if own is not None else self._state["pin"]
            pin = self._members(pin)[0]
            self.set_state(groups=left, picked=(), pin=pin)

    def suggest(self) -> None:
        """The groups that `circuits.supernodes.suggest` finds in the picture; a second time, none."""
        on = bool(self._state["groups"]) and self._state["groups"] == self._suggested
        self._suggested = () if on else self._wiring.suggested(self._kept())
        self.set_state(groups=self._suggested, picked=(), pin=self._likeliest)

    def rename(self, i: Id, name: str) -> None:
        """Call a group something else."""
        self._members(i)
        groups = self._state["groups"]
        at = int(str(i)[1:]) if isinstance(i, str) else -1
        self.set_state(groups=tuple(g | {"name": name} if n == at else g for n, g in enumerate(groups)))

    def remove(self, i: Id) -> None:
        """Take a latent, an error or a group out of the picture; tokens and logits stay."""
        wiring, state = self._wiring, self._state
        members = [n for n in self._members(i) if wiring.prunable[n]]
        if members:
            groups = (
                tuple(g for g in state["groups"] if not {*g["nodes"]} & {*members})
                if isinstance(i, str)
                else state["groups"]
            )
            self.set_state(gone=(*state["gone"], *members), groups=groups, pin=self._likeliest, picked=())

    def _change(self, by: float) -> None:
        """Multiply the pinned latents; a second time, leave them as they were."""
        members, changes = self._members(self._state["pin"]), dict(self._state["changes"])
        on = all(changes.get(i) == by for i in members)
        for i in members:
            changes.pop(i, None) if on else changes.update({i: by})
        self.set_state(changes=changes)

    def _on_card(self, name: str, arg: Any) -> None:
        if name == "save":
            self.send(self._card.file())
            return
        self._card.act(name, arg)
        self.draw()

    def file(self, kind: str = "HTML") -> dict[str, str]:
        """What the page saves: a name and the document."""
        made = {"HTML": self.to_html, "SVG": self.to_svg, "JSON": self._json}
        return {"download": f"circuit.{kind.lower()}", "text": made[kind]()}

    def _json(self) -> str:
        with TemporaryDirectory() as folder:
            return self.to_neuronpedia(Path(folder) / "circuit.json").read_text("utf-8")


def _size(graph: Graph) -> tuple[int, int]:
    """Latents and errors, and edges that a picture of all would have."""
    plain = graph.nodes["kind"].isin([*PLAIN]).to_numpy()
    return int(graph.nodes["kind"].isin(["latent", "error"]).sum()), int((~plain[graph.weights.indices]).sum())


def _one_of(i: Any, allowed: np.ndarray, name: str) -> None:
    if not isinstance(i, int | np.integer) or i not in range(len(allowed)) or not allowed[i]:
        raise ValueError(f"{name}: {i!r} is not a node of the right kind; see graph.nodes")


def _id(arg: Any) -> Id:
    return int(arg) if str(arg).isdigit() else str(arg)
