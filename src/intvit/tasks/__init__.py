"""What a task adds to a model of images, in one place each: classification, segmentation, the next one.

`task` says what every task has; a task is a folder beside it, listed here. `loss`, `confusion` and `config` are shared.
The head's float and integer function is a layer of `intvit.quant.layers`, the labels are read by `intvit.data`.
"""

from __future__ import annotations

from intvit.errors import IntVitError
from intvit.program import Program
from intvit.tasks.classification import CLASSIFICATION
from intvit.tasks.segmentation import SEGMENTATION
from intvit.tasks.task import Task

__all__ = ["TASKS", "Task", "task_named", "task_of"]

TASKS: dict[str, Task] = {task.name: task for task in (CLASSIFICATION, SEGMENTATION)}


def task_named(name: str) -> Task:
    """The task of that name. Raises IntVitError where there is none."""
    if name not in TASKS:
        raise IntVitError(f"task.name={name}: unknown, expected one of {', '.join(TASKS)}")
    return TASKS[name]


def task_of(program: Program) -> Task:
    """The task of a program, by the form of its output."""
    return CLASSIFICATION if program.form == "scores" else SEGMENTATION
