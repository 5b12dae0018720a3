"""`intvit export onnx FOLDER FILE`: an integer checkpoint as one ONNX file.

Standard operators of opset 18 on integers only; ONNX's own checker passes it before it is written. Every operator of
the program is a node under its own name that calls a local function, so that the graph reads like the program.
`--batch 1` fixes the batch size, which compilers want; without it the file takes any.
"""

from __future__ import annotations

import argparse

from intvit.commands.argument_types import positive
from intvit.program import load_checkpoint
from intvit.runtime.onnx.model import save_onnx


def main(arguments: list[str]) -> None:
    """Writes the file and says what is in it."""
    parser = argparse.ArgumentParser(
        prog="intvit export onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="an integer checkpoint")
    parser.add_argument("file", metavar="FILE", help="where the model goes, NAME.onnx")
    parser.add_argument("--batch", type=positive, help="images at once; any number without it")
    options = parser.parse_args(arguments)
    program = load_checkpoint(options.folder)
    save_onnx(program, options.file, batch=options.batch)
    print(f"{options.file}: {len(program.operators)} operators, any of their values can be made an output by its name")
