"""Pictures to pixels, with Pillow and numpy alone: decoding with limits, and the geometry of evaluation."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from intvit.errors import IntVitError

MAX_PIXELS = 100_000_000  # the largest photo of ImageNet has 61 million
# What a file may hold, whatever it is called: Pillow would hand other kinds to programs such as ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


class BrokenImage(IntVitError):
    """Bytes that are no picture, or one that is not to be decoded; the message is the reason."""


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """Encoded picture of any mode (gray, 16 bit, palette, alpha, CMYK, ...) -> RGB picture.

    Pillow's own conversion, as in timm: alpha is dropped, a camera's rotation mark ignored. But of 16-bit gray the high
    byte is kept, where Pillow clips to white. Raises BrokenImage, for more than `max_pixels` before memory is taken.
    """
    with opened(data, max_pixels) as picture:
        return rgb(picture)


def fit(
    picture: Image.Image, height: int, width: int, crop_pct: float, interpolation: str, max_pixels: int
) -> np.ndarray:
    """Resize the shorter side to floor(longest of height and width / crop_pct), crop the center.

    RGB (or gray) picture -> uint8 (height, width, 3) (or (height, width)). Equal, byte for byte, to timm's evaluation
    transform (`crop_mode` center, unnormalized) on the same Pillow. Raises BrokenImage for one that would become too
    large.
    """
    short = math.floor(max(height, width) / crop_pct)
    old_width, old_height = picture.size
    if old_width <= old_height:
        new_width, new_height = short, int(short * old_height / old_width)
    else:
        new_width, new_height = int(short * old_width / old_height), short
    if new_width * new_height > max_pixels:  # a picture of 1 x 60000 pixels would grow to gigabytes
        raise BrokenImage(f"{new_width} x {new_height} pixels once resized, more than max_pixels={max_pixels}")
    if picture.size != (new_width, new_height):
        picture = picture.resize((new_width, new_height), Image.Resampling[interpolation.upper()])
    left, top = round((new_width - width) / 2), round((new_height - height) / 2)
    return np.array(picture.crop((left, top, left + width, top + height)), dtype=np.uint8)


@contextmanager
def opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The picture with its header read; whatever Pillow raises, now or while pixels load, becomes BrokenImage."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise BrokenImage(f"{width} x {height} pixels, more than max_pixels={max_pixels}")
            yield picture
    except BrokenImage:
        raise
    except UnidentifiedImageError:
        raise BrokenImage(f"none of {', '.join(FORMATS)}") from None
    except Exception as error:  # Pillow's decoders raise nearly every type on broken bytes
        raise BrokenImage(" ".join(str(error).split()) or type(error).__name__) from error


def rgb(picture: Image.Image) -> Image.Image:
    """An opened picture of any mode as RGB."""
    if picture.mode.startswith("I;16") or picture.mode == "I":  # 16-bit gray; Pillow's "I" holds it in 32 bits
        high = np.clip(np.asarray(picture).astype(np.int64) >> 8, 0, 255)
        picture = Image.fromarray(high.astype(np.uint8))
    return picture.convert("RGB")
