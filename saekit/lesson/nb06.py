"""Exercises and quiz of notebook 06. The references have no annotations, so that a solution runs where it is pasted."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor

from ..coder import SparseCoder
from ..codes import Codes
from ..corpus import Corpus, pieces
from ..explain.lens import lens, lenses, written
from ..explain.output import mean_log_probs, prompts, random_rows
from ..hooks import capture, splice
from ..steer import ablate, add, clamp
from .exercise import Chapter, Exercise, Question, Setting, first_fault, not_a_function, tried

SIDE, VOCAB, N, LATENT = 24, 60, 6, 7  # of the weights that 6.1 is tried on; as many latents as dimensions
PROMPTS = (("total = sum(values[0]", ")", "]"), ("first = rows[max(counts)", "]", ")"))  # 6.3: text, right, wrong


# -- 6.1


def top_and_bottom(coder, norm, W_U, latent, n):
    """The ids of the n tokens that a row raises most, and of the n it lowers most, strongest first."""
    row = coder.W_dec[latent]
    logits = (norm(row) - norm(torch.zeros_like(row))) @ W_U
    order = logits.argsort(descending=True)
    return order[:n], order.flip(0)[:n]


def final(model: Any) -> tuple[Callable[[Tensor], Tensor], Float[Tensor, "d_model vocab"]]:
    """The final norm of a model, for vectors [d_model], and its unembedding W_U, without a bias."""
    with torch.no_grad():
        zero = torch.zeros(1, 1, model.cfg.d_model)
        eye = torch.eye(model.cfg.d_model)[None]
        W_U = (model.unembed(eye) - model.unembed(zero))[0]
    return lambda row: model.ln_final(row[None, None])[0, 0].detach(), W_U


def _weights() -> tuple[Any, Callable[[Tensor], Tensor], Tensor]:
    """A coder with as many latents as dimensions, so that a column is as long as a row; a norm with a bias; W_U."""
    draw = torch.Generator().manual_seed(0)
    W_enc, W_dec = (torch.randn(SIDE, SIDE, generator=draw) for _ in range(2))
    weight, bias = torch.randn(SIDE, generator=draw).exp(), 2 * torch.randn(SIDE, generator=draw)
    W_U = torch.randn(SIDE, VOCAB, generator=draw)
    return (
        SimpleNamespace(W_enc=W_enc, W_dec=W_dec, d_sae=SIDE, d_in=SIDE),
        lambda x: torch.nn.functional.layer_norm(x, (SIDE,), weight, bias),
        W_U,
    )


def _ends(logits: Tensor) -> tuple[list[int], list[int]]:
    up, down = ends(logits, N)
    return up.tolist(), down.tolist()


def _readings() -> Iterator[tuple[tuple[list[int], list[int]], str]]:
    """What known slips give, and what to say of each."""
    coder, norm, W_U = _weights()

    def read(row: Tensor) -> Tensor:
        return (norm(row) - norm(torch.zeros_like(row))) @ W_U

    row, logits = coder.W_dec[LATENT], read(coder.W_dec[LATENT])
    up, down = _ends(logits)
    yield (down, up), "The two lists have changed places: the first is for the tokens whose logits rise."
    yield (up, down[::-1]), "The tokens are right. The lowered ones should begin with the one that is lowered most."
    yield (up[::-1], down), "The tokens are right. The raised ones should begin with the one that is raised most."
    yield (up[::-1], down[::-1]), "The tokens are right, but both lists begin with their weakest. Turn them round."
    column = "You read a column of W_dec: one coordinate of every latent. A latent's row is W_dec[latent]."
    yield _ends(read(coder.W_dec[:, LATENT])), column
    encoder = "You read the encoder. It says what a latent looks for; what it writes is in W_dec."
    yield _ends(read(coder.W_enc[:, LATENT])), encoder
    yield _ends(read(coder.W_enc[LATENT])), f"{encoder} And a latent's part of W_enc is a column."
    yield (
        _ends(row @ W_U),
        "The final norm is missing. It stretches some dimensions, so the order of the tokens changes.",
    )
    yield (
        _ends(norm(row) @ W_U),
        "norm(row) holds the bias of the norm, which is there for every latent. Subtract norm of zeros.",
    )
    size = logits.abs().argsort(descending=True).tolist()[:N]
    yield (size, down), "The first list goes by size without sign, so it mixes raised tokens with lowered ones."
    yield _ends(logits.abs()), "You rank by size without sign. Raised and lowered tokens are two ends of one order."


def _listed(part: Any) -> list[float]:
    return torch.as_tensor(part).detach().flatten().tolist()


def _end_faults(answer: Any, _: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "top_and_bottom")
    given = tried(answer, *_weights(), LATENT, N)
    if torch.is_tensor(given) and given.shape == (VOCAB,):
        yield "You return a value for every token. Wanted are the ids of the n highest and of the n lowest."
    if not isinstance(given, tuple | list) or len(given) != 2:
        yield "Return two things: the ids of the tokens that rise most, and of those that fall most."
    got = tuple(_listed(part) for part in given)
    if any(len(part) != N for part in got):
        yield f"For n = {N} your lists have {len(got[0])} and {len(got[1])} entries. Both should have n."
    if any(value != int(value) for part in got for value in part):
        yield "These are logits. Wanted are the ids of the tokens, which argsort gives."
    right = _ends_of_reference()
    if got != right:
        said = (said for slip, said in _readings() if got == slip)
        half = "The raised tokens are right, the lowered ones are not." if got[0] == right[0] else ""
        yield next(said, half or "These are other tokens. Row, norm, W_U: in this order, then sort.")


def _ends_of_reference() -> tuple[list[float], list[float]]:
    up, down = top_and_bottom(*_weights(), LATENT, N)
    return up.tolist(), down.tolist()


# -- 6.2


def token_change(model, coder, tokens, latent, strength):
    """[vocab], nats: log p with strength added to a latent, minus log p without; mean over all places."""
    before = model(tokens).log_softmax(-1)
    with splice(model, coder, edit=add(latent, strength)):
        after = model(tokens).log_softmax(-1)
    return (after - before).mean((0, 1))


def _short_texts(model: Any) -> Int[Tensor, "3 10"]:
    """Random tokens behind a BOS."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, model.cfg.d_vocab, (3, 10), generator=draw)
    tokens[:, 0] = model.to_tokens("", prepend_bos=True)[0, 0]
    return tokens


