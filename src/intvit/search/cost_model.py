"""What widths cost: bytes, bit operations and accumulators of a program as a function of the width of every choice.

It is read off recorded programs: bytes and bit operations are exact, accumulators follow the widths of both operands
and are corrected by programs that were proven.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from intvit.program import Program
from intvit.program.cost import MOVEMENT, operator_macs
from intvit.search.budget import Budget, Usage
from intvit.search.choices import Choice, merged

Widths = list[int]  # of every choice, in their order


@dataclass(frozen=True)
class Operand:
    """Width of one side of a product: that of a choice, or fixed where choice is None."""

    choice: int | None
    bits: int

    def width(self, widths: Widths) -> int:
        return self.bits if self.choice is None else widths[self.choice]


@dataclass(frozen=True)
class Product:
    """A linear or matmul operator."""

    name: str
    macs: int
    operands: tuple[Operand, Operand]

    def bitops(self, widths: Widths) -> int:
        return self.macs * self.operands[0].width(widths) * self.operands[1].width(widths)

    def narrowed(self, widths: Widths) -> int:
        """Bits that the operands have lost together."""
        return sum(operand.bits - operand.width(widths) for operand in self.operands)


@dataclass(frozen=True)
class Stored:
    """A constant of `size` integers, or a table with one for every code of `index`."""

    size: int
    index: Operand | None
    operand: Operand

    def bytes(self, widths: Widths) -> float:
        size = self.size if self.index is None else 2 ** self.index.width(widths)
        return size * self.operand.width(widths) / 8


class CostModel:
    """Bytes, bit operations and sums of a base program whose width choices take other values.

    program: quant.overrides -> the recorded program.
    """

    def __init__(self, program: Callable[[dict[str, Any]], Program], choices: Sequence[Choice], base: Usage) -> None:
        self.choices, self.base = choices, base
        start = program({})
        owner = _owners(program, choices, start)
        self.products: list[Product] = []
        self.stored: list[Stored] = []
        for operator in start.operators:
            first = next(iter(operator.inputs), start.input)
            left = Operand(owner.get(first), start.values[first].bits)
            if operator.op in ("linear", "matmul"):
                name = operator.constants["weight"] if operator.op == "linear" else operator.inputs[1]
                bits = (start.constants if operator.op == "linear" else start.values)[name].bits
                right = Operand(owner.get(name), bits)
                self.products.append(Product(operator.name, operator_macs(start, operator), (left, right)))
            for name in () if operator.op in MOVEMENT else operator.constants.values():
                constant = start.constants[name]
                table = operator.attributes.get("kind") == "table" and constant.array.size == 2**left.bits
                index = left if table else None
                self.stored.append(Stored(constant.array.size, index, Operand(owner.get(name), constant.bits)))
        self.touched = [
            [p for p in self.products if i in (p.operands[0].choice, p.operands[1].choice)] for i in range(len(choices))
        ]
        self.held = [
            [c for c in self.stored if i == c.operand.choice or (c.index is not None and i == c.index.choice)]
            for i in range(len(choices))
        ]
        self.correction = dict.fromkeys(base.sums, 0)

    def bytes(self, widths: Widths) -> float:
        """As `Usage.bytes`."""
        return sum(constant.bytes(widths) for constant in self.stored)

    def bitops(self, widths: Widths) -> int:
        """As `Usage.bitops`."""
        return sum(product.bitops(widths) for product in self.products)

    def sum_bits(self, product: Product, widths: Widths) -> int:
        """Bits of a product's accumulator, as far as is known."""
        return self.base.sums[product.name] - product.narrowed(widths) + self.correction[product.name]

    def learn(self, widths: Widths, used: Usage) -> None:
        """Correct the sums by those of a program with these widths; never below what another one needed."""
        for product in self.products:
            if product.name in used.sums:
                off = used.sums[product.name] - (self.base.sums[product.name] - product.narrowed(widths))
                self.correction[product.name] = max(self.correction[product.name], off)

    def matters(self, choice: int, budget: Budget) -> bool:
        """Whether the width of a choice changes anything that the budget limits."""
        products = bool(self.touched[choice]) and bool(budget.limits.keys() & {"bitops", "accumulator"})
        return products or (bool(self.held[choice]) and "bytes" in budget.limits)


def _owners(program: Callable[[dict[str, Any]], Program], choices: Sequence[Choice], start: Program) -> dict[str, int]:
    """Choice of every value and constant whose width one decides.

    Each choice has a binary number; program k has those choices at their lowest width whose number has bit k. In which
    of the programs a tensor is narrower spells the number: eight recordings tell 255 choices apart.
    """
    spelled: dict[str, int] = {}
    for bit in range(len(choices).bit_length()):
        chosen = [choice.options[min(choice.options)] for i, choice in enumerate(choices, 1) if i >> bit & 1]
        other = program(merged(chosen))
        for before, after in ((start.values, other.values), (start.constants, other.constants)):
            for name in before:
                if after[name].bits != before[name].bits:
                    spelled[name] = spelled.get(name, 0) | 1 << bit
    return {name: number - 1 for name, number in spelled.items()}
