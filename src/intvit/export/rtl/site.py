"""One operator of a program with what its unit is made from, and parts that units of several operators have.

Widths are those of bounds.json: an accumulator is as wide as any image can make it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from intvit.export.rtl.unit import CLOCKED, Unit, Words, delayed, instance, joined, signed_bits, words
from intvit.program.bounds import OperatorBounds
from intvit.program.program import Operator, Program
from intvit.runtime.numpy import OPERATORS as DEFINITION
from intvit.runtime.numpy import OperatorContext

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

    def unit(self, body: str, fields: list[tuple[np.ndarray, int]], out: np.ndarray, **more: Any) -> Unit:
        """A unit whose input word joins the fields."""
        bits = self.output[0]
        in_bits = sum(width for _, width in fields)
        form = more.pop("form", "computed")
        given = (joined(*fields), words(out, bits))
        kind = kind_of(self.program, self.operator) or self.operator.op
        return Unit(self.operator.name, kind, form, body, in_bits, bits, *given, **more)


def kind_of(program: Program, operator: Operator) -> str | None:
    """As a unit is called in tables of sizes; None for operators that only move data.

    "short": its constants are those of `quant/hardware=dsp17`, or as good: a unit of them is smaller.
    """
    attributes = operator.attributes
    kind: str
    match operator.op:
        case "linear" | "matmul":
            return "mac column"
        case "requantize" | "add" | "weighted_mean":
            kind = operator.op
        case "layernorm":
            kind = f"layernorm {attributes['method']}"
        case "softmax" | "exponential" | "gelu":
            kind = f"{operator.op} {attributes['kind']}"
        case _:
            return None
    return f"{kind} short" if _short(program, operator) else kind


def _short(program: Program, operator: Operator) -> bool:
    m = operator.attributes.get("multiplier", 0)
    match operator.op:
        case "exponential":
            return operator.attributes["kind"] != "table" and m & (m - 1) == 0
        case "gelu":
            return operator.attributes["kind"] != "table" and abs(m) < 2**17
        case "weighted_mean":
            return bool(m < 2**31)  # over weights of 2^7 and more: reciprocals of 24 bits
    constants = program.constants_of(operator)
    if "shift" not in constants:
        return False
    longest = max(int(np.abs(c.astype(np.int64)).max()) for role, c in constants.items() if "multiplier" in role)
    return longest < 2**17 and len(set(constants["shift"].reshape(-1).tolist())) == 1


def rom(site: Site, *roles: str) -> tuple[Words, list[int], tuple[int, int]]:
    """Constants by channel: the words of their memory, bits of each role, and the shifts' range.

    A shift that all channels share is not in the memory: it has 0 bits.
    """
    shift = site.constants["shift"].astype(int)
    reach = int(shift.min()), int(shift.max())
    columns = [np.broadcast_to(site.constants[role].astype(object), channels(site)) for role in roles]
    bits = [signed_bits(*map(int, column)) for column in columns]
    bits = [6 * (reach[0] < reach[1]) if role == "shift" else b for role, b in zip(roles, bits, strict=True)]
    return joined(*zip(columns, bits, strict=True)), bits, reach


def shift_port(first: int, bits: int, least: int) -> str:
    """The shift in the memory's word, or the one of all channels."""
    return f"word[{first + bits - 1}:{first}]" if bits else f"6'd{least}"


def channels(site: Site) -> tuple[int]:
    return (site.program.values[site.operator.output].shape[-1],)


def constants_unit(site: Site, bits: int) -> str:
    text = f"    wire [{bits - 1}:0] word;\n    assign in_ready = 1'b1;\n"
    ports = {**CLOCKED, "next": "in_valid", "word": "word"}
    parameters = {"C": channels(site)[0], "W": bits, "FILE": '"constants.hex"'}
    return text + instance("channel_constants", "constants", parameters, ports)


def waiting(bits: int) -> str:
    """`held` and `valid`: `in` when its channel's constants are there, two clocks later."""
    text = f"    wire signed [{bits - 1}:0] held;\n    wire valid;\n" + delayed(bits, 2, "in", "held")
    return text + delayed(1, 2, "in_valid & ~rst", "valid")


def with_extremes(x: np.ndarray, reach: tuple[int, int]) -> np.ndarray:
    """Rows of the least and of the largest value, too."""
    return np.concatenate([x, np.full_like(x[:1], reach[0]), np.full_like(x[:1], reach[1])])


def row_gate(size: int, ready: str) -> str:
    ports = {**STREAM, "ready": ready, "in_ready": "in_ready"}
    return instance("row_gate", "gate", {"N": size}, ports)


def multiplied(bits: int, value: str, m: int, e: int, out: int, *, signed: bool) -> str:
    """The value times m / 2^e; a power of two needs no multiplier."""
    while m % 2 == 0 and e > 1:
        m, e = m // 2, e - 1
    width = signed_bits(m)
    parameters = {"IW": bits, "OW": out, "SIGNED": int(signed), "LEAST": e, "MOST": e}
    ports = {**CLOCKED, "in_valid": "value_valid", "v": value, "e": f"6'd{e}", "out_valid": "out_valid", "y": "out"}
    if m == 1:
        return instance("round_shift", "rescaler", parameters, ports)
    ports["m"] = f"{'-' if m < 0 else ''}{width}'sd{abs(m)}"
    return instance("rescale", "rescaler", {**parameters, "MW": width}, ports)
