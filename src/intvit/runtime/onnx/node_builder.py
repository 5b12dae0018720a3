"""One operator of the program on its way into the graph: what its node needs, and the offsets of its shifts."""

from __future__ import annotations

import numpy as np

from intvit.program import Operator, OperatorBounds, Program, limits
from intvit.program.interval_arithmetic import Range
from intvit.runtime.onnx.builder import Graph
from intvit.runtime.onnx.local_functions import Clamp, Write


class NodeBuilder:
    """One operator with what its node needs: types, constants, proven ranges, and the batch size (None: any)."""

    def __init__(
        self, graph: Graph, program: Program, operator: Operator, bounds: OperatorBounds, batch: int | None
    ) -> None:
        self.graph, self.operator, self.bounds, self.batch = graph, operator, bounds, batch
        self.image = program.input
        self.attributes, self.constants = operator.attributes, program.constants_of(operator)
        self.values = [program.values[name] for name in operator.inputs]
        self.output = program.values[operator.output]

    def initializer(self, role: str, array: np.ndarray) -> str:
        return self.graph.initializer(f"{self.operator.name}.{role}", array)

    def int64(self, role: str) -> str:
        return self.initializer(role, self.constants[role].astype(np.int64))

    def shape(self, *sizes: int) -> str:
        """[batch, *sizes] as an initializer."""
        batch = -1 if self.batch is None else self.batch
        return self.initializer("shape." + "x".join(map(str, sizes)), np.array([batch, *sizes]))

    def call(self, function: str, write: Write, **parameters: str) -> None:
        """Calls the function on the operator's inputs, by these names in order, and on further parameters."""
        self.graph.call(function, write, parameters, self.operator.output)

    def rounding_shift(self, seen: str = "product") -> tuple[Clamp, dict[str, str]]:
        """The end of most operators: how it clamps, and its parameters. `seen`: the shifted value in the bounds."""
        shift = np.atleast_1d(self.constants["shift"] if "shift" in self.constants else self.attributes["shift"])
        parameters, top = shift_offsets(self.bounds.intermediates[seen], shift, half=True)
        low, high = limits(self.output.bits, self.output.signed)
        before = self.bounds.intermediates["before clamp"]
        clamp = Clamp(self.output, top >= 2**31, before.low < low or before.high > high)
        parameters["zero"] = parameters["zero"].astype(np.int64 if clamp.wide else np.int32)
        return clamp, {role: self.initializer(role, array) for role, array in parameters.items()}


def shift_offsets(seen: Range, shift: np.ndarray, *, half: bool) -> tuple[dict[str, np.ndarray], int]:
    """Parameters of an arithmetic shift that ONNX can do: (x + offset) >> shift, unsigned, minus zero.

    `seen`: range of x, rounding term included. offset = zero * 2^shift, and the rounding term 2^(shift-1) with `half`,
    with zero * 2^shift >= -x; x + offset < 2^64 since x is proven to fit int64. Also returns the largest shifted value.
    """
    exponents = [int(e) for e in shift.reshape(-1)]
    zeros = [max(-(seen.low >> e), 0) for e in exponents]
    offsets = [(zero << e) + (1 << e - 1 if half else 0) for zero, e in zip(zeros, exponents, strict=True)]
    top = max((seen.high >> e) + zero for zero, e in zip(zeros, exponents, strict=True))
    arrays = {
        "offset": np.array(offsets, np.uint64),
        "shift": np.array(exponents, np.uint64),
        "zero": np.array(zeros, np.int64),
    }
    return arrays, top
