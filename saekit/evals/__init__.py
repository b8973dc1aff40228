"""Is it any good? Each is `f(model, coder, ...) -> dict` of floats, with `n` and, where it samples, intervals."""

from .doctor import Diagnosis as Diagnosis
from .doctor import doctor as doctor
from .fidelity import fidelities as fidelities
from .fidelity import fidelity as fidelity
from .frontier import frontier as frontier
from .frontier import point as point
from .recovery import planted_absorption as planted_absorption
from .recovery import recovery as recovery
from .sites import relative_norms as relative_norms
from .splitting import prefix_fvu as prefix_fvu
from .splitting import relatives as relatives
from .twin import random_twin as random_twin
