"""Names of the classes, for an exported program and for people, and the comparison of two lists of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from contextlib import suppress

from intvit.data.config import DataConfig, DataError
from intvit.data.imagenet import imagenet_words
from intvit.data.index import INDEX, read_index
from intvit.data.shards import open_split
from intvit.data.source import shard_source
from intvit.data.tree import tree_class_names


def class_names(config: DataConfig) -> list[str]:
    """`config.num_classes` names: "0".."9" for digits, WordNet's words for ImageNet, those of the data, or indices.

    ImageNet's words come with timm; without timm they are class indices too. Raises DataError where the data names
    none, or another number of classes.
    """
    if isinstance(config.class_names, list):
        return list(config.class_names)
    if config.class_names == "folders":
        return tree_class_names(config)
    if config.class_names == "imagenet":
        with suppress(ImportError):
            return list(imagenet_words())
    if config.class_names != "index":
        return _indices(config.num_classes)
    names, where = _index_names(config), shard_source(config, str(config.root)).where(INDEX)
    if not names:
        raise DataError(f"{where}: cannot be read, or names no classes; data.class_names=indices needs none")
    if len(names) != config.num_classes:
        raise DataError(f"{where}: names {len(names)} classes, data.num_classes={config.num_classes}")
    return list(names)


def _index_names(config: DataConfig) -> tuple[str, ...]:
    """Of index.json, or of shards without one whose labels are names; none where neither has them."""
    source = shard_source(config, str(config.root))
    try:
        return read_index(source.fetch(INDEX), source.where(INDEX)).classes
    except OSError:
        if source.remote:
            return ()
    for split in ("train", "val"):
        with suppress(DataError):
            return open_split(config, split).classes
    return ()


def _indices(count: int) -> list[str]:
    return [str(index) for index in range(count)]


def compare_classes(data: DataConfig, expected: Sequence[str], whose: str) -> None:
    """As `compare_names`, with the names of the data's classes, if it has any."""
    if data.class_names == "index" and not _index_names(data):
        return
    compare_names(class_names(data), f"data={data.name} data.root={data.root}", expected, whose)


def compare_names(names: Sequence[str], where: str, expected: Sequence[str], whose: str, way: str = "") -> None:
    """Raise DataError where the names of classes in `where` are not `expected`, in this order, which are `whose`.

    Where one side has only numbers, or no names, there is nothing to compare. way: another way out, "..., ".
    """
    names, expected = ([unicodedata.normalize("NFC", name) for name in both] for both in (names, expected))
    if not expected or names == expected or _indices(len(names)) == names or _indices(len(expected)) == expected:
        return
    if len(names) != len(expected):
        raise DataError(
            f"{where}: {len(names)} classes, {whose} has {len(expected)}; {way}choose the data it was trained for"
        )
    label = next(label for label, pair in enumerate(zip(names, expected, strict=True)) if pair[0] != pair[1])
    raise DataError(
        f"{where}: class {label} is {names[label]!r}, {whose} has {expected[label]!r} there; {way}give data of "
        "the same classes in the same order, or, where only the names differ, say data.class_names=indices"
    )
