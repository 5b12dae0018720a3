"""Benchmarks: training step, data, runtime, presets, each beside its peers. Measurements alone."""
