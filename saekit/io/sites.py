"""What other tools call a place in the model, as a `Site`."""

import re

from ..hooks import Site

_PLACES = {
    "": ("hook_resid_post",), "mlp": ("hook_mlp_out",), "attn": ("hook_attn_out",),
    "transcoder": ("mlp.hook_in", "hook_mlp_out"),
}  # fmt: skip


def in_block(layer: int, place: str = "") -> Site:
    """The residual stream after a block (""), its "mlp" or "attn" output, or its "transcoder"."""
    return Site(*(f"blocks.{layer}.{name}" for name in _PLACES[place]))


def of_module(name: str, transcode: bool = False) -> Site | None:
    """A Hugging Face module's output: `layers.5`, `transformer.h.5.mlp`, `gpt_neox.layers.5.attention`; else None."""
    found = re.fullmatch(r"(?:.*\.)?(?:layers|h|blocks)\.(\d+)(?:\.(mlp|attn|self_attn|attention))?", name)
    if found is None:
        return None
    place = {None: "", "mlp": "mlp"}.get(found[2], "attn")
    return in_block(int(found[1]), "transcoder" if transcode and place == "mlp" else place)


def of_path(path: str) -> Site | None:
    """A path such as `gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71`; None where it does not tell."""
    layer = re.search(r"layer_(\d+)", path)
    places = {"transcoder": "transcoder", "-res": "", "resid_post": "", "-mlp": "mlp", "mlp_out": "mlp"}
    place = next((place for word, place in places.items() if word in path), None)
    if layer and ("-att" in path or "attn" in path):
        return Site(f"blocks.{layer[1]}.attn.hook_z")
    return None if layer is None or place is None else in_block(int(layer[1]), place)
