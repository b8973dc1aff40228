"""Exercises and quiz of notebook 02. The references have no annotations, so that a solution runs where it is pasted."""

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ..attribute import patterns
from ..corpus import Corpus, pieces
from ..hooks import capture
from .exercise import Chapter, Exercise, Question, Setting, first_fault, not_a_function, tried

TEXTS = ("x = [1, 2]", "def area(width, height):\n    return width *")
COPIES = 12  # tokens in each copy of what 2.2 is tried on
PAIR = ("x = f(a[b + c", "y = f(a(b - c")  # clean and corrupt: before the bracket, at it, and after it, tokens differ


# -- 2.1


def residual(model, text):
    """The residual stream after blocks.2 on a text, [1, tokens, d_model], BOS first."""
    name = "blocks.2.hook_resid_post"
    _, cache = model.run_with_cache(model.to_tokens(text, prepend_bos=True), names_filter=name)
    return cache[name]


def _streams(model: Any, text: str) -> Iterator[tuple[Tensor, str]]:
    """What known slips give, and what to say of each."""
    ids = model.to_tokens(text, prepend_bos=True)
    names = [f"blocks.{layer}.hook_resid_{at}" for layer in range(model.cfg.n_layers) for at in ("pre", "post")]
    seen = capture(model, ids, *names, "blocks.2.hook_resid_mid", "blocks.2.hook_attn_out", "blocks.2.hook_mlp_out")
    right = seen["blocks.2.hook_resid_post"]
    yield right[0], "The values are right, but the first axis is gone: keep [1, tokens, d_model], also for one text."
    yield right[:, -1], "This is the last token only. Every token has a vector; give them all."
    yield right[:, 1:], "BOS is missing. The model reads it, so its vector belongs there too."
    without = capture(model, model.to_tokens(text, prepend_bos=False), "blocks.2.hook_resid_post")
    yield (
        without["blocks.2.hook_resid_post"],
        "The model ran without BOS, and that changes every vector. Let it begin with BOS, as in training.",
    )
    yield (
        seen["blocks.2.hook_resid_pre"],
        "This is the residual stream before the block, which is what the block before left. The name ends in post.",
    )
    yield seen["blocks.2.hook_resid_mid"], "This is between attention and MLP. The block is not over there."
    yield seen["blocks.2.hook_attn_out"], "This is what attention adds to the stream, not the stream."
    yield seen["blocks.2.hook_mlp_out"], "This is what the MLP adds to the stream, not the stream."
    yield seen["blocks.3.hook_resid_post"], "This is one block too late. Blocks are counted from 0."
    yield model(ids), "These are logits, the output of the whole model. Ask the cache for one name."


def _residual_faults(answer: Any, setting: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "residual")
    for text in TEXTS:
        got, right = tried(answer, setting.model, text), residual(setting.model, text)
        yield from left_on(setting.model)
        if not torch.is_tensor(got):
            kind = type(got).__name__
            yield f"You return a {kind}. Wanted is the one tensor in it, which its name gives."
        if not same(got, right):
            yield from (said for slip, said in _streams(setting.model, text) if same(got, slip))
            yield f"The shape is {tuple(got.shape)}, wanted {tuple(right.shape)}: the stream after blocks.2."


def same(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * (1 + b.abs().max()))


def left_on(model: Any) -> Iterator[str]:
    """The message for a hook that is still on the model; it is taken off, so that the notebook can go on."""
    if n := hooked(model):
        model.reset_hooks()
        yield (
            f"Your function leaves hooks on the model ({n}), which would change all that follows. They were taken off. "
            "Use run_with_hooks or a with-block, which clean up."
        )


def hooked(model: Any) -> int:
    """How many forward hooks are on the model."""
    return len(
        {id(hook) for point in {id(p): p for p in model.hook_dict.values()}.values() for hook in point.fwd_hooks}
    )


# -- 2.2


def induction_scores(patterns, n):
    """[layer, head]: the attention of a token in the second copy to the token after its first copy, on average.

    patterns [layer, head, query, key] on BOS, n tokens, and the same n again."""
    second = torch.arange(n + 1, 2 * n + 1)
    return patterns[:, :, second, second - n + 1].mean(-1)


