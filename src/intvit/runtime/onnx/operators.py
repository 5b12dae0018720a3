"""From an operator of the program to a node: its parameters as initializers, and the local function that it calls.

Functions of few arguments become tables here, equal by construction: the input's quantization, softmax's exponentials,
GELU. `OPERATORS[op](site)` adds the node.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from intvit.program import Value, container, limits
from intvit.program.functions import exponent, gelu_before_shift
from intvit.runtime.onnx import functions
from intvit.runtime.onnx.normalization import layernorm as layernorm_function
from intvit.runtime.onnx.site import Site, shift_offsets


def _quantize_input(site: Site) -> None:
    multiplier, bias = (site.constants[role].astype(object)[:, None] for role in ("multiplier", "bias"))
    table = np.arange(256).astype(object) * multiplier + bias
    start = np.arange(len(table), dtype=np.int32).reshape(-1, 1, 1) * 256
    shift = np.array(site.attributes["shift"], object)
    site.call(
        "quantize_input",
        functions.quantize_input,
        image=site.operator.inputs[0],
        table=site.initializer("table", _clamped(table, shift, site.output).reshape(-1)),
        start=site.initializer("start", start),
        shape=site.shape(*site.output.shape),
    )


def _clamped(value: np.ndarray, shift: np.ndarray | int, output: Value) -> np.ndarray:
    """clamp((v + 2^(e-1)) >> e) of Python integers, in the output's type."""
    rounded = (value.astype(object) + (1 << (shift - 1))) >> shift
    return np.clip(rounded, *limits(output.bits, output.signed)).astype(container(output.bits, output.signed))


