"""Photos with a label for every pixel: decoding of masks, and the joint transforms of training and of evaluation.

Labels in memory are int16, VOID for pixels that count nowhere.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from intvit.data.config import DataConfig, DataError
from intvit.data.reader import seeded
from intvit.data.shards import ShardIndex
from intvit.data.tars import BadSample
from intvit.data.transforms import WholeTransform, color_jitter, to_tensor
from intvit.photos import BrokenImage, check_resized, decode, mask_labels, resized
from intvit.scenes import Window, covering, nearest, windows

VOID = -1
FLIP = Image.Transpose.FLIP_LEFT_RIGHT


class MaskTarget(NamedTuple):
    """What an image of the model's size is to be right about: labels int16 (h, w) at the size of the mask.

    rows, columns: int64 (h,), (w,): which pixel of the model's output answers for each.
    """

    labels: Tensor
    rows: Tensor
    columns: Tensor

    def at_size(self, size: tuple[int, int]) -> Tensor:
        """int16 of the image's size: a label for each of its pixels that answers for one, the last of several."""
        rows, columns = (
            torch.full((side,), -1).scatter_reduce(0, places, torch.arange(len(places)), "amax")
            for side, places in zip(size, (self.rows, self.columns), strict=True)
        )
        labels = self.labels[rows.clamp(min=0)][:, columns.clamp(min=0)]
        return labels.masked_fill((rows < 0)[:, None] | (columns < 0), VOID)


def decode_mask(data: bytes, size: tuple[int, int], config: DataConfig) -> np.ndarray:
    """Encoded mask (gray of 8 or 16 bits, or a palette's numbers) -> labels int16 (h, w).

    size: (width, height) of the photo. Raises BrokenImage for another size, for colours, and for a label that is
    neither below data.num_classes nor data.ignore_index.
    """
    labels = mask_labels(data, config.max_pixels).astype(np.int64)
    if labels.shape[::-1] != size:
        raise BrokenImage(f"the mask has {labels.shape[1]} x {labels.shape[0]} pixels, the photo {size[0]} x {size[1]}")
    void = labels == config.ignore_index
    outside = labels[(labels >= config.num_classes) & ~void]
    if len(outside):
        also = "" if config.ignore_index is None else f" or {config.ignore_index}"
        raise BrokenImage(
            f"the mask has label {int(outside[0])}, outside 0..{config.num_classes - 1}{also}; mend it, or set "
            "data.num_classes or data.ignore_index"
        )
    return np.where(void, VOID, labels).astype(np.int16)


