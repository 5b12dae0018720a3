"""Softmax, exponential and GELU as units: the row's maximum, the family or its table, and what follows it."""

from __future__ import annotations

from typing import Any

import numpy as np

from intvit.errors import IntVitError
from intvit.export.rtl.functions import exponential_unit, gelu_unit
from intvit.export.rtl.site import STREAM, Site, channels, multiplied, row_gate
from intvit.export.rtl.unit import CLOCKED, Unit, delayed, instance, unsigned_bits, words
from intvit.program.program import Constant, Program, limits
from intvit.program.tables import exponent_table, gelu_table, weight_table
from intvit.runtime.numpy import OPERATORS as DEFINITION
from intvit.runtime.numpy import OperatorContext

TABLE_BITS = 12  # of the argument: a wider function's table is no unit any more


def exponential(site: Site) -> Unit:
    operator, deferred, out = site.operator, site.operator.op == "exponential", site.output[0]
    attributes, bits, keys = operator.attributes, site.program.values[operator.inputs[0]].bits, channels(site)[0]
    table = (weight_table if deferred else exponent_table)(site.program, operator)
    looked_up = attributes["kind"] == "table" or site.form == "table"
    if looked_up and bits > TABLE_BITS:
        raise IntVitError(
            f"{operator}: a table of 2^{bits} entries is no unit; give --form as-trained or another family"
        )
    masked = "mask" in site.constants
    text, memories = _row_maximum(bits, keys, f"in[{bits}]" if masked else "1'b0"), {}
    text += f"    logic [{bits - 1}:0] distance;\n    logic distance_valid;\n    always_ff @(posedge clk) begin\n"
    text += f"        distance <= {bits}'(maximum - x);\n        distance_valid <= x_valid & ~rst;\n    end\n"
    if looked_up:
        width, clocks = out if deferred else unsigned_bits(int(table.max())), 1
        memories["table.hex"] = (words(table, width), width)
        text += f"    wire [{width - 1}:0] value;\n    wire value_valid;\n"
        ports = {**CLOCKED, "in_valid": "distance_valid", "in": "distance", "out_valid": "value_valid", "out": "value"}
        text += instance("table_lookup", "family", {"AW": bits, "OW": width, "FILE": '"table.hex"'}, ports)
    else:
        largest = int(exponent_table(site.program, operator).max())
        family, width, clocks = exponential_unit(attributes, site.constants, bits, largest)
        text += family
    text += f"    wire skips;\n{delayed(1, clocks + 1, 'skipped', 'skips')}"
    text += f"    wire [{width - 1}:0] weight = skips ? {width}'d0 : value;\n"
    if not deferred:
        text += _normalization(attributes, width, keys, out)
    elif looked_up:
        text += "    assign out = weight;\n    assign out_valid = value_valid;\n"
    else:
        text += multiplied(
            width + 1, "{1'b0, weight}", attributes["multiplier"], attributes["shift"], out, signed=False
        )
    text += "    assign in_ready = 1'b1;\n" * deferred
    form = "table" if looked_up else "computed"
    rows, skip = _logits(site, bits, keys)
    expected = _softmax_rows(site, rows, skip)
    fields = [(rows, bits), *[(skip, 1)] * masked]
    return site.unit(text, fields, expected, memories=memories, form=form)


