"""`intvit export plan FOLDER FILE`: an integer checkpoint for the native runtime without Python.

The file holds the program's weights, tables and steps as the C++ library takes them. Programs in C, C++ or Rust open it
with the functions of intvit.h; examples/run_plan.c is one. All instruction sets read one file and give equal scores.
"""

from __future__ import annotations

import argparse

from intvit.commands.argument_types import new_file
from intvit.program import load_checkpoint
from intvit.runtime.native.plan_file import save_plan
from intvit.runtime.native.runtime import FOLDER


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit export plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="an integer checkpoint")
    parser.add_argument("file", metavar="FILE", type=new_file, help="where the plan goes, NAME.plan")
    return parser


def main(arguments: list[str]) -> int:
    """Writes the file and says where header and libraries are."""
    options = parser().parse_args(arguments)
    save_plan(load_checkpoint(options.folder), options.file)
    print(f"{options.file}: {options.file.stat().st_size} bytes; intvit.h and the libraries are in {FOLDER}")
    return 0
