"""The element-wise kernels of a training step: eager forms, or compiled ones.

Both give the integers of `intvit.arithmetic`. Eager, float64 is the fastest exact form; compiled, the normative int64
arithmetic fuses into one pass over the operands. Table look-ups stay outside: compiled gathers are slow. Gradients are
float32 and may differ in the last bit between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from intvit import arithmetic
from intvit.arithmetic import LayerNormParameters, Normalizer


class Kernels(NamedTuple):
    """requantize(acc, m, e, bits), add(a, b, m_a, m_b, e, bits), layernorm(x, parameters),
    softmax(logits, table, bits, normalization, mask), weighted_mean(sums, total, m, e, bits): integers in, codes out.
    mask(gradient, codes, bits), gelu_gradient(gradient, codes, scale, bits),
    softmax_gradient(gradient, codes, scale, bits, excluded): float32 gradients at integer operands, zero where a code
    stands at either end of its width, that is, where its quantizer saturates."""

    requantize: Callable[..., Tensor]
    add: Callable[..., Tensor]
    layernorm: Callable[..., Tensor]
    softmax: Callable[..., Tensor]
    weighted_mean: Callable[..., Tensor]
    mask: Callable[..., Tensor]
    gelu_gradient: Callable[..., Tensor]
    softmax_gradient: Callable[..., Tensor]


def mask(gradient: Tensor, codes: Tensor, bits: int) -> Tensor:
    """The gradient where -2^(bits-1) < code < 2^(bits-1) - 1, else zero.

    Every consumer of a code masks the gradient that it sends back, so that no mask needs to be stored.
    """
    limit = 2.0 ** (bits - 1)
    return torch.ops.aten.hardtanh_backward(gradient, codes.to(gradient.dtype), -limit, limit - 1)


def _gelu_gradient(gradient: Tensor, codes: Tensor, scale: float, bits: int) -> Tensor:
    """Look-up of the derivative at every code."""
    half = 2 ** (bits - 1)
    points = torch.arange(-half, half, device=codes.device, dtype=torch.float32) * scale
    derivative = torch.ops.aten.gelu_backward(torch.ones_like(points), points)
    derivative[0] = derivative[-1] = 0.0
    index = codes.to(torch.int32).add_(half)
    return torch.index_select(derivative, 0, index.flatten()).view(codes.shape).mul_(gradient)


def _softmax_gradient(
    gradient: Tensor, codes: Tensor, scale: float, bits: int, excluded: Tensor | None = None
) -> Tensor:
    """The float softmax is recomputed from the logit codes; the gradient of an excluded logit is zero."""
    logits = codes.float()
    real = logits * scale
    softmax = torch.softmax(real if excluded is None else real.masked_fill_(excluded, -math.inf), -1)
    return mask(torch._softmax_backward_data(gradient, softmax, -1, torch.float32), logits, bits)


EAGER = Kernels(
    arithmetic.requantize_float64,
    arithmetic.add_float64,
    arithmetic.layernorm_float64,
    arithmetic.softmax_from_table,
    arithmetic.weighted_mean_float64,
    mask,
    _gelu_gradient,
    _softmax_gradient,
)


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

    return Kernels(
        torch.compile(_requantize, dynamic=False, fullgraph=True),
        torch.compile(_add, dynamic=False, fullgraph=True),
        _layernorm_with(torch.compile(_layernorm, dynamic=False, fullgraph=True)),
        softmax,
        torch.compile(arithmetic.weighted_mean_float64, dynamic=False, fullgraph=True),
        torch.compile(_compiled_mask, dynamic=False, fullgraph=True),
        _with_tensor_scale(torch.compile(_compiled_gelu_gradient, dynamic=False, fullgraph=True)),
        _with_tensor_scale(torch.compile(_compiled_softmax_gradient, dynamic=False, fullgraph=True)),
    )


def _with_tensor_scale(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Pass the scale as a tensor: as a number, each of its values would be compiled for."""
    return lambda gradient, codes, scale, bits, *excluded: kernel(
        gradient, codes, torch.tensor(scale, dtype=torch.float32, device=codes.device), bits, *excluded
    )


def _inside(codes: Tensor, bits: int) -> Tensor:
    return (codes > -(2 ** (bits - 1))) & (codes < 2 ** (bits - 1) - 1)


def _compiled_mask(gradient: Tensor, codes: Tensor, bits: int) -> Tensor:
    return torch.where(_inside(codes, bits), gradient, 0.0)


def _compiled_gelu_gradient(gradient: Tensor, codes: Tensor, scale: Tensor, bits: int) -> Tensor:
    x = codes.float() * scale
    normal = 0.5 * (1.0 + torch.erf(x * math.sqrt(0.5)))
    derivative = normal + x * torch.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))
    return torch.where(_inside(codes, bits), gradient * derivative, 0.0)


def _compiled_softmax_gradient(
    gradient: Tensor, codes: Tensor, scale: Tensor, bits: int, excluded: Tensor | None = None
) -> Tensor:
    real = codes.float() * scale
    softmax = torch.softmax(real if excluded is None else real.masked_fill(excluded, -math.inf), -1)
    product = gradient * softmax
    return torch.where(_inside(codes, bits), product - softmax * product.sum(-1, keepdim=True), 0.0)


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
