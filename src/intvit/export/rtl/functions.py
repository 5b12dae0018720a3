"""Exponentials and GELUs of every family as units: from a code to the function's value before its multiplier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from intvit.export.rtl.unit import CLOCKED, delayed, instance, packed, signed_bits, unsigned_bits
from intvit.program.functions import gelu_before_shift, piecewise

Attributes = Mapping[str, Any]
Constants = Mapping[str, np.ndarray]


def exponential_unit(attributes: Attributes, constants: Constants, bits: int, largest: int) -> tuple[str, int, int]:
    """SystemVerilog from `distance` and `distance_valid` to `value` (unsigned) and `value_valid`; its bits and clocks.

    bits: of the distance. largest: value of the exponential.
    """
    width, kind = unsigned_bits(largest), attributes["kind"]
    if kind == "piecewise":
        text, clocks, signed = piecewise_unit(attributes, constants, np.arange(2**bits), "{1'b0, distance}", bits + 1)
        text = text.replace("PIECES", "pieces")
        lines = f"    wire signed [{signed - 1}:0] pieces;\n    logic [{width - 1}:0] value;\n" + text
        lines += f"    always_ff @(posedge clk) value <= pieces < 0 ? {width}'d0 : pieces[{width - 1}:0];\n"
        return lines + _valid("distance", "value", clocks + 1), width, clocks + 1
    x0, n, f = -attributes["x0"], attributes["n"], attributes["fraction_bits"]
    xw, qw = unsigned_bits(x0), unsigned_bits(n)
    shape = {"DW": bits, "F": f, "X0": x0, "N": n, "XW": xw, "QW": qw}
    if kind == "polynomial":
        b, c = attributes["b"], attributes["c"]
        farthest = max(b * b, (b - x0) ** 2)
        square = signed_bits(farthest, c, farthest + c)
        shape |= {"B": b, "C": f"{square}'sd{c}" if c >= 0 else f"-{square}'sd{-c}", "U": attributes["u"]}
        shape |= {"VW": signed_bits(b, b - x0), "SW": square, "EW": width}
        text = f"    wire [{width - 1}:0] value;\n"
        text += instance(
            "polynomial_exponential", "family", shape, {"clk": "clk", "distance": "distance", "value": "value"}
        )
        return text + _valid("distance", "value", qw + 8), width, qw + 8
    ports = {"clk": "clk", "distance": "distance", "mantissa": "mantissa", "doublings": "doublings"}
    text = f"    wire [{xw - 1}:0] mantissa;\n    wire [{qw - 1}:0] doublings;\n    logic [{width - 1}:0] value;\n"
    text += instance("shift_parts", "family", shape, ports)
    text += f"    always_ff @(posedge clk) value <= {width}'(mantissa) << doublings;\n"
    return text + _valid("distance", "value", qw + 5), width, qw + 5


def piecewise_unit(
    attributes: Attributes, constants: Constants, domain: np.ndarray, source: str, bits: int
) -> tuple[str, int, int]:
    """An instance that sets `PIECES`; its clocks, and the bits of its value. domain: every argument that occurs."""
    bounds, origins, coefficients = (constants[role].astype(np.int64) for role in ("bounds", "origins", "coefficients"))
    inner = (bounds > domain.min()) & (bounds <= domain.max())  # the others are always passed, or never
    first, kept = int((bounds <= domain.min()).sum()), int(inner.sum())
    origins, coefficients = origins[first : first + kept + 1], coefficients[first : first + kept + 1]
    degree, g = coefficients.shape[1] - 1, attributes["step_shift"]
    width = signed_bits(int(coefficients.min()), int(coefficients.max()))
    values, seen = piecewise(attributes, constants, domain)
    reach = [*map(int, (values.min(), values.max())), *(bound >> g for bound in seen["horner"])]
    value = signed_bits(*reach, int(coefficients.min()), int(coefficients.max())) + 2
    far = np.abs(origins).max() if origins.size else 0
    bits = max(bits, signed_bits(int(far)))
    parameters = {
        "S": kept + 1,
        "D": degree,
        "XW": bits,
        "CW": width,
        "VW": value,
        "G": g,
        "BOUNDS": packed(bounds[inner], bits),
        "ORIGINS": packed(origins, bits),
        "COEFFICIENTS": packed(coefficients.reshape(-1), width),
    }
    ports = {"clk": "clk", "x": f"{bits}'($signed({source}))", "value": "PIECES"}
    return instance("piecewise", "family", parameters, ports), 4 * degree + 3, value


def gelu_unit(attributes: Attributes, constants: Constants, bits: int, domain: np.ndarray) -> tuple[str, int]:
    """SystemVerilog from `x` and `x_valid` (ShiftGELU: and `maximum`) to `value` (signed), `value_valid`; its bits."""
    kind = attributes["kind"]
    if kind == "piecewise":
        text, clocks, width = piecewise_unit(attributes, constants, domain, "x", bits)
        text = f"    wire signed [{width - 1}:0] value;\n" + text.replace("PIECES", "value")
        return text + _valid("x", "value", clocks), width
    f = attributes["fraction_bits"]
    if kind == "polynomial":
        b, c, one = (-attributes[key] for key in ("b", "c", "one"))
        a = max(unsigned_bits(b), bits + f)
        erf = signed_bits(2 * max(b * b, c, one) + c + one) + 1
        width = bits + f + erf
        parameters = {"XW": bits, "F": f, "B": b, "C": f"{erf}'d{c}", "ONE": f"{erf}'d{one}", "AW": a, "EW": erf}
        text = f"    wire signed [{width - 1}:0] value;\n"
        text += instance("polynomial_gelu", "family", parameters, {"clk": "clk", "x": "x", "value": "value"})
        return text + _valid("x", "value", 11), width
    x0, n, k, g = -attributes["x0"], attributes["n"], attributes["reciprocal_bits"], attributes["sigmoid_bits"]
    half = 2 ** (bits - 1)
    row_max, index = np.nonzero(domain <= np.arange(half)[:, None])
    _, seen = gelu_before_shift(attributes, constants, domain[index], row_max)
    parameters = {"XW": bits, "F": f, "X0": x0, "N": n, "LW": unsigned_bits(x0), "QW": unsigned_bits(n)}
    parameters |= {"LIMIT": attributes["limit"], "K": k, "G": g}
    parameters |= {"AW": unsigned_bits(seen["sum"][1]), "RW": unsigned_bits(seen["reciprocal"][1])}
    width = bits + g + 2
    ports = {
        **CLOCKED,
        "in_valid": "x_valid",
        "x": "x",
        "maximum": "maximum",
        "out_valid": "value_valid",
        "value": "value",
    }
    text = f"    wire signed [{width - 1}:0] value;\n    wire value_valid;\n"
    return text + instance("shift_gelu", "family", parameters, ports), width


def _valid(source: str, target: str, clocks: int) -> str:
    text = f"    wire {target}_valid;\n"
    return text + delayed(1, clocks, f"{source}_valid & ~rst", f"{target}_valid")
