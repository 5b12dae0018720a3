"""ImageNet-1k's classes in the order of its labels, from timm: WordNet ids, which are sorted, and words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np

from intvit.data.config import DataError

_ID = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?!\d)")  # of WordNet, in the name of a folder or file


def imagenet_ids() -> tuple[str, ...]:
    """n01440764, n01443537, ...: 1,000 WordNet ids. Raises ImportError without timm."""
    return tuple(_info().label_names())


@cache
def _numbers() -> dict[str, int]:
    """Label by WordNet id; none without timm."""
    try:
        return {name: label for label, name in enumerate(imagenet_ids())}
    except ImportError:
        return {}


def not_imagenets(name: str, label: int) -> str | None:
    """Why `label` is not ImageNet's for a folder or file with the WordNet id of a class in its name; None where it is.

    >>> not_imagenets("train/n02102040", 0).partition(";")[0]
    "label 0 is not that of n02102040 in ImageNet, which is 217"
    """
    found = _ID.findall(name)
    wanted = {wnid: _numbers()[wnid] for wnid in found if wnid in _numbers()}
    if not wanted or label in wanted.values():
        return None
    wnid, number = next(iter(wanted.items()))
    return (
        f"label {label} is not that of {wnid} in ImageNet, which is {number}; shards whose folders are called by "
        "WordNet ids need no .cls; numbers of your own are data.class_names=indices data.num_classes=N"
    )


def imagenet_words() -> tuple[str, ...]:
    """ "tench, Tinca tinca", ...; 1,000. Raises ImportError without timm."""
    return tuple(_info().label_descriptions())


def _info():  # type: ignore[no-untyped-def]  # timm has no types
    from intvit.torchvision_fix import ensure_torchvision

    ensure_torchvision()
    from timm.data.imagenet_info import ImageNetInfo

    return ImageNetInfo()


def imagenet_labels(names: Sequence[str], where: str) -> np.ndarray:
    """ImageNet's label of every class, int64, by its WordNet id, or of all 1,000 by their words.

    Raises DataError, calling the place of the names `where`, for a class that ImageNet has not.
    """
    try:
        numbers = {name: label for label, name in enumerate(imagenet_ids())}
        if tuple(names) == imagenet_words():
            return np.arange(len(names))
    except ImportError as error:
        raise DataError(f"data.class_names=imagenet: {error}; timm has the order of the classes") from None
    strange = [name for name in names if name not in numbers]
    if strange:
        raise DataError(
            f"{where}: class {strange[0]!r} is no WordNet id of ImageNet, as data.class_names=imagenet wants; "
            f"for classes of your own say data.num_classes={len(names)} data.class_names=index (folders in a tree)"
        )
    return np.array([numbers[name] for name in names], dtype=np.int64)
