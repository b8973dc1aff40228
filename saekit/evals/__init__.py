"""Is it any good? Each is `f(model, coder, ...) -> dict` of floats, with `n` and, where it samples, intervals."""

from .fidelity import fidelity as fidelity
from .recovery import planted_absorption as planted_absorption
from .recovery import recovery as recovery
