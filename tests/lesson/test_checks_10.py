"""Notebook 10: references against the graph itself, a message for each wrong answer, and what the notebook claims."""

import inspect
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import saekit as sk
from saekit import widgets
from saekit.circuits.supernodes import suggest
from saekit.lesson import nb00, nb10
from saekit.lesson import nb10_shown as shown
from saekit.lesson.exercise import Setting, judge
from tests.graphs import layered

EXERCISES = {exercise.id: exercise for exercise in nb10.CHAPTER.exercises}
GOOD = {"10.1": nb10.direct_effect, "10.2": nb10.influence_and_kept}


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(sk.load_model(), sk.load("tiny-python/mlp/transcoders"))


@pytest.fixture(scope="module")
def solved(setting):
    return nb10.traced(*setting, *nb10.SOLVED)


@pytest.fixture(scope="module")
def puzzle(setting):
    return nb10.traced(*setting, *nb10.UNSOLVED)


@pytest.fixture(scope="module")
def small(puzzle):
    return nb10.legible(puzzle)[0]


@pytest.fixture(scope="module")
def groups(setting):
    return nb10.supernodes(setting)


def said(name: str, answer: object, setting: Setting) -> str:
    verdict = judge(EXERCISES[name], answer, setting)
    assert verdict.passed is False, verdict
    return verdict.message


# -- right answers


@pytest.mark.parametrize("name", GOOD)
def test_the_reference_passes_and_its_printed_source_too(name, setting, solved):
    exercise, pasted = EXERCISES[name], {"np": np}
    start = time.process_time()
    assert judge(exercise, exercise.reference, setting).passed
    assert time.process_time() - start < 2
    exec(inspect.getsource(exercise.reference), pasted)
    assert judge(exercise, pasted[exercise.reference.__name__], setting).passed


def test_the_story_passes_and_its_printed_source_too(setting, groups):
    start = time.process_time()
    assert judge(EXERCISES["10.3"], groups, setting).passed
    assert time.process_time() - start < 2
    needed = ("legible", "traced", "suggest", "explained", "place", "UNSOLVED")
    pasted = {name: getattr(nb10, name) for name in needed}
    exec(inspect.getsource(nb10.supernodes), pasted)
    assert pasted["supernodes"](setting) == groups


def test_the_direct_effect_is_every_strong_edge_of_the_graph(setting, solved):
    table = shown.edges(*setting, solved, nb10.direct_effect, n=6)
    assert len(table) == 6 and np.allclose(table.yours, table.graph, rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_influence_and_what_is_kept_are_the_graphs_own(seed):
    graph = layered(seed)
    p = graph.nodes["probability"].to_numpy()
    influence, kept = nb10.influence_and_kept(graph.weights.toarray(), p, 0.8)
    assert np.allclose(influence, graph.influence())
    fixed = np.flatnonzero(graph.nodes["kind"].isin(["bias", "bos", "token", "position", "logit"]))
    pruned = graph.prune(0.8, 1.0)
    assert len(pruned) <= len({*kept.tolist(), *fixed.tolist()})  # pruning also takes what has lost its last edge
    assert influence[kept].sum() >= 0.8 * influence.sum() > influence[kept[:-1]].sum()


@pytest.mark.parametrize("seed", range(3))
def test_what_runs_through_nodes_is_what_is_lost_without_them(seed):
    """Against a sum over all paths, one by one."""
    graph = layered(seed)
    size = np.abs(graph.weights.toarray())
    A = np.divide(size, size.sum(1, keepdims=True), out=np.zeros_like(size), where=size.sum(1, keepdims=True) > 0)
    latents = np.flatnonzero(graph.nodes["kind"] == "latent")
    chosen = {*latents[::3].tolist()}

    def meets(node: int) -> float:
        return 1.0 if node in chosen else sum(A[node, s] * meets(s) for s in np.flatnonzero(A[node]))

    p = graph.nodes["probability"].to_numpy()
    found = sum(p[t] * meets(t) for t in np.flatnonzero(p)) / p.sum()
    assert nb10.explained(graph, [*chosen]) == pytest.approx(found)


def test_groups_by_hand_in_the_picture_pass(setting, puzzle, groups):
    view = widgets.CircuitView(puzzle)
    at = {nb10.place(view.graph, i): i for i in np.flatnonzero(view.graph.nodes["kind"] == "latent")}
    made = tuple({"name": name, "nodes": tuple(at[key] for key in keys)} for name, keys in groups.items())
    view.set_state(groups=tuple(group for group in made if len(group["nodes"]) > 1))
    given = nb10.grouped(view)
    assert given == {name: keys for name, keys in groups.items() if len(keys) > 1}
    assert judge(EXERCISES["10.3"], given, setting).passed


# -- nothing written yet, and anything at all


@pytest.mark.parametrize("name", EXERCISES)
def test_a_stub_is_not_yet(name, setting):
    stubs = [..., None, {}] if name == "10.3" else [..., None, lambda *args: None, lambda *args: ...]
    assert [judge(EXERCISES[name], stub, setting).passed for stub in stubs] == [None] * len(stubs)


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("thing", [7, "text", (1, 2), [[1]], np.zeros((3, 3), int), {"a": [(1,)]}, {"a": 3}])
def test_nothing_breaks_a_check(name, thing, setting):
    for answer in (thing, lambda *args: thing):
        verdict = judge(EXERCISES[name], answer, setting)
        assert verdict.passed is False and verdict.message


# -- 10.1


def effect(hold=nb10.HELD, scale=1.0, less=True, plus=0.0, write=None):
    """The reference with something wrong in it."""

    def answer(read, activation, decoder, encoder, bias):
        extra = {"decoder": decoder, "encoder": activation * encoder}.get(write, activation * decoder)
        base = read(0 * decoder, hold) if less else torch.zeros_like(decoder)
        return scale * ((read(extra, hold) - base) @ encoder) + plus * bias

    return answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (effect(hold=()), "Nothing is held"),
        (effect(hold=("patterns", "mlps")), "norms are not held"),
        (effect(hold=("norms", "mlps")), "patterns are not held"),
        (effect(hold=("patterns", "norms")), "MLPs in between are not held"),
        (effect(less=False), "all that the target reads"),
        (effect(less=False, plus=1), "whole pre-activation"),
        (effect(plus=1), "target's bias"),
        (effect(scale=-1), "sign is turned"),
        (effect(write="decoder"), "effect of one unit"),
        (effect(write="encoder"), "encoder along the way"),
        (lambda read, activation, decoder, encoder, bias: activation * decoder @ encoder, "dot product alone"),
        (lambda read, activation, decoder, encoder, bias: activation * decoder, "An edge is one number"),
        (effect(scale=3), "Hold everything"),
        (effect(hold=("heads",)), "there are patterns, norms, mlps"),
    ],
)
def test_a_wrong_direct_effect_is_named(answer, words, setting):
    assert words in said("10.1", answer, setting)


