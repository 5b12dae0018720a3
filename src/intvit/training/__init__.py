"""Training: typed config, schedule of phases, losses, the Lightning module with its callbacks, and the entry point.

Importing this package imports no Lightning; `intvit.training.entry` does.
"""
