"""What the training monitor looks at: held-out rows under the coder as it is, and what is known to be true of them."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import Activations
from ..activations.stream import FORWARD_WINDOWS
from ..corpus import pieces
from ..evals.recovery import FOUND, cosine
from ..hooks import capture
from ..toy import Superposition
from ..train import Moment
from ..viz.monitor import BINS

PROBE_WINDOWS, PROBE_ROWS = 24, 4_096
LABELS = ("docstring", "comment", "string", "bracket", "keyword", "import line")


class Probe:
    """Rows of any source: how often each latent is on, and how long it is."""

    unit, seen = "row", "rows"

    def __init__(self, acts: Any) -> None:
        self.acts = acts
        self._x: Tensor | None = None
        self._spectrum: np.ndarray | None = None

    def rows(self) -> Float[Tensor, "rows d_in"]:
        """Rows that the stream never serves, where the source holds any back; read once."""
        if self._x is None:
            self._x = self.read()
        return self._x

    def read(self) -> Float[Tensor, "rows d_in"]:
        return self.acts.held_out(PROBE_ROWS).x

    def pca(self, axes: float | None) -> float | None:
        """FVU of a PCA with as many axes as a row has latents on: the control of the first figure.

        None where there are not as many axes, and for a coder that does not rebuild what it reads.
        """
        x, site = self.rows(), self.acts.site
        if axes is None or not 1 <= axes < min(x.shape) or (site and site.reads != site.writes):
            return None
        if self._spectrum is None:
            self._spectrum = torch.linalg.eigvalsh(torch.cov(x.T.double())).flip(0).numpy()
        return float(self._spectrum[int(axes) :].sum() / self._spectrum.sum())

    @torch.no_grad()
    def __call__(self, moment: Moment) -> dict[str, Any]:
        x, coder = self.rows(), moment.coder
        codes = coder.encode(x * moment.scale.x).on()
        density = codes.counts().numpy() / len(x)
        alive = density[density > 0]
        bins, _ = np.histogram(np.log10(alive), BINS, (-5, 0))
        norms = torch.quantile(coder.norms(), torch.tensor([0.1, 0.5, 0.9])).tolist()
        return {
            "step": moment.step, "tokens": moment.row["tokens"], "dead": moment.row["dead"], "rows": len(x),
            "density_bins": bins.tolist(), "silent": int((density == 0).sum()), "norms": norms,
            "density_range": np.quantile(alive, [0.1, 0.9]).tolist() if len(alive) else (0.0, 0.0),
        } | self.judge(coder, codes)  # fmt: skip

    def judge(self, coder: Any, codes: Any) -> dict[str, Any]:
        """What can be said against the truth; for a source of nothing but rows, nothing."""
        return {}


class ToyProbe(Probe):
    """A toy's rows, and its true dictionary."""

    seen = "held-out rows"

    def judge(self, coder: Any, codes: Any) -> dict[str, Any]:
        best = cosine(coder, self.acts).max(1).values
        return {
            "cosines": torch.quantile(best, torch.tensor([0.1, 0.5, 0.9])).tolist(),
            "found": int((best > FOUND).sum()), "n_features": len(best), "bar": FOUND,
        }  # fmt: skip


class TextProbe(Probe):
    """Activations on a few windows of text, and the labels of its tokens."""

    unit, seen = "token", "held-out tokens"

    def read(self) -> Float[Tensor, "rows d_in"]:
        self.corpus = self.acts.corpus[np.sort(self.acts.held_out_windows[:PROBE_WINDOWS])]
        starts = range(0, len(self.corpus), FORWARD_WINDOWS)
        return torch.cat([self._activations(self.corpus[i : i + FORWARD_WINDOWS]) for i in starts])

    @torch.no_grad()
    def _activations(self, part: Any) -> Float[Tensor, "rows d_in"]:
        seen = capture(self.acts.model, part.tokens, self.acts.site)
        return self.acts.site.inputs(seen)[torch.from_numpy(part.mask)].float()

    def judge(self, coder: Any, codes: Any) -> dict[str, Any]:
        """The best F1 of any latent for each label, and the latent that is best of all."""
        corpus = self.corpus
        scored = corpus.scored[corpus.mask]
        truths = {name: corpus.labels[name][corpus.mask] & scored for name in LABELS if name in corpus.labels}
        truths = {name: truth for name, truth in truths.items() if truth.sum() >= 20}
        rows, latents = codes.rows.numpy(), codes.latents.numpy()
        on = np.bincount(latents[scored[rows]], minlength=codes.d_sae)
        best: dict[str, tuple[float, int, float]] = {}
        for name, truth in truths.items():
            hits = np.bincount(latents[truth[rows]], minlength=codes.d_sae)
            f1 = 2 * hits / np.maximum(on + truth.sum(), 1)
            base = truth.sum() / scored.sum()
            best[name] = float(f1.max()), int(f1.argmax()), 2 * base / (1 + base)
        if not best:
            return {}
        # The label furthest above a detector that always fires; token-identity labels are no evidence.
        label = max((n for n in best if n not in corpus.identity_labels), key=lambda n: best[n][0] - best[n][2])
        f1, latent, always = best[label]
        shown = {"latent": latent, "label": label, "f1": f1, "always_fire": always}
        return {"f1": {n: found[0] for n, found in best.items()}, "best": shown | self._examples(codes, latent)}

    def _examples(self, codes: Any, latent: int) -> dict[str, Any]:
        """The two strongest places of a latent, in different windows."""
        corpus = self.corpus
        values = np.zeros(corpus.mask.shape, np.float32)
        flat = np.zeros(codes.n_rows, np.float32)
        chosen = (codes.latents == latent).numpy()
        flat[codes.rows.numpy()[chosen]] = codes.values.numpy()[chosen]
        values[corpus.mask] = flat
        examples = []
        for window in np.argsort(-values.max(1))[:2]:
            peak = int(values[window].argmax())
            span = slice(max(corpus.lead, peak - 14), peak + 8)
            tokens = pieces(self.acts.model.tokenizer, corpus.tokens[window, span].tolist())
            examples.append({"tokens": tokens, "values": values[window, span].tolist()})
        return {"examples": examples, "max": float(values.max()) or 1.0}


def probe_of(acts: Any) -> Probe:
    """The probe that knows most about a source."""
    kind = TextProbe if isinstance(acts, Activations) else ToyProbe if isinstance(acts, Superposition) else Probe
    return kind(acts)
