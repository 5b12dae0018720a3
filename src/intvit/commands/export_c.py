"""`intvit export c FOLDER DIR`: an integer checkpoint as portable C99 for processors of any size.

Integers only, no heap, no library but memcpy and memset, all memory in one static arena whose size is known. The scores
are the trained model's to the bit. DIR/model.h is the interface, DIR/model.c reads layer by layer, `make` in DIR builds
it. --weights says where the constants are: `array` in weights.c, for every compiler; `incbin` in weights.bin, which a
GNU assembler takes in, faster to build; `bin` in weights.bin, which your program loads and hands over.

    DIR/model.h  model.c  Makefile  weights.c | weights.S weights.bin | weights.bin  [main.c]
"""

from __future__ import annotations

import argparse

from intvit.commands.argument_types import new_folder, positive
from intvit.export.c.files import write_c
from intvit.program import load_checkpoint


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit export c", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="an integer checkpoint")
    parser.add_argument("out", metavar="DIR", type=new_folder, help="a new or empty folder")
    parser.add_argument("--weights", choices=("array", "incbin", "bin"), default="array", help="default: array")
    parser.add_argument("--main", action="store_true", help="a program that reads raw images and prints scores, too")
    parser.add_argument("--arena-limit", type=positive, metavar="BYTES", help="refuse to write what needs more memory")
    return parser


def main(arguments: list[str]) -> None:
    """Writes the folder and says what it takes."""
    options = parser().parse_args(arguments)
    program = load_checkpoint(options.folder)
    written = write_c(program, options.out, weights=options.weights, main=options.main, arena_limit=options.arena_limit)
    sizes = f"{written.arena:,} bytes of memory, {written.size:,} of constants"
    print(f"{options.out}: {len(program.operators)} operators in {len(written.plan.steps)} steps; {sizes}")
