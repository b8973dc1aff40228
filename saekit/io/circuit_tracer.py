"""circuit-tracer: transcoders of every layer, the encoder stored by latent, as one folder. Read and written.

A set of per-layer transcoders is `layer_0.safetensors`, ...; one of these files alone is a coder. A cross-layer
transcoder is `W_enc_0.safetensors` (with the biases), `W_dec_0.safetensors` [d_sae, layers it writes, d], ... Beside
them, `config.yaml` tells the model and the hooks.
"""

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..coder import CoderStack, SparseCoder
from ..files import replacing, replacing_folder
from ..hooks import Site
from ..nonlinearity import JumpReLU, ReLU
from . import parts, stacks
from .parts import Parts
from .tensors import checked, from_safetensors, layer_files, length, shapes_of

CONFIG, THRESHOLD = "config.yaml", "activation_function.threshold"
KINDS = ("transcoder_set", "cross_layer_transcoder")
_NAMES = {"W_enc", "W_dec", "b_enc", "b_dec"}
_FILE = re.compile(r"(layer|W_enc|W_dec)_(\d+)\.safetensors")
_HOOKS = {"transcoder_set": "mlp.hook_in", "cross_layer_transcoder": "hook_resid_mid"}  # what is read, if not told


def claims(path: Path) -> bool:
    """Whether this file is of this format, or this folder holds such files, or says where they are."""
    if path.is_dir():
        return (path / CONFIG).is_file() or any(
            _FILE.fullmatch(file.name) and claims(file) for file in path.glob("*.safetensors")
        )
    found = shapes_of(path).keys() if path.suffix == ".safetensors" else set()
    return (found >= _NAMES and "b_pre" not in found) or any(re.fullmatch(r"W_(enc|dec)_\d+", name) for name in found)


def read(path: Path) -> SparseCoder | CoderStack:
    """The transcoder of one file, or all of a folder.

    Raises ValueError for one file of a cross-layer transcoder, layers that are missing, tensors that do not fit, and a
    `config.yaml` that contradicts the files.
    """
    if not path.is_dir():
        return _coder(path)
    kind = KINDS[any(path.glob("W_enc_*.safetensors")) or any(path.glob("W_dec_*.safetensors"))]
    about = _about(path, kind)
    named = about.get("transcoders")
    if isinstance(named, list) and named and not any(path.glob("*.safetensors")):
        raise ValueError(f"{str(path / CONFIG)!r} names {named[0]!r} and {len(named) - 1} more; load them one by one")
    if kind == KINDS[0]:
        return stacks.per_layer([_coder(file, about) for file in layer_files(path, "layer_{}.safetensors")])
    return _across(path, about)


def write(coder: SparseCoder, path: Path) -> Path:
    """Write a finished coder of one width, as a ReLU or as the JumpReLU it equals, and return the file.

    Raises ValueError for one that circuit-tracer has no file for.
    """
    name = _kind(coder)
    if coder.d_in != coder.d_out:
        raise ValueError(f"circuit-tracer's transcoders have one width; this goes from {coder.d_in} to {coder.d_out}")
    p = parts.of(coder) if name == "relu" else parts.as_jumprelu(parts.of(coder))
    tensors = {"W_enc": p.W_enc.T, "b_enc": p.b_enc, "W_dec": p.W_dec, "b_dec": p.b_dec}
    tensors |= {} if p.W_skip is None else {"W_skip": p.W_skip.T}
    tensors |= {} if p.threshold is None else {THRESHOLD: p.threshold}
    path = path if path.suffix == ".safetensors" else path.with_name(path.name + ".safetensors")
    _save(tensors, path)
    return path


def write_stack(stack: CoderStack, path: Path) -> Path:
    """Write per-layer transcoders, or a cross-layer transcoder, and return the folder, which is replaced as a whole.

    Raises ValueError for banks that circuit-tracer has no file for or that differ in size, for sites that are not the
    layers from 0 on, and for a cross-layer transcoder with a skip connection, which its files do not hold.
    """
    crosses = stacks.crosses(stack)
    if len(sizes := {bank.d_sae for bank in stack}) > 1:
        raise ValueError(f"circuit-tracer's layers have as many latents each; these have {sorted(sizes)}")
    lines = _config(stack, KINDS[crosses])
    with replacing_folder(path, lambda file: file.name == CONFIG or bool(_FILE.fullmatch(file.name))) as folder:
        if crosses:
            _write_cross(stack, folder)
        else:
            for layer, bank in enumerate(stack):
                write(bank, folder / f"layer_{layer}.safetensors")
        with replacing(folder / CONFIG) as temporary:
            temporary.write_text(lines)
    return path


def _kind(coder: SparseCoder) -> str:
    return parts.kind(coder, "circuit-tracer", dict.fromkeys(parts.JUMPS, "jumprelu") | {"relu": "relu"})


def _coder(path: Path, about: dict[str, Any] | None = None) -> SparseCoder:
    found = from_safetensors(path)
    if odd := next((name for name in found if re.fullmatch(r"W_(enc|dec)_\d+", name)), None):
        raise ValueError(f"{str(path)!r} holds {odd!r}: part of a cross-layer transcoder; load its folder")
    about = _about(path.parent, KINDS[0]) if about is None else about
    d_sae, d = length(path, found, "b_enc"), length(path, found, "b_dec")
    shapes = {"W_enc": (d_sae, d), "b_enc": (d_sae,), "W_dec": (d_sae, d), "b_dec": (d,)}
    scalar = THRESHOLD in found and found[THRESHOLD].numel() == 1
    t = checked(
        path, found, shapes, {THRESHOLD: tuple(found[THRESHOLD].shape) if scalar else (d_sae,), "W_skip": (d, d)},
        said_by="b_enc and b_dec",
    )  # fmt: skip
    skip = t["W_skip"].T if "W_skip" in t else None
    p = Parts(t["W_enc"].T, t["b_enc"], t["W_dec"], t["b_dec"], W_skip=skip)
    layer = _FILE.fullmatch(path.name)
    hooks = (about["feature_input_hook"], about["feature_output_hook"])
    site = None if layer is None else Site(*(f"blocks.{layer[2]}.{hook}" for hook in hooks))
    return _finished(p, t.get(THRESHOLD), site, about.get("model_name"))


