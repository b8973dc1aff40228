"""Is it any good? Each is `f(model, coder, ...) -> dict` of floats, with `n` and, where it samples, intervals."""

from .fidelity import fidelity as fidelity
