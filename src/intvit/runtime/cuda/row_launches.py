"""Launches of the kernels for rows or pixels: LayerNorm, and operators that stand in no group. Imports triton."""

from __future__ import annotations

from typing import Any

import torch

from intvit.runtime.cuda.kernels import dense, layernorm, rows
from intvit.runtime.cuda.launch import BoundStep, Launch, divisor, entries_tile, image_layout, power, row_layout, tiled


def launch_layernorm(bound: BoundStep) -> Launch:
    x, constants, options = bound.inputs["x"], bound.constants, bound.step.options
    (count, x_row), size = row_layout(x), x.shape[-1]
    columns = divisor(size, 128)
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
    return Launch(layernorm.layernorm, (tiled(count, height),), arguments)


def launch_requantize(bound: BoundStep) -> Launch:
    arguments, grid = _by_entries(bound, "x")
    return Launch(rows.requantize, grid, arguments | bound.constants | _limits(bound))


def launch_add(bound: BoundStep) -> Launch:
    arguments, grid = _by_entries(bound, "a")
    a, b, constants = bound.inputs["a"], bound.inputs["b"], dict(bound.constants)
    b_image, b_row = image_layout(b)
    arguments |= {
        "b": b,
        "multiplier_a": constants.pop("multiplier"),
        "rows_of_image": a[0].numel() // a.shape[-1],
        "b_rows": b[0].numel() // b.shape[-1],
        "b_image": b_image,
        "b_row": b_row,
    }
    return Launch(rows.add, grid, arguments | constants | _limits(bound))


def launch_look_up(bound: BoundStep) -> Launch:
    arguments, grid = _by_entries(bound, "x")
    table = bound.constants["table"]
    lowest = -128 if bound.inputs["x"].dtype == torch.int8 else 0
    return Launch(rows.look_up, grid, arguments | {"table": table, "TABLES": len(table), "LOWEST": lowest})


def _by_entries(bound: BoundStep, name: str) -> tuple[dict[str, Any], tuple[int, int]]:
    """Arguments of a kernel that works on tiles of rows [M, C], and its grid."""
    x = bound.inputs[name]
    (count, stride), size = row_layout(x), x.shape[-1]
    height, columns = entries_tile(size)
    arguments = {name: x, "out": bound.output, "M": count, f"{name}_row": stride, "C": size}
    return arguments | {"BM": height, "BC": columns}, (tiled(count, height), tiled(size, columns))


def _limits(bound: BoundStep) -> dict[str, int]:
    return {"LOW": bound.step.options["low"], "TOP": bound.step.options["top"]}


def launch_gelu_by_maximum(bound: BoundStep) -> Launch:
    x = bound.inputs["x"]
    (count, x_row), size = row_layout(x), x.shape[-1]
    arguments = {"x": x, "table": bound.constants["table"], "out": bound.output, "x_row": x_row, "C": size}
    return Launch(rows.gelu_by_maximum, (count,), arguments | {"BC": power(size, 128, 512)})


def launch_softmax(bound: BoundStep) -> Launch:
    x, mask, options = bound.inputs["x"], bound.constants.get("mask"), bound.step.options
    (count, x_row), size = row_layout(x), x.shape[-1]
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
        "BN": power(size, 32, 256),
    }
    return Launch(rows.softmax, (count,), arguments)


def launch_weighted_mean(bound: BoundStep) -> Launch:
    sums, weights = bound.inputs["sums"], bound.inputs["weights"]
    multiplier, shift = bound.step.options["mean"]
    arguments = {
        "sums": sums,
        "weights": weights,
        "out": bound.output,
        "sums_row": row_layout(sums)[1],
        "weights_row": row_layout(weights)[1],
        "multiplier": multiplier,
        "shift": shift,
        "K": weights.shape[-1],
        "D": sums.shape[-1],
        "BK": power(weights.shape[-1], 32, 256),
        "BD": power(sums.shape[-1], 32, 1 << 20),
    }
    return Launch(rows.weighted_mean, (row_layout(sums)[0],), arguments | _limits(bound))


def launch_gather(bound: BoundStep) -> Launch:
    x, output = bound.inputs["x"], bound.output
    taken, inner = output.shape[-2:]
    count = output.numel() // inner
    height, columns = entries_tile(inner)
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
    return Launch(rows.gather, (tiled(count, height), tiled(inner, columns)), arguments)


def launch_patches(bound: BoundStep) -> Launch:
    image, output = bound.inputs["image"], bound.output
    _, channels, height, width = image.shape
    count, size, patch = output.numel() // output.shape[-1], output.shape[-1], bound.step.options["patch"]
    block, columns = entries_tile(size)
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
    return Launch(rows.patches, (tiled(count, block), tiled(size, columns)), arguments)


def launch_upsample(bound: BoundStep) -> Launch:
    return _by_pixels(bound, dense.upsample)


def launch_labels(bound: BoundStep) -> Launch:
    return _by_pixels(bound, dense.labels)


def _by_pixels(bound: BoundStep, kernel: Any) -> Launch:
    """A kernel that reads coarse scores [B, K, h, w] and works on blocks of an image's entries."""
    x, output = bound.inputs["x"], bound.output
    _, classes, height, width = x.shape
    strides = dict(zip(("x_image", "x_class", "x_row", "x_column"), x.stride(), strict=True))
    sizes = {"K": classes, "HEIGHT": height, "WIDTH": width, "FACTOR": bound.step.options["factor"], "BLOCK": 256}
    grid = (len(output), tiled(output[0].numel(), sizes["BLOCK"]))
    return Launch(kernel, grid, {"x": x, "out": output, **strides, **sizes})