def _across(path: Path, about: dict[str, Any]) -> CoderStack:
    encoders, decoders = (layer_files(path, name + "_{}.safetensors") for name in ("W_enc", "W_dec"))
    if len(encoders) != len(decoders):
        raise ValueError(f"{str(path)!r} has {len(encoders)} W_enc files and {len(decoders)} W_dec files")
    first = from_safetensors(encoders[0])  # it tells the sizes of all
    sizes = length(encoders[0], first, "b_enc_0"), length(encoders[0], first, "b_dec_0"), "threshold_0" in first
    banks = [_bank(encoders, decoders, layer, *sizes) for layer in range(len(encoders))]
    return stacks.cross_layer(banks, about["feature_input_hook"], about["feature_output_hook"], about.get("model_name"))


def _bank(encoders: list[Path], decoders: list[Path], layer: int, d_sae: int, d: int, jumps: bool) -> SparseCoder:
    """What one layer of a cross-layer transcoder reads and writes."""
    shapes = {"W_enc": (d_sae, d), "b_enc": (d_sae,), "b_dec": (d,)} | ({"threshold": (d_sae,)} if jumps else {})
    expected = {f"{name}_{layer}": shape for name, shape in shapes.items()}
    t = checked(encoders[layer], from_safetensors(encoders[layer]), expected, said_by="b_enc_0 and b_dec_0")
    name, written = f"W_dec_{layer}", len(encoders) - layer
    found = from_safetensors(decoders[layer])
    decoder = checked(decoders[layer], found, {name: (d_sae, written, d)}, said_by=f"{len(encoders)} layers")[name]
    p = Parts(t[f"W_enc_{layer}"].T, t[f"b_enc_{layer}"], decoder.flatten(1), t[f"b_dec_{layer}"])
    return _finished(stacks.from_own_layer(p), t.get(f"threshold_{layer}"))


def _finished(p: Parts, threshold: Tensor | None, site: Site | None = None, model: str | None = None) -> SparseCoder:
    if threshold is None:
        return parts.finished(p, ReLU(), site=site, model=model)
    threshold = threshold.reshape(()) if threshold.numel() == 1 else threshold
    return parts.finished(p._replace(threshold=threshold), JumpReLU(len(p.b_enc)), site=site, model=model)


def _write_cross(stack: CoderStack, folder: Path) -> None:
    if any(bank.W_skip is not None for bank in stack):
        raise ValueError("circuit-tracer's files of a cross-layer transcoder hold no skip connection; this one has it")
    jumps = "jumprelu" in [_kind(bank) for bank in stack]
    for layer, (bank, b_dec) in enumerate(zip(stack, stacks.b_dec_of_layers(stack), strict=True)):
        p = parts.as_jumprelu(parts.of(bank)) if jumps else parts.of(bank)
        encoder = {"W_enc": p.W_enc.T, "b_enc": p.b_enc, "b_dec": b_dec}
        encoder |= {"threshold": p.threshold} if jumps else {}
        _save({f"{name}_{layer}": t for name, t in encoder.items()}, folder / f"W_enc_{layer}.safetensors")
        decoder = p.W_dec.unflatten(1, (len(stack) - layer, -1))
        _save({f"W_dec_{layer}": decoder}, folder / f"W_dec_{layer}.safetensors")


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def _about(folder: Path, kind: str) -> dict[str, Any]:
    """What `config.yaml` says, or what circuit-tracer assumes. Raises ValueError where it contradicts the files."""
    import yaml

    about = {"model_kind": kind, "feature_input_hook": _HOOKS[kind], "feature_output_hook": "hook_mlp_out"}
    if not (folder / CONFIG).is_file():
        return about
    try:
        told = yaml.safe_load((folder / CONFIG).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(folder / CONFIG)!r} is not YAML: {error}") from error
    if not isinstance(told, dict) or (about | told)["model_kind"] != kind:
        raise ValueError(f"{str(folder / CONFIG)!r} says {told!r:.200}, expected a {kind} from the files beside it")
    about |= told
    if odd := [name for name in ("feature_input_hook", "feature_output_hook") if not isinstance(about[name], str)]:
        raise ValueError(f"{str(folder / CONFIG)!r} says {odd[0]}={about[odd[0]]!r}, expected the name of a hook")
    return about


def _config(stack: CoderStack, kind: str) -> str:
    """The text of `config.yaml`. Raises ValueError for sites that are not one hook of the blocks from 0 on."""
    import yaml

    hooks = {"feature_input_hook": _HOOKS[kind], "feature_output_hook": "hook_mlp_out"}
    if stack.site is not None:
        read, write = (end[0].removeprefix("blocks.0.") for end in (stack.site.reads, stack.site.writes))
        expected = Site(*([f"blocks.{layer}.{hook}" for layer in range(len(stack))] for hook in (read, write)))
        if stack.site != expected:
            raise ValueError(f"circuit-tracer's layers are blocks 0 to {len(stack) - 1}; this stack is at {stack.site}")
        hooks = {"feature_input_hook": read, "feature_output_hook": write}
    name = (stack.model or {}).get("name")
    return yaml.safe_dump({"model_name": name, "model_kind": kind, **hooks, "scan": None})
