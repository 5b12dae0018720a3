"""Writing ONNX graphs: a body of nodes, and a graph whose nodes call local functions.

Only what is common to all operators; what each one computes is in functions.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

DOMAIN = "intvit"  # of the local functions
OPSET = 18  # the first with bitwise operators and reductions whose axes are inputs
OLDEST_OPSET = 15  # that of the first files with local functions
IR_VERSION = 10
TYPES = {
    np.dtype(kind): helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind in ("int8", "int16", "int32", "int64")
}
TYPES |= {np.dtype(f"u{kind}"): helper.np_dtype_to_tensor_dtype(np.dtype(f"u{kind}")) for kind in map(str, [*TYPES])}


class Body:
    """Nodes in order, in operators of `opset`; every method that adds one returns the name of its result."""

    def __init__(self, opset: int = OPSET) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self._constants: dict[tuple[Any, ...], str] = {}

    def op(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any, dtype: str = "int64") -> str:
        """A scalar or array; equal ones are shared."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.op("Constant", value=numpy_helper.from_array(array))
        return self._constants[key]

    def cast(self, x: str, dtype: str | np.dtype, output: str | None = None) -> str:
        return self.op("Cast", x, output=output, to=TYPES[np.dtype(dtype)])

    def over_rows(self, reduction: str, x: str) -> str:
        """Over the last axis, which stays with size 1."""
        if self.opset < 18 and reduction != "ReduceSum":  # axes as an attribute until then
            return self.op(reduction, x, axes=[-1], keepdims=1)
        return self.op(reduction, x, self.constant([-1]), keepdims=1)


class Graph:
    """The nodes of a model: calls of local functions, each written once, with the initializers that they read."""

    def __init__(self, opset: int = OPSET) -> None:
        self.body = Body(opset)
        self.initializers: dict[str, TensorProto] = {}
        self.functions: dict[str, FunctionProto] = {}

    def initializer(self, name: str, array: np.ndarray) -> str:
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def call(self, function: str, write: Callable[..., str], inputs: dict[str, str], output: str) -> None:
        """A node that calls `function` on `inputs` (parameter -> value).

        The first call of a name writes the function: `write(body, *parameters)` adds its nodes and returns the result.
        """
        if function not in self.functions:
            body, parameters = Body(self.body.opset), list(inputs)
            body.op("Identity", write(body, *parameters), output="output")
            opsets = [helper.make_opsetid("", self.body.opset)]
            self.functions[function] = helper.make_function(
                DOMAIN, function, parameters, ["output"], body.nodes, opsets, doc_string=_first_line(write)
            )
        node = helper.make_node(function, list(inputs.values()), [output], name=output, domain=DOMAIN)
        self.body.nodes.append(node)

    def standard(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """A node of a standard operator."""
        self.body.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output


def _first_line(write: Callable[..., str]) -> str:
    return (write.__doc__ or "").partition("\n")[0]
