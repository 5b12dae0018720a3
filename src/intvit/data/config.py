"""Typed data config, and the error that every part of `intvit.data` raises.

`conf/data` composes it and holds the defaults, `intvit.config.values.build` makes it from plain values.
Nothing is opened here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from intvit.arguments import sides_text
from intvit.config.values import Count, Share, Sides, TypedConfig
from intvit.errors import IntVitError
from intvit.processors import usable_processors

IMAGENET_CLASSES = 1000
MOST_MASK_CLASSES = 2**15 - 1  # labels are int16 in memory

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
Amount = Annotated[int, Field(ge=0)]
Byte = Annotated[int, Field(ge=0, le=255)]


class DataError(IntVitError):
    """Data or a data config that cannot be used; one line that names the key or shard and the way out."""


@dataclass(frozen=True)
class TrainTransformConfig(TypedConfig):
    """Random changes to one training image. kind `none`: as in evaluation; `photo`: all the others, by timm; `scene`:
    of a photo and its mask together, by `scale`, a crop, horizontal_flip and color_jitter.
    """

    error = DataError

    kind: Literal["photo", "scene", "none"]
    crop_scale: tuple[float, float] | None = None  # share of the photo's area that a random crop keeps
    crop_ratio: tuple[float, float] | None = None  # width to height of that crop
    interpolation: Interpolation | None = None
    horizontal_flip: Share | None = None  # probability
    color_jitter: Share | None = None  # brightness, contrast, saturation; timm leaves it out beside auto_augment
    auto_augment: str | None = None  # timm's notation; null for none
    scale: tuple[float, float] | None = None  # of a scene; 1: the photo just covers the image

    def __post_init__(self) -> None:
        for key, limit in (("crop_scale", 1.0), ("crop_ratio", math.inf), ("scale", 10.0)):
            low_high = getattr(self, key)
            if low_high is not None and not 0.0 < low_high[0] <= low_high[1] <= limit:
                raise DataError(f"data.train_transform.{key}={low_high}: expected a low and a high value above 0")
        needed = {
            "photo": ("crop_scale", "crop_ratio", "interpolation", "horizontal_flip", "color_jitter"),
            "scene": ("scale", "horizontal_flip", "color_jitter"),
        }
        missing = [key for key in needed.get(self.kind, ()) if getattr(self, key) is None]
        if missing:
            raise DataError(
                f"data.train_transform.{missing[0]}: missing, kind={self.kind} needs it; "
                f"data/train_transform={self.kind} has all"
            )


@dataclass(frozen=True)
class DataConfig(TypedConfig):
    """The whole `data` group."""

    error = DataError

    name: str  # `digits` is made on demand; every other name reads the shards under `root`
    image_size: Sides  # height and width that the model sees
    num_classes: Count  # labels are 0..num_classes-1
    mean: tuple[float, ...]  # per channel, of pixels scaled to 0..1; the model folds it into its first operator
    std: tuple[float, ...]
    layout: Literal["shards", "folder"]  # of `root`: webdataset tars, or photos in class folders
    root: str | None  # folder of shards or of train/ and val/; for shards also a URL or pipe: command with {shard}
    train_pattern: str  # shards: which files of `root` are of which split, such as train-*.tar
    val_pattern: str
    labels: Literal["classes", "masks"]  # shards: one for each photo, or a KEY.seg.png with one for each pixel
    ignore_index: Amount | None  # masks: the label of pixels that count nowhere
    label_field: str | None  # shards: label in that field of a sample's .json; null: in its .cls or .txt, or its folder
    split: Share | None  # folder: `root` holds the classes itself, and this share is for training
    cache: str | None  # folder on a local disk that shards are copied to first; null: only remote ones, at exit gone
    cache_gb: Annotated[float, Field(gt=0, description="null for no limit")] | None  # the longest unused go
    retries: Amount  # further attempts after a failed read, with waits of 0.5, 1, 2, ... up to 30 seconds
    patch_size: Count | None  # null: the model's own
    class_names: Literal["digits", "imagenet", "index", "folders", "indices"] | list[str]  # what labels stand for
    palette: list[tuple[Byte, Byte, Byte]] | None  # colours of the classes in drawn masks; null: Pascal VOC's
    batch_size: Count  # images of one training step on one rank
    eval_batch_size: Count  # validation and calibration; changes no result, only memory
    workers: Amount | None  # null: one for each CPU at hand, at most 8; changes no result, only speed
    fit: Literal[
        "center", "whole", "sliding"
    ]  # of evaluation: a photo's middle; with masks all of it, at once or in windows
    overlap: Annotated[float, Field(ge=0, le=0.9)]  # of neighbouring windows, a share of their side, at least
    crop_pct: Annotated[float, Field(gt=0, le=1)]  # evaluation keeps this share of the resized shorter side
    interpolation: Interpolation  # of the evaluation resize
    orientation: Literal["ignore", "apply"]  # the mark by which a camera says how it was held, wherever photos are read
    calibration_photos: Literal["center", "crops", "mixed"]  # what calibration sees of training photos
    shuffle_buffer: Count  # samples mixed across neighbouring shards; it costs locality of reading, no memory
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]  # of the training order and the random transforms
    on_bad_sample: Literal["raise", "skip"]  # `skip` goes on without broken images and labels, counts and names them
    bad_sample_budget: Amount  # under skip: more than that, on one rank in one epoch, end the run
    max_pixels: Count  # of an image before it is decoded
    train_transform: TrainTransformConfig

    def __post_init__(self) -> None:
        if self.patch_size is not None and any(side % self.patch_size for side in self.image_size):
            size = sides_text(self.image_size)
            raise DataError(f"data.patch_size={self.patch_size}: does not divide data.image_size={size}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0.0:
            raise DataError(f"data.mean={self.mean} data.std={self.std}: expected 3 channels each and std above 0")
        for key in ("train_pattern", "val_pattern"):
            if (pattern := getattr(self, key)) != pattern.strip("/") or not pattern:
                raise DataError(f"data.{key}={pattern}: expected a glob below data.root, such as {key[:-8]}-*.tar")
        self._check_masks()
        if self.layout == "folder" and self.cache is not None:
            raise DataError(
                f"data.cache={self.cache}: copies shards, and a tree of photos is read where it lies; leave it out, or "
                f"write shards with `intvit shards create {self.root} DIR`"
            )
        if self.layout == "shards" and self.split is not None:
            raise DataError(f"data.split={self.split}: divides a tree of photos; say data=folder, or leave it out")
        if self.layout == "shards" and self.class_names == "folders":
            raise DataError("data.class_names=folders: for a tree of photos; shards have data.class_names=index")
        if isinstance(self.class_names, list):
            if len(self.class_names) != self.num_classes:
                raise DataError(
                    f"data.class_names has {len(self.class_names)} names but data.num_classes={self.num_classes}"
                )
            return
        expected = {"digits": 10, "imagenet": IMAGENET_CLASSES}.get(self.class_names, self.num_classes)
        if self.num_classes != expected:
            raise DataError(
                f"data.class_names={self.class_names} has {expected} names but data.num_classes={self.num_classes}; "
                "say data.class_names=indices"
            )

    def _check_masks(self) -> None:
        """What belongs to masks alone, and what does not go with them."""
        if self.labels == "classes":
            if self.fit != "center" or self.train_transform.kind == "scene":
                raise DataError(
                    f"data.fit={self.fit} data/train_transform={self.train_transform.kind}: for data.labels=masks"
                )
            return
        if self.layout == "folder":
            raise DataError(
                "data.labels=masks: read from shards alone; `intvit shards create` writes them from folders of photos "
                "and masks"
            )
        if self.fit == "center" or self.train_transform.kind == "photo":
            raise DataError(
                f"data.fit={self.fit} data/train_transform={self.train_transform.kind}: with data.labels=masks say "
                "data.fit=whole, or sliding, and data/train_transform=scene, or none"
            )
        if self.num_classes > MOST_MASK_CLASSES:
            raise DataError(f"data.num_classes={self.num_classes}: masks have at most {MOST_MASK_CLASSES} classes")
        if self.ignore_index is not None and self.ignore_index < self.num_classes:
            raise DataError(f"data.ignore_index={self.ignore_index}: is one of the {self.num_classes} classes")
        if self.orientation == "apply":
            raise DataError("data.orientation=apply: masks do not turn with their photos; say ignore")

    def worker_count(self) -> int:
        """Worker processes of one loader."""
        if self.workers is not None:
            return self.workers
        return min(8, usable_processors())
