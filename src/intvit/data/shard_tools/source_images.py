"""Find labelled images: in class folders, or in the tars that ILSVRC 2012 is handed out in. Nothing is decoded."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from intvit.data.config import DataError
from intvit.data.index import SPLITS

SUFFIXES = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png"}
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
VAL_LABELS = ("LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt", "val.txt")  # as they are found


@dataclass(frozen=True, slots=True)  # ImageNet has a million
class SourceImage:
    """One encoded image: `size` bytes of the file `path` from `offset`. `key` names it, `suffix` is jpg or png."""

    key: str
    label: int
    path: str
    offset: int
    size: int
    suffix: str


@dataclass(frozen=True)
class SourceImages:
    """Names of the classes, and the images of every split in the order of their keys."""

    kind: str
    classes: tuple[str, ...]
    splits: dict[str, list[SourceImage]]


def find_images(source: Path, split: str | None = None, val_labels: Path | None = None) -> SourceImages:
    """All images of `source`.

    Either ILSVRC 2012's tars lie in it, or folders `train` and `val` of class folders, or class folders themselves,
    which are then the split `split`. Raises DataError where it is none of these.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    tars = (source / TRAIN_TAR).exists() or (source / VAL_TAR).exists()
    folders = {name: source / name for name in SPLITS if (source / name).is_dir()}
    if split is not None and (tars or folders):
        raise DataError(f"{source}: holds its splits itself; leave out --split {split}")
    if val_labels is not None and not tars:
        raise DataError(f"--val-labels {val_labels}: for {VAL_TAR} alone, which {source} does not hold")
    if tars:
        return _ilsvrc(source, val_labels)
    if not folders:
        if split is None:
            raise DataError(
                f"{source}: holds neither {TRAIN_TAR} nor train/ and val/; if its folders are the classes, say "
                "--split train or --split val"
            )
        folders = {split: source}
    return _image_folders(folders)


def _image_folders(folders: dict[str, Path]) -> SourceImages:
    names = {
        split: sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) for split, folder in folders.items()
    }
    classes = names.get("train") or next(iter(names.values()))
    for split, folder_names in names.items():
        if not folder_names:
            raise DataError(f"{folders[split]}: holds no class folders")
        if unknown := sorted(set(folder_names) - set(classes)):
            raise DataError(f"{folders[split] / unknown[0]}: train has no such class")
    splits = {}
    for split, folder in folders.items():
        images = [
            image
            for label, name in enumerate(classes)
            if name in names[split]
            for image in _folder(folder / name, label)
        ]
        if not images:
            raise DataError(f"{folder}: its class folders hold no .jpg, .jpeg or .png")
        splits[split] = _distinct(images, folder)
    return SourceImages("folders", tuple(classes), splits)


def _folder(folder: Path, label: int) -> Iterator[SourceImage]:
    """Images anywhere below a class folder, by name."""
    for base, below, files in os.walk(folder):
        below.sort()
        for name in sorted(files):
            suffix = SUFFIXES.get(os.path.splitext(name)[1].lower())
            if suffix is not None:
                path = os.path.join(base, name)
                key = _key(os.path.relpath(path, folder.parent))
                yield SourceImage(key, label, path, 0, os.stat(path).st_size, suffix)


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


def _ilsvrc(source: Path, val_labels: Path | None) -> SourceImages:
    splits: dict[str, list[SourceImage]] = {}
    classes: Sequence[str] = ()
    if (source / TRAIN_TAR).exists():
        with open(source / TRAIN_TAR, "rb") as file:
            inner = sorted(_members(file, source / TRAIN_TAR), key=lambda member: member.name)
            classes = [os.path.splitext(os.path.basename(member.name))[0] for member in inner]
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
            yield from (member for member in archive if member.isreg())
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
