"""Find the webdataset shards of a split and index their samples.

A sample is what webdataset makes of it: neighbouring files of a tar with the same name up to the first dot, here an
image (`.jpg`, `.jpeg` or `.png`) and its label (`.cls`, the class index as text). The index holds where each image lies
and its label, so that `plan` can order samples freely and `reader` reads nothing else. It is built by walking the tar
headers, which takes about 0.05 ms a sample; whatever is wrong with a shard's structure or labels shows here, early.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from webdataset.tariterators import group_by_keys

from intvit.data.config import DataConfig, DataError
from intvit.data.digits import digits_root

SPLITS = ("train", "val")
IMAGE_SUFFIXES = ("jpg", "jpeg", "png")
LABEL_SUFFIX = "cls"


@dataclass(frozen=True)
class ShardIndex:
    """All samples of a split, in shard order. Position i is sample i of the concatenated shards.

    `counts` int64 (shards,): samples of each shard; `offsets` and `sizes` int64 (samples,): bytes of the image inside
    its shard; `labels` int64 (samples,).
    """

    paths: tuple[Path, ...]
    counts: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets)

    def locate(self, position: int) -> tuple[Path, int]:
        """Shard of the sample at `position` and the sample's number inside it."""
        ends = np.cumsum(self.counts)
        shard = int(np.searchsorted(ends, position, side="right"))
        return self.paths[shard], position - int(ends[shard] - self.counts[shard])

    def describe(self, position: int) -> str:
        """`shard, sample 'key'` for messages; reads the shard's headers again."""
        path, number = self.locate(position)
        keys = (sample["__key__"] for sample in _samples(path))
        key = next((key for count, key in enumerate(keys) if count == number), "no longer there")
        return f"{path}, sample '{key}'"


def open_split(config: DataConfig, split: str) -> ShardIndex:
    """Index of `split` (`train` or `val`).

    Raises DataError for a missing root, missing or broken shards, samples without image or label, and labels outside
    0..num_classes-1.
    """
    paths = find_shards(data_root(config), split)
    stamps = tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    return _index(stamps, config.num_classes)


def data_root(config: DataConfig) -> str | Path | None:
    """Folder of the shards: `root`, or for `digits` the cache folder, where they are written if need be."""
    return digits_root() if config.root is None and config.name == "digits" else config.root


def find_shards(root: str | Path | None, split: str) -> list[Path]:
    """Sorted `split`-*.tar files in the folder `root`, at least one; else DataError."""
    wanted = "a folder of webdataset shards train-*.tar and val-*.tar"
    if root is None:
        raise DataError(f"data.root is not set: say data.root=DIR, {wanted}")
    if not Path(root).is_dir():
        raise DataError(f"data.root={root}: no such folder; say data.root=DIR, {wanted}")
    found = {name: sorted(Path(root).glob(f"{name}-*.tar")) for name in SPLITS}
    if not any(found.values()):
        raise DataError(f"data.root={root}: holds no train-*.tar and no val-*.tar; say data.root=DIR, {wanted}")
    if not found[split]:
        other = SPLITS[1 - SPLITS.index(split)]
        use = "training and calibration need" if split == "train" else "validation needs"
        raise DataError(f"data.root={root}: has {other}-*.tar but no {split}-*.tar, which {use}; add them there")
    return found[split]


@lru_cache(maxsize=4)  # training and calibration share one index; a changed shard has a new stamp
def _index(stamps: tuple[tuple[Path, int, int], ...], num_classes: int) -> ShardIndex:
    paths = tuple(path for path, _, _ in stamps)
    parts = [_scan(path, num_classes) for path in paths]
    index = ShardIndex(
        paths,
        np.array([part.shape[1] for part in parts], dtype=np.int64),
        *np.concatenate(parts, axis=1),
    )
    if not len(index):
        raise DataError(f"{paths[0].parent}: its {len(paths)} {paths[0].name.split('-')[0]}-*.tar hold no samples")
    return index


def _scan(path: Path, num_classes: int) -> np.ndarray:
    """offsets, sizes, labels of one shard: int64 (3, samples)."""
    rows = []
    with open(path, "rb") as file:
        for sample in _samples(path):
            where = f"{path}, sample '{sample['__key__']}'"
            image = next((sample[suffix] for suffix in IMAGE_SUFFIXES if suffix in sample), None)
            label = sample.get(LABEL_SUFFIX)
            if image is None or label is None:
                missing = "no label (.cls)" if label is None else "no image (.jpg, .jpeg or .png)"
                files = ", ".join(f".{suffix}" for suffix in sample if not suffix.startswith("__"))
                raise DataError(f"{where}: has {missing}, only {files}; both must stand side by side in the tar")
            file.seek(label.offset_data)
            rows.append((image.offset_data, image.size, _label(file.read(label.size), num_classes, where)))
    return np.array(rows, dtype=np.int64).reshape(-1, 3).T


def _label(text: bytes, num_classes: int, where: str) -> int:
    try:
        label = int(text)
    except ValueError:
        raise DataError(f"{where}: label {text[:40]!r} is not a number; .cls must hold the class index") from None
    if not 0 <= label < num_classes:
        raise DataError(f"{where}: label {label} is outside 0..{num_classes - 1}; mend it or set data.num_classes")
    return label


def _samples(path: Path) -> Iterator[dict]:
    """webdataset's samples of one shard with tar headers in place of contents: {"__key__": str, suffix: TarInfo}."""
    try:
        with tarfile.open(path, "r:") as archive:
            files = ({"fname": info.name, "data": info, "__url__": str(path)} for info in archive if info.isreg())
            yield from group_by_keys(files)
            # A tar ends with a block of zeros. Cut off between two files, or with a damaged header, it would otherwise
            # pass for a shorter one: tarfile and webdataset stop there without a word.
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"neither a file nor the end mark at byte {archive.offset}")
    except (tarfile.TarError, OSError, ValueError) as error:
        raise DataError(f"{path}: broken shard ({error.args[0] if error.args else error}); write it again") from error
