"""How a kernel of a training step becomes an operator of torch, how it is launched, and how a block's size is chosen.

Every operator is `torch.ops.intvit.NAME`, takes contiguous and other tensors alike, mutates nothing, reads nothing on
the host, and has a fake form for device="meta" and torch.compile. Under Triton's interpreter (TRITON_INTERPRET=1 when
triton is imported) it takes tensors of the CPU, else those of a CUDA device.

Kernels are not compiled anew for addresses of single numbers (`do_not_specialize_on_alignment`): they may lie anywhere
in a tensor of all sites' parameters.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

DEVICES = ("cpu", "cuda") if triton.knobs.runtime.interpret else "cuda"

LAUNCHERS: dict[str, Callable[..., Any]] = {}
"""By name, the function that makes the outputs and launches the kernel of an operator."""


def operator(fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Register the decorated launcher as the operator of its name; `fake`, of the same arguments, makes empty outputs.

    The launcher meets contiguous tensors alone.
    """

    def register(launcher: Callable[..., Any]) -> Any:
        name = launcher.__name__

        def called(*arguments: Any, **keywords: Any) -> Any:
            return launcher(*map(_contiguous, arguments), **{key: _contiguous(v) for key, v in keywords.items()})

        schema = torch.library.infer_schema(launcher, mutates_args=())
        custom = torch.library.custom_op(
            f"intvit::{name}", called, mutates_args=(), device_types=DEVICES, schema=schema
        )
        custom.register_fake(fake)
        custom.__doc__, custom.__name__ = launcher.__doc__, name
        LAUNCHERS[name] = launcher
        return custom

    return register


def like_gradient(gradient: Tensor, *_: Any) -> Tensor:
    """The fake form of a gradient's operator: what it gives back is as the gradient that it takes."""
    return torch.empty_like(gradient)


def _contiguous(value: Any) -> Any:
    return value.contiguous() if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class Launch:
    """A kernel with its arguments by name, constants of the compiler among them."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int
    stages: int


_record: ContextVar[list[Launch] | None] = ContextVar("record", default=None)


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int = 4, stages: int = 3, **constants: Any
) -> None:
    """Launch `kernel` on the device of its first argument, or write down that it would be, inside `recorded`.

    Fused multiply-adds are off: they round once where torch rounds twice.
    """
    record = _record.get()
    if record is not None:
        named = dict(zip(kernel.arg_names, arguments, strict=False))
        record.append(Launch(kernel, grid, {**named, **constants}, warps, stages))
        return
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants, num_warps=warps, num_stages=stages, enable_fp_fusion=False)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Nothing is launched inside: launchers called on tensors of any device leave their launches in the list."""
    launches: list[Launch] = []
    token = _record.set(launches)
    try:
        yield launches
    finally:
        _record.reset(token)


def block_of(size: int, limit: int, least: int = 1) -> int:
    """A power of two from `least` to `limit` to walk an axis of `size` in: one that divides it without many steps,
    else the whole axis, padded."""
    divisor = size & -size
    if min(divisor, limit) >= 64:
        return max(least, min(divisor, limit))
    return max(least, min(triton.next_power_of_2(size), limit))


def rows_of(block: int, entries: int, rows: int) -> int:
    """How many rows of `block` columns a program takes so that it holds about `entries`, a power of two."""
    return max(1, min(entries // block, triton.next_power_of_2(rows)))
