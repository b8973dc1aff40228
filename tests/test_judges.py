"""Auto-interpretation: an honest split, judges whose scores are known, answers and servers that fail."""

import contextlib
import json
import math
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

import saekit as sk
from saekit import explain
from saekit.corpus import python_spans
from saekit.explain import questions, scores
from saekit.explain.endpoint import Endpoint
from saekit.explain.passages import LENGTH, QUARTERS, halves
from tests.test_features import collect

ASKED = (explain.detection, explain.fuzzing, explain.simulation, explain.intruder)
SCORES = (*ASKED, explain.embedding)
PAIRS = ("QZ", "{}", "@$", "JK", "&%", "VX")
WORDS = "red green blue round square small large under over".split()


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models["gpt2"]


@pytest.fixture(scope="module")
def corpus(model):
    """Lines of plain words; now and then one with digits, or with a pair of signs that a latent is on at."""
    rng = random.Random(0)
    sources = []
    for i in range(30):
        lines = []
        for _ in range(24):
            signs = rng.choice(["", "", "", *PAIRS, "digits", "digits"])
            marks = "".join(rng.choices("0123456789" if signs == "digits" else signs, k=3)) if signs else ""
            lines.append(f"# {rng.choice(WORDS)} and {rng.choice(WORDS)} {marks} or {rng.choice(WORDS)}")
        sources.append('"""Of many words and a few more."""\n' + "\n".join(lines) + f"\nx = 'w'  # {i}\n")
    return sk.load_corpus(model, sources, labels=[python_spans(source) for source in sources])


@pytest.fixture(scope="module")
def features(model, corpus):
    """Planted at the embedding: latent 0 is on at digits, the stronger the larger; 1 never; the others at two signs."""
    coder = sk.SparseCoder(32, 2 + len(PAIRS), sk.ReLU()).eval().requires_grad_(False)
    coder.site = sk.Site("embed.hook_out")
    table = model.embed(torch.arange(model.cfg.d_vocab)[None])[0]
    wanted = torch.zeros(len(table), coder.d_sae)
    for digit in range(10):
        wanted[id_of(model, str(digit)), 0] = digit + 1
    for latent, pair in enumerate(PAIRS, 2):
        for strength, sign in enumerate(pair, 1):
            wanted[id_of(model, sign), latent] = strength
    # An affine map of 32 dimensions cannot plant this exactly, so the codes are looked up by the nearest embedding.
    coder.encode = lambda x: sk.codes.Codes.from_dense(wanted[torch.cdist(x.float(), table).argmin(1)])
    return collect(model, corpus, coder, top=60)


def id_of(model, sign):
    return model.tokenizer(sign, add_special_tokens=False).input_ids[0]


@pytest.fixture
def latent(features):
    return features[0]


DIGIT = explain.Explanation(", ".join(f"`{d}`" for d in range(10)))


# -- the split


def test_documents_are_split_first(features, corpus, latent):
    train, test = halves(features)
    assert not {*corpus.text_ids[train.windows]} & {*corpus.text_ids[test.windows]}
    assert sorted([*train.windows, *test.windows]) == list(range(len(corpus)))
    assert abs(len({*corpus.text_ids[train.windows]}) - 15) == 0
    shown = []
    explain.by_examples(latent, lambda prompt: shown.append(prompt) or "digits")
    asked = [p for q in questions.detection_questions("x", latent) for p in q.passages]
    assert {p.window for p in asked} <= {*test.windows.tolist()}
    assert all(p.text.replace("<<", "") not in shown[0] for p in asked)
    made = [p for half in (train.firing(latent), train.silent(latent)) for p in half]
    assert made and not {corpus.text_ids[p.window] for p in made} & {corpus.text_ids[p.window] for p in asked}
    names = {corpus.texts[i] for i in corpus.text_ids[corpus.test_windows()]}
    assert len(names) == 15 and corpus.test_windows().tolist() == corpus[:].test_windows().tolist()
    with pytest.raises(ValueError, match="1 texts of"):
        halves(collect(latent.features.model, corpus[:1], latent.features.coder))


def test_passages_are_what_they_say(features, corpus, latent):
    for half in halves(features):
        firing, silent = half.firing(latent), half.silent(latent)
        digits = set("0123456789")
        assert firing and silent
        for p in firing:
            assert [v > 0 for v in p.values] == [t in digits for t in p.tokens] and p.part in QUARTERS
        for p in silent:
            assert not digits & {*p.tokens} and len(p.tokens) == LENGTH
        for some in (firing, silent):
            spans = [(p.window, p.start + i) for p in some for i in range(len(p.tokens))]
            peaks = sorted((p.window, p.start) for p in some)
            assert len({*peaks}) == len(peaks)
        spans = [(p.window, p.start + i) for p in silent for i in range(len(p.tokens))]
        assert len({*spans}) == len(spans)
        assert [p.text for p in half.firing(latent)] == [p.text for p in firing]
    assert {p.part for half in halves(features) for p in half.firing(latent)} == {*QUARTERS}


