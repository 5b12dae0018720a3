"""From an operator of the program to a node: its parameters as initializers, and the local function that it calls.

Functions of few arguments become tables here, equal by construction: the input's quantization, softmax's exponentials,
GELU. `OPERATORS[op](node)` adds the node.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from intvit.program import Value, container, limits
from intvit.program.functions import exponent, gelu_before_shift
from intvit.runtime.onnx import local_functions as functions
from intvit.runtime.onnx.node_builder import NodeBuilder, shift_offsets
from intvit.runtime.onnx.normalization import layernorm as layernorm_function


def _quantize_input(node: NodeBuilder) -> None:
    multiplier, bias = (node.constants[role].astype(object)[:, None] for role in ("multiplier", "bias"))
    table = np.arange(256).astype(object) * multiplier + bias
    start = np.arange(len(table), dtype=np.int32).reshape(-1, 1, 1) * 256
    shift = np.array(node.attributes["shift"], object)
    node.call(
        "quantize_input",
        functions.quantize_input,
        image=node.operator.inputs[0],
        table=node.initializer("table", _clamped(table, shift, node.output).reshape(-1)),
        start=node.initializer("start", start),
        shape=node.shape(*node.output.shape),
    )


def _clamped(value: np.ndarray, shift: np.ndarray | int, output: Value) -> np.ndarray:
    """clamp((v + 2^(e-1)) >> e) of Python integers, in the output's type."""
    rounded = (value.astype(object) + (1 << (shift - 1))) >> shift
    clamped: np.ndarray = np.clip(rounded, *limits(output.bits, output.signed))
    return clamped.astype(container(output.bits, output.signed))


