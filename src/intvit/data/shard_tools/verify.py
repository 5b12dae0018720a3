"""`intvit shards verify DIR`: reads every byte, decodes every image, names everything that is off."""

from __future__ import annotations

import argparse
import hashlib
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from intvit.arguments import positive
from intvit.data.config import DataConfig, DataError
from intvit.data.index import INDEX, SPLITS, ShardRecord, read_index, read_split
from intvit.data.shard_tools.progress import byte_progress, workers_option
from intvit.data.tars import scan
from intvit.pictures import BrokenImage, decode


@dataclass
class Found:
    """What one shard holds, and what is wrong with it."""

    samples: int = 0
    problems: list[str] = field(default_factory=list)


def main(arguments: list[str]) -> int:
    """Parse the command line, verify, print; 1 where anything is off."""
    parser = argparse.ArgumentParser(
        prog="intvit shards verify",
        description="Check every shard of a folder: size and checksum against index.json where there is one, "
        "structure, labels, and that every image decodes. The exit code is 1 when anything is off.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--classes", type=positive, help="labels are below it (default: as many as index.json names)")
    parser.add_argument("--max-pixels", type=positive, default=DataConfig.max_pixels, help="largest picture")
    workers_option(parser)
    options = parser.parse_args(arguments)
    shards, problems, classes = _shards(options.folder)
    sizes = {path: path.stat().st_size for path, _, _ in shards}
    samples = 0
    processes = min(options.workers, len(shards) or 1)
    with byte_progress("verify", sum(sizes.values())) as advance, ProcessPoolExecutor(processes) as pool:
        running = {
            pool.submit(verify_shard, *shard, options.classes or classes, options.max_pixels): shard[0]
            for shard in shards
        }
        for done in as_completed(running):
            found = done.result()
            samples += found.samples
            problems += found.problems
            advance(sizes[running[done]])
    for problem in sorted(problems):
        print(problem)
    print(f"{options.folder}: {len(shards)} shards, {samples} good samples, {len(problems)} problems")
    return 1 if problems else 0


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
