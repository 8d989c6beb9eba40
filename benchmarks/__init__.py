"""Benchmarks against the baselines: same problems, same process, interleaved."""
