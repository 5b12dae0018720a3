"""A trained run as something to evaluate: rebuild the model, record and save its program, load that back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intvit import __version__
from intvit.config.identity import DATA_NOT_IDENTITY, identity_hash
from intvit.config.run_files import read_config
from intvit.data.classes import class_names
from intvit.errors import IntVitError
from intvit.evaluation.config import EVALUATION, EvaluateConfig
from intvit.evaluation.evaluated import EvaluatedProgram, choose_data, writable
from intvit.evaluation.executors import dense_executor, float_executor, integer_executor
from intvit.export.record import record
from intvit.program import load_checkpoint, save_checkpoint
from intvit.quant import set_mode, trace
from intvit.tasks import task_named
from intvit.training.restore import restore_run


def exported_run(config: EvaluateConfig, device: torch.device) -> EvaluatedProgram:
    """Export the run `config.ckpt` and return it with float and QAT executors of its model on `device`.

    Raises IntVitError for a run without ranges, and whatever recording and saving refuse; nothing is written then.
    """
    folder, trained, model, teacher, state = restore_run(str(config.ckpt), config.which)
    if not trained.quant.enabled:
        raise IntVitError(
            f"{folder} is a float run (quant={trained.quant.name}): nothing to export; train with quant=ivit8"
        )
    if not state["calibrated"]:
        raise IntVitError(f"{folder} has no ranges yet (it stopped before calibration): go on with ckpt=last")
    print(f"{folder}: {state['file']}, step {state['step']}", flush=True)
    target = Path(config.export.folder or Path(config.evaluation.out or folder) / "integer")
    out = writable(Path(config.evaluation.out or target.parent))
    set_mode(model, "integer")
    # An older checkpoint does not name its classes; where the shards lie now, their index does.
    root = config.data.get("root") or trained.data.root
    classes = state.get("classes") or class_names(replace(trained.data, root=root))
    program = record(model, classes, _provenance(folder, state))
    data = choose_data(read_config(folder)["data"], config.data, program)
    save_checkpoint(program, target)
    evaluated = EvaluatedProgram(load_checkpoint(target), target, data, out / EVALUATION)
    model.to(device)
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    evaluated.sizes.update(float=parameters, qat=parameters)
    evaluated.executors["float"] = float_executor(model)
    evaluated.executors["qat"] = integer_executor(model)
    if evaluated.task.dense:
        evaluated.dense["qat"] = dense_executor(model)
    if evaluated.task.compares_float:
        evaluated.agreement_with = "float"
    if teacher is not None:
        evaluated.executors["teacher"] = float_executor(teacher.to(device))
        evaluated.agreement_with = "teacher"

    def trace_model(images: np.ndarray) -> list[tuple[str, np.ndarray]]:
        set_mode(model, "integer")
        return list(trace(model, torch.from_numpy(images).to(device)).items())

    evaluated.traces["qat"] = trace_model
    return evaluated


def _provenance(folder: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """Where the program comes from: config without local folders, experiment, commit, measured accuracy."""
    values = read_config(folder)
    experiment = identity_hash(values)
    data = {key: value for key, value in values["data"].items() if key not in DATA_NOT_IDENTITY}
    for part in (values["model"], values["schedule"]["loss"]["distillation"]):
        part["weights"] = part["weights"] and Path(part["weights"]).name
    summary = json.loads(path.read_text()) if (path := folder / "summary.json").is_file() else {}
    measured = {mode: summary.get(mode) for mode in ("float", "integer")}
    if summary.get("steps", state["step"]) != state["step"]:  # of another moment of the run
        here = [entry for entry in state["history"] if entry["step"] == state["step"]]
        figures = (*task_named(values["task"]["name"]).figures, "agreement")
        measured = {entry["mode"]: {key: entry[key] for key in figures if key in entry} for entry in here}
    return {
        "intvit": __version__,
        "experiment": experiment,
        "commit": summary.get("commit"),
        "config": {key: values[key] for key in ("model", "quant", "schedule", "optimizer", "seed")} | {"data": data},
        "measured": measured,
        **({"weights": weights} if (weights := summary.get("weights")) else {}),
    }
