"""An operator of the program -> its unit, with vectors: every argument of a small function, rows of images otherwise.

Widths are those of bounds.json: an accumulator is as wide as any image can make it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from intvit.errors import IntVitError
from intvit.export.rtl.functions import exponential_unit, gelu_unit
from intvit.export.rtl.unit import (
    CLOCKED,
    Unit,
    Words,
    delayed,
    instance,
    joined,
    packed,
    signed_bits,
    unsigned_bits,
    words,
)
from intvit.program.bounds import OperatorBounds
from intvit.program.program import Constant, Operator, Program, limits
from intvit.program.tables import exponent_table, gelu_table, weight_table
from intvit.runtime.numpy import OPERATORS as DEFINITION
from intvit.runtime.numpy import OperatorContext

LANES = 8  # of the column of multiply-accumulate cells
TABLE_BITS = 12  # of the argument: a wider function's table is no unit any more
STREAM = {**CLOCKED, "in_valid": "in_valid"}


@dataclass
class Site:
    """One operator with what its unit is made from. inputs: its values for some images, int64 [B, ...]."""

    program: Program
    operator: Operator
    bounds: dict[str, OperatorBounds]
    inputs: list[np.ndarray]
    rows: int  # of the inputs that become vectors
    form: str

    @property
    def constants(self) -> dict[str, np.ndarray]:
        return self.program.constants_of(self.operator)

    @property
    def output(self) -> tuple[int, bool]:
        value = self.program.values[self.operator.output]
        return value.bits, value.signed

    def bits(self, index: int) -> int:
        """Bits that hold every value of an input as a signed number, by its type or, if those are fewer, its bounds."""
        value = self.program.values[self.operator.inputs[index]]
        reach = self.bounds[self.operator.name].inputs[index]
        return min(value.bits + (not value.signed), signed_bits(*reach))

    def vectors(self, index: int = 0) -> np.ndarray:
        """Some rows of an input."""
        x = self.inputs[index]
        return x.reshape(-1, x.shape[-1])[: self.rows]

    def expected(self, *inputs: np.ndarray) -> np.ndarray:
        """What the definition gives for rows of inputs."""
        result: np.ndarray = DEFINITION[self.operator.op](OperatorContext(self.program, self.operator))(*inputs)
        return result.astype(np.int64)

    def unit(self, kind: str, body: str, fields: list[tuple[np.ndarray, int]], out: np.ndarray, **more: Any) -> Unit:
        """A unit whose input word joins the fields."""
        bits = self.output[0]
        in_bits = sum(width for _, width in fields)
        form = more.pop("form", "computed")
        given = (joined(*fields), words(out, bits))
        return Unit(self.operator.name, kind, form, body, in_bits, bits, *given, **more)


def rom(site: Site, *roles: str) -> tuple[Words, list[int], tuple[int, int]]:
    """Constants by channel: the words of their memory, bits of each role, and the shifts' range."""
    columns = [np.broadcast_to(site.constants[role].astype(object), _channels(site)) for role in roles]
    bits = [6 if role == "shift" else signed_bits(*map(int, c)) for role, c in zip(roles, columns, strict=True)]
    shift = site.constants["shift"].astype(int)
    memory = joined(*zip(columns, bits, strict=True))
    return memory, bits, (int(shift.min()), int(shift.max()))


def _channels(site: Site) -> tuple[int]:
    return (site.program.values[site.operator.output].shape[-1],)


def constants_unit(site: Site, bits: int) -> str:
    text = f"    wire [{bits - 1}:0] word;\n    assign in_ready = 1'b1;\n"
    ports = {**CLOCKED, "next": "in_valid", "word": "word"}
    parameters = {"C": _channels(site)[0], "W": bits, "FILE": '"constants.hex"'}
    return text + instance("channel_constants", "constants", parameters, ports)


def _requantize(site: Site) -> Unit:
    memory, (m, e), (least, most) = rom(site, "multiplier", "shift")
    bits, (out, signed) = site.bits(0), site.output
    text = constants_unit(site, m + e)
    text += f"    logic signed [{bits - 1}:0] v;\n    logic valid;\n"
    text += "    always_ff @(posedge clk) begin\n        v <= in;\n        valid <= in_valid & ~rst;\n    end\n"
    parameters = {"IW": bits, "MW": m, "OW": out, "SIGNED": int(signed), "LEAST": least, "MOST": most}
    ports = {**CLOCKED, "in_valid": "valid", "v": "v", "m": f"$signed(word[{m - 1}:0])", "e": f"word[{m + e - 1}:{m}]"}
    text += instance("rescale", "rescaler", parameters, {**ports, "out_valid": "out_valid", "y": "out"})
    x = _with_extremes(site.vectors(), site.bounds[site.operator.name].inputs[0])
    memories = {"constants.hex": (memory, m + e)}
    return site.unit("requantize", text, [(x, bits)], site.expected(x), memories=memories)


