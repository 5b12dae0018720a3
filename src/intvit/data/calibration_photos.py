"""The images that calibration sees: training photos as in evaluation, or crops, blends and mosaics of them.

Photos of few classes calibrate for these classes; mixtures hold what more of them would. Image k is a function of the
seed, k and the photos, whatever ranks and workers there are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from intvit.data.config import DataConfig, TrainTransformConfig
from intvit.data.reader import ShardDataset
from intvit.data.shards import Samples
from intvit.data.tars import BadSample
from intvit.data.transforms import TrainTransform, eval_transform

CROP_AREA, CROP_RATIO = (0.25, 1.0), (3 / 4, 4 / 3)  # of a random crop: share of the photo, width to height
# data.calibration_photos: of how many photos each image is made, in turn. One: the photo or a crop of it; two: a blend;
# four: a mosaic.
PHOTOS_OF = {"center": (1,), "crops": (1,), "mixed": (1, 2, 1, 4)}


def photo_places(kind: str, image: int) -> range:
    """Which photos, by their place in the order of calibration, image number `image` is made of: no photo twice.

    >>> [list(photo_places("mixed", image)) for image in range(5)]
    [[0], [1, 2], [3], [4, 5, 6, 7], [8]]
    """
    cycle = PHOTOS_OF[kind]
    rounds, place = divmod(image, len(cycle))
    first = rounds * sum(cycle) + sum(cycle[:place])
    return range(first, first + cycle[place])


class CalibrationPhotos(Dataset[Any]):
    """Map-style dataset: number of an image -> (uint8 (3, H, W), label of its first photo).

    order: positions of the split's photos; behind the last one it begins again. An image with a broken photo raises
    DataError, or with data.on_bad_sample=skip comes back as BadSample.
    """

    def __init__(self, config: DataConfig, index: Samples, order: np.ndarray) -> None:
        self.index, self.order, self.kind = index, order, config.calibration_photos
        self.size = config.image_size
        self.epoch = 0  # all are alike
        skip = config.on_bad_sample == "skip"
        if self.kind == "center":
            self.whole = ShardDataset(index, eval_transform(config), skip=skip)
            return
        height, width = self.size
        self.whole = ShardDataset(index, _random_crop(config, self.size), config.seed, skip)
        self.quarter = ShardDataset(
            index, _random_crop(config, ((height + 1) // 2, (width + 1) // 2)), config.seed, skip
        )

    def __getitem__(self, image: int) -> tuple[Tensor, int] | BadSample:
        positions = [int(self.order[place % len(self.order)]) for place in photo_places(self.kind, image)]
        photos = self.quarter if len(positions) == 4 else self.whole
        parts: list[Tensor] = []
        label = 0
        for position in positions:
            sample = photos[position]
            if isinstance(sample, BadSample):
                return sample
            label = label if parts else sample[1]
            parts.append(sample[0])
        return _joined(parts, self.size), label


def _joined(parts: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Photos uint8 (3, any, any): one as it is, a blend of two, a mosaic of four of half the height and width."""
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        first, second = (part.to(torch.int32) for part in parts)
        return ((3 * first + 2 * second + 2) // 5).to(torch.uint8)  # 0.6 and 0.4, rounded: fifths have no halves
    upper, lower = torch.cat(parts[:2], dim=2), torch.cat(parts[2:], dim=2)
    return torch.cat((upper, lower), dim=1)[:, : size[0], : size[1]].contiguous()


def _random_crop(config: DataConfig, size: tuple[int, int]) -> TrainTransform:
    """Random crop to a size, mirrored as training mirrors; nothing else of the training transform."""
    transform = TrainTransformConfig(
        kind="photo",
        crop_scale=CROP_AREA,
        crop_ratio=CROP_RATIO,
        interpolation=config.interpolation,
        horizontal_flip=config.train_transform.horizontal_flip or 0.0,
        color_jitter=0.0,
    )
    photos = replace(
        config, image_size=size, patch_size=None, labels="classes", fit="center", train_transform=transform
    )
    return TrainTransform(photos)