# -- judges whose scores are known


@pytest.mark.parametrize("score", SCORES)
def test_the_oracle_is_perfect_and_a_constant_is_chance(score, latent):
    perfect = score(DIGIT, latent, explain.Oracle())
    assert perfect["score"] == pytest.approx(1.0, abs=1e-7)
    assert perfect["low"] <= perfect["score"] <= perfect["high"] + 1e-9
    assert perfect["failures"] == 0 and perfect["n"] > 0 and perfect["quarters"].keys() <= {*QUARTERS}
    assert min(perfect["quarters"].values()) == pytest.approx(1.0, abs=1e-7)
    for answer in (0, 1) if score is not explain.intruder else (1, 2, 5):
        constant = score(DIGIT, latent, explain.Constant(answer))
        if score is explain.simulation:
            assert math.isnan(constant["score"]) and math.isnan(constant["low"])
        else:
            assert constant["score"] == 0.5


@pytest.mark.parametrize("score", ASKED)
def test_rules_know_a_planted_latent(score, latent):
    """The words name its tokens exactly, so that only its strength among digits is not known."""
    found = score(DIGIT, latent, explain.Rules())
    assert found["score"] == 1.0 if score is not explain.simulation else 0.6 < found["score"] < 1
    wrong = score("the token `z`", latent, explain.Rules())
    assert wrong["score"] <= 0.55 or math.isnan(wrong["score"])


def test_the_embedding_score_offline(features, latent):
    found = explain.embedding("a brace: `{` or `}`", features[3])
    assert found["score"] > 0.9 and found["low"] <= found["score"] <= found["high"]
    own = explain.embedding(DIGIT, latent, explain.mean_embeddings(features.model))
    assert 0 <= own["score"] <= 1
    assert explain.embedding("qqq", latent)["score"] == 0.5  # a word that no document has


def test_shuffled_explanations_score_as_chance(features):
    said = {i: explain.by_examples(features[i]) for i in range(2, 8)}
    given = explain.shuffled(said)
    assert given.keys() == said.keys() and all(given[i] is not said[i] for i in said)
    own = [explain.fuzzing(said[i], features[i], explain.Rules())["score"] for i in said]
    others = [explain.fuzzing(given[i], features[i], explain.Rules())["score"] for i in said]
    assert abs(np.mean(others) - 0.5) < 0.1 < np.mean(own) - 0.5
    with pytest.raises(ValueError, match="1 explanations"):
        explain.shuffled({1: "a"})


def test_scores_are_sklearns(latent):
    """Of a judge that errs at random."""
    rng = np.random.default_rng(0)

    def judge(question):
        return str([int(t) if rng.random() < 0.7 else 1 - int(t) for t in question.truth])

    found = explain.detection(DIGIT, latent, judge)
    truth, guess = ([r[k] for r in found["records"]] for k in ("truth", "prediction"))
    guess = [bool(g) for g in guess]
    assert found["score"] == pytest.approx(balanced_accuracy_score(truth, guess))
    assert found["f1"] == pytest.approx(f1_score(truth, guess))
    assert found["n"] == len(truth) and 0.5 < found["low"] < found["score"] < found["high"] < 0.95
    assert all(r["correct"] == (r["truth"] == r["prediction"]) for r in found["records"])
    levels = explain.simulation(DIGIT, latent, lambda q: str([max(0, min(10, t + rng.normal())) for t in q.truth]))
    pairs = np.concatenate([np.array([r["prediction"], r["truth"]]) for r in levels["records"]], 1)
    assert levels["score"] == pytest.approx(stats.pearsonr(*pairs)[0])
    score, truth = rng.normal(size=40).round(1), rng.random(40) < 0.4
    assert scores._auc(score, truth) == pytest.approx(roc_auc_score(truth, score))


def test_intervals_cover(latent):
    """Wilson's is scipy's; the balanced one covers the truth about as often as it says."""
    low, high = stats.binomtest(7, 20).proportion_ci(method="wilson")
    assert scores._wilson(np.arange(20) < 7) == pytest.approx((7 / 20, low, high), abs=1e-6)
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(600):
        _, low, high = scores._balanced(rng.random(40) < 0.9, rng.random(30) < 0.6)
        covered.append(low <= 0.75 <= high)
    assert 0.92 < np.mean(covered) < 0.985
    assert all(math.isnan(x) for x in scores._wilson(np.zeros(0, bool)))