def _busiest(model: Any, coder: Any, tokens: Tensor) -> tuple[int, float]:
    """The latent whose activations add up to most, and twice its largest one."""
    x = coder.site.inputs(capture(model, tokens, coder.site))[:, 1:].flatten(0, 1)
    dense = coder.encode(x).dense()
    latent = int(dense.sum(0).argmax())
    return latent, 2 * float(dense[:, latent].max())


def _changes(model: Any, coder: Any, tokens: Tensor, latent: int, strength: float) -> Iterator[tuple[Tensor, str]]:
    """What known slips give, and what to say of each."""

    def run(edit: Any = None, keep_error: bool = True) -> Tensor:
        with splice(model, coder, edit=edit, keep_error=keep_error):
            return model(tokens).detach()

    plain, added = run(), run(add(latent, strength))
    bare, bare_added = run(keep_error=False), run(add(latent, strength), keep_error=False)
    change = added.log_softmax(-1) - plain.log_softmax(-1)
    mean = (0, 1)
    yield -change.mean(mean), "The sign is turned: it should be after minus before."
    yield (
        change[:, -1].mean(0),
        "You looked at the last place only. The latent was added at all of them; take them all.",
    )
    yield change[0].mean(0), "You looked at the first text only. One text is an anecdote; take the mean over all."
    yield (
        (bare_added.log_softmax(-1) - plain.log_softmax(-1)).mean(mean),
        "The coder's error is dropped in one of the runs, so you measure the reconstruction too. Keep it: keep_error.",
    )
    yield (
        (bare_added.log_softmax(-1) - bare.log_softmax(-1)).mean(mean),
        "Both runs go without the coder's error, so you measure another model. Keep it, and only the latent changes.",
    )
    yield (
        (run(clamp(latent, strength)).log_softmax(-1) - plain.log_softmax(-1)).mean(mean),
        "You clamp: the latent loses the value it had. Add to it, so that a strength of 0 changes nothing.",
    )
    yield (
        (run(add(latent, -strength)).log_softmax(-1) - plain.log_softmax(-1)).mean(mean),
        "You take the latent away where you should add it.",
    )
    yield (
        (added - plain).mean(mean),
        "These are logits. They can all rise together; only log-probabilities are comparable.",
    )
    yield (
        (added.softmax(-1) - plain.softmax(-1)).mean(mean),
        "These are probabilities. A rare token that becomes ten times likelier hardly shows; take the logarithm.",
    )
    yield change.sum(mean), "You add up over the places, so that longer texts give larger numbers. Take the mean."
    means = added.softmax(-1).mean(mean).log() - plain.softmax(-1).mean(mean).log()
    yield means, "You average the probabilities before the logarithm. Take the logarithm at each place, then the mean."


