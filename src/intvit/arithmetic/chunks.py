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
