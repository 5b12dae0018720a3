"""Find labelled images: in class folders, or in the tars that ILSVRC 2012 is handed out in. Nothing is decoded.

Which folders are classes and which files are photos is `intvit.photo_folders`'s.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from intvit.data.config import DataError
from intvit.photo_folders import (
    ENDINGS,
    SHOWN,
    ClassFolder,
    LeftOut,
    class_folders,
    holds_splits,
    is_hidden,
    photos,
    split_folders,
)

SUFFIXES = {ending: ending[1:] for ending in ENDINGS} | dict.fromkeys((".jpeg", ".jpe", ".jfif"), "jpg")
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
VAL_LABELS = ("LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt", "val.txt")  # as they are found


@dataclass(frozen=True, slots=True)  # ImageNet has a million
class SourceImage:
    """One encoded image: `size` bytes of the file `path` from `offset`. `key` names it, `suffix` is jpg or the like.

    mask: the file of its mask, where that is the label; see `source_masks`.
    """

    key: str
    label: int
    path: str
    offset: int
    size: int
    suffix: str
    mask: str | None = None


@dataclass(frozen=True)
class SourceImages:
    """Names of the classes, the images of every split in the order of their keys, and what a user may not expect.

    relabel: of masks, 256 new labels; None where they are copied as they are.
    """

    kind: str
    classes: tuple[str, ...]
    splits: dict[str, list[SourceImage]]
    notes: tuple[str, ...] = ()
    relabel: tuple[int, ...] | None = None


def find_images(
    source: Path, split: str | None = None, val_labels: Path | None = None, classes: Sequence[str] = ()
) -> SourceImages:
    """All images of `source`.

    Either ILSVRC 2012's tars lie in it, or folders `train` and `val` of class folders, or class folders themselves,
    which are then the split `split`. classes: of shards that these are to join, whose labels they take. Raises
    IntVitError where it is none of these, or has other classes.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    tars = (source / TRAIN_TAR).exists() or (source / VAL_TAR).exists()
    folders = split_folders(source)
    if split is not None and not holds_splits(source, folders):
        folders = {}  # one of the classes may be called train or test
    if split is not None and (tars or folders):
        raise DataError(f"{source}: holds its splits itself; leave out --split {split}")
    if val_labels is not None and not tars:
        raise DataError(f"--val-labels {val_labels}: for {VAL_TAR} alone, which {source} does not hold")
    if tars:
        return _ilsvrc(source, val_labels, classes)
    if not folders:
        if split is None:
            raise DataError(
                f"{source}: holds neither {TRAIN_TAR} nor train/ and val/; if its folders are the classes, say "
                "--split train or --split val"
            )
        folders = {split: source}
    return _image_folders(folders, classes)


def _image_folders(folders: dict[str, Path], classes: Sequence[str]) -> SourceImages:
    left_out = LeftOut()
    found = {split: class_folders(folder, left_out) for split, folder in folders.items()}
    own = [one.name for one in found.get("train") or next(iter(found.values()))]
    if classes and "train" in folders and (missing := sorted(set(classes) - set(own))):
        raise DataError(
            f"{folders['train']}: lacks class {missing[0]}, which the shards there have; give another folder"
        )
    known = "the shards there have" if classes else "train has"
    classes = classes or own
    splits, notes = {}, []
    for split, folder in folders.items():
        if not found[split]:
            raise DataError(f"{folder}: holds no class folders")
        if strange := [one.path for one in found[split] if one.name not in classes]:
            raise DataError(f"{strange[0]}: {known} no such class; move it away, or give train such a folder")
        images = [image for one in found[split] for image in _folder(one, classes, folder, left_out)]
        if not images:
            raise DataError(f"{folder}: its class folders hold no .jpg, .jpeg or .png")
        splits[split] = _distinct(images, folder)
        empty = sorted(set(classes) - {classes[image.label] for image in images})
        if empty:
            some = ", ".join(empty[:SHOWN]) + (", ..." if len(empty) > SHOWN else "")
            notes.append(f"{folder}: {len(empty)} of {len(classes)} classes have no photos: {some}")
    if left_out.counts:
        notes.append(f"left out {left_out}")
    return SourceImages("folders", tuple(classes), splits, tuple(notes))


