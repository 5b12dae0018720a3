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

from intvit.commands.argument_types import positive
from intvit.program.certificate import Row
from intvit.program.interval_arithmetic import Range
from intvit.runtime.certificate import Certificate, certify


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit certify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="an integer checkpoint")
    parser.add_argument("--accumulator", type=positive, metavar="BITS", help="would accumulators of this width do?")
    parser.add_argument("--images", nargs="+", default=[], metavar="FILE", help="photos, or .npy files of uint8 pixels")
    parser.add_argument("--every", action="store_true", help="a row for every operator")
    return parser


def main(arguments: list[str]) -> int:
    """Prints the table; 1 if an accumulator needs more than `--accumulator` bits."""
    options = parser().parse_args(arguments)
    certificate = certify(options.folder, options.accumulator, images=options.images, every=options.every)
    print_table(certificate.rows)
    if certificate.accumulator is not None:
        _print_answer(certificate)
    return 0 if certificate.enough else 1


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


def _print_answer(certificate: Certificate) -> None:
    sums, wider = len(certificate.sums), certificate.wider
    width = certificate.accumulator
    print(f"accumulators of {width} bits: enough for {sums - len(wider)} of {sums} sums, whatever the image")
    for name, seen in wider.items():
        print(f"  {name} ({certificate.operators[name].op}) may reach {_text(seen)} and needs {seen.bits} bits")
