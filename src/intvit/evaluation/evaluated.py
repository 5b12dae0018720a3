"""What is evaluated: a program, the executions that it is compared with, and on which data."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intvit.config.identity import DATA_NOT_IDENTITY, YOUNGER
from intvit.config.presets import preset_values
from intvit.config.values import build
from intvit.data.classes import compare_classes
from intvit.data.config import DataConfig
from intvit.data.source import without_absent_cache
from intvit.errors import IntVitError
from intvit.evaluation.config import EVALUATION, EvaluateConfig
from intvit.evaluation.differences import Trace
from intvit.evaluation.engine import Executor
from intvit.photo_folders import WANTED
from intvit.program import Program, load_checkpoint
from intvit.runtime.images import recorded
from intvit.tasks import Task, task_of


@dataclass
class EvaluatedProgram:
    """A program in its folder, its data, and by name the executors to compare, their operator traces and model bytes.

    figures: the file that the figures go to; agreement_with: the executor whose answers all others are compared with;
    dense: by name, executors of the scores behind a label for each pixel.
    """

    program: Program
    folder: Path
    data: DataConfig
    figures: Path
    executors: dict[str, Executor] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    agreement_with: str | None = None
    dense: dict[str, Executor] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """That of the program."""
        return task_of(self.program)


def exported_checkpoint(config: EvaluateConfig) -> EvaluatedProgram:
    """The checkpoint `config.integer` alone, on the data that its provenance or the config names."""
    folder = Path(str(config.integer))
    figures = writable(Path(config.evaluation.out or folder.parent)) / f"{folder.resolve().name}.{EVALUATION}"
    program = load_checkpoint(folder)
    data = choose_data(recorded(program), config.data, program)
    return EvaluatedProgram(program, folder, data, figures)


def writable(folder: Path) -> Path:
    """The folder, made if it is not there. Raises IntVitError where no file can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise IntVitError(
            f"{folder}: cannot be written ({error.strerror or error}); evaluation.out=DIR puts what is made into DIR"
        ) from None
    return folder


def choose_data(known: Mapping[str, Any], wanted: Mapping[str, Any], program: Program) -> DataConfig:
    """The preset that was chosen, else the data of the run, `known`, with the values of `wanted` that are not null.

    The image size is the program's in any case. Raises IntVitError where labels or classes do not fit it.
    """
    changes = {key: value for key, value in wanted.items() if value is not None}
    if "name" not in wanted and not known:
        raise IntVitError("the checkpoint does not say which data it was trained on: choose with data=NAME")
    # A program does not record what is no part of an experiment: where and how images are read.
    usual = {**preset_values("data", "base")}
    if known.get("labels") == "masks":
        usual |= preset_values("data", "masks")
    reading = {key: usual[key] for key in DATA_NOT_IDENTITY}
    values = {**wanted} if "name" in wanted else {**reading, **YOUNGER["data"], **known, **changes}
    _, height, width = program.values[program.input].shape
    values.update(image_size=[height, width], patch_size=None)
    data = build(DataConfig, values, "data")
    if data.root is None and data.layout == "folder":
        raise IntVitError(f"data={data.name}: data.root is not set; {WANTED}")
    if "cache" not in changes:
        data = without_absent_cache(data)
    needed = task_of(program).labels
    if data.labels != needed:
        raise IntVitError(
            f"data={data.name} has data.labels={data.labels}, the model wants {needed}: choose the data it was trained "
            "for"
        )
    classes = program.num_classes
    if data.num_classes != classes:
        raise IntVitError(
            f"data={data.name} has {data.num_classes} classes, the model {classes}: choose the data it was trained for"
        )
    compare_classes(data, program.classes, "the model")
    return data