def _add(site: Site) -> Unit:
    memory, (ma, mb, e), (least, most) = rom(site, "multiplier_a", "multiplier_b", "shift")
    a_bits, b_bits, m = site.bits(0), site.bits(1), max(ma, mb)
    text = constants_unit(site, ma + mb + e)
    text += f"    logic signed [{a_bits - 1}:0] a;\n    logic signed [{b_bits - 1}:0] b;\n    logic valid;\n"
    text += f"    always_ff @(posedge clk) begin\n        a <= in[{a_bits - 1}:0];\n"
    text += f"        b <= in[{a_bits + b_bits - 1}:{a_bits}];\n        valid <= in_valid & ~rst;\n    end\n"
    parameters = {"AW": a_bits, "BW": b_bits, "MW": m, "OW": site.output[0], "LEAST": least, "MOST": most}
    ports = {**CLOCKED, "in_valid": "valid", "a": "a", "b": "b", "ma": f"{m}'($signed(word[{ma - 1}:0]))"}
    ports |= {"mb": f"{m}'($signed(word[{ma + mb - 1}:{ma}]))", "e": f"word[{ma + mb + e - 1}:{ma + mb}]"}
    text += instance("join_add", "adder", parameters, {**ports, "out_valid": "out_valid", "y": "out"})
    a_all, b_all = site.inputs
    b_all = np.broadcast_to(b_all.reshape(len(b_all), *[1] * (a_all.ndim - b_all.ndim), *b_all.shape[1:]), a_all.shape)
    a, b = (x.reshape(-1, x.shape[-1])[: site.rows] for x in (a_all, b_all))
    reach = site.bounds[site.operator.name].inputs
    a, b = _with_extremes(a, reach[0]), _with_extremes(b, reach[1])
    memories = {"constants.hex": (memory, ma + mb + e)}
    return site.unit("add", text, [(a, a_bits), (b, b_bits)], site.expected(a, b), memories=memories)


def _with_extremes(x: np.ndarray, reach: tuple[int, int]) -> np.ndarray:
    """Rows of the least and of the largest value, too."""
    return np.concatenate([x, np.full_like(x[:1], reach[0]), np.full_like(x[:1], reach[1])])


def _layernorm(site: Site) -> Unit:
    memory, (m, b, e), (least, most) = rom(site, "multiplier", "bias", "shift")
    attributes, size = site.operator.attributes, _channels(site)[0]
    bits, source, valid = site.bits(0), "in", "in_valid"
    memories = {"constants.hex": (memory, m + b + e)}
    text = f"    wire signed [{bits - 1}:0] x = in;\n"
    if "channel_shift" in site.constants:
        shifts = site.constants["channel_shift"].astype(int)
        wide = bits + int(shifts.max())
        memories["shifts.hex"] = (words(shifts, 3), 3)
        text += (
            f"    wire [2:0] amount;\n    logic signed [{bits - 1}:0] held;\n    logic signed [{wide - 1}:0] shifted;\n"
        )
        text += "    logic held_valid, shifted_valid;\n"
        parameters = {"C": size, "W": 3, "FILE": '"shifts.hex"'}
        text += instance("channel_constants", "shifts", parameters, {**CLOCKED, "next": "in_valid", "word": "amount"})
        text += "    always_ff @(posedge clk) begin\n        held <= x;\n        held_valid <= in_valid & ~rst;\n"
        text += f"        shifted <= {wide}'(held) <<< amount;\n        shifted_valid <= held_valid & ~rst;\n    end\n"
        bits, source, valid = wide, "shifted", "shifted_valid"
    normalized = site.bounds[site.operator.name].intermediates["normalized"]
    parameters = {
        "METHOD": ("exact", "ivit", "ibert").index(attributes["method"]),
        "C": size,
        "XW": bits,
        "OW": site.output[0],
        "K": attributes["normalizer_shift"],
        "SQUARE": attributes.get("square_shift", 0),
        "NEWTON": attributes.get("newton_steps", 0),
        "NW": signed_bits(normalized.low, normalized.high) + 1,
        "MW": m,
        "BW": b,
        "LEAST": least,
        "MOST": most,
        "FILE": '"constants.hex"',
    }
    text += "    wire ready;\n" + row_gate(size, "ready")
    ports = {**CLOCKED, "in_valid": valid, "in": source, "ready": "ready", "out_valid": "out_valid", "out": "out"}
    text += instance("layernorm", "normalizer", parameters, ports)
    x = site.vectors()
    return site.unit(
        f"layernorm {attributes['method']}", text, [(x, site.bits(0))], site.expected(x), memories=memories
    )


