"""A launch of a kernel, and what all launches are made of: rows of tensors, sizes of tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from intvit.runtime.cuda.steps import Step


@dataclass(frozen=True)
class BoundStep:
    """A step with the torch tensors of a batch: inputs and output [B, ...], constants on the device."""

    step: Step
    inputs: dict[str, Tensor]
    output: Tensor
    constants: dict[str, Tensor]


@dataclass(frozen=True)
class Launch:
    """A kernel with its arguments by name, constants of the compiler among them."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int = 4
    stages: int = 2

    def __call__(self) -> None:
        options = {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": False}
        self.kernel[self.grid](**self.arguments, **options)


def row_layout(x: Tensor) -> tuple[int, int]:
    """Rows of all images, and their distance."""
    flat = x.view(-1, x.shape[-1])
    return flat.shape[0], flat.stride(0)


def image_layout(x: Tensor) -> tuple[int, int]:
    """Distance of images, and of the rows of one. A single row may be anywhere."""
    flat = x[0].view(-1, x.shape[-1])
    return x.stride(0), flat.stride(0)


def stacked(x: Tensor) -> Tensor:
    """[B, G, ...] as [B * G, ...], a view."""
    return x.view(-1, *x.shape[2:])


def power(size: int, least: int, most: int) -> int:
    """The power of two that is at least `size`, within limits."""
    return min(max(1 << (size - 1).bit_length(), least), most)


def divisor(size: int, most: int) -> int:
    """The largest power of two that divides size, if it is at least 32, else a power of two to pad to."""
    divisor = min(size & -size, most)
    return divisor if divisor >= 32 else power(size, 32, most)


def entries_tile(size: int) -> tuple[int, int]:
    """Rows and entries of a tile for kernels that take one entry after the other."""
    columns = power(size, 16, 128)
    return 1024 // columns, columns


def tiled(count: int, size: int) -> int:
    return -(-count // size)
