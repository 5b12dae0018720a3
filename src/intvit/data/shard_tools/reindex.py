"""index.json for shards that lie in a folder, whoever wrote them."""

from __future__ import annotations

import hashlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from intvit.data.config import DataError
from intvit.data.index import SPLITS, ShardRecord, SplitIndex, write_index
from intvit.data.tars import scan
from intvit.progress import byte_progress


def reindex(folder: Path, class_names: Path | None, workers: int) -> dict[str, SplitIndex]:
    """Read every shard of `folder`, write its index, return it; class_names: a file with one name a line."""
    names = {split: sorted(folder.glob(f"{split}-*.tar")) for split in SPLITS}
    paths = [path for group in names.values() for path in group]
    if not paths:
        raise DataError(f"{folder}: holds no train-*.tar and no val-*.tar")
    records = {}
    with (
        byte_progress("index", sum(path.stat().st_size for path in paths)) as advance,
        ProcessPoolExecutor(min(workers, len(paths))) as pool,
    ):
        for path, (record, table) in zip(paths, pool.map(index_shard, paths), strict=True):
            records[path] = record, table
            advance(record.bytes)
    classes = class_names.read_text().split("\n") if class_names else []
    splits = {
        split: SplitIndex(
            tuple(records[path][0] for path in group), np.concatenate([records[path][1] for path in group], axis=1)
        )
        for split, group in names.items()
        if group
    }
    write_index(folder, splits, [name for name in classes if name], None)
    return splits


def index_shard(path: Path) -> tuple[ShardRecord, np.ndarray]:
    """Record and table, int64 (3, samples), of one shard. Raises DataError for anything bad in it."""
    samples = scan(path, str(path), None)
    if samples.bad:
        raise DataError(str(samples.bad[0]))
    table = samples.table()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        size = file.tell()
    return ShardRecord(path.name, table.shape[1], size, digest.hexdigest(), len(np.unique(table[2]))), table
