"""From a step on torch tensors to the launch of its kernel: grid, arguments, tiles. Imports triton."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from intvit.runtime.cuda.kernels import attention, layernorm, linear, matmul, rows
from intvit.runtime.cuda.packing import BLOCK
from intvit.runtime.cuda.steps import Kind, Step

PROCESSORS = 132  # tiles are made smaller where there are fewer of them than multiprocessors of a large GPU


@dataclass(frozen=True)
class BoundStep:
    """A step with the torch tensors of a batch: inputs and output [B, ...], constants on the device."""

    step: Step
    inputs: dict[str, Tensor]
    output: Tensor
    constants: dict[str, Tensor]


@dataclass(frozen=True)
class Launch:
    """A kernel with its arguments by name, constants of the compiler among them."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    warps: int = 4
    stages: int = 2

    def __call__(self) -> None:
        options = {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": False}
        self.kernel[self.grid](**self.arguments, **options)


def launch(bound: BoundStep) -> Callable[[], Any]:
    """What executes the step: a kernel's launch, or torch's copy between views (which also converts integers)."""
    if bound.step.kind is Kind.COPY:
        return lambda: bound.output.copy_(bound.inputs["source"])
    return LAUNCHES[bound.step.kind](bound)


def _rows(x: Tensor) -> tuple[int, int]:
    """Rows of all images, and their distance."""
    flat = x.view(-1, x.shape[-1])
    return flat.shape[0], flat.stride(0)


def _image_rows(x: Tensor) -> tuple[int, int]:
    """Distance of images, and of the rows of one. A single row may be anywhere."""
    flat = x[0].view(-1, x.shape[-1])
    return x.stride(0), flat.stride(0)


def _stacked(x: Tensor) -> Tensor:
    """[B, G, ...] as [B * G, ...], a view."""
    return x.view(-1, *x.shape[2:])


def _power(size: int, least: int, most: int) -> int:
    """The power of two that is at least `size`, within limits."""
    return min(max(1 << (size - 1).bit_length(), least), most)


def _divisor(size: int, most: int) -> int:
    """The largest power of two that divides size, if it is at least 32, else a power of two to pad to."""
    divisor = min(size & -size, most)
    return divisor if divisor >= 32 else _power(size, 32, most)


def _entries_tile(size: int) -> tuple[int, int]:
    """Rows and entries of a tile for kernels that take one entry after the other."""
    columns = _power(size, 16, 128)
    return 1024 // columns, columns


def _tiled(count: int, size: int) -> int:
    return -(-count // size)


# ------------------------------------------------------------------------------------------------ products


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
        "BK": BLOCK if packed else _divisor(inputs, 128),
    }


def _linear(bound: BoundStep) -> Launch:
    x, output, constants = bound.inputs["x"], bound.output, bound.constants
    (count, x_row), channels = _rows(x), output.shape[-1]
    residual = bound.inputs.get("residual")
    wide = channels > 64 and _tiled(count, 64) * _tiled(channels, 128) >= PROCESSORS
    wide = wide and not (bound.step.options["packed"] and residual is not None)  # which need all registers
    block_m, block_n = 64, 128 if wide else 64
    places = (*_image_rows(output), *((0, 0) if residual is None else _image_rows(residual)))
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
    return Launch(linear.linear, (_tiled(count, block_m) * _tiled(channels, block_n),), arguments, 4, 3)


def _linear_turned(bound: BoundStep) -> Launch:
    x, output = bound.inputs["x"], bound.output
    groups, heads, size, tokens = _stacked(output).shape
    channels, block = heads * size, 64
    arguments = _linear_options(bound) | {
        "x": x,
        "out": output,
        "N": channels,
        "tokens": tokens,
        "x_row": _rows(x)[1],
        "out_channel": output.stride(-2),
        "BM": block,
        "BN": block,
    }
    return Launch(linear.linear_turned, (groups * _tiled(tokens, block) * _tiled(channels, block),), arguments, 4, 3)


def _matmul(bound: BoundStep) -> Launch:
    a, b = _stacked(bound.inputs["a"]), _stacked(bound.inputs["b"])
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
        "BK": _power(inner, 32, 64),
    }
    return Launch(matmul.matmul, (groups * heads * _tiled(count, block) * _tiled(columns, block),), arguments)