def _change_faults(answer: Any, setting: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "token_change")
    model, coder = setting
    tokens = _short_texts(model)
    latent, strength = _busiest(model, coder, tokens)
    got = torch.as_tensor(tried(answer, model, coder, tokens.clone(), latent, strength)).detach()
    right = token_change(model, coder, tokens, latent, strength).detach()
    if got.shape != right.shape:
        yield f"The shape is {tuple(got.shape)}. Wanted is one number for each of {len(right)} tokens."
    if not _same(got, right):
        said = (said for slip, said in _changes(model, coder, tokens, latent, strength) if _same(got, slip))
        yield next(said, "These are other numbers. Two runs, one with the latent added; log_softmax; difference; mean.")
    still = torch.as_tensor(tried(answer, model, coder, tokens.clone(), latent, 0.0))
    if still.abs().max() > 0:
        yield "With a strength of 0 something still changes. Which number did you write in the place of strength?"


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-3 * b.abs().max())


# -- 6.3


def supporter(model, coder, tokens, right, wrong):
    """The latent, on at the last token, without which logit(right) - logit(wrong) falls the most."""
    before, drops = gap(model, tokens, right, wrong), {}
    for latent in on_at_end(model, coder, tokens):
        with splice(model, coder, edit=ablate(latent)):
            drops[latent] = before - gap(model, tokens, right, wrong)
    return max(drops, key=drops.get)


def gap(model: Any, tokens: Int[Tensor, "1 pos"], right: int, wrong: int) -> float:
    """logit(right) - logit(wrong) of the next token."""
    logits = model(tokens)[0, -1]
    return float(logits[right] - logits[wrong])


def on_at_end(model: Any, coder: Any, tokens: Int[Tensor, "1 pos"]) -> dict[int, float]:
    """{latent: activation} of those that are on at the last token, strongest first."""
    codes = coder.encode(coder.site.inputs(capture(model, tokens, coder.site))[0, -1:])
    found = zip(codes.latents.tolist(), codes.values.tolist(), strict=True)
    return dict(sorted(found, key=lambda pair: -pair[1]))


@torch.no_grad()
def without_each(model: Any, coder: Any, tokens: Int[Tensor, "1 pos"], latents: list[int]) -> Float[Tensor, "n vocab"]:
    """How much the last logits fall when a latent is ablated everywhere, for each of them; one pass."""
    each = torch.tensor([-1, *latents])  # no latent is -1: the first row is the model as it is

    def edit(codes: Codes) -> Codes:
        return codes.where(codes.latents != each.repeat_interleave(tokens.shape[1])[codes.rows])

    with splice(model, coder, edit=edit):
        logits = model(tokens.expand(len(each), -1))[:, -1]
    return logits[0] - logits[1:]


def support(
    model: Any, coder: SparseCoder, tokens: Int[Tensor, "1 pos"], right: int, wrong: int, seed: int = 0
) -> pd.DataFrame:
    """The latents that are on at the last token, and what each does for `right` over `wrong`; strongest drop first.

    activation; row: what one unit of it gives to the logit difference by its decoder row; direct: their product, up to
    one factor for all; drop: by how much the difference falls when the latent is ablated everywhere; random: the same
    where the decoder row is a random one of the same length.
    """
    on = on_at_end(model, coder, tokens)
    latents = list(on)
    rows = lens(model, written(model, coder, latents))
    drops = [without_each(model, c, tokens, latents) for c in (coder, random_rows(coder, seed))]
    table = pd.DataFrame({"activation": on.values(), "row": (rows[:, right] - rows[:, wrong]).numpy()}, latents)
    table["direct"] = table.activation * table.row
    table["drop"], table["random"] = ((d[:, right] - d[:, wrong]).numpy() for d in drops)
    return table.rename_axis("latent").sort_values("drop", ascending=False)