def _exponential(site: Site) -> Unit:
    operator, deferred, out = site.operator, site.operator.op == "exponential", site.output[0]
    attributes, bits, keys = operator.attributes, site.program.values[operator.inputs[0]].bits, _channels(site)[0]
    table = (weight_table if deferred else exponent_table)(site.program, operator)
    looked_up = attributes["kind"] == "table" or site.form == "table"
    if looked_up and bits > TABLE_BITS:
        raise IntVitError(
            f"{operator}: a table of 2^{bits} entries is no unit; give --form as-trained or another family"
        )
    masked = "mask" in site.constants
    distance = f"wire [{bits - 1}:0] distance = {bits}'(maximum - x);\n    wire distance_valid = x_valid;"
    text, memories = _row_maximum(bits, keys, distance, f"in[{bits}]" if masked else "1'b0"), {}
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
    text += f"    wire skips;\n{delayed(1, clocks, 'skipped', 'skips')}"
    text += f"    wire [{width - 1}:0] weight = skips ? {width}'d0 : value;\n"
    if not deferred:
        text += _normalization(attributes, width, keys, out)
    elif looked_up:
        text += "    assign out = weight;\n    assign out_valid = value_valid;\n"
    else:
        text += _multiplied(
            width + 1, "{1'b0, weight}", attributes["multiplier"], attributes["shift"], out, signed=False
        )
    text += "    assign in_ready = 1'b1;\n" * deferred
    form = "table" if looked_up else "computed"
    rows, skip = _logits(site, bits, keys)
    expected = _softmax_rows(site, rows, skip)
    fields = [(rows, bits), *[(skip, 1)] * masked]
    return site.unit(f"{operator.op} {attributes['kind']}", text, fields, expected, memories=memories, form=form)


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


def _row_maximum(bits: int, size: int, more: str, skip: str = "1'b0") -> str:
    text = f"    wire signed [{bits - 1}:0] x, maximum;\n    wire x_valid, skipped;\n"
    ports = {**STREAM, "in": f"in[{bits - 1}:0]", "skip": skip, "out_valid": "x_valid", "out": "x"}
    ports |= {"maximum": "maximum", "skipped": "skipped"}
    return text + instance("row_maximum", "rows", {"W": bits, "N": size}, ports) + f"    {more}\n"


def _normalization(attributes: dict[str, Any], width: int, keys: int, out: int) -> str:
    """A row waits for its sum; the row before it must be out, which in_ready says."""
    rounded = attributes["normalization"] == "rounded"
    parameters = {"EW": width, "N": keys, "OW": out, "FW": 46 if rounded else 31}
    parameters |= {"SHIFT": (46 if rounded else 32) - attributes["bits"], "ROUNDED": int(rounded)}
    ports = {**CLOCKED, "in_valid": "value_valid", "in": "weight", "ready": "normalized", "out_valid": "out_valid"}
    text = "    wire normalized;\n" + instance("normalize_row", "normalizer", parameters, {**ports, "out": "out"})
    return text + row_gate(keys, "normalized")


def row_gate(size: int, ready: str) -> str:
    ports = {**STREAM, "ready": ready, "in_ready": "in_ready"}
    return instance("row_gate", "gate", {"N": size}, ports)


def _multiplied(bits: int, value: str, m: int, e: int, out: int, *, signed: bool) -> str:
    width = signed_bits(m)
    parameters = {"IW": bits, "MW": width, "OW": out, "SIGNED": int(signed), "LEAST": e, "MOST": e}
    number = f"{'-' if m < 0 else ''}{width}'sd{abs(m)}"
    ports = {**CLOCKED, "in_valid": "value_valid", "v": value, "m": number, "e": f"6'd{e}"}
    return instance("rescale", "rescaler", parameters, {**ports, "out_valid": "out_valid", "y": "out"})


def _every_distance(bits: int, size: int) -> np.ndarray:
    """Rows that hold every distance from a maximum at the top of the range (of wide logits: some thousand)."""
    low, high = limits(bits, True)
    codes = np.unique(np.linspace(low, high, min(2**bits, 4096)).astype(np.int64))
    if size == 1:
        return codes[:, None]
    codes = np.concatenate([codes, np.full(-len(codes) % (size - 1), low)]).reshape(-1, size - 1)
    return np.concatenate([codes, np.full((len(codes), 1), high)], 1)


