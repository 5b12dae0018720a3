"""Runtimes: executors of an integer program that give the same integers. `load_runtime` picks one by name.

A runtime is imported when it is asked for, so that the numpy one works where torch is not installed.
"""

import inspect
import os
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np

from intvit.arguments import described
from intvit.errors import IntVitError
from intvit.processors import usable_processors
from intvit.program.checkpoint import load_checkpoint
from intvit.program.program import Program, ProgramError

GROUP = "intvit.runtime"  # entry points of installed packages, NAME = "MODULE:CLASS"
# name -> MODULE:CLASS, made from a checked program: those of packages, then ours, whose names are taken
RUNTIMES = {point.name: point.value for point in entry_points(group=GROUP)} | {
    "numpy": "intvit.runtime.numpy:NumpyRuntime",
    "onnx": "intvit.runtime.onnx.runtime:OnnxRuntime",
    "torch": "intvit.runtime.torch:TorchRuntime",
    "native": "intvit.runtime.native.runtime:NativeRuntime",
    "cuda": "intvit.runtime.cuda.runtime:CudaRuntime",
}


class Runtime(Protocol):
    """What every runtime offers for a program with input [C, H, W] and an output [...]."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [B, C, H, W] -> the output, int32: scores [B, K], dense scores [B, K, H, W] or labels [B, H, W]."""

    def trace(self, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (operator name, its output as int64 [B, ...]) in program order."""


def load(source: Program | str | os.PathLike[str], runtime: str = "native", **options: Any) -> Runtime:
    """A checked program, ready to run: `scores = load(folder)(images)`, uint8 (B, C, H, W) -> int32 (B, classes).

    Of a program that segments, int32 labels (B, H, W).

    source: the folder of an integer checkpoint, or a program. runtime: `native` (C++, the fast one; takes `threads` and
    `path`), `numpy` (the reference), `torch`, `onnx` or `cuda` (Triton; takes `device`, and tensors on it). All give
    equal integers; only `torch` and `cuda` need torch.

    Raises ProgramError (an IntVitError) for a folder that holds no whole checkpoint, and an unknown runtime or option,
    IntVitError where the native runtime is not compiled, or `cuda` has no GPU. The runtime refuses images of another
    size or type.

    >>> load(folder, "numpy")(images).dtype
    dtype('int32')
    """
    return load_runtime(as_program(source), runtime, **options)


def as_program(source: Program | str | os.PathLike[str]) -> Program:
    """A program as it is, or the checked one of an integer checkpoint's folder. Raises ProgramError."""
    if isinstance(source, Program | str | os.PathLike):
        return source if isinstance(source, Program) else load_checkpoint(source)
    remedy = "give a program of intvit.export, or its folder"
    raise ProgramError(f"the source is {described(source)}, neither a program nor the folder of one; {remedy}")


def load_runtime(program: Program, name: str, **options: Any) -> Runtime:
    """The runtime `name` (a key of RUNTIMES) for a checked program; options are those of `load`.

    Raises ProgramError for an unknown name or option, IntVitError where the runtime does not run on this machine.
    """
    if not isinstance(name, str) or name not in RUNTIMES:
        raise ProgramError(f"unknown runtime {name!r}; there are {', '.join(sorted(RUNTIMES))}")
    module, _, runtime = RUNTIMES[name].partition(":")
    made = getattr(import_module(module), runtime)
    if unknown := sorted(options.keys() - inspect.signature(made).parameters.keys()):
        raise ProgramError(
            f"runtime {name!r} takes no {', '.join(unknown)}; native takes threads and path, cuda takes device"
        )
    loaded: Runtime = made(program, **options)
    return loaded


def fastest_runtime(program: Program, threads: int = 1) -> Runtime:
    """The native runtime where it is compiled, else torch's."""
    try:
        return load_runtime(program, "native", threads=threads)
    except IntVitError:
        return load_runtime(program, "torch")


def usual_threads() -> int:
    """The first number of OMP_NUM_THREADS (`4`, or `4,2` for nested teams), or else the processors that may be used.

    Like OpenMP, what is empty or not a positive number counts for nothing, and so does one of ten digits.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(wanted) if re.fullmatch("0*[1-9][0-9]{0,8}", wanted) else usable_processors()


def check_images(program: Program, images: np.ndarray) -> None:
    """Raise ProgramError unless `images` is a uint8 numpy array [B, C, H, W] of the program's image size."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        found = getattr(images, "dtype", type(images).__name__)
        raise ProgramError(f"images are of type {found}, expected a numpy array of uint8 (0..255, not normalized)")
    check_shape(program, images.shape)


def check_shape(program: Program, shape: Sequence[int]) -> None:
    """Raise ProgramError unless `shape` is that of one image or more of the program's size, [B, C, H, W]."""
    size = program.values[program.input].shape
    if len(shape) != 4 or not shape[0] or tuple(shape[1:]) != size:
        expected, remedy = ", ".join(str(axis) for axis in size), "give at least one image of this size"
        raise ProgramError(f"images have shape {list(shape)}, expected [batch, {expected}]; {remedy}")
