"""Images -> shuffled shards with index.json; killed, the same call goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from intvit.data.config import DataError
from intvit.data.index import INDEX, SPLITS, SplitIndex, SplitRecord, read_index, read_split, write_index
from intvit.data.shard_tools.source_images import SourceImage, SourceImages
from intvit.data.shard_tools.writing import divide, read_record, write_shard
from intvit.files import write_json
from intvit.progress import byte_progress

UNFINISHED = ".unfinished"  # folder beside the shards while they are being written: settings and records of shards


def create(
    images: SourceImages, target: Path, *, seed: int, shard_bytes: int, workers: int
) -> dict[str, SplitIndex] | None:
    """Write all shards that are not there yet, then index.json; return what it says.

    Splits that stand there already stay beside those of `images`. None where all of it was there, also by another
    process that was faster. Raises DataError for a folder of other settings.
    """
    settings: dict[str, Any] = {
        "source": images.kind,
        "images": {split: _fingerprint(group) for split, group in images.splits.items()},
        "seed": seed,
        "shard_bytes": shard_bytes,
    }
    if _finished(target, settings):
        return None
    unfinished = target / UNFINISHED
    joined = (target / INDEX).exists()
    if not unfinished.exists() and target.exists() and any(target.iterdir()) and not joined:
        raise DataError(f"{target}: is not empty and holds no unfinished shards of this command; give another folder")
    _same_settings(unfinished / "settings.json", settings)
    plan = {split: divide(group, seed, shard_bytes) for split, group in images.splits.items()}
    for leftover in target.glob(".*.tar.*"):
        leftover.unlink()  # of a killed run
    _write_missing(plan, target, workers, images.relabel)
    splits = {}
    for split, shards in plan.items():
        written = [read_record(*_paths(target, split, number)) for number in range(len(shards))]
        missing = [number for number, record in enumerate(written) if record is None]
        if missing and _finished(target, settings):
            return None  # the same command elsewhere was faster
        if missing:
            raise DataError(f"{_paths(target, split, missing[0])[0]}: is not whole; the same command writes it again")
        records = [record for record in written if record is not None]
        splits[split] = SplitIndex(
            tuple(shard for shard, _ in records), np.concatenate([table for _, table in records], axis=1)
        )
    if joined:
        before = read_index((target / INDEX).read_bytes(), str(target / INDEX))
        splits |= {split: _standing(target, record) for split, record in before.splits.items()}
        fingerprints = {**settings["images"], **(before.settings or {})["images"]}
        splits, settings["images"] = ({s: group[s] for s in SPLITS if s in group} for group in (splits, fingerprints))
    write_index(target, splits, images.classes, settings)
    shutil.rmtree(unfinished)
    return splits


def standing_classes(target: Path) -> tuple[str, ...]:
    """The classes of the shards in `target`, whose labels those that join them take; none where there are none."""
    if not (target / INDEX).exists():
        return ()
    return read_index((target / INDEX).read_bytes(), str(target / INDEX)).classes


def _standing(target: Path, record: SplitRecord) -> SplitIndex:
    return read_split(record, (target / record.table).read_bytes(), str(target / record.table))


def _paths(target: Path, split: str, number: int) -> tuple[Path, Path]:
    """The shard and its record."""
    name = f"{split}-{number:06d}"
    return target / f"{name}.tar", target / UNFINISHED / f"{name}.json"


def _write_missing(
    plan: Mapping[str, list[list[SourceImage]]], target: Path, workers: int, relabel: Sequence[int] | None
) -> None:
    tasks = [(shard, *_paths(target, split, number)) for split in plan for number, shard in enumerate(plan[split])]
    sizes = {path: sum(image.size for image in shard) for shard, path, _ in tasks}
    missing = [task for task in tasks if read_record(*task[1:]) is None]
    processes = min(workers, len(tasks) or 1)
    with byte_progress("shards", sum(sizes.values())) as advance, ProcessPoolExecutor(processes) as pool:
        advance(sum(sizes.values()) - sum(sizes[path] for _, path, _ in missing))
        running = {pool.submit(write_shard, *task, relabel): task[1] for task in missing}
        try:
            for done in as_completed(running):
                done.result()
                advance(sizes[running[done]])
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise DataError(f"{target}: interrupted; the same command goes on") from None
        except BrokenProcessPool:
            raise DataError(f"{target}: a process was killed, perhaps for memory; the same command goes on") from None
        except (DataError, OSError) as error:
            pool.shutdown(cancel_futures=True)
            raise DataError(f"{error}; the same command goes on once that is mended") from error


def _finished(target: Path, settings: Mapping[str, Any]) -> bool:
    path = target / INDEX
    if not path.exists():
        return False
    before = read_index(path.read_bytes(), str(path)).settings or {}
    held = {split: before.get("images", {}).get(split) for split in settings["images"]}
    if {**before, "images": held} == settings:
        return True
    if {**before, "images": {}} == {**settings, "images": {}} and not any(held.values()):
        return False  # another split of the same kind joins them
    of = _changed(before, settings) if before else "others, which this command did not write"
    raise DataError(f"{target}: holds shards of {of}; give another folder")


def _same_settings(path: Path, settings: Mapping[str, Any]) -> None:
    if not path.exists():
        write_json(path, settings)
    elif (before := json.loads(path.read_text())) != settings:
        raise DataError(
            f"{path.parent.parent}: holds unfinished shards of {_changed(before, settings)}; go on with the old ones, "
            "or delete the folder"
        )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    keys = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    return "other settings: " + ", ".join(f"{key} {before.get(key)}, not {now.get(key)}" for key in keys)


def _fingerprint(images: list[SourceImage]) -> str:
    """Number of images and a hash over their keys, labels and sizes."""
    digest = hashlib.sha256()
    for image in images:
        mask = "" if image.mask is None else f"\0{os.path.getsize(image.mask)}"
        digest.update(f"{image.key}\0{image.label}\0{image.size}{mask}\n".encode())
    return f"{len(images)}/{digest.hexdigest()[:16]}"
