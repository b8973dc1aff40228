"""Training: the sparse step against the dense one, at d_in 256, d_sae 8,192, k 32, batch 4,096."""

import itertools
from statistics import median

import torch
from torch import Tensor

import saekit as sk
from bench.baselines import DenseLearner, DenseTopK
from bench.measure import interleaved, peak_mb, ratio, report
from bench.race.ours import sparse_start
from saekit import presets
from saekit.activations import Batch
from saekit.train import Learner, geometric_median

D, F, K, B = 256, 8192, 32, 4096
LR = 4e-4


def activations(rows: int) -> Tensor:
    """Real ones: the residual stream of the shipped model, at the training scale."""
    model = sk.load_model()
    acts = sk.Activations(model, sk.Site("blocks.2.hook_resid_post"), sk.load_corpus(model, split="train"))
    x = torch.cat([b.x for b in itertools.islice(acts.batches(B), -(-rows // B))])
    return x * (D**0.5 / x.norm(dim=1).mean())


def dead_mask(share: float) -> Tensor:
    return torch.arange(F) % 1000 < 1000 * share


def dense(x: Tensor, along: str = "token") -> DenseLearner:
    torch.manual_seed(0)
    coder = DenseTopK(D, F, K, along)
    coder.b_pre.copy_(geometric_median(x[:B]))
    coder.b_dec.data.copy_(coder.b_pre)
    return DenseLearner(coder, LR)


def sparse(x: Tensor) -> Learner:
    torch.manual_seed(0)
    learner = Learner(*presets.topk(D, F, K), steps=10**9, lr=LR, dead_after=1.0)
    start = x[:B]
    learner.begin(Batch(start, start))
    learner.every = 10**9  # no history while the clock runs
    return learner


def step(learner: Learner, x: Tensor, fast: bool, dead: Tensor) -> None:
    learner.last_on.copy_(torch.where(dead, -(10**9) - 1, learner.last_on))  # keeps these dead throughout
    learner.dead_steps = 10**9 - 1
    learner.step(Batch(x, x), 10**8, fast)


def speed() -> None:
    x = activations(B)
    rows, seconds_all = [], {}
    for share, name in ((0.0, "AuxK inactive"), (0.1, "AuxK active, 10 % dead")):
        dead = dead_mask(share)
        dense_learner, exact, fast = dense(x), sparse(x), sparse(x)
        seconds = interleaved(
            {
                "dense fp32": lambda d=dead, r=dense_learner: r.step(x, d),
                "sparse fp32": lambda d=dead, r=exact: step(r, x, False, d),
                "sparse bf16": lambda d=dead, r=fast: step(r, x, True, d),
            },
            inner=2,
        )
        seconds_all[name] = seconds
        for way in seconds:
            times = ratio(seconds, "dense fp32", way)
            rows.append({"step": f"{way}, {name}", "tokens/s": B / median(seconds[way]),
                         "times faster": times["median"], "low": times["low"], "high": times["high"]})  # fmt: skip
    title = "Training step, TopK, d_in 256, d_sae 8192, k 32, batch 4096"
    report("training_speed", title, rows, "times faster", {"seconds": seconds_all})


def quality(steps: int = 150) -> None:
    """Do the fast modes learn the same? Held-out FVU after the same steps on the same batches."""
    x = activations((steps + 4) * B)
    held_out, train = x[-4 * B :], x[: steps * B].split(B)
    nothing = dead_mask(0.0)
    reference = dense(x)
    learners = {"sparse fp32": sparse(x), "sparse bf16": sparse(x)}
    for batch in train:
        reference.step(batch, nothing)
        for name, learner in learners.items():
            step(learner, batch, name.endswith("bf16"), nothing)
    c = reference.coder
    with torch.no_grad():
        scores = {"dense fp32": _fvu(held_out, c.codes((held_out - c.b_pre) @ c.W_enc + c.b_enc) @ c.W_dec + c.b_dec)}
        for name, learner in learners.items():
            scores[name] = _fvu(held_out, learner.coder.eval()(held_out)[0])
    rows = [
        {"mode": name, "held-out FVU": v, "relative to dense": v / scores["dense fp32"] - 1}
        for name, v in scores.items()
    ]
    report("training_quality", f"Held-out FVU after {steps} steps of 4096 tokens", rows, "held-out FVU")


def _fvu(x: Tensor, y_hat: Tensor) -> float:
    return ((x - y_hat).square().sum() / (x - x.mean(0)).square().sum()).item()


# What takes one matrix of inputs a step; where a penalty makes the codes, past the first, crowded steps of a run.
ONE_SITE = (
    "topk", "batch_topk", "mutual_choice", "feature_choice", "switch", "matryoshka", "specialized", "feature_aligned",
    "meta_sae", "transcoder", "skip_transcoder", "jumprelu", "relu", "gated", "prolu", "p_anneal",
)  # fmt: skip
BY_PENALTY = ("jumprelu", "relu", "gated", "prolu", "p_anneal")


def learners_of(name: str, x: Tensor) -> list[Learner]:
    """The learners of a preset at L0 32; `feature_aligned` has two, the others one."""
    torch.manual_seed(0)
    options = {} if name in BY_PENALTY else {"k": K}
    made = [one if isinstance(one, list) else [one] for one in getattr(presets, name)(D, F, **options)]
    learners = [Learner(c, o, steps=10**9, lr=LR, dead_after=1.0) for c, o in zip(*made, strict=True)]
    for learner in learners:
        learner.begin(Batch(x, x))
        learner.every = 10**9
        learner.peers = tuple(other.coder for other in learners if other is not learner)
        if name in BY_PENALTY:
            sparse_start(learner.coder, x, K)
    return learners


def train_on_noise(name: str) -> None:
    """A few steps of one way, for its peak memory."""
    x, nothing = torch.randn(B, D), dead_mask(0.0)
    if name == "dense topk":
        learner = dense(x)
        for _ in range(3):
            learner.step(x, nothing)
    else:
        learners = learners_of(name, x)
        for _ in range(3):
            all_step(learners, x)


def all_step(learners: list[Learner], x: Tensor) -> None:
    for learner in learners:
        step(learner, x, True, dead_mask(0.0))


def per_preset() -> None:
    x = activations(B)
    base, ways = dense(x), {}
    for name in ONE_SITE:
        learners = learners_of(name, x)
        for learner in learners:
            learner.lr = 0.0  # every repeat then times the same state
        ways[name] = lambda learners=learners: all_step(learners, x)
    ways["dense topk"] = lambda: base.step(x, dead_mask(0.0))
    seconds = interleaved(ways)
    rows = [
        {"preset": name, "tokens/s": B / median(taken), "peak MB": peak_mb(train_on_noise, name),
         "times dense topk": ratio(seconds, "dense topk", name)["median"]}
        for name, taken in seconds.items()
    ]  # fmt: skip
    title = "Training per preset at L0 32, bf16 selection, d_in 256, d_sae 8192, batch 4096"
    report("training_presets", title, rows, "tokens/s")


def main() -> None:
    speed()
    quality()
    per_preset()


if __name__ == "__main__":
    main()
