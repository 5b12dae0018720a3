"""`intvit golden FOLDER --images FILE ... --out DIR`: golden vectors for test benches, one file for each tensor.

For every image the input and the operators' outputs, and once the parameters, each as .npy (integers) and as .hex: one
word a line in row-major order, two's complement, as many digits as the width in the file's name (`NAME.8.hex`) needs,
which is what $readmemh reads. `manifest.json` lists them; `program.json` says which operator reads what. The integers
are the numpy runtime's, which every runtime equals.

    DIR/manifest.json  program.json  parameters/NAME.npy NAME.BITS.hex  0000/NAME.npy NAME.BITS.hex  0001/...
"""

from __future__ import annotations

import argparse

from intvit.commands.argument_types import new_folder
from intvit.export.golden import golden


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit golden", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="an integer checkpoint")
    parser.add_argument("--images", nargs="+", required=True, metavar="FILE", help="photos, or .npy of uint8 pixels")
    parser.add_argument("--out", type=new_folder, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument(
        "--values", nargs="+", default=["*"], metavar="NAME", help="operators, * and ? allowed (default: all)"
    )
    return parser


def main(arguments: list[str]) -> None:
    """Writes the folder and says what is in it."""
    options = parser().parse_args(arguments)
    manifest = golden(options.folder, options.images, options.out, values=options.values)
    images, parameters = manifest["images"], manifest["parameters"]
    print(f"{options.out}: {sum(map(len, images))} tensors of {len(images)} images and {len(parameters)} parameters")
