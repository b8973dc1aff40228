"""Attribution, each way against the one-at-a-time way that others take, in one run: gradients of six coders in one pass
against a pass for each; integrated gradients in one batch against ten passes of a left Riemann sum (the default of the
code of Marks et al. 2024), with how far each misses the true change; exact ablations in batches against one by one."""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch

import saekit as sk
from bench.measure import interleaved, ratio, report
from saekit import steer
from saekit.hooks import nudged

SITES = ("resid.0", "resid.1", "resid.2", "resid.3", "attn.2", "mlp.2")
CODER, LATE = "resid.1", "mlp.2"
PROMPT = "def area(width, height):\n    return width * height\n\ndef volume("
NODES, BATCH, STEPS = 96, 32, 10


def main() -> None:
    model, coders = sk.load_model(), {name: sk.load(f"tiny-python/{name}/batch_topk") for name in SITES}
    tokens = model.to_tokens(PROMPT, prepend_bos=True)[:, :24]
    logits = sk.capture(model, tokens, "unembed.hook_out")["unembed.hook_out"][0, -1]
    target = sk.logit_diff(*logits.topk(2).indices.tolist())
    rows = [
        gradients(model, [*coders.values()], tokens, target),
        integrated(model, coders[CODER], tokens, target),
        integrated(model, coders[LATE], tokens, target),
        ablated(model, coders[CODER], tokens, target),
    ]
    report("attribute", f"Attribution on tiny-python, {tokens.shape[1]} tokens", rows, "times faster")


def row(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], **more: Any) -> dict[str, Any]:
    seconds = interleaved({"ours": ours, "one by one": theirs})
    times = ratio(seconds, "one by one", "ours")
    return {
        "what": name, "times faster": times["median"], "low": times["low"], "high": times["high"],
        "ms": 1e3 * median(seconds["ours"]), "ms one by one": 1e3 * median(seconds["one by one"]),
        "misses": more.get("misses", 0.0), "misses one by one": more.get("left", 0.0),
    }  # fmt: skip


def gradients(model: Any, coders: list, tokens: torch.Tensor, target: sk.Target) -> dict[str, Any]:
    def apart() -> None:
        for coder in coders:
            with sk.splice(model, coder, leaf=True) as passes:
                seen = sk.capture(model, tokens, target.read, grad=True)
            leaves = [passes[0].codes[0].values, *passes[0].errors.values()]
            torch.autograd.grad(target(seen[target.read]).sum(), leaves)

    return row(f"gradients, {len(coders)} coders", lambda: sk.attribute(model, coders, tokens, target), apart)


def integrated(model: Any, coder: Any, tokens: torch.Tensor, target: sk.Target) -> dict[str, Any]:
    x = sk.capture(model, tokens, coder.site)[coder.site.read]
    way = (coder.b_dec - x) * (tokens != tokens[0, 0])[..., None]

    def left() -> float:
        total = 0.0
        for step in range(STEPS):
            change = (step / STEPS * way).requires_grad_()
            with nudged(model, {coder.site.read: change}):
                m = target(sk.capture(model, tokens, target.read, grad=True)[target.read]).sum()
            total += (torch.autograd.grad(m, change)[0] * way).sum().item() / STEPS
        return total

    found = sk.integrated_gradients(model, coder, tokens, target).attrs["sites"][coder.site.name]
    change = found["change"]
    return row(
        f"integrated gradients at {coder.site.name}, order {found['order']} against {STEPS} steps",
        lambda: sk.integrated_gradients(model, coder, tokens, target),
        left, misses=found["residual"], left=abs(left() - change) / abs(change),
    )  # fmt: skip


def ablated(model: Any, coder: Any, tokens: torch.Tensor, target: sk.Target) -> dict[str, Any]:
    table = sk.attribute(model, coder, tokens, target)
    nodes, positions = table[table["kind"] == "latent"].head(NODES), torch.arange(tokens.shape[1])
    assert len(nodes) == NODES

    @torch.no_grad()
    def loop() -> None:
        for pos, latent in zip(nodes["pos"], nodes["latent"], strict=True):
            with sk.splice(model, coder, edit=steer.ablate(latent), where=(positions == pos)[None]):
                target(sk.capture(model, tokens, target.read)[target.read])

    ours = lambda: sk.ablations(model, coder, tokens, target, nodes=nodes, batch=BATCH)  # noqa: E731
    return row(f"exact ablations of {NODES} nodes", ours, loop)