def _strides(prefix: str, x: Tensor | None, names: tuple[str, ...]) -> dict[str, int]:
    """Strides of the first axes by name; 0 for a tensor that is not there."""
    return {f"{prefix}_{name}": 0 if x is None else x.stride(axis) for axis, name in enumerate(names)}


def _attention(bound: BoundStep) -> Launch:
    options = bound.step.options
    per_image = {name: bound.inputs.get(name) for name in ("bias", "mask")}
    bias, mask = (None if x is None else x[0] for x in per_image.values())
    q, k, v = (_stacked(bound.inputs[name]) for name in "qkv")
    output = _stacked(bound.output)
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
        "DP": _power(size, 32, 1 << 20),
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
    return Launch(attention.attention, (groups * heads * _tiled(count, block),), arguments)


# ------------------------------------------------------------------------------------------------ rows


def _layernorm(bound: BoundStep) -> Launch:
    x, constants, options = bound.inputs["x"], bound.constants, bound.step.options
    (count, x_row), size = _rows(x), x.shape[-1]
    columns = _divisor(size, 128)
    height = 1024 // columns
    arguments = {
        "x": x,
        "multiplier": constants["multiplier"],
        "bias": constants["bias"],
        "shift": constants["shift"],
        "channel_shift": constants.get("channel_shift"),
        "out": bound.output,
        "M": count,
        "x_row": x_row,
        "C": size,
        "METHOD": options["method"],
        "NORMALIZER_SHIFT": options["normalizer_shift"],
        "NEWTON_STEPS": options["newton_steps"],
        "SQUARE_SHIFT": options["square_shift"],
        "SHIFTED": "channel_shift" in constants,
        "NARROW": options["narrow"],
        "HIGH": bound.step.least_shift >= 32,
        "LOW": options["low"],
        "TOP": options["top"],
        "BM": height,
        "BC": columns,
    }
    return Launch(layernorm.layernorm, (_tiled(count, height),), arguments)


def _requantize(bound: BoundStep) -> Launch:
    arguments, grid = _by_entries(bound, "x")
    return Launch(rows.requantize, grid, arguments | bound.constants | _limits(bound))


def _add(bound: BoundStep) -> Launch:
    arguments, grid = _by_entries(bound, "a")
    a, b, constants = bound.inputs["a"], bound.inputs["b"], dict(bound.constants)
    b_image, b_row = _image_rows(b)
    arguments |= {
        "b": b,
        "multiplier_a": constants.pop("multiplier"),
        "rows_of_image": a[0].numel() // a.shape[-1],
        "b_rows": b[0].numel() // b.shape[-1],
        "b_image": b_image,
        "b_row": b_row,
    }
    return Launch(rows.add, grid, arguments | constants | _limits(bound))


def _look_up(bound: BoundStep) -> Launch:
    arguments, grid = _by_entries(bound, "x")
    table = bound.constants["table"]
    lowest = -128 if bound.inputs["x"].dtype == torch.int8 else 0
    return Launch(rows.look_up, grid, arguments | {"table": table, "TABLES": len(table), "LOWEST": lowest})


def _by_entries(bound: BoundStep, name: str) -> tuple[dict[str, Any], tuple[int, int]]:
    """Arguments of a kernel that works on tiles of rows [M, C], and its grid."""
    x = bound.inputs[name]
    (count, stride), size = _rows(x), x.shape[-1]
    height, columns = _entries_tile(size)
    arguments = {name: x, "out": bound.output, "M": count, f"{name}_row": stride, "C": size}
    return arguments | {"BM": height, "BC": columns}, (_tiled(count, height), _tiled(size, columns))


