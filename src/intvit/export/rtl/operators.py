"""An operator of the program -> its unit, with vectors: rows of images, or every argument of a small function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from intvit.export.rtl.site import (
    STREAM,
    Site,
    channels,
    constants_unit,
    rom,
    row_gate,
    shift_port,
    waiting,
    with_extremes,
)
from intvit.export.rtl.softmax_gelu import exponential, gelu
from intvit.export.rtl.unit import CLOCKED, Unit, instance, joined, packed, signed_bits, unsigned_bits, words
from intvit.program.tables import weight_table

LANES = 8  # of the column of multiply-accumulate cells


def _requantize(site: Site) -> Unit:
    memory, (m, e), (least, most) = rom(site, "multiplier", "shift")
    bits, (out, signed) = site.bits(0), site.output
    text = constants_unit(site, m + e)
    text += waiting(bits) + f"    wire signed [{m - 1}:0] multiplier = word[{m - 1}:0];\n"
    parameters = {"IW": bits, "MW": m, "OW": out, "SIGNED": int(signed), "LEAST": least, "MOST": most}
    ports = {
        **CLOCKED,
        "in_valid": "valid",
        "v": "held",
        "m": "multiplier",
        "e": shift_port(m, e, least),
    }
    text += instance("rescale", "rescaler", parameters, {**ports, "out_valid": "out_valid", "y": "out"})
    x = with_extremes(site.vectors(), site.bounds[site.operator.name].inputs[0])
    memories = {"constants.hex": (memory, m + e)}
    return site.unit(text, [(x, bits)], site.expected(x), memories=memories)


def _add(site: Site) -> Unit:
    memory, (ma, mb, e), (least, most) = rom(site, "multiplier_a", "multiplier_b", "shift")
    a_bits, b_bits, m = site.bits(0), site.bits(1), max(ma, mb)
    text = constants_unit(site, ma + mb + e)
    text += waiting(a_bits + b_bits)
    parameters = {"AW": a_bits, "BW": b_bits, "MW": m, "OW": site.output[0], "LEAST": least, "MOST": most}
    ports = {
        **CLOCKED,
        "in_valid": "valid",
        "a": f"$signed(held[{a_bits - 1}:0])",
        "ma": f"{m}'($signed(word[{ma - 1}:0]))",
    }
    ports |= {"b": f"$signed(held[{a_bits + b_bits - 1}:{a_bits}])"}
    ports |= {"mb": f"{m}'($signed(word[{ma + mb - 1}:{ma}]))", "e": shift_port(ma + mb, e, least)}
    text += instance("join_add", "adder", parameters, {**ports, "out_valid": "out_valid", "y": "out"})
    a_all, b_all = site.inputs
    b_all = np.broadcast_to(b_all.reshape(len(b_all), *[1] * (a_all.ndim - b_all.ndim), *b_all.shape[1:]), a_all.shape)
    a, b = (x.reshape(-1, x.shape[-1])[: site.rows] for x in (a_all, b_all))
    reach = site.bounds[site.operator.name].inputs
    a, b = with_extremes(a, reach[0]), with_extremes(b, reach[1])
    memories = {"constants.hex": (memory, ma + mb + e)}
    return site.unit(text, [(a, a_bits), (b, b_bits)], site.expected(a, b), memories=memories)


def _layernorm(site: Site) -> Unit:
    memory, (m, b, e), (least, most) = rom(site, "multiplier", "bias", "shift")
    attributes, size = site.operator.attributes, channels(site)[0]
    bits, source, valid = site.bits(0), "in", "in_valid"
    memories = {"constants.hex": (memory, m + b + e)}
    text = ""
    if "channel_shift" in site.constants:
        shifts = site.constants["channel_shift"].astype(int)
        wide = bits + int(shifts.max())
        memories["shifts.hex"] = (words(shifts, 3), 3)
        text += f"    wire [2:0] amount;\n    logic signed [{wide - 1}:0] shifted;\n    logic shifted_valid;\n"
        parameters = {"C": size, "W": 3, "FILE": '"shifts.hex"'}
        text += instance("channel_constants", "shifts", parameters, {**CLOCKED, "next": "in_valid", "word": "amount"})
        text += waiting(bits) + "    always_ff @(posedge clk) begin\n"
        text += f"        shifted <= {wide}'(held) <<< amount;\n        shifted_valid <= valid & ~rst;\n    end\n"
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
        "NW": signed_bits(normalized.low, normalized.high),
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
    return site.unit(text, [(x, site.bits(0))], site.expected(x), memories=memories)


def _weighted_mean(site: Site) -> Unit:
    attributes, operator = site.operator.attributes, site.operator
    sums, weights = (x.reshape(-1, x.shape[-1])[: site.rows] for x in site.inputs)
    weight_bits, sum_bits = site.program.values[operator.inputs[1]].bits, site.bits(0)
    width = max(weight_bits, sum_bits)
    m, e = attributes["multiplier"], attributes["shift"]
    bits = unsigned_bits(m)
    exponential = next(o for o in site.program.operators if o.output == operator.inputs[1])
    least = int(weight_table(site.program, exponential)[0])  # what a row weighs: its maximum does
    parameters = {"K": weights.shape[1], "WW": weight_bits, "AW": sum_bits, "MW": bits, "SHIFT": e}
    parameters |= {"FW": unsigned_bits(m // least)}
    parameters |= {"OW": site.output[0], "M": f"{bits}'d{m}"}
    ports = {**CLOCKED, "weight_valid": f"in_valid & ~in[{width}]", "weight": f"in[{weight_bits - 1}:0]"}
    ports |= {"sum_valid": f"in_valid & in[{width}]", "sum": f"in[{sum_bits - 1}:0]", "ready": "in_ready"}
    text = instance("weighted_mean", "mean", parameters, {**ports, "out_valid": "out_valid", "out": "out"})
    stream = np.concatenate([weights, sums], 1)
    which = np.broadcast_to(np.arange(stream.shape[1]) >= weights.shape[1], stream.shape)
    expected = site.expected(sums, weights)
    return site.unit(text, [(stream, width), (which, 1)], expected)


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
    unit = site.unit(text, fields, sums)
    unit.out_bits, unit.outputs = lanes * sum_bits, joined(*((sums[:, lane], sum_bits) for lane in range(lanes)))
    return unit


UNITS: dict[str, Callable[[Site], Unit]] = {
    "linear": _linear,
    "requantize": _requantize,
    "add": _add,
    "layernorm": _layernorm,
    "softmax": exponential,
    "exponential": exponential,
    "weighted_mean": _weighted_mean,
    "gelu": gelu,
}
