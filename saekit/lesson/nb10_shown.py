"""What notebook 10 shows of attribution graphs: tables, a waterfall, and trials of what a graph says on the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64

from ..attribute import patterns
from ..attribute.targets import token_id
from ..circuits import Graph
from ..circuits.supernodes import between
from ..circuits.trace import Progress
from ..corpus import pieces
from ..viz.html import Html, esc
from ..viz.transcoder import two_coders
from ..viz.waterfall import waterfall
from .nb06 import plain
from .nb10 import Groups, explained, members, place, strong_edges, traced, way

COLOURS = ("#de721e", "#3f86cf", "#199267", "#828487")


@torch.no_grad()
def odds(model: Any, prompts: Sequence[tuple[str, str, str]]) -> pd.DataFrame:
    """For (prompt, answer, rival): the probabilities of both, and the likeliest next token."""
    rows = []
    for text, answer, rival in prompts:
        p = model(model.to_tokens(text, prepend_bos=True))[0, -1].softmax(-1)
        ids = [token_id(model, token, len(p)) for token in (answer, rival)]
        top = pieces(model.tokenizer, [int(p.argmax())])[0]
        rows.append((repr(text), repr(answer), float(p[ids[0]]), repr(rival), float(p[ids[1]]), repr(top)))
    return pd.DataFrame(rows, columns=["prompt", "answer", "p of it", "rival", "p of rival", "likeliest"]).round(2)


def edges(model: Any, coders: Any, graph: Graph, direct_effect: Callable, n: int = 5) -> pd.DataFrame:
    """Strong edges between latents, by a function as in exercise 10.1, and as the graph has them."""
    rows = []
    for source, target in strong_edges(graph, n):
        found = float(direct_effect(*way(model, coders, graph, source, target)))
        rows.append((_said_of(graph, source), _said_of(graph, target), found, graph.weights[target, source]))
    return pd.DataFrame(rows, columns=["source", "target", "yours", "graph"])


def _said_of(graph: Graph, node: int) -> str:
    layer, pos, latent = place(graph, node)
    return f"latent {latent} of layer {layer} at {graph.tokens[pos]!r}"


def gap(graph: Graph) -> float:
    """By how much the sum of a row misses its total, at most: rounding."""
    sums = np.asarray(graph.weights.sum(axis=1)).ravel() + graph.rest
    return float(np.abs(sums - graph.totals)[graph.expanded].max())


def bar(bound: float = 0.01) -> Callable[[Progress], None]:
    """A `progress` for `sk.trace`, shown as a bar. bound: where the trace ends."""
    from tqdm.auto import tqdm

    shown = tqdm(desc="rows", unit="row")

    def tell(now: Progress) -> None:
        done = now.left <= bound
        shown.total = now.rows if done else now.latents
        shown.set_postfix_str(f"{now.left:.1%} of the influence is left")
        shown.update(now.rows - shown.n)
        if done:
            shown.close()

    return tell


def made_of(graph: Graph, node: int) -> pd.Series:
    """A row added up by kind, in shares of its total; latents by layer. All kinds that there are; they sum to 1."""
    row = graph.row(node)
    nodes = graph.nodes.reindex(row["source"])
    kind = nodes["kind"].fillna("rest").to_numpy().astype(str)
    layer = nodes["layer"].fillna(-1).astype(int).astype(str).to_numpy()
    kind = np.where(kind == "latent", np.char.add("latents, layer ", layer), kind)
    found = row.groupby(kind)["share"].sum()
    return found[found != 0].reindex([*sorted(found.index, key=lambda k: ("latent" in k, k))]).dropna()


def falls(parts: pd.Series, title: str) -> Html:
    """Shares that sum to 1, as a waterfall."""
    drawn = waterfall([{"name": name, "value": 100 * share} for name, share in parts.items()])
    head = f'<div class="sk-head"><div><h3 class="sk-title">{esc(title)}</h3></div></div>'
    return Html(f'<section class="sk">{head}<div class="sk-body">{drawn}</div></section>')


def picture() -> Html:
    """An SAE and a transcoder, side by side."""
    return two_coders(
        (
            "It rewrites an activation as a few latents and puts it back. The MLPs between two SAEs still compute.",
            "It reads what the MLP reads and gives what the MLP adds, so it can stand in for the MLP.",
        )
    )


def biggest(graph: Graph, features: Sequence[Any], n: int = 8) -> pd.DataFrame:
    """The latents with the largest influence: where they are, at which tokens they are on elsewhere, how often.

    edge: their direct edge into the target; an influence without one acts through other latents. The index is the node.
    """
    influence = np.where(graph.nodes["kind"] == "latent", graph.influence(), -1)
    row = graph.weights[[len(graph) - 1]].toarray()[0]
    table = []
    for node in np.argsort(-influence)[:n].tolist():
        layer, pos, latent = place(graph, node)
        of = features[layer].table.loc[latent]
        on = " ".join(map(repr, of.tokens[:3]))
        table.append((layer, pos, latent, repr(graph.tokens[pos]), influence[node], row[node], of.density, on))
    columns = ["layer", "position", "latent", "token", "influence", "edge", "density", "on at"]
    index = pd.Index(np.argsort(-influence)[:n], name="node")
    return pd.DataFrame(table, index, columns).round({"influence": 3, "edge": 2, "density": 3})


def trials(graph: Graph, model: Any, groups: Groups, factors: Sequence[float] = (0, -1, 2), **how: Any) -> pd.DataFrame:
    """Groups of latents times factors: what the graph says of the target, and what the model does.

    direct: the edges alone. predicted: along all paths, gates, norms and patterns held. actual: the model goes on from
    the changed latents; how: what `graph.intervene` takes. agree: predicted and actual have the same sign. Groups are
    given as (layer, position, latent), so the graph may be another than the one they were found in.
    """
    columns = (graph.nodes[c] for c in ("layer", "pos", "index", "activation"))
    value = {tuple(key): a for *key, a in zip(*columns, strict=True)}
    names = [(name, factor) for name in groups for factor in factors]
    changes = [{key: factor * value[key] for key in groups[name]} for name, factor in names]
    target = len(graph) - 1
    table = pd.DataFrame(names, columns=["group", "factor"])
    table["direct"] = [graph.predict(one)[target] for one in changes]
    table["predicted"] = [graph.predict(one, constrained=False)[target] for one in changes]
    done = graph.intervene(model, changes, **{"constrained": False} | how)
    table["actual"] = [outcome.after[target] - outcome.before[target] for outcome in done]
    return table.assign(agree=np.sign(table["predicted"]) == np.sign(table["actual"]))


def by_token(graph: Graph) -> pd.Series:
    """For each place, the share of the influence that runs through latents there; a path may meet several."""
    latents = graph.nodes[graph.nodes["kind"] == "latent"]
    found = {f"{graph.tokens[pos]} at {pos}": explained(graph, [*mine.index]) for pos, mine in latents.groupby("pos")}
    return pd.Series(found)


def tested(graph: Graph, small: Graph, model: Any, groups: Groups) -> pd.DataFrame:
    """`trials` of groups, and of each latent of the pruned graph, set to zero; kind says which."""
    latents = np.flatnonzero(small.nodes["kind"] == "latent").tolist()
    keys = [place(small, node) for node in latents]
    singles = {f"latent {i} of layer {layer} at {small.tokens[pos]!r}": [(layer, pos, i)] for layer, pos, i in keys}
    alone = trials(graph, model, singles, (0,)).assign(kind="one latent, × 0")
    table = trials(graph, model, groups)
    return pd.concat([table.assign(kind=[f"supernode, × {f}".replace("-", "−") for f in table["factor"]]), alone])


def by_kind(table: pd.DataFrame) -> pd.DataFrame:
    """For each kind of change: how many, the share with the right sign, and actual as a share of predicted (slope)."""
    parts = table.assign(xy=table["predicted"] * table["actual"], xx=table["predicted"] ** 2).groupby("kind")
    sums = parts[["xy", "xx"]].sum()
    found = {"changes": parts.size(), "signs agree": parts["agree"].mean(), "actual / predicted": sums.xy / sums.xx}
    return pd.DataFrame(found).round(2)


def scatter(table: pd.DataFrame) -> Any:
    """Predicted against actual change, with the line where both are the same."""
    import plotly.express as px

    agree, n = table["agree"].mean(), len(table)
    ends = [float(f(table[["predicted", "actual"]].to_numpy())) for f in (np.min, np.max)]
    how = {"color": "kind", "symbol": "kind", "hover_name": "group", "height": 420, "color_discrete_sequence": COLOURS}
    title = f"{agree:.0%} of {n} changes have the predicted sign; on the line, size and sign are right"
    fig = px.scatter(table, x="predicted", y="actual", title=title, **how).update_traces(marker_size=9)
    fig.add_shape(type="line", x0=ends[0], x1=ends[1], y0=ends[0], y1=ends[1], line={"dash": "dot", "color": "#828487"})
    return plain(fig).update_layout(legend_title=None)


def story(graph: Graph, groups: Groups) -> pd.DataFrame:
    """The edges between supernodes, and from them into the target."""
    target, nodes = len(graph) - 1, {name: members(graph, {name: keys}) for name, keys in groups.items()}
    return between(graph, nodes | {graph.nodes["label"][target]: [target]})


def likeliest(model: Any, logits: Float64[np.ndarray, " vocab"], n: int = 3) -> str:
    """The likeliest tokens, with their probabilities."""
    top = torch.as_tensor(logits).softmax(0).topk(n)
    names = pieces(model.tokenizer, top.indices.tolist())
    return ", ".join(f"{name!r} {p:.0%}" for name, p in zip(names, top.values.tolist(), strict=True))


def looks(model: Any, prompt: str, token: str) -> Float[np.ndarray, "layer head"]:
    """How much of its attention each head gives, from the last token, to a token of the prompt."""
    at = model.to_str_tokens(prompt).index(token)
    return patterns(model, model.to_tokens(prompt, prepend_bos=True))[:, :, -1, at].numpy()


def compared(graphs: Mapping[str, Graph]) -> pd.DataFrame:
    """Graphs of one target: their size, how few nodes hold 80 % of it, how many latents a path meets, their scores."""
    table = {}
    for name, graph in graphs.items():
        latent, influence = (graph.nodes["kind"] == "latent").to_numpy(), graph.influence()
        table[name] = {
            "latents on": latent.sum(),
            "edges": graph.weights.nnz,
            "latents and errors at 80 %": graph.prune(0.8).nodes["kind"].isin(["latent", "error"]).sum(),
            "latents on a path": influence[latent].sum() / graph.nodes["probability"].sum(),
            "replacement": graph.scores()["replacement"],
            "from errors": 1 - graph.scores()["completeness"],
        }
    return pd.DataFrame(table, dtype=object).map(lambda v: v if isinstance(v, int | np.integer) else round(v, 2))


def trust(model: Any, coders: Any, prompts: Sequence[tuple[str, str, str]]) -> pd.DataFrame:
    """For (prompt, answer, rival): the scores of the graph, and how often its signs hold for its 20 largest latents."""
    rows = []
    for text, right, wrong in prompts:
        graph = traced(model, coders, text, right, wrong)
        scores, check = graph.scores(), graph.check(model, 20)
        rows.append((repr(text), f"{right.strip()} not {wrong.strip()}", int((graph.nodes["kind"] == "latent").sum()),
                     scores["replacement"], 1 - scores["completeness"], check.attrs["agree"]))  # fmt: skip
    columns = ["prompt", "target", "latents on", "replacement", "from errors", "signs agree"]
    return pd.DataFrame(rows, columns=columns).round(2)
