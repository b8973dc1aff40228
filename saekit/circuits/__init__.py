"""Circuits: attribution graphs with transcoders, and sparse feature circuits."""

from .faithful import means as means
from .formats import read as read
from .graph import Graph as Graph
from .intervene import Outcome as Outcome
from .supernodes import between as between
from .supernodes import suggest as suggest
from .trace import trace as trace
