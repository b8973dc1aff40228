"""`random_twin`: a model that learned nothing, the control for every claim about what a coder found in one that did."""

import copy
from typing import Any

import numpy as np
import torch


@torch.no_grad()
def random_twin(model: Any, seed: int = 0) -> Any:
    """A copy of the model in which the entries of every weight tensor, embeddings too, change places at random.

    Each tensor keeps its values, so activations keep about their size, and no tensor keeps what it had learned: one of
    the controls of Heap et al. 2025 (arXiv 2501.17727). The order comes from NumPy's generator, so the same seed gives
    the same twin on every machine. The model itself is left as it is; the copy is called `<name>-random`.
    """
    twin = copy.deepcopy(model, _left_over(model))
    for number, (_, tensor) in enumerate(sorted(twin.state_dict().items())):
        order = torch.from_numpy(np.random.default_rng([seed, number]).permutation(tensor.numel()))
        tensor.copy_(tensor.flatten()[order.to(tensor.device)].view_as(tensor))
    twin.cfg.model_name = f"{model.cfg.model_name}-random" + (f"-{seed}" if seed else "")
    return twin


def _left_over(model: Any) -> dict[int, torch.Tensor]:
    """What a pass with gradient left in the modules, such as attention patterns: it is not copied, and it cannot be."""
    held = [value for module in model.modules() for value in vars(module).values()]
    return {id(x): x.detach() for x in held if isinstance(x, torch.Tensor) and not x.is_leaf}