def _prompt(model: Any, place: int) -> tuple[Tensor, int, int]:
    text, right, wrong = PROMPTS[place]
    return model.to_tokens(text, prepend_bos=True), token(model, right), token(model, wrong)


def _supporter_faults(answer: Any, setting: Setting) -> Iterator[str]:
    yield from not_a_function(answer, "supporter")
    for place, (text, *_) in enumerate(PROMPTS):
        tokens, right, wrong = _prompt(setting.model, place)
        given = tried(answer, *setting, tokens.clone(), right, wrong)
        if isinstance(given, dict | list | tuple):
            yield "You return several things. Wanted is the number of one latent."
        if isinstance(given, float) or int(given) not in range(setting.coder.d_sae):
            yield "That is no number of a latent. Return the latent itself, not its effect."
        yield from _choice_faults(setting, int(given), tokens, right, wrong, text)


def _choice_faults(setting: Setting, latent: int, tokens: Tensor, right: int, wrong: int, text: str) -> Iterator[str]:
    model, coder = setting
    on = list(on_at_end(model, coder, tokens))
    if latent not in on:
        yield "Your latent is off at the last token of the prompt. What is off writes nothing, whatever its row says."
    falls = without_each(model, coder, tokens, on)
    drops = falls[:, right] - falls[:, wrong]
    if drops[on.index(latent)] >= 0.5 * drops.max():
        return
    table = support(model, coder, tokens, right, wrong).loc[on]
    slips = (
        (table.activation.idxmax(), "You chose the strongest activation. Strong does not mean: about brackets."),
        (table["drop"].idxmin(), "The sign is turned: without your latent the right bracket gains."),
        (table.row.idxmax(), "Its row says it loudest, but it is hardly on here. Both count."),
        (table.direct.idxmax(), "Activation times row leaves out the later layers. Ablate instead."),
        (table.index[int(falls[:, right].argmax())], "It raises both brackets. Use the difference of the two logits."),
        (table.index[int(falls[:, wrong].argmin())], "It lowers both brackets. Use the difference of the two logits."),
        (table["drop"].abs().idxmin(), "Ablating it changes least of all. Take the largest drop."),
    )  # fmt: skip
    yield from (said for slip, said in slips if latent == slip)
    got, best = table["drop"][latent], table["drop"].max()
    yield f"After {text!r}, ablating your latent lowers the difference by {got:.2f}, another one by {best:.2f}."


# -- what the notebook shows


