"""Benchmarks against the rivals: same problems, same process, interleaved."""
