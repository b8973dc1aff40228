"""Where training data come from: the activations of a model on a corpus, or the rows of a matrix."""

from .groups import angular_distances as angular_distances
from .groups import layer_groups as layer_groups
from .models import SideBySide as SideBySide
from .rows import Rows as Rows
from .stream import Activations as Activations
from .stream import Batch as Batch
from .stream import Source as Source
from .stream import Windows as Windows
