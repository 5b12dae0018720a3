"""Names of the classes, for an exported program and for people."""

from __future__ import annotations

from intvit.data.config import DataConfig


def class_names(config: DataConfig) -> list[str]:
    """`config.num_classes` names: "0".."9" for digits, WordNet's words for ImageNet, class indices for other data.

    ImageNet's words come with timm; without timm they are class indices too.
    """
    indices = [str(index) for index in range(config.num_classes)]
    return _imagenet_names() or indices if config.class_names == "imagenet" else indices


def _imagenet_names() -> list[str] | None:
    try:
        from intvit.torchvision_fix import ensure_torchvision

        ensure_torchvision()
        from timm.data import ImageNetInfo
    except ImportError:
        return None
    return list(ImageNetInfo().label_descriptions())
