"""What a program's operators take on silicon: the size of one unit of each, and how many lanes a frame rate needs.

Sizes are those of the units of `intvit export rtl`, by kind ("gelu polynomial") and form ("computed" or "table"), as
yosys maps them to a 7-series FPGA. `silicon_sizes` ships with the package; `synthesize` makes the table anew.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from intvit.errors import IntVitError
from intvit.export.rtl.files import FormOf, units_of, write_units
from intvit.export.rtl.operators import LANES
from intvit.export.rtl.site import kind_of
from intvit.export.rtl.softmax_gelu import TABLE_BITS
from intvit.export.rtl.unit import Unit
from intvit.program.cost import operator_macs
from intvit.program.program import Operator, Program
from intvit.runtime.images import extreme_images

LUTS_OF_DSP = 242  # XC7Z020: 53,200 and 220
Key = tuple[str, str]  # kind, form
LOOKED_UP = {"exponential": "exponential table", "softmax": "softmax table", "gelu": "gelu table"}


@dataclass(frozen=True)
class Size:
    """Of one unit on a 7-series FPGA. lut: of two inputs and more; lut_memory: LUTs as memories and shift registers."""

    lut: int
    ff: int
    dsp: int
    ram18: int
    lut_memory: int

    @property
    def area(self) -> int:
        """LUTs of all kinds, and a DSP as the LUTs that a part of the 7 series has for each of its own."""
        return self.lut + self.lut_memory + LUTS_OF_DSP * self.dsp


@dataclass(frozen=True)
class Need:
    """One kind of operator of a program. elements: an image's; for MACs, of one cell each."""

    kind: str
    form: str
    elements: int
    lanes: int
    size: Size | None  # of one lane; None if the table has no such unit


def needs(program: Program, sizes: Mapping[Key, Size], *, table: bool, frames: float, clock: float) -> list[Need]:
    """Lanes of every kind for `frames` images a second at `clock` Hz, an element a clock and lane.

    table: exponentials and GELUs of one small argument are tables, whatever their family. A lane of a MAC column is
    LANES cells.
    """
    elements: dict[Key, int] = {}
    for operator in program.operators:
        kind = kind_of(program, operator)
        if kind is not None:
            count = operator_macs(program, operator) or prod(program.values[operator.output].shape)
            key = _form(program, operator, kind, table)
            elements[key] = elements.get(key, 0) + count
    found = []
    for (kind, form), count in elements.items():
        at_once = LANES if kind == "mac column" else 1
        lanes = math.ceil(count * frames / clock / at_once)
        found.append(Need(kind, form, count, lanes, sizes.get((kind, form))))
    return found


def _form(program: Program, operator: Operator, kind: str, table: bool) -> Key:
    small = operator.op in LOOKED_UP and program.values[operator.inputs[0]].bits <= TABLE_BITS
    if kind.endswith(" table") or (table and small and not kind.startswith("gelu shift")):
        return LOOKED_UP[operator.op], "table"
    return kind, "computed"


def total(found: list[Need]) -> Size | None:
    """All lanes together; None if the size of a kind is not known."""
    columns = [(need.lanes, need.size) for need in found if need.size is not None]
    if len(columns) < len(found):
        return None
    fields = ("lut", "ff", "dsp", "ram18", "lut_memory")
    return Size(*(sum(lanes * getattr(size, name) for lanes, size in columns) for name in fields))


def synthesize(programs: Sequence[Program], *, seconds: float = 900) -> dict[Key, Size]:
    """Sizes of the units of every program's block 0, as they are trained and as tables; minutes.

    Each kind is measured once, of the first program that has it. Raises IntVitError where yosys is not installed,
    fails, or takes longer than `seconds` for a unit.
    """
    sizes: dict[Key, Size] = {}
    forms: tuple[FormOf, ...] = ("as-trained", "table")
    for program in programs:
        for form in forms:
            for unit in units_of(program, extreme_images(program, 1), blocks=[0], form=form, rows=1):
                key = (f"{unit.kind.split()[0]} table", "table") if unit.form == "table" else (unit.kind, unit.form)
                if key not in sizes:
                    sizes[key] = measured(unit, seconds)
    return sizes


def measured(unit: Unit, seconds: float) -> Size:
    """By yosys. Raises IntVitError as `synthesize` does."""
    with tempfile.TemporaryDirectory() as place:
        write_units(Path(place), [unit])
        return read_statistics(_yosys(Path(place), unit.name, seconds))


def _yosys(folder: Path, unit: str, seconds: float) -> str:
    command = ["yosys", "-q", "-s", f"{unit}/synth.ys"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)
    except FileNotFoundError:
        raise IntVitError(
            "--synthesize needs yosys, which is not installed; without it the shipped table is used"
        ) from None
    except subprocess.TimeoutExpired:
        raise IntVitError(f"yosys took more than {seconds:.0f} s for {unit}; --synthesize gave up") from None
    if done.returncode:
        raise IntVitError(f"yosys failed for {unit}: {done.stderr.strip().splitlines()[-1]}")
    return (folder / unit / "xc7.txt").read_text()


def read_statistics(text: str) -> Size:
    """From what yosys' `stat` prints of a design mapped to the 7 series, in the order of either release.

    >>> read_statistics("  LUT2   3\\n  LUT6   4\\n  FDRE   5\\n  DSP48E1  2\\n  RAMB36E1  1\\n  RAM32M  6\\n")
    Size(lut=7, ff=5, dsp=2, ram18=2, lut_memory=6)
    """
    cells = {name: int(count) for name, count in re.findall(r"^\s+([A-Z]\w+)\s+(\d+)\s*$", text, re.MULTILINE)}
    cells |= {name: int(count) for count, name in re.findall(r"^\s+(\d+)\s+([A-Z]\w+)\s*$", text, re.MULTILINE)}

    def sum_of(pattern: str) -> int:
        return sum(count for name, count in cells.items() if re.fullmatch(pattern, name))

    return Size(
        sum_of(r"LUT[2-6]"),
        sum_of(r"FD\w+"),
        sum_of(r"DSP48E1"),
        sum_of(r"RAMB18E1") + 2 * sum_of(r"RAMB36E1"),
        sum_of(r"RAM\d+\w+|SRL\w+"),
    )
