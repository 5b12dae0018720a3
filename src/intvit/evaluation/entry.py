"""`evaluate(config)`: export a trained run and prove it on every image, or evaluate an exported checkpoint alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from intvit.configuration import build, plain
from intvit.data.config import DataConfig
from intvit.data.loading import validation_loader
from intvit.errors import IntVitError
from intvit.evaluation.differences import Trace, first_difference
from intvit.evaluation.engine import Executor, Tally, tally
from intvit.evaluation.report import figures, print_table, weight_bytes
from intvit.files import write_json
from intvit.program import Program, load_checkpoint
from intvit.runtime import load_runtime

EVALUATION = "evaluation.json"


class MismatchError(IntVitError):
    """A runtime's scores differ from the model's: the contract is broken."""


@dataclass(frozen=True)
class ExportConfig:
    """Where the integer checkpoint goes; null: `integer` in the run folder. onnx: an ONNX file beside it, too."""

    folder: str | None = None
    onnx: bool = False


@dataclass(frozen=True)
class EvaluateConfig:
    """The whole of a composed evaluate.yaml. data: a chosen preset, or values that replace the run's own."""

    ckpt: str | None = None
    integer: str | None = None
    runtimes: list[str] = field(default_factory=lambda: ["torch", "numpy"])
    limit: int | None = None
    device: str = "auto"
    export: ExportConfig = field(default_factory=ExportConfig)
    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.runtimes:
            raise IntVitError("runtimes=[]: name at least one runtime, such as runtimes=[torch,numpy]")
        if self.limit is not None and self.limit < 1:
            raise IntVitError(f"limit={self.limit}: expected at least 1 image, or null for all")


@dataclass
class Subject:
    """What is evaluated: a program, the executors that it is compared with, and their operator traces."""

    program: Program
    folder: Path
    data: DataConfig
    evaluation: Path
    executors: dict[str, Executor] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    agreement_with: str | None = None


def evaluate(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate as `config` (composed from conf/evaluate.yaml) says; returns what evaluation.json holds.

    Raises MismatchError, after the table and the file are out, when an integer score differs anywhere.
    """
    typed = build(EvaluateConfig, plain(config))
    if (typed.ckpt is None) == (typed.integer is None):
        raise IntVitError(
            "give ckpt=RUN_FOLDER (train.py prints it) to export and check a run, or integer=FOLDER for a checkpoint "
            "exported before"
        )
    device = _device(typed.device)
    if typed.integer is not None:
        subject = _exported(typed)
    else:
        from intvit.evaluation.run import exported_run

        subject = exported_run(typed, device)
    if typed.export.onnx:
        from intvit.onnx import save_onnx

        save_onnx(subject.program, subject.folder.with_name(f"{subject.folder.resolve().name}.onnx"))
    for name in typed.runtimes:
        runtime = load_runtime(subject.program, name)
        if isinstance(runtime, torch.nn.Module):
            runtime.to(device)
        subject.executors[name], subject.traces[name] = runtime, runtime.trace
        subject.sizes[name] = weight_bytes(subject.folder)
    return _compare(subject, typed)


def _device(name: str) -> torch.device:
    """`auto`, or a device that holds a number here."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise IntVitError(f"device={name}: not a device of this machine; expected auto, cpu or cuda") from error
    return device


def _exported(config: EvaluateConfig) -> Subject:
    folder = Path(str(config.integer))
    program = load_checkpoint(folder)
    recorded = program.provenance.get("config", {}).get("data", {})
    data = choose_data(recorded, config.data, program)
    return Subject(program, folder, data, folder.with_name(f"{folder.resolve().name}.{EVALUATION}"))


def choose_data(recorded: Mapping[str, Any], wanted: Mapping[str, Any], program: Program) -> DataConfig:
    """The preset that was chosen, else what the run was trained on with the values that are not null replaced.

    The image size is the program's in any case. Raises IntVitError where the classes do not fit it.
    """
    changes = {key: value for key, value in wanted.items() if value is not None}
    if "name" not in wanted and not recorded:
        raise IntVitError("the checkpoint does not say which data it was trained on: choose with data=NAME")
    values = {**wanted} if "name" in wanted else {**recorded, **changes}
    _, height, _ = program.values[program.input].shape
    values.update(image_size=height, patch_size=None)
    data = build(DataConfig, values, "data")
    classes = program.values[program.output].shape[0]
    if data.num_classes != classes:
        raise IntVitError(
            f"data={data.name} has {data.num_classes} classes, the model {classes}: choose the data it was trained for"
        )
    return data


def _compare(subject: Subject, config: EvaluateConfig) -> dict[str, Any]:
    loader = validation_loader(subject.data)
    runtimes = list(config.runtimes)
    reference = "qat" if "qat" in subject.executors else runtimes[0]
    with _progress() as progress:
        task = progress.add_task("images", total=config.limit or len(loader) * subject.data.eval_batch_size)
        tallies = tally(
            _limited(loader, config.limit),
            subject.executors,
            reference=reference,
            compared=runtimes,
            agreement_with=subject.agreement_with,
            progress=lambda images: progress.advance(task, images),
        )
        progress.update(task, total=tallies[reference].images)
    print_table(tallies, runtimes, subject.sizes, subject.agreement_with)
    values = figures(tallies, runtimes)
    if loader.skipped:
        values["skipped"] = loader.skipped
        print(f"skipped {loader.skipped} bad samples, which no figure counts")
    write_json(subject.evaluation, values)
    print(f"integer checkpoint {subject.folder}, figures in {subject.evaluation}")
    differing = [name for name in runtimes if tallies[name].mismatches]
    if differing:
        raise MismatchError("; ".join(_explain(subject, name, tallies, reference, differing) for name in differing))
    return values


def _explain(subject: Subject, name: str, tallies: Mapping[str, Tally], reference: str, differing: list[str]) -> str:
    """One line on the mismatches of a runtime, naming the first operator that differs.

    A runtime that agrees with the model shows every operator; the model itself shows those that end a layer.
    """
    result = tallies[name]
    assert result.first_mismatch is not None
    index, image = result.first_mismatch
    agreeing = [other for other in tallies if other in subject.traces and other not in (*differing, "qat")]
    against = agreeing[0] if agreeing else reference
    found = first_difference(subject.program, image, subject.traces[name], subject.traces[against])
    where = f"first at operator {found}, against {against}" if found else "no operator differs in the traces"
    return f"runtime {name}: scores differ on {result.mismatches} of {result.images} images (image {index}: {where})"


def _limited(loader: Any, limit: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    seen = 0
    for images, labels in loader:
        rest = len(images) if limit is None else limit - seen
        yield images[:rest].numpy(), labels[:rest].numpy()
        seen += len(images)
        if limit is not None and seen >= limit:
            return


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
