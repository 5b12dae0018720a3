"""Kernels for accelerators: Triton's operators where Triton is installed, else plain torch.

Products of the backward pass are float matrix products of the codes: under autocast to bfloat16 in bfloat16, which
holds codes of 8 bits exactly, else in float32.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from intvit.arithmetic import LayerNormParameters
from intvit.quant.kernels import AttentionOperands, Kernels
from intvit.quant.kernels.eager import EAGER


@cache
def accelerator() -> Kernels:
    """The kernels of a CUDA device, and of `meta`, where they are operators without values."""
    if find_spec("triton") is None:
        return EAGER
    from intvit.quant import triton_kernels  # registers the operators

    assert triton_kernels
    return Kernels(
        linear=_linear,
        requantize=_requantize,
        add=_add,
        layernorm=_layernorm,
        logits=_logits,
        deferred=_deferred,
        normalized=_normalized,
        gelu=_gelu,
        mask=_mask,
        linear_gradient=_linear_gradient,
        layernorm_gradient=_layernorm_gradient,
        attention_gradient=_attention_gradient,
        gelu_gradient=_gelu_gradient,
    )


ops = torch.ops.intvit


def _tokens(x: Tensor) -> Tensor:
    """(B, .., C) -> (B, T, C)."""
    return x.reshape(len(x), -1, x.shape[-1])


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.linear(x, weight, bias)


def _requantize(
    acc: Tensor, m: Tensor, e: Tensor, bits: int, groups: int = 1, observe: bool = False
) -> tuple[Tensor, Tensor | None]:
    codes, magnitudes = ops.requantize(_tokens(acc), None, m, e, bits, groups, observe)
    return codes.view(acc.shape), magnitudes if observe else None


def _add(
    a: Tensor, b: Tensor, m_a: Tensor, m_b: Tensor, e: Tensor, bits: int, observe: bool = False
) -> tuple[Tensor, Tensor | None]:
    codes, magnitudes = ops.add(_tokens(a), None, _tokens(b.expand(a.shape)), m_a, m_b, e, bits, observe)
    return codes.view(a.shape), magnitudes if observe else None


def _layernorm(x: Tensor, parameters: LayerNormParameters, observe: bool = False) -> tuple[Tensor, Tensor | None]:
    n, p = parameters.normalizer, parameters
    if n.method == "float":
        return EAGER.layernorm(x, parameters, observe)
    integers = n.method, n.normalizer_shift, n.newton_steps, n.square_shift, n.channel_shift
    codes, magnitudes = ops.layernorm(_tokens(x), *integers, p.multiplier, p.bias, p.shift, p.bits, observe)
    return codes.view(x.shape), magnitudes if observe else None


def _logits(
    qkv: Tensor,
    heads: int,
    windows: int,
    scaling: Any,
    bias: Tensor | None,
    bits: int,
    excluded: Tensor | None = None,
    observe: bool = False,
) -> tuple[Tensor, Tensor | None]:
    form = qkv, heads, windows
    if bias is None:
        codes, magnitudes = ops.attention_logits(
            *form, scaling.multiplier, scaling.shift, bits, None, None, None, observe
        )
    else:
        joined = scaling.multiplier_a, scaling.shift, bits, bias, scaling.multiplier_b, excluded
        codes, magnitudes = ops.attention_logits(*form, *joined, observe)
    return codes, magnitudes if observe else None


def _deferred(
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
    weights, sums = ops.weights(logits, table, excluded)
    context, magnitudes = ops.weighted_mean(weights, qkv, sums, m, e, bits, observe)
    return weights, sums, context, magnitudes if observe else None


def _normalized(
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
    probabilities = ops.probabilities(logits, table, width, normalization, excluded)
    context, magnitudes = ops.weighted_requantize(probabilities, qkv, m, e, bits, observe)
    return probabilities, context, magnitudes if observe else None


def _gelu(x: Tensor, table: Tensor, observe: bool = False) -> tuple[Tensor, Tensor | None]:
    codes, extremes = ops.gelu(_tokens(x), table)
    return codes.view(x.shape), extremes if observe else None


def _mask(gradient: Tensor, codes: Tensor, bits: int) -> Tensor:
    return ops.mask(gradient, codes, bits)


def _gelu_gradient(gradient: Tensor, codes: Tensor, derivative: Tensor) -> Tensor:
    return ops.gelu_gradient(gradient, codes, derivative)


def _linear_gradient(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    scale: Tensor,
    bits: int,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    dx = dw = None
    if needs[0]:
        dx = ops.mask(gradient @ ops.dequantize(weight, weight_scale, gradient.dtype), x, bits)
    if needs[1]:
        dw = _product(gradient.t(), x.to(gradient.dtype)).mul_(scale)
    return dx, dw, gradient.sum(0, dtype=torch.float32) if needs[2] else None


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, whose operands may be shorter."""
    return a @ b if a.dtype is torch.float32 else torch.mm(a, b, out_dtype=torch.float32)


def _layernorm_gradient(
    gradient: Tensor,
    codes: Tensor,
    factors: Tensor | None,
    scale: Tensor,
    weight: Tensor,
    epsilon: float,
    bits: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return ops.layernorm_gradient(gradient, codes, factors, scale, weight, epsilon, bits)


def _attention_gradient(gradient: Tensor, operands: AttentionOperands, bias: bool) -> tuple[Tensor, Tensor | None]:
    o, dtype = operands, gradient.dtype
    _, windows, heads, tokens, _ = o.logits.shape
    q, k, v = ops.split_heads(o.qkv, 3, heads, windows, dtype)
    (g,) = ops.split_heads(gradient, 1, heads, windows, dtype)
    weighted = g * o.step if o.sums is None else g / o.sums.flatten(0, 2)
    dv = torch.bmm(o.weights.to(dtype).flatten(0, 2).transpose(1, 2), weighted)
    d_weights = torch.bmm(g, v.transpose(1, 2)).view(o.logits.shape)  # in units of the values' scale
    d_logits = ops.softmax_gradient(d_weights, o.logits, o.logit_scale, o.logit_bits, o.excluded)
    d_bias = d_logits.sum((0, 1), dtype=torch.float32).mul_(o.scale) if bias else None
    d_logits = d_logits.view(-1, tokens, tokens)
    dq, dk = torch.bmm(d_logits, k), torch.bmm(d_logits.transpose(1, 2), q)
    return ops.merge_heads(dq, dk, dv, o.qkv, o.gradient_scales, heads, o.bits), d_bias