def _patches(node: NodeBuilder) -> None:
    channels, height, width = node.values[0].shape
    size = node.attributes["patch"]
    tiles = node.shape(channels, height // size, size, width // size, size)
    rows = node.shape(*node.output.shape)
    node.call("patches", functions.patches, image=node.operator.inputs[0], tiles=tiles, rows=rows)


def _constant(node: NodeBuilder) -> None:
    value = node.constants["value"].astype(container(node.output.bits, node.output.signed))
    name, shape = node.initializer("value", value), list(node.output.shape)
    if node.batch is None:
        body = node.graph.body
        batch = body.op("Shape", node.image, output=f"{node.operator.name}.batch", start=0, end=1)
        sizes = node.initializer("sizes", np.array(shape))
        target = body.op("Concat", batch, sizes, output=f"{node.operator.name}.shape", axis=0)
    else:
        target = node.shape(*shape)
    node.call("constant", functions.constant, value=name, shape=target)


def _concat(node: NodeBuilder) -> None:
    node.graph.standard("Concat", node.operator.inputs, node.operator.output, axis=node.attributes["axis"] + 1)


def _reshape(node: NodeBuilder) -> None:
    inputs = [node.operator.inputs[0], node.shape(*node.output.shape)]
    node.graph.standard("Reshape", inputs, node.operator.output)


def _transpose(node: NodeBuilder) -> None:
    order = [0, *(axis + 1 for axis in node.attributes["axes"])]
    node.graph.standard("Transpose", node.operator.inputs, node.operator.output, perm=order)


def _slice(node: NodeBuilder) -> None:
    axis, start, stop = (node.attributes[key] for key in ("axis", "start", "stop"))
    ends = {"start": start, "stop": stop, "axis": axis + 1}
    parameters = [node.initializer(role, np.array([value])) for role, value in ends.items()]
    node.graph.standard("Slice", [node.operator.inputs[0], *parameters], node.operator.output)


def _gather(node: NodeBuilder) -> None:
    index, axis = node.constants["index"].astype(np.int64), node.attributes["axis"]
    name = node.initializer("index", np.maximum(index, 0))
    if index.min() >= 0:
        node.graph.standard("Gather", [node.operator.inputs[0], name], node.operator.output, axis=axis + 1)
        return
    keep = (index >= 0).reshape(-1, *[1] * (len(node.output.shape) - axis - 1))
    node.call(
        f"gather_or_zero_{axis}",
        functions.gather_or_zero(axis + 1),
        x=node.operator.inputs[0],
        index=name,
        keep=node.initializer("keep", keep.astype(container(node.output.bits, node.output.signed))),
    )


def _type(value: Value) -> np.dtype:
    return container(value.bits, value.signed)


def _linear(node: NodeBuilder) -> None:
    weight = (node.constants["weight"].astype(np.int16) + 128).astype(np.uint8)
    x_type = _type(node.values[0])
    node.call(
        f"linear_{x_type}",
        functions.linear(x_type),
        x=node.operator.inputs[0],
        weight=node.initializer("weight", weight.T),
        bias=node.initializer("bias", node.constants["bias"].astype(np.int32)),
    )


def _matmul(node: NodeBuilder) -> None:
    a, b = node.values
    turned, rank = node.attributes["transpose_b"], len(a.shape) + 1
    name = f"matmul_{_type(a)}_{_type(b)}" + (f"_transposed_{rank}" if turned else "")
    write = functions.matmul(_type(a), _type(b), turned, rank)
    node.call(name, write, a=node.operator.inputs[0], b=node.operator.inputs[1])


def _requantize(node: NodeBuilder) -> None:
    clamp, parameters = node.rounding_shift()
    node.call(
        f"requantize_{clamp.suffix}",
        functions.requantize(clamp),
        x=node.operator.inputs[0],
        multiplier=node.int64("multiplier"),
        **parameters,
    )


def _add(node: NodeBuilder) -> None:
    clamp, parameters = node.rounding_shift("sum of products")
    a, b = node.operator.inputs
    missing = len(node.values[0].shape) - len(node.values[1].shape)
    if missing:
        axes = node.initializer("axes", np.arange(1, missing + 1))
        b = node.graph.body.op("Unsqueeze", b, axes, output=f"{node.operator.name}.b")
    multipliers = {role: node.int64(role) for role in ("multiplier_a", "multiplier_b")}
    node.call(f"add_{clamp.suffix}", functions.add(clamp), a=a, b=b, **multipliers, **parameters)


def _layernorm(node: NodeBuilder) -> None:
    attributes, size = node.attributes, node.output.shape[-1]
    clamp, parameters = node.rounding_shift()
    shift = np.atleast_1d(attributes["normalizer_shift"])
    normalizing, _ = shift_offsets(node.bounds.intermediates["y * F"], shift, half=False)
    parameters |= {f"n_{role}": node.initializer(f"n_{role}", array) for role, array in normalizing.items()}
    detail = [str(attributes[key]) for key in ("newton_steps", "square_shift") if key in attributes]
    name = "_".join(["layernorm", attributes["method"], *detail, str(size), clamp.suffix])
    if "channel_shift" in node.constants:
        name += "_factors"
        factors = 1 << node.constants["channel_shift"].astype(np.int64)
        parameters["channel_factor"] = node.initializer("channel_factor", factors)
    node.call(
        name,
        layernorm_function(attributes, size, clamp),
        x=node.operator.inputs[0],
        multiplier=node.int64("multiplier"),
        bias=node.int64("bias"),
        **parameters,
    )


def exponents(node: NodeBuilder) -> np.ndarray:
    return exponent(node.attributes, node.constants, np.arange(1 << node.values[0].bits))[0]


def _masked(node: NodeBuilder) -> tuple[str, dict[str, str]]:
    """What a mask adds to a function's name and parameters."""
    if "mask" not in node.constants:
        return "", {}
    return "_masked", {"mask": node.initializer("mask", node.constants["mask"].astype(np.bool_))}


def _softmax(node: NodeBuilder) -> None:
    bits, normalization = node.attributes["bits"], node.attributes["normalization"]
    logits = node.values[0].bits
    ending, mask = _masked(node)
    node.call(
        f"softmax_{normalization}_{logits}_{bits}{ending}",
        functions.softmax(normalization, bits, _type(node.output), limits(logits, True)[0]),
        x=node.operator.inputs[0],
        table=node.initializer("table", exponents(node).astype(np.int64)),
        shape=node.shape(*node.output.shape),
        **mask,
    )


def _exponential(node: NodeBuilder) -> None:
    table = _clamped(
        exponents(node).astype(object) * node.attributes["multiplier"], node.attributes["shift"], node.output
    )
    logits, (ending, mask) = node.values[0].bits, _masked(node)
    node.call(
        f"exponential_{logits}_{node.output.bits}{ending}",
        functions.exponential(_type(node.output), limits(logits, True)[0]),
        x=node.operator.inputs[0],
        table=node.initializer("table", table),
        shape=node.shape(*node.output.shape),
        **mask,
    )


def _weighted_mean(node: NodeBuilder) -> None:
    clamp, parameters = node.rounding_shift()
    total = "int32" if node.bounds.intermediates["sum of weights"].high < 2**31 else "int64"
    node.call(
        f"weighted_mean_{total}_{clamp.suffix}",
        functions.weighted_mean(clamp, total),
        sums=node.operator.inputs[0],
        weights=node.operator.inputs[1],
        multiplier=node.initializer("multiplier", np.array([node.attributes["multiplier"]], np.int64)),
        **parameters,
    )


def _gelu(node: NodeBuilder) -> None:
    half, kind = 1 << (node.values[0].bits - 1), node.attributes["kind"]
    x, name, function = np.arange(-half, half), f"gelu_table_{half}", functions.gelu_table(half)
    if kind == "table":
        table = node.constants["table"].astype(_type(node.output))
    elif kind == "shift":
        name, function = f"gelu_row_table_{half}", functions.gelu_row_table(half)
        maximum = np.arange(half)[:, None]
        arguments = np.broadcast_arrays(np.minimum(x, maximum), maximum)  # x beyond the maximum is never read
        table = _gelu_table(node, *(array.reshape(-1) for array in arguments))
    else:
        table = _gelu_table(node, x, np.zeros_like(x))
    shape = node.shape(*node.output.shape)
    node.call(name, function, x=node.operator.inputs[0], table=node.initializer("table", table), shape=shape)


def _gelu_table(node: NodeBuilder, x: np.ndarray, row_max: np.ndarray) -> np.ndarray:
    value, _ = gelu_before_shift(node.attributes, node.constants, x, row_max)
    return _clamped(value.astype(object) * node.attributes["multiplier"], node.attributes["shift"], node.output)


def _upsample(node: NodeBuilder) -> None:
    """In the graph itself; int32 holds every product and sum."""
    factor, f = node.attributes["factor"], node.graph.body
    x = f.cast(node.operator.inputs[0], "int32", output=f"{node.operator.name}.int32")
    for axis, name in ((2, "rows"), (3, "columns")):
        size = node.values[0].shape[axis - 1]
        first, weight = np.divmod(2 * np.arange(size * factor) + 1 - factor, 2 * factor)
        weight = weight.astype(np.int32).reshape(-1, *[1] * (3 - axis))
        arrays = {
            "first": np.clip(first, 0, size - 1),
            "second": np.clip(first + 1, 0, size - 1),
            "first_weight": np.int32(2 * factor) - weight,
            "second_weight": weight,
        }
        parameters = {role: node.initializer(f"{name}.{role}", array) for role, array in arrays.items()}
        end = node.operator.output if axis == 3 else f"{node.operator.name}.{name}"
        x = functions.enlarged(f, x, **parameters, axis=axis, output=end)


def _argmax(node: NodeBuilder) -> None:
    """ArgMax gives the first of equals."""
    f = node.graph.body
    index = f.op("ArgMax", node.operator.inputs[0], output=f"{node.operator.name}.index", axis=1, keepdims=0)
    f.cast(index, _type(node.output), output=node.operator.output)


OPERATORS: dict[str, Callable[[NodeBuilder], None]] = {
    "quantize_input": _quantize_input,
    "patches": _patches,
    "constant": _constant,
    "concat": _concat,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "gather": _gather,
    "linear": _linear,
    "matmul": _matmul,
    "requantize": _requantize,
    "add": _add,
    "layernorm": _layernorm,
    "softmax": _softmax,
    "exponential": _exponential,
    "weighted_mean": _weighted_mean,
    "gelu": _gelu,
    "upsample": _upsample,
    "argmax": _argmax,
}
