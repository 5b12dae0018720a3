"""`lower`: from an integer program to the plan of a C model, and the steps of operators that are in no group."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from intvit.errors import IntVitError
from intvit.export.c import function_kernels, row_kernels, tensor_kernels
from intvit.export.c.lowering import Lowering, limits_of
from intvit.export.c.row_loops import join_rows
from intvit.export.c.steps import AnyStep, Argument, Constants, Kernel
from intvit.program.program import Operator, Program
from intvit.program.tables import gelu_table, pixel_table
from intvit.runtime.lowering import MOVES
from intvit.runtime.plan import ExecutionPlan


def lower(program: Program) -> ExecutionPlan[AnyStep]:
    """The plan of a checked program, in loops, its buffers placed. Raises IntVitError for an operator without C."""
    for operator in program.operators:
        if operator.op not in OPERATORS:
            known = ", ".join(OPERATORS)
            raise IntVitError(f"{operator}: the C export has no kernel for it; it has {known}")
    plan = Lowering(program, fuse=True).plan
    join_rows(plan)
    for caller in (plan.input, plan.output):  # the caller's memory, not the arena's
        plan.buffers[caller].size = 0
    plan.place(share=True)
    return plan


def _quantize_input(to: Lowering, operator: Operator) -> None:
    if to.fusion.only_reader(operator, "patches") is not None:
        return  # its table goes into the patches
    table = Constants(f"{operator.name}.table", pixel_table(to.program, operator))
    channels, height, width = to.program.values[operator.output].shape
    output = to.new(operator)
    arguments = [Argument(to.values[operator.inputs[0]]), Argument(output, written=True)]
    parameters = {"channels": channels, "pixels": height * width, "table": table}
    to.step(tensor_kernels.pixels(output.dtype), parameters, arguments, operator)


def _patches(to: Lowering, operator: Operator) -> None:
    size, name = operator.attributes["patch"], operator.inputs[0]
    channels, height, width = to.program.values[name].shape
    if name not in to.values:
        pixels = next(other for other in to.program.operators if other.output == name)
        table = Constants(f"{name}.table", pixel_table(to.program, pixels))
        parameters = {"channels": channels, "height": height, "width": width, "patch": size, "table": table}
        target = to.write(operator)
        arguments, rows = [Argument(to.values[pixels.inputs[0]]), target], target.tensor.entries.shape[0]
        to.step(row_kernels.patches(target.tensor.dtype), parameters, arguments, operator, rows)
        return
    source = to.values[name]
    source, output = source if source.dense else to.copied(operator, source), to.new(operator)
    tiles = source.entries.reshape(channels, height // size, size, width // size, size).transpose(1, 3, 0, 2, 4)
    to.copy(operator, source.seen_as(tiles), output.seen_as(output.entries.reshape(tiles.shape)))


def _gather(to: Lowering, operator: Operator) -> None:
    axis, index = operator.attributes["axis"], to.program.constants_of(operator)["index"].astype(np.int32)
    source = to.values[operator.inputs[0]]
    source = source if source.dense else to.copied(operator, source)
    shape, output = source.entries.shape, to.new(operator)
    parameters = {"outer": prod(shape[:axis]), "count": index.size, "from": shape[axis]}
    parameters |= {"inner": prod(shape[axis + 1 :]), "index": Constants(operator.constants["index"], index)}
    to.step(
        tensor_kernels.gather(source.dtype), parameters, [Argument(source), Argument(output, written=True)], operator
    )


def _linear(to: Lowering, operator: Operator) -> None:
    to.linear(operator, None)


def _matmul(to: Lowering, operator: Operator) -> None:
    a, b = (to.values[name] for name in operator.inputs)
    if operator.attributes["transpose_b"] is False:
        b = b.seen_as(b.entries.swapaxes(-1, -2))
    seen = [to.matrices(operator, tensor, dense=False) for tensor in (a, b)]
    (batches, heads, rows, inner), columns = seen[0].entries.shape, seen[1].entries.shape[-2]
    parameters = {"batches": batches, "heads": heads, "rows": rows, "columns": columns, "inner": inner}
    parameters |= {"a": seen[0].entries.strides, "b": seen[1].entries.strides}
    arguments = [*map(Argument, seen), Argument(to.new(operator), written=True)]
    to.step(tensor_kernels.matmul(a.dtype, b.dtype), parameters, arguments, operator)


def _by_rows(
    to: Lowering, operator: Operator, make: Callable[..., Kernel], parameters: dict[str, Any], *more: Argument
) -> None:
    """A step of one input, arguments between it and the output, and one output, row by row."""
    source, target = to.read(operator), to.write(operator)
    rows = source.tensor.entries.shape[0]
    to.step(make(source.tensor.dtype, target.tensor.dtype), parameters, [source, *more, target], operator, rows)


def _requantize(to: Lowering, operator: Operator) -> None:
    channels = to.program.values[operator.output].shape[-1]
    _by_rows(to, operator, row_kernels.requantize, {"channels": channels, **to.scale(operator)})


def _add(to: Lowering, operator: Operator) -> None:
    a, b, target = to.read(operator), to.read(operator, 1), to.write(operator)
    (rows, channels), repeated = a.tensor.entries.shape, b.tensor.entries.shape[0]
    types, scale = (a.tensor.dtype, b.tensor.dtype, target.tensor.dtype), to.scale(operator)
    if repeated == rows:
        to.step(row_kernels.add(*types), {"channels": channels, **scale}, [a, b, target], operator, rows)
        return
    parameters = {"repeats": rows // repeated, "rows": repeated, "channels": channels, **scale}
    whole = [Argument(a.tensor), Argument(b.tensor), Argument(target.tensor, written=True)]
    to.step(row_kernels.add_repeated(*types), parameters, whole, operator)


def _layernorm(to: Lowering, operator: Operator) -> None:
    attributes, constants = operator.attributes, to.program.constants_of(operator)
    newton, shifted = attributes.get("newton_steps", 0) > 0, "channel_shift" in constants
    types = {"multiplier": np.int32, "bias": np.int64, "shift": np.uint8, "channel_shift": np.uint8}
    parameters: dict[str, Any] = {"channels": constants["multiplier"].size}
    parameters |= {key: attributes[key] for key in ("normalizer_shift", "square_shift") if key in attributes}
    parameters |= {"newton_steps": attributes["newton_steps"]} if newton else {}
    parameters |= {r: Constants(operator.constants[r], array.astype(types[r])) for r, array in constants.items()}
    parameters |= limits_of(operator, to.program)

    def make(x: np.dtype, y: np.dtype) -> Kernel:
        return function_kernels.layernorm(x, y, attributes["method"], newton=newton, channel_shift=shifted)

    _by_rows(to, operator, make, parameters)


def _softmax(to: Lowering, operator: Operator) -> None:
    dtype, parameters = to.table(operator)
    shape, more = to.program.values[operator.output].shape, []
    if "mask" in operator.constants:
        mask = np.broadcast_to(to.program.constants_of(operator)["mask"], shape).astype(np.uint8)
        more.append(Argument(to.plan.constant(mask), shape[-1]))
    normalization, bits = operator.attributes.get("normalization", ""), operator.attributes["bits"]

    def make(x: np.dtype, y: np.dtype) -> Kernel:
        return function_kernels.softmax(x, y, dtype, normalization, bits, masked=bool(more))

    _by_rows(to, operator, make, {"keys": shape[-1], **parameters}, *more)


def _weighted_mean(to: Lowering, operator: Operator) -> None:
    sums, weights = to.read(operator), to.read(operator, 1)
    target = to.write(operator)
    parameters = {"channels": sums.row, "keys": weights.row, "shift": operator.attributes["shift"]}
    parameters |= {"multiplier": operator.attributes["multiplier"], **limits_of(operator, to.program)}
    kernel = function_kernels.weighted_mean(weights.tensor.dtype, target.tensor.dtype)
    to.step(kernel, parameters, [sums, weights, target], operator, sums.tensor.entries.shape[0])


def _gelu(to: Lowering, operator: Operator) -> None:
    attributes, value = operator.attributes, to.program.values[operator.inputs[0]]
    half, channels = 1 << (value.bits - 1), value.shape[-1]
    if attributes["kind"] != "shift":
        table = Constants(f"{operator.name}.table", gelu_table(to.program, operator))
        _by_rows(to, operator, function_kernels.lookup, {"channels": channels, "offset": half, "table": table})
        return
    numbers = {key: number for key, number in attributes.items() if key not in ("kind", "bits")}
    parameters = {"channels": channels, "lowest": -half, **numbers, **limits_of(operator, to.program)}
    source, target = to.read(operator), to.write(operator)
    line = to.scratch(target.tensor.dtype, 2 * half)
    kernel = function_kernels.shift_gelu(source.tensor.dtype, target.tensor.dtype)
    to.step(kernel, parameters, [source, target, line], operator, source.tensor.entries.shape[0])


def _upsample(to: Lowering, operator: Operator) -> None:
    to.upsampled(operator, to.new(operator), operator)


def _argmax(to: Lowering, operator: Operator) -> None:
    source, output = to.values[operator.inputs[0]], to.new(operator)
    classes, height, width = source.entries.shape
    parameters = {"classes": classes, "height": height, "width": width, "x": source.entries.strides}
    arguments = [Argument(source), Argument(output, written=True)]
    to.step(tensor_kernels.argmax(source.dtype, output.dtype), parameters, arguments, operator)


OPERATORS: dict[str, Callable[[Lowering, Operator], None]] = {
    **MOVES,
    "quantize_input": _quantize_input,
    "patches": _patches,
    "gather": _gather,
    "linear": _linear,
    "matmul": _matmul,
    "requantize": _requantize,
    "add": _add,
    "layernorm": _layernorm,
    "softmax": _softmax,
    "exponential": _softmax,
    "weighted_mean": _weighted_mean,
    "gelu": _gelu,
    "upsample": _upsample,
    "argmax": _argmax,
}
Lowering.operators = OPERATORS
