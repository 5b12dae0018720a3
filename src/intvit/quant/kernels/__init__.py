"""The kernels of a training step: what the layers compute on integers, and the gradients at integer operands.

Three sets give equal integers, those of `intvit.arithmetic`: eager (torch, any device), compiled (torch.compile, CPUs)
and accelerator (Triton). Gradients are floats and may differ in the last bit between them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Kernels(NamedTuple):
    """Shapes: B images, T = W * N tokens in W windows, C channels, H heads of width D.

    acc: int32, or float32 that holds integers. observe: asks for magnitudes beside the codes, float64 (B, groups): the
    largest |value| of each image (and group of channels) before rounding and saturation, in steps of the output.

    linear(x int8 (M, K), weight int8 (N, K), bias int32 (N,)) -> int32 (M, N).
    requantize(acc (B, T.., C), m, e, bits, groups, observe) -> codes, magnitudes. m, e: int64 (1,) or (C,).
    add(a acc (B, T.., C), b codes, m_a, m_b, e, bits, observe) -> codes, magnitudes.
    layernorm(x codes (B, T.., C), LayerNormParameters, observe) -> codes, magnitudes.
    logits(qkv int8 (B, T, 3C), heads, windows, scaling, bias, bits, excluded, observe) -> codes (B, W, H, N, N),
        magnitudes. scaling: of requantize, (1,), or of add with a bias int16 (H, N, N). excluded: bool (W, 1, N, N) or
        None; these do not count with a bias.
    deferred(logits, table, excluded, qkv, m, e, bits, largest, observe) -> weights uint8 or int32 as logits, their sums
        float32 or int32 (B, W, H, N, 1), context codes (B, T, C), magnitudes. largest: bound of a weight.
    normalized(logits, table, excluded, qkv, m, e, bits, width, normalization, observe) -> probabilities of `width`
        bits, context codes, magnitudes.
    gelu(x int8 (B, T.., C), table, observe) -> codes, int8 (B, 2): smallest and largest input of each image.

    Gradients are masked: zero where the code that they belong to stands at either end of its width, for there its
    quantizer saturates. Every reader of a code masks what it sends back, so that no mask needs to be stored.

    mask(gradient, codes, bits).
    linear_gradient(gradient (M, N), x int8 (M, K), weight int8 (N, K), weight_scale (N,), scale (), bits, needs)
        -> of x, weight and bias, None where `needs` has False. scale: of x.
    layernorm_gradient(gradient, codes, factors, scale, weight, epsilon, bits) -> of x, weight and bias.
    attention_gradient(gradient (B, T, C), AttentionOperands, bias) -> of qkv (B, T, 3C), and of the bias (H, N, N)
        where it is asked for.
    gelu_gradient(gradient, codes, derivative float32 (2^bits,)).
    """

    linear: Callable[..., Tensor]
    requantize: Callable[..., tuple[Tensor, Tensor | None]]
    add: Callable[..., tuple[Tensor, Tensor | None]]
    layernorm: Callable[..., tuple[Tensor, Tensor | None]]
    logits: Callable[..., tuple[Tensor, Tensor | None]]
    deferred: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor | None]]
    normalized: Callable[..., tuple[Tensor, Tensor, Tensor | None]]
    gelu: Callable[..., tuple[Tensor, Tensor | None]]
    mask: Callable[..., Tensor]
    linear_gradient: Callable[..., tuple[Tensor | None, Tensor | None, Tensor | None]]
    layernorm_gradient: Callable[..., tuple[Tensor, Tensor, Tensor]]
    attention_gradient: Callable[..., tuple[Tensor, Tensor | None]]
    gelu_gradient: Callable[..., Tensor]


@dataclass(frozen=True)
class AttentionOperands:
    """What attention read: codes of qkv (B, T, 3C) and of the logits (B, W, H, N, N), weights as the logits.

    sums: of the weights (B, W, H, N, 1), or None where they are probabilities, multiples of `step`. scale: of the
    values, float64 (). gradient_scales: float64 (3,), what gradients of query and key, taken at codes throughout, are
    multiplied by, and 1. logit_scale: float64 (). excluded: bool (W, 1, N, N) or None.
    """

    qkv: Tensor
    logits: Tensor
    weights: Tensor
    sums: Tensor | None
    step: float
    scale: Tensor
    gradient_scales: Tensor
    logit_scale: Tensor
    bits: int
    logit_bits: int
    excluded: Tensor | None


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast inside: half precision would round products of integers."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
