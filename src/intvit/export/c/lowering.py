"""From an integer program to the steps of a C model: views, fused groups and tables as in the fast runtimes.

A linear layer's add writes over the residual stream, and attention over its queries, where nothing reads those later.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from intvit.errors import IntVitError
from intvit.export.c import row_kernels, tensor_kernels
from intvit.export.c.attention import AttentionForm, attention
from intvit.export.c.steps import ROWS, AnyStep, Argument, Constants, Kernel, Parameter, Step
from intvit.program.program import Operator, Program, container, limits
from intvit.program.tables import exponent_table, weight_table
from intvit.runtime.fusion import AttentionGroup, Group, LabelsGroup, LinearGroup
from intvit.runtime.lowering import Lowering as Base
from intvit.runtime.plan import Tensor

INT16, INT32 = np.dtype(np.int16), np.dtype(np.int32)


class Lowering(Base[AnyStep]):
    """Appends the steps of one operator after the other to a plan."""

    def __init__(self, program: Program, *, fuse: bool) -> None:
        self.at = {operator.name: index for index, operator in enumerate(program.operators)}
        super().__init__(program, fuse=fuse)

    def step(
        self, kernel: Kernel, parameters: dict[str, Any], arguments: list[Argument], operator: Operator, rows: int = 0
    ) -> None:
        held = {key: int(value) if isinstance(value, np.integer) else value for key, value in parameters.items()}
        self.plan.steps.append(Step(kernel, held, arguments, rows, operator.name))

    def scratch(self, dtype: np.dtype, *shape: int) -> Argument:
        return Argument(self.plan.tensor(shape, dtype), written=True)

    def copy(self, operator: Operator, source: Tensor, target: Tensor) -> None:
        axes = [(n, a, b) for n, a, b in zip(source.entries.shape, *_strides(source, target), strict=True) if n > 1]
        merged: list[tuple[int, int, int]] = []
        for n, a, b in axes or [(1, 1, 1)]:  # an axis that continues the one before it joins it
            if merged and merged[-1][1] == n * a and merged[-1][2] == n * b:
                merged[-1] = (merged[-1][0] * n, a, b)
            else:
                merged.append((n, a, b))
        parameters = {"rank": len(merged), **dict(zip(("shape", "from", "to"), zip(*merged, strict=True), strict=True))}
        kernel = tensor_kernels.copy(source.dtype, target.dtype)
        self.step(kernel, parameters, [Argument(source), Argument(target, written=True)], operator)

    def rows_of(self, operator: Operator, tensor: Tensor, *, whole: bool = True) -> tuple[Tensor, int]:
        """The tensor as rows [R, C] and the entries from one to the next; a copy where it has no such form.

        whole: rows must follow each other without gaps.
        """
        channels = tensor.entries.shape[-1]
        entries = tensor.entries.reshape(-1, channels)
        strided = np.may_share_memory(entries, tensor.entries) and (channels == 1 or entries.strides[-1] == 1)
        row = entries.strides[0] if len(entries) > 1 else channels
        if not strided or (whole and row != channels) or row < channels:
            tensor = self.copied(operator, tensor)
            entries, row = tensor.entries.reshape(-1, channels), channels
        return tensor.seen_as(entries), row

    def read(self, operator: Operator, index: int = 0) -> Argument:
        """An input as dense rows."""
        return Argument(*self.rows_of(operator, self.values[operator.inputs[index]]))

    def write(self, operator: Operator) -> Argument:
        """A new dense output, row by row."""
        tensor = self.new(operator)
        return Argument(tensor, tensor.entries.shape[-1], written=True)

    def free(self, tensor: Tensor, operator: Operator, dtype: np.dtype) -> bool:
        """Whether the operator, the last of its group, may write over the tensor in entries of the type."""
        buffer = tensor.buffer
        if tensor.dtype != dtype or buffer == self.plan.input or self.plan.buffers[buffer].data is not None:
            return False
        names = [name for name, other in self.values.items() if other.buffer == buffer]
        readers = [reader for name in names for reader in self.fusion.readers[name]]
        last = max((self._position(reader) for reader in readers), default=0)
        return last <= self.at[operator.name] and self.program.output not in names

    def _position(self, operator: Operator) -> int:
        group = self.fusion.groups.get(operator.name)
        return self.at[operator.name if group is None else group.last.name]

    # ------------------------------------------------------------------------------------------------- groups

    def group(self, group: Group) -> None:
        if isinstance(group, LinearGroup):
            self.linear(group.linear, group.last)
        elif isinstance(group, LabelsGroup):
            self.upsampled(group.upsample, self.labels(group), group.last)
        else:
            self.attention(group)

    def upsampled(self, upsample: Operator, target: Tensor, end: Operator) -> None:
        """Enlarged scores, or with `argmax` as the end labels, row by row."""
        source = self.values[upsample.inputs[0]]
        classes, height, width = source.entries.shape
        parameters = {"classes": classes, "height": height, "width": width, "x": source.entries.strides}
        parameters["factor"] = upsample.attributes["factor"]
        arguments = [Argument(source), Argument(target, written=True), self.scratch(INT32, width, classes)]
        self.step(tensor_kernels.upsample(source.dtype, labels=end.op == "argmax"), parameters, arguments, end)

    def linear(self, linear: Operator, last: Operator | None) -> None:
        end, kind = last or linear, last.op if last else ""
        constant = self.program.constants[linear.constants["weight"]]
        source, stride = self.rows_of(linear, self.values[linear.inputs[0]], whole=False)
        rows, inputs = source.entries.shape
        arguments, other = [Argument(source, stride)], None
        if kind == "add":
            tensor, row = self.rows_of(end, self.values[end.inputs[1]])
            arguments.append(Argument(tensor, row))
            other = tensor.dtype
        value = self.program.values[end.output]
        dtype = container(value.bits, value.signed)
        residual = self.values[end.inputs[1]] if kind == "add" else None
        covers = residual is not None and residual.dense and residual.buffer != source.buffer
        if residual is not None and covers and self.free(residual, end, dtype):
            self.values[end.output] = residual
            target = Argument(residual, residual.entries.shape[-1], written=True)
        else:
            target = self.write(end)
        arguments += [target, self.scratch(INT16, ROWS, inputs), self.scratch(INT16, inputs)]
        weight, stored = _stored(constant.array, constant.bits)
        outputs = constant.array.shape[0]
        parameters = {
            "inputs": inputs,
            "outputs": outputs,
            "stride": stride,
            "weight": Constants(linear.constants["weight"], weight),
            "bias": Constants(linear.constants["bias"], self.program.constants_of(linear)["bias"].astype(np.int32)),
            **(self.scale(end) if kind else {}),
        }
        self.step(row_kernels.linear(source.dtype, stored, dtype, kind, other), parameters, arguments, end, rows)

    def scale(self, operator: Operator, prefix: str = "") -> dict[str, Parameter]:
        """Multipliers and shift of every channel, and the output's limits."""
        value, found = self.program.values[operator.output], {}
        for role, name in operator.constants.items():
            array = np.broadcast_to(self.program.constants[name].array, value.shape[-1:])
            found[prefix + role] = Constants(name, array.astype(np.uint8 if role == "shift" else np.int32))
        return found | limits_of(operator, self.program, prefix)

    def attention(self, group: AttentionGroup) -> None:
        products, logits, softmax, last = group.products, group.logits, group.softmax, group.last
        query, key, value = (self.values[name] for name in (*products.inputs, group.weighted.inputs[1]))
        if not products.attributes["transpose_b"]:
            key = key.seen_as(key.entries.swapaxes(-1, -2))
        if group.weighted.attributes["transpose_b"]:
            value = value.seen_as(value.entries.swapaxes(-1, -2))
        query, key, value = (self.matrices(products, tensor) for tensor in (query, key, value))
        extras, parameters = [], {}
        shape = (*query.entries.shape[:-1], key.entries.shape[-2])
        if logits.op == "add":
            extras.append(self.broadcast(self.values[logits.inputs[1]], logits))
            parameters["bias"] = tuple(extras[0].entries.strides)
        if "mask" in softmax.constants:
            mask = self.plan.constant(self.program.constants_of(softmax)["mask"].astype(np.uint8))
            extras.append(self.broadcast(mask, logits))
            parameters["mask"] = tuple(extras[-1].entries.strides[:-1])
        target = self.over_queries(query, [key, value, *extras], last)
        output = self.matrices(products, target)
        form, more = self.attention_form(group, query, key, value, output.dtype)
        keys, widest = shape[-1], max(shape[-1], query.entries.shape[-1])
        arguments = [Argument(tensor) for tensor in (query, key, value, *extras)]
        arguments.append(Argument(output, written=True))
        arguments.append(self.scratch(INT16, ROWS, query.entries.shape[-1]))
        arguments += [self.scratch(form.weight, ROWS, keys), self.scratch(INT16, widest)]
        sizes = ("batches", "heads", "queries", "keys", "size", "value_size")
        numbers = (*shape, query.entries.shape[-1], value.entries.shape[-1])
        parameters = dict(zip(sizes, numbers, strict=True)) | parameters
        for name, tensor in (("query", query), ("key", key), ("value", value), ("output", output)):
            parameters[name] = tuple(tensor.entries.strides[:-1])
        self.step(attention(form), parameters | more, arguments, last)

    def attention_form(
        self, group: AttentionGroup, query: Tensor, key: Tensor, value: Tensor, output: np.dtype
    ) -> tuple[AttentionForm, dict[str, Any]]:
        logits, softmax, last = group.logits, group.softmax, group.last
        table, parameters = self.table(softmax)
        weights = self.program.values[softmax.output]
        if last.op == "weighted_mean":
            end = {"end_multiplier": last.attributes["multiplier"], "end_shift": last.attributes["shift"]}
            end |= limits_of(last, self.program, "end_")
        else:
            end = self.scale(last, "end_")
        form = AttentionForm(
            query=query.dtype,
            key=key.dtype,
            value=value.dtype,
            output=output,
            table=table,
            weight=INT16 if limits(weights.bits, weights.signed)[1] < 2**15 else INT32,
            logits=logits.op,
            bias=self.values[logits.inputs[1]].dtype if logits.op == "add" else None,
            masked="mask" in softmax.constants,
            normalization=softmax.attributes.get("normalization", ""),
            bits=softmax.attributes["bits"],
            last=last.op,
        )
        return form, self.scale(logits) | parameters | end

    def matrices(self, operator: Operator, tensor: Tensor, *, dense: bool = True) -> Tensor:
        """[batches, heads, rows, entries], leading axes joined to two; a copy where it has no such form.

        dense: entries of a row must follow each other.
        """
        seen = _with_two_leading_axes(tensor.entries)
        if seen is None or (dense and tensor.entries.shape[-1] != 1 and tensor.entries.strides[-1] != 1):
            tensor = self.copied(operator, tensor)
            seen = _with_two_leading_axes(tensor.entries)
            assert seen is not None  # of a dense tensor
        return tensor.seen_as(seen)

    def broadcast(self, tensor: Tensor, logits: Operator) -> Tensor:
        entries = np.broadcast_to(tensor.entries, self.program.values[logits.output].shape)
        seen = _with_two_leading_axes(entries)
        if seen is None:
            raise IntVitError(
                f"{logits}: its bias or mask has {entries.ndim} axes, of which C joins only the first two"
            )
        return tensor.seen_as(seen)

    def over_queries(self, query: Tensor, others: list[Tensor], last: Operator) -> Tensor:
        """Where attention writes: over its queries if nothing reads them later, else a new tensor."""
        value = self.program.values[last.output]
        own = self.plan.buffers[query.buffer].data is None and prod(value.shape) == query.entries.size
        own = (
            own and value.shape[-2:] == query.entries.shape[-2:] and not any(_overlap(query, other) for other in others)
        )
        if own and self.free(query, last, container(value.bits, value.signed)):
            entries = query.entries.reshape(value.shape)
            if np.may_share_memory(entries, query.entries):
                self.values[last.output] = query.seen_as(entries)
                return self.values[last.output]
        return self.new(last, self.following_axes(last) if len(value.shape) <= 4 else None)

    def table(self, softmax: Operator) -> tuple[np.dtype, dict[str, Any]]:
        """Exponentials or weights at every distance, without the end that repeats its last entry."""
        deferred = softmax.op == "exponential"
        array = (weight_table if deferred else exponent_table)(self.program, softmax)
        dtype = container(softmax.attributes["bits"], False) if deferred else INT32
        changes = np.flatnonzero(np.diff(array))
        last = int(changes[-1]) + 1 if changes.size else 0
        return dtype, {"last": last, "table": Constants(f"{softmax.name}.table", array[: last + 1].astype(dtype))}


