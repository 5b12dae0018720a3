"""Find photos with masks, in the folders that Cityscapes, ADE20K, Pascal VOC and CamVid are handed out in.

A folder of one's own is laid out as CamVid's: train and val with photos, trainannot and valannot with masks of the same
names. Nothing is decoded here but by `encoded_mask`, which gives a mask its new labels.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from intvit.data.config import DataError
from intvit.data.shard_tools.source_images import SUFFIXES, SourceImage, SourceImages
from intvit.photo_folders import is_hidden
from intvit.photos import MAX_PIXELS, BrokenImage, mask_labels

VOID = 255  # of the data sets whose labels change here, and of VOC
# Of Cityscapes' 34 ids, the 19 that are trained, in their order there.
CITYSCAPES_TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
Pair = tuple[Path, Path]  # photo and mask


def find_masked(source: Path) -> SourceImages | None:
    """All photos with their masks, by the layout of `source`; None where it has none of them.

    Raises DataError for a photo without a mask, and a layout without photos.
    """
    for kind, (needed, find) in LAYOUTS.items():
        if all((source / name).is_dir() for name in needed):
            splits, relabel = find(source)
            found = {split: list(_images(pairs)) for split, pairs in splits.items()}
            if not any(found.values()):
                raise DataError(f"{source}: laid out as {kind}, but holds no photos")
            return SourceImages(kind, (), {split: each for split, each in found.items() if each}, (), relabel)
    return None


def _images(pairs: Mapping[str, Pair]) -> Iterator[SourceImage]:
    """By key, in its order."""
    for key, (photo, mask) in sorted(pairs.items()):
        if not mask.is_file():
            raise DataError(f"{photo}: has no mask {mask}; add it, or move the photo away")
        suffix = SUFFIXES[photo.suffix.lower()]
        yield SourceImage(key.replace(".", "_"), 0, str(photo), 0, photo.stat().st_size, suffix, str(mask))


def _photos(folder: Path) -> list[Path]:
    """Files of a folder and the folders below it that are photos by their names."""
    return [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not is_hidden(path.name)]


Found = tuple[dict[str, dict[str, Pair]], tuple[int, ...] | None]  # split -> key -> pair; new labels


def _camvid(source: Path) -> Found:
    """train/NAME.png and trainannot/NAME.png; labels as they are."""
    splits = {}
    for split in ("train", "val"):
        if (source / split).is_dir():
            masks = source / f"{split}annot"
            splits[split] = {photo.stem: (photo, masks / f"{photo.stem}.png") for photo in _photos(source / split)}
    return splits, None


def _cityscapes(source: Path) -> Found:
    """leftImg8bit/train/CITY/*_leftImg8bit.png and gtFine/train/CITY/*_gtFine_labelTrainIds.png, or labelIds."""
    labelled = any(source.glob("gtFine/*/*/*_gtFine_labelTrainIds.png"))
    ending = "labelTrainIds" if labelled else "labelIds"
    splits: dict[str, dict[str, Pair]] = {}
    for split in ("train", "val"):
        for photo in _photos(source / "leftImg8bit" / split):
            key = photo.stem.removesuffix("_leftImg8bit")
            mask = source / "gtFine" / split / photo.parent.name / f"{key}_gtFine_{ending}.png"
            splits.setdefault(split, {})[key] = (photo, mask)
    trained = [VOID] * 256
    for label, identity in enumerate(CITYSCAPES_TRAINED):
        trained[identity] = label
    return splits, None if labelled else tuple(trained)


def _ade20k(source: Path) -> Found:
    """images/training/NAME.jpg and annotations/training/NAME.png, whose 0 is of no class: labels become one less."""
    splits = {}
    for split, folder in (("train", "training"), ("val", "validation")):
        masks = source / "annotations" / folder
        pairs = {photo.stem: (photo, masks / f"{photo.stem}.png") for photo in _photos(source / "images" / folder)}
        splits[split] = pairs
    return splits, (VOID, *range(255))


def _voc(source: Path) -> Found:
    """JPEGImages/NAME.jpg and SegmentationClass/NAME.png, by the lists of ImageSets/Segmentation."""
    splits = {}
    for split in ("train", "val"):
        listed = source / "ImageSets" / "Segmentation" / f"{split}.txt"
        names = listed.read_text().split() if listed.is_file() else []
        pairs = {
            name: (source / "JPEGImages" / f"{name}.jpg", source / "SegmentationClass" / f"{name}.png")
            for name in names
        }
        if lost := next((photo for photo, _ in pairs.values() if not photo.is_file()), None):
            raise DataError(f"{listed}: names {lost}, which is not there")
        splits[split] = pairs
    return splits, None


LAYOUTS: dict[str, tuple[tuple[str, ...], Callable[[Path], Found]]] = {
    "cityscapes": (("leftImg8bit", "gtFine"), _cityscapes),
    "ade20k": (("images", "annotations"), _ade20k),
    "voc": (("JPEGImages", "SegmentationClass"), _voc),
    "camvid": (("train", "trainannot"), _camvid),
}


def encoded_mask(path: str, relabel: Sequence[int] | None) -> bytes:
    """The mask in `path`, as it is or with new labels by the old ones, as an 8-bit PNG. Raises DataError."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        labels = mask_labels(data, MAX_PIXELS)
        if relabel is None:
            return data
        if labels.max(initial=0) >= len(relabel):
            raise BrokenImage(f"the mask has label {int(labels.max())}, expected at most {len(relabel) - 1}")
    except (OSError, BrokenImage) as error:
        raise DataError(f"{os.fspath(path)}: cannot be read as a mask ({error})") from error
    buffer = io.BytesIO()
    Image.fromarray(np.array(relabel, dtype=np.uint8)[labels]).save(buffer, format="PNG")
    return buffer.getvalue()
