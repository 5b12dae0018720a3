"""From photos to the class of every pixel, with any runtime. Needs numpy and pillow, no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from intvit.errors import IntVitError
from intvit.photos import MAX_PIXELS, BrokenImage, check_resized, resized
from intvit.program import Program
from intvit.runtime import Runtime, as_program, load_runtime
from intvit.runtime.images import decoded, evaluation, image_files, reason, recorded
from intvit.scenes import colours, covering, enlarged, joined, windows

BATCH = 8  # windows at once


@dataclass(frozen=True)
class Segmented:
    """One photo: its file, its pixels uint8 (h, w, 3), and the class of each, uint8 or uint16 (h, w).

    error: why the file is no image of the program; pixels and labels are then empty.
    """

    image: str
    pixels: np.ndarray
    labels: np.ndarray
    error: str | None = None

    def shares(self, names: Sequence[str]) -> list[tuple[str, float]]:
        """(class name, percent of the pixels) of the classes that occur, the largest first."""
        labels, counts = np.unique(self.labels, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(names[labels[i]], 100.0 * float(counts[i]) / self.labels.size) for i in order]


def segment(
    source: Program | str | os.PathLike[str],
    images: Sequence[str | Path],
    *,
    runtime: str = "native",
    skip_broken: bool = False,
) -> Iterator[Segmented]:
    """The class of every pixel of every photo, one after the other.

    source: a program that segments, or the folder of one. images: files of photos, seen whole or in windows as the
    checkpoint's provenance says the model was evaluated; labels return to the photo's size by nearest neighbour.
    skip_broken: a file that is no photo, or not there, yields its error, and the others go on.

    Raises IntVitError at the call for a runtime or a file that there is not, and a program of another form; when its
    turn comes, naming a file that is no photo.
    """
    program = as_program(source)
    if program.form != "labels":
        raise IntVitError(f"the program gives {program.form.replace('_', ' ')}, no label for each pixel")
    execute = load_runtime(program, runtime)
    return _segmented(program, execute, image_files(images, absent=skip_broken), skip_broken)


def class_names(program: Program) -> list[str]:
    """Of the labels; their numbers where the program names none."""
    return list(program.classes) or [str(label) for label in range(program.num_classes)]


def class_colours(program: Program) -> np.ndarray:
    """uint8 (classes, 3), the palette of the data that the model was trained on, where provenance has one."""
    palette = recorded(program).get("palette") or []
    if not isinstance(palette, list | tuple) or not all(map(_is_colour, palette)):
        raise IntVitError("provenance: data.palette: expected colours [r, g, b] of 0..255")
    return colours(program.num_classes, palette)


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(type(part) is int and 0 <= part <= 255 for part in value)
    )


def _segmented(program: Program, execute: Runtime, files: Sequence[Path], skip_broken: bool) -> Iterator[Segmented]:
    for file in files:
        try:
            photo = decoded(file, upright=False)  # masks do not turn with their photos
            labels = labels_of(program, execute, photo)
        except (OSError, BrokenImage) as error:
            message = f"{file}: {reason(error)}"
            if not skip_broken:
                raise IntVitError(message) from None
            empty = np.empty((0, 0), np.uint8)
            yield Segmented(str(file), empty[..., None], empty, message)
            continue
        yield Segmented(str(file), np.asarray(photo), labels)


def labels_of(program: Program, execute: Runtime, photo: Image.Image) -> np.ndarray:
    """Labels (h, w) of an RGB photo of any size. Raises BrokenImage for one that would become too large for windows."""
    _, *sides = program.values[program.input].shape
    seen = sides[0], sides[1]
    size, values = (photo.height, photo.width), recorded(program)
    _, interpolation = evaluation(program)
    whole = covering(size, seen) if values.get("fit") == "sliding" else seen
    check_resized(*whole, MAX_PIXELS)
    overlap = values.get("overlap", 0.5)
    if type(overlap) not in (int, float) or not 0 <= overlap <= 0.9:
        raise IntVitError(f"provenance: data.overlap={overlap!r}: expected a share of a window's side, from 0 to 0.9")
    parts = windows(whole, seen, overlap)
    scaled = resized(photo, *whole, interpolation).transpose(2, 0, 1)
    crops = [scaled[:, top : top + seen[0], left : left + seen[1]] for top, left in (each.corner for each in parts)]
    batches = (np.ascontiguousarray(np.stack(crops[at : at + BATCH])) for at in range(0, len(crops), BATCH))
    labels = np.concatenate([execute(batch) for batch in batches])
    return enlarged(joined(labels, parts, whole), size).astype(np.uint8 if program.num_classes <= 256 else np.uint16)