def _patterns(n: int = COPIES) -> Float[Tensor, "layer head query key"]:
    """Causal patterns of three layers of four heads; one head does induction, one looks at the copy itself."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 4, 2 * n + 1, 2 * n + 1, generator=draw)
    second = torch.arange(n + 1, 2 * n + 1)
    scores[2, 1, second, second - n + 1] += 4
    scores[1, 3, second, second - n] += 4
    rows = torch.ones(2 * n + 1, 2 * n + 1).tril().bool()
    return scores.masked_fill(~rows, -torch.inf).softmax(-1)


def _score_slips(n: int) -> Iterator[tuple[Tensor, str]]:
    patterns = _patterns(n)
    second = torch.arange(n + 1, 2 * n + 1)
    right = patterns[:, :, second, second - n + 1]
    yield (
        patterns[:, :, second, second - n].mean(-1),
        "You look at the first copy of the token itself. Induction looks one place further, at what came after it.",
    )
    yield (
        patterns[:, :, second, second - n - 1].mean(-1),
        "You look at the token before the first copy. What is worth copying came after it.",
    )
    yield (
        patterns.diagonal(1 - n, -2, -1).mean(-1),
        "Tokens of the first copy are in your average. They have nothing to copy from: take the second copy only.",
    )
    yield right[..., :-1].mean(-1), "One token of the second copy is missing in your average: the last one."
    yield right[..., 1:].mean(-1), "One token of the second copy is missing in your average: the first one."
    yield right.sum(-1), "You add up over the tokens, so that longer texts score higher. Take the mean."
    yield right.amax(-1), "You take the best token of each head. One lucky token is no habit: take the mean."
    yield right.mean((1, 2)), "You average over the heads too. Each head has a score of its own: [layer, head]."
    yield right.mean(-1).T, "The axes are turned: layers first, then heads."
    yield (
        patterns[:, :, second - n + 1, second].mean(-1),
        "Query and key are swapped. A token cannot look at what comes later, so these are all 0.",
    )
    yield patterns[:, :, second, second - 1].mean(-1), "This is attention to the token before. That is another habit."
    yield patterns[:, :, n + 1 :].amax(-1).mean(-1), "You take the largest attention of each token, wherever it goes."


def _score_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "induction_scores")
    for n in (COPIES, 7):
        got = torch.as_tensor(tried(answer, _patterns(n), n)).float()
        right = induction_scores(_patterns(n), n)
        if not same(got, right, 1e-3):
            yield from (said for slip, said in _score_slips(n) if same(got, slip, 1e-3))
            if n != COPIES:
                yield f"Right for {COPIES} tokens, but not for {n}. Is n used?"
            if got.shape != right.shape:
                yield f"The shape is {tuple(got.shape)}. Wanted is a number for each layer and head."
            yield "These are other numbers. Which places does the second copy take? BOS is place 0."


# -- 2.3


def patched(model, clean, corrupt, layer, pos):
    """Logits on corrupt, with the clean run's residual stream before a layer put in at one position."""
    name = f"blocks.{layer}.hook_resid_pre"
    _, cache = model.run_with_cache(clean, names_filter=name)

    def put(x, hook):
        x = x.clone()
        x[:, pos] = cache[name][:, pos]
        return x

    return model.run_with_hooks(corrupt, fwd_hooks=[(name, put)])


def _patch(model: Any, source: Tensor, into: Tensor, name: str, pos: Any) -> Tensor:
    x = capture(model, source, name)[name]

    def put(y, hook):
        y = y.clone()
        y[:, pos] = x[:, pos]
        return y

    return model.run_with_hooks(into, fwd_hooks=[(name, put)])


def _patch_slips(model: Any, clean: Tensor, corrupt: Tensor, layer: int, pos: int) -> Iterator[tuple[Tensor, str]]:
    name, n = f"blocks.{layer}.hook_resid_pre", clean.shape[1]
    yield (
        _patch(model, corrupt, clean, name, pos),
        "Clean and corrupt are swapped. Run the corrupt prompt, and put in what the clean run had.",
    )
    yield model(corrupt), "This is the corrupt run as it was: nothing was put in. Does your hook return the tensor?"
    yield (
        model(clean),
        "These are the logits of the clean run. All positions were patched, or the corrupt prompt was never run.",
    )
    yield (
        _patch(model, clean, corrupt, name.replace("pre", "post"), pos),
        "This patches after the layer. The stream before it is called pre.",
    )
    near = "The neighbour was patched. BOS is position 0, so positions need no shift."
    yield _patch(model, clean, corrupt, name, (pos + 1) % n), near
    yield _patch(model, clean, corrupt, name, pos - 1), near
    yield (
        _patch(model, clean, corrupt, name, slice(pos, None)),
        "Everything from the position on was patched. One position only, or you cannot tell which one matters.",
    )
    yield (
        _patch(model, clean, corrupt, name, slice(0, pos + 1)),
        "Everything up to the position was patched. One position only, or you cannot tell which one matters.",
    )
    yield (
        _patch(model, clean, corrupt, name.replace("resid_pre", "attn_out"), pos),
        "This patches what attention adds, not the stream that the layer reads.",
    )


