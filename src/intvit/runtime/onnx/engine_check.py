"""Whether an ONNX engine gives the program's integers: the file is run in it and compared with the numpy runtime.

Engines: onnxruntime, and openvino (pip install openvino), on the CPU.
"""

from __future__ import annotations

import contextlib
import importlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from intvit.errors import IntVitError
from intvit.program import Program
from intvit.runtime import load_runtime
from intvit.runtime.onnx.model import Form, to_onnx

Outputs = dict[str, np.ndarray]  # by name
Loaded = Callable[[np.ndarray], Outputs]  # of images


@dataclass(frozen=True)
class EngineCheck:
    """engine: with its version. mismatches: images whose scores differ; first: the first operator to differ."""

    engine: str
    images: int
    mismatches: int
    first: str | None


def check_engine(
    program: Program, file: Path, engine: str, images: np.ndarray, *, batch: int | None = None, form: Form | None = None
) -> EngineCheck:
    """Run `file`, which `save_onnx` wrote with this batch and form, in the engine and compare its scores.

    images: uint8 [B, C, H, W]. Where scores differ, a second file with every operator's value as an output is run to
    find the first that does. Raises IntVitError for an engine that is not installed or does not take the file.
    """
    package = _package(engine)
    reference = load_runtime(program, "numpy")
    scores = _outputs(engine, file, images, batch)[program.output]
    differ = (scores != reference(images)).reshape(len(images), -1).any(1)
    first = None
    if differ.any():
        wrong = images[differ][:1]
        with tempfile.TemporaryDirectory() as folder:
            traced = Path(folder) / "every_value.onnx"
            onnx.save_model(to_onnx(program, batch=batch, every_value=True, form=form), traced)
            found = _outputs(engine, traced, wrong, batch)
        outputs = {operator.name: operator.output for operator in program.operators}
        expected = reference.trace(wrong)
        first = next((name for name, value in expected if not np.array_equal(found[outputs[name]], value)), None)
    return EngineCheck(f"{engine} {package.__version__.partition('-')[0]}", len(images), int(differ.sum()), first)


def _package(engine: str) -> Any:
    try:
        return importlib.import_module(engine)
    except ImportError:
        raise IntVitError(f"the package {engine} is not installed: pip install {engine}") from None


def _outputs(engine: str, file: Path, images: np.ndarray, batch: int | None) -> Outputs:
    """Of all images, as many at a time as the file takes; the last ones are filled up with copies."""
    size, parts = batch or len(images), []
    with _refusals(engine, file):
        run = ENGINES[engine](file)
        for start in range(0, len(images), size):
            part = images[start : start + size]
            filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            parts.append({name: value[: len(part)] for name, value in run(filled).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@contextlib.contextmanager
def _refusals(engine: str, file: Path) -> Iterator[None]:
    """An engine's exception as one line."""
    try:
        yield
    except Exception as error:  # engines raise types of their own, and RuntimeError
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "No conversion rule" in line), lines[-1] if lines else "")
        raise IntVitError(
            f"{engine} does not take {file} ({reason[:200]}); try --inline, or another --opset"
        ) from error


def _onnxruntime(file: Path) -> Loaded:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (image,), names = session.get_inputs(), [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {image.name: images}), strict=True))


def _openvino(file: Path) -> Loaded:
    import openvino

    # Its default on newer processors is bfloat16, in which no product of 8-bit integers is exact.
    compiled = openvino.Core().compile_model(file, "CPU", {"EXECUTION_MODE_HINT": "ACCURACY"})

    def run(images: np.ndarray) -> Outputs:
        results = compiled(images)
        return {name: results[port] for port in compiled.outputs for name in port.get_names()}

    return run


ENGINES: dict[str, Callable[[Path], Loaded]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
