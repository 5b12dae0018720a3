"""Shards of a folder, verified: reads every byte, decodes every image, names everything that is off."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from intvit.data.config import DataError
from intvit.data.finding import PATTERNS, matching
from intvit.data.index import INDEX, ShardRecord, read_index, read_split
from intvit.data.source import PACKED
from intvit.data.tars import scan
from intvit.photos import BrokenImage, decode, mask_labels
from intvit.progress import byte_progress


@dataclass
class Verified:
    """Good samples of a shard, or of `shards` of them, and what is wrong."""

    shards: int = 1
    samples: int = 0
    problems: list[str] = field(default_factory=list)


def verify(
    folder: Path,
    classes: int | None,
    max_pixels: int,
    workers: int,
    patterns: Sequence[str] = PATTERNS,
    label_field: str | None = None,
    *,
    masks: bool = False,
) -> Verified:
    """Check every shard of a folder; problems in alphabetical order.

    classes: labels are below it; None: as many as the index names. patterns: which files are shards of train and val;
    label_field: of the samples' .json; masks: the labels are masks, where no index says it.
    """
    shards, problems, named = _shards(folder, patterns)
    total = Verified(len(shards), 0, problems)
    classes = classes or named
    sizes = {path: path.stat().st_size for path, _, _ in shards}
    processes = min(workers, len(shards) or 1)
    with byte_progress("verify", sum(sizes.values())) as advance, ProcessPoolExecutor(processes) as pool:
        running = {
            pool.submit(verify_shard, *shard, classes, max_pixels, label_field, masks): shard[0] for shard in shards
        }
        for done in as_completed(running):
            verified = done.result()
            total.samples += verified.samples
            total.problems += verified.problems
            advance(sizes[running[done]])
    total.problems.sort()
    return total


def verify_shard(
    path: Path,
    record: ShardRecord | None,
    table: np.ndarray | None,
    classes: int | None,
    max_pixels: int,
    label_field: str | None,
    masks: bool = False,
) -> Verified:
    """Check one shard against its record and its part of the table, int64 (3 or 5, samples)."""
    verified = Verified()
    if record is not None:
        size = path.stat().st_size
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        if size != record.bytes:
            verified.problems.append(f"{path}: {size} bytes, {INDEX} says {record.bytes}")
        elif digest.hexdigest() != record.sha256:
            verified.problems.append(f"{path}: its checksum is not that of {INDEX}")
    masks = masks if table is None else len(table) == 5
    samples = scan(path, str(path), classes, label_field, masks=masks)
    verified.problems += [str(bad) for bad in samples.bad]
    found = samples.table()
    if table is not None and samples.names and found.shape == table.shape:
        found[2] = np.where(found[2] < 0, table[2], found[2])  # which label a name has is the index's to say
    if table is not None and not samples.bad and not np.array_equal(found, table):
        verified.problems.append(f"{path}: offsets, sizes or labels are not those of {INDEX}'s table")
    with open(path, "rb") as file:
        for number, (key, (offset, size, _)) in enumerate(zip(samples.keys, samples.rows, strict=True)):
            file.seek(offset)
            try:
                photo = decode(file.read(size), max_pixels)
                if samples.masks is not None:
                    _check_mask(file, samples.masks[number], photo.size, max_pixels)
            except BrokenImage as error:
                verified.problems.append(f"{path}, sample '{key}': broken image ({error})")
            else:
                verified.samples += 1
    return verified


def _check_mask(file: BinaryIO, place: tuple[int, int], size: tuple[int, int], max_pixels: int) -> None:
    """Raise BrokenImage for a mask that is none, or has not the (width, height) of its photo."""
    file.seek(place[0])
    labels = mask_labels(file.read(place[1]), max_pixels)
    if labels.shape[::-1] != size:
        raise BrokenImage(f"the mask has {labels.shape[1]} x {labels.shape[0]} pixels, the photo {size[0]} x {size[1]}")


def _shards(
    folder: Path, patterns: Sequence[str]
) -> tuple[list[tuple[Path, ShardRecord | None, np.ndarray | None]], list[str], int | None]:
    """Shards with their records and tables, problems of the folder itself, and the number of classes."""
    present = sorted(folder / name for pattern in patterns for name in matching(folder, pattern))
    if not present:
        raise DataError(f"{folder}: holds no {patterns[0]} and no {patterns[1]}")
    if packed := [path for path in present if path.name.endswith(PACKED)]:
        raise DataError(f"{packed[0]}: is packed; unpack it first (gunzip)")
    if not (folder / INDEX).exists():
        return [(path, None, None) for path in present], [], None
    index = read_index((folder / INDEX).read_bytes(), str(folder / INDEX))
    shards: list[tuple[Path, ShardRecord | None, np.ndarray | None]] = []
    problems = []
    for split_record in index.splits.values():
        table = folder / split_record.table
        try:
            described = read_split(split_record, table.read_bytes(), str(table))
        except (OSError, DataError) as error:
            problems.append(str(error))
            continue
        ends = np.cumsum([record.samples for record in described.shards])
        for record, part in zip(described.shards, np.split(described.table, ends[:-1], axis=1), strict=True):
            if (folder / record.name).exists():
                shards.append((folder / record.name, record, part))
            else:
                problems.append(f"{folder / record.name}: is missing, {INDEX} has it")
    known = {path for path, _, _ in shards}
    for path in present:
        if path not in known:
            problems.append(f"{path}: {INDEX} does not have it")
            shards.append((path, None, None))
    return shards, problems, len(index.classes) or None
