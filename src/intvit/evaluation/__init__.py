"""Evaluation: accuracy of every execution of a model, and the count of images whose integer scores differ.

`engine` counts, `differences` finds the operator, `report` prints and writes, `entry` is what evaluate.py calls.
No Lightning here; timm only where a run's own data or class names need it.
"""
