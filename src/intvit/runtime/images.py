"""Images for a program from files that a user names: arrays of pixels, or photos. No torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from intvit.arguments import as_array, as_path, described, is_array
from intvit.errors import IntVitError
from intvit.photos import MAX_PIXELS, decode, fit, is_turned, resized
from intvit.program import Program
from intvit.runtime import check_images

log = logging.getLogger(__name__)

MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's name


def read_images(program: Program, paths: np.ndarray | Sequence[str | Path]) -> np.ndarray:
    """uint8 [B, C, H, W] of the program's size, in the order of `paths`; an array, numpy or torch, is taken as it is.

    A `.npy` file holds uint8 [C, H, W] or [B, C, H, W] and is taken as it is; any other file is a photo, which goes
    through the evaluation transform (shorter side to size / crop_pct, center crop, or resized as a whole; turned
    upright or as the sensor lay) that the checkpoint's provenance records, or the one of ImageNet's models. Raises
    IntVitError, naming the file.
    """
    if is_array(paths):
        array = as_array("images", paths)
        check_images(program, array)
        return array
    batches = [np.empty((0, *program.values[program.input].shape), np.uint8)]
    for path in image_files(paths):
        try:
            images = _pixels(path) if path.suffix == ".npy" else _photo(path, program)
            check_images(program, images)
        except (OSError, ValueError) as error:
            raise IntVitError(f"{path}: {reason(error)}") from None
        batches.append(images)
    return np.concatenate(batches)


def extreme_images(program: Program, count: int) -> np.ndarray:
    """uint8 [count, C, H, W] of the program's size: black, white, stripes that saturate, then random pixels."""
    shape = program.values[program.input].shape
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    images[:1], images[1:2], images[2:3] = 0, 255, 0
    images[2:3, :, ::2] = 255
    return images


def image_files(paths: Any, *, absent: bool = False) -> list[Path]:
    """`paths` as a list of files that are there. Raises IntVitError for anything else, naming what it is.

    absent: files that are not there pass, too.
    """
    if isinstance(paths, str | os.PathLike):
        raise IntVitError(f"images={str(paths)!r}: expected a list of files, such as [{str(paths)!r}]")
    if not isinstance(paths, Iterable):
        raise IntVitError(f"images are {described(paths)}; expected files, or uint8 pixels (B, C, H, W)")
    files = [as_path(f"images[{index}]", path) for index, path in enumerate(paths)]
    for file in () if absent else files:
        if not file.is_file():
            problem = "a folder, not a file" if file.is_dir() else "no such file"
            raise IntVitError(f"{file}: {problem}; give .npy files of uint8 pixels, or photos")
    return files


def _pixels(path: Path) -> np.ndarray:
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise IntVitError("an archive of arrays; save one array with numpy.save")
    return array[None] if array.ndim == 3 else array


def _photo(path: Path, program: Program) -> np.ndarray:
    channels, height, width = program.values[program.input].shape
    if channels not in MODES:
        raise IntVitError(f"the program's images have {channels} channels; photos have 1 or 3")
    crop_pct, interpolation = evaluation(program)
    photo = decoded(path, upright=recorded(program).get("orientation") == "apply").convert(MODES[channels])
    if recorded(program).get("fit") == "whole":
        pixels = resized(photo, height, width, interpolation)
    else:
        pixels = fit(photo, height, width, crop_pct, interpolation, MAX_PIXELS)
    return pixels.reshape(1, height, width, channels).transpose(0, 3, 1, 2)


def decoded(path: Path, *, upright: bool) -> Image.Image:
    """A photo as RGB. upright: turned by its orientation mark, as data.orientation said; else a mark is warned of.

    Raises OSError, and BrokenImage for what is no photo.
    """
    data = path.read_bytes()
    if not upright and is_turned(data, MAX_PIXELS):
        log.warning("%s: its orientation mark is ignored, as where the model was evaluated (data.orientation)", path)
    return decode(data, MAX_PIXELS, upright)


def reason(error: OSError | ValueError) -> str:
    """What is wrong with a file, without its name."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def recorded(program: Program) -> dict[str, Any]:
    """What the provenance says of the data that the model was evaluated on; nothing, where it says nothing."""
    values: Any = program.provenance
    for key in ("config", "data"):
        values = values[key] if isinstance(values.get(key), dict) else {}
    return dict(values)


def evaluation(program: Program) -> tuple[float, str]:
    """Share of the shorter side that the crop keeps, and interpolation; DeiT's where the provenance has none."""
    values = recorded(program)
    crop, name = values.get("crop_pct", 0.875), values.get("interpolation", "bicubic")
    known = [interpolation.name.lower() for interpolation in Image.Resampling]
    if not isinstance(crop, int | float) or not 0.05 <= crop <= 1 or name not in known:
        raise IntVitError(f"provenance: crop_pct {crop!r} with interpolation {name!r} is no evaluation transform")
    return float(crop), name
