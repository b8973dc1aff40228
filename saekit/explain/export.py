"""Latents for other tools: Neuronpedia's JSON, and tables."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..corpus import pieces
from ..features import Example, Features, Latent
from ..files import replacing
from .dossier import examples
from .explanation import Explanation
from .lens import lens, written

BARS = 50  # of a histogram
ROWS = 10  # tokens of a logits table
UPLOADED, LONGEST, WORDS = 128, 1024, 512  # what one upload takes: features, tokens of a text, characters


def feature_json(latent: Latent, source: str, explanations: Iterable[Any] = ()) -> dict[str, Any]:
    """A latent as Neuronpedia shows it: its Feature row with activations and explanations, ready for `json.dumps`.

    source: the id of the source, "{layer}-{set}". Follows the field lists of SAEDashboard's Neuronpedia exporter and
    converter (2025); from those lists, not checked against a server. What the index does not know (correlated neurons
    and features, weights by head, ablations) is an empty list; ids, creator and times are the server's. The group of
    largest activations has binMin = binContains = -1, as there; the others have their share of all firings.
    Raises ValueError for a dead latent, and for a source without a set.
    """
    if latent.dead:
        raise ValueError(f"latent {latent.index} is dead in this corpus: there is nothing to export")
    if "-" not in source.strip("-"):
        raise ValueError(f"source={source!r}: give '{{layer}}-{{set}}', such as '2-res-saekit'")
    features = latent.features
    model, about = features.model.cfg.model_name, {"layer": source, "index": str(latent.index)}
    logits, near = logits_of(latent), latent.similar()
    row = features.coder.W_dec[latent.index].detach().float()
    heights, edges = np.histogram(logits if logits is not None else [], BARS)
    return {
        "modelId": model, **about, "sourceSetName": source.split("-", 1)[1], "hookName": features.coder.site.name,
        "maxActApprox": latent.max, "frac_nonzero": latent.density,
        "hasVector": True, "vector": row.tolist(), "vectorLabel": None, "vectorDefaultSteerStrength": latent.max,
        "topkCosSimIndices": near.index.tolist(), "topkCosSimValues": near.cosine.tolist(),
        "freq_hist_data_bar_heights": latent.histogram(BARS).tolist(),
        "freq_hist_data_bar_values": ((np.arange(BARS) + 0.5) * latent.max / BARS).tolist(),
        "logits_hist_data_bar_heights": heights.tolist() if logits is not None else [],
        "logits_hist_data_bar_values": ((edges[:-1] + edges[1:]) / 2).tolist() if logits is not None else [],
        **logit_tables(latent, logits), **_alignment(row.numpy()),
        **{f"correlated_{what}_{k}": [] for what in ("neurons", "features") for k in ("indices", "pearson", "l1")},
        "decoder_weights_dist": [],
        "activations": [_activation(e, group, about | {"modelId": model}) for group, e in _grouped(latent)],
        "explanations": [
            {"modelId": model, **about, "description": Explanation.of(e).text, "typeName": None, "scores": []}
            for e in explanations
        ],
    }  # fmt: skip


def upload_batch(
    features: Features, latents: Iterable[int], source: str, explanations: Mapping[int, Any] | None = None, *,
    method: str = "saekit", judge: str = "rules",
) -> dict[str, Any]:  # fmt: skip
    """The body of Neuronpedia's `POST /api/feature/upload-batch` for up to 128 latents; nothing is sent.

    explanations: latent -> words, sent as of `method` and model `judge`, names that must be registered there.
    Follows the API's field list (2025): index, density, topLogits and bottomLogits (at most 20), explanations (at most
    512 characters), activations (at most 1,024 tokens). Raises ValueError for none or too many latents and dead ones.
    """
    chosen = list(latents)
    if not 1 <= len(chosen) <= UPLOADED:
        raise ValueError(f"{len(chosen)} latents: one upload takes 1 to {UPLOADED}; cut them into batches")
    rows = []
    for i in chosen:
        full = feature_json(features[i], source)
        tables = {
            name: [{"token": t, "value": v} for t, v in zip(full[f"{side}_str"], full[f"{side}_values"], strict=True)]
            for name, side in (("topLogits", "pos"), ("bottomLogits", "neg"))
        }
        said = [Explanation.of(explanations[i]).text[:WORDS]] if explanations and i in explanations else []
        words = [{"text": text, "methodName": method, "modelName": judge} for text in said]
        rows.append({"index": i, "density": full["frac_nonzero"], **tables, "explanations": words,
                     "activations": [_uploaded(a) for a in full["activations"]]})  # fmt: skip
    return {"modelId": features.model.cfg.model_name, "source": source, "features": rows}


def save_table(features: Features, path: str | os.PathLike) -> Path:
    """Write `features.table` to a .parquet or .csv file, whole or not at all; in CSV, tokens are a JSON list.

    Raises ValueError for another ending.
    """
    path, table = Path(path), features.table.reset_index()
    if path.suffix not in (".parquet", ".csv"):
        raise ValueError(f"{path.name!r} ends in {path.suffix!r}: give .parquet or .csv")
    with replacing(path) as temporary:
        if path.suffix == ".parquet":
            table.assign(tokens=[list(tokens) for tokens in table.tokens]).to_parquet(temporary, index=False)
        else:
            table.assign(tokens=[json.dumps(tokens) for tokens in table.tokens]).to_csv(temporary, index=False)
    return path


def logits_of(latent: Latent) -> np.ndarray | None:
    """Over the vocabulary; None where the coder writes to no residual stream."""
    model, coder = latent.features.model, latent.features.coder
    try:
        return lens(model, written(model, coder, [latent.index]))[0].numpy()
    except ValueError:
        return None


def logit_tables(latent: Latent, logits: np.ndarray | None) -> dict[str, list]:
    """The tokens that it promotes and suppresses most, with their logits; empty without."""
    if logits is None:
        return {"neg_str": [], "neg_values": [], "pos_str": [], "pos_values": []}
    order = np.argsort(logits, kind="stable")
    low, high = order[:ROWS], order[: -ROWS - 1 : -1]
    tokenizer = latent.features.model.tokenizer
    return {"neg_str": pieces(tokenizer, low), "neg_values": logits[low].tolist(),
            "pos_str": pieces(tokenizer, high), "pos_values": logits[high].tolist()}  # fmt: skip


def _alignment(row: np.ndarray) -> dict[str, list]:
    """The three largest entries of a decoder row, with their shares of its L1 norm."""
    largest = np.argsort(-np.abs(row), kind="stable")[:3]
    shares = np.abs(row[largest]) / max(np.abs(row).sum(), 1e-30)
    return {"neuron_alignment_indices": largest.tolist(), "neuron_alignment_values": row[largest].tolist(),
            "neuron_alignment_l1": shares.tolist()}  # fmt: skip


def _grouped(latent: Latent) -> list[tuple[dict[str, float], Example]]:
    """Examples with the borders and share of their group, the largest first."""
    top = {"binMin": -1.0, "binMax": latent.max, "binContains": -1.0}
    found = [(top, e) for e in latent.top(10)]
    for group in examples(latent, 5):
        inside = {"binMin": group["low"], "binMax": group["high"], "binContains": group["share"]}
        found += [(inside, e) for e in group["examples"]]
    return found


def _activation(example: Example, group: Mapping[str, float], about: Mapping[str, str]) -> dict[str, Any]:
    return {
        **about, "tokens": list(example.tokens), "values": list(example.values), "maxValue": max(example.values),
        "maxValueTokenIndex": int(np.argmax(example.values)), "minValue": min(example.values),
        "qualifyingTokenIndex": example.peak, **group, "dataSource": example.source, "dataIndex": str(example.window),
        "dfaValues": [], "dfaTargetIndex": None, "dfaMaxValue": None, "lossValues": [], "logitContributions": None,
    }  # fmt: skip


def _uploaded(activation: Mapping[str, Any]) -> dict[str, Any]:
    """An activation as an upload has it; the top group, which is no quantile, without borders."""
    cut = {name: activation[name][:LONGEST] for name in ("tokens", "values")}
    if activation["binContains"] < 0:
        return cut
    return cut | {"quantileMin": activation["binMin"], "quantileMax": activation["binMax"],
                  "quantileFraction": activation["binContains"]}  # fmt: skip
