"""From an integer program to the native runtime's plan.

Functions of at most 16 bits become tables (`intvit.program.tables`), groups of operators fused steps. Everything else
is one step for each operator.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from intvit.program.program import Operator, Program, limits
from intvit.program.tables import gelu_table, pixel_table
from intvit.runtime.fusion import AttentionGroup, Group, LabelsGroup, LinearGroup
from intvit.runtime.lowering import MOVES, dense_rows
from intvit.runtime.lowering import Lowering as Base
from intvit.runtime.native.steps import Kind, Step
from intvit.runtime.plan import ExecutionPlan, Tensor

ACCUMULATORS, REQUANTIZED, ADDED = range(3)  # what follows a product: epilogue.h
DEFERRED, ROUNDED, FLOOR = range(3)  # softmax.h
METHODS = ("exact", "ivit", "ibert")  # layernorm.cpp


def lower(program: Program, *, fuse: bool) -> ExecutionPlan[Step]:
    """The plan of a checked program. Without `fuse` every operator's output is in the plan's values, and stays."""
    return Lowering(program, fuse=fuse).plan


class Lowering(Base[Step]):
    """Appends the steps of one operator after the other to a plan."""

    def step(
        self,
        kind: Kind,
        operator: Operator,
        inputs: list[Tensor | None],
        output: Tensor,
        attributes: list[int] | None = None,
        constants: list[np.ndarray | None] | None = None,
    ) -> None:
        self.plan.steps.append(Step(kind, inputs, output, attributes or [], constants or [], operator.name))

    def copy(self, operator: Operator, source: Tensor, target: Tensor) -> None:
        if source.dtype == target.dtype:
            self.step(Kind.COPY, operator, [source], target)
            return
        size = source.entries.shape[-1]
        exact = [np.full(size, 2), None, np.full(size, 1)]  # (2 x + 1) >> 1 is x
        dense = source if source.dense else self.copied(operator, source)
        self.step(Kind.REQUANTIZE, operator, [dense], target, list(limits(32, True)), exact)

    def dense(self, operator: Operator, name: str) -> Tensor:
        tensor = self.values[name]
        return tensor if tensor.dense else self.copied(operator, tensor)

    def rows(self, operator: Operator, name: str) -> Tensor:
        """Dense along the last axis."""
        tensor = self.values[name]
        return tensor if dense_rows(tensor) else self.copied(operator, tensor)

    # ------------------------------------------------------------------------------------------------- groups

    def group(self, group: Group) -> None:
        if isinstance(group, LinearGroup):
            self.linear_with(group)
        elif isinstance(group, LabelsGroup):
            scores, factor = self.values[group.upsample.inputs[0]], group.upsample.attributes["factor"]
            self.step(Kind.UPSAMPLED_LABELS, group.last, [scores], self.labels(group), [factor])
        else:
            self.attention(group)

    def linear_with(self, group: LinearGroup) -> None:
        linear, last = group.linear, group.last
        if not _is_int8(self.program.constants_of(linear)["weight"]):
            _linear(self, linear)
            OPERATORS[last.op](self, last)
            return
        inputs: list[Tensor | None] = [self.dense(linear, linear.inputs[0])]
        if last.op == "add":
            inputs.append(self.dense(last, last.inputs[1]))
        attributes, constants = self.multiply_shift(last)
        mode = ADDED if last.op == "add" else REQUANTIZED
        packed = self.packed(linear)
        self.step(Kind.LINEAR, last, inputs, self.new(last), [mode, *attributes], [*packed, *constants])

    def packed(self, linear: Operator) -> list[np.ndarray | None]:
        constants = self.program.constants_of(linear)
        return [constants["weight"].astype(np.int8, copy=False), constants["bias"].astype(np.int32, copy=False)]

    def multiply_shift(self, operator: Operator) -> tuple[list[int], list[np.ndarray | None]]:
        """Limits of a requantize's or add's output; multiplier, that of the residual, and shift for every channel."""
        constants, value = self.program.constants_of(operator), self.program.values[operator.output]

        def channels(role: str) -> np.ndarray:
            return np.broadcast_to(constants[role].astype(np.int64), value.shape[-1:])

        if operator.op == "add":
            return list(limits(value.bits, True)), [channels(r) for r in ("multiplier_a", "multiplier_b", "shift")]
        return list(limits(value.bits, value.signed)), [channels("multiplier"), None, channels("shift")]

    def attention(self, group: AttentionGroup) -> None:
        products, logits, softmax, last = group.products, group.logits, group.softmax, group.last
        query, key, value = (self.rows(products, name) for name in (*products.inputs, group.weighted.inputs[1]))
        if not products.attributes["transpose_b"]:
            key = self.turned(products, key)
        if group.weighted.attributes["transpose_b"]:
            value = self.turned(group.weighted, value)
        shape = self.program.values[logits.output].shape
        bias = None
        if logits.op == "add":
            bias = self.rows(logits, logits.inputs[1])
            bias = bias.seen_as(np.broadcast_to(bias.entries, shape))
        bounds, constants = self.multiply_shift(logits)
        attributes = [ADDED if logits.op == "add" else REQUANTIZED, *bounds, *self.normalization(softmax)]
        if last.op == "weighted_mean":
            attributes += [1, *self.mean(last)]
            ending: list[np.ndarray | None] = []
        else:
            bounds, ending = self.multiply_shift(last)
            attributes += [0, 0, 0, *bounds]
        inputs = [query, key, value, bias, self.mask(softmax)]
        constants += [self.distance_table(softmax), *ending]
        self.step(Kind.ATTENTION, last, inputs, self.new(last, self.following_axes(last)), attributes, constants)

    def turned(self, operator: Operator, tensor: Tensor) -> Tensor:
        """The last two axes swapped, the last one dense."""
        tensor = tensor.seen_as(tensor.entries.swapaxes(-1, -2))
        return tensor if dense_rows(tensor) else self.copied(operator, tensor)

    # ------------------------------------------------------------------------------------------------- softmax

    def mask(self, softmax: Operator) -> Tensor | None:
        constants = self.program.constants_of(softmax)
        if "mask" not in constants:
            return None
        mask = self.plan.constant(constants["mask"].astype(np.uint8))
        return mask.seen_as(np.broadcast_to(mask.entries, self.program.values[softmax.output].shape))

    @staticmethod
    def normalization(softmax: Operator) -> list[int]:
        kinds = {"rounded": ROUNDED, "floor": FLOOR}
        return [kinds[softmax.attributes["normalization"]] if softmax.op == "softmax" else DEFERRED] + [
            softmax.attributes["bits"]
        ]

    @staticmethod
    def mean(operator: Operator) -> list[int]:
        attributes = operator.attributes
        return [attributes["multiplier"], attributes["shift"], *limits(attributes["bits"], True)]


# ---------------------------------------------------------------- operators alone


def _is_int8(weight: np.ndarray) -> bool:
    return int(weight.max()) <= 127


def _quantize_input(to: Lowering, operator: Operator) -> None:
    table = pixel_table(to.program, operator)
    channels = to.program.values[operator.output].shape[0]
    flat = [_flat(t, channels) for t in (to.dense(operator, operator.inputs[0]), to.new(operator))]
    to.step(Kind.LOOKUP, operator, [flat[0]], flat[1], [0], [table])


def _flat(tensor: Tensor, rows: int) -> Tensor:
    return tensor.seen_as(tensor.entries.reshape(rows, -1))


def _patches(to: Lowering, operator: Operator) -> None:
    size, source = operator.attributes["patch"], to.values[operator.inputs[0]]
    channels, height, width = source.entries.shape
    tiles = source.entries.reshape(channels, height // size, size, width // size, size).transpose(1, 3, 0, 2, 4)
    output = to.new(operator)
    to.step(Kind.COPY, operator, [source.seen_as(tiles)], output.seen_as(output.entries.reshape(tiles.shape)))


def _gather(to: Lowering, operator: Operator) -> None:
    axis, index = operator.attributes["axis"], to.program.constants_of(operator)["index"].astype(np.int64)

    def three(tensor: Tensor) -> Tensor:
        shape = tensor.entries.shape
        return tensor.seen_as(tensor.entries.reshape(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])))

    source = to.dense(operator, operator.inputs[0])
    to.step(Kind.GATHER, operator, [three(source)], three(to.new(operator)), [], [index])


def _linear(to: Lowering, operator: Operator) -> None:
    weight = to.program.constants_of(operator)["weight"]
    x = to.dense(operator, operator.inputs[0])
    if _is_int8(weight):
        to.step(Kind.LINEAR, operator, [x], to.new(operator), [ACCUMULATORS], to.packed(operator))
        return
    bias = to.program.constants_of(operator)["bias"].astype(np.int32)
    output, turned = to.new(operator), to.plan.constant(weight.T)
    flat = [t.seen_as(t.entries.reshape(-1, t.entries.shape[-1])) for t in (x, output)]
    to.step(Kind.MATMUL, operator, [flat[0], turned], flat[1], [], [bias])


def _matmul(to: Lowering, operator: Operator) -> None:
    a, b = (to.values[name] for name in operator.inputs)
    if operator.attributes["transpose_b"]:
        b = b.seen_as(b.entries.swapaxes(-1, -2))
    to.step(Kind.MATMUL, operator, [a, b], to.new(operator))


def _requantize(to: Lowering, operator: Operator) -> None:
    x = to.dense(operator, operator.inputs[0])
    to.step(Kind.REQUANTIZE, operator, [x], to.new(operator), *to.multiply_shift(operator))


def _add(to: Lowering, operator: Operator) -> None:
    inputs: list[Tensor | None] = [to.dense(operator, name) for name in operator.inputs]
    to.step(Kind.ADD, operator, inputs, to.new(operator), *to.multiply_shift(operator))


def _layernorm(to: Lowering, operator: Operator) -> None:
    attributes, constants = operator.attributes, to.program.constants_of(operator)
    numbers = [METHODS.index(attributes["method"]), *limits(attributes["bits"], True), attributes["normalizer_shift"]]
    numbers += [attributes.get("newton_steps", 0), attributes.get("square_shift", 0)]
    roles = [constants.get(role) for role in ("multiplier", "bias", "shift", "channel_shift")]
    arrays = [None if array is None else array.astype(np.int64) for array in roles]
    to.step(Kind.LAYERNORM, operator, [to.dense(operator, operator.inputs[0])], to.new(operator), numbers, arrays)


def _softmax(to: Lowering, operator: Operator) -> None:
    inputs = [to.dense(operator, operator.inputs[0]), to.mask(operator)]
    to.step(Kind.SOFTMAX, operator, inputs, to.new(operator), to.normalization(operator), [to.distance_table(operator)])


def _weighted_mean(to: Lowering, operator: Operator) -> None:
    inputs: list[Tensor | None] = [to.dense(operator, name) for name in operator.inputs]
    to.step(Kind.WEIGHTED_MEAN, operator, inputs, to.new(operator), to.mean(operator))


def _gelu(to: Lowering, operator: Operator) -> None:
    table = gelu_table(to.program, operator)
    rest = 128 - table.shape[-1] // 2  # to all 256 bytes; with ShiftGELU to all 128 maxima
    by_row = operator.attributes["kind"] == "shift"
    table = np.pad(table, [(0, 128 - len(table)), (rest, rest)] if by_row else [(rest, rest)])
    to.step(Kind.LOOKUP, operator, [to.dense(operator, operator.inputs[0])], to.new(operator), [int(by_row)], [table])


def _upsample(to: Lowering, operator: Operator) -> None:
    to.step(Kind.UPSAMPLE, operator, [to.values[operator.inputs[0]]], to.new(operator), [operator.attributes["factor"]])


def _argmax(to: Lowering, operator: Operator) -> None:
    to.step(Kind.ARGMAX, operator, [to.values[operator.inputs[0]]], to.new(operator))


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
