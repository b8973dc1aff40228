"""Tables and figures of notebook 09."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor

from ..attribute.nodes import read
from ..attribute.setting import setting
from ..circuits import FeatureCircuit, swapped
from ..circuits.curve import drawn_like
from ..circuits.places import Places
from ..circuits.sparse import short
from ..corpus import pieces
from ..hooks import capture, not_bos, splice
from ..steer import Edit
from .known import Pairs, margins
from .nb06 import plain

BLUE, GREY, ORANGE = "#3f86cf", "#828487", "#c2701c"
TASKS = ("brackets", "copying", "copying of six names", "induction", "induction of six names")
AT = 0.049  # of the latents that are on


def overview(model: Any, tasks: Mapping[str, Pairs]) -> pd.DataFrame:
    """A prompt of each task, and how well the model does on all."""
    rows = {}
    for name, pairs in tasks.items():
        m = margins(model, pairs.clean, pairs.right, pairs.wrong)
        parts = pairs.clean[0, 1:], pairs.right[:1], pairs.wrong[:1]
        text, right, wrong = ("".join(pieces(model.tokenizer, ids.tolist())) for ids in parts)
        share, margin = f"{(m > 0).double().mean():.0%}", f"{m.mean():.1f}"
        rows[name] = {"prompt": text, "right": right, "wrong": wrong, "model is right": share, "margin": margin}
    return pd.DataFrame(rows).T


def at_site(model: Any, coder: Any, pairs: Pairs, i: int = 0) -> tuple[Tensor, ...]:
    """(gradient, f, f_patch, error, error_patch, W_dec) of one pair; zeros at BOS, where no coder is."""
    clean, patch = pairs.clean[i : i + 1], pairs.patch[i : i + 1]
    kept = not_bos(model, clean)
    start = setting(model, coder, clean, pairs.targets[i], None, None, "position")
    (f, error), (f_patch, error_patch) = (
        read(coder.site, coder, capture(model, tokens, coder.site), kept)[:2] for tokens in (clean, patch)
    )
    errors = (e * kept.flatten()[:, None] for e in (error, error_patch))
    return start.gradients[0], f.dense(), f_patch.dense(), *errors, coder.W_dec.detach()


def side_by_side(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The effects of the same nodes by several methods."""
    keys = ["site", "pos", "token", "kind", "latent"]
    columns = [table.set_index(keys)["effect"].rename(name) for name, table in tables.items()]
    table = pd.concat(columns, axis=1).reset_index()
    return table.assign(site=table["site"].map(short), latent=table["latent"].astype(str))


def scatter(table: pd.DataFrame, method: str, title: str) -> Any:
    """Estimates over exact effects, latents and errors, with the line where both agree."""
    import plotly.express as px

    low, high = (float(f(f(table[name]) for name in ("exact", method))) for f in (min, max))
    how = {"color": "kind", "symbol": "kind"}
    how |= {"color_discrete_sequence": [BLUE, GREY], "height": 400, "hover_data": ["site", "token", "latent"]}
    fig = px.scatter(table, x="exact", y=method, title=title, opacity=0.7, **how)
    fig.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={"dash": "dot", "color": GREY})
    return plain(fig).update_layout(xaxis_title="effect by ablation (logits)", yaxis_title=f"effect by {method}")


def shares(circuit: FeatureCircuit, title: str) -> Any:
    """Bars of what latents and errors of each site do together."""
    import plotly.express as px

    table = circuit.nodes.groupby(["site", "kind"], as_index=False)["effect"].sum()
    table["site"] = table["site"].map(short)
    how = {"color_discrete_map": {"latent": BLUE, "error": GREY}, "barmode": "group"}
    how |= {"pattern_shape": "kind", "pattern_shape_map": {"latent": "", "error": "/"}}
    fig = px.bar(table, x="effect", y="site", color="kind", title=title, height=260, **how)
    return plain(fig).update_layout(xaxis_title="change of the margin (logits)", yaxis_title=None)


