"""Launches of the kernels that multiply matrices: tiles for tensor cores, strides of operands. Imports triton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from intvit.runtime.cuda.kernels import attention, linear, matmul
from intvit.runtime.cuda.launch import BoundStep, Launch, divisor, image_layout, power, row_layout, stacked, tiled
from intvit.runtime.cuda.packing import BLOCK

PROCESSORS = 132  # tiles are made smaller where there are fewer of them than multiprocessors of a large GPU


def _linear_options(bound: BoundStep) -> dict[str, Any]:
    x, constants, options = bound.inputs["x"], bound.constants, bound.step.options
    weight, inputs = constants["weight"], x.shape[-1]
    packed = options["packed"]
    return {
        "weight": weight,
        "bias": constants["bias"],
        "multiplier": constants.get("multiplier"),
        "shift": constants.get("shift"),
        "K": inputs,
        "HIGH": bound.step.least_shift >= 33,
        "LOW": options.get("low", 0),
        "TOP": options.get("top", 0),
        "UNSIGNED": x.dtype == torch.uint8,
        "PACKED": packed,
        "BK": BLOCK if packed else divisor(inputs, 128),
    }


def launch_linear(bound: BoundStep) -> Launch:
    x, output, constants = bound.inputs["x"], bound.output, bound.constants
    (count, x_row), channels = row_layout(x), output.shape[-1]
    residual = bound.inputs.get("residual")
    wide = channels > 64 and tiled(count, 64) * tiled(channels, 128) >= PROCESSORS
    wide = wide and not (bound.step.options["packed"] and residual is not None)  # which need all registers
    block_m, block_n = 64, 128 if wide else 64
    places = (*image_layout(output), *((0, 0) if residual is None else image_layout(residual)))
    arguments = _linear_options(bound) | {
        "x": x,
        "multiplier_b": constants.get("multiplier_b"),
        "residual": residual,
        "table": constants.get("table"),
        "out": output,
        "M": count,
        "N": channels,
        "tokens": count // len(x),
        "x_row": x_row,
        **dict(zip(("out_image", "out_row", "residual_image", "residual_row"), places, strict=True)),
        "MODE": bound.step.options["mode"],
        "TABLE": "table" in constants,
        "BM": block_m,
        "BN": block_n,
        "GROUP": 8,
    }
    return Launch(linear.linear, (tiled(count, block_m) * tiled(channels, block_n),), arguments, 4, 3)


def launch_linear_turned(bound: BoundStep) -> Launch:
    x, output = bound.inputs["x"], bound.output
    groups, heads, size, tokens = stacked(output).shape
    channels, block = heads * size, 64
    arguments = _linear_options(bound) | {
        "x": x,
        "out": output,
        "N": channels,
        "tokens": tokens,
        "x_row": row_layout(x)[1],
        "out_channel": output.stride(-2),
        "BM": block,
        "BN": block,
    }
    return Launch(linear.linear_turned, (groups * tiled(tokens, block) * tiled(channels, block),), arguments, 4, 3)


def launch_matmul(bound: BoundStep) -> Launch:
    a, b = stacked(bound.inputs["a"]), stacked(bound.inputs["b"])
    groups, heads, count, inner = a.shape
    columns, block = b.shape[-1], 64
    arguments = {
        "a": a,
        "b": b,
        "bias": bound.constants.get("bias"),
        "out": bound.output,
        "M": count,
        "N": columns,
        "heads": heads,
        **_strides("a", a, ("group", "head", "row", "column")),
        **_strides("b", b, ("group", "head", "row", "column")),
        "K": inner,
        "A_WIDE": a.element_size() > 1,
        "A_OFFSET": 0 if a.dtype == torch.int8 else 128,
        "B_OFFSET": 0 if b.dtype == torch.int8 else 128,
        "BIAS": "bias" in bound.constants,
        "BM": block,
        "BN": block,
        "BK": power(inner, 32, 64),
    }
    return Launch(matmul.matmul, (groups * heads * tiled(count, block) * tiled(columns, block),), arguments)


def _strides(prefix: str, x: Tensor | None, names: tuple[str, ...]) -> dict[str, int]:
    """Strides of the first axes by name; 0 for a tensor that is not there."""
    return {f"{prefix}_{name}": 0 if x is None else x.stride(axis) for axis, name in enumerate(names)}


def launch_attention(bound: BoundStep) -> Launch:
    options = bound.step.options
    per_image = {name: bound.inputs.get(name) for name in ("bias", "mask")}
    bias, mask = (None if x is None else x[0] for x in per_image.values())
    q, k, v = (stacked(bound.inputs[name]) for name in "qkv")
    output = stacked(bound.output)
    groups, heads, count, size = q.shape
    low, top = options["logit_limits"]
    mean, block, keys = options.get("mean", (0, 1)), 64, 64
    if k.shape[2] > keys and bias is not None and options["weight_bits"] > 8:
        keys = 32  # two sums and biases need the registers
    arguments = {
        "q": q,
        "k": k,
        "v": v,
        "bias": bias,
        "mask": mask,
        "table": bound.constants["table"],
        "multiplier_out": bound.constants.get("multiplier"),
        "shift_out": bound.constants.get("shift"),
        "out": output,
        "M": count,
        "N": k.shape[2],
        "heads": heads,
        "groups": groups // len(bound.output),
        **_strides("q", q, ("group", "head", "token")),
        **_strides("k", k, ("group", "head", "token")),
        **_strides("v", v, ("group", "head", "channel")),
        **_strides("bias", bias, ("group", "head", "token")),
        **_strides("mask", mask, ("group", "head", "token")),
        **_strides("out", output, ("group", "head", "token")),
        "multiplier": options["multiplier"],
        "multiplier_b": options["multiplier_b"],
        "shift": options["shift"],
        "mean_multiplier": mean[0],
        "mean_shift": mean[1],
        "D": size,
        "DP": power(size, 32, 1 << 20),
        "WHOLE": k.shape[2] <= keys,
        "BIAS": bias is not None,
        "MASK": mask is not None,
        "GATHER": len(bound.constants["table"]) == 256,
        "MONOTONE": bias is None and options["multiplier"] > 0,
        "HIGH": options["shift"] >= 33,
        "LOW": low,
        "TOP": top,
        "SOFTMAX": options["softmax"],
        "BITS": options["bits"],
        "WEIGHT_BITS": options["weight_bits"],
        "OUT_LOW": options["low"],
        "OUT_TOP": options["top"],
        "BM": block,
        "BN": keys,
    }
    stages = 2 if arguments["GATHER"] else 1
    return Launch(attention.attention, (groups * heads * tiled(count, block),), arguments, stages=stages)
