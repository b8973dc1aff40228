"""The rest of the zoo for notebook 04: each preset and each strategy trained for a moment, at the place it is for."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd
import torch

from .. import presets
from ..activations import Activations, Rows, layer_groups
from ..coder import SparseCoder
from ..corpus import Corpus, retrieve
from ..hooks import Site
from ..losses import (
    Objective,
    anneal,
    aux_zipf,
    auxk,
    causal,
    fvu,
    ghost,
    lp,
    mse,
    multi_topk,
    pre_act,
    resample,
    tilted,
)
from ..train import train

LATENTS, ROWS = 256, 8_192
QUICK = {"steps": 30, "batch_size": 512, "threads": 1, "precision": "float32", "progress": False}
RESID = "blocks.{}.hook_resid_post"
ABOUT_DATES = (
    "class date:\n    def replace(self, year=None, month=None, day=None):\n        return date(year, month, day)"
)


class Places:
    """Sources of one model and text; each is made when it is first asked for."""

    def __init__(self, model: Any, text: Corpus, coder: SparseCoder) -> None:
        self.model, self.text, self.coder = model, text, coder
        self.d, self.layers = model.cfg.d_model, range(model.cfg.n_layers)
        self._made: dict[str, Any] = {}

    def __getitem__(self, place: str) -> Any:
        if place not in self._made:
            self._made[place] = self._make(place)
        return self._made[place]

    def _make(self, place: str) -> Any:
        last = Site(RESID.format(self.layers[-2]))
        match place:
            case "one site":  # read once for all who train on it
                return Rows(Activations(self.model, last, self.text).held_out(ROWS).x)
            case "whole sequences":
                return Activations(self.model, last, self.text, ROWS, sequences=True)
            case "texts about dates":
                return Activations(self.model, last, retrieve(self.model, self.text, [ABOUT_DATES], windows=80))
            case "two layers pooled":
                return Activations(self.model, layer_groups(self.model, self.text, 2)[-1], self.text, ROWS)
            case "two layers side by side":
                return Activations(self.model, Site([RESID.format(i) for i in self.layers[:2]]), self.text, ROWS)
            case "decoder rows":
                return Rows.of_decoder(self.coder)
            case "an MLP":
                return Activations(self.model, mlps([1]), self.text, ROWS)
            case "all MLPs":
                return Activations(self.model, mlps(self.layers), self.text, ROWS)
        raise ValueError(f"place={place!r} is not one of these")


def mlps(layers: Any) -> Site:
    """From the inputs of these layers' MLPs to their outputs."""
    return Site([f"blocks.{i}.mlp.hook_in" for i in layers], [f"blocks.{i}.hook_mlp_out" for i in layers])


class Trial(NamedTuple):
    """What is trained, where, and how it is made for a width and a number of layers."""

    name: str
    place: str
    make: Callable[[int, int], Any]


def plus(preset: Any, term: Objective) -> Any:
    """A preset with one more term."""
    coder, objective = preset
    return coder, objective + term


def with_aim(preset: Any, objective: Objective) -> Any:
    """A preset's coder with another objective."""
    return preset[0], objective


