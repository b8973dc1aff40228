"""Circuits: attribution graphs with transcoders, and sparse feature circuits."""

from .graph import Graph as Graph
from .trace import trace as trace
