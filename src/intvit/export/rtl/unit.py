"""A unit for one operator: the wrapper with the layer's constants tied, its memories, and vectors that test it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

Words = list[int]


@dataclass
class Unit:
    """`body`: what stands in the wrapper between the ports clk, rst, in_valid, in, in_ready, out_valid and out.

    inputs, outputs: the words of `in` and `out`, in order, as non-negative integers of in_bits and out_bits. memories:
    file name -> words and their bits. form: "table" or "computed".
    """

    operator: str
    kind: str
    form: str
    body: str
    in_bits: int
    out_bits: int
    inputs: Words
    outputs: Words
    memories: dict[str, tuple[Words, int]] = field(default_factory=dict)
    parts: frozenset[str] = frozenset()  # names of the units inside
    idle: int = 20000  # clocks without an output after which a bench gives up

    @property
    def name(self) -> str:
        """The wrapper's module, and its folder."""
        return re.sub(r"\W+", "_", f"{self.operator}_{self.form}" if self.form == "table" else self.operator)

    def wrapper(self) -> str:
        return (
            f"// {self.operator}: {self.kind}, {self.form}\n"
            f"module {self.name} (input logic clk, rst, in_valid, input logic [{self.in_bits - 1}:0] in,\n"
            f"    output logic in_ready, out_valid, output logic [{self.out_bits - 1}:0] out);\n"
            f"{self._with_folder(self.body).rstrip()}\nendmodule\n"
        )

    def _with_folder(self, body: str) -> str:
        """Simulators run where all units' folders are: every memory's file is named from there."""
        for name in self.memories:
            body = body.replace(f'"{name}"', f'"{self.name}/{name}"')
        return body


def words(array: np.ndarray, bits: int) -> Words:
    """Two's complement of `bits` bits, flattened."""
    return [int(entry) & (2**bits - 1) for entry in np.asarray(array).reshape(-1)]


def joined(*fields: tuple[np.ndarray, int]) -> Words:
    """One word of several arrays of one size, the first in the low bits."""
    columns = [words(array, bits) for array, bits in fields]
    starts = np.cumsum([0, *(bits for _, bits in fields)])
    return [sum(v << int(s) for v, s in zip(row, starts, strict=False)) for row in zip(*columns, strict=True)]


def packed(entries: Iterable[int], bits: int) -> str:
    """A constant of many entries, the first in the low bits."""
    listed = [int(entry) & (2**bits - 1) for entry in entries]
    word = sum(entry << (bits * index) for index, entry in enumerate(listed))
    return f"{bits * max(len(listed), 1)}'h{word:x}"


def signed_bits(*values: int) -> int:
    """Bits of two's complement that hold all values."""
    return 1 + max((v if v >= 0 else -v - 1).bit_length() for v in map(int, values))


def unsigned_bits(value: int) -> int:
    return max(1, int(value).bit_length())


def instance(module: str, name: str, parameters: Mapping[str, object], ports: Mapping[str, str]) -> str:
    """`module #(...) name (...);`"""
    tied = ", ".join(f".{key}({value})" for key, value in parameters.items())
    joined_ports = ", ".join(f".{key}({value})" for key, value in ports.items())
    return f"    {module} #({tied}) {name} (\n        {joined_ports});\n"


CLOCKED = {"clk": "clk", "rst": "rst"}


def delayed(bits: int, clocks: int, source: str, target: str) -> str:
    """`target` is `source`, clocks later."""
    return instance("delay", f"wait_{target}", {"W": bits, "N": clocks}, {"clk": "clk", "d": source, "q": target})