def _patch_faults(answer: Any, setting: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "patched")
    model = setting.model
    clean, corrupt = (model.to_tokens(text, prepend_bos=True) for text in PAIR)
    bracket = int((clean != corrupt).nonzero()[1, 1])
    for layer, pos in ((1, bracket), (model.cfg.n_layers - 1, clean.shape[1] - 1)):
        right = patched(model, clean, corrupt, layer, pos)
        got = tried(answer, model, clean.clone(), corrupt.clone(), layer, pos)
        yield from left_on(model)
        if torch.is_tensor(got) and got.shape in (right[:, -1].shape, right[0].shape):
            yield "Give the logits of all positions, [1, tokens, vocabulary], as the model returns them."
        if not torch.is_tensor(got) or got.shape != right.shape:
            yield f"Wanted are logits of shape {tuple(right.shape)}, as the model returns them."
        if not same(got, right):
            yield from (said for slip, said in _patch_slips(model, clean, corrupt, layer, pos) if same(got, slip))
            yield "These are other logits. Read one run, change one position of the other, at one layer."


# -- 2.4


def without_head(model, tokens, layer, head):
    """Logits with what one head brings set to zero. Afterwards the model is as it was."""

    def silence(z, hook):
        z = z.clone()
        z[:, :, head] = 0
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence)])


def _changed(model: Any, tokens: Tensor, name: str, change: Callable[[Tensor], None]) -> Tensor:
    def hook(x, hook):
        x = x.clone()
        change(x)
        return x

    return model.run_with_hooks(tokens, fwd_hooks=[(name, hook)])


def _head_slips(model: Any, tokens: Tensor, layer: int, head: int) -> Iterator[tuple[Tensor, str]]:
    z = f"blocks.{layer}.attn.hook_z"

    def run(name: str, *place: Any) -> Tensor:
        return _changed(model, tokens, name, lambda x: x.__setitem__(place, 0))

    every = slice(None)
    yield model(tokens), "Nothing changed. Does your hook return the tensor, and is it at the right name?"
    yield run(z, ...), "All heads of the layer are silent. z is [text, token, head, d_head]: choose one head."
    yield (
        run(f"blocks.{layer}.hook_attn_out", ...),
        "The whole attention of this layer is silent. One head's part is in z, before the heads are added up.",
    )
    yield run(z, every, head), "You set a token to zero, not a head: heads are the third axis."
    yield run(z, head), "You set a text to zero, not a head: heads are the third axis."
    yield run(z, ..., head), "You set one number of every head to zero. Heads are the third axis, not the last."
    yield run(z, every, -1, head), "The head is silent at the last token only. Silence it at all of them."
    other = f"blocks.{(layer + 1) % model.cfg.n_layers}.attn.hook_z"
    yield run(other, every, every, head), "This is a head of another layer. Layers are counted from 0."
    yield (
        run(z, every, every, (head + 1) % model.cfg.n_heads),
        "This is the neighbour of the head. Heads are counted from 0.",
    )
    yield (
        run(f"blocks.{layer}.attn.hook_q", every, every, head),
        "Without a query the head still looks, at everything alike. To silence it, take away what it brings.",
    )
    mean = _changed(
        model, tokens, z, lambda x: x[:, :, head].copy_(x[:, :, head].mean((0, 1)).expand_as(x[:, :, head]))
    )
    yield mean, "You put the mean in the place of zero. That is a good ablation too, but another one."


def _head_faults(answer: Any, setting: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "without_head")
    model = setting.model
    tokens = repeated(model, 6, 4)
    before = model(tokens)
    for layer, head in ((1, 2), (0, 1)):
        right = without_head(model, tokens, layer, head)
        got = tried(answer, model, tokens.clone(), layer, head)
        yield from left_on(model)
        if not torch.is_tensor(got) or got.shape != right.shape:
            yield f"Wanted are logits of shape {tuple(right.shape)}, as the model returns them."
        if not same(got, right):
            yield from (said for slip, said in _head_slips(model, tokens, layer, head) if same(got, slip))
            yield "These are other logits. At hook_z of the layer, set one head to zero and return the tensor."
        if not same(model(tokens), before):
            yield "The model is not what it was: a weight was changed. Load it again, and use a hook."


