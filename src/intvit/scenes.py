"""Photos whose every pixel has a class: geometry of windows and nearest neighbours, colours, drawing. numpy and Pillow.

Reading of photos and masks stands in `photos` and `intvit.data.masks`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

Size = tuple[int, int]  # height, width
OPACITY = 0.6  # of the colours over a photo


def nearest(begin: int, end: int, scaled: int, side: int) -> np.ndarray:
    """Which of `side` pixels stands, by nearest neighbour, for each of begin..end-1 of them scaled to `scaled`, int64.

    The pixel that holds the middle of the new one, exactly; Pillow's NEAREST, which counts in floats, takes the one
    before where a middle lies on an edge.

    >>> nearest(0, 6, 6, 3).tolist(), nearest(0, 2, 2, 5).tolist()
    ([0, 0, 1, 1, 2, 2], [1, 3])
    """
    places = np.arange(begin, end, dtype=np.int64)
    return np.minimum((2 * places + 1) * side // (2 * scaled), side - 1)


def covering(photo: Size, seen: Size) -> Size:
    """The size at which a photo, in its proportions, just covers an image of the size `seen`."""
    ratio = max(seen[0] / photo[0], seen[1] / photo[1])
    return max(seen[0], round(photo[0] * ratio)), max(seen[1], round(photo[1] * ratio))


@dataclass(frozen=True)
class Window:
    """A part of a photo that a model sees at once: its corner, and the box of the pixels that it answers for.

    All in pixels of the photo: top, left; top, left, bottom, right.
    """

    corner: tuple[int, int]
    box: tuple[int, int, int, int]


def windows(whole: Size, seen: Size, overlap: float) -> list[Window]:
    """Windows of the size `seen` over a photo of the size `whole`, neighbours overlapping by a share `overlap` or more.

    Every pixel belongs to the window in which it lies nearest to the middle, the earlier of two.
    """
    rows, columns = (_along(one, other, overlap) for one, other in zip(whole, seen, strict=True))
    return [
        Window((top, left), (upper, first, lower, last)) for top, upper, lower in rows for left, first, last in columns
    ]


def _along(whole: int, seen: int, overlap: float) -> list[tuple[int, int, int]]:
    """Of windows along an axis: where each starts, and begin and end of its own pixels."""
    steps = math.ceil((whole - seen) / max(1, math.floor(seen * (1 - overlap))))
    starts = [(whole - seen) * number // max(steps, 1) for number in range(steps + 1)]
    middles = [(one + other + seen) // 2 for one, other in itertools.pairwise(starts)]
    return list(zip(starts, [0, *middles], [*middles, whole], strict=True))


def joined(labels: np.ndarray, parts: Sequence[Window], whole: Size) -> np.ndarray:
    """Labels of windows (n, H, W) as those of the photo they were taken from, (h, w)."""
    result = np.empty(whole, labels.dtype)
    for own, window in zip(labels, parts, strict=True):
        top, left, bottom, right = window.box
        y, x = window.corner
        result[top:bottom, left:right] = own[top - y : bottom - y, left - x : right - x]
    return result


def enlarged(labels: np.ndarray, size: Size) -> np.ndarray:
    """Labels (h, w) at another size, by nearest neighbour."""
    rows, columns = (nearest(0, new, new, old) for new, old in zip(size, labels.shape, strict=True))
    return labels[rows[:, None], columns]


def colours(classes: int, palette: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """uint8 (classes, 3): those of a palette, and for classes beyond it Pascal VOC's.

    VOC's spread the bits of a label over red, green and blue, the low bits to the high ones of a colour.
    """
    labels = np.arange(classes)
    result = np.zeros((classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            result[:, channel] |= ((labels >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    given = np.asarray(palette or [], dtype=np.uint8).reshape(-1, 3)[:classes]
    result[: len(given)] = given
    return result


def paletted(labels: np.ndarray, palette: np.ndarray) -> Image.Image:
    """Labels (h, w) as an image of them: with the palette's colours up to 256 classes, else 16-bit gray."""
    if len(palette) > 256:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(palette.tobytes())
    return image


def overlay(photo: np.ndarray, labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Labels (h, w) in colours over their photo, uint8 (h, w, 3)."""
    mixed = OPACITY * palette[labels] + (1 - OPACITY) * photo
    return np.round(mixed).astype(np.uint8)


def difference(photo: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Where two labellings (h, w) of a photo differ, red on its dimmed gray, uint8 (h, w, 3)."""
    gray = np.round(photo.mean(2, keepdims=True) / 2).astype(np.uint8)
    result = np.broadcast_to(gray, photo.shape).copy()
    result[labels != others] = (255, 40, 40)
    return result
