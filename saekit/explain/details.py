"""Latents as the viewers of attribution graphs show them: one JSON for each, loose or packed by layer."""

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..circuits.ids import cantor
from ..features import Features, Latent
from ..files import replacing, save_json
from ..io.tensors import settings
from .dossier import examples
from .export import BARS, logit_tables, logits_of

INDEX = "index.json.gz"
NEEDED = ("index", "examples_quantiles")  # what Neuronpedia requires


def feature_detail(latent: Latent, transcoder: str = "") -> dict[str, Any]:
    """A latent as the attribution-graph viewers of Neuronpedia and circuit-tracer read it; of a dead one, all empty.

    Keys after circuit-tracer's frontend (0.5): transcoder_id, index, examples_quantiles, top_logits, bottom_logits,
    act_min, act_max, quantile_values, histogram, activation_frequency.
    """
    tables = logit_tables(latent, None if latent.dead else logits_of(latent))
    groups = [
        {
            "quantile_name": f"{group['title']}: {group['low']:.3g} to {group['high']:.3g}",
            "examples": [
                {"tokens": list(e.tokens), "tokens_acts_list": list(e.values), "train_token_ind": e.peak,
                 "is_repeated_datapoint": False} for e in group["examples"]
            ],
        }
        for group in examples(latent, 5)
    ]  # fmt: skip
    return {
        "transcoder_id": transcoder, "index": latent.index, "examples_quantiles": groups,
        "top_logits": tables["pos_str"], "bottom_logits": tables["neg_str"], "act_min": 0.0, "act_max": latent.max,
        "quantile_values": [group["low"] for group in examples(latent, 1)] + [latent.max] * (not latent.dead),
        "histogram": latent.histogram(BARS).tolist(), "activation_frequency": latent.density,
    }  # fmt: skip


def save_details(
    features: Mapping[int, Features], folder: str | os.PathLike, latents: Iterable[tuple[int, int]] | None = None
) -> Path:
    """Write what viewers show of latents; features: layer -> its index.

    latents: (layer, latent) pairs, such as those of a graph: a file `{number}.json` each, where number is
    `circuits.ids.cantor(layer, latent)`, as `feature_json_base_url` asks. None: all, packed, as circuit-tracer's viewer
    fetches them: `layer_{layer}.bin` holds one record a latent, 4 bytes of length (little-endian) and zlib's JSON, and
    `index.json.gz` says {layer: {filename, offsets}}, with the end as last offset. The folder for the viewer is called
    "features". Raises ValueError for a layer that has no features, OSError when the folder cannot be written.
    """
    folder, pairs = Path(folder), None if latents is None else [*latents]
    if lost := sorted({layer for layer, _ in pairs or []} - {*features}):
        raise ValueError(f"latents of layer {lost[0]} are asked for; features are there of layers {sorted(features)}")
    if pairs is not None:
        for layer, latent in pairs:
            save_json(feature_detail(features[layer][latent], str(layer)), folder / f"{cantor(layer, latent)}.json")
        return folder
    index = {str(layer): _pack(found, folder, layer) for layer, found in features.items()}
    with replacing(folder / INDEX) as temporary:
        temporary.write_bytes(gzip.compress(json.dumps(index).encode(), mtime=0))
    return folder


def read_detail(folder: str | os.PathLike, layer: int, latent: int) -> dict[str, Any]:
    """What a folder, loose or packed, says of a latent. Raises ValueError where it does not, or is damaged."""
    folder = Path(folder)
    path = folder / f"{cantor(layer, latent)}.json"
    if not path.is_file() and not (folder / INDEX).is_file():
        raise ValueError(f"{str(folder)!r} has neither {path.name!r}, latent {latent} of layer {layer}, nor {INDEX!r}")
    path, found = (path, settings(path)) if path.is_file() else _packed(folder, layer, latent)
    if missing := [key for key in NEEDED if key not in found]:
        raise ValueError(f"{str(path)!r}: latent {latent} of layer {layer} has no {missing[0]!r}")
    return found


def _pack(features: Features, folder: Path, layer: int) -> dict[str, Any]:
    """Write a layer, and return its entry in the index."""
    name, offsets = f"layer_{layer}.bin", [0]
    with replacing(folder / name) as temporary, temporary.open("wb") as file:
        for latent in range(len(features)):
            words = json.dumps(feature_detail(features[latent], str(layer)), allow_nan=False)
            data = zlib.compress(words.encode())
            file.write(len(data).to_bytes(4, "little") + data)
            offsets.append(file.tell())
    return {"filename": name, "offsets": offsets}


def _packed(folder: Path, layer: int, latent: int) -> tuple[Path, dict[str, Any]]:
    path = folder / INDEX
    try:
        entry = json.loads(gzip.decompress(path.read_bytes())).get(str(layer), {"offsets": []})
        if not 0 <= latent < len(entry["offsets"]) - 1:
            raise ValueError(f"no latent {latent} of layer {layer}; it has {max(len(entry['offsets']) - 1, 0)} there")
        path = folder / Path(entry["filename"]).name
        with path.open("rb") as file:
            file.seek(entry["offsets"][latent])
            data = file.read(int.from_bytes(file.read(4), "little"))
        return path, json.loads(zlib.decompress(data, zlib.MAX_WBITS | 32))  # zlib or gzip, the bytes tell
    except (OSError, EOFError, zlib.error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read ({error}); copy or download it again") from error