# -- what the notebook shows


def repeated(model: Any, length: int = 32, n: int = 1, seed: int = 0) -> Int[Tensor, "n pos"]:
    """BOS and random tokens, twice over: [n, 1 + 2 length]."""
    draw = torch.Generator().manual_seed(seed)
    half = torch.randint(1, model.cfg.d_vocab, (n, length), generator=draw)
    return torch.cat([torch.full((n, 1), model.tokenizer.bos_token_id), half, half], dim=1)


@torch.no_grad()
def losses(logits: Float[Tensor, "n pos vocab"], tokens: Int[Tensor, "n pos"]) -> tuple[float, float]:
    """Mean loss in nats on the first and on the second copy of `repeated`."""
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    half = each.shape[1] // 2
    return each[:, :half].mean().item(), each[:, half:].mean().item()


@torch.no_grad()
def memory(model: Any, text: str, name: str) -> pd.DataFrame:
    """What a cache of one text holds, of everything and of one name: tensors, and megabytes."""
    rows = {}
    for title, names in (("everything", None), (name, name)):
        _, cache = model.run_with_cache(text, names_filter=names)
        held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in cache.values()}
        rows[title] = (len(held), sum(held.values()) / 1e6)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["tensors", "MB"])


@torch.no_grad()
def lens(model: Any, text: str, n: int = 3) -> pd.DataFrame:
    """The stream at the last token after each layer, as if it were the last: the n likeliest tokens, with p."""
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    seen = capture(model, model.to_tokens(text, prepend_bos=True), *names)
    rows = {}
    for layer, name in enumerate(names):
        p, ids = model.unembed(model.ln_final(seen[name][:, -1:]))[0, 0].softmax(-1).topk(n)
        words = pieces(model.tokenizer, ids.tolist())
        rows[f"after layer {layer}"] = [f"{word!r} {share:.0%}" for word, share in zip(words, p.tolist(), strict=True)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[f"{i + 1}." for i in range(n)])


@torch.no_grad()
def rises(model: Any, tokens: Int[Tensor, "n pos"], without: Callable[..., Tensor]) -> pd.DataFrame:
    """By how many nats the loss on each copy rises without a head, for every head; named layer.head."""
    before, rows = losses(model(tokens), tokens), {}
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            after = losses(without(model, tokens, layer, head), tokens)
            rows[f"{layer}.{head}"] = [b - a for a, b in zip(before, after, strict=True)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["first", "second"]).rename_axis("head")


def patterns_without(model: Any, tokens: Int[Tensor, "n pos"], name: str) -> Float[Tensor, "layer head query key"]:
    """The patterns of all heads while one of them, layer.head, is silent."""
    layer, head = map(int, name.split("."))

    def silence(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        z[:, :, head] = 0
        return z

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence)]):
        return patterns(model, tokens)


def one_back(looks: Float[Tensor, "layer head query key"]) -> Float[Tensor, "layer head"]:
    """The attention of a token to the one before it, on average."""
    return looks.diagonal(-1, -2, -1).mean(-1)


def accuracies(found: dict[str, dict[str, float]]) -> pd.DataFrame:
    """A row for each task: its score with its 95 % Wilson interval, what chance gives, and the number of prompts."""
    columns = {"value": "right", "low": "low", "high": "high", "chance": "chance", "n": "prompts"}
    return pd.DataFrame(found).T[list(columns)].rename(columns=columns).astype({"prompts": int})


@torch.no_grad()
def contexts(model: Any, corpus: Corpus, hook: str, units: list[int], n: int = 3) -> pd.DataFrame:
    """For some units at a hook: their n strongest places, and n about half as strong, one to a window, with labels."""
    batches = [capture(model, part, hook)[hook][..., units] for part in corpus.tokens.split(4)]
    held = torch.as_tensor(corpus.mask)[..., None]
    x, rows = torch.cat(batches).masked_fill(~held, -torch.inf), []
    for i, unit in enumerate(units):
        for share in (1.0, 0.5):
            away, places = (x[..., i] - share * x[..., i].max()).abs().min(1)
            for window in away.topk(n, largest=False).indices.tolist():
                pos = int(places[window])
                value, told = float(x[window, pos, i]), _labels(corpus, window, pos)
                rows.append((unit, round(value, 1), _around(model, corpus, window, pos), told))
    return pd.DataFrame(rows, columns=["neuron", "activation", "text", "labels"]).set_index("neuron")


