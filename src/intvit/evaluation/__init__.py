"""Evaluation: accuracy of every execution of a model, and the count of images whose integer scores differ.

`config` and `evaluated` say what is evaluated, `exported` makes it of a run, `engine` counts, `differences` finds the
operator, `report` prints and writes, `compare` does all three; `entry` is what evaluate.py calls. `check` goes without
a data set.
No Lightning here; timm only where a run's own data or class names need it.
"""
