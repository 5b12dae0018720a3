"""Typed data config and the error that every part of `intvit.data` raises.

`conf/data` composes it, `intvit.config.values.build` makes it from plain values. Nothing is opened here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from intvit.errors import IntVitError
from intvit.photos import MAX_PIXELS

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
TRAIN_TRANSFORMS = ("photo", "none")
CLASS_NAMES = ("digits", "imagenet", "index", "indices")
BAD_SAMPLE_POLICIES = ("raise", "skip")
IMAGENET_CLASSES = 1000


class DataError(IntVitError):
    """Data or a data config that cannot be used; one line that names the key or shard and the way out."""


@dataclass(frozen=True)
class TrainTransformConfig:
    """Random changes to one training image. The defaults are the published DeiT recipe, which I-ViT fine-tunes with."""

    kind: str = "photo"  # `photo`: the options below, by timm; `none`: as in evaluation
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the photo's area that a random crop keeps
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width to height of that crop
    interpolation: str = "bicubic"  # as in evaluation, so that both see the same kind of blur
    horizontal_flip: float = 0.5  # a mirrored photo keeps its class
    color_jitter: float = 0.4  # brightness, contrast, saturation; timm leaves it out beside auto_augment
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"  # timm's notation; null for none

    def __post_init__(self) -> None:
        _one_of("train_transform.kind", self.kind, TRAIN_TRANSFORMS)
        _one_of("train_transform.interpolation", self.interpolation, INTERPOLATIONS)
        _within("train_transform.horizontal_flip", self.horizontal_flip, 0.0, 1.0)
        _within("train_transform.color_jitter", self.color_jitter, 0.0, 1.0)
        for key, limit in (("crop_scale", 1.0), ("crop_ratio", float("inf"))):
            low_high = getattr(self, key)
            if len(low_high) != 2 or not 0.0 < low_high[0] <= low_high[1] <= limit:
                raise DataError(f"data.train_transform.{key}={low_high}: expected a low and a high value above 0")


@dataclass(frozen=True)
class DataConfig:
    """The whole `data` group."""

    name: str  # `digits` is made on demand; every other name reads the shards under `root`
    image_size: int  # height and width that the model sees
    num_classes: int  # labels are 0..num_classes-1
    mean: tuple[float, ...]  # per channel, of pixels scaled to 0..1; the model folds it into its first operator
    std: tuple[float, ...]
    root: str | None = None  # folder of train-*.tar and val-*.tar, or a URL or pipe: command with {shard}
    cache: str | None = (
        None  # folder on a local disk that shards are copied to first; null: only remote ones, at exit gone
    )
    cache_gb: float | None = None  # what goes beyond it is removed, longest unused first; null: no limit
    retries: int = 5  # further attempts after a failed read, with waits of 0.5, 1, 2, ... up to 30 seconds
    patch_size: int | None = None  # null: the model's own
    class_names: str = "indices"  # where an exported program takes its names from
    batch_size: int = 128  # images of one training step on one rank; I-ViT's fine-tuning batch
    eval_batch_size: int = 128  # validation and calibration; changes no result, only memory
    workers: int | None = None  # null: one for each CPU at hand, at most 8; changes no result, only speed
    crop_pct: float = 0.875  # evaluation keeps this share of the resized shorter side (256 -> 224, as DeiT does)
    interpolation: str = "bicubic"  # of the evaluation resize; what DeiT and ViT weights were evaluated with
    shuffle_buffer: int = 20_000  # samples mixed across neighbouring shards; it costs locality of reading, no memory
    seed: int = 0  # of the training order and the random transforms
    on_bad_sample: str = "raise"  # `skip` goes on without broken images and labels, counts and names them
    bad_sample_budget: int = 100  # under skip: more than that, on one rank in one epoch, end the run
    max_pixels: int = MAX_PIXELS  # of an image before it is decoded; the largest of ImageNet has 61 million
    train_transform: TrainTransformConfig = field(default_factory=TrainTransformConfig)

    def __post_init__(self) -> None:
        _one_of("interpolation", self.interpolation, INTERPOLATIONS)
        _one_of("class_names", self.class_names, CLASS_NAMES)
        _one_of("on_bad_sample", self.on_bad_sample, BAD_SAMPLE_POLICIES)
        for key in ("retries", "bad_sample_budget"):
            _at_least(key, getattr(self, key), 0)
        if self.cache_gb is not None and self.cache_gb <= 0:
            raise DataError(f"data.cache_gb={self.cache_gb}: expected above 0; null for no limit")
        for key in ("image_size", "num_classes", "batch_size", "eval_batch_size", "shuffle_buffer", "max_pixels"):
            _at_least(key, getattr(self, key), 1)
        if self.patch_size is not None and (self.patch_size < 1 or self.image_size % self.patch_size):
            raise DataError(f"data.patch_size={self.patch_size}: does not divide data.image_size={self.image_size}")
        if self.workers is not None:
            _at_least("workers", self.workers, 0)
        if not 0.0 < self.crop_pct <= 1.0:
            raise DataError(f"data.crop_pct={self.crop_pct}: expected above 0, at most 1")
        _within("seed", self.seed, 0, 2**32 - 1)
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0.0:
            raise DataError(f"data.mean={self.mean} data.std={self.std}: expected 3 channels each and std above 0")
        expected = {"digits": 10, "imagenet": IMAGENET_CLASSES}.get(self.class_names, self.num_classes)
        if self.num_classes != expected:
            raise DataError(
                f"data.class_names={self.class_names} has {expected} names but data.num_classes={self.num_classes}; "
                "say data.class_names=indices"
            )

    def worker_count(self) -> int:
        """Worker processes of one loader."""
        if self.workers is not None:
            return self.workers
        return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"data.{key}={value}: unknown, expected one of {', '.join(allowed)}")


def _at_least(key: str, value: int, low: int) -> None:
    if value < low:
        raise DataError(f"data.{key}={value}: expected at least {low}")


def _within(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise DataError(f"data.{key}={value}: expected {low} to {high}")
