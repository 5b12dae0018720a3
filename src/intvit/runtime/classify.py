"""`intvit run FOLDER IMAGE...`: the five classes of an integer checkpoint with the highest scores, for each picture.

Needs numpy and pillow, no torch. Pictures get the evaluation transform of the data that the model was trained on, which
the checkpoint's provenance holds: the shorter side is resized, the center cropped.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from intvit.errors import IntVitError
from intvit.program import Program, load_checkpoint
from intvit.runtime import RUNTIMES, load_runtime

TOP = 5
MAX_PIXELS = 10**8
MODES = {1: "L", 3: "RGB"}  # channels -> pillow's name


def main(arguments: list[str]) -> int:
    """Print the classes of every picture."""
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
        scores = runtime(pixels(program, path)[None])[0]
        print(path)
        for index in np.argsort(-scores.astype(np.int64), kind="stable")[:TOP]:
            print(f"  {scores[index]:>11}  {names[index]}")
    return 0


def pixels(program: Program, path: Path) -> np.ndarray:
    """The picture as the program's input, uint8 [C, H, W]. Raises IntVitError for a file that is no picture."""
    channels, height, width = program.values[program.input].shape
    if channels not in MODES:
        raise IntVitError(f"the program's images have {channels} channels; pictures have 1 or 3")
    try:
        with Image.open(path) as file:
            picture = file.convert(MODES[channels])
    except (OSError, Image.DecompressionBombError) as error:
        raise IntVitError(f"{path}: not a picture that pillow can read ({error})") from None
    crop, interpolation = _evaluation(program)
    short = math.floor(max(height, width) / crop)
    long = int(short * max(picture.size) / min(picture.size))
    if short * long > MAX_PIXELS:  # a picture of 1 x 60000 pixels would grow to gigabytes
        raise IntVitError(f"{path}: more than {MAX_PIXELS} pixels once resized; crop it first")
    picture = picture.resize((short, long) if picture.width <= picture.height else (long, short), interpolation)
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    cropped = picture.crop((left, top, left + width, top + height))
    return np.asarray(cropped, np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _evaluation(program: Program) -> tuple[float, Image.Resampling]:
    """Share of the shorter side that the crop keeps, and interpolation; DeiT's where the provenance has none."""
    values: Any = program.provenance
    for key in ("config", "data"):
        values = values[key] if isinstance(values.get(key), dict) else {}
    crop, name = values.get("crop_pct", 0.875), values.get("interpolation", "bicubic")
    known = {interpolation.name.lower(): interpolation for interpolation in Image.Resampling}
    if not isinstance(crop, int | float) or not 0.05 <= crop <= 1 or name not in known:
        raise IntVitError(f"provenance: crop_pct {crop!r} with interpolation {name!r} is no evaluation transform")
    return float(crop), known[name]
