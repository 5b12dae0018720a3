"""`evaluate(config)`: export a trained run and prove it on every image, or evaluate an exported checkpoint alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig

from intvit.config.identity import plain
from intvit.config.values import build
from intvit.errors import IntVitError
from intvit.evaluation.compare import compare
from intvit.evaluation.config import EvaluateConfig
from intvit.evaluation.evaluated import exported_checkpoint
from intvit.evaluation.executors import traced_scores
from intvit.evaluation.report import weight_bytes
from intvit.runtime import load_runtime


def evaluate(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate as `config` (composed from conf/evaluate.yaml) says; returns what evaluation.json holds.

    Raises MismatchError, after the table and the file are out, when an integer differs anywhere.
    """
    typed = build(EvaluateConfig, plain(config))
    if (typed.ckpt is None) == (typed.integer is None):
        raise IntVitError(
            "give ckpt=RUN_FOLDER (train.py prints it) to export and check a run, or integer=FOLDER for a checkpoint "
            "exported before"
        )
    device = _device(typed.device)
    if typed.integer is not None:
        evaluated = exported_checkpoint(typed)
    else:
        from intvit.evaluation.exported import exported_run

        evaluated = exported_run(typed, device)
    if typed.export.onnx:
        from intvit.runtime.onnx import save_onnx

        save_onnx(evaluated.program, evaluated.figures.with_name(f"{evaluated.folder.resolve().name}.onnx"))
    for name in typed.runtimes:
        runtime = load_runtime(evaluated.program, name)
        if isinstance(runtime, torch.nn.Module):
            runtime.to(device)
        evaluated.executors[name], evaluated.traces[name] = runtime, runtime.trace
        evaluated.sizes[name] = weight_bytes(evaluated.folder)
        if evaluated.task.dense:
            evaluated.dense[name] = traced_scores(evaluated.program, runtime)
    return compare(evaluated, typed)


def _device(name: str) -> torch.device:
    """`auto`, or a device that holds a number here."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise IntVitError(f"device={name}: not a device of this machine; expected auto, cpu or cuda") from error
    return device
