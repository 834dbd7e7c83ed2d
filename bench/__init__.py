"""Benchmarks: our time beside the best of the other side, on the same work in the same run."""
