"""Samples of one webdataset tar, by walking its headers: where each image lies and which label stands beside it.

A sample is what webdataset makes of it: neighbouring files with the same name up to the first dot, here an image
(`.jpg`, `.png`, `.webp`, ...) and its label (`labels` says where). What systems leave in a tar (`._x.jpg` of macOS)
is passed over.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from intvit.data.imagenet import not_imagenets
from intvit.data.labels import SIDE_BY_SIDE, find_label, outside
from intvit.photo_folders import ENDINGS, is_hidden_path

IMAGE_SUFFIXES = tuple(ending[1:] for ending in ENDINGS)
LABEL_SUFFIXES = ("cls", "txt", "json")
MASK_SUFFIX = "seg.png"


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
    """Good samples of a shard in order, keys beside int64 rows of (offset, size, label), and what is bad in it.

    masks: offset and size of each one's, where these are the labels; the label in a row is then 0.

    where: the shard for messages; names: number of a row -> name of its class, whose label is -1 until all names are
    known.
    """

    where: str
    keys: list[str] = field(default_factory=list)
    rows: list[tuple[int, int, int]] = field(default_factory=list)
    masks: list[tuple[int, int]] | None = None
    names: dict[int, str] = field(default_factory=dict)
    bad: list[BadSample] = field(default_factory=list)

    @property
    def named(self) -> bool:
        """Whether every label is a name."""
        return len(self.names) == len(self.rows)

    def table(self) -> np.ndarray:
        """int64 (3, samples): offsets, sizes and labels; with masks (5, samples): their offsets and sizes, too."""
        table = np.array(self.rows, dtype=np.int64).reshape(-1, 3)
        if self.masks is not None:
            table = np.concatenate((table, np.array(self.masks, dtype=np.int64).reshape(-1, 2)), axis=1)
        return table.T


def take_out_names(shards: Sequence[TarSamples]) -> list[BadSample]:
    """The samples with names of classes, out of shards where others have numbers, as bad ones.

    One that has lost its label would otherwise take the name of its folder.
    """
    bad = []
    for samples in shards:
        for row in sorted(samples.names, reverse=True):
            name = samples.names.pop(row)
            reason = f"has no number for its label, as others have, but the class {name!r}; mend its label"
            bad.append(BadSample(samples.where, samples.keys.pop(row), reason))
            del samples.rows[row]
    return bad


def take_out_others(shards: Sequence[TarSamples]) -> list[BadSample]:
    """The samples whose number is not ImageNet's label of the WordNet id that their folder is called by, as bad ones.

    Such numbers are those of some of its classes, counted anew. No label may be a name.
    """
    bad = []
    for samples in shards:
        for row in reversed(range(len(samples.rows))):
            reason = not_imagenets(samples.keys[row].rpartition("/")[0], samples.rows[row][2])
            if reason is not None:
                bad.append(BadSample(samples.where, samples.keys.pop(row), reason))
                del samples.rows[row]
    return bad


def number_names(shards: Sequence[TarSamples], labels: Mapping[str, int]) -> None:
    """Puts the labels of the named classes into the rows."""
    for samples in shards:
        for row, name in samples.names.items():
            offset, size, _ = samples.rows[row]
            samples.rows[row] = offset, size, labels[name]


def scan(
    path: Path, where: str, num_classes: int | None, label_field: str | None = None, *, masks: bool = False
) -> TarSamples:
    """All samples of the shard at `path`, called `where` in messages; labels below `num_classes` where it is given.

    label_field: of the samples' .json, which holds the label; see `labels.find_label`. masks: the labels are masks.
    """
    samples = TarSamples(where, masks=[] if masks else None)
    try:
        with open(path, "rb") as file:
            for sample in walk(path):
                key = sample["__key__"]
                image = next((sample[suffix] for suffix in IMAGE_SUFFIXES if suffix in sample), None)
                files = ", ".join(f".{suffix}" for suffix in sample if not suffix.startswith("__"))
                try:
                    texts = _texts(file, sample, LABEL_SUFFIXES if label_field is None else ("json",))
                    label = 0 if masks else find_label(key, texts, files, label_field)
                    if masks and MASK_SUFFIX not in sample:
                        raise ValueError(f"has no mask (.{MASK_SUFFIX}), only {files}; {SIDE_BY_SIDE}")
                    if isinstance(label, int) and (problem := outside(label, num_classes)):
                        raise ValueError(problem)
                    if image is None:
                        raise ValueError(f"has no image (.jpg, .jpeg or .png), only {files}; {SIDE_BY_SIDE}")
                except ValueError as error:
                    samples.bad.append(BadSample(where, key, str(error)))
                    continue
                if isinstance(label, str):
                    samples.names[len(samples.rows)] = label
                    label = -1
                samples.keys.append(key)
                samples.rows.append((image.offset_data, image.size, label))
                if samples.masks is not None:
                    samples.masks.append((sample[MASK_SUFFIX].offset_data, sample[MASK_SUFFIX].size))
    except (tarfile.TarError, OSError, ValueError) as error:
        reason = f"broken shard ({error.args[0] if error.args else error}); write it again"
        samples.bad.append(BadSample(where, "", reason))
    return samples


def _texts(file: BinaryIO, sample: Mapping[str, Any], suffixes: Sequence[str]) -> dict[str, bytes]:
    """Contents of what may hold a label, of the first such file alone."""
    for suffix in suffixes:
        if suffix in sample:
            file.seek(sample[suffix].offset_data)
            return {suffix: file.read(sample[suffix].size)}
    return {}


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
        shown = (info for info in archive if info.isreg() and not is_hidden_path(info.name))
        files = ({"fname": info.name, "data": info, "__url__": str(path)} for info in shown)
        yield from group_by_keys(files)
        # A tar ends with a block of zeros. Cut off between two files, or with a damaged header, it would otherwise
        # pass for a shorter one: tarfile and webdataset stop there without a word.
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"neither a file nor the end mark at byte {archive.offset}")
