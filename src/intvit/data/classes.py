"""Names of the classes, for an exported program and for people."""

from __future__ import annotations

from intvit.data.config import DataConfig, DataError
from intvit.data.index import INDEX, read_index
from intvit.data.source import shard_source


def class_names(config: DataConfig) -> list[str]:
    """`config.num_classes` names: "0".."9" for digits, WordNet's words for ImageNet, those of index.json, or indices.

    ImageNet's words come with timm; without timm they are class indices too. Raises DataError where index.json names
    another number of classes.
    """
    if config.class_names == "index":
        return _index_names(config)
    indices = [str(index) for index in range(config.num_classes)]
    return _imagenet_names() or indices if config.class_names == "imagenet" else indices


def _index_names(config: DataConfig) -> list[str]:
    source = shard_source(config, str(config.root))
    where = source.where(INDEX)
    try:
        names = read_index(source.fetch(INDEX), where).classes
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error}); data.class_names=indices needs none") from error
    if len(names) != config.num_classes:
        raise DataError(f"{where}: names {len(names)} classes, data.num_classes={config.num_classes}")
    return list(names)


def _imagenet_names() -> list[str] | None:
    try:
        from intvit.torchvision_fix import ensure_torchvision

        ensure_torchvision()
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return None
    return list(ImageNetInfo().label_descriptions())
