"""Random crops from encoded bytes: of JPEGs by libjpeg-turbo at a fitting scale, of other images by Pillow.

simplejpeg was chosen by measurement (`intvit bench data` repeats it): its pixels equal Pillow's, in two thirds of the
time; OpenCV is as fast but ten times the size. libjpeg-turbo has fast paths for the scales 1/2, 1/4 and 1/8 only; at
others, such as 5/8, decoding to fewer pixels takes longer than decoding to all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from intvit.photos import opened, rgb, turn_of

SCALES = (8, 4, 2)  # divisors of the size, the smallest image first
# Pillow's turns of arrays (H, W, 3), which stay views.
TURNED: dict[Image.Transpose, Callable[[np.ndarray], np.ndarray]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda pixels: pixels[:, ::-1],
    Image.Transpose.ROTATE_180: lambda pixels: pixels[::-1, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda pixels: pixels[::-1],
    Image.Transpose.TRANSPOSE: lambda pixels: pixels.transpose(1, 0, 2),
    Image.Transpose.ROTATE_270: lambda pixels: pixels[::-1].transpose(1, 0, 2),
    Image.Transpose.TRANSVERSE: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    Image.Transpose.ROTATE_90: lambda pixels: pixels[:, ::-1].transpose(1, 0, 2),
}
Box = tuple[int, int, int, int]  # top, left, height, width


def decode_crop(
    data: bytes, max_pixels: int, choose: Callable[[Any], Box], size: tuple[int, int], upright: bool = False
) -> np.ndarray:
    """The part of an image that `choose` names: encoded image -> uint8 (height, width, 3), to be resized to `size`.

    size: height, width. `choose` gets an image whose size is right but whose pixels may not be loaded. A JPEG is
    decoded at the smallest scale that leaves the part at least `size` pixels high and wide; the part is then that much
    smaller. upright: the part is one of the image as its orientation mark turns it. Raises BrokenImage.
    """
    with opened(data, max_pixels) as image:
        turn = turn_of(image) if upright else None
        whole: Any = image if turn is None else Image.new("1", image.size).transpose(turn)
        top, left, height, width = choose(whole)
        pixels, divisor = None, 1
        if image.format == "JPEG" and image.mode == "RGB":
            divisor = next((scale for scale in SCALES if height >= scale * size[0] and width >= scale * size[1]), 1)
            pixels = _turbo(data, image.size, divisor)
        if pixels is None:
            pixels, divisor = np.array(rgb(image)), 1
    if turn is not None:
        pixels = TURNED[turn](pixels)
    top, left, height, width = (round(side / divisor) for side in (top, left, height, width))
    part = pixels[top : top + height, left : left + width]
    return part if turn is None else np.ascontiguousarray(part)  # torch knows no negative strides


def _turbo(data: bytes, size: tuple[int, int], divisor: int) -> np.ndarray | None:
    """uint8 (ceil(H / divisor), ceil(W / divisor), 3), or None where Pillow is to decide what the bytes are worth."""
    width, height = (-(-side // divisor) for side in size)
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data, "RGB", min_height=height, min_width=width, min_factor=min(2, divisor)
        )
    except ValueError:
        return None
    return pixels
