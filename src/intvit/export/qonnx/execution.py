"""A written model run by qonnx, node by node, and compared with the numpy runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx

from intvit.export.qonnx.model import IR_VERSION
from intvit.program import Program
from intvit.runtime import load_runtime


def first_differences(program: Program, file: Path, images: np.ndarray) -> list[str | None]:
    """Runs `file`, which `save_qonnx` wrote; for each image the first operator whose integers differ, None if none do.

    images: uint8 [B, C, H, W].
    """
    model, reference, found = ModelWrapper(str(file)), load_runtime(program, "numpy"), []
    for image in images:
        values = execute(model, {program.input: image[None].astype(np.float32)})
        trace = reference.trace(image[None])
        found.append(next((name for name, value in trace if not np.array_equal(values[name], value)), None))
    return found


def execute(model: ModelWrapper, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """qonnx's `execute_onnx`; every value of the graph by name.

    qonnx wraps each standard node in a model of onnx's newest IR version, for which the onnxruntime that is installed
    may be too old: here they have the version of our files.
    """
    newest = onnx.IR_VERSION
    onnx.IR_VERSION = IR_VERSION  # type: ignore[assignment]  # an enum of ints
    try:
        values: dict[str, np.ndarray] = execute_onnx(model, inputs, return_full_exec_context=True)
    finally:
        onnx.IR_VERSION = newest
    return values
