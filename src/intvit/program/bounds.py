"""The proof that a program cannot overflow: worst-case intervals of every operator, for any uint8 image.

`bounds` walks the program with the rules of intervals.py; `proof` writes the result as the text of bounds.json.
"""

import json
from collections import Counter
from dataclasses import dataclass

import numpy as np

from intvit.program.interval_arithmetic import Interval, Range, RuleContext
from intvit.program.intervals import RULES
from intvit.program.program import Program

FILE = "bounds.json"
KEPT = 2**15  # entries of an interval: every channel of a wide layer, not every entry of a tensor


@dataclass(frozen=True)
class OperatorBounds:
    """What one operator may meet: (low, high) of each input, every intermediate, and the output per channel."""

    op: str
    inputs: tuple[tuple[int, int], ...]
    intermediates: dict[str, Range]
    output: Interval

    @property
    def accumulator(self) -> Range | None:
        """Of `linear` and `matmul`: every partial sum in whatever order, bias included. None for other operators."""
        return self.intermediates.get("accumulator")

    @property
    def widest(self) -> tuple[str, Range] | None:
        """Name and range of the intermediate that needs the most bits; None where data only move."""
        return max(self.intermediates.items(), key=lambda item: item[1].bits, default=None)


def bounds(program: Program) -> dict[str, OperatorBounds]:
    """Intervals by operator name, in program order, for a program that passes `check`.

    An accumulator's interval covers its partial sums in any order. Raises ProgramError, naming operator and remedy,
    if an accumulator may leave int32, another intermediate int64, or a score its width (saturated scores lose order).
    """
    image = np.zeros((1, 1, 1), np.int64)
    intervals = {program.input: Interval(image, image + 255)}
    scores, result = program.score_operator, {}
    for operator in program.operators:
        values = [program.values[name] for name in operator.inputs]
        inputs = [intervals[name] for name in operator.inputs]
        context = RuleContext(
            operator, [v.shape for v in values], values, program.values[operator.output], operator is scores
        )
        output = RULES[operator.op](context, inputs, program.constants_of(operator)).at_most(KEPT)
        intervals[operator.output] = output
        seen = tuple(interval.extremes() for interval in inputs)
        result[operator.name] = OperatorBounds(operator.op, seen, context.intermediates, output)
    return result


def proof(program: Program, result: dict[str, OperatorBounds]) -> str:
    """The text of bounds.json: intervals, needed widths, and the types of all stored tensors (none floating-point)."""
    types = Counter(str(constant.array.dtype) for constant in program.constants.values())
    operators = [json.dumps(_entry(name, entry)) for name, entry in result.items()]
    head = {
        "format": "intvit-bounds",
        "version": 1,
        "holds_for": "every uint8 image",
        "floating_point_tensors": sum(count for kind, count in types.items() if "int" not in kind),
        "tensors_by_type": dict(sorted(types.items())),
        "widest_accumulator_bits": max(
            (entry.accumulator.bits for entry in result.values() if entry.accumulator), default=0
        ),
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    return "{\n" + ",\n".join(lines) + ',\n"operators": [\n  ' + ",\n  ".join(operators) + "\n]\n}\n"


def _entry(name: str, entry: OperatorBounds) -> dict[str, object]:
    steps = {
        key: {"interval": [seen.low, seen.high], "bits": seen.bits, "margin": seen.margin}
        for key, seen in entry.intermediates.items()
    }
    return {
        "name": name,
        "op": entry.op,
        "inputs": [list(seen) for seen in entry.inputs],
        "intermediates": steps,
        "output": list(entry.output.extremes()),
    }