def sums(table: pd.DataFrame, integrated: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """For each site the effects added up, and the change of the margin when all its nodes go to the patch at once."""
    found = table.groupby("site")[[*methods]].sum()
    return found.assign(together=[row["change"] for row in integrated.attrs["sites"].values()]).round(2)


def enough(curve: pd.DataFrame, bar: float = 0.8) -> int:
    """The smallest circuit of a curve that keeps so much, errors kept; the largest if none does."""
    kept = curve[curve["arm"] == "errors kept"]
    good = kept.loc[kept["circuit"] >= bar, "latents"]
    return int(good.min() if len(good) else kept["latents"].max())


def curves(curve: pd.DataFrame, title: str) -> Any:
    """Circuit, complement and the range of random circuits by size, an arm a panel."""
    from plotly.subplots import make_subplots

    arms = curve["arm"].unique()
    fig = make_subplots(1, len(arms), shared_yaxes=True, subplot_titles=[*arms], horizontal_spacing=0.06)
    for i, arm in enumerate(arms):
        traces = _traces(curve[curve["arm"] == arm], legend=i == 0)
        fig.add_traces(traces, rows=[1] * len(traces), cols=[i + 1] * len(traces))
    fig.update_xaxes(type="log", title="latents in the circuit").update_yaxes(title="faithfulness", col=1)
    return plain(fig).update_layout(title=title, height=380)


def _traces(rows: pd.DataFrame, legend: bool) -> list[Any]:
    from plotly.graph_objects import Scatter

    x, shown = rows["latents"], {"showlegend": legend}
    ends = {"x": [*x, *x[::-1]], "y": [*rows["random_high"], *rows["random_low"][::-1]], "fill": "toself"}
    band = {"line": {"color": GREY, "width": 1}, "fillcolor": "rgba(130, 132, 135, 0.35)", "mode": "lines"}
    spread = {"type": "data", "array": rows["high"] - rows["circuit"], "arrayminus": rows["circuit"] - rows["low"]}
    cross = {"line": {"color": ORANGE, "dash": "dash"}, "marker": {"symbol": "x"}}
    return [
        Scatter(**ends, **band, **shown, name="random"),
        Scatter(x=x, y=rows["circuit"], line={"color": BLUE}, error_y=spread, **shown, name="circuit"),
        Scatter(x=x, y=rows["complement"], **cross, **shown, name="complement"),
    ]


def by_kind(model: Any, coders: Sequence[Any], nodes: pd.DataFrame, prompts: Tensor) -> pd.DataFrame:
    """The mean activation of each latent while a bracket of each kind was opened last, and its effect."""
    named = {coder.site.name: coder for coder in coders}
    opened = np.stack([last_opened(pieces(model.tokenizer, row)) for row in prompts.tolist()])
    rows = []
    for node in nodes.itertuples():
        coder = named[node.site]
        x = coder.site.inputs(capture(model, prompts, coder.site))
        f = coder.encode(x).dense().view(*prompts.shape, -1)[..., node.latent]
        kinds = {mark: float(f[torch.from_numpy(opened == mark)].mean()) for mark in "([{"}
        rows.append({"site": short(node.site), "latent": node.latent, "effect": node.effect, **kinds})
    return pd.DataFrame(rows).round(2)


def last_opened(words: Sequence[str], marks: str = "([{") -> np.ndarray:
    """At each token the mark that was opened last, "" before the first."""
    found = [""]
    for word in words:
        found.append(word if word in (*marks,) else found[-1])
    return np.array(found[1:], dtype=object)


def where(circuit: FeatureCircuit) -> pd.DataFrame:
    """The effect of all nodes of a site, by position; positions are named by the first prompt's tokens."""
    names = [f"{p} {name}" for p, name in enumerate(circuit.tokens)]
    sums = circuit.nodes.pivot_table(index="site", columns="place", values="effect", aggfunc="sum").fillna(0.0)
    return sums.set_axis(sums.index.map(short)).set_axis([names[p] for p in sums.columns], axis=1).round(1)


@torch.no_grad()
def one_swap(
    model: Any, coders: Sequence[Any], edits: Sequence[Edit], pairs: Pairs, answers: Sequence[str], i: int = 0
) -> pd.DataFrame:
    """Logits of some answers on a prompt, on its patch, and on the prompt under edits."""
    prompt, patch = pairs.clean[i : i + 1], pairs.patch[i : i + 1]
    with splice(model, coders, edit=edits):
        after = model(prompt)[0, -1]
    runs = {"prompt": model(prompt)[0, -1], "swapped": after, "patch": model(patch)[0, -1]}
    ids = [model.tokenizer.encode(answer, add_special_tokens=False)[0] for answer in answers]
    return pd.DataFrame({name: logits[ids].tolist() for name, logits in runs.items()}, index=[*answers])


def random_like(circuit: FeatureCircuit, nodes: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """As many latents at each site, drawn from those that are on."""
    return drawn_like(circuit.active, nodes, np.random.default_rng(seed))


def flips(
    model: Any, coders: Sequence[Any], rows: Mapping[str, pd.DataFrame], places: Places, pairs: Pairs
) -> pd.DataFrame:
    """For each set of latents, the share of prompts whose answer a swap turns, with its 95 % interval."""
    found = {}
    for name, nodes in rows.items():
        table = swapped(model, coders, nodes, places, pairs.clean, pairs.patch, pairs.targets)
        table = table[table["before"] > 0]
        low, high = binomtest(int(table["flipped"].sum()), len(table)).proportion_ci(method="wilson")
        rates = {"flipped": table["flipped"].mean(), "low": low, "high": high}
        margin = {"margin before": table["before"].mean(), "after": table["after"].mean()}
        found[name] = {"latents": len(nodes), "prompts": len(table), **rates, **margin}
    return pd.DataFrame(found).T


def measured(found: Mapping[str, Any], at: float = AT) -> pd.DataFrame:
    """What was measured of each task with circuits of a share of the latents that are on, positions told apart."""
    rows = {}
    for name in TASKS:
        part = found[name]["position"]
        kept, alone = (_at(found[name][sites], "errors kept", at) for sites in ("position", "alone"))
        rows[name] = {
            "model is right": part["right"]["value"], "latents": kept["latents"], "F, errors kept": kept["circuit"],
            "low": kept["low"], "high": kept["high"], "F, errors removed": _at(part, "errors removed", at)["circuit"],
            "complement": kept["complement"], "random": kept["random"], "flips": part["flips"]["value"],
            "F at resid.1 alone": alone["circuit"],
        }  # fmt: skip
    return pd.DataFrame(rows).T.round(2)


def _at(part: Mapping[str, Any], arm: str, share: float) -> dict[str, float]:
    """The row of a curve that is nearest to a share of the latents."""
    curve = part["curve"][arm]
    i = int(np.abs(np.array(curve["share"]) - share).argmin())
    return {name: values[i] for name, values in curve.items()}


def levels(found: Mapping[str, Any]) -> pd.DataFrame:
    """The margin of the model, with all latents but the errors at their mean, and of the empty circuit."""
    rows = {name: found[name]["position"] for name in TASKS}
    return pd.DataFrame(
        {name: {"margin": row["margin"], "all latents, no errors": row["levels"]["errors removed"]["all"],
                "no latents, errors": row["levels"]["errors kept"]["none"],
                "neither": row["levels"]["errors removed"]["none"]} for name, row in rows.items()}
    ).T.round(2)  # fmt: skip


def agreement(found: Mapping[str, Any]) -> pd.DataFrame:
    """Correlation of both estimates with ablation, over all nodes of some prompts."""
    rows = {name: found[name]["agreement"] for name in TASKS}
    return pd.DataFrame(
        {name: {"one gradient": row["atp"]["pearson"], "integrated": row["ig"]["pearson"], "nodes": row["ig"]["n"]}
         for name, row in rows.items()}
    ).T.round(3).astype({"nodes": int})  # fmt: skip


def roles(model: Any, pairs: Pairs, names: Sequence[str]) -> dict[str, str]:
    """Categories of the tokens of a copying prompt: names, the end, and all else."""
    known = {form: "names" for name in names for form in (name, f" {name}")}
    return known | {pieces(model.tokenizer, pairs.clean[0, -1:].tolist())[0]: "the end"}
