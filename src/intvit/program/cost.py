"""What a program costs on hardware: integer MACs, bit operations, bytes moved, and an estimate of the energy.

Energies are those of M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9
(45 nm, 0.9 V), and what N. Jouppi et al., "Ten lessons from three generations shaped Google's TPUv4i", ISCA 2021, table
2, give for the same operations at 7 nm; memories by 64 bits, DRAM as DDR3 or 4, which both tables have at 1.3 nJ (HBM2:
0.25 to 0.45, GDDR6: 0.35 to 0.48). They compare programs with one another and with float; no chip is measured here.
Assumed:

- A product of a-bit and b-bit integers takes (a * b) / 64 of the 8-bit one, a shift as much as an addition, a division
  as 32 subtractions and shifts.
- A look-up in a table of 256 bytes is a read of 8 of an 8 KB memory's 64 bits, with lines as much shorter as the
  square root of the sizes is: 0.22 pJ at 45 nm, about an 8-bit product. (In LUTs of an FPGA such tables are smaller
  than one product, see `intvit analyze silicon`.)
- Weights come from DRAM once for each image; activations are written to and read from a 1 MB memory once for each
  operator. Data movement (reshape, slice, ...) is free: a runtime folds it into its neighbours. So it does with what
  `argmax` reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

from intvit.program.program import Operator, Program


@dataclass(frozen=True)
class Technology:
    """Picojoules of one operation. float_mac: 32-bit multiplication and addition."""

    add_32: float
    multiply_8: float
    multiply_32: float
    float_mac: float
    small_read: float  # 64 bits from 8 KB
    large_read: float  # 64 bits from 1 MB
    dram_read: float  # 64 bits; at 45 nm the lower end of 1.3 to 2.6 nJ

    @property
    def division(self) -> float:
        return 32 * 2 * self.add_32

    @property
    def look_up(self) -> float:
        """Of a byte in a table of 256."""
        return self.small_read / 8 * sqrt(256 / 8192)


NM_45 = Technology(0.1, 0.2, 3.1, 0.9 + 3.7, 10.0, 100.0, 1300.0)
NM_7 = Technology(0.03, 0.07, 1.48, 0.38 + 1.31, 7.5, 14.0, 1300.0)

MOVEMENT = ("reshape", "transpose", "slice", "concat", "gather", "patches", "constant")


@dataclass(frozen=True)
class Steps:
    """Integer steps for each element; shifts and comparisons count as additions. look_ups: bytes from small tables."""

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

    def energy(self, at: Technology) -> float:
        """Picojoules."""
        arithmetic = self.multiplications * at.multiply_32 + self.additions * at.add_32 + self.divisions * at.division
        return arithmetic + self.look_ups * at.look_up

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
    """Steps for each element of the output, of `argmax` of the input, beside the MACs."""
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
            wide = Steps(look_ups=3 * (attributes["kind"] == "table"))  # an entry has 31 bits
            return EXPONENT_STEPS[attributes["kind"]] + wide + Steps(additions=1) + _REQUANTIZE
        case "weighted_mean":
            return Steps(multiplications=1) + _REQUANTIZE
        case "gelu":
            return GELU_STEPS[attributes["kind"]]
        case "layernorm":
            return LAYERNORM_STEPS[attributes["method"]]
        case "upsample":
            return Steps(multiplications=2, additions=1)  # along rows; columns are 1 / factor as many
        case "argmax":
            return Steps(additions=1)
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
    energy: float  # picojoules at 45 nm
    energy_7nm: float


def operator_costs(program: Program) -> list[OperatorCost]:
    """Every operator that computes, in program order."""
    last = program.operators[-1]
    unstored = last.inputs[0] if last.op == "argmax" else None
    return [_cost(program, operator, unstored) for operator in program.operators if operator.op not in MOVEMENT]


def _cost(program: Program, operator: Operator, unstored: str | None) -> OperatorCost:
    inputs, output = [program.values[name] for name in operator.inputs], program.values[operator.output]
    elements = prod((inputs[0] if operator.op == "argmax" else output).shape)
    macs, widths = operator_macs(program, operator), (0, 0)
    if macs:
        other = inputs[1].bits if operator.op == "matmul" else program.constants[operator.constants["weight"]].bits
        widths = (inputs[0].bits, other)
    constants = [program.constants[name] for name in operator.constants.values()]
    weights = sum(constant.array.size * constant.bits for constant in constants) / 8
    stored = [name for name in (*operator.inputs, operator.output) if name != unstored]
    activations = sum(prod(program.values[name].shape) * program.values[name].bits for name in stored) / 8
    operations = widths[0] * widths[1]
    steps = steps_of(operator)
    energies = []
    for at in (NM_45, NM_7):
        energy = macs * (at.multiply_8 * operations / 64 + at.add_32) + elements * steps.energy(at)
        energies.append(energy + weights * at.dram_read / 8 + activations * at.large_read / 8)
    return OperatorCost(operator.name, operator.op, macs, macs * operations, weights, activations, *energies)


def totals(costs: list[OperatorCost]) -> dict[str, float]:
    """Sums over operators by the names of `OperatorCost`."""
    return {
        key: sum(getattr(cost, key) for cost in costs)
        for key in ("macs", "bit_operations", "weight_bytes", "activation_bytes", "energy", "energy_7nm")
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
    bytes_45, bytes_7 = (weights * at.dram_read / 8 + activations * at.large_read / 8 for at in (NM_45, NM_7))
    return {
        "macs": macs,
        "bit_operations": macs * 32 * 32,
        "weight_bytes": weights,
        "activation_bytes": activations,
        "energy": macs * NM_45.float_mac + bytes_45,
        "energy_7nm": macs * NM_7.float_mac + bytes_7,
    }


def macs(program: Program) -> int:
    """MACs of one image: those of `linear` and `matmul`."""
    return sum(operator_macs(program, operator) for operator in program.operators)
