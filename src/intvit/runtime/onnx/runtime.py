"""The onnx runtime: the program as an ONNX model (`to_onnx`), executed by onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from intvit.errors import IntVitError
from intvit.program import Program
from intvit.runtime import check_images, usual_threads
from intvit.runtime.onnx import to_onnx

try:
    import onnxruntime
except ImportError:
    raise IntVitError("the package onnxruntime is not installed: pip install 'intvit[onnx]'") from None


class OnnxRuntime:
    """Runs a checked program on uint8 images; threads as `usual_threads` says."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._session = _session(program, every_value=False)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [B, C, H, W] -> the program's output, int32. Raises ProgramError for other images."""
        check_images(self.program, images)
        output: np.ndarray = self._session.run(None, {self.program.input: images})[0]
        return output.astype(np.int32, copy=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied as what it was made from; a session of onnxruntime is neither."""
        return OnnxRuntime, (self.program,)

    def trace(self, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """(operator name, int64 [B, ...]) in program order."""
        check_images(self.program, images)
        names = [output.name for output in self._tracing_session.get_outputs()]
        values = self._tracing_session.run(names, {self.program.input: images})
        for name, value in zip(names, values, strict=True):
            yield name, value.astype(np.int64)

    @cached_property
    def _tracing_session(self) -> onnxruntime.InferenceSession:
        return _session(self.program, every_value=True)


def _session(program: Program, *, every_value: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usual_threads()
    options.log_severity_level = 3  # errors only
    model = to_onnx(program, every_value=every_value).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
