"""A split of a tree of photos in class folders, read file by file where it lies: positions as of shards, no index.

Listing the folders of ImageNet takes seconds, and nothing of it is kept on disk, so that it cannot be out of date.
"""

from __future__ import annotations

import hashlib
import logging
import os
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from intvit.data.config import DataConfig, DataError
from intvit.data.imagenet import imagenet_labels
from intvit.data.source import ShardSource, is_remote, shard_source
from intvit.data.tars import BadSample
from intvit.photo_folders import SHOWN, WANTED, LeftOut, class_folders, photos, tree_classes, tree_folders

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhotoTree:
    """All photos of a split, class after class. Position i is photo i.

    `paths`: relative to the source's root, as bytes with zeros between them, since worker processes would copy a list
    of a million texts; `counts` int64 (classes,): photos of each class folder; `labels` int64 (photos,); `classes`:
    names by folder. No photo is bad before it is read.
    """

    source: ShardSource
    paths: bytes
    counts: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    bad: tuple[BadSample, ...] = ()
    shuffled: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.append(-1, np.flatnonzero(np.frombuffer(self.paths, np.uint8) == 0))

    def path(self, position: int) -> str:
        """Relative to the root."""
        return os.fsdecode(self.paths[self._ends[position] + 1 : self._ends[position + 1]])

    def read(self, position: int) -> bytes:
        """The encoded image at `position`. Raises OSError."""
        return self.source.fetch(self.path(position))

    def bad_sample(self, position: int, reason: str) -> BadSample:
        """The photo at `position` by its path."""
        return BadSample(self.source.where(self.path(position)), "", reason)

    def fingerprint(self) -> str:
        """Equal for equal paths and labels: what a position means."""
        return hashlib.sha256(self.paths + self.labels.tobytes()).hexdigest()[:16]


@dataclass
class _Listed:
    """Paths of the photos of every class, relative to the root; the folders that were looked into, with their times."""

    paths: list[list[str]] = field(default_factory=list)
    stamps: dict[str, int] = field(default_factory=dict)


_known: dict[tuple[str, str, bool], _Listed] = {}  # loaders share a listing while no folder changes


def open_tree(config: DataConfig, split: str) -> PhotoTree:
    """The split `split` (`train` or `val`) of the tree `config.root`.

    With config.split its root holds the classes, and a photo is for training where a hash of its path is below that
    share: it stays there whatever joins it. Raises IntVitError for a root that is no such tree, for classes of `val`
    that `train` has not, and where they are not as many as data.num_classes.
    """
    if config.root is None:
        raise DataError(f"data.root is not set; {WANTED}")
    if is_remote(config.root):
        raise DataError(f"data.root={config.root}: a tree of photos must be a folder; shards are read from there")
    root = Path(config.root).expanduser()
    classes = tuple(one.name for one in tree_classes(root, splits=config.split is None))
    labels = _labels(config, classes, root)
    paths = _list(root, split, classes, splits=config.split is None).paths
    if config.split is not None:
        paths = [[path for path in one if (_place(path) < config.split) == (split == "train")] for one in paths]
    counts = np.array([len(one) for one in paths], dtype=np.int64)
    if not counts.any():
        way = WANTED if config.split is None else f"data.split={config.split:g} leaves none: say another share"
        raise DataError(f"data.root={root}: its class folders hold no photos for {split}; {way}")
    joined = b"".join(os.fsencode(path) + b"\0" for one in paths for path in one)
    return PhotoTree(shard_source(config, root), joined, counts, np.repeat(labels, counts), classes)


def tree_class_names(config: DataConfig) -> list[str]:
    """Names of the classes in the order of their folders, which are also their labels. Raises IntVitError."""
    root = Path(str(config.root)).expanduser()
    classes = [one.name for one in tree_classes(root, splits=config.split is None)]
    _labels(config, tuple(classes), root)
    return classes


def _labels(config: DataConfig, classes: tuple[str, ...], root: Path) -> np.ndarray:
    if config.class_names == "imagenet":
        return imagenet_labels(classes, str(root))
    if len(classes) != config.num_classes:
        raise DataError(
            f"data.root={root}: has {len(classes)} class folders, data.num_classes={config.num_classes}; give every "
            "class a folder, be it empty, or leave out data.num_classes"
        )
    return np.arange(len(classes))


def _list(root: Path, split: str, classes: tuple[str, ...], *, splits: bool) -> _Listed:
    key = (str(root), split if splits else "", splits)
    known = _known.get(key)
    if known is not None and all(_stamp(folder) == stamp for folder, stamp in known.stamps.items()):
        return known
    folders = tree_folders(root, splits=splits)
    if splits and split not in folders:
        other = next(iter(folders.values()))
        raise DataError(
            f"data.root={root}: has {other.name}/ but no {split}/; add it there, or say data.root={other} "
            "data.split=0.9, the share to train on"
        )
    folder = folders[split] if splits else root
    left_out, listed = LeftOut(), _Listed(stamps={str(root): _stamp(root), str(folder): _stamp(folder)})
    there = {one.name: one.path for one in class_folders(folder, left_out)}
    if strange := sorted(there.keys() - set(classes)):
        raise DataError(f"{there[strange[0]]}: train has no such class; move it away, or give train such a folder")
    for name in classes:
        found = sorted(photos(there[name], left_out, listed.stamps)) if name in there else []
        listed.paths.append([os.path.relpath(there[name], root) + os.sep + path for path in found])
    _say(folder, classes, listed, left_out)
    _known[key] = listed
    return listed


def _say(folder: Path, classes: tuple[str, ...], listed: _Listed, left_out: LeftOut) -> None:
    """What somebody may not expect, in the log."""
    if left_out.counts:
        log.warning("%s: left out %s", folder, left_out)
    empty = [name for name, paths in zip(classes, listed.paths, strict=True) if not paths]
    if empty:
        some = ", ".join(empty[:SHOWN]) + (", ..." if len(empty) > SHOWN else "")
        log.warning("%s: %d of %d classes have no photos: %s", folder, len(empty), len(classes), some)
    if all(name.isdecimal() for name in classes) and sorted(classes, key=int) != list(classes):
        some = ", ".join(classes[:SHOWN])
        log.warning("%s: folders are numbers, labels their order as texts: %s, ... are 0, 1, 2", folder, some)


def _stamp(folder: str | Path) -> int:
    """Time of the last change of a folder's entries; -1 where it has gone."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1


def _place(path: str) -> float:
    """A number in 0..1 that depends on the path alone, written alike on every system."""
    text = unicodedata.normalize("NFC", path).replace(os.sep, "/")
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:8]) / 2**64
