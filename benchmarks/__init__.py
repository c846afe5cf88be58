"""Timing claims, one script each; run from the repository's root with ``python -m benchmarks.NAME``."""