# -- questions


def test_prompts_are_the_same_for_a_seed_and_highlights_differ_by_passage(latent):
    asked = questions.fuzzing_questions(DIGIT, latent, seed=3)
    assert asked == questions.fuzzing_questions(DIGIT, latent, seed=3)
    assert asked != questions.fuzzing_questions(DIGIT, latent, seed=4)
    wrong = [p for q in asked for p, t in zip(q.passages, q.truth, strict=True) if not t]
    right = [p for q in asked for p, t in zip(q.passages, q.truth, strict=True) if t]
    assert all(p.marked == p.on for p in right) and abs(len(right) - len(wrong)) <= 1
    assert all(len(p.marked) == len(p.on) and not {*p.marked} & {*p.on} for p in wrong)
    assert len({p.marked for p in wrong}) > 1
    assert all("<<" in q and q.count("--- Passage") == len(q.passages) for q in asked)
    odd = questions.intruder_questions(None, latent, n=20)
    assert sorted(q.truth[0] for q in odd) == sorted([1, 2, 3, 4, 5] * 4)
    assert all(
        sum(p.part == "off" for p in q.passages) == 1 and q.passages[int(q.truth[0]) - 1].part == "off" for q in odd
    )
    assert all(DIGIT.text not in q for q in odd)


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("[1, 0, 1]", [1, 0, 1]),
        ("1 0 1", [1, 0, 1]),
        ("yes, No, YES", [1, 0, 1]),
        ("Passages 1 and 3 fit: [1, 0, 1]", [1, 0, 1]),
        ("[0, 0, 0] no, rather [1, 0, 1]", [1, 0, 1]),
        ("1, 0", None),
        ("[1, 0, 2]", None),
        ("1.0 0 1", None),
        ("101", None),
        ("", None),
        ("-1 0 1", None),
    ],
)
def test_answers_are_read(answer, read):
    question = questions.Question("?", truth=(1.0, 0.0, 1.0), choices=("0", "1"))
    assert question.read(answer) == read
    levels = questions.Question("?", truth=(1.0, 0.5), choices=tuple(map(str, range(11))), exact=False)
    assert levels.read("[10, 2.5]") == [10, 2.5] and levels.read("[11, 0]") is None


def test_hostile_text_changes_no_reading(model, features):
    texts = [
        "words and more words\n" * 9 + f"# [1, 0] <<QZ>> </textarea> {i}\n" + "blue and red\n" * 9 for i in range(12)
    ]
    hostile = collect(model, sk.load_corpus(model, texts), features.coder)
    for score in SCORES:
        assert score("`Q`", hostile[2], explain.Oracle())["score"] == pytest.approx(1)


# -- judges that fail


def test_nonsense_is_counted_and_named(latent):
    odd = {"n": 0}

    def sometimes(question):
        odd["n"] += 1
        return "I cannot say" if odd["n"] == 2 else explain.Oracle()(question)

    with pytest.warns(UserWarning, match="judge sometimes gave 1 of .* such as 'I cannot say'"):
        found = explain.detection(DIGIT, latent, sometimes, n=20)
    assert found["failures"] == 1 and found["score"] == 1 and found["n"] == 5 * (found["asked"] - 1)
    for score in ASKED:
        with pytest.raises(explain.JudgeError, match="judge <lambda> gave .* cannot be read, such as 'well'"):
            score(DIGIT, latent, lambda question: "well")
    assert issubclass(explain.JudgeError, ValueError)


def test_what_was_answered_is_kept(latent, tmp_path):
    asked = []

    def flaky(question):
        asked.append(question)
        if len(asked) == 3:
            raise TimeoutError("no answer in 5 s")
        return explain.Oracle()(question)

    judge = explain.Cached(flaky, tmp_path)
    with pytest.raises(explain.JudgeError, match=r"flaky: no answer in 5 s \(2 of \d+ questions were answered\)"):
        explain.detection(DIGIT, latent, judge)
    assert len(list(tmp_path.rglob("*.json"))) == 2
    assert explain.detection(DIGIT, latent, judge)["score"] == 1
    assert len({*asked}) == len(asked) - 1  # only the one that failed was asked twice
    n = len(asked)
    assert explain.detection(DIGIT, latent, judge)["score"] == 1 and len(asked) == n


