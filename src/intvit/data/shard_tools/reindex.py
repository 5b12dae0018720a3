"""index.json for shards that lie in a folder, whoever wrote them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np

from intvit.data.config import DataError
from intvit.data.finding import PATTERNS, matching
from intvit.data.index import SPLITS, ShardRecord, SplitIndex, write_index
from intvit.data.source import PACKED
from intvit.data.tars import TarSamples, number_names, scan, take_out_names
from intvit.progress import byte_progress


def reindex(
    folder: Path,
    class_names: Path | None,
    workers: int,
    patterns: Sequence[str] = PATTERNS,
    label_field: str | None = None,
    *,
    masks: bool = False,
) -> dict[str, SplitIndex]:
    """Read every shard of `folder`, write its index, return it.

    class_names: a file with one name a line; patterns: which files are shards of train and val; label_field: of the
    samples' .json; masks: the labels are masks. Labels that are names get numbers, and the index their
    names. Raises DataError.
    """
    names = {split: matching(folder, pattern) for split, pattern in zip(SPLITS, patterns, strict=True)}
    paths = [folder / name for group in names.values() for name in group]
    if not paths:
        raise DataError(f"{folder}: holds no {patterns[0]} and no {patterns[1]}")
    if packed := [path for path in paths if path.name.endswith(PACKED)]:
        raise DataError(f"{packed[0]}: an index leads into shards, and this one is packed; unpack it first (gunzip)")
    if outside := [path for path in paths if path.parent != folder]:
        raise DataError(f"{outside[0]}: an index names shards beside it; give the folder of the shards")
    scanned, records = {}, {}
    with (
        byte_progress("index", sum(path.stat().st_size for path in paths)) as advance,
        ProcessPoolExecutor(min(workers, len(paths))) as pool,
    ):
        for path, (record, samples) in zip(
            paths, pool.map(index_shard, paths, repeat(label_field), repeat(masks)), strict=True
        ):
            records[path.name], scanned[path.name] = record, samples
            advance(record.bytes)
    classes = _read_names(class_names) if class_names else []
    classes = _number({split: [scanned[name] for name in group] for split, group in names.items()}, classes)
    splits = {
        split: SplitIndex(
            tuple(replace(records[name], classes=_distinct(scanned[name])) for name in group),
            np.concatenate([scanned[name].table() for name in group], axis=1),
        )
        for split, group in names.items()
        if group
    }
    highest = max(split.table[2].max(initial=-1) for split in splits.values())
    if classes and highest >= len(classes):
        raise DataError(f"{class_names}: names {len(classes)} classes, but a label is {highest}; give each a name")
    write_index(folder, splits, classes, None)
    return splits


def _number(splits: Mapping[str, list[TarSamples]], classes: list[str]) -> list[str]:
    """Numbers for the labels that are names, in the order of `classes` or else of the alphabet; returns the classes."""
    every = [samples for group in splits.values() for samples in group]
    if not any(samples.names for samples in every):
        return classes
    if any(samples.rows and not samples.named for samples in every):
        raise DataError(f"{take_out_names(every)[0]}")
    named = {split: {name for samples in group for name in samples.names.values()} for split, group in splits.items()}
    classes = classes or sorted(named["train"] or named["val"])
    if strange := sorted((named["train"] | named["val"]) - set(classes)):
        raise DataError(f"{every[0].where}: class {strange[0]!r} is none of {len(classes)}; train must have all")
    number_names(every, {name: label for label, name in enumerate(classes)})
    return classes


def _read_names(path: Path) -> list[str]:
    names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    names = [name for name in names if name]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path}: names the class {twice!r} twice; classes need names of their own")
    return names


def _distinct(samples: TarSamples) -> int:
    return len({label for _, _, label in samples.rows})


def index_shard(path: Path, label_field: str | None, masks: bool = False) -> tuple[ShardRecord, TarSamples]:
    """Record and samples of one shard. Raises DataError for anything bad in it."""
    samples = scan(path, str(path), None, label_field, masks=masks)
    if samples.bad:
        raise DataError(str(samples.bad[0]))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        size = file.tell()
    return ShardRecord(path.name, len(samples.rows), size, digest.hexdigest(), _distinct(samples)), samples
