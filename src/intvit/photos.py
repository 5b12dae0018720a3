"""Images to pixels, with Pillow and numpy alone: decoding with limits, and the geometry of evaluation."""

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


# How the pixels of a file with this mark of its camera are turned to stand upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112  # EXIF's tag of that mark


class BrokenImage(IntVitError):
    """Bytes that are no picture, or one that is not to be decoded; the message is the reason."""


def decode(data: bytes, max_pixels: int, upright: bool = False) -> Image.Image:
    """Encoded image of any mode (gray, 16 bit, palette, alpha, CMYK, ...) -> RGB image.

    Pillow's own conversion, as in timm: alpha is dropped. But of 16-bit gray the high byte is kept, where Pillow clips
    to white. upright: turned as the camera's orientation mark says; otherwise that is ignored, as in timm. Raises
    BrokenImage, for more than `max_pixels` before memory is taken.
    """
    with opened(data, max_pixels) as image:
        turn = turn_of(image) if upright else None
        return rgb(image) if turn is None else rgb(image).transpose(turn)


def is_turned(data: bytes, max_pixels: int) -> bool:
    """Whether an orientation mark says that the pixels of an encoded image do not stand upright. Raises BrokenImage."""
    with opened(data, max_pixels) as image:
        return turn_of(image) is not None


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What brings the pixels of an opened image upright, by its orientation mark; None for nothing.

    A TIFF is turned by Pillow in any case, as its pixels load. Of broken metadata nothing is believed.
    """
    if image.format == "TIFF":
        return None
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow's parser raises nearly every type
        return None


def fit(
    image: Image.Image, height: int, width: int, crop_pct: float, interpolation: str, max_pixels: int
) -> np.ndarray:
    """Resize until floor(height / crop_pct) x floor(width / crop_pct) just fits in, crop the center.

    RGB (or gray) image -> uint8 (height, width, 3) (or (height, width)). Equal, byte for byte, to timm's evaluation
    transform (`crop_mode` center, unnormalized) on the same Pillow. Raises BrokenImage for one that would become too
    large.
    """
    new_width, new_height = _resized(image.size, math.floor(height / crop_pct), math.floor(width / crop_pct))
    check_resized(new_height, new_width, max_pixels)
    if image.size != (new_width, new_height):
        image = image.resize((new_width, new_height), Image.Resampling[interpolation.upper()])
    left, top = round((new_width - width) / 2), round((new_height - height) / 2)
    return np.array(image.crop((left, top, left + width, top + height)), dtype=np.uint8)


def check_resized(height: int, width: int, max_pixels: int) -> None:
    """Raises BrokenImage for a size that is too large; an image of 1 x 60000 pixels would grow to gigabytes."""
    if width * height > max_pixels:
        raise BrokenImage(f"{width} x {height} pixels once resized, more than max_pixels={max_pixels}")


def resized(image: Image.Image, height: int, width: int, interpolation: str) -> np.ndarray:
    """The whole of an RGB (or gray) image as uint8 (height, width, 3) (or (height, width)), in whatever proportions."""
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling[interpolation.upper()])
    return np.array(image, dtype=np.uint8)


def _resized(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Width and height of an image of `size` (width, height) that covers height x width, rounded as timm rounds."""
    old_width, old_height = size
    if height != width:
        ratio = min(old_height / height, old_width / width)
        return round(old_width / ratio), round(old_height / ratio)
    if old_width <= old_height:
        return width, int(height * old_height / old_width)
    return int(width * old_width / old_height), height


@contextmanager
def opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The image with its header read; whatever Pillow raises, now or while pixels load, becomes BrokenImage."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BrokenImage(f"{width} x {height} pixels, more than max_pixels={max_pixels}")
            yield image
    except BrokenImage:
        raise
    except UnidentifiedImageError:
        raise BrokenImage(f"none of {', '.join(FORMATS)}") from None
    except Exception as error:  # Pillow's decoders raise nearly every type on broken bytes
        raise BrokenImage(" ".join(str(error).split()) or type(error).__name__) from error


def rgb(image: Image.Image) -> Image.Image:
    """An opened image of any mode as RGB."""
    if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit gray; Pillow's "I" holds it in 32 bits
        high = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255)
        image = Image.fromarray(high.astype(np.uint8))
    image.info.pop("transparency", None)  # dropped in any case; of a palette Pillow would warn
    return image.convert("RGB")


def mask_labels(data: bytes, max_pixels: int) -> np.ndarray:
    """Encoded mask -> labels uint8 or uint16 (h, w): gray of up to 16 bits, or the numbers of a palette's colours.

    Raises BrokenImage, also for an image of colours.
    """
    with opened(data, max_pixels) as image:
        if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
            raise BrokenImage(f"a mask of mode {image.mode}; masks hold labels, as gray or by a palette, not colours")
        labels = np.asarray(image)
    if labels.dtype.itemsize <= 1:
        return labels.astype(np.uint8)
    if labels.min() < 0 or labels.max() > 0xFFFF:
        raise BrokenImage("a mask with labels outside 0..65535")
    return labels.astype(np.uint16)