def _around(model: Any, corpus: Corpus, window: int, pos: int) -> str:
    """The text around a token, which stands in « »."""
    shown = corpus.tokens[window, max(pos - 12, corpus.lead) : pos + 5].tolist()
    tokens = pieces(model.tokenizer, shown)
    at = pos - max(pos - 12, corpus.lead)
    left, right = "".join(tokens[:at])[-34:], "".join(tokens[at + 1 :])[:12]
    return " ⏎ ".join(part.strip(" ") for part in f"{left}«{tokens[at]}»{right}".split("\n"))


def _labels(corpus: Corpus, window: int, pos: int) -> str:
    told = ("docstring", "comment", "string", "depth 1", "keyword", "def name", "import line")
    return ", ".join(name for name in told if name in corpus.labels and corpus.labels[name][window, pos])


# -- quiz


def _said(*options: str) -> Any:
    return lambda: list(options)


QUESTIONS = (
    Question(
        "2.a",
        "A head gives most of its attention to BOS on a text. What do you know?",
        _said(
            "It reads the beginning of every text closely",
            "Little: it may be where the head looks when it finds nothing",
            "It is broken and could be removed",
        ),
        1,
        "Attention must sum to 1, so it has to go somewhere. Look at the tokens where the head does something else.",
    ),
    Question(
        "2.b",
        "Patching the stream at one position restores the whole answer. What does that show?",
        _said(
            "What tells the prompts apart is there, at that layer",
            "The answer is computed at that position",
            "All other positions are useless",
        ),
        0,
        "It shows where the difference is carried. What both prompts share does not show, though the model needs it.",
    ),
    Question(
        "2.c",
        "A neuron is strongest in import lines. May you call it the import neuron?",
        _said(
            "Yes, its strongest firings say so",
            "Yes, if the five strongest texts are from different files",
            "Not yet: look at its other firings, and how often it is on elsewhere",
        ),
        2,
        "The strongest few are a small part of what a neuron does. Most neurons are on for several unrelated things.",
    ),
)

CHAPTER = Chapter(
    "02",
    (
        Exercise(
            "2.1",
            "Read the residual stream",
            3,
            residual,
            first_fault(_residual_faults, "Right: one name, every token, all axes."),
            (
                "The map above has the name. model.run_with_cache returns two things: logits and a cache.",
                "names_filter= takes the name, and the cache is asked with the same name.",
                '_, cache = model.run_with_cache(the tokens, names_filter="blocks...."); then cache[...]',
            ),
        ),
        Exercise(
            "2.2",
            "The induction score",
            6,
            induction_scores,
            first_fault(_score_faults, "Right: the second copy, one place past the first, each head for itself."),
            (
                "Write down the places: BOS is 0, the first copy 1 to n, the second n + 1 to 2n.",
                "A token at q had its first copy at q - n. Induction looks at the place after that one.",
                "q = torch.arange(n + 1, 2 * n + 1); index the last two axes with q and the key; mean over tokens",
            ),
        ),
        Exercise(
            "2.3",
            "Patch one position",
            8,
            patched,
            first_fault(_patch_faults, "Right: one layer, one position, from the clean run into the corrupt one."),
            (
                "Read the clean run with run_with_cache; change the corrupt one with run_with_hooks.",
                "In the hook: x at pos becomes what the clean run had at pos. Return x.",
                "def put(x, hook): ... ; model.run_with_hooks(..., fwd_hooks=[(name, put)])",
            ),
        ),
        Exercise(
            "2.4",
            "Silence one head",
            4,
            without_head,
            first_fault(_head_faults, "Right: one head, every token, and the model is as it was."),
            (
                "A hook gets an activation and returns another. What a head brings is at attn.hook_z.",
                "z is [text, token, head, d_head]. Set one index of the third axis to zero.",
                "def off(z, hook): ... ; model.run_with_hooks(tokens, fwd_hooks=[(the name at this layer, off)])",
            ),
        ),
    ),
    QUESTIONS,
)
