"""Training: one loop for every variant."""

from .learner import Learner as Learner
from .learner import geometric_median as geometric_median
from .loop import Moment as Moment
from .loop import Run as Run
from .loop import train as train
