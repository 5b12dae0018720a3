"""What a program costs on hardware: integer MACs, bit operations, bytes moved, and an estimate of the energy.

Energies are those of M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9
(45 nm, 0.9 V). They compare programs with one another and with float; no chip is measured here. Assumed:

- A product of a-bit and b-bit integers takes (a * b) / 64 of the 8-bit one, a shift as much as an addition, a division
  as 32 subtractions and shifts, a table look-up one read of an 8 KB memory.
- Weights come from DRAM once for each image; activations are written to and read from a 1 MB memory once for each
  operator. Data movement (reshape, slice, ...) is free: a runtime folds it into its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from intvit.program.program import Operator, Program

# picojoules
ADD_32, MULTIPLY_8, MULTIPLY_32 = 0.1, 0.2, 3.1
FLOAT_MAC = 0.9 + 3.7  # 32-bit addition and multiplication
LOOK_UP = 10.0  # 64 bits from 8 KB
SRAM_BYTE, DRAM_BYTE = 100.0 / 8, 1300.0 / 8  # 64 bits from 1 MB; the lower end of 1.3 to 2.6 nJ for 64 bits
DIVISION = 32 * 2 * ADD_32

MOVEMENT = ("reshape", "transpose", "slice", "concat", "gather", "patches", "constant")


@dataclass(frozen=True)
class Steps:
    """Integer steps for each element; shifts and comparisons count as additions."""

    multiplications: int = 0
    additions: int = 0
    divisions: int = 0
    look_ups: int = 0

    def __add__(self, other: Steps) -> Steps:
        return Steps(
            self.multiplications + other.multiplications,
            self.additions + other.additions,
            self.divisions + other.divisions,
            self.look_ups + other.look_ups,
        )

    @property
    def energy(self) -> float:
        """Picojoules."""
        arithmetic = self.multiplications * MULTIPLY_32 + self.additions * ADD_32 + self.divisions * DIVISION
        return arithmetic + self.look_ups * LOOK_UP

    def __str__(self) -> str:
        named = {"mul": self.multiplications, "add": self.additions, "div": self.divisions, "look-up": self.look_ups}
        return ", ".join(f"{count} {name}" for name, count in named.items() if count)


_REQUANTIZE = Steps(multiplications=1, additions=2)
_SHIFT_EXPONENTIAL = Steps(multiplications=1, additions=9, divisions=1)

# Counted in the formulas of docs/program-format.md. A runtime may replace every function of 8 bits by a look-up.
EXPONENT_STEPS = {
    "shift": _SHIFT_EXPONENTIAL,
    "polynomial": Steps(multiplications=2, additions=6, divisions=1),
    "piecewise": Steps(multiplications=2, additions=6),  # three comparisons among eight pieces, Horner of degree two
    "table": Steps(look_ups=1),
}
GELU_STEPS = {
    "shift": _SHIFT_EXPONENTIAL + Steps(multiplications=2, additions=3, divisions=1) + _REQUANTIZE,
    "polynomial": Steps(multiplications=2, additions=6) + _REQUANTIZE,
    "piecewise": Steps(multiplications=2, additions=6) + _REQUANTIZE,
    "table": Steps(look_ups=1),
}
LAYERNORM_STEPS = {  # roots and reciprocals are one for each row
    "exact": Steps(multiplications=3, additions=5) + _REQUANTIZE,
    "ivit": Steps(multiplications=2, additions=5) + _REQUANTIZE,
    "ibert": Steps(multiplications=2, additions=6) + _REQUANTIZE,
}


def steps_of(operator: Operator) -> Steps:
    """Steps for each element of the output, beside the MACs."""
    attributes = operator.attributes
    match operator.op:
        case "requantize" | "quantize_input":
            return _REQUANTIZE
        case "add":
            return Steps(multiplications=2, additions=3)
        case "exponential":
            kind = attributes["kind"]
            return EXPONENT_STEPS[kind] + Steps(additions=1) + (Steps() if kind == "table" else _REQUANTIZE)
        case "softmax":
            return EXPONENT_STEPS[attributes["kind"]] + Steps(additions=1) + _REQUANTIZE
        case "weighted_mean":
            return Steps(multiplications=1) + _REQUANTIZE
        case "gelu":
            return GELU_STEPS[attributes["kind"]]
        case "layernorm":
            return LAYERNORM_STEPS[attributes["method"]]
    return Steps()


def operator_macs(program: Program, operator: Operator) -> int:
    """Multiplications with their additions for one image; 0 but for `linear` and `matmul`."""
    if operator.op not in ("linear", "matmul"):
        return 0
    return prod(program.values[operator.output].shape) * program.values[operator.inputs[0]].shape[-1]


@dataclass(frozen=True)
class OperatorCost:
    """Of one operator for one image. bit_operations: MACs times the widths of both operands."""

    name: str
    op: str
    macs: int
    bit_operations: int
    weight_bytes: float
    activation_bytes: float
    energy: float  # picojoules


def operator_costs(program: Program) -> list[OperatorCost]:
    """Every operator that computes, in program order."""
    return [_cost(program, operator) for operator in program.operators if operator.op not in MOVEMENT]


def _cost(program: Program, operator: Operator) -> OperatorCost:
    inputs, output = [program.values[name] for name in operator.inputs], program.values[operator.output]
    elements = prod(output.shape)
    macs, widths = operator_macs(program, operator), (0, 0)
    if macs:
        other = inputs[1].bits if operator.op == "matmul" else program.constants[operator.constants["weight"]].bits
        widths = (inputs[0].bits, other)
    constants = [program.constants[name] for name in operator.constants.values()]
    weights = sum(constant.array.size * constant.bits for constant in constants) / 8
    activations = sum(prod(value.shape) * value.bits for value in (*inputs, output)) / 8
    multiply = MULTIPLY_8 * widths[0] * widths[1] / 64
    energy = macs * (multiply + ADD_32) + elements * steps_of(operator).energy
    energy += weights * DRAM_BYTE + activations * SRAM_BYTE
    return OperatorCost(operator.name, operator.op, macs, macs * widths[0] * widths[1], weights, activations, energy)


def totals(costs: list[OperatorCost]) -> dict[str, float]:
    """Sums over operators by the names of `OperatorCost`."""
    return {
        key: sum(getattr(cost, key) for cost in costs)
        for key in ("macs", "bit_operations", "weight_bytes", "activation_bytes", "energy")
    }


def float_totals(costs: list[OperatorCost], program: Program) -> dict[str, float]:
    """The same model in float32 under the same assumptions: products and bytes alone, its functions left out."""
    by_name = {operator.name: operator for operator in program.operators}
    weights = activations = 0.0
    for cost in costs:
        operator = by_name[cost.name]
        if operator.op == "linear":
            weights += 4 * sum(program.constants[operator.constants[role]].array.size for role in ("weight", "bias"))
        if operator.op in ("linear", "matmul", "layernorm", "gelu", "add", "exponential", "softmax"):
            values = (*operator.inputs, operator.output)
            activations += 4 * sum(prod(program.values[name].shape) for name in values)
    macs = sum(cost.macs for cost in costs)
    energy = macs * FLOAT_MAC + weights * DRAM_BYTE + activations * SRAM_BYTE
    return {
        "macs": macs,
        "bit_operations": macs * 32 * 32,
        "weight_bytes": weights,
        "activation_bytes": activations,
        "energy": energy,
    }


def macs(program: Program) -> int:
    """MACs of one image: those of `linear` and `matmul`."""
    return sum(operator_macs(program, operator) for operator in program.operators)
