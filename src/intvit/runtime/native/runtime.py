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
from intvit.runtime.native.structures import ABI, describe
from intvit.runtime.plan import ExecutionPlan, Tensor

FOLDER = Path(__file__).parent
PATHS = ("amx", "avx512", "avxvnni", "avx2", "neon-i8mm", "neon", "scalar")  # fastest first
VARIABLE = "INTVIT_NATIVE_PATH"
MAX_THREADS = 1024  # engine.cpp


class NativeRuntime:
    """Runs a checked program on uint8 images.

    threads: of one call, by default OMP_NUM_THREADS or else the processors that this process may use. The scores are
    the same for any number. A call with fewer images than threads shares the work of each image among them.
    path: one of PATHS; by default $INTVIT_NATIVE_PATH or else the fastest that this machine has.
    Raises IntVitError where the library was not compiled, the path does not run here, or threads are not 1..1024.
    """

    def __init__(self, program: Program, threads: int | None = None, path: str | None = None) -> None:
        self.program, self._wanted = program, (threads, path)
        self.threads = (
            min(usual_threads(), MAX_THREADS) if threads is None else whole_number("threads", threads, 1, MAX_THREADS)
        )
        self._compiled = load_library(path)
        self.path: str = self._compiled.intvit_path().decode()
        self._engine = Engine(self._compiled, lower(program, fuse=True), self.threads)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [B, C, H, W] -> the program's output, int32. Raises ProgramError for other images."""
        check_images(self.program, images)
        return self._engine.run(images).reshape(len(images), *self.program.values[self.program.output].shape)

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
        self._entries = plan.buffers[plan.output].size // 4

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._compiled.intvit_destroy(self._handle)

    def run(self, images: np.ndarray) -> np.ndarray:
        """The output, int32 [B, entries], of images that fit the program."""
        images = np.ascontiguousarray(images)
        scores = np.empty((len(images), self._entries), np.int32)
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


def load_library(path: str | None) -> ctypes.CDLL:
    """The library for `path`, or for $INTVIT_NATIVE_PATH, or for the fastest path that this machine has.

    Raises IntVitError where there is none.
    """
    compiled, named = available(), "path"
    if not path:
        path, named = os.environ.get(VARIABLE) or None, VARIABLE
    if path is not None and path not in PATHS:
        there = f"there are {', '.join(PATHS)}, of which {', '.join(supported()) or 'none'} run here"
        raise IntVitError(f"{named}={path!r}: unknown path of the native runtime; {there}")
    if not compiled:
        raise IntVitError(
            "runtime=native was not compiled when intvit was installed: install a C++17 compiler (g++ or clang++) and "
            "install intvit again, or use runtime=numpy"
        )
    for name in (path,) if path else PATHS:
        if name in compiled and (loaded := _open(compiled[name])).intvit_supported():
            return loaded
    there = ", ".join(supported())
    raise IntVitError(
        f"{named}={path!r}: this path of the native runtime does not run on this machine; there are {there}"
    )


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
    try:
        loaded = ctypes.CDLL(str(file))
    except OSError as error:  # of another machine or system, or what it needs is not there, such as libstdc++
        raise IntVitError(
            f"{file} cannot be loaded ({error}): install intvit again here, or use runtime=numpy"
        ) from None
    if not hasattr(loaded, "intvit_abi") or loaded.intvit_abi() != ABI:
        raise IntVitError(f"{file} was compiled from other sources than these: install intvit again")
    pointer, size, text = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p
    loaded.intvit_path.restype = text
    loaded.intvit_create.restype = pointer
    loaded.intvit_create.argtypes = [pointer, size, pointer, size, *[ctypes.c_int32] * 3, text, size]
    loaded.intvit_open.argtypes, loaded.intvit_open.restype = [text, size, ctypes.c_int32, text, size], pointer
    loaded.intvit_destroy.argtypes = [pointer]
    for number in (loaded.intvit_image_bytes, loaded.intvit_classes, loaded.intvit_bytes):
        number.argtypes, number.restype = [pointer], size
    loaded.intvit_run.argtypes = [pointer, pointer, size, pointer, text, size]
    loaded.intvit_memory.argtypes, loaded.intvit_memory.restype = [pointer], pointer
    loaded.intvit_ceiling.restype = ctypes.c_double
    loaded.intvit_times.argtypes = [pointer, pointer]
    return loaded
