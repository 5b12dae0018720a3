"""A QONNX graph under construction: nodes, initializers, and how each value travels.

QONNX's convention is integers in float32 tensors, annotated with the integer type that they have. float32 holds every
integer up to 2^24: a value that may pass it travels in an int32 tensor instead, which custom operators alone compute
with. The graph takes one image, as FINN's does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorAnnotation, TensorProto, ValueInfoProto, helper, numpy_helper

from intvit.export.qonnx.report import Placement
from intvit.program import Operator, OperatorBounds, Program, Value
from intvit.runtime.numpy import OPERATORS as KERNELS
from intvit.runtime.numpy import Kernel, OperatorContext

GENERAL = "qonnx.custom_op.general"  # where qonnx and FINN look for MultiThreshold
CUSTOM = "intvit.export.qonnx.custom_operators"  # a domain is the module that qonnx imports
EXACT = 2**24  # float32 holds every integer up to it, and so a threshold just above those below it
FLOAT_BITS = 24  # the widest declared value that float32 holds whatever its sign
MOVES = ("constant", "patches", "concat", "reshape", "transpose", "slice")  # always standard nodes
OP_TYPES = {op: op.title().replace("_", "") for op in KERNELS if op not in MOVES}  # of our domain: WeightedMean


def exact(low: int, high: int) -> bool:
    """Are all integers of the interval below 2^24?"""
    return low > -EXACT and high < EXACT


def datatype(bits: int, signed: bool) -> str:
    """QONNX's name of an integer type."""
    return f"{'INT' if signed else 'UINT'}{bits}"


def smallest(low: int, high: int) -> str:
    """The narrowest type that holds the interval."""
    if low >= 0:
        return datatype(max(high.bit_length(), 1), False)
    return datatype(max(high.bit_length(), (-low - 1).bit_length()) + 1, True)


def carrier(bits: int) -> int:
    """The ONNX type in which a value of this declared width leaves a custom operator."""
    kind: int = TensorProto.FLOAT if bits <= FLOAT_BITS else TensorProto.INT32
    return kind


class Graph:
    """`types`: by value its QONNX type, `infos`: its shape, batch axis included, and carrier."""

    def __init__(self, program: Program) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.infos: dict[str, ValueInfoProto] = {}
        self.types: dict[str, str] = {}
        self.placements: list[Placement] = []
        image = program.values[program.input]
        self.value(program.input, image.shape, datatype(image.bits, image.signed), TensorProto.FLOAT)

    def value(self, name: str, shape: Sequence[int], kind: str, carried: int) -> str:
        """Declares a value; `shape` without the batch axis."""
        self.infos[name] = helper.make_tensor_value_info(name, carried, [1, *shape])
        self.types[name] = kind
        return name

    def carried(self, name: str) -> int:
        """The ONNX type of a value."""
        kind: int = self.infos[name].type.tensor_type.elem_type
        return kind

    def initializer(self, name: str, array: np.ndarray, kind: str | None = None) -> str:
        """Stores an array as it is; with the QONNX type `kind` as float32, annotated."""
        if kind is not None:
            array, self.types[name] = array.astype(np.float32), kind
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def annotations(self) -> list[TensorAnnotation]:
        """QONNX's types of all values and initializers."""
        made = []
        for name, kind in self.types.items():
            annotation = TensorAnnotation(tensor_name=name)
            annotation.quant_parameter_tensor_names.add(key="finn_datatype", value=kind)
            made.append(annotation)
        return made


class NodeWriter:
    """One operator of the program on its way into the graph: what its nodes need, and how they are appended."""

    def __init__(self, graph: Graph, program: Program, operator: Operator, bounds: OperatorBounds) -> None:
        self.graph, self.program, self.operator, self.bounds = graph, program, operator, bounds
        self.attributes, self.constants = operator.attributes, program.constants_of(operator)
        self.values = [program.values[name] for name in operator.inputs]
        self.output: Value = program.values[operator.output]

    @property
    def kernel(self) -> Kernel:
        """The numpy runtime's function of the operator."""
        return KERNELS[self.operator.op](OperatorContext(self.program, self.operator))

    @property
    def in_floats(self) -> bool:
        """Do all inputs travel in float32?"""
        return all(self.graph.carried(name) == TensorProto.FLOAT for name in self.operator.inputs)

    def initializer(self, role: str, array: np.ndarray, kind: str | None = None) -> str:
        return self.graph.initializer(f"{self.operator.name}.{role}", array, kind)

    def integers(self, role: str, array: np.ndarray) -> str:
        """An array of integers that float32 holds, annotated with the narrowest type that holds them."""
        return self.initializer(role, array, smallest(int(array.min()), int(array.max())))

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        shape: Sequence[int],
        annotated: str,
        *,
        part: str | None = None,
        carried: int = TensorProto.FLOAT,
        **attributes: Any,
    ) -> str:
        """A node for the operator's output, or for a `part` on the way to it; returns the name of its value."""
        name = self.operator.output if part is None else f"{self.operator.name}.{part}"
        self.graph.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return self.graph.value(name, shape, annotated, carried)

    def placed(self, nodes: str, why: str, *, taken: bool) -> None:
        """Says what stands for the operator and what FINN makes of it."""
        self.graph.placements.append(Placement(self.operator.op, nodes, taken, why))

    def custom(self, why: str) -> None:
        """A node of our own domain that carries the operator whole; `why` no other node does."""
        op_type, roles = OP_TYPES[self.operator.op], self.operator.constants
        inputs = [*self.operator.inputs, *(self.initializer(role, self.constants[role]) for role in roles)]
        attributes: dict[str, Any] = dict(self.attributes)
        if roles:
            attributes["roles"] = list(roles)
        attributes["input_types"] = [datatype(value.bits, value.signed) for value in self.values]
        kind, carried = datatype(self.output.bits, self.output.signed), carrier(self.output.bits)
        self.node(op_type, inputs, self.output.shape, kind, carried=carried, domain=CUSTOM, **attributes)
        self.placed(f"our {op_type}", why, taken=False)
