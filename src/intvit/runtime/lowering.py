"""From an integer program to a plan: what every fast runtime shares. Its operators that compute are its own.

Reshapes, transposes and slices become views of buffers, constants become buffers, groups of operators fused steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from intvit.program.program import Operator, Program, container
from intvit.program.tables import exponent_table, weight_table
from intvit.runtime.fusion import Fusion, LabelsGroup
from intvit.runtime.plan import AnyStep, ExecutionPlan, Tensor

S = TypeVar("S", bound=AnyStep)


class Lowering(Generic[S]):
    """Appends the steps of one operator after the other to `plan`. Without `fuse` every operator is a step of its own.

    A runtime gives `operators` (those of MOVES, and what computes), `group` and `copy`, and may fuse more.
    """

    fusion_rules: ClassVar[type[Fusion]] = Fusion
    operators: ClassVar[Mapping[str, Callable[[Any, Operator], None]]]

    def __init__(self, program: Program, *, fuse: bool) -> None:
        self.program, self.fusion = program, self.fusion_rules(program)
        self.plan: ExecutionPlan[S] = ExecutionPlan()
        groups = self.fusion.groups if fuse else {}
        image = program.values[program.input]
        self.values = self.plan.values
        self.values[program.input] = self.plan.tensor(image.shape, np.dtype(np.uint8))
        for operator in program.operators:
            group = groups.get(operator.name)
            if group is None:
                self.operators[operator.op](self, operator)
            elif operator is group.last:
                self.group(group)
        self.scores()
        self.plan.place(share=fuse)

    def group(self, group: Any) -> None:
        """Appends the step of a group."""
        raise NotImplementedError

    def copy(self, operator: Operator, source: Tensor, target: Tensor) -> None:
        """Appends a step that copies entries between views of one shape; a target of int32 takes any integers."""
        raise NotImplementedError

    def new(self, operator: Operator, axes: tuple[int, ...] | None = None) -> Tensor:
        """A tensor for the operator's output; `axes`: its buffer is in the order of the output transposed by them."""
        value = self.program.values[operator.output]
        shape = value.shape if axes is None else tuple(value.shape[axis] for axis in axes)
        tensor = self.plan.tensor(shape, container(value.bits, value.signed))
        if axes is not None:
            tensor = tensor.seen_as(tensor.whole.transpose(np.argsort(axes)))
        self.values[operator.output] = tensor
        return tensor

    def copied(self, operator: Operator, tensor: Tensor) -> Tensor:
        """A dense copy."""
        copy = self.plan.tensor(tensor.entries.shape, tensor.dtype)
        self.copy(operator, tensor, copy)
        return copy

    def labels(self, group: LabelsGroup) -> Tensor:
        """A tensor for the labels as int32, which is what a caller gets."""
        shape = self.program.values[group.last.output].shape
        self.values[group.last.output] = self.plan.tensor(shape, np.dtype(np.int32))
        return self.values[group.last.output]

    def view(self, operator: Operator, see: Callable[[np.ndarray], np.ndarray]) -> None:
        """The output is a view of the first input."""
        tensor = self.values[operator.inputs[0]]
        self.values[operator.output] = tensor.seen_as(see(tensor.entries))

    def following_axes(self, operator: Operator) -> tuple[int, ...] | None:
        """Axes of a transpose that alone reads the output and leaves its last axis: it can be stored that way."""
        readers = self.fusion.readers_of(operator)
        axes = readers[0].attributes["axes"] if len(readers) == 1 and readers[0].op == "transpose" else None
        return axes if axes is not None and axes[-1] == len(axes) - 1 else None

    def distance_table(self, softmax: Operator) -> np.ndarray:
        """Exponentials or weights at every distance that two logits of the container can have: uint32, below 2^31."""
        make = exponent_table if softmax.op == "softmax" else weight_table
        table = make(self.program, softmax)
        size = 256 if self.program.values[softmax.inputs[0]].bits <= 8 else 65536
        return np.pad(table, (0, size - table.size)).astype(np.uint32)

    def scores(self) -> None:
        """The scores, or labels, end in an int32 buffer of their own."""
        last = self.values[self.program.output]
        operator = next(operator for operator in self.program.operators if operator.output == self.program.output)
        whole = last.dense and last.whole.size == last.entries.size
        if last.dtype != np.int32 or not whole or self.plan.buffers[last.buffer].data is not None:
            scores = self.plan.tensor(last.entries.shape, np.dtype(np.int32))
            self.copy(operator, last, scores)
            last = scores
        self.plan.output = last.buffer


def dense_rows(tensor: Tensor) -> bool:
    """Dense along the last axis."""
    return tensor.entries.shape[-1] == 1 or tensor.entries.strides[-1] == 1


def _constant(to: Lowering[Any], operator: Operator) -> None:
    value = to.program.values[operator.output]
    array = to.program.constants_of(operator)["value"].astype(container(value.bits, value.signed))
    to.values[operator.output] = to.plan.constant(array)


def _concat(to: Lowering[Any], operator: Operator) -> None:
    axis, output, start = operator.attributes["axis"], to.new(operator), 0
    for name in operator.inputs:
        part = to.values[name]
        stop = start + part.entries.shape[axis]
        place = (slice(None),) * axis + (slice(start, stop),)
        to.copy(operator, part, output.seen_as(output.entries[place]))
        start = stop


def _reshape(to: Lowering[Any], operator: Operator) -> None:
    tensor, shape = to.values[operator.inputs[0]], operator.attributes["shape"]
    entries = tensor.entries.reshape(shape)
    if not np.may_share_memory(entries, tensor.entries):  # numpy had to copy, and so has the plan
        tensor = to.copied(operator, tensor)
        entries = tensor.entries.reshape(shape)
    to.values[operator.output] = tensor.seen_as(entries)


def _transpose(to: Lowering[Any], operator: Operator) -> None:
    to.view(operator, lambda x: x.transpose(operator.attributes["axes"]))


def _slice(to: Lowering[Any], operator: Operator) -> None:
    axis, start, stop = (operator.attributes[key] for key in ("axis", "start", "stop"))
    to.view(operator, lambda x: x[(slice(None),) * axis + (slice(start, stop),)])


MOVES: dict[str, Callable[[Any, Operator], None]] = {
    "constant": _constant,
    "concat": _concat,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
}
