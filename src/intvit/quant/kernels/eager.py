"""Kernels in plain torch: float64 forms that are exact, a few rows at a time on a CPU, and exact float32 products."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from intvit import arithmetic
from intvit.arithmetic import LayerNormParameters, float_matmul, real_multiplier
from intvit.arithmetic.elementary import power_of_two
from intvit.quant.kernels import AttentionOperands, Kernels


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return arithmetic.integer_matmul(x, weight.t()).add_(bias)


def requantize(
    acc: Tensor, m: Tensor, e: Tensor, bits: int, groups: int = 1, observe: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The product with a channel's factor is monotone: its largest accumulator has its magnitude."""
    codes = arithmetic.requantize_float64(acc, m, e, bits)
    return codes, accumulator_magnitudes(acc, m, e, groups) if observe else None


def accumulator_magnitudes(acc: Tensor, m: Tensor, e: Tensor, groups: int) -> Tensor:
    """Largest |acc m / 2^e| of every image and group of channels, float64 (B, groups)."""
    if m.numel() == 1 and groups == 1:
        acc = acc.reshape(len(acc), -1, 1)
    rows = acc.reshape(len(acc), -1, acc.shape[-1])
    largest = torch.maximum(rows.amax(1), -rows.amin(1)).double() * real_multiplier(m, e)
    return largest.view(len(acc), groups, -1).amax(2)


def _peaks(x: Tensor, observe: bool) -> Tensor | None:
    """Room for the peaks of the rows of x (.., C)."""
    return torch.empty(x.shape[:-1], dtype=torch.float64, device=x.device) if observe else None


def _by_image(peaks: Tensor | None, images: int) -> Tensor | None:
    return None if peaks is None else peaks.view(images, -1).amax(1, keepdim=True)


def add(
    a: Tensor, b: Tensor, m_a: Tensor, m_b: Tensor, e: Tensor, bits: int, observe: bool = False
) -> tuple[Tensor, Tensor | None]:
    peaks = _peaks(a, observe)
    codes = arithmetic.add_float64(a, b, m_a, m_b, e, bits, None if peaks is None else peaks.view(-1))
    return codes, _by_image(peaks, len(a))


def layernorm(x: Tensor, parameters: LayerNormParameters, observe: bool = False) -> tuple[Tensor, Tensor | None]:
    peaks = _peaks(x, observe)
    codes = arithmetic.layernorm_float64(x, parameters, None if peaks is None else peaks.view(-1))
    return codes, _by_image(peaks, len(x))


