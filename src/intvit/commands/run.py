"""`intvit run FOLDER IMAGE...`: the five classes of an integer checkpoint with the highest scores, for each image.

Needs numpy and pillow, no torch. Images get the evaluation transform of the data that the model was trained on, which
the checkpoint's provenance holds: the shorter side is resized, the center cropped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from intvit.runtime import RUNTIMES
from intvit.runtime.classes import run


def main(arguments: list[str]) -> int:
    """Print the classes of every image."""
    parser = argparse.ArgumentParser(
        prog="intvit run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="integer checkpoint")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path)
    parser.add_argument("--runtime", default="native", choices=sorted(RUNTIMES))
    options = parser.parse_args(arguments)
    for classified in run(options.folder, options.images, runtime=options.runtime):
        print(classified.image)
        for name, score in classified.best:
            print(f"  {score:>11}  {name}")
    return 0
