"""Activations in, edits out: the only module that knows TransformerLens.

Every hook is a context manager's or a single call's, so it is gone after an exception; a hook that did not fire is an
error; no dictionary is keyed on `hook.name`, which changes with the model's mode.
"""

import difflib
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .codes import Codes, decode

BUNDLED = Path(__file__).parent / "assets" / "model"
TOKENS = "embed.hook_in"  # the hook point that sees the token ids, in every family

Edit = Callable[[Codes], Codes]
Where = Callable[[Int[Tensor, "batch pos"]], Bool[Tensor, "batch pos"]] | Bool[Tensor, "batch pos"]


def load_model(name: str | os.PathLike | None = None, *, device: str = "cpu", dtype=torch.float32, **kwargs) -> Any:
    """A frozen `TransformerBridge` in eval mode, on the raw weights (no folding, no centring).

    `name`: None for the model that ships with saekit, a local folder, or a name on the Hugging Face hub; `kwargs` go
    to `TransformerBridge.boot_transformers`. Prompts get a BOS unless a call says otherwise.
    Raises ValueError when the folder holds no model, or when the hub does not answer and the name is not in its cache.
    """
    source = _locate(BUNDLED if name is None else name)
    from transformers.utils import logging

    # No "Loading weights" bar in notebook outputs; downloads keep theirs.
    before = logging.set_tqdm_hook(lambda bar, args, options: bar(*args, **{**options, "disable": True}))
    try:
        from transformer_lens.model_bridge import TransformerBridge

        model = TransformerBridge.boot_transformers(source, device=device, dtype=dtype, **kwargs)
    finally:
        logging.set_tqdm_hook(before)
    model.cfg.model_name = "tiny-python" if name is None else Path(source).name if Path(source).is_dir() else source
    model.cfg.default_prepend_bos = True  # TransformerLens' own default depends on the architecture
    return model.eval().requires_grad_(False)


def model_record(model: Any) -> dict[str, Any]:
    """What a saved coder says of the model it was trained on: name, processing, d_model, n_layers.

    `processing` is "raw", or "compatibility" when TransformerLens has folded and centred the weights. Of several
    models: their names, and `models`, a record of each.
    """
    if isinstance(model, Sequence):
        records = [model_record(each) for each in model]
        return {"name": " + ".join(record["name"] for record in records), "models": records}
    folded = getattr(model, "_weights_processed", False)  # `compatibility_mode` is also True where it changed no weight
    return {
        "name": model.cfg.model_name,
        "processing": "compatibility" if folded else "raw",
        "d_model": model.cfg.d_model,
        "n_layers": model.cfg.n_layers,
    }


def _locate(name: str | os.PathLike) -> str:
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{str(folder)!r} holds no config.json; give a folder written by save_pretrained")
        return str(folder)
    if not isinstance(name, str) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"no folder {str(name)!r}; give an existing folder, a hub name such as 'gpt2', or None")
    from huggingface_hub import try_to_load_from_cache

    if not hub_answers() and not isinstance(try_to_load_from_cache(name, "config.json"), str):
        raise ValueError(
            f"{name!r} is no local folder, is not in the Hugging Face cache, and the hub does not answer: "
            "connect to a network and restart, give a local folder, or use the model that ships: load_model()"
        )
    return name


@cache
def hub_answers(timeout: float = 2.0) -> bool:
    """Asked once per process. When it does not, Hugging Face is told, which would otherwise retry for 45 s."""
    from huggingface_hub import constants

    answers = []

    def ask() -> None:
        with suppress(OSError, HTTPException), urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=timeout):
            answers.append(True)

    if not constants.HF_HUB_OFFLINE:
        asking = threading.Thread(target=ask, daemon=True)  # because looking up a host has no time-out of its own
        asking.start()
        asking.join(timeout)
        if answers:
            return True
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True  # read from the environment at import, which may be past
    return False


