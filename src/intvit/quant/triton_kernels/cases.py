"""Every kernel as a training step of DeiT-S with 256 images launches it, for `intvit bench kernels --training`."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from intvit.quant.triton_kernels.operators import LAUNCHERS, Launch, recorded

IMAGES, TOKENS, CHANNELS, HEADS, SIZE = 256, 197, 384, 6, 64
TOKEN_SHAPE, LOGIT_SHAPE = (IMAGES, TOKENS, CHANNELS), (IMAGES, 1, HEADS, TOKENS, TOKENS)


def _empty(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _calls() -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """(label, operator, arguments) of every kernel as a step has it: 8 bits, a residual stream of 16, observed."""
    i8, u8, i16, i32, f32, bf16 = torch.int8, torch.uint8, torch.int16, torch.int32, torch.float32, torch.bfloat16
    one, many = _empty(1), _empty(CHANNELS)
    wide = (IMAGES, TOKENS, 3 * CHANNELS)
    hidden = (IMAGES, TOKENS, 4 * CHANNELS)
    qkv, logits = _empty(*wide, dtype=i8), _empty(*LOGIT_SHAPE, dtype=i8)
    total = _empty(*LOGIT_SHAPE[:-1], 1, dtype=i32)
    stream, scale = _empty(*TOKEN_SHAPE, dtype=i16), _empty(dtype=torch.float64)
    accumulators, bias = _empty(*TOKEN_SHAPE, dtype=i32), _empty(CHANNELS, dtype=i32)
    three = (_empty(*wide, dtype=i32), _empty(3 * CHANNELS, dtype=i32), _empty(3 * CHANNELS), _empty(3 * CHANNELS))
    yield "requantize qkv", "requantize", (*three, 8, 3, True)
    yield "add", "add", (accumulators, bias, stream, many, many, many, 16, True)
    for method, integers in {"exact": (16, 0, 0), "ivit": (1, 10, 0), "ibert": (1, 0, 3)}.items():
        affine = (None, many, many, many, 8, True)
        yield f"layernorm {method}", "layernorm", (stream, method, *integers, *affine)
    yield "attention_logits", "attention_logits", (qkv, HEADS, 1, one, one, 8, None, None, None, True)
    joined = (_empty(HEADS, TOKENS, TOKENS, dtype=i16), one, _empty(1, 1, TOKENS, TOKENS, dtype=torch.bool), True)
    yield "attention_logits bias", "attention_logits", (qkv, HEADS, 1, one, one, 8, *joined)
    yield "weights", "weights", (logits, _empty(256, dtype=u8))
    real = _empty(256, dtype=torch.float64)
    yield "probabilities", "probabilities", (logits, real, 8, "rounded")
    for dtype, width in ((u8, "u8"), (i32, "i32")):
        weights = _empty(*LOGIT_SHAPE, dtype=dtype)
        yield f"weighted_mean {width}", "weighted_mean", (weights, qkv, total, one, one, 8, True)
    yield "weighted_requantize", "weighted_requantize", (_empty(*LOGIT_SHAPE, dtype=u8), qkv, one, one, 8, True)
    inner = _empty(*hidden, dtype=i8)
    yield "gelu", "gelu", (inner, _empty(256, dtype=i8))
    yield "gelu by maximum", "gelu", (inner, _empty(128, 256, dtype=i8))
    for dtype, name in ((f32, "fp32"), (bf16, "bf16")):
        gradient, d_hidden = _empty(*TOKEN_SHAPE, dtype=dtype), _empty(*hidden, dtype=dtype)
        d_logits, part = _empty(*LOGIT_SHAPE, dtype=dtype), _empty(IMAGES * HEADS, TOKENS, SIZE, dtype=dtype)
        yield f"mask {name}", "mask", (gradient, stream, 16)
        yield f"gelu_gradient {name}", "gelu_gradient", (d_hidden, inner, _empty(256, dtype=f32))
        yield f"softmax_gradient {name}", "softmax_gradient", (d_logits, logits, scale, 8)
        layer = (gradient, stream, None, scale, _empty(CHANNELS, dtype=f32), 1e-6, 16)
        yield f"layernorm_gradient {name}", "layernorm_gradient", layer
        yield f"dequantize {name}", "dequantize", (_empty(1536, CHANNELS, dtype=i8), _empty(1536, dtype=f32), dtype)
        yield f"split_heads {name}", "split_heads", (qkv, 3, HEADS, 1, dtype)
        yield f"merge_heads {name}", "merge_heads", (part, part, part, qkv, _empty(3), HEADS, 8)
    rows = IMAGES * TOKENS
    for inputs, outputs in ((CHANNELS, 3 * CHANNELS), (4 * CHANNELS, CHANNELS)):
        operands = (_empty(rows, inputs, dtype=i8), _empty(outputs, inputs, dtype=i8), _empty(outputs, dtype=i32))
        yield f"linear {inputs} to {outputs}", "linear", operands


def compile_cases() -> dict[str, Launch]:
    """By name, every kernel with the arguments, constants, warps and stages that a step launches it with."""
    cases = {}
    for label, name, arguments in _calls():
        with recorded() as launches:
            LAUNCHERS[name](*arguments)
        (cases[label],) = launches
    return cases
