"""Circuits: attribution graphs with transcoders, and sparse feature circuits."""

from .curve import faithfulness as faithfulness
from .faithful import means as means
from .formats import read as read
from .graph import Graph as Graph
from .intervene import Outcome as Outcome
from .keep import averages as averages
from .keep import only as only
from .keep import swapped as swapped
from .keep import swaps as swaps
from .sparse import FeatureCircuit as FeatureCircuit
from .sparse import feature_circuit as feature_circuit
from .supernodes import between as between
from .supernodes import suggest as suggest
from .trace import trace as trace
