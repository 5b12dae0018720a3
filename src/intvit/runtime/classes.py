"""From images to the names of classes, with any runtime. Needs numpy and pillow, no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from intvit.program import Program
from intvit.runtime import as_program, load_runtime
from intvit.runtime.images import read_images


@dataclass(frozen=True)
class Classified:
    """One image: its file, with its place [N] in one of several; and (class name, score), highest scores first."""

    image: str
    best: list[tuple[str, int]]


def run(
    source: Program | str | os.PathLike[str],
    images: np.ndarray | Sequence[str | Path],
    *,
    runtime: str = "native",
    top: int = 5,
) -> Iterator[Classified]:
    """The `top` classes of every image with the highest scores, one image after the other.

    source: a program, or the folder of an integer checkpoint. images: photos, which get the evaluation transform that
    the checkpoint's provenance records, or .npy files of uint8 pixels, or an array uint8 (B, C, H, W). Among equal
    scores the lower class is first. Classes without names are called by their index.

    Raises IntVitError naming a file that is no image, and for a runtime that there is not.

    >>> [len(classified.best) for classified in run(folder, images[:2], runtime="numpy", top=3)]
    [3, 3]
    """
    program = as_program(source)
    execute = load_runtime(program, runtime)
    names = program.classes or [str(index) for index in range(program.values[program.output].shape[0])]
    files = [("", images)] if isinstance(images, np.ndarray) else [(str(path), [path]) for path in images]
    for name, given in files:
        pixels = read_images(program, given)
        for number, scores in enumerate(execute(pixels)):
            order = np.argsort(-scores.astype(np.int64), kind="stable")[:top]
            image = name if name and len(pixels) == 1 else f"{name}[{number}]"
            yield Classified(image, [(names[index], int(scores[index])) for index in order])