def _weighted_mean(site: Site) -> Unit:
    attributes, operator = site.operator.attributes, site.operator
    sums, weights = (x.reshape(-1, x.shape[-1])[: site.rows] for x in site.inputs)
    weight_bits, sum_bits = site.program.values[operator.inputs[1]].bits, site.bits(0)
    width = max(weight_bits, sum_bits)
    m, e = attributes["multiplier"], attributes["shift"]
    bits = max(1, int(m).bit_length())
    parameters = {"K": weights.shape[1], "WW": weight_bits, "AW": sum_bits, "MW": bits, "SHIFT": e}
    parameters |= {"OW": site.output[0], "M": f"{bits}'d{m}"}
    ports = {**CLOCKED, "weight_valid": f"in_valid & ~in[{width}]", "weight": f"in[{weight_bits - 1}:0]"}
    ports |= {"sum_valid": f"in_valid & in[{width}]", "sum": f"in[{sum_bits - 1}:0]", "ready": "in_ready"}
    text = instance("weighted_mean", "mean", parameters, {**ports, "out_valid": "out_valid", "out": "out"})
    stream = np.concatenate([weights, sums], 1)
    which = np.broadcast_to(np.arange(stream.shape[1]) >= weights.shape[1], stream.shape)
    expected = site.expected(sums, weights)
    return site.unit("weighted_mean", text, [(stream, width), (which, 1)], expected)


def _gelu(site: Site) -> Unit:
    operator, attributes = site.operator, site.operator.attributes
    bits, size, out = site.program.values[operator.inputs[0]].bits, _channels(site)[0], site.output[0]
    table, kind = gelu_table(site.program, operator), attributes["kind"]
    half = 2 ** (bits - 1)
    domain = np.arange(-half, half)
    by_row = kind == "shift"
    looked_up = kind == "table" or (site.form == "table" and not by_row)
    memories = {}
    if by_row:
        text = _row_maximum(bits, size, "")
    else:
        text = f"    wire signed [{bits - 1}:0] x = in;\n    wire x_valid = in_valid;\n"
    if looked_up:
        memories["table.hex"] = (words(np.roll(table, half), out), out)
        ports = {**STREAM, "in": "in", "out_valid": "out_valid", "out": "out"}
        text += instance("table_lookup", "family", {"AW": bits, "OW": out, "FILE": '"table.hex"'}, ports)
    else:
        family, width = gelu_unit(attributes, site.constants, bits, domain)
        text += family + _multiplied(width, "value", attributes["multiplier"], attributes["shift"], out, signed=True)
    text += "    assign in_ready = 1'b1;\n"
    rows = _every_row_maximum(half, size) if by_row else np.resize(domain, (-(-2 * half // size), size))
    form = "table" if looked_up else "computed"
    return site.unit(f"gelu {kind}", text, [(rows, bits)], site.expected(rows), memories=memories, form=form)


def _every_row_maximum(half: int, size: int) -> np.ndarray:
    """Rows that hold every entry beside every maximum that it can have (of long inputs; of short ones, many)."""
    rows = []
    for maximum in range(half):
        codes = np.arange(-half, maximum + 1)
        rows.append(np.resize(codes[::-1], size) if size >= codes.size else codes[-size:])
    return np.array(rows)


def _linear(site: Site) -> Unit:
    weight, bias = site.constants["weight"].astype(np.int64), site.constants["bias"].astype(np.int64)
    lanes, size = min(LANES, len(weight)), weight.shape[1]
    x = site.vectors()
    x_bits, w_bits = site.bits(0), signed_bits(int(weight.min()), int(weight.max()))
    reach = site.bounds[site.operator.name].intermediates["accumulator"]
    sum_bits = signed_bits(reach.low, reach.high)
    parameters = {"K": size, "LANES": lanes, "XW": x_bits, "WW": w_bits, "SW": sum_bits}
    ports = {**STREAM, "x": f"in[{x_bits - 1}:0]", "weights": f"in[{x_bits + lanes * w_bits - 1}:{x_bits}]"}
    ports |= {"biases": packed(bias[:lanes], sum_bits), "out_valid": "out_valid", "sums": "out"}
    text = "    assign in_ready = 1'b1;\n" + instance("mac_column", "column", parameters, ports)
    fields = [(x, x_bits)]
    fields += [(np.broadcast_to(weight[lane], x.shape), w_bits) for lane in range(lanes)]
    sums = site.expected(x)[:, :lanes]
    unit = site.unit("mac column", text, fields, sums)
    unit.out_bits, unit.outputs = lanes * sum_bits, joined(*((sums[:, lane], sum_bits) for lane in range(lanes)))
    return unit


UNITS: dict[str, Callable[[Site], Unit]] = {
    "linear": _linear,
    "requantize": _requantize,
    "add": _add,
    "layernorm": _layernorm,
    "softmax": _exponential,
    "exponential": _exponential,
    "weighted_mean": _weighted_mean,
    "gelu": _gelu,
}
