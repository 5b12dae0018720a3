"""The integer kernels of a training step: float64 forms, or the normative integer functions compiled.

Both give the integers of `intvit.arithmetic`. Eager, float64 is the fastest exact form; compiled, the normative int64
arithmetic fuses into one pass over the operands. Table look-ups stay outside: compiled gathers are slow.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from intvit import arithmetic
from intvit.arithmetic import LayerNormParameters, Normalizer


class Kernels(NamedTuple):
    """requantize(acc, m, e, bits), add(a, b, m_a, m_b, e, bits), layernorm(x, parameters),
    softmax(logits, table, bits, normalization): integers in, codes out."""

    requantize: Callable[..., Tensor]
    add: Callable[..., Tensor]
    layernorm: Callable[..., Tensor]
    softmax: Callable[..., Tensor]


EAGER = Kernels(
    arithmetic.requantize_float64,
    arithmetic.add_float64,
    arithmetic.layernorm_float64,
    arithmetic.softmax_from_table,
)


@cache
def compiled() -> Kernels:
    """Kernels that torch.compile builds for every shape that it meets; the first steps take a minute."""
    torch._dynamo.config.recompile_limit = 256  # one entry per shape and width, a dozen in a mixed model
    torch._dynamo.config.accumulated_recompile_limit = 4096
    normalize_codes = torch.compile(_normalize, dynamic=False, fullgraph=True)

    def softmax(logits: Tensor, table: Tensor, bits: int, normalization: str) -> Tensor:
        distance = logits.amax(-1, keepdim=True).to(torch.int32) - logits.to(torch.int32)
        exponentials = torch.index_select(table.to(torch.int32), 0, distance.view(-1)).view(logits.shape)
        return normalize_codes(exponentials, bits, normalization)

    return Kernels(
        torch.compile(_requantize, dynamic=False, fullgraph=True),
        torch.compile(_add, dynamic=False, fullgraph=True),
        _layernorm_with(torch.compile(_layernorm, dynamic=False, fullgraph=True)),
        softmax,
    )


def _requantize(acc: Tensor, m: Tensor, e: Tensor, bits: int) -> Tensor:
    return arithmetic.requantize(acc, m, e, bits).to(arithmetic.container(bits))


def _add(a: Tensor, b: Tensor, m_a: Tensor, m_b: Tensor, e: Tensor, bits: int) -> Tensor:
    return arithmetic.add(a, b, m_a, m_b, e, bits).to(arithmetic.container(bits))


def _normalize(exponentials: Tensor, bits: int, normalization: str) -> Tensor:
    dtype = arithmetic.container(bits, normalization == "floor")
    return arithmetic.normalize(exponentials.to(torch.int64), bits, normalization).to(dtype)


def _layernorm_with(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def layernorm(x: Tensor, parameters: LayerNormParameters) -> Tensor:
        normalizer, shift = parameters.normalizer, parameters.shift
        half = torch.ones_like(shift) << (shift - 1)
        factor = arithmetic.real_multiplier(parameters.multiplier, shift)
        constant = arithmetic.real_multiplier(parameters.bias + half, shift)
        integers = (normalizer.method, normalizer.normalizer_shift, normalizer.newton_steps, normalizer.square_shift)
        return kernel(x, *integers, normalizer.channel_shift, normalizer.scale, factor, constant, parameters.bits)

    return layernorm


def _layernorm(
    x: Tensor,
    method: str,
    normalizer_shift: int,
    newton_steps: int,
    square_shift: int,
    channel_shift: Tensor | None,
    scale: float,
    factor: Tensor,
    constant: Tensor,
    bits: int,
) -> Tensor:
    """`layernorm_float64` without its chunks: one row at a time is in the cache once compiled."""
    normalizer = Normalizer(method, normalizer_shift, newton_steps, square_shift, channel_shift, scale)
    low, high = arithmetic.limits(bits)
    n = arithmetic.normalized_float64(x, normalizer)
    return torch.floor(n * factor + constant).clamp(low, high).to(arithmetic.container(bits))
