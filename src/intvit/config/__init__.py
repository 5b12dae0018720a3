"""Configs: where presets are, typed values, identity of a run, launch environment, the Hydra application."""
