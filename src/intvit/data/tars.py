"""Samples of one webdataset tar, by walking its headers: where each image lies and which label stands beside it.

A sample is what webdataset makes of it: neighbouring files with the same name up to the first dot, here an image
(`.jpg`, `.jpeg` or `.png`) and its label (`.cls`, the class index as text).
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

IMAGE_SUFFIXES = ("jpg", "jpeg", "png")
LABEL_SUFFIX = "cls"


@dataclass(frozen=True)
class BadSample:
    """A sample, or with key "" the rest of a shard, that cannot be used, and why."""

    shard: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}, sample '{self.key}': {self.reason}" if self.key else f"{self.shard}: {self.reason}"


@dataclass
class TarSamples:
    """Good samples of a shard in order, keys beside int64 rows of (offset, size, label), and what is bad in it."""

    keys: list[str] = field(default_factory=list)
    rows: list[tuple[int, int, int]] = field(default_factory=list)
    bad: list[BadSample] = field(default_factory=list)

    def table(self) -> np.ndarray:
        """int64 (3, samples): offsets, sizes and labels."""
        return np.array(self.rows, dtype=np.int64).reshape(-1, 3).T


def scan(path: Path, where: str, num_classes: int | None) -> TarSamples:
    """All samples of the shard at `path`, called `where` in messages; labels below `num_classes` where it is given."""
    samples = TarSamples()
    try:
        with open(path, "rb") as file:
            for sample in walk(path):
                key = sample["__key__"]
                image = next((sample[suffix] for suffix in IMAGE_SUFFIXES if suffix in sample), None)
                label = sample.get(LABEL_SUFFIX)
                if image is None or label is None:
                    missing = "no label (.cls)" if label is None else "no image (.jpg, .jpeg or .png)"
                    files = ", ".join(f".{suffix}" for suffix in sample if not suffix.startswith("__"))
                    reason = f"has {missing}, only {files}; both must stand side by side in the tar"
                    samples.bad.append(BadSample(where, key, reason))
                    continue
                file.seek(label.offset_data)
                value = _label(file.read(label.size), num_classes)
                if isinstance(value, str):
                    samples.bad.append(BadSample(where, key, value))
                else:
                    samples.keys.append(key)
                    samples.rows.append((image.offset_data, image.size, value))
    except (tarfile.TarError, OSError, ValueError) as error:
        reason = f"broken shard ({error.args[0] if error.args else error}); write it again"
        samples.bad.append(BadSample(where, "", reason))
    return samples


def key_of(path: Path, offset: int) -> str:
    """Key of the sample whose image begins at byte `offset`, for messages. Raises OSError."""
    with suppress(tarfile.TarError, ValueError):  # cut off before it
        for sample in walk(path):
            if any(sample[suffix].offset_data == offset for suffix in IMAGE_SUFFIXES if suffix in sample):
                return str(sample["__key__"])
    return f"at byte {offset}"


def walk(path: Path) -> Iterator[dict[str, Any]]:
    """webdataset's samples of one shard with tar headers in place of contents: {"__key__": str, suffix: TarInfo}.

    Raises tarfile.TarError, OSError or ValueError where the tar does not end as a tar does.
    """
    from webdataset.tariterators import group_by_keys

    with tarfile.open(path, "r:") as archive:
        files = ({"fname": info.name, "data": info, "__url__": str(path)} for info in archive if info.isreg())
        yield from group_by_keys(files)
        # A tar ends with a block of zeros. Cut off between two files, or with a damaged header, it would otherwise
        # pass for a shorter one: tarfile and webdataset stop there without a word.
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"neither a file nor the end mark at byte {archive.offset}")


def _label(text: bytes, num_classes: int | None) -> int | str:
    """The label, or what is wrong with it."""
    try:
        label = int(text)
    except ValueError:
        return f"label {text[:40]!r} is not a number; .cls must hold the class index"
    if label < 0 or (num_classes is not None and label >= num_classes):
        limit = "" if num_classes is None else str(num_classes - 1)
        return f"label {label} is outside 0..{limit}; mend it or set data.num_classes"
    return label
