"""The table of operators: what each must carry, and the shape and width that it yields.

`OPERATORS[op]` lists inputs, attributes (type and range), constants (shape, widest width, range of values) and, for
softmax, gelu and layernorm, the extra ones of each kind or method. `infer_output` checks one operator against the
table and returns its output's shape and width. Nothing here executes an operator.
"""

from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from intvit.program.forms import (
    Attribute,
    Choice,
    Flag,
    Form,
    Integer,
    Integers,
    Role,
    check_attribute,
    check_attributes,
    check_constants,
)
from intvit.program.program import Constant, Operator, ProgramError, Value, limits

Inferred = tuple[tuple[int, ...], int, bool]  # shape, bits, signed

MULTIPLIER_LIMIT = 2**31 - 1
MANTISSA_BITS = 53  # of float64: shifts are capped so that one float64 multiply-add gives the same integers


def infer_output(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Value:
    """Check one operator against the table; return its output (shape, bits, signed; no scale).

    inputs: the operator's input values in order. constants: by role. Raises ProgramError with one line.
    """
    form = OPERATORS.get(operator.op)
    if form is None:
        raise ProgramError(f"operator {operator.name!r}: unknown op {operator.op!r}; known: {', '.join(OPERATORS)}")
    low, high = form.inputs
    if not low <= len(inputs) <= high:
        expected = str(low) if low == high else f"at least {low}"
        raise ProgramError(f"{operator}: has {len(inputs)} inputs, expected {expected}")
    attributes, roles = dict(form.attributes), dict(form.constants)
    if form.kind_attribute is not None:
        attributes[form.kind_attribute] = Choice(tuple(form.kinds))
        kind: Any = operator.attributes.get(form.kind_attribute)
        check_attribute(operator, form.kind_attribute, attributes[form.kind_attribute], kind)
        attributes |= form.kinds[kind][0]
        roles |= form.kinds[kind][1]
    check_attributes(operator, attributes)
    check_constants(operator, inputs, constants, roles)
    shape, bits, signed = form.infer(operator, inputs, constants)
    return Value(shape, bits, signed)


def shift_limit(operator: Operator) -> int:
    """Largest shift e of a multiply-and-shift to the output: 53 - (bits - 1); unsigned outputs and `add` one less."""
    one_less = operator.op in ("add", "exponential") or not operator.attributes.get("signed", True)
    bits: int = operator.attributes["bits"]
    return MANTISSA_BITS - (bits - 1) - one_less


def _require(condition: bool, operator: Operator, message: str) -> None:
    if not condition:
        raise ProgramError(f"{operator}: {message}")


def _check_shifts(operator: Operator, constants: dict[str, Constant]) -> None:
    """The cap on the shift of a multiply-and-shift, be it a constant or an attribute."""
    largest = int(constants["shift"].array.max()) if "shift" in constants else operator.attributes["shift"]
    cap = shift_limit(operator)
    bits = operator.attributes["bits"]
    _require(
        largest <= cap,
        operator,
        f"shift {largest} exceeds {cap}, the cap for {bits} output bits; shorten the multiplier",
    )


def _quantize_input(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    (image,) = inputs
    _require(len(image.shape) == 3, operator, f"input has shape {list(image.shape)}, expected [C, H, W]")
    _require((image.bits, image.signed) == (8, False), operator, "input must be the 8-bit unsigned image")
    return image.shape, operator.attributes["bits"], True


def _patches(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    (image,), size = inputs, operator.attributes["patch"]
    _require(len(image.shape) == 3, operator, f"input has shape {list(image.shape)}, expected [C, H, W]")
    channels, height, width = image.shape
    whole = height % size == 0 and width % size == 0
    _require(whole, operator, f"patch {size} does not divide the image of {height} x {width}")
    return ((height // size) * (width // size), channels * size * size), image.bits, image.signed


def _constant(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    value = constants["value"]
    _require(
        value.array.ndim >= 1 and value.array.size > 0,
        operator,
        "constant 'value' must have at least one entry and axis",
    )
    return value.array.shape, value.bits, value.signed


def _concat(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    axis, first = operator.attributes["axis"], inputs[0]
    _require(axis < len(first.shape), operator, f"axis {axis} is outside the shape {list(first.shape)}")
    for value in inputs[1:]:
        same = value.shape[:axis] + value.shape[axis + 1 :] == first.shape[:axis] + first.shape[axis + 1 :]
        same = same and len(value.shape) == len(first.shape)
        _require(same, operator, f"shapes {list(first.shape)} and {list(value.shape)} differ outside axis {axis}")
        same = (value.bits, value.signed) == (first.bits, first.signed)
        _require(same, operator, "inputs differ in bits or signedness; requantize them to one width first")
    joined = sum(value.shape[axis] for value in inputs)
    return first.shape[:axis] + (joined,) + first.shape[axis + 1 :], first.bits, first.signed


def _reshape(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    (x,), shape = inputs, operator.attributes["shape"]
    _require(prod(shape) == prod(x.shape), operator, f"shape {list(x.shape)} does not reshape to {list(shape)}")
    return shape, x.bits, x.signed


def _transpose(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    (x,), axes = inputs, operator.attributes["axes"]
    complete = sorted(axes) == list(range(len(x.shape)))
    _require(complete, operator, f"axes {list(axes)} are not a permutation of {list(range(len(x.shape)))}")
    return tuple(x.shape[axis] for axis in axes), x.bits, x.signed


def _slice(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    (x,) = inputs
    axis, start, stop = (operator.attributes[key] for key in ("axis", "start", "stop"))
    _require(axis < len(x.shape), operator, f"axis {axis} is outside the shape {list(x.shape)}")
    inside = start < stop <= x.shape[axis]
    _require(inside, operator, f"slice {start}:{stop} is empty or outside axis {axis} of {list(x.shape)}")
    return x.shape[:axis] + (stop - start,) + x.shape[axis + 1 :], x.bits, x.signed


def _linear(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    (x,), weight = inputs, constants["weight"]
    _require(x.bits <= 8, operator, f"input has {x.bits} bits, at most 8 allowed; requantize it first")
    _require(weight.array.size > 0, operator, "constant 'weight' is empty")
    return x.shape[:-1] + (weight.array.shape[0],), 32, True


def _matmul(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    a, b = inputs
    _require(min(len(a.shape), len(b.shape)) >= 2, operator, "inputs need two axes at least")
    columns, inner = b.shape[-2:] if operator.attributes["transpose_b"] else b.shape[-2:][::-1]
    agree = len(a.shape) == len(b.shape) and a.shape[:-2] == b.shape[:-2] and a.shape[-1] == inner
    _require(
        agree, operator, f"shapes {list(a.shape)} and {list(b.shape)} do not multiply (leading axes must be equal)"
    )
    _require(b.bits <= 8, operator, f"second input has {b.bits} bits, at most 8 allowed; requantize it first")
    _require(a.bits <= 16, operator, f"first input has {a.bits} bits, at most 8 (of a softmax: 16) allowed")
    return a.shape[:-1] + (columns,), 32, True


def _requantize(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    _check_shifts(operator, constants)
    return inputs[0].shape, operator.attributes["bits"], operator.attributes["signed"]


def _add(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    a, b = inputs
    repeats = a.shape[len(a.shape) - len(b.shape) :] == b.shape
    _require(repeats, operator, f"shapes {list(a.shape)} and {list(b.shape)} differ")
    _require(b.bits <= 16, operator, f"second input has {b.bits} bits, at most 16 allowed; the accumulator comes first")
    _check_shifts(operator, constants)
    return a.shape, operator.attributes["bits"], True


def _layernorm(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    (x,) = inputs
    _require(x.signed and x.bits <= 16, operator, "input must be signed and at most 16 bits wide")
    _check_shifts(operator, constants)
    return x.shape, operator.attributes["bits"], True


def _check_ascending(operator: Operator, constants: dict[str, Constant]) -> None:
    bounds = constants["bounds"].array.astype(object)
    ascending = all(left <= right for left, right in pairwise(bounds))
    _require(ascending, operator, "constant 'bounds' does not ascend")


def _check_logits(operator: Operator, x: Value, constants: dict[str, Constant]) -> None:
    """What `softmax` and `exponential` share."""
    attributes = operator.attributes
    _require(x.signed and x.bits <= 16, operator, "logits must be signed and at most 16 bits wide")
    if "mask" in constants:
        _check_mask(operator, x.shape, constants["mask"].array)
    if attributes["kind"] == "piecewise":
        _check_ascending(operator, constants)
    if attributes["kind"] == "polynomial":
        deepest = attributes["n"] - attributes["u"]
        _require(deepest <= 62, operator, f"n - u is {deepest}, expected at most 62 (the deepest right shift)")


def _check_mask(operator: Operator, shape: tuple[int, ...], mask: np.ndarray) -> None:
    fits = mask.ndim == len(shape) and all(m in (1, s) for m, s in zip(mask.shape, shape, strict=True))
    fits = fits and mask.shape[-1] == shape[-1]
    _require(fits, operator, f"constant 'mask' has shape {list(mask.shape)}, expected {list(shape)} or 1 along an axis")
    _require(bool((mask.min(-1) == 0).all()), operator, "constant 'mask' excludes every logit of a row")


def _softmax(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    _check_logits(operator, inputs[0], constants)
    return inputs[0].shape, operator.attributes["bits"], operator.attributes["normalization"] == "floor"


def _exponential(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    _check_logits(operator, inputs[0], constants)
    _check_shifts(operator, constants)
    return inputs[0].shape, operator.attributes["bits"], False


def _weighted_mean(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    sums, weights = inputs
    agree = len(sums.shape) >= 2 and sums.shape[:-1] == weights.shape[:-1]
    _require(agree, operator, f"sums {list(sums.shape)} and weights {list(weights.shape)} differ before the last axis")
    _check_shifts(operator, constants)
    return sums.shape, operator.attributes["bits"], True


def _gelu(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    (x,), attributes = inputs, operator.attributes
    _require(x.signed and x.bits <= 8, operator, "input must be signed and at most 8 bits wide; requantize it first")
    if attributes["kind"] == "piecewise":
        _check_ascending(operator, constants)
    if attributes["kind"] == "table":
        table, (low, high) = constants["table"].array, limits(attributes["bits"], True)
        fits = low <= int(table.min()) and int(table.max()) <= high
        _require(fits, operator, f"constant 'table' leaves the output range {low}..{high} of {attributes['bits']} bits")
    else:
        _check_shifts(operator, constants)
    if attributes["kind"] == "shift":
        top = limits(x.bits, True)[1]
        _require(attributes["limit"] <= top, operator, f"limit {attributes['limit']} exceeds the largest input, {top}")
    return x.shape, attributes["bits"], True


def _gather(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    (x,), axis, index = inputs, operator.attributes["axis"], constants["index"].array
    _require(axis < len(x.shape), operator, f"axis {axis} is outside the shape {list(x.shape)}")
    _require(index.size > 0, operator, "constant 'index' is empty")
    inside = int(index.max()) < x.shape[axis]
    _require(inside, operator, f"index {int(index.max())} is outside axis {axis} of {list(x.shape)}")
    return x.shape[:axis] + (index.size,) + x.shape[axis + 1 :], x.bits, x.signed


def _upsample(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    (x,), factor = inputs, operator.attributes["factor"]
    _require(len(x.shape) == 3 and x.signed, operator, f"input has shape {list(x.shape)}, expected signed [K, h, w]")
    _require(factor & (factor - 1) == 0, operator, f"attribute 'factor' is {factor}, expected a power of two")
    classes, height, width = x.shape
    return (classes, height * factor, width * factor), 32, True


def _argmax(operator: Operator, inputs: list[Value], constants: dict[str, Constant]) -> Inferred:
    (x,) = inputs
    _require(len(x.shape) == 3 and x.signed, operator, f"input has shape {list(x.shape)}, expected signed [K, H, W]")
    _require(x.shape[0] <= 2**16, operator, f"input has {x.shape[0]} classes, expected at most 65536")
    return x.shape[1:], 8 if x.shape[0] <= 2**8 else 16, False


_SIZE = 2**31 - 1  # no axis and no tensor is larger
_AXIS = Integer(0, 15)
_BITS = Integer(2, 16)
_MULTIPLIER = Integer(-MULTIPLIER_LIMIT, MULTIPLIER_LIMIT)
_SHIFT = Integer(1, 62)
_PER_CHANNEL_MULTIPLIER = Role(("1", "C"), 32, -MULTIPLIER_LIMIT, MULTIPLIER_LIMIT)
_PER_CHANNEL_SHIFT = Role(("1", "C"), 64, 1, 62)
# x0, n: interval and number of halvings of the exponential; fraction_bits: added before the first step
_EXPONENTIAL: dict[str, Attribute] = {"x0": Integer(-(2**24), -1), "n": Integer(0, 62), "fraction_bits": Integer(0, 24)}
_MASK = {"mask": Role((), 8, 0, 1, optional=True)}  # 1: the logit is excluded
_PIECES = {
    "origins": Role(("S",), 32),
    "coefficients": Role(("S,D",), 32),
    "bounds": Role(("S-1",), 32),
}
_EXPONENT_KINDS: dict[str, tuple[dict[str, Attribute], dict[str, Role]]] = {
    "table": ({}, {"table": Role(("L",), 32, 0, 2**31 - 1)}),
    "shift": (_EXPONENTIAL, {}),
    "polynomial": (
        _EXPONENTIAL | {"b": Integer(-(2**24), 2**24), "c": Integer(-(2**48), 2**48), "u": Integer(-62, 62)},
        {},
    ),
    "piecewise": ({"step_shift": _SHIFT}, _PIECES),
}

OPERATORS: dict[str, Form] = {
    "quantize_input": Form(
        (1, 1),
        _quantize_input,
        {"bits": _BITS, "shift": _SHIFT},
        {"multiplier": Role(("A",), 32, -MULTIPLIER_LIMIT, MULTIPLIER_LIMIT), "bias": Role(("A",), 64)},
    ),
    "patches": Form((1, 1), _patches, {"patch": Integer(1, _SIZE)}),
    "constant": Form((0, 0), _constant, {}, {"value": Role((), 32)}),
    "concat": Form((2, _SIZE), _concat, {"axis": _AXIS}),
    "reshape": Form((1, 1), _reshape, {"shape": Integers(1, _SIZE)}),
    "transpose": Form((1, 1), _transpose, {"axes": Integers(0, 15)}),
    "slice": Form((1, 1), _slice, {"axis": _AXIS, "start": Integer(0, _SIZE), "stop": Integer(1, _SIZE)}),
    "gather": Form((1, 1), _gather, {"axis": _AXIS}, {"index": Role(("M",), 32, -1)}),
    "linear": Form((1, 1), _linear, {}, {"weight": Role(("N,C",), 8), "bias": Role(("N",), 32)}),
    "matmul": Form((2, 2), _matmul, {"transpose_b": Flag()}),
    "requantize": Form(
        (1, 1),
        _requantize,
        {"bits": Integer(2, 32), "signed": Flag()},
        {"multiplier": _PER_CHANNEL_MULTIPLIER, "shift": _PER_CHANNEL_SHIFT},
    ),
    "add": Form(
        (2, 2),
        _add,
        {"bits": Integer(2, 32)},
        {
            "multiplier_a": _PER_CHANNEL_MULTIPLIER,
            "multiplier_b": _PER_CHANNEL_MULTIPLIER,
            "shift": _PER_CHANNEL_SHIFT,
        },
    ),
    "layernorm": Form(
        (1, 1),
        _layernorm,
        {"bits": _BITS, "normalizer_shift": Integer(0, 62)},
        {
            "multiplier": Role(("C",), 32, -MULTIPLIER_LIMIT, MULTIPLIER_LIMIT),
            "bias": Role(("C",), 64),
            "shift": Role(("C",), 64, 1, 62),
            "channel_shift": Role(("C",), 64, 0, 7, optional=True),
        },
        kind_attribute="method",
        kinds={
            "exact": ({}, {}),
            "ivit": ({"newton_steps": Integer(0, 16)}, {}),
            "ibert": ({"square_shift": Integer(0, 31)}, {}),
        },
    ),
    "softmax": Form(
        (1, 1),
        _softmax,
        {"bits": _BITS, "normalization": Choice(("rounded", "floor"))},
        _MASK,
        kind_attribute="kind",
        kinds=_EXPONENT_KINDS,
    ),
    "exponential": Form(
        (1, 1),
        _exponential,
        {"bits": _BITS, "multiplier": Integer(1, MULTIPLIER_LIMIT), "shift": _SHIFT},
        _MASK,
        kind_attribute="kind",
        kinds=_EXPONENT_KINDS,
    ),
    "weighted_mean": Form(
        (2, 2), _weighted_mean, {"bits": _BITS, "multiplier": Integer(0, 2**MANTISSA_BITS - 1), "shift": _SHIFT}
    ),
    "gelu": Form(
        (1, 1),
        _gelu,
        {"bits": _BITS},
        kind_attribute="kind",
        kinds={
            "table": ({}, {"table": Role(("L",), 16)}),
            "shift": (
                _EXPONENTIAL
                | {
                    "limit": Integer(0, 127),
                    "reciprocal_bits": Integer(31, 46),
                    "sigmoid_bits": Integer(1, 31),
                    "multiplier": _MULTIPLIER,
                    "shift": _SHIFT,
                },
                {},
            ),
            "polynomial": (
                {
                    "fraction_bits": Integer(0, 24),
                    "b": Integer(-(2**24), -1),
                    "c": Integer(-(2**48), -1),
                    "one": Integer(-(2**48), -1),
                    "multiplier": _MULTIPLIER,
                    "shift": _SHIFT,
                },
                {},
            ),
            "piecewise": ({"step_shift": _SHIFT, "multiplier": _MULTIPLIER, "shift": _SHIFT}, _PIECES),
        },
    ),
    "upsample": Form((1, 1), _upsample, {"factor": Integer(2, 2**8)}),
    "argmax": Form((1, 1), _argmax),
}