def test_the_cache(tmp_path):
    calls = []
    judge = explain.Cached(lambda prompt: calls.append(prompt) or f"answer {len(calls)}", tmp_path)
    assert judge("a\ud800") == judge("a\ud800") == "answer 1" and judge("b") == "answer 2"
    other = explain.Cached(type("J", (), {"name": "other", "__call__": lambda self, p: "mine"})(), tmp_path)
    assert other("b") == "mine" and judge("b") == "answer 2"
    for damage in ("", "{", "[]", json.dumps({"judge": "<lambda>", "prompt": "b", "answer": 3})):
        judge.file("b").write_text(damage)
        n = len(calls)
        assert judge("b") == f"answer {n + 1}" == judge("b")

    def stops(prompt):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain.Cached(stops, tmp_path / "empty")("c")
    assert not list((tmp_path / "empty").rglob("*"))


def test_a_human_answers_when_there_is_time(latent):
    asked = questions.detection_questions(DIGIT, latent, n=6, per_question=1)
    human = explain.Human(asked)
    with pytest.raises(explain.JudgeError, match="waits for its human"):
        explain.detection(DIGIT, latent, human, n=6, per_question=1)
    while human.question is not None:
        with pytest.raises(ValueError, match="'perhaps' is no answer: give 1 numbers from 0 to 1"):
            human.answer("perhaps")
        human.answer("yes" if human.question.truth[0] else "no")
        if len(human.answers) == 4:
            assert scores.graded(human.questions, human.answers)["n"] == 4
    with pytest.raises(ValueError, match="all 12 questions are answered"):
        human.answer("yes")
    assert explain.detection(DIGIT, latent, human, n=6, per_question=1)["score"] == 1


# -- a local model


def test_a_local_model_answers_by_probability(model, latent):
    judge = explain.LocalModel(model)
    question = questions.Question("is it?", truth=(1.0,), choices=("0", "1"))
    with torch.no_grad():
        p = model(model.to_tokens("is it? ["))[0, -1].softmax(0)
    zero, one = (float(p[model.tokenizer(c, add_special_tokens=False).input_ids[0]]) for c in "01")
    assert judge(question) == ("[1]" if one > zero else "[0]")
    levels = questions.Question("is it?", truth=(1.0,), choices=("0", "1"), exact=False)
    assert float(judge(levels)[1:-1]) == pytest.approx(one / (one + zero), abs=1e-3)
    two = judge.log_probs("is it? [", ("10", "0"))
    with torch.no_grad():
        after = model(model.to_tokens("is it? [1"))[0, -1].log_softmax(0)
    ten = math.log(one) + float(after[model.tokenizer("0", add_special_tokens=False).input_ids[0]])
    torch.testing.assert_close(two.float(), torch.tensor([ten, math.log(zero)]), atol=1e-3, rtol=1e-3)
    assert explain.LocalModel(model, ("yes", "no"))("is it") in ("yes", "no")
    assert isinstance(judge("a"), str)
    with pytest.raises(ValueError, match="reads 64: give per_question=1"):
        explain.detection(DIGIT, latent, judge)


# -- an endpoint


