"""Float64 forms a few rows at a time: on a CPU a chunk's copies stay in the second-level cache."""

from collections.abc import Callable

import torch
from torch import Tensor

_ELEMENTS = 120_000  # about 1 MB of float64


def by_rows(function: Callable[..., Tensor], *operands: Tensor, dtype: torch.dtype) -> Tensor:
    """`function` of chunks of the operands' rows (last axis), which have one shape; an accelerator takes all at once.

    Returns:
        the operands' shape, cast to `dtype`.
    """
    shape = operands[0].shape
    columns = max(1, shape[-1] if shape else 1)
    rows = [operand.reshape(-1, columns) for operand in operands]
    out = torch.empty(rows[0].shape, dtype=dtype, device=operands[0].device)
    step = max(1, _ELEMENTS // columns if out.device.type == "cpu" else len(out))
    for i in range(0, len(out), step):
        out[i : i + step] = function(*(row[i : i + step] for row in rows))
    return out.view(shape)


def rounded_rows(
    value: Callable[..., Tensor],
    *operands: Tensor,
    low: int,
    high: int,
    dtype: torch.dtype,
    half: float = 0.5,
    peaks: Tensor | None = None,
) -> Tensor:
    """floor(value + half), clamped to [low, high], of chunks of the operands' rows, which have one shape.

    Args:
        value: rows -> float64 of their shape, which is overwritten.
        half: 0 where `value` holds the 0.5 already.
        peaks: float64 [rows], filled with the largest |value| of each row before it is rounded.

    Returns:
        the operands' shape, cast to `dtype`.
    """
    surplus, done = 0.5 - half, 0

    def rounded(*rows: Tensor) -> Tensor:
        nonlocal done
        chunk = value(*rows)
        if peaks is not None:
            peaks[done : done + len(chunk)] = torch.maximum(chunk.amax(1) - surplus, surplus - chunk.amin(1))
            done += len(chunk)
        if half:
            chunk.add_(half)
        return chunk.floor_().clamp_(low, high)

    return by_rows(rounded, *operands, dtype=dtype)