@dataclass(frozen=True)
class Site:
    """Where a coder reads and where it writes: hook names, or tuples of names whose activations lie side by side.

    `Site("blocks.2.hook_resid_post")` for an SAE, `Site("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")` for a
    transcoder, `Site(("blocks.0.hook_resid_post", "blocks.1.hook_resid_post"))` for a crosscoder.
    Saved with `dataclasses.asdict(site)`, read back with `Site(**saved)`.
    """

    read: str | Sequence[str]
    write: str | Sequence[str] | None = None

    def __post_init__(self):
        for end, names in (("read", self.read), ("write", self.write or self.read)):
            names = (names,) if isinstance(names, str) else tuple(names)
            if not names or not all(names) or len({*names}) < len(names):
                raise ValueError(f"a site's {end} is one hook name, or several that differ; got {names}")
            object.__setattr__(self, end, names[0] if len(names) == 1 else names)

    @property
    def reads(self) -> tuple[str, ...]:
        """The hook names it reads, in order."""
        return (self.read,) if isinstance(self.read, str) else self.read

    @property
    def writes(self) -> tuple[str, ...]:
        """The hook names it writes, in order."""
        return (self.write,) if isinstance(self.write, str) else self.write

    @property
    def name(self) -> str:
        """Short and readable: "a", "a + b", "a -> b"."""
        ends = [" + ".join(self.reads), " + ".join(self.writes)]
        return " -> ".join(dict.fromkeys(ends))

    @property
    def layer(self) -> int | None:
        """The layer of the first hook it reads; None outside the blocks."""
        parts = self.reads[0].split(".")
        return int(parts[1]) if parts[0] == "blocks" else None

    def inputs(self, captured: Mapping[str, Float[Tensor, "batch pos _"]]) -> Float[Tensor, "batch pos d_in"]:
        """What a coder here reads, from what `capture` returned."""
        return torch.cat([captured[name] for name in self.reads], dim=-1)

    def targets(self, captured: Mapping[str, Float[Tensor, "batch pos _"]]) -> Float[Tensor, "batch pos d_out"]:
        """What a coder here reconstructs, from what `capture` returned."""
        return torch.cat([captured[name] for name in self.writes], dim=-1)

    def check(self, model: Any) -> tuple[int, int]:
        """(d_in, d_out) on this model. Raises ValueError for a hook it does not have or that does not fire."""
        points = _points(model, self.reads + self.writes)
        return sum(points[name].width for name in self.reads), sum(points[name].width for name in self.writes)


class _Point(NamedTuple):
    rank: int  # in the order in which hooks fire
    width: int


_MEASURED: WeakKeyDictionary[Any, dict[str, _Point]] = WeakKeyDictionary()


def _points(model: Any, names: Iterable[str]) -> dict[str, _Point]:
    """Measured once per model, so that no measuring pass runs through somebody's splice."""
    _check_names(model, names)
    if not all(name in _MEASURED.get(model, ()) for name in names):
        _MEASURED[model] = _measure(model)
    for name in names:
        if name not in _MEASURED[model]:
            raise ValueError(
                f"{name!r} exists but gives no [batch, pos, width] activation on {model.cfg.model_name!r}; "
                "some hooks need model.set_use_...(True) first, others never fire on this architecture"
            )
    return _MEASURED[model]


def _check_names(model: Any, names: Iterable[str]) -> None:
    known = model.hook_dict
    for name in names:
        if name not in known:
            close = ", ".join(difflib.get_close_matches(name, known)) or "none"
            raise ValueError(
                f"no hook {name!r} in {model.cfg.model_name!r}, which has {model.cfg.n_layers} layers; "
                f"close: {close}; list(model.hook_dict) has all"
            )


def _measure(model: Any) -> dict[str, _Point]:
    points: dict[int, _Point] = {}  # by identity, because a hook point has several names

    def see(x, hook):
        if isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 2 and x.shape[:2] == (2, 3):
            points[id(hook)] = _Point(len(points), x.shape[2:].numel())

    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", message=".*gated-off hook name")
        with model.hooks([(lambda name: True, see)]):
            model(torch.zeros(2, 3, dtype=torch.long, device=model.cfg.device))
    return {name: points[id(point)] for name, point in model.hook_dict.items() if id(point) in points}


class _Seen(Exception):
    """Everything asked for has been seen: ends the forward pass."""