# -- 10.2


def shares(weights: np.ndarray, by: int = 1) -> np.ndarray:
    sums = weights.sum(by, keepdims=True)
    return np.divide(weights, sums, out=np.zeros_like(weights), where=sums != 0)


def paths(A: np.ndarray, p: np.ndarray, minus: bool = True) -> np.ndarray:
    return p @ np.linalg.inv(np.eye(len(A)) - A) - minus * p


def kept(influence: np.ndarray, share: float) -> np.ndarray:
    order = np.argsort(-influence)
    return order[: 1 + np.searchsorted(np.cumsum(influence[order]), share * influence.sum())]


WRONG = {
    "targets themselves": lambda w, p: paths(shares(np.abs(w)), p, minus=False),
    "Signs are kept, so paths cancel": lambda w, p: paths(shares(w), p),
    "each row should sum to 1": lambda w, p: paths(w, p),
    "rows are not divided": lambda w, p: paths(np.abs(w), p),
    "sums of the columns": lambda w, p: paths(shares(np.abs(w), 0), p),
    "one step only": lambda w, p: p @ shares(np.abs(w)),
    "two steps": lambda w, p: p @ (shares(np.abs(w)) + shares(np.abs(w)) @ shares(np.abs(w))),
    "wrong side": lambda w, p: np.linalg.inv(np.eye(len(w)) - shares(np.abs(w))) @ p - p,
    "another p": lambda w, p: paths(shares(np.abs(w)), p) + p - p / p.sum(),
    "another influence": lambda w, p: 2 * paths(shares(np.abs(w)), p),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_influence_is_named(words, setting):
    def answer(weights, p, share):
        influence = WRONG[words](weights, p)
        return influence, kept(influence, share)

    assert words in said("10.2", answer, setting)


@pytest.mark.parametrize(
    ("choose", "words"),
    [
        (lambda i, share: kept(i, share)[:-1], "just too little"),
        (lambda i, share: np.argsort(-i)[: round(share * len(i))], "80 % of the nodes"),
        (lambda i, share: np.flatnonzero(i >= share * i.max()), "compare with the largest"),
        (lambda i, share: np.argsort(i)[: len(kept(i, share))], "from the strongest"),
        (lambda i, share: np.argsort(-i)[: len(kept(i, share)) + 3], "the fewest"),
    ],
)
def test_a_wrong_choice_of_nodes_is_named(choose, words, setting):
    def answer(weights, p, share):
        influence = paths(shares(np.abs(weights)), p)
        return influence, choose(influence, share)

    assert words in said("10.2", answer, setting)


def test_the_nodes_may_be_a_mask(setting):
    def answer(weights, p, share):
        influence, nodes = nb10.influence_and_kept(weights, p, share)
        return influence, np.isin(np.arange(len(p)), nodes)

    assert judge(EXERCISES["10.2"], answer, setting).passed


def test_other_shapes_of_influence_are_named(setting):
    assert "Return two things" in said("10.2", lambda weights, p, share: p, setting)
    assert "one number for each of 30 nodes" in said("10.2", lambda weights, p, share: (weights, [1]), setting)


# -- 10.3


def of_kind(graph, kind: str) -> tuple[int, int, int]:
    return nb10.place(graph, int(np.flatnonzero(graph.nodes["kind"] == kind)[-1]))


def test_wrong_supernodes_are_named(setting, puzzle, small, groups):
    first, *others = groups.values()
    key = first[0]
    at_one_place = [nb10.place(small, i) for i in np.flatnonzero(small.nodes["kind"] == "latent")]
    crowd = [k for k in at_one_place if k[1] == len(small.tokens) - 1][:5]
    outside = {nb10.place(puzzle, i) for i in np.flatnonzero(puzzle.nodes["kind"] == "latent")} - {*at_one_place}
    for answer, words in (
        ({"all": [*first, of_kind(small, "logit")]}, "logits do not count"),
        ({"all": [*first, of_kind(small, "token")]}, "given, not computed"),
        ({"a": first, "b": [key]}, "is there twice"),
        ({"a": [first[0], next(k for keys in others for k in keys if k[1] != key[1])]}, "joins several tokens"),
        ({"a": crowd}, "has 5 latents. At most 4"),
        ({str(k): [k] for k in at_one_place[:7]}, "These are 7 supernodes"),
        ({"a": first}, "60% are wanted"),
        ({"a": [min(outside)]}, "0% of the influence"),
        ({"a": [(0, 1, 0)]}, "is off on this prompt"),
        ({"a": [key[:2]]}, "give (layer, position, latent)"),
        (lambda setting: groups, "This is a function"),
    ):
        assert words in said("10.3", answer, setting), words


def test_an_error_is_no_explanation(setting, monkeypatch):
    with_errors = nb10.legible(nb10.traced(*setting, *nb10.SOLVED))[0]
    monkeypatch.setattr(nb10, "UNSOLVED", nb10.SOLVED)
    assert "what the transcoders leave out" in said("10.3", {"a": [of_kind(with_errors, "error")]}, setting)


def test_shares_that_only_add_up_are_named(setting, small, monkeypatch):
    """A bar between what runs through the groups and what their influences add up to."""
    groups = nb10.supernodes(setting)
    nodes = nb10.members(small, groups)
    through, added = nb10.explained(small, nodes), small.influence()[nodes].sum()
    assert through < added
    monkeypatch.setattr(nb10, "BAR", (through + added) / 2)
    assert "counts once" in said("10.3", groups, setting)


def test_latents_that_a_graph_does_not_have_are_left_out(small, groups):
    assert nb10.members(small, groups | {"off": [(0, 0, 0)]}) == nb10.members(small, groups)


# -- what the notebook says


def test_the_model_does_what_is_explained(setting):
    table = shown.odds(setting.model, [nb10.SOLVED, nb10.UNSOLVED])
    assert (table.answer == table.likeliest).all() and (table["p of it"] > 0.5).all()


def test_rows_add_up_to_rounding(solved, puzzle):
    for graph in (solved, puzzle):
        assert shown.gap(graph) < 1e-4
        parts = shown.made_of(graph, len(graph) - 1)
        assert parts.sum() == pytest.approx(1, abs=1e-5)
        assert {"bias", "bos", "token", "position", "error", "latents, layer 0"} <= {*parts.index}
    assert abs(shown.made_of(solved, len(solved) - 1)["token"]) < 0.05  # "almost nothing"


def test_a_graph_is_cut_to_what_can_be_read(solved, puzzle):
    for graph in (solved, puzzle):
        small, share = nb10.legible(graph)
        assert len(small) <= nb10.LEGIBLE < len(graph.prune(share + 0.01))


def test_the_strongest_latents_of_the_solved_graph_are_at_the_inner_bracket(setting, solved):
    top = np.argsort(-np.where(solved.nodes["kind"] == "latent", solved.influence(), -1))[:2].tolist()
    assert [solved.tokens[p] for p in solved.nodes["pos"][top]] == ["[", "["]
    shares = shown.by_token(solved)
    assert shares["[ at 4"] > 5 * shares["( at 2"]
    done = solved.intervene(setting.model, dict.fromkeys(top, 0.0), constrained=False)
    square, round_ = (setting.model.tokenizer.encode(t, add_special_tokens=False)[0] for t in ("]", ")"))
    assert done.logits_before[square] > done.logits_before[round_]
    assert done.logits_after[square] < done.logits_after[round_]


def test_the_puzzle_can_be_solved(small, groups):
    assert len(groups) <= nb10.GROUPS
    assert nb10.explained(small, nb10.members(small, groups)) >= nb10.BAR


def test_interventions_are_exact_where_all_is_held_and_have_the_right_sign_elsewhere(setting, puzzle, small, groups):
    held = shown.trials(puzzle, setting.model, groups, constrained=True)
    assert np.allclose(held.direct, held.actual, atol=1e-4)
    free = shown.tested(puzzle, small, setting.model, groups)
    assert len(free) >= 20 and free.agree.mean() >= 0.8


def test_the_words_at_two_places_make_the_answer_by_the_last_layer(small, groups):
    table = shown.story(small, groups)
    late = {name for name, keys in groups.items() if keys[0][0] == 3}
    strongest = table.iloc[:2]
    assert len(late) == 1 and {*strongest.target} == late and (strongest.weight > 0).all()
    assert all(name.startswith("size at") for name in strongest.source)
    into = table[table.target == small.nodes["label"].iloc[-1]].iloc[0]
    assert into.source in late and into.weight > 0


def test_dense_latents_do_not_do_what_the_graph_says(setting, solved):
    table = shown.trials(solved, setting.model, nb10.DENSE).set_index("factor")
    assert table.predicted[2] > 0 > table.actual[2]


def test_a_slope_is_that_of_least_squares(setting, puzzle, small, groups):
    table = shown.tested(puzzle, small, setting.model, groups)
    by = shown.by_kind(table)
    assert by.changes.sum() == len(table)
    for kind, mine in table.groupby("kind"):
        slope = np.linalg.lstsq(mine[["predicted"]].to_numpy(), mine.actual.to_numpy())[0][0]
        assert by["actual / predicted"][kind] == pytest.approx(slope, abs=0.01)
    assert by["actual / predicted"]["supernode, × 2"] < 0.7  # "doubling does less than the graph says"
    groups_agree = table[table.kind.str.startswith("supernode")].agree.mean()
    assert by["signs agree"]["one latent, × 0"] > groups_agree  # "keep their sign more often than groups"


def test_scores_of_other_prompts(setting):
    table = shown.trust(*setting, nb10.OTHERS[:2])
    for row, prompt in zip(table.itertuples(), nb10.OTHERS, strict=False):
        scores = nb10.traced(*setting, *prompt).scores()
        assert row.replacement == round(scores["replacement"], 2)
        assert row[5] == pytest.approx(1 - scores["completeness"], abs=0.01)
    assert (table["signs agree"] >= 0.8).all()


def test_the_cross_layer_graph_is_smaller_and_leaves_more_to_errors(setting, solved):
    cross = nb10.traced(setting.model, sk.load("tiny-python/mlp/cross_layer_transcoder"), *nb10.SOLVED)
    table = shown.compared({"own": solved, "cross": cross})
    for fewer in ("latents on", "edges", "latents and errors at 80 %", "latents on a path", "replacement"):
        assert table.loc[fewer, "cross"] < table.loc[fewer, "own"]
    assert table.loc["from errors", "cross"] > table.loc["from errors", "own"]


def test_heads_look_where_they_look(setting):
    text = nb10.SOLVED[0]
    weights = shown.looks(setting.model, text, "[")
    name = "blocks.1.attn.hook_pattern"
    _, cache = setting.model.run_with_cache(setting.model.to_tokens(text, prepend_bos=True), names_filter=[name])
    assert np.allclose(weights[1], cache[name][0, :, -1, 4]) and weights.shape == (4, 8)


def test_suggestions_are_a_start_that_does_not_know_the_rules(small, setting):
    found = suggest(small, 0.7)
    wrong = {name: [nb10.place(small, node) for node in nodes] for name, nodes in found.items()}
    assert judge(EXERCISES["10.3"], wrong, setting).passed is False


def test_a_row_without_one_kind_still_adds_up(solved):
    own = replace(solved, rest=solved.rest + 1.0, totals=solved.totals + 1.0 * solved.expanded)
    parts = shown.made_of(own, len(own) - 1)
    assert parts.sum() == pytest.approx(1, abs=1e-5) and "rest" in parts.index


def test_the_picture_of_the_first_notebook_says_what_it_shows_and_runs_nothing(solved):
    hostile = replace(solved, tokens=("<bos>", *["<script>alert(1)</script>"] * (len(solved.tokens) - 1)))
    for graph in (solved, hostile):
        picture = nb00.thumbnail(graph)
        assert "nodes carry" in picture and "<svg" in picture and "<script" not in picture
        assert len(picture) < 60_000


@pytest.mark.parametrize("question", nb10.QUESTIONS, ids=lambda question: question.id)
def test_a_question_has_its_answer_among_its_options(question):
    assert len(question.options()) == 3 and question.options()[question.answer] and question.why
