"""Is it any good? Each evaluation is `f(model, coder, ...) -> dict` of floats, with `n`, and intervals where it samples."""

from .fidelity import fidelity as fidelity
