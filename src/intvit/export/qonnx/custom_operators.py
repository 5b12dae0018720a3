"""Operators of our domain for qonnx: each executes as the numpy runtime's function of the same operator.

A node's domain is this module's name; qonnx imports it and looks the node's type up in `custom_op`, so that nothing has
to be registered. A node carries its operator whole: the attributes of docs/program-format.md, constants as integer
initializers, `roles` naming them in the order of the inputs after the values, and `input_types`, QONNX's types of the
values. Widths of at most 24 bits travel in float32, which holds them, wider ones in int32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper
from qonnx.core.datatype import DataType
from qonnx.custom_op.base import CustomOp

from intvit.export.qonnx.graph import OP_TYPES, carrier, datatype
from intvit.program import Constant, Operator, Program, Value, container, infer_output
from intvit.program.forms import Attribute, Choice, Flag, Integers
from intvit.program.operators import OPERATORS
from intvit.runtime.numpy import OPERATORS as KERNELS
from intvit.runtime.numpy import OperatorContext

Declared = tuple[str, bool, Any]  # an attribute, for qonnx: type, required, default
KINDS: dict[type, Declared] = {Choice: ("s", False, ""), Integers: ("ints", False, [])}
INTEGER: Declared = ("i", False, 0)
OURS: dict[str, Declared] = {"input_types": ("strings", True, []), "roles": ("strings", False, [])}


class ProgramOperator(CustomOp):  # type: ignore[misc]  # qonnx has no types
    """One operator of a program, for one image. `op` is its name there."""

    op: ClassVar[str]

    def get_nodeattr_types(self) -> dict[str, Declared]:
        """Those of every kind of the operator."""
        return OURS | {key: KINDS.get(type(rule), INTEGER) for key, rule in self._rules().items()}

    def execute_node(self, context: dict[str, Any], graph: GraphProto) -> None:
        """Integers of the inputs' types in, integers of the output's type out, in their carriers."""
        values, constants = self._inputs()
        program = self._program([context[name].shape for name in values], [context[name] for name in constants])
        (operator,) = program.operators
        kinds = [program.values[name] for name in operator.inputs]
        inputs = [context[name].astype(container(v.bits, v.signed)) for name, v in zip(values, kinds, strict=True)]
        output = program.values[operator.output]
        result = KERNELS[self.op](OperatorContext(program, operator))(*inputs)
        context[operator.output] = result.astype(helper.tensor_dtype_to_np_dtype(carrier(output.bits)))

    def infer_node_datatype(self, model: Any) -> None:
        """The type that the operator declares."""
        output = self._output(model)
        model.set_tensor_datatype(self.onnx_node.output[0], DataType[datatype(output.bits, output.signed)])

    def make_shape_compatible_op(self, model: Any) -> NodeProto:
        """A standard node that gives a tensor of the output's shape and carrier."""
        output = self._output(model)
        shape, kind = [1, *output.shape], carrier(output.bits)
        if kind == TensorProto.FLOAT:
            return self.make_const_shape_op(shape)
        zeros = helper.make_tensor("zeros", kind, shape, np.zeros(shape, np.int32).tobytes(), raw=True)
        return helper.make_node("Constant", [], list(self.onnx_node.output), value=zeros)

    def verify_node(self) -> list[str]:
        """What is wrong with the inputs, in qonnx's manner."""
        named = len(self.get_nodeattr("input_types")) + len(self.get_nodeattr("roles"))
        found = len(self.onnx_node.input)
        return [] if named == found else [f"{self.onnx_node.name} has {found} inputs; its attributes name {named}"]

    def _rules(self) -> dict[str, Attribute]:
        form = OPERATORS[self.op]
        rules = dict(form.attributes)
        for attributes, _ in form.kinds.values():
            rules |= attributes
        return rules | ({} if form.kind_attribute is None else {form.kind_attribute: Choice(tuple(form.kinds))})

    def _inputs(self) -> tuple[list[str], list[str]]:
        """Names of the values, and of the constants."""
        names, count = list(self.onnx_node.input), len(self.get_nodeattr("input_types"))
        return names[:count], names[count:]

    def _output(self, model: Any) -> Value:
        values, constants = self._inputs()
        program = self._program(
            [model.get_tensor_shape(name) for name in values], [model.get_initializer(name) for name in constants]
        )
        return program.values[program.output]

    def _program(self, shapes: Sequence[Sequence[int]], arrays: Sequence[np.ndarray]) -> Program:
        """The node as a program of one operator, which is checked; shapes with the batch axis, arrays of constants."""
        node, rules, roles = self.onnx_node, self._rules(), self.get_nodeattr("roles")
        attributes = {a.name: self.get_nodeattr(a.name) for a in node.attribute if a.name in rules}
        attributes |= {key: bool(value) for key, value in attributes.items() if isinstance(rules[key], Flag)}
        kinds = [DataType[name] for name in self.get_nodeattr("input_types")]
        names = self._inputs()[0]
        values = {
            name: Value(tuple(shape[1:]), kind.bitwidth(), kind.signed())
            for name, shape, kind in zip(names, shapes, kinds, strict=True)
        }
        constants = {
            role: Constant(array, 8 * array.dtype.itemsize, array.dtype.kind == "i")
            for role, array in zip(roles, arrays, strict=True)
        }
        operator = Operator(
            self.op, node.name, tuple(names), node.output[0], attributes, {role: role for role in roles}
        )
        values[operator.output] = infer_output(operator, [values[name] for name in names], constants)
        return Program(names[0], operator.output, values, constants, [operator])


custom_op = {name: type(name, (ProgramOperator,), {"op": op}) for op, name in OP_TYPES.items()}