@dataclass(frozen=True)
class SceneTransform:
    """Random scale, crop, flip and jitter of a photo and its mask together; draws from `random` and torch.

    At scale 1 the photo just covers the image size. What a smaller one leaves open is of the mean colour, and VOID.
    """

    config: DataConfig

    def __call__(self, photo: Image.Image, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """RGB photo and labels (h, w) -> uint8 (3, H, W) and int16 (H, W)."""
        options, (height, width) = self.config.train_transform, self.config.image_size
        low, high = options.scale or (1.0, 1.0)
        ratio = max(height / photo.height, width / photo.width) * random.uniform(low, high)
        whole = max(1, round(photo.width * ratio)), max(1, round(photo.height * ratio))
        # The part of the scaled photo that is seen begins here; below 0 the photo is placed inside.
        left, top = (_offset(side, seen) for side, seen in zip(whole, (width, height), strict=True))
        box = max(left, 0), max(top, 0), min(left + width, whole[0]), min(top + height, whole[1])
        part = (box[2] - box[0], box[3] - box[1])
        across, down = photo.width / whole[0], photo.height / whole[1]
        source = box[0] * across, box[1] * down, box[2] * across, box[3] * down
        resampling = Image.Resampling[self.config.interpolation.upper()]
        pixels = np.empty((height, width, 3), np.uint8)
        pixels[:] = np.round(np.array(self.config.mean) * 255).astype(np.uint8)
        labels = np.full((height, width), VOID, np.int16)
        at = slice(box[1] - top, box[3] - top), slice(box[0] - left, box[2] - left)
        pixels[at] = np.asarray(photo.resize(part, resampling, box=source))
        rows, columns = (
            nearest(begin, end, scaled, side)
            for begin, end, scaled, side in zip(box[1::-1], box[:1:-1], whole[::-1], mask.shape, strict=True)
        )
        labels[at] = mask[rows[:, None], columns]
        image = Image.fromarray(pixels)
        if random.random() < (options.horizontal_flip or 0.0):
            image, labels = image.transpose(FLIP), labels[:, ::-1]
        if options.color_jitter:
            image = color_jitter(options.color_jitter)(image)
        return to_tensor(image), torch.from_numpy(np.ascontiguousarray(labels))


def _offset(whole: int, seen: int) -> int:
    """Where a random part of `seen` pixels begins in a side of `whole`; where it is longer, minus the place before."""
    return random.randint(min(0, whole - seen), max(0, whole - seen))


def evaluated(photo: Image.Image, mask: np.ndarray, config: DataConfig) -> list[tuple[Tensor, MaskTarget]]:
    """What evaluation sees of a photo: images uint8 (3, H, W), each with the pixels of the mask that it answers for.

    data.fit=whole: one image, the photo resized. sliding: the photo resized to just cover the image size, in windows;
    see `intvit.scenes.windows`. Raises BrokenImage for a photo that would become too large.
    """
    height, width = config.image_size
    if config.fit == "whole":
        image = WholeTransform.of(config).of_image(photo)
        return [(image, _target(mask, (height, width), Window((0, 0), (0, 0, height, width))))]
    whole = covering((photo.height, photo.width), config.image_size)
    check_resized(*whole, config.max_pixels)
    scaled = torch.from_numpy(resized(photo, *whole, config.interpolation)).permute(2, 0, 1)
    parts = []
    for window in windows(whole, config.image_size, config.overlap):
        top, left = window.corner
        image = scaled[:, top : top + height, left : left + width].contiguous()
        parts.append((image, _target(mask, whole, window)))
    return parts


def _target(mask: np.ndarray, whole: tuple[int, int], window: Window) -> MaskTarget:
    """The pixels of the mask whose nearest neighbours in the photo, scaled to `whole`, belong to the window."""
    kept, indices = [], []
    for axis, side in enumerate(mask.shape):
        places = nearest(0, side, side, whole[axis])
        inside = (places >= window.box[axis]) & (places < window.box[axis + 2])
        kept.append(inside)
        indices.append(torch.from_numpy(places[inside] - window.corner[axis]))
    labels = np.ascontiguousarray(mask[kept[0]][:, kept[1]])
    return MaskTarget(torch.from_numpy(labels), *indices)


class MaskDataset(Dataset[Any]):
    """Map-style dataset over an index of masks: position -> what `SceneTransform` or `evaluated` makes of the sample.

    With a `seed` for training, drawn from as in `ShardDataset`. A broken photo or mask raises DataError naming shard
    and key, or with data.on_bad_sample=skip comes back as BadSample.
    """

    def __init__(self, config: DataConfig, index: ShardIndex, seed: int | None = None) -> None:
        self.config, self.index, self.seed = config, index, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> list[tuple[Tensor, Any]] | BadSample:
        config, index = self.config, self.index
        try:
            photo = decode(index.read(position), config.max_pixels)
            mask = decode_mask(index.read_mask(position), photo.size, config)
            if self.seed is None:
                return list(evaluated(photo, mask, config))
            if config.train_transform.kind == "none":
                image, labels = WholeTransform.of(config).of_image(photo), mask
                rows, columns = (
                    nearest(0, side, side, old) for side, old in zip(config.image_size, mask.shape, strict=True)
                )
                return [(image, torch.from_numpy(labels[rows[:, None], columns]))]
            with seeded(f"{self.seed}/{self.epoch}/{position}"):
                return [SceneTransform(config)(photo, mask)]
        except (BrokenImage, OSError) as error:
            bad = index.bad_sample(position, f"broken image ({error})")
            if config.on_bad_sample == "skip":
                return bad
            raise DataError(f"{bad}; mend or remove it, or say data.on_bad_sample=skip") from error
