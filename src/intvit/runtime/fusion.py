"""Which operators become one step of a fast runtime: a linear layer with what follows it, attention, enlarged labels.

A group is only fused if nothing else reads the values between its operators. Operators outside all groups are steps of
their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from intvit.program.program import Operator, Program


@dataclass(frozen=True)
class LinearGroup:
    """linear, then requantize or an add of the accumulator to a value of its shape."""

    linear: Operator
    last: Operator


@dataclass(frozen=True)
class AttentionGroup:
    """matmul, requantize or add, softmax or exponential, matmul, requantize or weighted_mean."""

    products: Operator
    logits: Operator
    softmax: Operator
    weighted: Operator
    last: Operator


@dataclass(frozen=True)
class LabelsGroup:
    """upsample, then argmax: no enlarged score need be stored."""

    upsample: Operator
    last: Operator


Group = LinearGroup | AttentionGroup | LabelsGroup


class Fusion:
    """The groups of a program by the name of each operator in them: dataclasses of operators, one of them `last`."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.readers: dict[str, list[Operator]] = {name: [] for name in program.values}
        for operator in program.operators:
            for name in operator.inputs:
                self.readers[name].append(operator)
        self.groups: dict[str, Any] = {}
        for operator in program.operators:
            group = self.group_of(operator)
            if group is not None:
                self.groups |= {member.name: group for member in vars(group).values()}

    def group_of(self, operator: Operator) -> Any:
        """The group that begins with the operator, or None."""
        if operator.op == "linear":
            return self.linear(operator)
        return self.labels(operator) if operator.op == "upsample" else self.attention(operator)

    def readers_of(self, operator: Operator) -> list[Operator]:
        """The operators that read its output; itself stands for the program's caller."""
        return self.readers[operator.output] + [operator] * (operator.output == self.program.output)

    def final_readers(self, operator: Operator) -> list[Operator]:
        """`readers_of`, looking through reshape, transpose and slice."""
        found = []
        for reader in self.readers_of(operator):
            view = reader is not operator and reader.op in ("reshape", "transpose", "slice")
            found += self.final_readers(reader) if view else [reader]
        return found

    def only_reader(self, operator: Operator, *ops: str) -> Operator | None:
        """The one operator that reads the output, as its first input, if it is one of `ops`."""
        readers = self.readers_of(operator)
        alone = len(readers) == 1 and readers[0].op in ops and readers[0].inputs[0] == operator.output
        return readers[0] if alone else None

    def linear(self, operator: Operator) -> LinearGroup | None:
        last = self.only_reader(operator, "requantize", "add")
        if last is None or not self._at_most(last.output, 32, unsigned_bits=8):
            return None
        values = self.program.values
        if last.op == "add" and values[last.inputs[1]].shape != values[last.output].shape:
            return None
        return LinearGroup(operator, last)

    def labels(self, operator: Operator) -> LabelsGroup | None:
        last = self.only_reader(operator, "argmax")
        return LabelsGroup(operator, last) if last else None

    def attention(self, products: Operator) -> AttentionGroup | None:
        if products.op != "matmul" or not all(self._at_most(name, 8) for name in products.inputs):
            return None
        logits = self.only_reader(products, "requantize", "add")
        softmax = logits and self._at_most(logits.output, 16) and self._only_softmax(logits)
        if not logits or not softmax:
            return None
        readers = self.readers_of(softmax)
        weighted = readers[0] if readers else softmax
        last = self.only_reader(weighted, "requantize", "weighted_mean") if weighted.op == "matmul" else None
        if last is None or readers != [weighted] + [last] * (last.op == "weighted_mean"):
            return None
        fits = weighted.inputs[0] == softmax.output and self._at_most(weighted.inputs[1], 8)
        if not fits or not self._at_most(last.output, 8):
            return None
        return AttentionGroup(products, logits, softmax, weighted, last)

    def _only_softmax(self, logits: Operator) -> Operator | None:
        return self.only_reader(logits, "softmax", "exponential")

    def _at_most(self, name: str, bits: int, unsigned_bits: int = 0) -> bool:
        value = self.program.values[name]
        return value.bits <= (bits if value.signed else unsigned_bits)
