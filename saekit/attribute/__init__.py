"""Attribution: which latents, heads and layers a number rests on. Estimates, exact effects, and sums that add up."""

from .ablation import ablations as ablations
from .direct import direct as direct
from .direct import ov as ov
from .direct import qk as qk
from .gradients import attribute as attribute
from .gradients import integrated_gradients as integrated_gradients
from .patching import patching as patching
from .patterns import patterns as patterns
from .targets import Target as Target
from .targets import logit as logit
from .targets import logit_diff as logit_diff
from .targets import pre_activation as pre_activation