def limits_of(operator: Operator, program: Program, prefix: str = "") -> dict[str, Parameter]:
    value = program.values[operator.output]
    low, high = limits(value.bits, value.signed)
    return {f"{prefix}low": low, f"{prefix}high": high}


def _overlap(a: Tensor, b: Tensor) -> bool:
    return a.buffer == b.buffer and np.shares_memory(a.entries, b.entries)


def _strides(*tensors: Tensor) -> list[tuple[int, ...]]:
    return [tensor.entries.strides for tensor in tensors]


def _with_two_leading_axes(entries: np.ndarray) -> np.ndarray | None:
    """The same entries with four axes, the first ones joined; None if they do not join."""
    shape = entries.shape
    if len(shape) <= 4:
        return entries[(None,) * (4 - len(shape))]
    joined = entries.reshape(prod(shape[:-3]), *shape[-3:])
    return joined if np.may_share_memory(joined, entries) else None


def _stored(weight: np.ndarray, bits: int) -> tuple[np.ndarray, str]:
    """The weight as C holds it, and how: i8, u8, or i4, two to a byte, rows padded to whole bytes."""
    signed = int(weight.max()) <= 127
    if bits > 4 or not signed or int(weight.min()) < -8 or int(weight.max()) > 7:
        return weight.astype(np.int8 if signed else np.uint8), "i8" if signed else "u8"
    nibbles = np.pad(weight.astype(np.int64) & 15, ((0, 0), (0, weight.shape[1] % 2)))
    return (nibbles[:, 0::2] | nibbles[:, 1::2] << 4).astype(np.uint8), "i4"
