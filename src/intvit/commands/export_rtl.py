"""`intvit export rtl FOLDER DIR`: units in SystemVerilog for the operators of a model's blocks, with test benches.

A unit for every operator that computes: a library of streaming units (DIR/units, parameters for all widths) and for
each operator a wrapper with the constants of its layer, vectors of the integers of the numpy runtime, a bench that
checks itself and a yosys script. Widths are those that the proof in bounds.json allows. Functions of 8 bits are tested
on every argument. With --top a block is one stream, too: all its units, linear layers and attention, tested on every
row of the images. In DIR `make icarus` or `make verilator` runs the units' benches, `make blocks` the blocks',
`make synth` sizes all units, and `make clock` places and times them.

    DIR/Makefile  units/*.sv  OPERATOR/OPERATOR.sv bench.sv inputs.hex outputs.hex *.hex synth.ys
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from intvit.commands.argument_types import new_folder, positive
from intvit.errors import IntVitError
from intvit.export.rtl.files import write_rtl
from intvit.program import load_checkpoint
from intvit.runtime.images import extreme_images, read_images


def _blocks(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers of blocks, such as 0,1")
    return [int(part) for part in parts]


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit export rtl", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="an integer checkpoint")
    parser.add_argument("out", metavar="DIR", type=new_folder, help="a new or empty folder")
    parser.add_argument("--blocks", type=_blocks, default=[0], metavar="N,N", help="which blocks (default 0)")
    parser.add_argument(
        "--form",
        choices=("table", "computed", "as-trained"),
        default="as-trained",
        help="exponentials and GELUs as tables, computed, or as their family says (default)",
    )
    parser.add_argument("--images", type=Path, nargs="+", metavar="IMAGE", help="photos or .npy files for the vectors")
    parser.add_argument("--rows", type=positive, default=8, metavar="N", help="rows of each unit's vectors (default 8)")
    parser.add_argument(
        "--top", action="store_true", help="each block of a ViT as one stream, all its units joined, too"
    )
    parser.add_argument(
        "--cells", type=positive, default=32, metavar="N", help="of --top: cells of the largest layer (default 32)"
    )
    return parser


def main(arguments: list[str]) -> None:
    """Writes the folder and says what is in it."""
    options = parser().parse_args(arguments)
    program = load_checkpoint(options.folder)
    images = read_images(program, options.images) if options.images else extreme_images(program, 8)
    units = write_rtl(
        program,
        options.out,
        images,
        blocks=options.blocks,
        form=options.form,
        rows=options.rows,
        top=options.cells if options.top else None,
    )
    if not units:
        raise IntVitError("the blocks hold no operator that computes")
    print(f"{options.out}: {len(units)} units; make -C {shlex.quote(str(options.out))} icarus checks them")