def split_heads(qkv: Tensor, heads: int, windows: int) -> Tensor:
    """(B, W * N, 3C), the last axis (3, H, D) -> (3, B, W, H, N, D)."""
    batch, tokens, width = qkv.shape
    shape = (batch, windows, tokens // windows, 3, heads, width // (3 * heads))
    return qkv.view(shape).permute(3, 0, 1, 4, 2, 5)


def merge_heads(context: Tensor) -> Tensor:
    """(B, W, H, N, D) -> (B, W * N, C)."""
    return context.transpose(2, 3).flatten(3).flatten(1, 2)


def mean(
    products: Tensor, sums: Tensor, m: Tensor, e: Tensor, bits: int, images: int, observe: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Of products (R, N, D) and their weights' sums (R, N, 1)."""
    peaks = _peaks(products, observe)
    return arithmetic.weighted_mean_float64(products, sums, m, e, bits, peaks), _by_image(peaks, images)


def _logits(
    requantize: Callable[..., Any],
    add: Callable[..., Any],
    qkv: Tensor,
    heads: int,
    windows: int,
    scaling: Any,
    bias: Tensor | None,
    bits: int,
    excluded: Tensor | None = None,
    observe: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Products in float32 are exact: |q.k| <= D * 2^14 <= 2^24 for D <= 1024."""
    q, k = split_heads(qkv, heads, windows)[:2].float().flatten(1, 3)
    products = torch.bmm(q, k.transpose(1, 2)).view(len(qkv), windows, heads, q.shape[1], q.shape[1])
    if bias is None:
        return requantize(products, scaling.multiplier, scaling.shift, bits, 1, observe)
    both = scaling.multiplier_a, scaling.multiplier_b, scaling.shift, bits
    if excluded is None or not observe:
        return add(products, bias, *both, observe)
    counted = ~excluded
    codes, _ = add(products, bias, *both, False)
    return codes, add(products * counted, bias * counted, *both, True)[1]


def _values(qkv: Tensor, heads: int, windows: int) -> Tensor:
    return split_heads(qkv, heads, windows)[2].float().flatten(0, 2)  # (B * W * H, N, D)


def _deferred(
    mean: Callable[..., Any],
    logits: Tensor,
    table: Tensor,
    excluded: Tensor | None,
    qkv: Tensor,
    m: Tensor,
    e: Tensor,
    bits: int,
    largest: int,
    observe: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    _, windows, heads, _, _ = logits.shape
    weights = arithmetic.exponential_from_table(logits, table, excluded)
    real = weights.float().flatten(0, 2)
    sums = real.sum(-1, keepdim=True)  # below 2^31 / 128, exact
    products = float_matmul(real, _values(qkv, heads, windows), largest)
    codes, magnitudes = mean(products, sums, m, e, bits, len(qkv), observe)
    context = merge_heads(codes.view(*logits.shape[:-1], -1))
    return weights, sums.view(*logits.shape[:-1], 1), context, magnitudes


def _normalized(
    softmax: Callable[..., Tensor],
    requantize: Callable[..., Any],
    logits: Tensor,
    table: Tensor,
    excluded: Tensor | None,
    qkv: Tensor,
    m: Tensor,
    e: Tensor,
    bits: int,
    width: int,
    normalization: str,
    observe: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    batch, windows, heads, _, _ = logits.shape
    probabilities = softmax(logits, table, width, normalization, excluded)
    products = float_matmul(probabilities.flatten(0, 2), _values(qkv, heads, windows), (1 << width) - 1)
    codes, magnitudes = requantize(products.view(batch, -1, products.shape[-1]), m, e, bits, 1, observe)
    return probabilities, merge_heads(codes.view(*logits.shape[:-1], -1)), magnitudes


def gelu(x: Tensor, table: Tensor, observe: bool = False) -> tuple[Tensor, Tensor | None]:
    codes = arithmetic.apply_gelu_table(x, table)
    if not observe:
        return codes, None
    flat = x.flatten(1)
    return codes, torch.stack((flat.amin(1), flat.amax(1)), 1)


def mask(gradient: Tensor, codes: Tensor, bits: int) -> Tensor:
    limit = 2.0 ** (bits - 1)
    return torch.ops.aten.hardtanh_backward(gradient, codes.to(gradient.dtype), -limit, limit - 1)


def linear_gradient(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bits: int,
    needs: tuple[bool, ...],
    mask: Callable[..., Tensor] = mask,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    codes = x.float()
    dx = mask(gradient @ weight.float().mul_(weight_scale[:, None]), codes, bits) if needs[0] else None
    dw = (gradient.t() @ codes).mul_(scale) if needs[1] else None
    return dx, dw, gradient.sum(0) if needs[2] else None


def layernorm_gradient(
    gradient: Tensor,
    codes: Tensor,
    factors: Tensor | None,
    scale: Tensor,
    weight: Tensor,
    epsilon: float,
    bits: int,
    mask: Callable[..., Tensor] = mask,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the float LayerNorm at the stream's real values, recomputed from its codes."""
    x = codes.float()
    real = x * scale if factors is None else x * (scale / power_of_two(factors)).float()
    shape = [len(weight)]
    _, mean, rstd = torch.native_layer_norm(real, shape, None, None, epsilon)
    dx, dw, db = torch.ops.aten.native_layer_norm_backward(
        gradient.contiguous(), real, shape, mean, rstd, weight, weight, [True, True, True]
    )
    return mask(dx, x, bits), dw, db


def _attention_gradient(
    softmax_gradient: Callable[..., Tensor],
    mask: Callable[..., Tensor],
    gradient: Tensor,
    operands: AttentionOperands,
    bias: bool,
) -> tuple[Tensor, Tensor | None]:
    """Of float attention at the quantized operands."""
    o = operands
    batch, windows, heads, tokens, _ = o.logits.shape
    size = o.qkv.shape[2] // (3 * heads)
    codes = split_heads(o.qkv, heads, windows).float().reshape(3, -1, tokens, size)  # (3, B * W * heads, N, D)
    q, k, v = codes
    g = gradient.reshape(batch, windows, tokens, heads, size).transpose(2, 3).reshape(-1, tokens, size)
    result = torch.empty_like(codes)
    d_weights = torch.bmm(g, v.transpose(1, 2))
    weighted = g * o.step if o.sums is None else g * o.sums.float().reciprocal().flatten(0, 2)
    torch.bmm(o.weights.float().flatten(0, 2).transpose(1, 2), weighted, out=result[2])
    excluded = () if o.excluded is None else (o.excluded,)
    d_logits = softmax_gradient(d_weights.view(o.logits.shape), o.logits, o.logit_scale, o.logit_bits, *excluded)
    d_bias = d_logits.sum((0, 1)).mul_(o.scale) if bias else None
    d_logits = d_logits.view(-1, tokens, tokens)
    torch.bmm(d_logits, k, out=result[0]).mul_(o.gradient_scales[0])
    torch.bmm(d_logits.transpose(1, 2), q, out=result[1]).mul_(o.gradient_scales[1])
    masked = mask(result, codes, o.bits).view(3, batch, windows, heads, tokens, size)
    return masked.permute(1, 2, 4, 0, 3, 5).reshape(o.qkv.shape), d_bias


def gelu_gradient(gradient: Tensor, codes: Tensor, derivative: Tensor) -> Tensor:
    index = codes.to(torch.int32).add_(len(derivative) // 2)
    return torch.index_select(derivative, 0, index.flatten()).view(codes.shape).mul_(gradient)


def softmax_gradient(
    gradient: Tensor, codes: Tensor, scale: Tensor, bits: int, excluded: Tensor | None = None
) -> Tensor:
    """The float softmax is recomputed from the logit codes; the gradient of an excluded logit is zero."""
    logits = codes.float()
    real = logits * scale
    softmax = torch.softmax(real if excluded is None else real.masked_fill_(excluded, -math.inf), -1)
    return mask(torch._softmax_backward_data(gradient, softmax, -1, torch.float32), logits, bits)


def kernels(
    requantize: Callable[..., Any],
    add: Callable[..., Any],
    layernorm: Callable[..., Any],
    mean: Callable[..., Any],
    softmax: Callable[..., Tensor],
    mask: Callable[..., Tensor],
    gelu_gradient: Callable[..., Tensor],
    softmax_gradient: Callable[..., Tensor],
) -> Kernels:
    """All kernels, from element-wise ones: products and look-ups are torch's."""
    return Kernels(
        linear,
        requantize,
        add,
        layernorm,
        partial(_logits, requantize, add),
        partial(_deferred, mean),
        partial(_normalized, softmax, requantize),
        gelu,
        mask,
        partial(linear_gradient, mask=mask),
        partial(layernorm_gradient, mask=mask),
        partial(_attention_gradient, softmax_gradient, mask),
        gelu_gradient,
    )


EAGER = kernels(requantize, add, layernorm, mean, arithmetic.softmax_from_table, mask, gelu_gradient, softmax_gradient)
