"""Open a split: find its shards, and index their samples from index.json or, where there is none, by reading them all.

The index holds where each image lies and its label, so that `plan` can order samples freely and `reader` reads nothing
else. Walking the headers of a tar takes about 0.05 ms a sample; whatever is wrong with a shard's structure or labels
shows then, early.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from intvit.data.config import DataConfig, DataError
from intvit.data.digits import digits_root
from intvit.data.index import INDEX, SPLITS, FolderIndex, SplitIndex, read_index, read_split
from intvit.data.source import ShardSource, shard_source
from intvit.data.tars import BadSample, key_of, scan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardIndex:
    """All good samples of a split, in shard order. Position i is sample i of the concatenated shards.

    `names` of the shards; `counts` int64 (shards,): samples of each; `offsets` and `sizes` int64 (samples,): bytes of
    the image inside its shard; `labels` int64 (samples,); `bad`: samples left out under data.on_bad_sample=skip;
    `shuffled`: whether every shard is a random part of the split.
    """

    source: ShardSource
    names: tuple[str, ...]
    counts: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    bad: tuple[BadSample, ...] = ()
    shuffled: bool = False

    def __len__(self) -> int:
        return len(self.offsets)

    def locate(self, position: int) -> tuple[str, int]:
        """Shard of the sample at `position` and the sample's number inside it."""
        shard = int(np.searchsorted(self._ends, position, side="right"))
        return self.names[shard], position - int(self._ends[shard] - self.counts[shard])

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum(self.counts)

    def read(self, position: int) -> bytes:
        """The encoded image at `position`. Raises OSError."""
        return self.source.read(self.locate(position)[0], int(self.offsets[position]), int(self.sizes[position]))

    def bad_sample(self, position: int, reason: str) -> BadSample:
        """The sample at `position` with its shard and key; reads the shard's headers again."""
        name, _ = self.locate(position)
        offset = int(self.offsets[position])
        try:
            key = key_of(self.source.path(name), offset)
        except OSError:
            key = f"at byte {offset}"
        return BadSample(self.source.where(name), key, reason)

    def fingerprint(self) -> str:
        """Equal for equal samples in equal shards: what a position means."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        for values in (self.counts, self.offsets, self.sizes, self.labels):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]


def open_split(config: DataConfig, split: str) -> ShardIndex:
    """Index of `split` (`train` or `val`).

    Raises DataError for a missing root, missing or broken shards, samples without image or label, and labels outside
    0..num_classes-1; data.on_bad_sample=skip leaves such samples out and logs them.
    """
    root = data_root(config)
    if root is None:
        raise DataError(f"data.root is not set: say data.root=DIR, {WANTED}")
    source = shard_source(config, root)
    stamps = () if source.remote else _stamps(Path(root), split)
    return _open(source, split, stamps, config.num_classes, config.on_bad_sample, config.bad_sample_budget)


def data_root(config: DataConfig) -> str | Path | None:
    """Where the shards are: `root`, or for `digits` the cache folder, where they are written if need be."""
    return digits_root() if config.root is None and config.name == "digits" else config.root


WANTED = "a folder of webdataset shards train-*.tar and val-*.tar"
Stamps = tuple[tuple[str, int, int], ...]


def find_shards(root: Path, split: str) -> list[Path]:
    """Sorted `split`-*.tar files in the folder `root`, at least one; else DataError."""
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder; say data.root=DIR, {WANTED}")
    by_split = {name: sorted(root.glob(f"{name}-*.tar")) for name in SPLITS}
    if not any(by_split.values()):
        raise DataError(f"data.root={root}: holds no train-*.tar and no val-*.tar; say data.root=DIR, {WANTED}")
    if not by_split[split]:
        other = SPLITS[1 - SPLITS.index(split)]
        use = "training and calibration need" if split == "train" else "validation needs"
        raise DataError(f"data.root={root}: has {other}-*.tar but no {split}-*.tar, which {use}; add them there")
    return by_split[split]


def _stamps(root: Path, split: str) -> Stamps:
    """Name, bytes and time of every file that the index of a split depends on."""
    files = find_shards(root, split) + [path for path in [root / INDEX] if path.exists()]
    return tuple((path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files)


@lru_cache(maxsize=4)  # training and calibration share one index; a changed shard has a new stamp
def _open(
    source: ShardSource, split: str, stamps: Stamps, num_classes: int, on_bad_sample: str, budget: int
) -> ShardIndex:
    skip = on_bad_sample == "skip"
    if source.remote or stamps[-1][0] == INDEX:
        index = _from_index(source, split, stamps, num_classes, skip)
    else:
        index = _from_tars(source, stamps, num_classes, skip)
    if len(index.bad) > budget:
        raise DataError(
            f"{index.bad[0]} (the first of {len(index.bad)} bad samples, more than data.bad_sample_budget={budget})"
        )
    if not len(index):
        raise DataError(f"{source.root}: its {len(index.names)} {split}-*.tar hold no samples")
    if index.bad:
        log.warning("%s: %d bad samples left out of %s, such as %s", source.root, len(index.bad), split, index.bad[0])
    return index


def _from_tars(source: ShardSource, stamps: Stamps, num_classes: int, skip: bool) -> ShardIndex:
    tables, bad = [], []
    for name, *stamp in stamps:
        source.versions[name] = str(stamp)
        samples = scan(source.path(name), source.where(name), num_classes)
        if samples.bad and not skip:
            # A shard that breaks off may end in half a sample: say the cause.
            raise DataError(str(min(samples.bad, key=lambda bad: bad.key != "")))
        tables.append(samples.table())
        bad += samples.bad
    counts = np.array([table.shape[1] for table in tables], dtype=np.int64)
    offsets, sizes, labels = np.concatenate(tables, axis=1)
    return ShardIndex(source, tuple(name for name, _, _ in stamps), counts, offsets, sizes, labels, tuple(bad))


def _from_index(source: ShardSource, split: str, stamps: Stamps, num_classes: int, skip: bool) -> ShardIndex:
    folder, described = _read(source, split)
    names = tuple(shard.name for shard in described.shards)
    if not source.remote:
        _compare(source, described, stamps, skip)
    counts = np.array([shard.samples for shard in described.shards], dtype=np.int64)
    offsets, sizes, labels = described.table
    index = ShardIndex(source, names, counts, offsets, sizes, labels, shuffled=folder.shuffled)
    outside = np.flatnonzero(index.labels >= num_classes).tolist()
    if not len(outside):
        return index
    reason = f"is outside 0..{num_classes - 1}; set data.num_classes"
    if not skip:
        position = outside[0]
        raise DataError(str(index.bad_sample(position, f"label {index.labels[position]} {reason}")))
    bad = [
        BadSample(source.where(index.locate(p)[0]), f"number {p}", f"label {index.labels[p]} {reason}") for p in outside
    ]
    keep = index.labels < num_classes
    counts = np.array([part.sum() for part in np.split(keep, np.cumsum(counts)[:-1])], dtype=np.int64)
    return ShardIndex(source, names, counts, offsets[keep], sizes[keep], labels[keep], tuple(bad), folder.shuffled)


def _read(source: ShardSource, split: str) -> tuple[FolderIndex, SplitIndex]:
    where = source.where(INDEX)
    try:
        folder = read_index(source.fetch(INDEX), where)
        if split not in folder.splits:
            raise DataError(f"{where}: knows {', '.join(folder.splits)} but no {split}")
        record = folder.splits[split]
        source.checksums |= {record.table: record.sha256, **{shard.name: shard.sha256 for shard in record.shards}}
        source.versions |= source.checksums
        return folder, read_split(record, source.path(record.table).read_bytes(), source.where(record.table))
    except OSError as error:
        need = "; shards behind a URL or command need index.json: `intvit shards index DIR` where they lie as files"
        raise DataError(f"{where}: cannot be read ({error}){need if source.remote else ''}") from error


def _compare(source: ShardSource, described: SplitIndex, stamps: Stamps, skip: bool) -> None:
    """Raise DataError where the files of a folder are not those of its index."""
    sizes = {name: size for name, size, _ in stamps}
    expected = {shard.name: shard.bytes for shard in described.shards}
    again = (
        f"`intvit shards verify {source.root}` tells more, `intvit shards index {source.root}` indexes what is there"
    )
    for name in sorted(expected.keys() | sizes.keys() - {INDEX}):
        if name not in sizes:
            raise DataError(f"{source.where(name)}: is missing, {INDEX} has it; {again}")
        if name not in expected:
            raise DataError(f"{source.where(name)}: {INDEX} does not have it; {again}")
        if sizes[name] != expected[name] and not skip:
            raise DataError(f"{source.where(name)}: {sizes[name]} bytes, {INDEX} says {expected[name]}; {again}")