TRIALS = (
    Trial("prolu", "one site", lambda d, _: presets.prolu(d, LATENTS, sparsity=0.5)),
    Trial("p_anneal", "one site", lambda d, _: presets.p_anneal(d, LATENTS, sparsity=0.7)),
    Trial("switch", "one site", lambda d, _: presets.switch(d, LATENTS, k=16, experts=4)),
    Trial("mutual_choice", "one site", lambda d, _: presets.mutual_choice(d, LATENTS, k=16)),
    Trial("feature_choice", "one site", lambda d, _: presets.feature_choice(d, LATENTS, k=16)),
    Trial("feature_aligned", "one site", lambda d, _: presets.feature_aligned(d, LATENTS, k=16)),
    Trial("specialized", "texts about dates", lambda d, _: presets.specialized(d, LATENTS, k=16)),
    Trial("layer_group", "two layers pooled", lambda d, _: [p[0] for p in presets.layer_group(d, LATENTS, 16, 1)]),
    Trial("crosscoder", "two layers side by side", lambda d, _: presets.crosscoder(d, LATENTS, sparsity=0.5)),
    Trial("meta_sae", "decoder rows", lambda d, _: presets.meta_sae(d, LATENTS, k=8)),
    Trial("end_to_end", "whole sequences", lambda d, _: presets.end_to_end(d, LATENTS, k=32, downstream=1.0)),
    Trial("formal", "whole sequences", lambda d, _: presets.formal(d, LATENTS, k=16)),
    Trial("transcoder", "an MLP", lambda d, _: presets.transcoder(d, LATENTS, k=16)),
    Trial("skip_transcoder", "an MLP", lambda d, _: presets.skip_transcoder(d, LATENTS, k=16)),
    Trial("per_layer_transcoders", "all MLPs", lambda d, n: presets.per_layer_transcoders(d, LATENTS, n, k=16)),
    Trial("cross_layer_transcoder", "all MLPs", lambda d, n: presets.cross_layer_transcoder(d, LATENTS, n, l0=32)),
    Trial("jumprelu step", "one site", lambda d, _: presets.jumprelu(d, LATENTS, step=0.01)),
    Trial("jumprelu tanh", "one site", lambda d, _: presets.jumprelu(d, LATENTS, saturating=10.0)),
    Trial("topk, Multi-TopK", "one site", lambda d, _: plus(presets.topk(d, LATENTS, 16), 1 / 8 * multi_topk(64))),
    Trial("topk, AuxK", "one site", lambda d, _: with_aim(presets.topk(d, LATENTS, 16), fvu() + 1 / 32 * auxk())),
    Trial("relu, resampling", "one site", lambda d, _: plus(presets.relu(d, LATENTS, 1.0), resample())),
    Trial("relu, ghost gradients", "one site", lambda d, _: plus(presets.relu(d, LATENTS, 1.0), ghost())),
    Trial("jumprelu, pre_act", "one site", lambda d, _: plus(presets.jumprelu(d, LATENTS, 16), 3e-6 * pre_act())),
    Trial("topk, tilted", "one site", lambda d, _: with_aim(presets.topk(d, LATENTS, 16), tilted(4.0))),
    Trial("relu, lp", "one site", lambda d, _: with_aim(presets.relu(d, LATENTS), mse() + 0.7 * lp(anneal(1, 0.2)))),
    Trial("topk, causal", "whole sequences", lambda d, _: plus(presets.topk(d, LATENTS, 16), 0.1 * causal())),
    Trial("topk, aux_zipf", "one site", lambda d, _: with_aim(presets.topk(d, LATENTS, 16), fvu() + aux_zipf(16))),
)


def trial(each: Trial, places: Places) -> dict[str, Any]:
    """Train it for a moment: a row with its FVU at the first step and at the end."""
    torch.manual_seed(0)
    coder, objective = each.make(places.d, len(places.layers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few steps leave some scores without meaning, and the notebook says so
        run = train(coder, places[each.place], objective, **QUICK)
    history = (run[0] if isinstance(run, list) else run).history
    last = history.iloc[-3:].mean(numeric_only=True)
    return {
        "trained": each.name,
        "on": each.place,
        "FVU before": history.fvu.iloc[0],
        "FVU after": last.fvu,
        "L0": last.l0,
    }


def trials(model: Any, text: Corpus, coder: SparseCoder, *places: str) -> pd.DataFrame:
    """A row for each of `TRIALS` at these places. `coder`: whose decoder rows the meta-SAE reads."""
    source = Places(model, text, coder)
    return pd.DataFrame([trial(each, source) for each in TRIALS if each.place in places]).set_index("trained").round(2)
