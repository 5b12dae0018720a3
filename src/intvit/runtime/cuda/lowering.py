"""From an integer program to the cuda runtime's plan.

Functions of at most 16 bits become tables, groups of operators fused steps, and everything else one step of a general
kernel for each operator. No torch and no triton.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from intvit.program.program import Operator, Program, limits
from intvit.program.tables import gelu_table, pixel_table
from intvit.runtime.cuda.fusion import CudaFusion, PatchesGroup, TabledLinearGroup
from intvit.runtime.cuda.packing import BLOCK, pack
from intvit.runtime.cuda.steps import Kind, Step
from intvit.runtime.fusion import AttentionGroup, LinearGroup
from intvit.runtime.lowering import MOVES, dense_rows
from intvit.runtime.lowering import Lowering as Base
from intvit.runtime.plan import ExecutionPlan, Tensor

ROW_ALIGNMENT = 16  # bytes: rows of values that begin there are loaded in words


def lower(program: Program, *, fuse: bool) -> ExecutionPlan[Step]:
    """The plan of a checked program. Without `fuse` every operator's output is in the plan's values, and stays."""
    return Lowering(program, fuse=fuse).plan


class Lowering(Base[Step]):
    """Appends the steps of one operator after the other to a plan."""

    fusion_rules = CudaFusion

    def step(
        self,
        kind: Kind,
        operator: Operator,
        inputs: dict[str, Tensor],
        output: Tensor,
        constants: dict[str, np.ndarray] | None = None,
        **options: Any,
    ) -> None:
        self.plan.steps.append(Step(kind, operator.name, inputs, output, constants or {}, options))

    def copy(self, operator: Operator, source: Tensor, target: Tensor) -> None:
        self.step(Kind.COPY, operator, {"source": source}, target)

    def rows(self, operator: Operator, name: str) -> Tensor:
        """The value as rows of one distance, over all images: [.., C] dense along C, or a dense copy."""
        tensor = self.values[name]
        return tensor if self.stacked(tensor, 1) and dense_rows(tensor) else self.copied(operator, tensor)

    def stacked(self, tensor: Tensor, axes: int) -> bool:
        """Whether images and all axes but the last `axes` are one axis of equal strides."""
        lead = tensor.entries.shape[:-axes]
        if self.plan.buffers[tensor.buffer].data is not None:  # a constant: equal for all images
            return prod(lead) == 1
        flat = tensor.entries.reshape(-1, *tensor.entries.shape[-axes:])
        if not np.may_share_memory(flat, tensor.entries):
            return False
        return len(flat) == 1 or len(flat) * flat.strides[0] == tensor.whole.size

    def multiply_shift(self, operator: Operator) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Multipliers and shift for every channel of a requantize or an add, and the limits of its output."""
        constants, value = self.program.constants_of(operator), self.program.values[operator.output]
        low, top = limits(value.bits, value.signed)
        roles = {"multiplier_a": "multiplier", "multiplier": "multiplier"}
        channels = {
            roles.get(role, role): np.broadcast_to(array, value.shape[-1:]).astype(np.int32)
            for role, array in constants.items()
        }
        return channels, {"low": low, "top": top}

    # ------------------------------------------------------------------------------------------------- groups

    def group(self, group: LinearGroup | AttentionGroup | TabledLinearGroup | PatchesGroup) -> None:
        if isinstance(group, PatchesGroup):
            image = {"image": self.values[self.program.input]}
            table = {"table": pixel_table(self.program, group.pixels)}
            patch = group.last.attributes["patch"]
            self.step(Kind.PATCHES, group.last, image, self.new(group.last), table, patch=patch)
        elif isinstance(group, AttentionGroup) and self.fits(group):
            self.attention(group)
        elif not isinstance(group, AttentionGroup) and _is_int8(self.program.constants_of(group.linear)["weight"]):
            self.linear_with(group)
        else:
            for operator in vars(group).values():
                OPERATORS[operator.op](self, operator)

    def linear_with(self, group: LinearGroup | TabledLinearGroup) -> None:
        linear, last = group.linear, group.last if isinstance(group, LinearGroup) else group.requantize
        inputs = {"x": self.rows(linear, linear.inputs[0])}
        constants, options = self.multiply_shift(last)
        if last.op == "add":
            residual = self.values[last.inputs[1]]
            fits = dense_rows(residual) and _row_stride(residual) is not None
            inputs["residual"] = residual if fits else self.copied(last, residual)
        mode = "add" if last.op == "add" else "requantize"
        weights, options["packed"] = self.weights(linear)
        constants |= weights
        if isinstance(group, TabledLinearGroup):
            constants["table"] = gelu_bytes(self.program, group.last)[0]
        self.step(Kind.LINEAR, group.last, inputs, self.new(group.last), constants, mode=mode, **options)

    def weights(self, linear: Operator) -> tuple[dict[str, np.ndarray], bool]:
        """Weight int8 [N, K], packed where 4 bits are enough, and the bias of what the kernel multiplies; if packed."""
        constants, x = self.program.constants_of(linear), self.program.values[linear.inputs[0]]
        weight, bias = constants["weight"].astype(np.int8), constants["bias"].astype(np.int64)
        if not x.signed:  # the kernel has x - 128
            bias = bias + 128 * weight.sum(1, dtype=np.int64)
        smaller = weight.shape[1] > BLOCK // 2  # a block is packed into half as many bytes
        packed = bool(weight.min() >= -8 and weight.max() <= 7) and smaller
        arrays = {
            "weight": pack(weight) if packed else weight,
            "bias": bias.astype(np.int32),
        }  # modulo 2^32, as sums are
        return arrays, packed

    def fits(self, group: AttentionGroup) -> bool:
        """Whether the kernel takes the group: one multiplier for all logits, a bias equal for all images, four axes."""
        constants = self.program.constants_of(group.logits)
        if any(array.size > 1 for array in constants.values()) or len(self.program.values[group.last.output].shape) > 4:
            return False
        if group.logits.op == "add":
            bias = self.values[group.logits.inputs[1]]
            return self.plan.buffers[bias.buffer].data is not None
        return True

    def attention(self, group: AttentionGroup) -> None:
        products, logits, softmax, last = group.products, group.logits, group.softmax, group.last
        query = self.matrices(products, self.values[products.inputs[0]])
        key = self.values[products.inputs[1]]
        key = self.matrices(products, key if products.attributes["transpose_b"] else _turned(key))
        value = self.values[group.weighted.inputs[1]]
        value = self.turned_values(
            group.weighted, value if group.weighted.attributes["transpose_b"] else _turned(value)
        )
        inputs = {"q": query, "k": key, "v": value}
        constants = self.program.constants_of(logits)
        options: dict[str, Any] = {
            "multiplier": int(constants["multiplier_a" if logits.op == "add" else "multiplier"][0]),
            "multiplier_b": int(constants["multiplier_b"][0]) if "multiplier_b" in constants else 0,
            "shift": int(constants["shift"][0]),
            "logit_limits": limits(self.program.values[logits.output].bits, True),
        }
        shape = self.program.values[logits.output].shape
        if logits.op == "add":
            inputs["bias"] = self.per_logit(self.plan.content(self.values[logits.inputs[1]]), shape)
        if "mask" in softmax.constants:
            mask = self.program.constants_of(softmax)["mask"].astype(np.uint8)
            inputs["mask"] = self.per_logit(mask, shape)
        options |= self.normalization(softmax)
        if last.op == "weighted_mean":
            ending: dict[str, np.ndarray] = {}
            options |= self.mean(last)
        else:
            ending, bounds = self.multiply_shift(last)
            options |= bounds
        ending["table"] = self.table(softmax)
        output = _with_heads(self.new(last, self.following_axes(last)))
        if not self.stacked(output, 3):  # an order of axes that the kernel does not store
            output = _with_heads(self.new(last))
        self.step(Kind.ATTENTION, last, inputs, output, ending, **options)

    def matrices(self, operator: Operator, tensor: Tensor) -> Tensor:
        """[.., heads, M, K] dense along K, whose axes before the heads and the images are one."""
        fits = dense_rows(tensor) and self.stacked(_with_heads(tensor), 3)
        return _with_heads(tensor if fits else self.copied(operator, tensor))

    def per_logit(self, array: np.ndarray | None, shape: tuple[int, ...]) -> Tensor:
        """A constant with an entry for every logit of `shape`, equal along axes before the last two where it was so."""
        assert array is not None  # `fits` has seen that it is a constant
        while array.ndim < len(shape):
            array = array[None]
        rows = np.broadcast_to(array, (*array.shape[:-2], *shape[-2:]))
        padding = [(0, 0)] * (rows.ndim - 1) + [(0, -rows.shape[-1] % ROW_ALIGNMENT)]
        tensor = self.plan.constant(np.pad(rows, padding))
        tensor = tensor.seen_as(tensor.entries[..., : shape[-1]])
        return _with_heads(tensor.seen_as(np.broadcast_to(tensor.entries, shape)))

    def turned_values(self, operator: Operator, tensor: Tensor) -> Tensor:
        """Values [.., D, N] dense along the tokens N: the linear layer stores them so, or else a copy does."""
        tensor = _with_heads(tensor)
        stored = self.stored_turned(tensor)
        if stored is not None:
            return stored
        *lead, size, tokens = tensor.entries.shape
        copy = self.plan.tensor((*lead, size, -(-tokens // ROW_ALIGNMENT) * ROW_ALIGNMENT), tensor.dtype)
        copy = copy.seen_as(copy.entries[..., :tokens])
        self.copy(operator, tensor, copy)
        return copy

    def stored_turned(self, values: Tensor) -> Tensor | None:
        """Splits the linear layer that made values [groups, heads, D, N]: their channels get a step of their own.

        None where no layer made them, or not as rows of all tokens of one group after the other.
        """
        index = next((i for i, step in enumerate(self.plan.steps) if step.output.buffer == values.buffer), None)
        groups, heads, size, tokens = values.entries.shape
        step = None if index is None else self.plan.steps[index]
        if index is None or step is None or step.kind is not Kind.LINEAR or step.options["mode"] != "requantize":
            return None
        wide = values.whole.shape[-1]
        rows, first, count = values.whole.size // wide, values.offset, heads * size
        expected = np.empty((groups, tokens, wide), np.int8)[..., :count].reshape(groups, tokens, heads, size)
        if _strides(expected.transpose(0, 2, 3, 1)) != _strides(values.entries) or rows != groups * tokens:
            return None
        if first + count != wide or first == 0 or "table" in step.constants:
            return None
        if any(other.output.buffer == values.buffer for other in self.plan.steps[index + 1 :]):
            return None
        part = {role: array[first:] for role, array in step.constants.items()}
        rest = {role: array[:first] for role, array in step.constants.items()}
        stored = self.plan.tensor((groups, heads, size, -(-tokens // ROW_ALIGNMENT) * ROW_ALIGNMENT), values.dtype)
        turned = stored.seen_as(stored.entries[..., :tokens])
        options = {key: value for key, value in step.options.items() if key != "mode"}
        self.plan.steps[index : index + 1] = [
            replace(step, output=step.output.seen_as(step.output.entries[..., :first]), constants=rest),
            Step(Kind.LINEAR_TURNED, step.name, step.inputs, turned, part, options),
        ]
        return turned

    # ------------------------------------------------------------------------------------------------- softmax

    def table(self, softmax: Operator) -> np.ndarray:
        """Weights of 8 bits as bytes, all others and exponentials as int32."""
        table = self.distance_table(softmax)
        narrow = softmax.op == "exponential" and softmax.attributes["bits"] <= 8
        return table.astype(np.uint8 if narrow else np.int32)

    @staticmethod
    def normalization(softmax: Operator) -> dict[str, Any]:
        attributes = softmax.attributes
        kind = attributes["normalization"] if softmax.op == "softmax" else "deferred"
        return {"softmax": kind, "bits": attributes["bits"], "weight_bits": attributes["bits"] - (kind == "floor")}

    @staticmethod
    def mean(operator: Operator) -> dict[str, Any]:
        attributes, (low, top) = operator.attributes, limits(operator.attributes["bits"], True)
        return {"mean": (attributes["multiplier"], attributes["shift"]), "low": low, "top": top}


def _is_int8(weight: np.ndarray) -> bool:
    return int(weight.max()) <= 127


def _turned(tensor: Tensor) -> Tensor:
    return tensor.seen_as(tensor.entries.swapaxes(-1, -2))


def _with_heads(tensor: Tensor) -> Tensor:
    """[groups, heads, M, K] of a matrix for each group and head; axes before the last lead axis must be one."""
    entries = tensor.entries
    while entries.ndim < 4:
        entries = entries[None]
    flat = entries.reshape(-1, *entries.shape[-3:])
    return tensor.seen_as(flat if np.may_share_memory(flat, entries) else entries)


def _strides(entries: np.ndarray) -> list[int]:
    """Those of the axes that have more than one entry."""
    return [stride for stride, size in zip(entries.strides, entries.shape, strict=True) if size > 1]


def _row_stride(tensor: Tensor) -> int | None:
    """Distance of the rows of one image; None where they have several."""
    flat = tensor.entries.reshape(-1, tensor.entries.shape[-1])
    return flat.strides[0] if np.may_share_memory(flat, tensor.entries) else None


# ---------------------------------------------------------------- operators alone


def _quantize_input(to: Lowering, operator: Operator) -> None:
    x = to.rows(operator, operator.inputs[0])
    flat = [t.seen_as(t.entries.reshape(len(t.entries), -1)) for t in (x, to.new(operator))]
    to.step(Kind.LOOK_UP, operator, {"x": flat[0]}, flat[1], {"table": pixel_table(to.program, operator)})


def _patches(to: Lowering, operator: Operator) -> None:
    size, source = operator.attributes["patch"], to.values[operator.inputs[0]]
    channels, height, width = source.entries.shape
    tiles = source.entries.reshape(channels, height // size, size, width // size, size).transpose(1, 3, 0, 2, 4)
    output = to.new(operator)
    to.copy(operator, source.seen_as(tiles), output.seen_as(output.entries.reshape(tiles.shape)))


def _concat(to: Lowering, operator: Operator) -> None:
    """Parts that a linear layer makes for this alone are stored in their place; the others are copied."""
    axis, output, start = operator.attributes["axis"], to.new(operator), 0
    for name in operator.inputs:
        part = to.values[name]
        stop = start + part.entries.shape[axis]
        place = output.seen_as(output.entries[(slice(None),) * axis + (slice(start, stop),)])
        start = stop
        index = next((i for i, step in enumerate(to.plan.steps) if step.output is part), None)
        alone = len(to.fusion.readers[name]) == 1 and name != to.program.output and _row_stride(place) is not None
        if index is None or to.plan.steps[index].kind is not Kind.LINEAR or not alone:
            to.copy(operator, part, place)
            continue
        to.plan.steps[index] = replace(to.plan.steps[index], output=place)
        to.values[name] = place


def _gather(to: Lowering, operator: Operator) -> None:
    axis, index = operator.attributes["axis"], to.program.constants_of(operator)["index"].astype(np.int32)

    def three(tensor: Tensor) -> Tensor:
        shape = tensor.entries.shape
        return tensor.seen_as(tensor.entries.reshape(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])))

    source = to.values[operator.inputs[0]]
    whole = source.dense and source.entries.size == source.whole.size and to.plan.buffers[source.buffer].data is None
    source = source if whole else to.copied(operator, source)
    to.step(Kind.GATHER, operator, {"x": three(source)}, three(to.new(operator)), {"index": index})


def _linear(to: Lowering, operator: Operator) -> None:
    constants = to.program.constants_of(operator)
    if _is_int8(constants["weight"]):
        x = to.rows(operator, operator.inputs[0])
        weights, packed = to.weights(operator)
        to.step(Kind.LINEAR, operator, {"x": x}, to.new(operator), weights, mode="sums", packed=packed)
        return
    weight, x = to.plan.constant(constants["weight"]), to.values[operator.inputs[0]]
    x = x if to.stacked(x, 1) else to.copied(operator, x)
    output, bias = to.new(operator), {"bias": constants["bias"].astype(np.int32)}
    flat = [t.seen_as(t.entries.reshape(1, 1, -1, t.entries.shape[-1])) for t in (x, _turned(weight), output)]
    to.step(Kind.MATMUL, operator, {"a": flat[0], "b": flat[1]}, flat[2], bias)


def _matmul(to: Lowering, operator: Operator) -> None:
    a, b = (to.values[name] for name in operator.inputs)
    b = _turned(b) if operator.attributes["transpose_b"] else b
    a, b = (_with_heads(t if to.stacked(_with_heads(t), 3) else to.copied(operator, t)) for t in (a, b))
    to.step(Kind.MATMUL, operator, {"a": a, "b": b}, _with_heads(to.new(operator)))


def _requantize(to: Lowering, operator: Operator) -> None:
    constants, options = to.multiply_shift(operator)
    x = to.rows(operator, operator.inputs[0])
    to.step(Kind.REQUANTIZE, operator, {"x": x}, to.new(operator), constants, **options)


def _add(to: Lowering, operator: Operator) -> None:
    constants, options = to.multiply_shift(operator)
    a, b = to.rows(operator, operator.inputs[0]), to.values[operator.inputs[1]]
    b = b if dense_rows(b) and _row_stride(b) is not None else to.copied(operator, b)
    to.step(Kind.ADD, operator, {"a": a, "b": b}, to.new(operator), constants, **options)


def _layernorm(to: Lowering, operator: Operator) -> None:
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


def _softmax(to: Lowering, operator: Operator) -> None:
    arrays: dict[str, np.ndarray] = {"table": to.distance_table(operator).astype(np.int32)}
    if "mask" in operator.constants:
        shape = to.program.values[operator.output].shape
        mask = np.broadcast_to(to.program.constants_of(operator)["mask"], shape).astype(np.uint8)
        arrays["mask"] = mask.reshape(-1, shape[-1])
    x = to.rows(operator, operator.inputs[0])
    to.step(Kind.SOFTMAX, operator, {"x": x}, to.new(operator), arrays, **to.normalization(operator))


def _weighted_mean(to: Lowering, operator: Operator) -> None:
    sums, weights = (to.rows(operator, name) for name in operator.inputs)
    inputs = {"sums": sums, "weights": weights}
    to.step(Kind.WEIGHTED_MEAN, operator, inputs, to.new(operator), {}, **to.mean(operator))


def _gelu(to: Lowering, operator: Operator) -> None:
    kind = Kind.GELU_BY_MAXIMUM if operator.attributes["kind"] == "shift" else Kind.LOOK_UP
    x = to.rows(operator, operator.inputs[0])
    to.step(kind, operator, {"x": x}, to.new(operator), {"table": gelu_bytes(to.program, operator)})


def gelu_bytes(program: Program, operator: Operator) -> np.ndarray:
    """`gelu_table` for all bytes from -128 on: [1, 256], or [128, 256] by the row's maximum where that matters."""
    table = np.atleast_2d(gelu_table(program, operator))
    rest = 128 - table.shape[-1] // 2
    lines = 128 if operator.attributes["kind"] == "shift" else 1
    return np.pad(table, [(0, lines - len(table)), (rest, rest)])


OPERATORS: dict[str, Callable[[Lowering, Operator], None]] = {
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
}
Lowering.operators = OPERATORS
