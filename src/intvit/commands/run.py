"""`intvit run FOLDER IMAGE...`: the five classes of an integer checkpoint with the highest scores, for each image.

A checkpoint that segments writes two files for each image into --out: IMAGE.mask.png, the class of every pixel with the
classes' colours as its palette, and IMAGE.overlay.png, these colours over the image.

Needs numpy and pillow, no torch. Images are prepared as in the evaluation of the model, which the checkpoint's
provenance tells: resized in their proportions until the model's image just fits in, the center cropped; where it
segments, as a whole or in windows. A broken image does not stop the others: it is named at the end, and the exit code
is 1.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from intvit.commands.argument_types import new_file, new_folder
from intvit.errors import IntVitError
from intvit.files import write_bytes, write_json
from intvit.program import Program, load_checkpoint
from intvit.runtime import RUNTIMES
from intvit.runtime.classes import run
from intvit.runtime.segments import class_colours, class_names, segment
from intvit.scenes import overlay, paletted

SHOWN = 5  # classes of an image
KINDS = ("mask", "overlay")  # of files that show the labels of an image


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", help="integer checkpoint")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path)
    parser.add_argument("--runtime", default="native", choices=sorted(RUNTIMES))
    parser.add_argument(
        "--out", type=new_folder, default=Path(), metavar="DIR", help="of masks and overlays (default .)"
    )
    parser.add_argument("--json", type=new_file, metavar="FILE", help="also write classes and errors to this file")
    return parser


def main(arguments: list[str]) -> int:
    """Print the classes of every image, then the images that are none."""
    options = parser().parse_args(arguments)
    program = load_checkpoint(options.folder)
    found = _classified(program, options) if program.form == "scores" else _segmented(program, options)
    entries = list(found)
    if options.json:
        write_json(options.json, {"images": entries})
    broken = [entry["error"] for entry in entries if "error" in entry]
    for error in broken:
        print(f"error: {error}", file=sys.stderr)
    return 1 if broken else 0


def _classified(program: Program, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for classified in run(program, options.images, runtime=options.runtime, top=SHOWN, skip_broken=True):
        if classified.error is not None:
            yield {"image": classified.image, "error": classified.error}
            continue
        print(classified.image)
        for name, score in classified.best:
            print(f"  {score:>11}  {name}")
        best = [{"class": name, "score": score} for name, score in classified.best]
        yield {"image": classified.image, "best": best}


def _segmented(program: Program, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    names, palette = class_names(program), class_colours(program)
    stems = [path.stem for path in options.images]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise IntVitError(
            f"two images are called {twice}: their masks would be one file; run them one by one with --out"
        )
    images = {path.resolve() for path in options.images}
    for place in (options.out / f"{stem}.{kind}.png" for stem in stems for kind in KINDS):
        if place.resolve() in images:
            raise IntVitError(
                f"{place} is one of the images, and would be written over; leave it out, or give --out DIR"
            )
    options.out.mkdir(parents=True, exist_ok=True)
    for segmented in segment(program, options.images, runtime=options.runtime, skip_broken=True):
        if segmented.error is not None:
            yield {"image": segmented.image, "error": segmented.error}
            continue
        files = {kind: options.out / f"{Path(segmented.image).stem}.{kind}.png" for kind in KINDS}
        _save(paletted(segmented.labels, palette), files["mask"])
        _save(Image.fromarray(overlay(segmented.pixels, segmented.labels, palette)), files["overlay"])
        shares = segmented.shares(names)
        print(f"{segmented.image}: {files['mask']}, {files['overlay']}")
        for name, share in shares[:SHOWN]:
            print(f"  {share:>10.2f} %  {name}")
        rounded = [{"class": name, "percent": round(share, 4)} for name, share in shares]
        yield {"image": segmented.image, **{kind: str(path) for kind, path in files.items()}, "classes": rounded}


def _save(image: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())