def capture(
    model: Any,
    tokens: str | Int[Tensor, "batch pos"] | Int[Tensor, " pos"],
    *sites: Site | str,
    grad: bool = False,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
) -> dict[str, Float[Tensor, "batch _ _"]]:
    """{hook name: its activations [batch, pos, width], heads flattened} at every hook the sites read or write.

    The forward pass ends at the last of them. `grad=True` keeps the autograd graph.
    Raises ValueError for an unknown hook, an empty prompt or one longer than the context; RuntimeError for a hook that
    did not fire.
    """
    names = dict.fromkeys(name for site in sites for name in _names(site))
    _check_names(model, names)
    tokens = to_tokens(model, tokens)
    seen: dict[str, Tensor] = {}

    def see(x, hook, name):
        seen[name] = x.flatten(2)
        if len(seen) == len(names):
            raise _Seen
        # A view that is not returned is off the path, and would get no gradient.
        return seen[name].view_as(x) if grad else None

    with torch.set_grad_enabled(grad), model.hooks([(name, partial(see, name=name)) for name in names]):
        try:
            model(tokens, return_type=None, attention_mask=attention_mask)
        except _Seen:
            return seen
    raise RuntimeError(f"no activation came from {[name for name in names if name not in seen]}: dead on this model")


def rerun(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    replaced: Mapping[str, Float[Tensor, "batch pos _"]],
    mask: Bool[Tensor, "batch pos"],
    see: Sequence[str] = (),
) -> tuple[Float[Tensor, "batch pos vocab"], dict[str, Float[Tensor, "batch pos _"]]]:
    """(logits, {hook: its activations}) of one pass with the activations at some hooks replaced where `mask` holds.

    The gradient runs through what comes after the replaced hooks.
    """
    seen: dict[str, Tensor] = {}

    def put(x, hook, y):
        return torch.where(mask.view(*mask.shape, *(1,) * (x.dim() - 2)), y.view_as(x).to(x.dtype), x)

    def look(x, hook, name):
        seen[name] = x.flatten(2)

    _check_names(model, [*replaced, *see])
    hooks = [(name, partial(put, y=y)) for name, y in replaced.items()]
    with model.hooks([*hooks, *((name, partial(look, name=name)) for name in see)]):
        logits = model(tokens)
    return logits, seen


@contextmanager
def nudged(model: Any, changes: Mapping[str, Float[Tensor, "batch pos _"]]) -> Iterator[Any]:
    """The model goes on with x + change at these hooks; the gradient runs through both."""
    _check_names(model, changes)

    def add(x, hook, change):
        return x + change.view_as(x).to(x.dtype)

    with model.hooks([(name, partial(add, change=change)) for name, change in changes.items()]):
        yield model


def fires_after(model: Any, first: str, second: str) -> bool:
    """Whether hook `first` fires after hook `second`. Raises ValueError for a hook that the model does not have."""
    points = _points(model, [first, second])
    return points[first].rank > points[second].rank


def _names(site: Site | str) -> tuple[str, ...]:
    return (site,) if isinstance(site, str) else site.reads + site.writes


def to_tokens(model: Any, tokens: str | Int[Tensor, "batch pos"] | Int[Tensor, " pos"]) -> Int[Tensor, "batch pos"]:
    """Text after a BOS, or token ids, as a batch. Raises ValueError for an empty prompt and one past the context."""
    if isinstance(tokens, str):
        tokens = model.to_tokens(tokens, prepend_bos=True, truncate=False)
    tokens = torch.atleast_2d(tokens).to(model.cfg.device)
    if not 0 < tokens.shape[1] <= model.cfg.n_ctx:
        raise ValueError(f"a prompt of {tokens.shape[1]} tokens; {model.cfg.model_name!r} takes 1 to {model.cfg.n_ctx}")
    return tokens


