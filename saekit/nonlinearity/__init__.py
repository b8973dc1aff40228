"""What makes a code sparse: from pre-activations to the entries that are on, and how strongly.

A nonlinearity does two things. `support(pre)` looks at the dense pre-activations, without gradient, and names the
entries that any gradient will touch. `forward(a, support)` turns the pre-activations at those entries, with gradient,
into `Codes`. In training mode a selection may look at the whole batch; in eval mode a row never depends on the others.

What else one may have, where it applies: `constrain()` after a step, `calibrate(pre)` and `rescale(factor)` when
training ends, `reset(latents)` when latents start again. `Routed` looks at the input first, with `route(x)`.
"""

from .jump import JumpReLU as JumpReLU
from .rectified import Gated as Gated
from .rectified import ProLU as ProLU
from .rectified import ReLU as ReLU
from .routed import Route as Route
from .routed import Routed as Routed
from .select import largest_of_batch as largest_of_batch
from .select import largest_per_latent as largest_per_latent
from .select import largest_per_row as largest_per_row
from .select import threshold_for as threshold_for
from .topk import TopK as TopK
