"""Benchmarks. `make bench` writes a table and a picture of each to bench/results/."""