def token(model: Any, piece: str) -> int:
    """The id of a piece of text. Raises ValueError where it is not one token."""
    ids = model.tokenizer(piece, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise ValueError(f"{piece!r} is {len(ids)} tokens of this model, and one is needed")
    return ids[0]


def z_of(model: Any, coder: SparseCoder, at: int) -> pd.Series:
    """For every latent: the logit that its row gives to one token, in standard deviations over the vocabulary."""
    parts = lenses(model, written(model, coder, list(range(coder.d_sae))))
    return pd.Series(torch.cat([part[:, at] / part.std(1) for part in parts]).numpy())


def ends(scores: Float[Tensor, " vocab"], n: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """The ids of the n highest and of the n lowest, strongest first."""
    order = scores.argsort(descending=True)
    return order[:n], order.flip(0)[:n]


def shown(model: Any, ids: Int[Tensor, " n"]) -> str:
    """Tokens as text, each in quotes."""
    return " ".join(map(repr, pieces(model.tokenizer, ids.tolist())))


def in_words(model: Any, lists: dict[str, tuple[Tensor, Tensor]]) -> pd.DataFrame:
    """Two columns for each name: the tokens that rise most, and those that fall most."""
    columns = {}
    for name, (up, down) in lists.items():
        for way, ids in (("raises", up), ("lowers", down)):
            columns[f"{name} {way}"] = list(map(repr, pieces(model.tokenizer, torch.as_tensor(ids).tolist())))
    return pd.DataFrame(columns)


def points(model: Any, coder: SparseCoder, latent: int, change: Float[Tensor, " vocab"]) -> pd.DataFrame:
    """A row for each token: its logit by the decoder row, its measured change. attrs: rho, their rank correlation."""
    row = lens(model, written(model, coder, [latent]))[0].numpy()
    names = list(map(repr, pieces(model.tokenizer, range(len(row)))))
    table = pd.DataFrame({"token": names, "logit of the row": row, "change in log p (nats)": change.numpy()})
    table.attrs["rho"] = float(spearmanr(row, change.numpy()).statistic)
    return table


def plain(fig: Any) -> Any:
    """A plotly figure without a ground of its own, with pale lines, for the light and the dark theme."""
    line = {"gridcolor": "rgba(128, 128, 128, 0.25)", "zerolinecolor": "rgba(128, 128, 128, 0.6)"}
    fig.update_xaxes(**line).update_yaxes(**line)
    clear = "rgba(0, 0, 0, 0)"
    return fig.update_layout(template="none", paper_bgcolor=clear, plot_bgcolor=clear, font_color="#777b80")


def most_enriched(table: pd.DataFrame, latents: Any) -> pd.DataFrame:
    """Of each set in a table of `explain.enrichment`, the most enriched of some latents."""
    table = table[table.latent.isin(latents)].sort_values(["p", "found"], ascending=[True, False], kind="stable")
    return table.drop_duplicates("set").set_index("set")[["latent", "found", "expected"]].round(1)


def side_by_side(told: dict[str, pd.DataFrame], latent: int) -> pd.DataFrame:
    """The words of one latent under several scores, each with its p."""
    columns = {}
    for name, table in told.items():
        mine = table[table.latent == latent]
        columns[name] = list(map(repr, mine.word))
        columns[f"p, {name}"] = [f"{p:.1e}" for p in mine.p]
    return pd.DataFrame(columns)


def quadrants(scores: pd.DataFrame, bars: tuple[float, float]) -> dict[str, float]:
    """The share of latents above neither, one or both of the bars, of input and output score."""
    detects, predicts = scores.input_score > bars[0], scores.output_score > bars[1]
    parts = {"both": detects & predicts, "detect only": detects & ~predicts, "predict only": predicts & ~detects}
    return {name: float(where.mean()) for name, where in (parts | {"neither": ~detects & ~predicts}).items()}


def agreement(model: Any, coder: SparseCoder, corpus: Corpus, n: int = 12, seed: int = 0) -> pd.DataFrame:
    """For n latents: the rank correlation, over the vocabulary, of decoder row and measured change at 2 x maximum.

    its own: of the latent's row; random: of a random row of that length, on as strongly. The latents are drawn from
    those that are on in the texts that are measured on; the maximum is the one there.
    """
    ids, control = prompts(corpus, seed), random_rows(coder, seed)
    before = mean_log_probs(model, ids)
    x = coder.site.inputs(capture(model, ids, coder.site))[:, corpus.lead :].flatten(0, 1)
    largest = coder.encode(x).dense().amax(0)
    alive = torch.nonzero(largest)[:, 0]
    some = alive[torch.randperm(len(alive), generator=torch.Generator().manual_seed(seed))[:n]].tolist()
    found = {}
    for latent in some:
        found[latent] = [
            spearmanr(
                lens(model, c.W_dec[[latent]])[0],
                mean_log_probs(model, ids, c, 2 * largest[latent] * c.W_dec[[latent]])[0] - before,
            ).statistic
            for c in (coder, control)
        ]
    return pd.DataFrame.from_dict(found, orient="index", columns=["its own", "random"]).rename_axis("latent")


def kinds(shapes: pd.DataFrame, control: pd.DataFrame, share: float = 0.01) -> pd.Series:
    """What each row does, by where its kurtosis lies among those of random rows.

    Above all but `share` of them: promoter where the skew is positive, else suppressor. Below: partition. Otherwise
    "like a random row".
    """
    low, high = control["kurtosis"].quantile([share, 1 - share])
    named = pd.Series("like a random row", shapes.index)
    named[(shapes["kurtosis"] > high) & (shapes["skew"] > 0)] = "promoter"
    named[(shapes["kurtosis"] > high) & (shapes["skew"] < 0)] = "suppressor"
    named[shapes["kurtosis"] < low] = "partition"
    return named


def only_there(model: Any, coder: SparseCoder, words: str, first: str, second: str) -> pd.DataFrame:
    """Mean activations over the same words in two texts, largest difference in favour of the first on top.

    Columns: first, second, difference; a row for each latent that is on in either. Raises ValueError where the words
    are not cut into the same tokens in both.
    """
    means = [_over(model, coder, words, text) for text in (first, second)]
    table = pd.DataFrame({"first": means[0].numpy(), "second": means[1].numpy()}).rename_axis("latent")
    table["difference"] = table["first"] - table["second"]
    return table[(table["first"] > 0) | (table["second"] > 0)].sort_values("difference", ascending=False)


def _over(model: Any, coder: SparseCoder, words: str, text: str) -> Float[Tensor, " d_sae"]:
    wanted = model.tokenizer(words, add_special_tokens=False).input_ids
    tokens = model.to_tokens(text, prepend_bos=True)
    held = tokens[0].tolist()
    starts = [i for i in range(len(held)) if held[i : i + len(wanted)] == wanted]
    if not wanted or not starts:
        raise ValueError(f"the tokens of {words!r} are not in {text!r}: begin with the blank before the first word")
    x = coder.site.inputs(capture(model, tokens, coder.site))[0, starts[0] : starts[0] + len(wanted)]
    return coder.encode(x).dense().mean(0)


@torch.no_grad()
def error_share(model: Any, coder: SparseCoder, text: str) -> pd.DataFrame:
    """A row for each token but BOS: share, which is `|x - x_hat|^2 / |x - b_dec|^2`; on, how many latents are."""
    tokens = model.to_tokens(text, prepend_bos=True)
    x = coder.site.inputs(capture(model, tokens, coder.site))[0, 1:]
    rebuilt, codes = coder(x)
    share = (x - rebuilt).square().sum(1) / (x - coder.b_dec).square().sum(1)
    on = torch.bincount(codes.rows, minlength=len(x))
    return pd.DataFrame({"token": model.to_str_tokens(text)[1:], "share": share.numpy(), "on": on.numpy()})


# -- quiz


def _said(*options: str) -> Any:
    return lambda: list(options)


QUESTIONS = (
    Question(
        "6.a",
        "The row of a latent in the first layer raises 'return' most. What do you know?",
        _said(
            "The model will expect 'return' where the latent is on",
            "Little: the layers after it rewrite what it says, so measure",
            "The latent is on at 'return'",
        ),
        1,
        "The row shows the direct path only. The notebook measured how well it foretells the whole effect, by layer.",
    ),
    Question(
        "6.b",
        "A latent is on at comments, and its row raises no token that a comment holds. Is it broken?",
        _said(
            "Yes, input and output should agree",
            "Yes, if its input score is low",
            "No, it may tell later layers something that they use",
        ),
        2,
        "Most latents are not there to name the next token. Detecting and predicting are two jobs, and one may do "
        "either.",
    ),
    Question(
        "6.c",
        "You add a latent and the loss falls apart. What should stand beside that number?",
        _said(
            "A random direction of the same length, added as strongly",
            "The same latent, added twice as strongly",
            "The latent's activation at each token",
        ),
        0,
        "Anything of that length disturbs the model. Only what the random direction does not do is the latent's own.",
    ),
)

CHAPTER = Chapter(
    "06",
    (
        Exercise(
            "6.1",
            "What a row raises and lowers",
            5,
            top_and_bottom,
            first_fault(_end_faults, "Right: row, final norm, unembedding, and both ends of one order."),
            (
                "What a latent writes is one row of W_dec. The last steps of the model are the norm and W_U.",
                "logits = (norm(row) - norm(0)) W_U; the ids in falling order, from both ends.",
                "norm(row) - norm(torch.zeros_like(row)), times W_U; argsort(descending=True); both ends",
            ),
        ),
        Exercise(
            "6.2",
            "Measure the change",
            8,
            token_change,
            first_fault(_change_faults, "Right: only the latent changes, every place counts, and 0 changes nothing."),
            (
                "Run the model twice, the second time inside a splice that adds to the latent.",
                "mean over texts and places of log p(token | f + strength) - log p(token).",
                "model(tokens).log_softmax(-1) before and inside splice(model, coder, edit=add(...)); .mean((0, 1))",
            ),
        ),
        Exercise(
            "6.3",
            "Who supports the right bracket",
            8,
            supporter,
            first_fault(_supporter_faults, "Right on both prompts, and by ablation, not by number."),
            (
                "gap() gives the difference, on_at_end() the candidates. Take each of them out once.",
                "drop(i) = gap as it is - gap without latent i; the largest drop wins.",
                "for each latent: inside splice(model, coder, edit=ablate(...)), compare gap(...); keep the largest",
            ),
        ),
    ),
    QUESTIONS,
)
