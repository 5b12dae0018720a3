"""From encoded bytes to a uint8 tensor: the evaluation transform (no timm) and the random training transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from intvit.data.config import DataConfig
from intvit.data.decoding import Box, decode_crop
from intvit.photos import decode, fit, resized

Transform = Callable[[bytes], torch.Tensor]  # encoded image -> uint8 (3, H, W); raises BrokenImage


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB image -> uint8 (3, H, W)."""
    return _channels_first(np.array(image, dtype=np.uint8))


def _channels_first(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class EvalTransform:
    """Encoded image -> uint8 (3, H, W) as `intvit.photos.fit` makes it, equal to timm's to the byte."""

    image_size: tuple[int, int]  # height, width
    crop_pct: float
    interpolation: str
    max_pixels: int
    upright: bool = False  # by the orientation mark

    def __call__(self, data: bytes) -> torch.Tensor:
        return self.of_image(decode(data, self.max_pixels, self.upright))

    def of_image(self, image: Image.Image) -> torch.Tensor:
        """RGB image -> uint8 (3, H, W)."""
        return _channels_first(fit(image, *self.image_size, self.crop_pct, self.interpolation, self.max_pixels))


@dataclass(frozen=True)
class WholeTransform:
    """Encoded image -> uint8 (3, H, W): all of it, its sides resized each by itself."""

    image_size: tuple[int, int]
    interpolation: str
    max_pixels: int

    @classmethod
    def of(cls, config: DataConfig) -> WholeTransform:
        """That of a config."""
        return cls(config.image_size, config.interpolation, config.max_pixels)

    def __call__(self, data: bytes) -> torch.Tensor:
        return self.of_image(decode(data, self.max_pixels))

    def of_image(self, image: Image.Image) -> torch.Tensor:
        """RGB image -> uint8 (3, H, W)."""
        return _channels_first(resized(image, *self.image_size, self.interpolation))


class TrainTransform:
    """timm's random crop, flip and augmentation: encoded image -> uint8 (3, H, W).

    Draws from `random`, numpy and torch. Crops and their order of drawing are timm's; the crop is decoded at a fitting
    scale and resized by torch, four times faster than by Pillow and off by a level or so in some pixels.
    """

    def __init__(self, config: DataConfig) -> None:
        whole = timm_transform(config)
        from timm.data.transforms import MaybePILToTensor
        from torchvision.transforms import ColorJitter, RandomHorizontalFlip

        options = config.train_transform
        self._config = config
        self.image_size, self.max_pixels = config.image_size, config.max_pixels
        self.upright = config.orientation == "apply"
        self.interpolation = str(options.interpolation)
        self.of_tensors = (RandomHorizontalFlip, MaybePILToTensor)  # the others want images of Pillow
        self.crop, *rest = whole.transforms
        # What ColorJitter draws where it has nothing to change would go to no use.
        self.rest = [transform for transform in rest if options.color_jitter or not isinstance(transform, ColorJitter)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Made anew in workers that are not forked: there torchvision has to be mended before timm imports it."""
        return TrainTransform, (self._config,)

    def __call__(self, data: bytes) -> torch.Tensor:
        pixels = decode_crop(data, self.max_pixels, self._choose, self.image_size, self.upright)
        image: Any = self._resize(pixels)
        for transform in self.rest:
            if isinstance(image, torch.Tensor) and not isinstance(transform, self.of_tensors):
                image = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
            image = transform(image)
        return image if isinstance(image, torch.Tensor) else to_tensor(image)

    def _choose(self, image: Image.Image) -> Box:
        box: Box = self.crop.get_params(image, self.crop.scale, self.crop.ratio)
        return box

    def _resize(self, pixels: np.ndarray) -> torch.Tensor:
        """uint8 (any, any, 3) -> uint8 (3, H, W)."""
        height, width = self.image_size
        if self.interpolation not in ("bilinear", "bicubic"):  # torch resizes bytes with a low pass in these two
            resampling = Image.Resampling[self.interpolation.upper()]
            return to_tensor(Image.fromarray(pixels).resize((width, height), resampling))
        source = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # channels last, as the fast path wants it
        return interpolate(source, (height, width), mode=self.interpolation, antialias=True)[0].contiguous()


def timm_transform(config: DataConfig) -> Any:
    """timm's training transform of a config, RGB image -> uint8 (3, H, W), in torchvision's Compose."""
    from intvit.torchvision_fix import ensure_torchvision

    ensure_torchvision()
    from timm.data.transforms_factory import create_transform

    _mend_posterize()
    options = config.train_transform
    changes: dict[str, Any] = {
        "scale": options.crop_scale,
        "ratio": options.crop_ratio,
        "hflip": options.horizontal_flip,
        "color_jitter": options.color_jitter,
        "auto_augment": options.auto_augment,
        "interpolation": options.interpolation,
    }
    mean = config.mean  # fills what rotations and shears uncover
    return create_transform(config.image_size, is_training=True, mean=mean, normalize=False, **changes)


def color_jitter(amount: float) -> Callable[[Image.Image], Image.Image]:
    """Random brightness, contrast and saturation, each up to 1 +- amount, in random order; draws from torch."""
    from intvit.torchvision_fix import ensure_torchvision

    ensure_torchvision()
    from torchvision.transforms import ColorJitter

    jitter: Callable[[Image.Image], Image.Image] = ColorJitter(amount, amount, amount)
    return jitter


def eval_transform(config: DataConfig) -> EvalTransform | WholeTransform:
    """Evaluation transform of a config; of photos that are seen in windows, of the one in the middle."""
    if config.fit == "whole":
        return WholeTransform.of(config)
    upright = config.orientation == "apply"
    return EvalTransform(config.image_size, config.crop_pct, config.interpolation, config.max_pixels, upright)


def train_transform(config: DataConfig) -> Transform:
    """Training transform of a config."""
    return eval_transform(config) if config.train_transform.kind == "none" else TrainTransform(config)


def _mend_posterize() -> None:
    """Let timm posterize to 0 bits, hence to black, at the top magnitude, as it means to.

    Since Pillow 13 its call raises there: `rand-m9-mstd0.5-inc1` would stop training after some hundred images.
    """
    from timm.data import auto_augment

    original: Callable[..., Image.Image] = auto_augment.posterize

    def posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
        if bits_to_keep < 1:
            return Image.new(image.mode, image.size)
        return original(image, bits_to_keep, **options)

    for name, operation in auto_augment.NAME_TO_OP.items():
        if operation is original:
            auto_augment.NAME_TO_OP[name] = posterize
