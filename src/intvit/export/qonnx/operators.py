"""An operator of the program -> the nodes that give its integers: QONNX's and ONNX's own where they do, else ours.

Every value of the program is a value of the graph, under its name. What FINN takes is said beside each form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from intvit.export.qonnx.graph import EXACT, GENERAL, NodeWriter, datatype, exact, smallest
from intvit.export.qonnx.thresholds import Function, never_falls, thresholds
from intvit.program import limits

THRESHOLD_BITS = 8  # of outputs: 255 thresholds a channel; 16 bits would take 65,535
NOT_STREAMED = "reorders or joins whole tensors: outside of FINN's dataflow partitions"
TOO_LARGE = f"the proven sums may pass {EXACT:,}, where float32 is not exact"


def _multi_threshold(node: NodeWriter, function: Function, channels: int, low: int, high: int, source: str) -> None:
    """The output as counts of comparisons of `source`, which lies in low..high; one row of thresholds, or by channel.

    The channels are the last axis, but of the image, whose first they are.
    """
    table = thresholds(function, channels, low, high, node.output)
    rank = len(node.output.shape) + 1
    layout = {2: "NC", 3: "NWC", 4: "NHWC"}.get(rank, "N" + "D" * (rank - 2) + "C")
    node.node(
        "MultiThreshold",
        [source, node.integers("thresholds", table)],
        node.output.shape,
        datatype(node.output.bits, node.output.signed),
        domain=GENERAL,
        out_dtype=datatype(node.output.bits, node.output.signed),
        out_scale=1.0,
        out_bias=float(limits(node.output.bits, node.output.signed)[0]),
        data_layout="NCHW" if node.operator.op == "quantize_input" else layout,
    )


def _why_no_thresholds(node: NodeWriter) -> str | None:
    """What of the operator keeps it from being a MultiThreshold node, if its function rises."""
    if node.output.bits > THRESHOLD_BITS:
        return f"{node.output.bits} bits would take {2**node.output.bits - 1:,} thresholds a channel"
    return None if node.in_floats else TOO_LARGE


def _quantize_input(node: NodeWriter) -> None:
    channels, kernel = node.output.shape[0], node.kernel
    falls = node.constants["multiplier"].min() < 0
    if why := "a channel falls where the pixel rises" if falls else _why_no_thresholds(node):
        return node.custom(why)

    def of_pixels(x: np.ndarray) -> np.ndarray:
        return kernel(x.astype(np.uint8)[..., None, None])[..., 0, 0]

    _multi_threshold(node, of_pixels, channels, 0, 255, node.operator.inputs[0])
    node.placed("MultiThreshold", "Thresholding", taken=True)


def _constant(node: NodeWriter) -> None:
    """An initializer with a batch axis."""
    value, output = node.constants["value"][None], node.output
    low, high = int(value.min()), int(value.max())
    name, kind = node.operator.output, datatype(output.bits, output.signed)
    if exact(low, high):
        node.graph.value(name, output.shape, kind, TensorProto.FLOAT)
        node.graph.initializer(name, value, kind)
    else:
        node.graph.value(name, output.shape, kind, TensorProto.INT32)
        node.graph.initializer(name, value.astype(np.int32))
    node.placed("an initializer", "a parameter of the node that reads it", taken=True)


def _patches(node: NodeWriter) -> None:
    (channels, height, width), size = node.values[0].shape, node.attributes["patch"]
    rows, columns = height // size, width // size
    split = (channels, rows, size, columns, size)
    tiles = _reshaped(node, node.operator.inputs[0], split, part="split")
    moved = (rows, columns, channels, size, size)
    tiles = _moved(node, "Transpose", [tiles], moved, part="tiles", perm=[0, 2, 4, 1, 3, 5])
    _reshaped(node, tiles, node.output.shape)
    node.placed("Reshape, Transpose, Reshape", NOT_STREAMED, taken=False)


def _moved(node: NodeWriter, op_type: str, inputs: list[str], shape: tuple[int, ...], **options: Any) -> str:
    """A node that moves integers of its first input, which stay what they are."""
    kind, carried = node.graph.types[inputs[0]], node.graph.carried(inputs[0])
    return node.node(op_type, inputs, shape, kind, carried=carried, **options)


def _reshaped(node: NodeWriter, source: str, shape: tuple[int, ...], part: str | None = None) -> str:
    sizes = node.initializer("shape" if part is None else f"{part}.shape", np.array([1, *shape]))
    return _moved(node, "Reshape", [source, sizes], shape, part=part)


def _concat(node: NodeWriter) -> None:
    """Parts whose proven ranges differ travel alike."""
    graph, names = node.graph, list(node.operator.inputs)
    carried = TensorProto.FLOAT if node.in_floats else TensorProto.INT32
    for index, name in enumerate(names):
        if graph.carried(name) != carried:
            shape = node.values[index].shape
            part = f"part{index}"
            names[index] = node.node("Cast", [name], shape, graph.types[name], part=part, carried=carried, to=carried)
    kind, axis = datatype(node.output.bits, node.output.signed), node.attributes["axis"] + 1
    node.node("Concat", names, node.output.shape, kind, carried=carried, axis=axis)
    node.placed("Concat", NOT_STREAMED, taken=False)


def _reshape(node: NodeWriter) -> None:
    _reshaped(node, node.operator.inputs[0], node.output.shape)
    node.placed("Reshape", NOT_STREAMED, taken=False)


def _transpose(node: NodeWriter) -> None:
    perm = [0, *(axis + 1 for axis in node.attributes["axes"])]
    _moved(node, "Transpose", list(node.operator.inputs), node.output.shape, perm=perm)
    node.placed("Transpose", NOT_STREAMED, taken=False)


def _slice(node: NodeWriter) -> None:
    ends = {"start": node.attributes["start"], "stop": node.attributes["stop"], "axis": node.attributes["axis"] + 1}
    parameters = [node.initializer(role, np.array([value])) for role, value in ends.items()]
    _moved(node, "Slice", [node.operator.inputs[0], *parameters], node.output.shape)
    node.placed("Slice", NOT_STREAMED, taken=False)


def _gather(node: NodeWriter) -> None:
    index = node.constants["index"].astype(np.int64)
    if index.min() < 0:
        return node.custom("some entries are zeros")
    inputs = [node.operator.inputs[0], node.initializer("index", index)]
    _moved(node, "Gather", inputs, node.output.shape, axis=node.attributes["axis"] + 1)
    node.placed("Gather", NOT_STREAMED, taken=False)


def _linear(node: NodeWriter) -> None:
    """MatMul gives the sums without bias; the proof covers every partial sum, with the bias or without."""
    seen = node.bounds.intermediates["accumulator"]
    if not exact(seen.low, seen.high):
        return node.custom(TOO_LARGE)
    kind, weight = smallest(seen.low, seen.high), node.program.constants[node.operator.constants["weight"]]
    weights = node.initializer("weight", weight.array.T, datatype(weight.bits, weight.signed))
    sums = node.node("MatMul", [node.operator.inputs[0], weights], node.output.shape, kind, part="product")
    node.node("Add", [sums, node.integers("bias", node.constants["bias"])], node.output.shape, kind)
    node.placed("MatMul, Add", "MVAU; a MultiThreshold that follows absorbs the bias", taken=True)


def _matmul(node: NodeWriter) -> None:
    seen = node.bounds.intermediates["accumulator"]
    if not exact(seen.low, seen.high):
        return node.custom(TOO_LARGE)
    first, second = node.operator.inputs
    if node.attributes["transpose_b"]:
        shape = node.values[1].shape
        perm = [*range(len(shape) - 1), len(shape), len(shape) - 1]
        second = _moved(node, "Transpose", [second], (*shape[:-2], shape[-1], shape[-2]), part="turned", perm=perm)
    node.node("MatMul", [first, second], node.output.shape, smallest(seen.low, seen.high))
    node.placed("MatMul", "two activations: an MVAU wants constant weights", taken=False)


def _requantize(node: NodeWriter) -> None:
    multiplier, shift, kernel = node.constants["multiplier"], node.constants["shift"], node.kernel
    falls = multiplier.min() < 0
    if why := "a multiplier is negative: its channel falls" if falls else _why_no_thresholds(node):
        return node.custom(why)
    low, high = node.bounds.inputs[0]
    _multi_threshold(node, kernel, max(multiplier.size, shift.size), low, high, node.operator.inputs[0])
    node.placed("MultiThreshold", "Thresholding, or part of the MVAU before it", taken=True)


def _add(node: NodeWriter) -> None:
    """With equal multipliers the sum of the integers is requantized; with others no node of QONNX is exact."""
    first, second, shift = (node.constants[role] for role in ("multiplier_a", "multiplier_b", "shift"))
    (a_low, a_high), (b_low, b_high) = node.bounds.inputs
    low, high = a_low + b_low, a_high + b_high
    if (first != second).any():
        why: str | None = "two scales: each side has a multiplier of its own"
    elif first.min() < 0:
        why = "a multiplier is negative: its channel falls"
    elif node.values[0].shape != node.values[1].shape:
        why = "the second input repeats"
    else:
        why = _why_no_thresholds(node) or (None if exact(low, high) else TOO_LARGE)
    if why:
        return node.custom(why)
    kernel = node.kernel
    total = node.node("Add", node.operator.inputs, node.output.shape, smallest(low, high), part="sum")

    def of_sums(x: np.ndarray) -> np.ndarray:
        return kernel(x, np.zeros_like(x))

    _multi_threshold(node, of_sums, max(first.size, second.size, shift.size), low, high, total)
    node.placed("Add, MultiThreshold", "StreamingEltwise (AddStreams), Thresholding", taken=True)


def _gelu(node: NodeWriter) -> None:
    if node.attributes["kind"] == "shift":
        return node.custom("depends on its row's maximum")
    kernel, (low, high) = node.kernel, node.bounds.inputs[0]
    why = _why_no_thresholds(node)
    if why or not never_falls(kernel, low, high):
        return node.custom(why or "falls somewhere: no count of thresholds")
    _multi_threshold(node, kernel, 1, low, high, node.operator.inputs[0])
    node.placed("MultiThreshold", "Thresholding", taken=True)


def _custom(why: str) -> Callable[[NodeWriter], None]:
    return lambda node: node.custom(why)


_SOFTMAX = "FINN's softmax computes in floats"
OPERATORS: dict[str, Callable[[NodeWriter], None]] = {
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
    "layernorm": _custom("FINN's LayerNorm computes in floats"),
    "softmax": _custom(_SOFTMAX),
    "exponential": _custom(_SOFTMAX),
    "weighted_mean": _custom("divides by the sum of a row's weights"),
    "gelu": _gelu,
    "upsample": _custom("FINN enlarges by repetition only"),
    "argmax": _custom("FINN selects labels along the last axis, of one row"),
}
