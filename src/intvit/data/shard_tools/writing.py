"""Which image goes into which shard, and the writing of one shard. Equal settings give equal bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from intvit.data.config import DataError
from intvit.data.index import ShardRecord
from intvit.data.shard_tools.source_images import SourceImage
from intvit.data.shard_tools.source_masks import encoded_mask
from intvit.data.tars import MASK_SUFFIX
from intvit.files import replacing, write_json

BLOCK = tarfile.BLOCKSIZE


def divide(images: Sequence[SourceImage], seed: int, shard_bytes: int) -> list[list[SourceImage]]:
    """A random order of all images, cut into shards of at most `shard_bytes` (at least one image each)."""
    order = np.random.RandomState(seed).permutation(len(images))
    shards: list[list[SourceImage]] = []
    room = 0
    for index in order:
        image = images[index]
        label = BLOCK if image.mask is None else _padded(os.path.getsize(image.mask))
        length = 2 * BLOCK + _padded(image.size) + label  # two headers, the image, the label
        if not shards or length > room:
            shards.append([])
            room = shard_bytes - 2 * BLOCK
        shards[-1].append(image)
        room -= length
    return shards


def write_shard(images: Sequence[SourceImage], path: Path, record: Path, relabel: Sequence[int] | None = None) -> None:
    """Write the shard `path` and, once it stands, its `record`: JSON of the ShardRecord and of its rows of the table.

    relabel: new labels of masks, by the old ones. Raises DataError for an image that cannot be read as it was found.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        target = _Hashing(file)
        rows = _write(images, target, relabel)
    described = ShardRecord(
        path.name, len(images), target.length, target.digest.hexdigest(), len({image.label for image in images})
    )
    write_json(record, {"shard": vars(described), "rows": rows})


def read_record(path: Path, record: Path) -> tuple[ShardRecord, np.ndarray] | None:
    """What `write_shard` recorded, table int64 (3 or 5, samples); None where shard or record are not there."""
    try:
        content = json.loads(record.read_text())
        described = ShardRecord(**content["shard"])
        if path.stat().st_size != described.bytes:
            return None
        return described, np.array(content["rows"], dtype=np.int64).reshape(described.samples, -1).T
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(images: Sequence[SourceImage], target: _Hashing, relabel: Sequence[int] | None) -> list[tuple[int, ...]]:
    rows: list[tuple[int, ...]] = []
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for image in images:
            data = _read(image)
            _add(archive, f"{image.key}.{image.suffix}", data)
            row = (archive.offset - _padded(len(data)), len(data), image.label)
            if image.mask is None:
                _add(archive, f"{image.key}.cls", str(image.label).encode())
                rows.append(row)
                continue
            mask = encoded_mask(image.mask, relabel)
            _add(archive, f"{image.key}.{MASK_SUFFIX}", mask)
            rows.append((*row, archive.offset - _padded(len(mask)), len(mask)))
    return rows


def _read(image: SourceImage) -> bytes:
    try:
        with open(image.path, "rb") as file:
            file.seek(image.offset)
            data = file.read(image.size)
    except OSError as error:
        raise DataError(f"{image.path}: cannot be read ({error})") from error
    if len(data) < image.size:
        raise DataError(f"{image.path}, {image.key}: has become shorter since the command began")
    return data


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)  # no time and no owner: equal settings give equal bytes
    header.size = len(data)
    archive.addfile(header, io.BytesIO(data))


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.length = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.length += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.length