def _logits(site: Site, bits: int, keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that hold every distance, rows of images, and what the mask skips of them."""
    every, rows = _every_distance(bits, keys), site.vectors()
    skip = np.zeros_like(rows)
    if "mask" in site.constants:
        mask = np.broadcast_to(site.constants["mask"], site.inputs[0].shape)
        skip = mask.reshape(-1, keys)[: site.rows].astype(np.int64)
    return np.concatenate([every, rows]), np.concatenate([np.zeros_like(every), skip])


def _softmax_rows(site: Site, rows: np.ndarray, skip: np.ndarray) -> np.ndarray:
    """The definition's result for rows with a mask of their own."""
    program, operator = site.program, site.operator
    constants = dict(program.constants)
    if "mask" in operator.constants:
        constants[operator.constants["mask"]] = Constant(skip, 1, False)
    changed = Program(program.input, program.output, program.values, constants, program.operators)
    result: np.ndarray = DEFINITION[operator.op](OperatorContext(changed, operator))(rows)
    return result.astype(np.int64)


def _row_maximum(bits: int, size: int, skip: str = "1'b0") -> str:
    text = f"    wire signed [{bits - 1}:0] x, maximum;\n    wire x_valid, skipped;\n"
    ports = {**STREAM, "in": f"in[{bits - 1}:0]", "skip": skip, "out_valid": "x_valid", "out": "x"}
    ports |= {"maximum": "maximum", "skipped": "skipped"}
    return text + instance("row_maximum", "rows", {"W": bits, "N": size}, ports)


def _normalization(attributes: dict[str, Any], width: int, keys: int, out: int) -> str:
    """A row waits for its sum; the row before it must be out, which in_ready says."""
    rounded = attributes["normalization"] == "rounded"
    parameters = {"EW": width, "N": keys, "OW": out, "FW": 46 if rounded else 31}
    parameters |= {"SHIFT": (46 if rounded else 32) - attributes["bits"], "ROUNDED": int(rounded)}
    ports = {**CLOCKED, "in_valid": "value_valid", "in": "weight", "ready": "normalized", "out_valid": "out_valid"}
    text = "    wire normalized;\n" + instance("normalize_row", "normalizer", parameters, {**ports, "out": "out"})
    return text + row_gate(keys, "normalized")


def _every_distance(bits: int, size: int) -> np.ndarray:
    """Rows that hold every distance from a maximum at the top of the range (of wide logits: some thousand)."""
    low, high = limits(bits, True)
    codes = np.unique(np.linspace(low, high, min(2**bits, 4096)).astype(np.int64))
    if size == 1:
        return codes[:, None]
    codes = np.concatenate([codes, np.full(-len(codes) % (size - 1), low)]).reshape(-1, size - 1)
    return np.concatenate([codes, np.full((len(codes), 1), high)], 1)


def gelu(site: Site) -> Unit:
    operator, attributes = site.operator, site.operator.attributes
    bits, size, out = site.program.values[operator.inputs[0]].bits, channels(site)[0], site.output[0]
    table, kind = gelu_table(site.program, operator), attributes["kind"]
    half = 2 ** (bits - 1)
    domain = np.arange(-half, half)
    by_row = kind == "shift"
    looked_up = kind == "table" or (site.form == "table" and not by_row)
    memories = {}
    if by_row:
        text = _row_maximum(bits, size)
    else:
        text = f"    wire signed [{bits - 1}:0] x = in;\n    wire x_valid = in_valid;\n"
    if looked_up:
        memories["table.hex"] = (words(np.roll(table, half), out), out)
        ports = {**STREAM, "in": "in", "out_valid": "out_valid", "out": "out"}
        text += instance("table_lookup", "family", {"AW": bits, "OW": out, "FILE": '"table.hex"'}, ports)
    else:
        family, width = gelu_unit(attributes, site.constants, bits, domain)
        text += family + multiplied(width, "value", attributes["multiplier"], attributes["shift"], out, signed=True)
    text += "    assign in_ready = 1'b1;\n"
    rows = _every_row_maximum(half, size) if by_row else np.resize(domain, (-(-2 * half // size), size))
    form = "table" if looked_up else "computed"
    return site.unit(text, [(rows, bits)], site.expected(rows), memories=memories, form=form)


def _every_row_maximum(half: int, size: int) -> np.ndarray:
    """Rows that hold every entry beside every maximum that it can have (of long inputs; of short ones, many)."""
    rows = []
    for maximum in range(half):
        codes = np.arange(-half, maximum + 1)
        rows.append(np.resize(codes[::-1], size) if size >= codes.size else codes[-size:])
    return np.array(rows)
