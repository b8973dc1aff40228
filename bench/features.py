"""Features: the index of all latents against the bare model that stops at the same site, its streaming top-k, what is
asked of an index, and rules."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import pandas as pd
import torch

import saekit as sk
from bench.measure import interleaved, peak_mb, ratio, report
from saekit import explain
from saekit.codes import Codes, Support
from saekit.features import forward
from saekit.features.kept import Entries, Kept

CODER = "tiny-python/resid.2/batch_topk"
WINDOWS = (60, 120, 240)
CONTEXT = 256  # tokens a window, BOS with them
ROWS, D_SAE, L0, K, BATCH = 12_288, 8_192, 32, 32, 1_024


def main() -> None:
    index()
    memory()
    top_k()
    questions()
    large_table()
    rules()


def parts(windows: int) -> tuple:
    model = sk.load_model()
    return model, sk.load(CODER), sk.load_corpus(model, split="held_out", files=20)[:windows]


def collect(windows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sk.Features.collect(*parts(windows), path=folder, progress=False)


def index() -> None:
    rows = []
    for windows in WINDOWS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(index_of(windows, Path(folder)) | {"peak MB": peak_mb(collect, windows)})
    report("features", f"Index of all 2,048 latents of {CODER}", rows, "collect / bare time")


def index_of(windows: int, folder: Path) -> dict[str, float]:
    model, coder, corpus = parts(windows)
    fresh, found = count(), sk.Features.collect(model, coder, corpus, path=folder / "kept", progress=False)

    def bare() -> None:
        for i in range(0, len(corpus), forward.WINDOWS):
            sk.capture(model, corpus.tokens[i : i + forward.WINDOWS], coder.site)

    def card() -> None:
        latent = found[next(fresh) % coder.d_sae]
        latent.top(12), latent.value_quantiles(), latent.rank_quantiles(), latent.labels(), latent.histogram()
        latent.neighbours(), latent.similar(), latent.tokens(20)

    ways = {
        "bare": bare,
        "collect": lambda: sk.Features.collect(model, coder, corpus, path=folder / str(next(fresh)), progress=False),
        "reopen": lambda: sk.Features.open(folder / "kept", model, coder, corpus),
        "card": lambda: [card() for _ in range(50)],
    }
    seconds = interleaved(ways)
    times = ratio(seconds, "collect", "bare")
    return {
        "windows": windows, "tokens": found.n, "collect / bare time": times["median"], "low": times["low"],
        "high": times["high"], "collect tokens/s": found.n / median(seconds["collect"]),
        "reopen ms": 1e3 * median(seconds["reopen"]), "latent card ms": 1e3 * median(seconds["card"]) / 50,
        "MB on disk": sum(file.stat().st_size for file in (folder / "kept").iterdir()) / 1e6,
    }  # fmt: skip


def questions() -> None:
    """What a card asks of an open index, each for latents not asked before; and 100 stored firings read again."""
    model, coder, corpus = parts(60)
    with tempfile.TemporaryDirectory() as folder:
        found, fresh = sk.Features.collect(model, coder, corpus, path=folder, progress=False), count()
        asked = ("top", "value_quantiles", "rank_quantiles", "labels", "tokens", "neighbours", "similar")

        def ask(name: str) -> Callable[[], object]:
            return lambda: getattr(found[next(fresh) % coder.d_sae], name)()

        ways = {name: ask(name) for name in asked} | {"search": lambda: found.search("doc")}
        seconds = interleaved(ways, inner=20)
        again = found.reencode(100).error.max()
    rows = [{"asked": name, "ms": 1e3 * median(each), "slowest ms": 1e3 * max(each)} for name, each in seconds.items()]
    report("features_asked", f"One latent of {CODER}, from an open index", rows, "ms", {"reencoding error": again})


def large_table(latents: int = 16_384) -> None:
    """Filters and a sort of a table of 16k rows: those of an index of 2,048 latents, over and over."""
    model, coder, corpus = parts(60)
    with tempfile.TemporaryDirectory() as folder:
        found = sk.Features.collect(model, coder, corpus, path=folder, progress=False)
        rows = found.table.iloc[np.arange(latents) % len(found)].reset_index(drop=True)
        found.table = rows.rename_axis("latent")
        ways: dict[str, Callable[[], pd.DataFrame]] = {
            "part of a label or token": lambda: found.search("doc"),
            "a label": lambda: found.search(label="docstring"),
            "a token": lambda: found.search(token="self"),
            "all, sorted by density": lambda: found.search().sort_values("density"),
        }
        seconds = interleaved(ways, inner=3)
    told = [{"filter": name, "ms": 1e3 * median(each)} for name, each in seconds.items()]
    report("features_search", f"Search in {latents:,} latents", told, "ms")


def rules(windows: int = 240, latents: int = 60) -> None:
    """Rules of some live latents, on documents that were not looked at: seconds, F1, and the detection score of the
    rules judge beside those of the same rules, each given to another latent."""
    model, coder, corpus = parts(windows)
    with tempfile.TemporaryDirectory() as folder:
        found = sk.Features.collect(model, coder, corpus, path=folder, progress=False)
        said, rows = {}, {}
        for latent in np.random.default_rng(0).permutation(found.search().index)[:latents].tolist():
            start = perf_counter()
            try:
                rule = explain.rules(found[latent])
            except ValueError:  # it is on at too few of the sampled tokens
                continue
            said[latent] = rule
            rows[latent] = [perf_counter() - start, rule.train.f1, rule.test.f1, rule.label[2].f1]
        for given in (said, explain.shuffled(said)):
            for latent, score in detected(found, given).items():
                rows[latent].append(score)
    table = np.array([row for row in rows.values() if len(row) == 6])
    names = ["seconds", "F1 train", "F1 test", "F1 test of the best label", "detection", "detection, rules shuffled"]
    told = [{"of a latent": name, "median": float(np.median(x)), "largest": float(x.max())}
            for name, x in zip(names, table.T, strict=True)]  # fmt: skip
    report("features_rules", f"Rules of {len(table)} latents of {CODER}, {found.n:,} tokens", told, "median")


def detected(found: sk.Features, given: dict) -> dict[int, float]:
    """The detection score of each latent's explanation; none where too few passages are left to ask about."""
    judge, scores = explain.Rules(), {}
    for latent, explanation in given.items():
        with contextlib.suppress(ValueError):
            scores[latent] = explain.detection(explanation, found[latent], judge)["score"]
    return scores


