"""Kernels that torch.compile makes for CPUs: the normative int64 arithmetic, fused into one pass over the operands.

Table look-ups stay outside: compiled gathers are slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from intvit import arithmetic
from intvit.arithmetic import LayerNormParameters, Normalizer
from intvit.arithmetic.dyadic import half_of
from intvit.quant.kernels import Kernels, eager

_VECTOR_BITS = {"DEFAULT": 1, "AVX2": 256, "AVX512": 512}  # 1: scalar code


@cache
def compiled() -> Kernels:
    """Kernels that torch.compile builds for every shape that it meets; the first steps take a minute."""
    torch._dynamo.config.recompile_limit = 256  # one entry per shape and width, a dozen in a mixed model
    torch._dynamo.config.accumulated_recompile_limit = 4096
    # Part of the key under which inductor keeps code on the disk: without it, code for one processor (or one
    # ATEN_CPU_CAPABILITY) is taken for another, where it does not compile. None on others lets torch choose.
    torch._inductor.config.cpp.simdlen = _VECTOR_BITS.get(torch.backends.cpu.get_cpu_capability())
    normalize_codes = torch.compile(_normalize, dynamic=False, fullgraph=True)

    def softmax(logits: Tensor, table: Tensor, bits: int, normalization: str, mask: Tensor | None = None) -> Tensor:
        x = arithmetic.lowered(logits, mask)
        distance = x.amax(-1, keepdim=True).to(torch.int32) - x.to(torch.int32)
        exponentials = torch.index_select(table.to(torch.int32), 0, distance.view(-1)).view(logits.shape)
        if mask is not None:
            exponentials.masked_fill_(mask, 0)
        return normalize_codes(exponentials, bits, normalization)

    return eager.kernels(
        _requantize_with(torch.compile(_requantize, dynamic=False, fullgraph=True)),
        torch.compile(_add, dynamic=False, fullgraph=True),
        _layernorm_with(torch.compile(_layernorm, dynamic=False, fullgraph=True)),
        torch.compile(_mean, dynamic=False, fullgraph=True),
        softmax,
        torch.compile(_mask, dynamic=False, fullgraph=True),
        eager.gelu_gradient,
        torch.compile(_softmax_gradient, dynamic=False, fullgraph=True),
    )


def _inside(codes: Tensor, bits: int) -> Tensor:
    return (codes > -(2 ** (bits - 1))) & (codes < 2 ** (bits - 1) - 1)


def _mask(gradient: Tensor, codes: Tensor, bits: int) -> Tensor:
    return torch.where(_inside(codes, bits), gradient, 0.0)


def _softmax_gradient(
    gradient: Tensor, codes: Tensor, scale: Tensor, bits: int, excluded: Tensor | None = None
) -> Tensor:
    real = codes.float() * scale.float()
    softmax = torch.softmax(real if excluded is None else real.masked_fill(excluded, -math.inf), -1)
    product = gradient * softmax
    return torch.where(_inside(codes, bits), product - softmax * product.sum(-1, keepdim=True), 0.0)


def _requantize_with(kernel: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def requantize(
        acc: Tensor, m: Tensor, e: Tensor, bits: int, groups: int = 1, observe: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        return kernel(acc, m, e, bits), eager.accumulator_magnitudes(acc, m, e, groups) if observe else None

    return requantize


def _requantize(acc: Tensor, m: Tensor, e: Tensor, bits: int) -> Tensor:
    return arithmetic.requantize(acc, m, e, bits).to(arithmetic.container(bits))


def _add(
    a: Tensor, b: Tensor, m_a: Tensor, m_b: Tensor, e: Tensor, bits: int, observe: bool = False
) -> tuple[Tensor, Tensor | None]:
    codes = arithmetic.add(a, b, m_a, m_b, e, bits).to(arithmetic.container(bits))
    if not observe:
        return codes, None
    value = a.double() * arithmetic.real_multiplier(m_a, e) + b.double() * arithmetic.real_multiplier(m_b, e)
    return codes, value.abs().reshape(len(a), -1).amax(1, keepdim=True)


def _mean(
    products: Tensor, sums: Tensor, m: Tensor, e: Tensor, bits: int, images: int, observe: bool = False
) -> tuple[Tensor, Tensor | None]:
    peaks = torch.empty(products.shape[:-1], dtype=torch.float64) if observe else None
    codes = arithmetic.weighted_mean_float64(products, sums, m, e, bits, peaks)
    return codes, None if peaks is None else peaks.view(images, -1).amax(1, keepdim=True)


def _normalize(exponentials: Tensor, bits: int, normalization: str) -> Tensor:
    dtype = arithmetic.container(bits, normalization == "floor")
    return arithmetic.normalize(exponentials.to(torch.int64), bits, normalization).to(dtype)


def _layernorm_with(kernel: Callable[..., tuple[Tensor, Tensor | None]]) -> Callable[..., tuple[Tensor, Tensor | None]]:
    def layernorm(x: Tensor, parameters: LayerNormParameters, observe: bool = False) -> tuple[Tensor, Tensor | None]:
        normalizer, shift = parameters.normalizer, parameters.shift
        half = half_of(shift)
        factor = arithmetic.real_multiplier(parameters.multiplier, shift)
        constant = arithmetic.real_multiplier(parameters.bias + half, shift)
        integers = (normalizer.method, normalizer.normalizer_shift, normalizer.newton_steps, normalizer.square_shift)
        affine = factor, constant, parameters.bits
        return kernel(x, *integers, normalizer.channel_shift, normalizer.scale, *affine, observe)

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
    observe: bool,
) -> tuple[Tensor, Tensor | None]:
    """`layernorm_float64` without its chunks: one row at a time is in the cache once compiled."""
    normalizer = Normalizer(method, normalizer_shift, newton_steps, square_shift, channel_shift, scale)
    low, high = arithmetic.limits(bits)
    value = arithmetic.normalized_float64(x, normalizer) * factor + constant
    codes = torch.floor(value).clamp(low, high).to(arithmetic.container(bits))
    return codes, (value - 0.5).abs().reshape(len(x), -1).amax(1, keepdim=True) if observe else None
