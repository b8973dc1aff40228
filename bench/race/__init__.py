"""Contestants of the benchmarks against other tools: one process each, so that each has its own environment."""
