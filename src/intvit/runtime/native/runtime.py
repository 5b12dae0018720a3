"""The native runtime: a program, lowered to a plan, executed by a C++ library for the CPU at hand.

The library stands in this folder and is compiled once for each instruction set; all give equal integers. It is
called through ctypes, which releases the interpreter's lock, and needs no torch.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from intvit.arguments import whole_number
from intvit.errors import IntVitError
from intvit.program.program import Program
from intvit.runtime import check_images, usual_threads
from intvit.runtime.native.lowering import lower
from intvit.runtime.native.steps import Step
from intvit.runtime.plan import ExecutionPlan, Tensor

FOLDER = Path(__file__).parent
PATHS = ("amx", "avx512", "avx2", "scalar")  # fastest first
VARIABLE = "INTVIT_NATIVE_PATH"
MAX_THREADS = 1024  # engine.cpp
_ABI, _RANK, _INPUTS, _CONSTANTS, _ATTRIBUTES = 1, 16, 5, 8, 12  # abi.h
_TYPES = {np.dtype(name): i for i, name in enumerate(("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"))}


class _View(ctypes.Structure):
    _fields_ = (
        ("buffer", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("offset", ctypes.c_int64),
        ("shape", ctypes.c_int64 * _RANK),
        ("strides", ctypes.c_int64 * _RANK),
    )


class _Array(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("type", ctypes.c_int32),
        ("padding", ctypes.c_int32),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("inputs", _View * _INPUTS),
        ("output", _View),
        ("attributes", ctypes.c_int64 * _ATTRIBUTES),
        ("constants", _Array * _CONSTANTS),
    )


class _Buffer(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_int64), ("bytes", ctypes.c_int64), ("data", ctypes.c_void_p))


class NativeRuntime:
    """Runs a checked program on uint8 images.

    threads: of one call, by default OMP_NUM_THREADS or else the processors that this process may use. The scores are
    the same for any number. A call with fewer images than threads shares the work of each image among them.
    path: "amx", "avx512", "avx2" or "scalar"; by default $INTVIT_NATIVE_PATH or else the fastest that this machine has.
    Raises IntVitError where the library was not compiled, the path does not run here, or threads are not 1..1024.
    """

    def __init__(self, program: Program, threads: int | None = None, path: str | None = None) -> None:
        self.program, self._wanted = program, (threads, path)
        self.threads = (
            min(usual_threads(), MAX_THREADS) if threads is None else whole_number("threads", threads, 1, MAX_THREADS)
        )
        self._compiled = load_library(path or os.environ.get(VARIABLE) or None)
        self.path: str = self._compiled.intvit_path().decode()
        self._engine = Engine(self._compiled, lower(program, fuse=True), self.threads)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [B, C, H, W] -> int32 scores [B, classes]. Raises ProgramError for other images."""
        check_images(self.program, images)
        return self._engine.run(images)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as what it was made from: where it is read, it is lowered and packed for the machine there."""
        return NativeRuntime, (self.program, *self._wanted)

    def trace(self, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (operator name, its output as int64 [B, ...]) in program order, each operator run on its own."""
        check_images(self.program, images)
        plan = lower(self.program, fuse=False)
        engine, traces = Engine(self._compiled, plan, 1), []
        for index in range(len(images)):
            engine.run(images[index : index + 1])
            traces.append({op.output: engine.read(plan.values[op.output]) for op in self.program.operators})
        for operator in self.program.operators:
            yield operator.output, np.stack([values[operator.output] for values in traces])

    @property
    def memory(self) -> int:
        """Bytes that the runtime holds: packed weights, tables, and the memory of one image for each thread."""
        return self._engine.memory

    def step_times(self) -> list[tuple[Step, float]]:
        """Each step with the milliseconds that it took in all images since the last call, on one of the threads."""
        return self._engine.step_times()

    def ceiling(self) -> float:
        """Multiply-adds a second of the path's inner product on data in the first-level cache, on one thread."""
        return float(self._compiled.intvit_ceiling())


