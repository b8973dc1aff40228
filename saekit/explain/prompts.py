"""A latent on token ids of one's own."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor

from ..features import Features
from ..hooks import capture, rerun

EMBEDDED = "embed.hook_out"
AT_ONCE = 4096  # tokens in one forward pass


def before(features: Features, window: int, pos: int) -> Int64[np.ndarray, " n"]:
    """The ids from the first of a window's text to the one at `pos`, without BOS."""
    return features.corpus.tokens[window, features.corpus.lead : pos + 1].numpy()


def prompts(features: Features, texts: list[Int[np.ndarray, " _"]]) -> Int64[np.ndarray, "batch pos"]:
    """Ids as prompts: BOS first where the corpus has one, padded on the right with what they begin with."""
    lead = features.corpus.tokens[0, : features.corpus.lead].numpy()
    out = np.empty((len(texts), len(lead) + max(map(len, texts))), np.int64)
    for row, ids in zip(out, texts, strict=True):
        row[:] = ids[0]  # what comes later changes nothing before it
        row[: len(lead) + len(ids)] = np.concatenate([lead, ids])
    return out


@torch.no_grad()
def values_on(
    features: Features,
    latent: int,
    ids: Int[np.ndarray, "batch pos"],
    replaced: Bool[np.ndarray, "batch pos"] | None = None,
) -> Float32[np.ndarray, "batch pos"]:
    """A latent's activations on prompts; where `replaced` holds, the token's embedding is the mean one."""
    rows, found = max(1, AT_ONCE // ids.shape[1]), []
    for i in range(0, len(ids), rows):
        part = torch.from_numpy(ids[i : i + rows])
        if replaced is None:
            seen = capture(features.model, part, *features.coder.site.reads)
        else:
            mean = mean_embedding(features).expand(*part.shape, -1)
            where = torch.from_numpy(replaced[i : i + rows])
            _, seen = rerun(features.model, part, {EMBEDDED: mean}, where, features.coder.site.reads)
        found.append(_of_latent(features, latent, features.coder.site.inputs(seen)))
    return np.concatenate(found)


def mean_embedding(features: Features, windows: int = 8) -> Float[Tensor, " d_model"]:
    """The mean embedding of the tokens of a few windows."""
    part = features.corpus[:windows]
    return capture(features.model, part.tokens, EMBEDDED)[EMBEDDED][torch.from_numpy(part.mask)].mean(0)


def _of_latent(features: Features, latent: int, x: Float[Tensor, "batch pos d_in"]) -> Float32[np.ndarray, "batch pos"]:
    codes = features.coder.encode(x.to(features.coder.W_enc))
    mine = codes.latents == latent
    values = torch.zeros(codes.n_rows).index_put((codes.rows[mine].cpu(),), codes.values[mine].float().cpu())
    return values.view(x.shape[:2]).numpy()
