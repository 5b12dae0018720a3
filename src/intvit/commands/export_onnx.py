"""`intvit export onnx FOLDER FILE`: an integer checkpoint as one ONNX file.

Standard operators on integers only; ONNX's own checker passes it before it is written. Every operator of the program is
a node under its own name that calls a local function, so that the graph reads like the program. `--batch 1` fixes the
batch size, which compilers want; without it the file takes any. `--check ENGINE` runs the file in an engine that is
installed, on test images or on yours, and compares its scores with the numpy runtime's: exit code 1 where any differs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from intvit.commands.argument_types import new_file, positive
from intvit.program import load_checkpoint
from intvit.runtime.images import extreme_images, read_images
from intvit.runtime.onnx.engine_check import ENGINES, check_engine
from intvit.runtime.onnx.model import Form, save_onnx


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit export onnx", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="an integer checkpoint")
    parser.add_argument("file", metavar="FILE", type=new_file, help="where the model goes, NAME.onnx")
    parser.add_argument("--batch", type=positive, help="images at once; any number without it")
    parser.add_argument("--inline", action="store_true", help="no local functions, for engines that take none")
    parser.add_argument("--int32", action="store_true", help="no 64-bit integers, for OpenVINO; means --inline, too")
    parser.add_argument("--opset", type=positive, default=Form.opset, help=f"15 or newer (default {Form.opset})")
    parser.add_argument("--ir-version", type=positive, metavar="N", help="of the file, for old readers: 8 or newer")
    parser.add_argument("--check", choices=sorted(ENGINES), metavar="ENGINE", help=f"one of {', '.join(ENGINES)}")
    parser.add_argument("--images", type=Path, nargs="+", metavar="IMAGE", help="photos or .npy files for --check")
    return parser


def main(arguments: list[str]) -> int:
    """Writes the file, says what is in it and, with --check, whether the engine gives equal scores."""
    options = parser().parse_args(arguments)
    program = load_checkpoint(options.folder)
    form = Form(options.opset, options.ir_version, options.inline or options.int32, options.int32)
    save_onnx(program, options.file, batch=options.batch, form=form)
    print(f"{options.file}: {len(program.operators)} operators, any of their values can be made an output by its name")
    if options.check is None:
        return 0
    images = read_images(program, options.images) if options.images else extreme_images(program, 8)
    found = check_engine(program, options.file, options.check, images, batch=options.batch, form=form)
    if not found.mismatches:
        print(f"{found.engine}: {found.images} images, all scores equal")
        return 0
    first = f"; the first operator to differ is {found.first}" if found.first else ""
    print(f"{found.engine}: the scores of {found.mismatches} of {found.images} images differ{first}")
    return 1