def _patches(site: Site) -> None:
    channels, height, width = site.values[0].shape
    size = site.attributes["patch"]
    tiles = site.shape(channels, height // size, size, width // size, size)
    rows = site.shape(*site.output.shape)
    site.call("patches", functions.patches, image=site.operator.inputs[0], tiles=tiles, rows=rows)


def _constant(site: Site) -> None:
    value = site.constants["value"].astype(container(site.output.bits, site.output.signed))
    name, shape = site.initializer("value", value), list(site.output.shape)
    if site.batch is None:
        body = site.graph.body
        batch = body.op("Shape", site.image, output=f"{site.operator.name}.batch", start=0, end=1)
        sizes = site.initializer("sizes", np.array(shape))
        target = body.op("Concat", batch, sizes, output=f"{site.operator.name}.shape", axis=0)
    else:
        target = site.shape(*shape)
    site.call("constant", functions.constant, value=name, shape=target)


def _concat(site: Site) -> None:
    site.graph.standard("Concat", site.operator.inputs, site.operator.output, axis=site.attributes["axis"] + 1)


def _reshape(site: Site) -> None:
    inputs = [site.operator.inputs[0], site.shape(*site.output.shape)]
    site.graph.standard("Reshape", inputs, site.operator.output)


def _transpose(site: Site) -> None:
    order = [0, *(axis + 1 for axis in site.attributes["axes"])]
    site.graph.standard("Transpose", site.operator.inputs, site.operator.output, perm=order)


def _slice(site: Site) -> None:
    axis, start, stop = (site.attributes[key] for key in ("axis", "start", "stop"))
    ends = {"start": start, "stop": stop, "axis": axis + 1}
    parameters = [site.initializer(role, np.array([value])) for role, value in ends.items()]
    site.graph.standard("Slice", [site.operator.inputs[0], *parameters], site.operator.output)


def _gather(site: Site) -> None:
    index, axis = site.constants["index"].astype(np.int64), site.attributes["axis"]
    name = site.initializer("index", np.maximum(index, 0))
    if index.min() >= 0:
        site.graph.standard("Gather", [site.operator.inputs[0], name], site.operator.output, axis=axis + 1)
        return
    keep = (index >= 0).reshape(-1, *[1] * (len(site.output.shape) - axis - 1))
    site.call(
        f"gather_or_zero_{axis}",
        functions.gather_or_zero(axis + 1),
        x=site.operator.inputs[0],
        index=name,
        keep=site.initializer("keep", keep.astype(container(site.output.bits, site.output.signed))),
    )


def _type(value: Value) -> np.dtype:
    return container(value.bits, value.signed)


def _linear(site: Site) -> None:
    weight = (site.constants["weight"].astype(np.int16) + 128).astype(np.uint8)
    x_type = _type(site.values[0])
    site.call(
        f"linear_{x_type}",
        functions.linear(x_type),
        x=site.operator.inputs[0],
        weight=site.initializer("weight", weight.T),
        bias=site.initializer("bias", site.constants["bias"].astype(np.int32)),
    )


def _matmul(site: Site) -> None:
    a, b = site.values
    turned, rank = site.attributes["transpose_b"], len(a.shape) + 1
    name = f"matmul_{_type(a)}_{_type(b)}" + (f"_transposed_{rank}" if turned else "")
    write = functions.matmul(_type(a), _type(b), turned, rank)
    site.call(name, write, a=site.operator.inputs[0], b=site.operator.inputs[1])


def _requantize(site: Site) -> None:
    clamp, parameters = site.rounding_shift()
    site.call(
        f"requantize_{clamp.suffix}",
        functions.requantize(clamp),
        x=site.operator.inputs[0],
        multiplier=site.int64("multiplier"),
        **parameters,
    )


def _add(site: Site) -> None:
    clamp, parameters = site.rounding_shift("sum of products")
    a, b = site.operator.inputs
    missing = len(site.values[0].shape) - len(site.values[1].shape)
    if missing:
        axes = site.initializer("axes", np.arange(1, missing + 1))
        b = site.graph.body.op("Unsqueeze", b, axes, output=f"{site.operator.name}.b")
    multipliers = {role: site.int64(role) for role in ("multiplier_a", "multiplier_b")}
    site.call(f"add_{clamp.suffix}", functions.add(clamp), a=a, b=b, **multipliers, **parameters)


def _layernorm(site: Site) -> None:
    attributes, size = site.attributes, site.output.shape[-1]
    clamp, parameters = site.rounding_shift()
    shift = np.atleast_1d(attributes["normalizer_shift"])
    normalizing, _ = shift_offsets(site.bounds.intermediates["y * F"], shift, half=False)
    parameters |= {f"n_{role}": site.initializer(f"n_{role}", array) for role, array in normalizing.items()}
    detail = [str(attributes[key]) for key in ("newton_steps", "square_shift") if key in attributes]
    name = "_".join(["layernorm", attributes["method"], *detail, str(size), clamp.suffix])
    if "channel_shift" in site.constants:
        name += "_factors"
        factors = 1 << site.constants["channel_shift"].astype(np.int64)
        parameters["channel_factor"] = site.initializer("channel_factor", factors)
    site.call(
        name,
        layernorm_function(attributes, size, clamp),
        x=site.operator.inputs[0],
        multiplier=site.int64("multiplier"),
        bias=site.int64("bias"),
        **parameters,
    )


def _exponents(site: Site) -> np.ndarray:
    return exponent(site.attributes, site.constants, np.arange(1 << site.values[0].bits))[0]


def _masked(site: Site) -> tuple[str, dict[str, str]]:
    """What a mask adds to a function's name and parameters."""
    if "mask" not in site.constants:
        return "", {}
    return "_masked", {"mask": site.initializer("mask", site.constants["mask"].astype(np.bool_))}


def _softmax(site: Site) -> None:
    bits, normalization = site.attributes["bits"], site.attributes["normalization"]
    logits = site.values[0].bits
    ending, mask = _masked(site)
    site.call(
        f"softmax_{normalization}_{logits}_{bits}{ending}",
        functions.softmax(normalization, bits, _type(site.output), limits(logits, True)[0]),
        x=site.operator.inputs[0],
        table=site.initializer("table", _exponents(site).astype(np.int64)),
        shape=site.shape(*site.output.shape),
        **mask,
    )


def _exponential(site: Site) -> None:
    table = _clamped(
        _exponents(site).astype(object) * site.attributes["multiplier"], site.attributes["shift"], site.output
    )
    logits, (ending, mask) = site.values[0].bits, _masked(site)
    site.call(
        f"exponential_{logits}_{site.output.bits}{ending}",
        functions.exponential(_type(site.output), limits(logits, True)[0]),
        x=site.operator.inputs[0],
        table=site.initializer("table", table),
        shape=site.shape(*site.output.shape),
        **mask,
    )


def _weighted_mean(site: Site) -> None:
    clamp, parameters = site.rounding_shift()
    total = "int32" if site.bounds.intermediates["sum of weights"].high < 2**31 else "int64"
    site.call(
        f"weighted_mean_{total}_{clamp.suffix}",
        functions.weighted_mean(clamp, total),
        sums=site.operator.inputs[0],
        weights=site.operator.inputs[1],
        multiplier=site.initializer("multiplier", np.array([site.attributes["multiplier"]], np.int64)),
        **parameters,
    )


def _gelu(site: Site) -> None:
    half, kind = 1 << (site.values[0].bits - 1), site.attributes["kind"]
    x, name, function = np.arange(-half, half), f"gelu_table_{half}", functions.gelu_table(half)
    if kind == "table":
        table = site.constants["table"].astype(_type(site.output))
    elif kind == "shift":
        name, function = f"gelu_row_table_{half}", functions.gelu_row_table(half)
        maximum = np.arange(half)[:, None]
        arguments = np.broadcast_arrays(np.minimum(x, maximum), maximum)  # x beyond the maximum is never read
        table = _gelu_table(site, *(array.reshape(-1) for array in arguments))
    else:
        table = _gelu_table(site, x, np.zeros_like(x))
    shape = site.shape(*site.output.shape)
    site.call(name, function, x=site.operator.inputs[0], table=site.initializer("table", table), shape=shape)


def _gelu_table(site: Site, x: np.ndarray, row_max: np.ndarray) -> np.ndarray:
    value, _ = gelu_before_shift(site.attributes, site.constants, x, row_max)
    return _clamped(value.astype(object) * site.attributes["multiplier"], site.attributes["shift"], site.output)


OPERATORS: dict[str, Callable[[Site], None]] = {
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
}
