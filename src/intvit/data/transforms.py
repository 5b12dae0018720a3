"""From an encoded picture to a uint8 tensor: decoding, the evaluation transform (no timm), training transforms."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from intvit.data.config import DataConfig


def decode(data: bytes) -> Image.Image:
    """Encoded picture of any mode (gray, palette, alpha, CMYK, ...) -> RGB picture.

    Pillow's own conversion, as in timm: alpha is dropped, a camera's rotation mark ignored. Raises what Pillow raises.
    """
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB")


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """RGB picture -> uint8 (3, H, W)."""
    return torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class EvalTransform:
    """Resize the shorter side to floor(image_size / crop_pct), crop the center: RGB picture -> uint8 (3, size, size).

    Equal, byte for byte, to timm's evaluation transform (`crop_mode` center, unnormalized) on the same Pillow.
    """

    image_size: int
    crop_pct: float
    interpolation: str

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        short = math.floor(self.image_size / self.crop_pct)
        width, height = picture.size
        if width <= height:
            width, height = short, int(short * height / width)
        else:
            width, height = int(short * width / height), short
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling[self.interpolation.upper()])
        left = round((width - self.image_size) / 2)
        top = round((height - self.image_size) / 2)
        return to_tensor(picture.crop((left, top, left + self.image_size, top + self.image_size)))


def eval_transform(config: DataConfig) -> EvalTransform:
    """Evaluation transform of a config."""
    return EvalTransform(config.image_size, config.crop_pct, config.interpolation)


def train_transform(config: DataConfig) -> Callable[[Image.Image], torch.Tensor]:
    """Training transform of a config, RGB picture -> uint8 (3, size, size); draws from `random`, numpy and torch."""
    options = config.train_transform
    if options.kind == "none":
        return eval_transform(config)
    from intvit.torchvision_fix import ensure_torchvision

    ensure_torchvision()
    from timm.data import create_transform

    _mend_posterize()
    return create_transform(
        config.image_size,
        is_training=True,
        scale=options.crop_scale,
        ratio=options.crop_ratio,
        hflip=options.horizontal_flip,
        color_jitter=options.color_jitter,
        auto_augment=options.auto_augment,
        interpolation=options.interpolation,
        mean=config.mean,  # fills what rotations and shears uncover
        normalize=False,
    )


def _mend_posterize() -> None:
    """Let timm posterize to 0 bits, hence to black, at the top magnitude, as it means to.

    Since Pillow 13 its call raises there: `rand-m9-mstd0.5-inc1` would stop training after some hundred images.
    """
    from timm.data import auto_augment

    original = auto_augment.posterize

    def posterize(picture: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
        if bits_to_keep < 1:
            return Image.new(picture.mode, picture.size)
        return original(picture, bits_to_keep, **options)

    for name, operation in auto_augment.NAME_TO_OP.items():
        if operation is original:
            auto_augment.NAME_TO_OP[name] = posterize
