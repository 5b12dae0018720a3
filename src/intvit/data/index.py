"""index.json beside the shards of a folder, and the tables of samples that it names.

    {"format": "intvit-shards", "version": 1, "classes": ["n01440764", ...], "settings": {...} or null,
     "splits": {"train": {"samples": 1281167, "bytes": 146000000000, "table": "train.index.npy", "sha256": "...",
                          "shards": [{"name": "train-000000.tar", "samples": 1200, "bytes": ..., "sha256": "...",
                                      "classes": 702}, ...]}}}

`classes` of a shard counts its different labels. A table is int64 (3, samples): offset and size of the image in its
shard, and its label, shard after shard; or, where labels are masks, int64 (5, samples): label 0, then offset and size
of the mask. With it a reader opens ImageNet at once and needs no list of a remote folder.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from intvit.data.config import DataError
from intvit.files import write_bytes, write_json

INDEX = "index.json"
FORMAT, VERSION = "intvit-shards", 1
SPLITS = ("train", "val")


@dataclass(frozen=True)
class ShardRecord:
    """One shard as index.json describes it."""

    name: str
    samples: int
    bytes: int
    sha256: str
    classes: int


@dataclass(frozen=True)
class SplitRecord:
    """A split as index.json describes it: its shards, and the file and checksum of the table of its samples."""

    shards: tuple[ShardRecord, ...]
    table: str
    sha256: str


@dataclass(frozen=True)
class SplitIndex:
    """A split: its shards and the table of its samples, int64 (3 or 5, samples) of offsets, sizes, labels and masks."""

    shards: tuple[ShardRecord, ...]
    table: np.ndarray


@dataclass(frozen=True)
class FolderIndex:
    """What index.json says. `settings` are those of `intvit shards create`; None for shards that others wrote."""

    classes: tuple[str, ...]
    settings: Mapping[str, Any] | None
    splits: Mapping[str, SplitRecord]

    @property
    def shuffled(self) -> bool:
        """Whether every shard is a random part of its split."""
        return self.settings is not None and "seed" in self.settings


def table_name(split: str) -> str:
    """File name of a split's table."""
    return f"{split}.index.npy"


def write_index(
    folder: Path, splits: Mapping[str, SplitIndex], classes: Sequence[str], settings: Mapping[str, Any] | None
) -> None:
    """Write the tables, then index.json, each whole or not at all."""
    described = {}
    for split, index in splits.items():
        buffer = io.BytesIO()
        np.save(buffer, index.table, allow_pickle=False)
        write_bytes(folder / table_name(split), buffer.getvalue())
        described[split] = {
            "samples": index.table.shape[1],
            "bytes": sum(shard.bytes for shard in index.shards),
            "table": table_name(split),
            "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
            "shards": [vars(shard) for shard in index.shards],
        }
    content = {
        "format": FORMAT,
        "version": VERSION,
        "classes": list(classes),
        "settings": settings,
        "splits": described,
    }
    write_json(folder / INDEX, content)


def read_index(text: bytes, where: str) -> FolderIndex:
    """Parse index.json, called `where` in messages. Raises DataError."""
    try:
        content = json.loads(text)
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise DataError(
                f"{where}: format {content['format']} version {content['version']}, expected {FORMAT} {VERSION}; "
                "write it again with `intvit shards index DIR`"
            )
        splits = {split: _split_record(described) for split, described in content["splits"].items()}
        return FolderIndex(tuple(content["classes"]), content["settings"], splits)
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: not an index of shards ({error}); `intvit shards index DIR` writes one") from error


def _split_record(described: Mapping[str, Any]) -> SplitRecord:
    shards = tuple(ShardRecord(**shard) for shard in described["shards"])
    for name in (described["table"], *(shard.name for shard in shards)):
        if "/" in name or name.startswith("."):
            raise ValueError(f"a file is called {name}")
    if described["samples"] != sum(shard.samples for shard in shards):
        raise ValueError(f"{described['samples']} samples are not those of the shards together")
    return SplitRecord(shards, described["table"], described["sha256"])


def read_split(record: SplitRecord, table: bytes, where: str) -> SplitIndex:
    """A split with its table, whose bytes are given. Raises DataError where they do not fit together."""
    try:
        if hashlib.sha256(table).hexdigest() != record.sha256:
            raise ValueError("its checksum is another one")
        values = np.load(io.BytesIO(table), allow_pickle=False)
        samples = sum(shard.samples for shard in record.shards)
        if values.dtype != np.int64 or values.shape not in ((3, samples), (5, samples)):
            raise ValueError(f"it holds {values.dtype} {values.shape} for {samples} samples")
        ends = np.repeat([shard.bytes for shard in record.shards], [shard.samples for shard in record.shards])
        for first in (0, 3) if len(values) == 5 else (0,):  # of images, of masks
            part = values[first : first + 2]
            if (values < 0).any() or (part > ends).any() or (part.sum(0) > ends).any():
                raise ValueError("it leads outside a shard")
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"{where}: does not fit {INDEX} ({error}); `intvit shards index DIR` writes both again"
        ) from error
    return SplitIndex(record.shards, values)
