"""Ratios that the package promises, measured in one run: `python -m benchmarks`."""
