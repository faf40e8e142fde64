"""Benchmarks: what `make bench` runs. `python -m tests.bench --help` tells the rest."""
