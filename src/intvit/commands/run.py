"""`intvit run FOLDER IMAGE...`: the five classes of an integer checkpoint with the highest scores, for each image.

Needs numpy and pillow, no torch. Images get the evaluation transform of the data that the model was trained on, which
the checkpoint's provenance holds: the shorter side is resized, the center cropped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from intvit.program import load_checkpoint
from intvit.runtime import RUNTIMES, load_runtime
from intvit.runtime.images import read_images

TOP = 5


def main(arguments: list[str]) -> int:
    """Print the classes of every image."""
    parser = argparse.ArgumentParser(
        prog="intvit run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="integer checkpoint")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path)
    parser.add_argument("--runtime", default="native", choices=sorted(RUNTIMES))
    options = parser.parse_args(arguments)
    program = load_checkpoint(options.folder)
    runtime = load_runtime(program, options.runtime)
    names = program.classes or [str(index) for index in range(program.values[program.output].shape[0])]
    for path in options.images:
        images = read_images(program, [path])
        for number, scores in enumerate(runtime(images)):
            print(path if len(images) == 1 else f"{path}[{number}]")
            for index in np.argsort(-scores.astype(np.int64), kind="stable")[:TOP]:
                print(f"  {scores[index]:>11}  {names[index]}")
    return 0
