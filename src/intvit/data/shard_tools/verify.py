"""Shards of a folder, verified: reads every byte, decodes every image, names everything that is off."""

from __future__ import annotations

import hashlib
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from intvit.data.config import DataError
from intvit.data.index import INDEX, SPLITS, ShardRecord, read_index, read_split
from intvit.data.tars import scan
from intvit.photos import BrokenImage, decode
from intvit.progress import byte_progress


@dataclass
class Found:
    """What one shard holds, and what is wrong with it."""

    samples: int = 0
    problems: list[str] = field(default_factory=list)


def verify(folder: Path, classes: int | None, max_pixels: int, workers: int) -> int:
    """Check every shard, print what is off and a line that sums up; the number of problems.

    classes: labels are below it; None: as many as the index names.
    """
    shards, problems, named = _shards(folder)
    classes = classes or named
    sizes = {path: path.stat().st_size for path, _, _ in shards}
    samples = 0
    processes = min(workers, len(shards) or 1)
    with byte_progress("verify", sum(sizes.values())) as advance, ProcessPoolExecutor(processes) as pool:
        running = {pool.submit(verify_shard, *shard, classes, max_pixels): shard[0] for shard in shards}
        for done in as_completed(running):
            found = done.result()
            samples += found.samples
            problems += found.problems
            advance(sizes[running[done]])
    for problem in sorted(problems):
        print(problem)
    print(f"{folder}: {len(shards)} shards, {samples} good samples, {len(problems)} problems")
    return len(problems)


def verify_shard(
    path: Path, record: ShardRecord | None, table: np.ndarray | None, classes: int | None, max_pixels: int
) -> Found:
    """Check one shard against its record and its part of the table, int64 (3, samples)."""
    found = Found()
    if record is not None:
        size = path.stat().st_size
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        if size != record.bytes:
            found.problems.append(f"{path}: {size} bytes, {INDEX} says {record.bytes}")
        elif digest.hexdigest() != record.sha256:
            found.problems.append(f"{path}: its checksum is not that of {INDEX}")
    samples = scan(path, str(path), classes)
    found.problems += [str(bad) for bad in samples.bad]
    if table is not None and not samples.bad and not np.array_equal(samples.table(), table):
        found.problems.append(f"{path}: offsets, sizes or labels are not those of {INDEX}'s table")
    with open(path, "rb") as file:
        for key, (offset, size, _) in zip(samples.keys, samples.rows, strict=True):
            file.seek(offset)
            try:
                decode(file.read(size), max_pixels)
            except BrokenImage as error:
                found.problems.append(f"{path}, sample '{key}': broken image ({error})")
            else:
                found.samples += 1
    return found


def _shards(folder: Path) -> tuple[list[tuple[Path, ShardRecord | None, np.ndarray | None]], list[str], int | None]:
    """Shards with their records and tables, problems of the folder itself, and the number of classes."""
    present = sorted(path for split in SPLITS for path in folder.glob(f"{split}-*.tar"))
    if not present:
        raise DataError(f"{folder}: holds no train-*.tar and no val-*.tar")
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
