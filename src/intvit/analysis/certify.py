"""`intvit certify FOLDER`: the range certificate of an integer checkpoint, as a table.

Proves again, from the weights alone, what every operator may reach for any uint8 image: no image is needed. One row
for the operators that differ in an index only (blocks.*), with the largest of them. `accumulator` is the width of
linear's and matmul's sums, every partial sum in whatever order included; `widest` the intermediate that needs the most
bits, of those that the format allots to it. `--images` shows beside it what the operators' outputs reached there.
With `--accumulator N`: would N bits do for every sum? Exit code 1, and the operators that need more, if not.
bounds.json in the folder holds the same per operator.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

import numpy as np

from intvit.arguments import positive
from intvit.program import OperatorBounds, Program, bounds, load_checkpoint
from intvit.program.ledger import Range
from intvit.runtime import load_runtime
from intvit.runtime.images import read_images


@dataclass(frozen=True)
class Row:
    """One operator, or several alike, of the table. `reached`: the outputs on the images that were given."""

    name: str
    op: str
    count: int
    accumulator: Range | None
    widest: tuple[str, Range] | None
    output: Range
    reached: Range | None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="intvit certify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="an integer checkpoint")
    parser.add_argument("--accumulator", type=positive, metavar="BITS", help="would accumulators of this width do?")
    parser.add_argument("--images", nargs="+", metavar="FILE", help="photos, or .npy files of uint8 pixels")
    parser.add_argument("--every", action="store_true", help="a row for every operator")
    return parser


def main(arguments: list[str]) -> int:
    """Prints the table; 1 if an accumulator needs more than `--accumulator` bits."""
    options = _parser().parse_args(arguments)
    program = load_checkpoint(options.folder)
    proven = bounds(program)
    reached = observe(program, read_images(program, options.images)) if options.images else {}
    print_table(rows(program, proven, reached, joined=not options.every))
    return 0 if options.accumulator is None else _answer(proven, options.accumulator)


def observe(program: Program, images: np.ndarray) -> dict[str, Range]:
    """What each operator's output reaches on uint8 images [B, C, H, W], one at a time."""
    runtime, reached = load_runtime(program, "numpy"), dict[str, Range]()
    for image in images:
        for name, value in runtime.trace(image[None]):
            low, high = int(value.min()), int(value.max())
            old = reached.get(name, Range(low, high))
            reached[name] = Range(min(old.low, low), max(old.high, high))
    return reached


def rows(program: Program, proven: dict[str, OperatorBounds], reached: dict[str, Range], *, joined: bool) -> list[Row]:
    """Rows of the operators that compute (data movement is left out); `joined`: one for all layers of a kind."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, entry in proven.items():
        if entry.intermediates:
            key = re.sub(r"\.\d+(?=\.|$)", ".*", name) if joined else name
            groups.setdefault((key, entry.op), []).append(name)
    result = []
    for (key, op), names in groups.items():
        entries = [proven[name] for name in names]
        accumulators = [entry.accumulator for entry in entries if entry.accumulator]
        widest = max((entry.widest for entry in entries if entry.widest), key=lambda item: item[1].bits)
        outputs = [Range(*entry.output.extremes()) for entry in entries]
        seen = [reached[name] for name in names if name in reached]
        result.append(Row(key, op, len(names), _hull(accumulators), widest, _hull(outputs) or outputs[0], _hull(seen)))
    return result


def _hull(ranges: list[Range]) -> Range | None:
    if not ranges:
        return None
    return Range(min(r.low for r in ranges), max(r.high for r in ranges), ranges[0].width)


def print_table(table: list[Row]) -> None:
    """One line a row; observed columns only where images were given."""
    observed = any(row.reached for row in table)
    width = max(len(row.name) for row in table) + 2
    head = f"{'operator':<{width}}{'op':<16}{'count':>5}{'worst output':>26}{'bits':>5}"
    head += f"{'reached':>26}{'bits':>5}" if observed else ""
    print(head + f"{'accumulator':>13}  widest intermediate")
    for row in table:
        line = f"{row.name:<{width}}{row.op:<16}{row.count:>5}{_text(row.output):>26}{row.output.bits:>5}"
        if observed:
            line += f"{_text(row.reached):>26}{row.reached.bits:>5}" if row.reached else " " * 31
        line += f"{row.accumulator.bits if row.accumulator else '-':>13}"
        print(line + (f"  {row.widest[1].bits} of {row.widest[1].width}: {row.widest[0]}" if row.widest else ""))


def _text(seen: Range) -> str:
    return f"{seen.low}..{seen.high}"


def _answer(proven: dict[str, OperatorBounds], bits: int) -> int:
    sums = {name: entry.accumulator for name, entry in proven.items() if entry.accumulator}
    wider = {name: seen for name, seen in sums.items() if seen.bits > bits}
    print(f"accumulators of {bits} bits: enough for {len(sums) - len(wider)} of {len(sums)} sums, whatever the image")
    for name, seen in wider.items():
        print(f"  {name} ({proven[name].op}) may reach {_text(seen)} and needs {seen.bits} bits")
    return 1 if wider else 0
