"""`intvit export qonnx FOLDER FILE`: an integer checkpoint as a QONNX graph with FINN's conventions.

Linear layers are MatMul and Add on annotated integers, requantization to at most 8 bits is MultiThreshold, data moves
by ONNX's own nodes. What neither says exactly is an operator of our domain, which the package qonnx executes as the
numpy runtime does. For one image. The table says what FINN takes, and why not the rest. `--check` runs the file in
qonnx (pip install 'intvit[qonnx]'), on test images or on yours, and compares every value: exit code 1 if one differs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from intvit.commands.argument_types import new_file
from intvit.export.qonnx.model import save_qonnx
from intvit.export.qonnx.report import Row, rows
from intvit.program import load_checkpoint
from intvit.runtime.images import extreme_images, read_images


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit export qonnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="an integer checkpoint")
    parser.add_argument("file", metavar="FILE", type=new_file, help="where the graph goes, a new NAME.onnx")
    parser.add_argument("--check", action="store_true", help="run the file in qonnx and compare every value")
    parser.add_argument("--images", type=Path, nargs="+", metavar="IMAGE", help="photos or .npy files for --check")
    return parser


def main(arguments: list[str]) -> int:
    """Writes the file, prints what FINN takes and, with --check, whether qonnx gives equal integers."""
    options = parser().parse_args(arguments)
    program = load_checkpoint(options.folder)
    placements = save_qonnx(program, options.file)
    print(f"{options.file}: {len(placements)} operators, {sum(p.taken for p in placements)} in a form that FINN takes")
    print_table(rows(placements))
    if not options.check:
        return 0
    from intvit.export.qonnx.execution import first_differences

    images = read_images(program, options.images) if options.images else extreme_images(program, 4)
    differing = [name for name in first_differences(program, options.file, images) if name is not None]
    if not differing:
        print(f"qonnx: {len(images)} images, every value equal")
        return 0
    print(f"qonnx: {len(differing)} of {len(images)} images differ; the first operator to differ is {differing[0]}")
    return 1


def print_table(table: list[Row]) -> None:
    """One line for operators that are placed alike."""
    print(f"  {'operator':<16}{'count':>5}  {'nodes':<30}{'FINN':<6}as, or why not")
    for row in table:
        placement = row.placement
        taken = "yes" if placement.taken else "no"
        print(f"  {placement.op:<16}{row.count:>5}  {placement.nodes:<30}{taken:<6}{placement.why}")