class Stub(BaseHTTPRequestHandler):
    """A chat server: `behave`, a list of what to do with each request; the last one stays."""

    behave: tuple = ()
    seen: list = []  # noqa: RUF012

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, dict(self.headers), body))
        do = self.behave[min(len(self.seen), len(self.behave)) - 1]
        if do == "slow":
            time.sleep(0.6)
            do = "late"
        status, content = do if isinstance(do, tuple) else (200, do)
        sent = json.dumps({"choices": [{"message": {"content": content}}]}) if isinstance(content, str) else content[0]
        with contextlib.suppress(OSError):  # who did not wait has hung up
            self.send_response(status)
            self.end_headers()
            self.wfile.write(sent.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(*behave):
        handler = type("Handler", (Stub,), {"behave": behave, "seen": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1", handler.seen

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_an_endpoint_is_asked_as_openai_is(serve, tmp_path, latent):
    url, seen = serve("[1, 0]")
    judge = explain.endpoint(url + "/", "m", key="sk-secret", path=tmp_path)
    assert judge("what?") == "[1, 0]" == judge("what?") and len(seen) == 1
    path, headers, body = seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer sk-secret"
    assert (
        body["model"] == "m" and body["messages"] == [{"role": "user", "content": "what?"}] and body["temperature"] == 0
    )
    kept = "".join(file.read_text() for file in tmp_path.rglob("*.json"))
    assert "secret" not in kept + repr(judge.judge) + judge.name


@pytest.mark.parametrize(
    ("behave", "message", "tries"),
    [
        (((500, "x"), (429, "x"), "fine"), None, 3),
        (((503, "busy"),), "503 .*busy", 3),
        (((401, "bad key"),), "401 .*bad key", 1),
        (("slow",), "no answer in 0.2 s", 3),
        (((200, ["no json"]),), "something else than a chat completion", 1),
        (((200, ['{"choices": []}']),), "something else than a chat completion", 1),
        (((200, ['{"choices": [{"message": {"content": null}}]}']),), "something else than", 1),
    ],
)
def test_an_endpoint_that_fails_is_named(serve, behave, message, tries):
    url, seen = serve(*behave)
    judge = Endpoint(url, "m", key="sk-secret", timeout=0.2 if behave == ("slow",) else 5, pause=0.01)
    if message is None:
        assert judge("a") == "fine"
    else:
        with pytest.raises(explain.JudgeError, match=rf"judge m at 127.0.0.1:\d+ failed: .*{message}") as caught:
            judge("a")
        assert "secret" not in str(caught.value)
    assert len(seen) == tries


def test_an_endpoint_that_is_not_there(serve, latent, tmp_path):
    url, _ = serve("x")
    port = 1  # nothing listens there
    judge = explain.endpoint(f"http://127.0.0.1:{port}/v1", "m", retries=0, timeout=2, path=tmp_path)
    with pytest.raises(explain.JudgeError, match=r"m at 127.0.0.1:1 .*refused.*0 of \d+ questions"):
        explain.detection(DIGIT, latent, judge)
    for bad in ("file:///etc/passwd", "localhost:8000", "http://user:pw@host/"):
        with pytest.raises(ValueError, match="give an address") as caught:
            Endpoint(bad, "m")
        assert "pw" not in str(caught.value).replace("passwd", "")
    with pytest.raises(ValueError, match="retries=-1"):
        Endpoint(url, "m", retries=-1)


# -- explainers


def test_explainers_show_train_passages_and_take_the_first_line(latent, features):
    heard = []

    def judge(prompt):
        heard.append(prompt)
        return "\n  digits, mostly \nmore words"

    for explainer in (explain.by_examples, explain.by_contrast, explain.by_output):
        assert explainer(latent, judge).text == "digits, mostly"
    examples, contrast, output = heard
    assert examples.count("--- Passage") <= 20 and "<<" in examples and "'9': 10" in examples
    assert contrast.count("--- Passage") > examples.count("--- Passage") and "off throughout" in contrast
    best = explain.vocab_proj(features.model, features.coder, 0, n=1).token.iloc[0]
    assert best.strip() in output
    assert explain.by_examples(latent).text.startswith("the tokens `")
    assert explain.by_output(latent).text.endswith("likelier")
    for silent in ("", " \n "):
        with pytest.raises(explain.JudgeError, match="said nothing"):
            explain.by_examples(latent, lambda prompt, silent=silent: silent)


def test_rules_read_labels_quotes_and_predicates(features, corpus, latent):
    def holds(text):
        return explain.Explanation.of(text).predicate(features)(corpus)

    np.testing.assert_array_equal(holds("inside a docstring"), corpus.labels["docstring"] & corpus.mask)
    np.testing.assert_array_equal(
        holds("comments or `#`"),
        corpus.labels["comment"] | (corpus.tokens.numpy() == id_of(features.model, "#")),
    )
    deep = corpus.labels["depth 2+"] | corpus.labels["def name"]
    np.testing.assert_array_equal(holds("at depth 2+, and def names"), deep & corpus.mask)
    own = explain.Explanation("odd places", lambda part: (part.tokens % 2 == 1).numpy())
    np.testing.assert_array_equal(holds(own), (corpus.tokens % 2 == 1).numpy())

    class Rule:
        words = "inside a comment"

        def fires(self, part):
            return part.labels["comment"]

    assert explain.Explanation.of(Rule()).text == "inside a comment"
    np.testing.assert_array_equal(holds(Rule()), corpus.labels["comment"])
    with pytest.raises(ValueError, match="'the colour blue' names no label"):
        explain.detection("the colour blue", latent, explain.Rules())
    with pytest.raises(ValueError, match="explanation is empty"):
        explain.detection("  ", latent, explain.Oracle())
    with pytest.raises(ValueError, match="rules judge by the explanation"):
        explain.intruder(None, latent, explain.Rules())


def test_latents_that_cannot_be_scored_are_named(features, latent):
    for score in SCORES:
        with pytest.raises(ValueError, match="latent 1 fires in 0 passages"):
            score(DIGIT, features[1], explain.Oracle())
    with pytest.raises(ValueError, match="n=1"):
        explain.detection(DIGIT, latent, explain.Oracle(), n=1)
    with pytest.raises(ValueError, match="latent 1 fires in no passage of the train documents"):
        explain.by_examples(features[1])
