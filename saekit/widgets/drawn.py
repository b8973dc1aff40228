"""The nodes of a circuit view as they are drawn, and the pinned one in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..viz.html import fixed, percent
from ..viz.web import short
from .wiring import Id, Kept, Wiring

Groups = Sequence[Mapping[str, Any]]
PROMPT = 110  # characters
WHY = {
    "token": "A token is a source: it has no inputs.",
    "error": "An error is a source: what the transcoder leaves out. It stays in the sum, so that every row adds up.",
    "latent": "It was not expanded: its row is not in the graph.",
}


def grouped(groups: Groups, kept: Kept) -> dict[int, Id]:
    """What each node in the picture is shown as: its own number, or its group."""
    own: dict[int, Id] = {i: i for i in np.flatnonzero(kept.nodes).tolist()}
    return own | {i: f"g{g}" for g, group in enumerate(groups) for i in group["nodes"] if i in own}


def levels(wiring: Wiring) -> tuple[list[str], dict[int, int]]:
    """(the names of the rows, from below; the row of each layer, -1 for tokens)."""
    layers = np.unique(wiring.layer[wiring.prunable]).tolist()
    names = [wiring.site(int(np.flatnonzero(wiring.prunable & (wiring.layer == at))[0])) for at in layers]
    tokens = ["Tokens"] * bool((wiring.kind == "token").any())
    rows = [*tokens, *map(_capital, names), "Logits"]
    return rows, {key: row for row, key in enumerate([-1] * len(tokens) + layers)}


def nodes(wiring: Wiring, groups: Groups, changes: Mapping[int, float], ids: Mapping[int, Id]) -> list[dict[str, Any]]:
    """What `viz.web.web` draws of each, but for what is pinned and picked."""
    rows, level = levels(wiring)
    found, members = [], {}
    for i, top in ids.items():
        kind = wiring.kind[i]
        row = len(rows) - 1 if kind == "logit" else level[-1 if kind == "token" else int(wiring.layer[i])]
        node = {
            "id": i, "kind": kind, "level": row, "column": 0 if wiring.summed else int(wiring.pos[i]),
            "size": min(float(wiring.influence[i]), 1.0), "text": _text(wiring, i), "said": wiring.said(i),
            "factor": changes.get(i),
        }  # fmt: skip
        members.setdefault(top, []).append(node) if top != i else found.append(node)
    return found + [_pill(i, groups[int(i[1:])]["name"], own) for i, own in members.items()]


def _pill(i: str, name: str, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A group as a node: in the middle of its layers, where most of its members are."""
    columns = [node["column"] for node in members]
    return {
        "id": i, "kind": "group", "level": round(sum(node["level"] for node in members) / len(members)),
        "column": max({*columns}, key=lambda c: (columns.count(c), c)), "size": sum(n["size"] for n in members),
        "text": short(name, 22), "count": len(members), "factor": same(node["factor"] for node in members),
        "said": f"group {name}, {len(members)} latents",
    }  # fmt: skip


def same(values: Any) -> Any:
    """The value that all have, or None."""
    found = {*values}
    return found.pop() if len(found) == 1 else None


def _text(wiring: Wiring, i: int) -> str:
    kind = wiring.kind[i]
    if kind == "latent":
        return str(wiring.index[i])
    if kind == "logit":
        chance = f" {percent(wiring.probability[i], 0)}" if wiring.index[i] >= 0 else ""
        return short(wiring.names[i], 8 if chance else 13) + chance
    return short(wiring.names[i]) if kind == "token" else ""


def pinned(
    wiring: Wiring, groups: Groups, changes: Mapping[int, float], at: Id, kept: Kept, ids: Mapping[int, Id]
) -> dict[str, Any]:
    """What the panel at the side says of a node or a group."""
    group = groups[int(at[1:])] if isinstance(at, str) else None
    members = group["nodes"] if group else (at,)
    kind = "group" if group else str(wiring.kind[at])
    parts, shares = wiring.parts(members, kept, ids)
    where, facts = _facts(wiring, kind, members)
    named = kind == "latent" and wiring.indexed(at) is not None
    return {
        "id": at, "kind": kind, "name": group["name"] if group else "error" if kind == "error" else wiring.called(at),
        "where": where, "facts": facts, "parts": parts, "shares": shares, "why": WHY.get(kind, WHY["latent"]),
        "of": "the logit" if kind == "logit" else "the pre-activation", "changes": kind in ("latent", "group"),
        "removes": kind in ("latent", "error"), "factor": same(changes.get(i) for i in members),
        "card": int(wiring.index[at]) if named else None,
    }  # fmt: skip


def _facts(wiring: Wiring, kind: str, members: Sequence[int]) -> tuple[str, str]:
    """Where a node is, and its numbers."""
    i, share = members[0], f"{percent(sum(map(wiring.share, members)))} of the influence"
    if kind == "group":
        return f"{len(members)} latents as one node", share
    if kind == "logit":
        chance = f" · probability {percent(wiring.probability[i])}" if wiring.index[i] >= 0 else ""
        return "Output", fixed(wiring.graph.totals[i]) + chance
    if kind == "token":
        return "Input", f"token {wiring.pos[i] + 1} of {len(wiring.graph.tokens)}"
    value = f"activation {fixed(wiring.activation[i])} · " if kind == "latent" else ""
    return _capital(wiring.place(i)), value + share


def target(wiring: Wiring, logit: int) -> str:
    """A logit in words."""
    name = short(wiring.names[logit], 24)
    return f"the logit of “{name}”" if wiring.index[logit] >= 0 else name


def prompt(wiring: Wiring) -> list[str]:
    """The last tokens of the prompt, as many as fit on a line or two; or the names of its places."""
    if {*wiring.graph.ids} == {-1}:
        return [", ".join(wiring.graph.tokens)]
    tokens, room = [], PROMPT
    for token in reversed(wiring.graph.tokens[int("bos" in wiring.kind) :]):
        if (room := room - len(token)) < 0:
            return ["…", *tokens]
        tokens.insert(0, token)
    return tokens


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
