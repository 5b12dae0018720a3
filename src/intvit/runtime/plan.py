"""A plan of execution: steps on strided tensors in buffers, and where the buffers lie. Each runtime has its own steps.

All sizes and offsets are those of one image. `lowering.py` makes a plan from a program. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np

ALIGNMENT = 64


@dataclass(frozen=True, eq=False)
class Tensor:
    """A strided view of a buffer.

    `whole` and `entries` are numpy arrays of one byte for each entry, of the buffer and of the view. They are never
    read: numpy keeps the shape and the strides, through reshape, transpose and slices.
    """

    buffer: int
    dtype: np.dtype
    whole: np.ndarray
    entries: np.ndarray

    @property
    def offset(self) -> int:
        """Entries between the start of the buffer and that of the view."""
        start, first = (int(array.__array_interface__["data"][0]) for array in (self.whole, self.entries))
        return first - start

    @property
    def dense(self) -> bool:
        """Row-major without gaps."""
        return self.entries.flags.c_contiguous

    def seen_as(self, entries: np.ndarray) -> Tensor:
        """Another view of the same buffer."""
        return Tensor(self.buffer, self.dtype, self.whole, entries)


@dataclass
class Buffer:
    """`size` bytes at `offset` of an image's memory, or the constant `data`."""

    size: int
    data: np.ndarray | None = None
    offset: int = 0


class AnyStep(Protocol):
    """What a plan asks of a step."""

    @property
    def tensors(self) -> Iterable[Tensor]:
        """What it reads and writes."""


S = TypeVar("S", bound=AnyStep)


@dataclass
class ExecutionPlan(Generic[S]):
    """Steps in order. `values`: where each of the program's values is, as far as it is computed at all."""

    buffers: list[Buffer] = field(default_factory=list)
    steps: list[S] = field(default_factory=list)
    values: dict[str, Tensor] = field(default_factory=dict)
    input: int = 0
    output: int = 0

    def constant(self, array: np.ndarray) -> Tensor:
        """A new constant buffer with the array as its tensor."""
        array = np.ascontiguousarray(array)
        self.buffers.append(Buffer(array.nbytes, array))
        return self._tensor(array.shape, array.dtype)

    def content(self, tensor: Tensor) -> np.ndarray | None:
        """The entries of a constant's view; None for other tensors."""
        data = self.buffers[tensor.buffer].data
        if data is None:
            return None
        strides = [stride * data.itemsize for stride in tensor.entries.strides]
        whole = data.reshape(-1)[tensor.offset :]
        return np.lib.stride_tricks.as_strided(whole, tensor.entries.shape, strides, writeable=False)

    def tensor(self, shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
        """A new buffer with a dense tensor that fills it."""
        self.buffers.append(Buffer(int(np.prod(shape)) * dtype.itemsize))
        return self._tensor(shape, dtype)

    def _tensor(self, shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
        whole = np.empty(shape, np.int8)
        return Tensor(len(self.buffers) - 1, np.dtype(dtype), whole, whole)

    def place(self, *, share: bool) -> None:
        """Give every buffer its offset; `share`: buffers whose content is never needed at the same time may overlap."""
        lives = {self.input: [0, 0]}
        for index, step in enumerate(self.steps):
            for tensor in step.tensors:
                lives.setdefault(tensor.buffer, [index, index])[1] = index
        lives.setdefault(self.output, [0, 0])[1] = len(self.steps)
        placed: list[tuple[int, int, int, int]] = []  # offset, end, first step, last step
        for index, (first, last) in sorted(lives.items(), key=lambda item: -self.buffers[item[0]].size):
            if self.buffers[index].data is not None:
                continue
            offset, size = 0, -(-self.buffers[index].size // ALIGNMENT) * ALIGNMENT
            for start, end, begin, stop in sorted(placed):
                if share and (stop < first or last < begin):
                    continue
                if start >= offset + size:
                    break
                offset = max(offset, end)
            self.buffers[index].offset = offset
            placed.append((offset, offset + size, first, last))