def not_bos(model: Any, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Where the tokens are not BOS, on which no coder is trained."""
    bos = getattr(model.tokenizer, "bos_token_id", None)
    return tokens != (-1 if bos is None else bos)


@dataclass(eq=False)
class Pass:
    """One forward pass through a splice. With the key-value cache, every new token is a pass of its own."""

    tokens: Int[Tensor, "batch pos"]
    codes: list[Codes | None]  # one per coder, before the edit; in leaf mode the leaves; rows: [batch, pos] flattened
    errors: dict[str, Float[Tensor, "batch pos *d"]] = field(default_factory=dict)  # leaf mode: {write hook: leaf}


@contextmanager
def splice(
    model: Any,
    coders: Any,
    *,
    edit: Edit | Sequence[Edit | None] | None = None,
    where: Where | None = None,
    keep_error: bool = True,
    leaf: bool = False,
) -> Iterator[list[Pass]]:
    """Put coders into the model's forward pass for the length of the block; yields its passes as they come.

    With codes f = encode(x_read) and g = edit(f), what the model goes on with at the write site is
      keep_error:      x + (g - f) W_dec, on the changed latents only; x itself where nothing changed
      not keep_error:  decode(g)
      leaf:            decode(g') + e' + (x - sg(x)), g' = sg(g) and e' = sg(x - decode(f)) being autograd leaves:
                       the same values to rounding, and upstream of it the model's own gradient
    (sg: stop gradient). Several coders at one hook add up.

    `coders`: a coder, several, or {site: coder}; `edit`: an edit (`saekit.steer`), or one per coder, None for none;
    `where`: a mask of the positions to touch, or a function of the tokens that gives it; all but BOS by default.
    Raises ValueError before any forward pass when a coder's width, site or model is not this one's, or when it would
    write before it has read; RuntimeError when a pass ended and a hook had not fired.
    Leaf mode is the pass-through gradient of Marks et al. 2024, arXiv 2403.19647.
    """
    placed = at_sites(coders)
    edits = list(edit) if isinstance(edit, Sequence) else [None] * len(placed) if edit is None else [edit]
    if len(edits) != len(placed):
        raise ValueError(f"{len(edits)} edits for {len(placed)} coders; give one for each, None to leave one as it is")
    for (site, coder), its_edit in zip(placed, edits, strict=True):
        check_fit(model, site, coder, writes=its_edit is not None or leaf or not keep_error)
    splicer = _Splicer(model, placed, edits, where, keep_error, leaf)
    with model.hooks(splicer.hooks()):
        yield splicer.passes
    if splicer.passes and (silent := splicer.names - splicer.fired):
        raise RuntimeError(f"a forward pass ran, but {sorted(silent)} did not fire in it: did it stop early?")


def at_sites(coders: Any) -> list[tuple[Site | None, Any]]:
    """(site, coder) of a coder, of several, or of {site: coder}."""
    if isinstance(coders, Mapping):
        return list(coders.items())
    return [(coder.site, coder) for coder in (coders if isinstance(coders, Iterable) else [coders])]


def check_fit(model: Any, site: Site | None, coder: Any, writes: bool = False) -> None:
    """Raise ValueError, with both values, unless `coder` belongs at `site` of this `model`: site, widths, processing.

    With `writes`, also when the site writes before it has read.
    """
    if several := (coder.model or {}).get("models"):
        raise ValueError(
            f"this coder reads {len(several)} models side by side ({coder.model['name']}), but a forward pass is of "
            "one: sk.side(coder, i) is its part in model i"
        )
    if site is None:
        raise ValueError("the coder has no site; give {Site(...): coder}")
    if coder.site not in (None, site):
        raise ValueError(f"a coder of {coder.site.name!r} was placed at {site.name!r}")
    if (found := site.check(model)) != (coder.d_in, coder.d_out):
        raise ValueError(
            f"the coder goes from width {coder.d_in} to {coder.d_out}, but {site.name!r} on {model.cfg.model_name!r} "
            f"from {found[0]} to {found[1]}; was it trained on another model?"
        )
    here, there = model_record(model), coder.model or {}
    if any(here[key] != there.get(key, here[key]) for key in ("processing", "d_model", "n_layers")):
        raise ValueError(f"the coder was trained on {there}, but this model is {here}")
    points = _points(model, _names(site))
    last, first = max(site.reads, key=points.__getitem__), min(site.writes, key=points.__getitem__)
    if writes and points[first].rank < points[last].rank:
        raise ValueError(f"a splice at {site.name!r} would write {first!r} before it has read {last!r}")


class _Splicer:
    """The hooks of one splice. They share a state, because a write needs what was read before it."""

    def __init__(self, model, placed, edits, where, keep_error, leaf):
        self.placed, self.edits, self.keep_error, self.leaf = placed, edits, keep_error, leaf
        self.names = {name for site, _ in placed for name in _names(site)}
        self.widths = {name: point.width for name, point in _points(model, self.names).items()}
        self.where = partial(not_bos, model) if where is None else where
        self.fired: set[str] = set()
        self.passes: list[Pass] = []

    def hooks(self) -> list[tuple[str, Callable]]:
        visits = [(name, lambda x, hook, name=name: self.visit(name, x)) for name in sorted(self.names)]
        return [(TOKENS, lambda tokens, hook: self.begin(tokens)), *visits]

    def begin(self, tokens: Tensor) -> None:
        mask = self.where if isinstance(self.where, Tensor) else self.where(tokens)
        if mask.shape != tokens.shape:
            raise ValueError(
                f"`where` has shape {(*mask.shape,)}, the tokens of this pass {(*tokens.shape,)}; "
                "while generating, give a function of the tokens"
            )
        self.mask = mask.bool().to(tokens.device)
        self.seen: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}  # by write hook, what the coders add up to
        self.bases: dict[str, Tensor] = {}  # the same before the edit; leaf mode only
        self.passes.append(Pass(tokens, [None] * len(self.placed)))

    def visit(self, name: str, x: Tensor) -> Tensor | None:
        if not self.passes or name in self.seen:
            raise RuntimeError(f"{name!r} fired in a forward pass without tokens; a splice does not take embeddings")
        self.fired.add(name)
        self.seen[name] = x.flatten(2)
        for i, (site, _) in enumerate(self.placed):
            if name in site.reads and self.seen.keys() >= {*site.reads}:
                self.read(i)
        return self.write(name, x) if name in self.sums else None

    def read(self, i: int) -> None:
        site, coder = self.placed[i]
        x = site.inputs(self.seen).flatten(0, 1).to(coder.W_dec.dtype)  # [batch pos, d_in]
        x = x.detach() if self.leaf else x
        codes = coder.encode(x)
        edited = codes if self.edits[i] is None else self.edits[i](codes)
        if self.leaf:
            self.add(self.bases, site, coder.decode(codes, x).detach())
            edited = codes = edited.with_values(edited.values.detach().requires_grad_())
        self.passes[-1].codes[i] = codes
        if self.leaf or not self.keep_error:
            self.add(self.sums, site, coder.decode(edited, x))
        elif edited is not codes and len((change := _difference(edited, codes)).values):
            self.add(self.sums, site, decode(change, coder.dictionary()))

    def add(self, sums: dict[str, Tensor], site: Site, y: Tensor) -> None:
        segments = y.split([self.widths[name] for name in site.writes], dim=1)
        for name, segment in zip(site.writes, segments, strict=True):
            sums[name] = sums[name] + segment if name in sums else segment

    def write(self, name: str, x: Tensor) -> Tensor:
        y = self.sums[name].view_as(x).to(x.dtype)
        if self.leaf:
            error = (x - self.bases[name].view_as(x).to(x.dtype)).detach().requires_grad_()
            self.passes[-1].errors[name] = error
            y = y + error + (x - x.detach())
        elif self.keep_error:
            y = x + y
        return torch.where(self.mask.view(self.mask.shape + (1,) * (x.dim() - 2)), y, x)


def _difference(edited: Codes, codes: Codes) -> Codes:
    rows, latents = torch.cat([edited.rows, codes.rows]), torch.cat([edited.latents, codes.latents])
    values = torch.cat([edited.values, -codes.values])
    return Codes.from_entries(rows, latents, values, codes.n_rows, codes.d_sae).on()


def freezes(name: str, patterns: bool = True, norms: bool = True, qk_norms: bool = False) -> bool:
    """Whether `frozen` takes what comes from the hook `name` as a constant."""
    of_qk = ".q_norm." in name or ".k_norm." in name
    scale = name.endswith(".hook_scale") and (qk_norms if of_qk else norms)
    return scale or (patterns and name.endswith(".hook_pattern"))


@contextmanager
def frozen(model: Any, *, patterns: bool = True, norms: bool = True, qk_norms: bool = False) -> Iterator[Any]:
    """Gradients that take attention patterns and norm scales as constants: sg(A), sg(sqrt(var + eps)).

    With every MLP output replaced by a leaf besides, what the model computes is affine in its embeddings and those
    leaves (Ameisen et al. 2025, Circuit Tracing). Query and key norms lie upstream of the pattern, so they follow it;
    `qk_norms` freezes their scales too, which makes queries and keys affine in what the attention layer reads.
    Values move by rounding on RMSNorm models, which then compute the norm in Python.
    """

    hook = (lambda name: freezes(name, patterns, norms, qk_norms), lambda x, hook: x.detach())
    with warnings.catch_warnings(), model.hooks([hook]):
        warnings.filterwarnings("ignore", message=".*native-autograd path.*")
        yield model
