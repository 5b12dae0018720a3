"""Images for an exported program from files that a user names: arrays of pixels, or photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from intvit.errors import IntVitError
from intvit.program import Program
from intvit.runtime import check_images

MAX_PIXELS = 100_000_000  # of a photo before it is decoded


def read_images(program: Program, paths: Sequence[str]) -> np.ndarray:
    """uint8 [B, C, H, W] of the program's size, in the order of `paths`.

    A `.npy` file holds uint8 [C, H, W] or [B, C, H, W] and is taken as it is; any other file is a photo, which goes
    through the evaluation transform (shorter side to size / crop_pct, center crop) that the checkpoint's provenance
    records, or the one of ImageNet's models. Raises IntVitError, naming the file.
    """
    batches = []
    for name in paths:
        path = Path(name)
        if not path.is_file():
            raise IntVitError(f"{path}: no such file; give .npy files of uint8 pixels, or photos")
        try:
            images = _pixels(path) if path.suffix == ".npy" else _photo(path, program)
            check_images(program, images)
        except (OSError, ValueError) as error:
            raise IntVitError(f"{path}: {error}") from None
        batches.append(images)
    return np.concatenate(batches)


def _pixels(path: Path) -> np.ndarray:
    array = np.load(path, allow_pickle=False)
    return array[None] if array.ndim == 3 else array


def _photo(path: Path, program: Program) -> np.ndarray:
    from intvit.data.transforms import EvalTransform

    recorded = {"crop_pct": 0.875, "interpolation": "bicubic"} | program.provenance.get("config", {}).get("data", {})
    size = program.values[program.input].shape[-1]
    transform = EvalTransform(size, recorded["crop_pct"], recorded["interpolation"], max_pixels=MAX_PIXELS)
    return transform(path.read_bytes()).numpy()[None]
