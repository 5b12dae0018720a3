"""Operators that stand in no group: one step of a general kernel each. No torch and no triton."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np

from intvit.program.program import Operator, limits
from intvit.program.tables import pixel_table
from intvit.runtime.cuda.builder import Builder, gelu_bytes, is_int8, row_stride, turned, with_heads
from intvit.runtime.cuda.steps import Kind
from intvit.runtime.lowering import MOVES, dense_rows
from intvit.runtime.plan import Tensor


def _quantize_input(to: Builder, operator: Operator) -> None:
    x = to.rows(operator, operator.inputs[0])
    flat = [t.seen_as(t.entries.reshape(len(t.entries), -1)) for t in (x, to.new(operator))]
    to.step(Kind.LOOK_UP, operator, {"x": flat[0]}, flat[1], {"table": pixel_table(to.program, operator)})


def _patches(to: Builder, operator: Operator) -> None:
    size, source = operator.attributes["patch"], to.values[operator.inputs[0]]
    channels, height, width = source.entries.shape
    tiles = source.entries.reshape(channels, height // size, size, width // size, size).transpose(1, 3, 0, 2, 4)
    output = to.new(operator)
    to.copy(operator, source.seen_as(tiles), output.seen_as(output.entries.reshape(tiles.shape)))


def _concat(to: Builder, operator: Operator) -> None:
    """Parts that a linear layer makes for this alone are stored in their place; the others are copied."""
    axis, output, start = operator.attributes["axis"], to.new(operator), 0
    for name in operator.inputs:
        part = to.values[name]
        stop = start + part.entries.shape[axis]
        place = output.seen_as(output.entries[(slice(None),) * axis + (slice(start, stop),)])
        start = stop
        index = next((i for i, step in enumerate(to.plan.steps) if step.output is part), None)
        alone = len(to.fusion.readers[name]) == 1 and name != to.program.output and row_stride(place) is not None
        if index is None or to.plan.steps[index].kind is not Kind.LINEAR or not alone:
            to.copy(operator, part, place)
            continue
        to.plan.steps[index] = replace(to.plan.steps[index], output=place)
        to.values[name] = place


def _gather(to: Builder, operator: Operator) -> None:
    axis, index = operator.attributes["axis"], to.program.constants_of(operator)["index"].astype(np.int32)

    def three(tensor: Tensor) -> Tensor:
        shape = tensor.entries.shape
        return tensor.seen_as(tensor.entries.reshape(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])))

    source = to.values[operator.inputs[0]]
    whole = source.dense and source.entries.size == source.whole.size and to.plan.buffers[source.buffer].data is None
    source = source if whole else to.copied(operator, source)
    to.step(Kind.GATHER, operator, {"x": three(source)}, three(to.new(operator)), {"index": index})


def _linear(to: Builder, operator: Operator) -> None:
    constants = to.program.constants_of(operator)
    if is_int8(constants["weight"]):
        x = to.rows(operator, operator.inputs[0])
        weights, packed = to.weights(operator)
        to.step(Kind.LINEAR, operator, {"x": x}, to.new(operator), weights, mode="sums", packed=packed)
        return
    weight, x = to.plan.constant(constants["weight"]), to.values[operator.inputs[0]]
    x = x if to.stacked(x, 1) else to.copied(operator, x)
    output, bias = to.new(operator), {"bias": constants["bias"].astype(np.int32)}
    flat = [t.seen_as(t.entries.reshape(1, 1, -1, t.entries.shape[-1])) for t in (x, turned(weight), output)]
    to.step(Kind.MATMUL, operator, {"a": flat[0], "b": flat[1]}, flat[2], bias)


def _matmul(to: Builder, operator: Operator) -> None:
    a, b = (to.values[name] for name in operator.inputs)
    b = turned(b) if operator.attributes["transpose_b"] else b
    a, b = (with_heads(t if to.stacked(with_heads(t), 3) else to.copied(operator, t)) for t in (a, b))
    to.step(Kind.MATMUL, operator, {"a": a, "b": b}, with_heads(to.new(operator)))


def _requantize(to: Builder, operator: Operator) -> None:
    constants, options = to.multiply_shift(operator)
    x = to.rows(operator, operator.inputs[0])
    to.step(Kind.REQUANTIZE, operator, {"x": x}, to.new(operator), constants, **options)


def _add(to: Builder, operator: Operator) -> None:
    constants, options = to.multiply_shift(operator)
    a, b = to.rows(operator, operator.inputs[0]), to.values[operator.inputs[1]]
    b = b if dense_rows(b) and row_stride(b) is not None else to.copied(operator, b)
    to.step(Kind.ADD, operator, {"a": a, "b": b}, to.new(operator), constants, **options)


def _layernorm(to: Builder, operator: Operator) -> None:
    constants, attributes = to.program.constants_of(operator), operator.attributes
    shift = constants["shift"].astype(np.int64)
    arrays = {
        "multiplier": constants["multiplier"].astype(np.int32),
        "bias": constants["bias"].astype(np.int64) + (np.int64(1) << (shift - 1)),
        "shift": shift.astype(np.int32),
    }
    width, size = to.program.values[operator.inputs[0]].bits, len(shift)
    if "channel_shift" in constants:
        arrays["channel_shift"] = constants["channel_shift"].astype(np.int32)
        width += int(constants["channel_shift"].max())
    k, method = attributes["normalizer_shift"], attributes["method"]
    # |y F| < 2^41 sqrt(C) (exact), 2^31 (ivit), 2^32 (ibert): docs/program-format.md, "Widths, and what is proven"
    n_bits = {"exact": 41 + (size.bit_length() + 1) // 2, "ivit": 31, "ibert": 32}[method] - k
    narrow = size << width < 1 << 31 and k <= 31 and n_bits <= 31
    low, top = limits(attributes["bits"], True)
    options = {"newton_steps": 0, "square_shift": 0} | {key: attributes[key] for key in attributes if key != "bits"}
    x = to.rows(operator, operator.inputs[0])
    to.step(Kind.LAYERNORM, operator, {"x": x}, to.new(operator), arrays, narrow=narrow, low=low, top=top, **options)


def _softmax(to: Builder, operator: Operator) -> None:
    arrays: dict[str, np.ndarray] = {"table": to.distance_table(operator).astype(np.int32)}
    if "mask" in operator.constants:
        shape = to.program.values[operator.output].shape
        mask = np.broadcast_to(to.program.constants_of(operator)["mask"], shape).astype(np.uint8)
        arrays["mask"] = mask.reshape(-1, shape[-1])
    x = to.rows(operator, operator.inputs[0])
    to.step(Kind.SOFTMAX, operator, {"x": x}, to.new(operator), arrays, **to.normalization(operator))


def _weighted_mean(to: Builder, operator: Operator) -> None:
    sums, weights = (to.rows(operator, name) for name in operator.inputs)
    inputs = {"sums": sums, "weights": weights}
    to.step(Kind.WEIGHTED_MEAN, operator, inputs, to.new(operator), {}, **to.mean(operator))


def _gelu(to: Builder, operator: Operator) -> None:
    kind = Kind.GELU_BY_MAXIMUM if operator.attributes["kind"] == "shift" else Kind.LOOK_UP
    x = to.rows(operator, operator.inputs[0])
    to.step(kind, operator, {"x": x}, to.new(operator), {"table": gelu_bytes(to.program, operator)})


def _upsample(to: Builder, operator: Operator) -> None:
    inputs, factor = {"x": to.values[operator.inputs[0]]}, operator.attributes["factor"]
    to.step(Kind.UPSAMPLE, operator, inputs, to.new(operator), factor=factor)


def _argmax(to: Builder, operator: Operator) -> None:
    to.step(Kind.LABELS, operator, {"x": to.values[operator.inputs[0]]}, to.new(operator), factor=1)


OPERATORS: dict[str, Callable[[Builder, Operator], None]] = {
    **MOVES,
    "concat": _concat,
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