def _limits(bound: BoundStep) -> dict[str, int]:
    return {"LOW": bound.step.options["low"], "TOP": bound.step.options["top"]}


def _gelu_by_maximum(bound: BoundStep) -> Launch:
    x = bound.inputs["x"]
    (count, x_row), size = _rows(x), x.shape[-1]
    arguments = {"x": x, "table": bound.constants["table"], "out": bound.output, "x_row": x_row, "C": size}
    return Launch(rows.gelu_by_maximum, (count,), arguments | {"BC": _power(size, 128, 512)})


def _softmax(bound: BoundStep) -> Launch:
    x, mask, options = bound.inputs["x"], bound.constants.get("mask"), bound.step.options
    (count, x_row), size = _rows(x), x.shape[-1]
    arguments = {
        "x": x,
        "table": bound.constants["table"],
        "mask": mask,
        "out": bound.output,
        "x_row": x_row,
        "rows_of_mask": 1 if mask is None else len(mask),
        "N": size,
        "MASK": mask is not None,
        "SOFTMAX": options["softmax"],
        "BITS": options["bits"],
        "BN": _power(size, 32, 256),
    }
    return Launch(rows.softmax, (count,), arguments)


def _weighted_mean(bound: BoundStep) -> Launch:
    sums, weights = bound.inputs["sums"], bound.inputs["weights"]
    multiplier, shift = bound.step.options["mean"]
    arguments = {
        "sums": sums,
        "weights": weights,
        "out": bound.output,
        "sums_row": _rows(sums)[1],
        "weights_row": _rows(weights)[1],
        "multiplier": multiplier,
        "shift": shift,
        "K": weights.shape[-1],
        "D": sums.shape[-1],
        "BK": _power(weights.shape[-1], 32, 256),
        "BD": _power(sums.shape[-1], 32, 1 << 20),
    }
    return Launch(rows.weighted_mean, (_rows(sums)[0],), arguments | _limits(bound))


def _gather(bound: BoundStep) -> Launch:
    x, output = bound.inputs["x"], bound.output
    taken, inner = output.shape[-2:]
    count = output.numel() // inner
    height, columns = _entries_tile(inner)
    arguments = {
        "x": x,
        "index": bound.constants["index"],
        "out": output,
        "rows": count,
        "length": x.shape[-2],
        "taken": taken,
        "INNER": inner,
        "BM": height,
        "BC": columns,
    }
    return Launch(rows.gather, (_tiled(count, height), _tiled(inner, columns)), arguments)


def _patches(bound: BoundStep) -> Launch:
    image, output = bound.inputs["image"], bound.output
    _, channels, height, width = image.shape
    count, size, patch = output.numel() // output.shape[-1], output.shape[-1], bound.step.options["patch"]
    block, columns = _entries_tile(size)
    arguments = {
        "image": image,
        "table": bound.constants["table"],
        "out": output,
        "M": count,
        "columns": width // patch,
        "CHANNELS": channels,
        "HEIGHT": height,
        "WIDTH": width,
        "PATCH": patch,
        "BM": block,
        "BC": columns,
    }
    return Launch(rows.patches, (_tiled(count, block), _tiled(size, columns)), arguments)


LAUNCHES: dict[Kind, Callable[[BoundStep], Launch]] = {
    Kind.GATHER: _gather,
    Kind.PATCHES: _patches,
    Kind.LOOK_UP: _look_up,
    Kind.GELU_BY_MAXIMUM: _gelu_by_maximum,
    Kind.LINEAR: _linear,
    Kind.LINEAR_TURNED: _linear_turned,
    Kind.MATMUL: _matmul,
    Kind.REQUANTIZE: _requantize,
    Kind.ADD: _add,
    Kind.LAYERNORM: _layernorm,
    Kind.SOFTMAX: _softmax,
    Kind.WEIGHTED_MEAN: _weighted_mean,
    Kind.ATTENTION: _attention,
}
