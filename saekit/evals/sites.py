"""Where the latents of a crosscoder live."""

from jaxtyping import Float
from torch import Tensor

from ..activations import Source
from ..coder import SparseCoder


def relative_norms(coder: SparseCoder, acts: Source, *, rows: int = 4_096) -> Float[Tensor, "d_sae sites"]:
    """`n^l / sum_m n^m`, `n^l = |W_dec,i^l| / mean |y^l|`: the share of a latent's decoder at each site.

    Of two sites or models a latent is shared where this is near 1/2, and of one alone where it is near 0 and 1
    (Lindsey et al. 2024). `acts`: the source it was trained on, whose mean norms bring the sites to one scale; without
    them the site with longer activations would win everywhere. A latent that writes nothing has an equal share.

    Raises ValueError for a coder of one site, and a source of another width.
    """
    if coder.n_sites < 2:
        raise ValueError("this coder has one site, so there is nothing to compare; crosscoders have several")
    if acts.d_out != coder.d_out:
        raise ValueError(f"the coder writes width {coder.d_out}, but these activations have width {acts.d_out}")
    scale = acts.held_out(rows).y.unflatten(1, (coder.n_sites, -1)).norm(dim=2).mean(0)
    norms = coder.dictionary().detach().unflatten(1, (coder.n_sites, -1)).norm(dim=2) / scale
    return (norms + 1e-12) / (norms + 1e-12).sum(1, keepdim=True)
