"""`intvit run FOLDER IMAGE...`: the five classes of an integer checkpoint with the highest scores, for each image.

Needs numpy and pillow, no torch. Images get the evaluation transform of the data that the model was trained on, which
the checkpoint's provenance holds: the image is resized in its proportions until the model's image just fits in, the
center cropped. A broken image does not stop the others: it is named at the end, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from intvit.commands.argument_types import new_file
from intvit.files import write_json
from intvit.runtime import RUNTIMES
from intvit.runtime.classes import run


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="integer checkpoint")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path)
    parser.add_argument("--runtime", default="native", choices=sorted(RUNTIMES))
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write classes and errors to this file")
    return parser


def main(arguments: list[str]) -> int:
    """Print the classes of every image, then the images that are none."""
    options = parser().parse_args(arguments)
    entries: list[dict[str, Any]] = []
    broken = []
    for classified in run(options.folder, options.images, runtime=options.runtime, skip_broken=True):
        if classified.error is not None:
            broken.append(classified.error)
            entries.append({"image": classified.image, "error": classified.error})
            continue
        print(classified.image)
        for name, score in classified.best:
            print(f"  {score:>11}  {name}")
        best = [{"class": name, "score": score} for name, score in classified.best]
        entries.append({"image": classified.image, "best": best})
    if options.json:
        write_json(options.json, {"images": entries})
    for error in broken:
        print(f"error: {error}", file=sys.stderr)
    return 1 if broken else 0
