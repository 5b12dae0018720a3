"""Adaptive sweeps: Optuna proposes, each trial is a run of train.py in a process or SLURM job of its own.

Grids need none of this: `python train.py -m KEY=A,B ...` is Hydra's.
"""