def _folder(one: ClassFolder, classes: Sequence[str], split: Path, left_out: LeftOut) -> Iterator[SourceImage]:
    """Images anywhere below a class folder, by name."""
    for name in sorted(photos(one.path, left_out)):
        path = os.path.join(one.path, name)
        suffix = SUFFIXES[os.path.splitext(name)[1].lower()]
        key = _key(os.path.relpath(path, split))
        yield SourceImage(key, classes.index(one.name), path, 0, os.stat(path).st_size, suffix)


def _key(path: str) -> str:
    """webdataset ends a key at the first dot of the file's name."""
    return os.path.splitext(path)[0].replace(".", "_")


def _distinct(images: list[SourceImage], where: Path) -> list[SourceImage]:
    seen: set[str] = set()
    for image in images:
        if image.key in seen:
            raise DataError(f"{where}: two images are called {image.key}, up to their endings; rename one")
        seen.add(image.key)
    return images


def _ilsvrc(source: Path, val_labels: Path | None, joined: Sequence[str]) -> SourceImages:
    splits: dict[str, list[SourceImage]] = {}
    classes = joined
    if (source / TRAIN_TAR).exists():
        with open(source / TRAIN_TAR, "rb") as file:
            inner = sorted(_members(file, source / TRAIN_TAR), key=lambda member: member.name)
            classes = [os.path.splitext(os.path.basename(member.name))[0] for member in inner]
            if joined and classes != list(joined):
                raise DataError(f"{source / TRAIN_TAR}: has other classes than the shards that it is to join")
            images = []
            for label, member in enumerate(inner):

                def label_of_all(_: str, label: int = label) -> int:
                    return label

                file.seek(member.offset_data)  # tarfile begins where the file stands, and counts from its start
                images += _tar_images(file, source / TRAIN_TAR, label_of_all)
        splits["train"] = _distinct(images, source / TRAIN_TAR)
    if (source / VAL_TAR).exists():
        by_name = _val_classes(source, val_labels)
        classes = classes or sorted(set(by_name.values()))
        numbers = {name: label for label, name in enumerate(classes)}

        def label_of(key: str) -> int:
            name = by_name.get(key)
            if name not in numbers:
                raise DataError(f"{source / VAL_TAR}, {key}: the label file has {name or 'no class'} for it")
            return numbers[name]

        with open(source / VAL_TAR, "rb") as file:
            splits["val"] = sorted(_tar_images(file, source / VAL_TAR, label_of), key=lambda image: image.key)
    return SourceImages("ilsvrc2012", tuple(classes), splits)


def _members(file: BinaryIO, path: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            yield from (m for m in archive if m.isreg() and not is_hidden(os.path.basename(m.name)))
    except tarfile.TarError as error:
        raise DataError(f"{path}: broken tar ({error}); fetch it again") from error


def _tar_images(file: BinaryIO, path: Path, label_of: Callable[[str], int]) -> list[SourceImage]:
    images = []
    for member in _members(file, path):
        key, ending = os.path.splitext(os.path.basename(member.name))
        if (suffix := SUFFIXES.get(ending.lower())) is not None:
            images.append(SourceImage(key, label_of(key), str(path), member.offset_data, member.size, suffix))
    return images


def _val_classes(source: Path, labels: Path | None) -> dict[str, str]:
    """Key of every validation image -> WordNet id of its class."""
    path = labels or next((source / name for name in VAL_LABELS if (source / name).exists()), None)
    if path is None:
        raise DataError(
            f"{source / VAL_TAR}: has no labels in it; say --val-labels FILE with a WordNet id for each image, such as "
            f"{VAL_LABELS[0]} or {VAL_LABELS[1]}"
        )
    lines = [line.split() for line in path.read_text().replace(",", " ").splitlines() if line.strip()]
    lines = [words for words in lines if words[0] != "ImageId"]
    wnid = re.compile(r"n\d{8}")
    if all(len(words) >= 2 and wnid.fullmatch(words[1]) for words in lines):
        return {os.path.splitext(words[0])[0]: words[1] for words in lines}
    if all(len(words) == 1 and wnid.fullmatch(words[0]) for words in lines):
        return {f"ILSVRC2012_val_{number:08d}": words[0] for number, words in enumerate(lines, 1)}
    raise DataError(
        f"{path}: expected a WordNet id (n01440764) for each image, alone on its line or behind the image's name; "
        "numbers are not taken, as two orders of the classes are in use"
    )
