"""From images to the names of classes, with any runtime. Needs numpy and pillow, no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from intvit.arguments import is_array, whole_number
from intvit.errors import IntVitError
from intvit.program import Program
from intvit.runtime import Runtime, as_program, load_runtime
from intvit.runtime.images import image_files, read_images


@dataclass(frozen=True)
class Classified:
    """One image: its file, with its place [N] in one of several; and (class name, score), highest scores first.

    error: why the file is no image of the program, where it was to be passed over; best is then empty.
    """

    image: str
    best: list[tuple[str, int]]
    error: str | None = None


def run(
    source: Program | str | os.PathLike[str],
    images: np.ndarray | Sequence[str | Path],
    *,
    runtime: str = "native",
    top: int = 5,
    skip_broken: bool = False,
) -> Iterator[Classified]:
    """The `top` classes of every image with the highest scores, one image after the other.

    source: a program, or the folder of an integer checkpoint. images: photos, which get the evaluation transform that
    the checkpoint's provenance records, or .npy files of uint8 pixels, or an array uint8 (B, C, H, W). Among equal
    scores the lower class is first. Classes without names are called by their index. skip_broken: a file that is no
    image, or not there, yields its error and no class, and the others go on.

    Raises IntVitError at the call for a runtime or a file that there is not, and for pixels of another type or size;
    when its turn comes, naming a file that is no image.

    >>> [len(classified.best) for classified in run(folder, images[:2], runtime="numpy", top=3)]
    [3, 3]
    """
    top, program = whole_number("top", top), as_program(source)
    if program.form != "scores":
        raise IntVitError(
            "the program gives a label for each pixel: `intvit run` draws them, intvit.load(...)(images) gives them"
        )
    execute = load_runtime(program, runtime)
    if is_array(images):
        return _classified(program, execute, [("", read_images(program, images))], top, skip_broken)
    files = image_files(images, absent=skip_broken)
    return _classified(program, execute, [(str(file), [file]) for file in files], top, skip_broken)


def _classified(
    program: Program,
    execute: Runtime,
    given: Sequence[tuple[str, np.ndarray | Sequence[Path]]],
    top: int,
    skip_broken: bool,
) -> Iterator[Classified]:
    names = program.classes or [str(index) for index in range(program.values[program.output].shape[0])]
    for name, images in given:
        try:
            pixels = read_images(program, images)
        except IntVitError as error:
            if not skip_broken:
                raise
            yield Classified(name, [], str(error))
            continue
        for number, scores in enumerate(execute(pixels)):
            order = np.argsort(-scores.astype(np.int64), kind="stable")[:top]
            image = name if name and len(pixels) == 1 else f"{name}[{number}]"
            yield Classified(image, [(names[index], int(scores[index])) for index in order])
