"""Benchmarks: whole processes on one machine, ratios measured side by side in one run."""
