"""From encoded bytes to RGB pixels: whole pictures by Pillow, random crops of JPEGs by libjpeg-turbo, scaled to fit.

simplejpeg was chosen by measurement (`intvit bench data` repeats it): its pixels equal Pillow's, in two thirds of the
time; OpenCV is as fast but ten times the size. libjpeg-turbo has fast paths for the scales 1/2, 1/4 and 1/8 only; at
others, such as 5/8, decoding to fewer pixels takes longer than decoding to all of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import simplejpeg
from PIL import Image

# What a file may hold, whatever it is called: Pillow would hand other kinds to programs such as ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SCALES = (8, 4, 2)  # divisors of the size, the smallest picture first
Box = tuple[int, int, int, int]  # top, left, height, width


class BrokenImage(ValueError):
    """Bytes that are no picture, or one that is not to be decoded; the message is the reason."""


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """Encoded picture of any mode (gray, 16 bit, palette, alpha, CMYK, ...) -> RGB picture.

    Pillow's own conversion, as in timm: alpha is dropped, a camera's rotation mark ignored. But of 16-bit gray the high
    byte is kept, where Pillow clips to white. Raises BrokenImage, for more than `max_pixels` before memory is taken.
    """
    with _opened(data, max_pixels) as picture:
        return _rgb(picture)


def decode_crop(data: bytes, max_pixels: int, choose: Callable[[Image.Image], Box], size: int) -> np.ndarray:
    """The part of a picture that `choose` names: encoded picture -> uint8 (height, width, 3), to be resized to `size`.

    `choose` gets a picture whose size is right but whose pixels may not be loaded. A JPEG is decoded at the smallest
    scale that leaves the part at least `size` pixels high and wide; the part is then that much smaller. Raises
    BrokenImage.
    """
    with _opened(data, max_pixels) as picture:
        top, left, height, width = choose(picture)
        pixels, divisor = None, 1
        if picture.format == "JPEG" and picture.mode == "RGB":
            divisor = next((scale for scale in SCALES if min(height, width) >= scale * size), 1)
            pixels = _turbo(data, picture.size, divisor)
        if pixels is None:
            pixels, divisor = np.array(_rgb(picture)), 1
    top, left, height, width = (round(side / divisor) for side in (top, left, height, width))
    return pixels[top : top + height, left : left + width]


def _turbo(data: bytes, size: tuple[int, int], divisor: int) -> np.ndarray | None:
    """uint8 (ceil(H / divisor), ceil(W / divisor), 3), or None where Pillow is to decide what the bytes are worth."""
    width, height = (-(-side // divisor) for side in size)
    try:
        return simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=min(2, divisor))
    except ValueError:
        return None


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The picture with its header read; whatever Pillow raises, now or while pixels load, becomes BrokenImage."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise BrokenImage(f"{width} x {height} pixels, more than data.max_pixels={max_pixels}")
            yield picture
    except BrokenImage:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every type on broken bytes
        raise BrokenImage(" ".join(str(error).split()) or type(error).__name__) from error


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode == "I":  # 16-bit gray; Pillow's "I" holds it in 32 bits
        high = np.clip(np.asarray(picture).astype(np.int64) >> 8, 0, 255)
        picture = Image.fromarray(high.astype(np.uint8))
    return picture.convert("RGB")