class Engine:
    """A plan in the library, ready to run. `plan` stays as it is."""

    def __init__(self, compiled: ctypes.CDLL, plan: ExecutionPlan[Step], threads: int) -> None:
        self._compiled, self.plan = compiled, plan
        buffers, steps, kept = describe(plan)
        error = ctypes.create_string_buffer(500)
        arguments = (buffers, len(buffers), steps, len(steps), plan.input, plan.output, threads, error, len(error))
        self._handle = compiled.intvit_create(*arguments)
        del kept  # the library has copied the constants
        if not self._handle:
            raise IntVitError(f"the native runtime refuses the program: {error.value.decode()}")
        self._classes = plan.buffers[plan.output].size // 4

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._compiled.intvit_destroy(self._handle)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Scores int32 [B, classes] of images that fit the program."""
        images = np.ascontiguousarray(images)
        scores = np.empty((len(images), self._classes), np.int32)
        error = ctypes.create_string_buffer(500)
        arguments = (images.ctypes.data, len(images), scores.ctypes.data, error, len(error))
        if self._compiled.intvit_run(self._handle, *arguments):
            raise IntVitError(f"the native runtime failed: {error.value.decode()}")
        return scores

    def read(self, tensor: Tensor) -> np.ndarray:
        """The tensor's content after the last image, int64, in a plan whose buffers don't overlap."""
        buffer = self.plan.buffers[tensor.buffer]
        if buffer.data is not None:
            content = buffer.data.reshape(-1)
        else:
            address = self._compiled.intvit_memory(self._handle) + buffer.offset
            content = np.ctypeslib.as_array((ctypes.c_uint8 * buffer.size).from_address(address)).view(tensor.dtype)
        data = content[tensor.offset :]
        strides = [stride * tensor.dtype.itemsize for stride in tensor.entries.strides]
        return np.lib.stride_tricks.as_strided(data, tensor.entries.shape, strides, writeable=False).astype(np.int64)

    @property
    def memory(self) -> int:
        return int(self._compiled.intvit_bytes(self._handle))

    def step_times(self) -> list[tuple[Step, float]]:
        nanoseconds = (ctypes.c_int64 * len(self.plan.steps))()
        self._compiled.intvit_times(self._handle, nanoseconds)
        return [(step, time / 1e6) for step, time in zip(self.plan.steps, nanoseconds, strict=True)]


def describe(plan: ExecutionPlan[Step]) -> tuple[Any, Any, list[np.ndarray]]:
    """The plan as C structures, and the arrays that they point to."""
    buffers, steps = (_Buffer * len(plan.buffers))(), (_Step * len(plan.steps))()
    kept: list[np.ndarray] = []
    for target, buffer in zip(buffers, plan.buffers, strict=True):
        data = None if buffer.data is None else buffer.data.ctypes.data
        target.offset, target.bytes, target.data = buffer.offset, buffer.size, data
    for target, step in zip(steps, plan.steps, strict=True):
        target.kind = step.kind
        inputs = step.inputs + [None] * (_INPUTS - len(step.inputs))
        for view, tensor in zip((*target.inputs, target.output), (*inputs, step.output), strict=True):
            _fill_view(view, tensor)
        target.attributes[: len(step.attributes)] = step.attributes
        for slot, array in zip(target.constants, step.constants, strict=False):
            if array is not None:
                kept.append(np.ascontiguousarray(array))
                slot.data, slot.count, slot.type = kept[-1].ctypes.data, array.size, _TYPES[array.dtype]
    return buffers, steps, kept


def _fill_view(view: _View, tensor: Tensor | None) -> None:
    if tensor is None:
        view.buffer = -1
        return
    rank = tensor.entries.ndim
    view.buffer, view.type, view.rank, view.offset = tensor.buffer, _TYPES[tensor.dtype], rank, tensor.offset
    view.shape[:rank], view.strides[:rank] = tensor.entries.shape, tensor.entries.strides


def load_library(path: str | None) -> ctypes.CDLL:
    """The library for `path`, or for the fastest path that this machine has. Raises IntVitError where there is none."""
    if path is not None and path not in PATHS:
        raise IntVitError(f"unknown path {path!r} of the native runtime; there are {', '.join(PATHS)}")
    compiled = available()
    if not compiled:
        raise IntVitError(
            "runtime=native was not compiled when intvit was installed: install a C++17 compiler (g++ or clang++) and "
            "install intvit again, or use runtime=numpy"
        )
    for name in (path,) if path else PATHS:
        if name in compiled and (loaded := _open(compiled[name])).intvit_supported():
            return loaded
    raise IntVitError(f"the path {path!r} of the native runtime does not run here; there are {', '.join(supported())}")


def available() -> dict[str, Path]:
    """The compiled libraries by path."""
    files = ((name, FOLDER / (name + suffix)) for name in PATHS for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return {name: file for name, file in files if file.is_file()}


def supported() -> list[str]:
    """The paths that are compiled and run on this machine, fastest first."""
    compiled = available()
    return [name for name in PATHS if name in compiled and _open(compiled[name]).intvit_supported()]


@cache
def _open(file: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(file))
    if not hasattr(loaded, "intvit_abi") or loaded.intvit_abi() != _ABI:
        raise IntVitError(f"{file} was compiled from other sources than these: install intvit again")
    pointer, size, text = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p
    loaded.intvit_path.restype = text
    loaded.intvit_create.restype = pointer
    loaded.intvit_create.argtypes = [pointer, size, pointer, size, *[ctypes.c_int32] * 3, text, size]
    loaded.intvit_destroy.argtypes = [pointer]
    loaded.intvit_run.argtypes = [pointer, pointer, size, pointer, text, size]
    loaded.intvit_memory.argtypes, loaded.intvit_memory.restype = [pointer], pointer
    loaded.intvit_bytes.argtypes, loaded.intvit_bytes.restype = [pointer], size
    loaded.intvit_ceiling.restype = ctypes.c_double
    loaded.intvit_times.argtypes = [pointer, pointer]
    return loaded
