"""Benchmarks: one file per question. `python -m bench.throughput`, ...; `make bench` runs a bounded selection. See README.md."""
