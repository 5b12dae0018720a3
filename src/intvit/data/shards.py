"""Open a split: find its shards, and index their samples from index.json or, where there is none, by reading them all.

The index holds where each image lies and its label, so that `plan` can order samples freely and `reader` reads nothing
else. Walking the headers of a tar takes about 0.05 ms a sample; whatever is wrong with a shard's structure or labels
shows then, early.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from intvit.data.config import DataConfig, DataError
from intvit.data.digits import digits_root
from intvit.data.finding import WANTED, find_shards, matching
from intvit.data.imagenet import imagenet_labels, not_imagenets
from intvit.data.index import INDEX, SPLITS, FolderIndex, SplitIndex, read_index, read_split
from intvit.data.labels import label_of
from intvit.data.source import PACKED, ShardSource, shard_source
from intvit.data.tars import BadSample, TarSamples, key_of, number_names, scan, take_out_names, take_out_others
from intvit.data.tree import PhotoTree, open_tree

log = logging.getLogger(__name__)

Stamps = tuple[tuple[str, int, int], ...]  # name, bytes and time of every file that the index of a split depends on


@dataclass(frozen=True)
class ShardIndex:
    """All good samples of a split, in shard order. Position i is sample i of the concatenated shards.

    `names` of the shards; `counts` int64 (shards,): samples of each; `offsets` and `sizes` int64 (samples,): bytes of
    the image inside its shard; `labels` int64 (samples,); `bad`: samples left out under data.on_bad_sample=skip;
    `shuffled`: whether every shard is a random part of the split; `classes`: their names, where the shards name them;
    `masks` int64 (2, samples): offsets and sizes of the masks, where these are the labels (all of `labels` are 0 then).
    """

    source: ShardSource
    names: tuple[str, ...]
    counts: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    bad: tuple[BadSample, ...] = ()
    shuffled: bool = False
    classes: tuple[str, ...] = ()
    masks: np.ndarray | None = None

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

    def read_mask(self, position: int) -> bytes:
        """The encoded mask at `position`. Raises OSError."""
        assert self.masks is not None, "labels are no masks"
        return self.source.read(self.locate(position)[0], *map(int, self.masks[:, position]))

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
        if self.masks is not None:
            digest.update(np.ascontiguousarray(self.masks).tobytes())
        return digest.hexdigest()[:16]


Samples = ShardIndex | PhotoTree  # of a split, by position


@dataclass(frozen=True)
class _Reading:
    """What the config says of how shards are read."""

    patterns: tuple[str, str]  # of SPLITS
    num_classes: int
    imagenet: bool  # labels are ImageNet's
    label_field: str | None
    skip: bool
    budget: int
    masks: bool  # labels are masks


def open_split(config: DataConfig, split: str) -> Samples:
    """Index of `split` (`train` or `val`).

    Raises DataError for a missing root, missing or broken shards, samples without image or label, and labels outside
    0..num_classes-1; data.on_bad_sample=skip leaves such samples out and logs them. Where the labels are ImageNet's
    (data.class_names=imagenet) and the shards name their classes, these are WordNet ids and take their index there.
    """
    if config.layout == "folder":
        return open_tree(config, split)
    root = data_root(config)
    if root is None:
        raise DataError(f"data.root is not set: say data.root=DIR, {WANTED}")
    reading = _Reading(
        (config.train_pattern, config.val_pattern),
        config.num_classes,
        config.class_names == "imagenet",
        config.label_field,
        config.on_bad_sample == "skip",
        config.bad_sample_budget,
        config.labels == "masks",
    )
    return _opened(shard_source(config, root), split, reading)


def data_root(config: DataConfig) -> str | Path | None:
    """Where the shards are: `root`, or for `digits` the cache folder, where they are written if need be."""
    return digits_root() if config.root is None and config.name == "digits" else config.root


def _opened(source: ShardSource, split: str, reading: _Reading) -> ShardIndex:
    if source.remote:
        return _open(source, split, (), reading)
    root = Path(source.root)
    names = find_shards(root, split, reading.patterns)
    stamps = [(name, root / name) for name in (*names, INDEX) if name in names or (root / INDEX).exists()]
    return _open(
        source, split, tuple((name, (stat := path.stat()).st_size, stat.st_mtime_ns) for name, path in stamps), reading
    )


@lru_cache(maxsize=4)  # training and calibration share one index; a changed shard has a new stamp
def _open(source: ShardSource, split: str, stamps: Stamps, reading: _Reading) -> ShardIndex:
    indexed = source.remote or stamps[-1][0] == INDEX
    index = (_from_index if indexed else _from_tars)(source, split, stamps, reading)
    if len(index.bad) > reading.budget:
        raise DataError(
            f"{index.bad[0]} (the first of {len(index.bad)} bad samples, more than "
            f"data.bad_sample_budget={reading.budget})"
        )
    if not len(index):
        pattern = reading.patterns[SPLITS.index(split)]
        raise DataError(f"{source.root}: its {len(index.names)} {pattern} hold no samples")
    if index.bad:
        log.warning("%s: %d bad samples left out of %s, such as %s", source.root, len(index.bad), split, index.bad[0])
    return index


def _from_tars(source: ShardSource, split: str, stamps: Stamps, reading: _Reading) -> ShardIndex:
    scanned = []
    for name, *stamp in stamps:
        source.versions[name] = str(stamp)
        form = reading.num_classes, reading.label_field
        scanned.append(scan(source.path(name), source.where(name), *form, masks=reading.masks))
        if scanned[-1].bad and not reading.skip:
            # A shard that breaks off may end in half a sample: say the cause.
            raise DataError(str(min(scanned[-1].bad, key=lambda bad: bad.key != "")))
    mixed = take_out_names(scanned) if any(samples.rows and not samples.named for samples in scanned) else []
    if mixed and not reading.skip:
        raise DataError(str(mixed[0]))
    classes: tuple[str, ...] = ()
    if any(samples.names for samples in scanned):
        classes = _classes(source, split, scanned, reading)
        number_names(scanned, label_of(classes, source.root, reading.num_classes, imagenet=reading.imagenet))
    elif reading.imagenet and (others := take_out_others(scanned)):
        if not reading.skip:
            raise DataError(str(others[0]))
        mixed += others
    if reading.imagenet and not classes:
        _say_doubt(scanned)
    if not (classes or reading.imagenet or reading.masks) and split == "val":
        _numbered_in_train_too(Path(source.root), reading)
    bad = [bad for samples in scanned for bad in samples.bad] + mixed
    counts = np.array([len(samples.rows) for samples in scanned], dtype=np.int64)
    offsets, sizes, labels, *masks = np.concatenate([samples.table() for samples in scanned], axis=1)
    names = tuple(name for name, *_ in stamps)
    parts = np.stack(masks) if masks else None
    return ShardIndex(source, names, counts, offsets, sizes, labels, tuple(bad), classes=classes, masks=parts)


def _say_doubt(scanned: list[TarSamples]) -> None:
    """A warning where the name of a file holds the WordNet id of another class than its label."""
    for samples in scanned:
        for key, (_, _, label) in zip(samples.keys, samples.rows, strict=True):
            if reason := not_imagenets(key, label):
                log.warning("%s, sample '%s': %s", samples.where, key, reason)
                return


def _numbered_in_train_too(root: Path, reading: _Reading) -> None:
    """Raise DataError where validation has numbers, but the training shards, by the first of them, names."""
    names = [name for name in matching(root, reading.patterns[0]) if not name.endswith(PACKED)]
    if names and (named := scan(root / names[0], names[0], None, reading.label_field).names):
        raise DataError(
            f"{root}: labels of val are numbers, those of train are names, such as {next(iter(named.values()))!r}; "
            "write both alike"
        )


def _classes(source: ShardSource, split: str, scanned: list[TarSamples], reading: _Reading) -> tuple[str, ...]:
    """Names of the classes in the order of their labels: those of the training shards, where there are any."""
    own = {name for samples in scanned for name in samples.names.values()}
    if split == "train" or not matching(Path(source.root), reading.patterns[0]):
        return tuple(sorted(own))
    classes = _opened(source, "train", reading).classes
    if strange := sorted(own - set(classes)):
        raise DataError(f"{source.root}: {split} has the class {strange[0]!r}, which train has not; mend the labels")
    return classes


def _from_index(source: ShardSource, split: str, stamps: Stamps, reading: _Reading) -> ShardIndex:
    folder, described = _read(source, split)
    names = tuple(shard.name for shard in described.shards)
    if not source.remote:
        _compare(source, described, stamps, reading.skip)
    counts = np.array([shard.samples for shard in described.shards], dtype=np.int64)
    offsets, sizes, labels = described.table[:3]
    masks = described.table[3:] if len(described.table) > 3 else None
    if (masks is not None) != reading.masks:
        has, says = ("masks", "classes") if masks is not None else ("classes", "masks")
        raise DataError(
            f"{source.where(INDEX)}: labels are {has}, data.labels={says}; choose other data, or write the index again "
            f"with `intvit shards index DIR{' --masks' if reading.masks else ''}`"
        )
    if folder.classes and len(labels) and labels.max() >= len(folder.classes):
        raise DataError(
            f"{source.where(INDEX)}: names {len(folder.classes)} classes, but a label is {labels.max()}; name all with "
            "`intvit shards index DIR --class-names FILE`"
        )
    if folder.classes and reading.imagenet:
        labels = imagenet_labels(folder.classes, source.where(INDEX))[labels]
    elif reading.imagenet and not source.remote and len(labels):
        key = key_of(Path(source.root) / names[0], int(offsets[0]))  # an index holds no keys: one stands for all
        if reason := not_imagenets(key.rpartition("/")[0], int(labels[0])):
            raise DataError(f"{source.where(names[0])}, sample '{key}': {reason}")
    index = ShardIndex(source, names, counts, offsets, sizes, labels, (), folder.shuffled, folder.classes, masks)
    outside = np.flatnonzero(labels >= reading.num_classes).tolist()
    if not len(outside):
        return index
    reason = f"is outside 0..{reading.num_classes - 1}; set data.num_classes"
    if not reading.skip:
        position = outside[0]
        raise DataError(str(index.bad_sample(position, f"label {labels[position]} {reason}")))
    bad = [BadSample(source.where(index.locate(p)[0]), f"number {p}", f"label {labels[p]} {reason}") for p in outside]
    keep = labels < reading.num_classes
    counts = np.array([part.sum() for part in np.split(keep, np.cumsum(counts)[:-1])], dtype=np.int64)
    rest = {"counts": counts, "offsets": offsets[keep], "sizes": sizes[keep], "labels": labels[keep]}
    return replace(index, **rest, bad=tuple(bad))


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