def memory(windows: tuple[int, ...] = (250, 1_000, 4_000)) -> None:
    """Peak memory of one pass over ever more text, up to a million tokens, each in a process of its own."""
    sk.load_corpus(sk.load_model())  # labelled once and kept; the passes open it
    rows = [{"windows": n, "tokens": n * (CONTEXT - 1), "peak MB": peak_mb(collect_library, n)} for n in windows]
    report("features_memory", f"Peak memory of an index of {CODER} over the standard library", rows, "peak MB")


def collect_library(windows: int) -> None:
    model = sk.load_model()
    corpus = sk.load_corpus(model)[:windows]
    if len(corpus) < windows:
        raise ValueError(f"the library has {len(corpus)} windows; {windows} were asked for")
    with tempfile.TemporaryDirectory() as folder:
        sk.Features.collect(model, sk.load(CODER), corpus, path=folder, progress=False)


def top_k() -> None:
    codes = list(stream())
    np.testing.assert_array_equal(streaming(codes), dense(codes))
    ways: dict[str, Callable] = {"dense merging": lambda: dense(codes), "streaming": lambda: streaming(codes)}
    seconds = interleaved(ways)
    rows = [{"way": way, "seconds": median(seconds[way]), "tokens/s": ROWS / median(seconds[way])} for way in ways]
    title = f"The {K} largest of {D_SAE:,} latents over {ROWS:,} tokens, {L0} on in each; the results are equal"
    report("features_top_k", title, rows, "seconds", {"times faster": ratio(seconds, "dense merging", "streaming")})


def stream() -> Iterator[Codes]:
    """Batches of codes with L0 random latents on, and activations that are exponentially distributed."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(ROWS // BATCH):
        latents = torch.rand(BATCH, D_SAE, generator=generator).topk(L0).indices.sort(dim=1).values
        values = torch.empty(BATCH * L0).exponential_(generator=generator)
        yield Codes(Support(torch.arange(BATCH + 1) * L0, latents.flatten(), D_SAE), values)


def dense(stream: list[Codes]) -> np.ndarray:
    """What peers do: each batch as a matrix below the largest so far, and `topk` of all columns."""
    best = torch.zeros(K, D_SAE)
    for codes in stream:
        best = torch.cat([best, codes.dense()]).topk(K, dim=0).values
    return best.T.numpy()


def streaming(stream: list[Codes]) -> np.ndarray:
    """The same from the entries alone."""
    kept = Kept(D_SAE, K, 1)
    for i, codes in enumerate(stream):
        latents, rows, values = (x.numpy() for x in (codes.latents, codes.rows, codes.values))
        chosen = np.flatnonzero(kept.may_hold(latents, values))
        scores, places = values[chosen].astype(np.float64), i * BATCH + rows[chosen]
        kept.add(Entries(latents[chosen], scores, places, values[chosen, None]))
    found = kept.entries()
    best = np.zeros((D_SAE, K), np.float32)
    rank = np.arange(len(found.group)) - np.searchsorted(found.group, found.group)
    best[found.group, rank] = found.values[:, 0]
    return best


if __name__ == "__main__":
    main()
