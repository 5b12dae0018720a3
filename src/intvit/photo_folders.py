"""A tree of photos: which of its folders are splits and classes, which of its files are photos, and what is left out.

    ROOT/train/CLASS/...    ROOT/val/CLASS/...     or    ROOT/CLASS/...

as torchvision's ImageFolder has it: classes are the folders' names in the order of their code points, photos lie at any
depth below them. Nothing is opened here.
"""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from intvit.errors import IntVitError

# Endings of files, in lower case, of the formats that `intvit.photos` decodes.
ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}
# What systems, network drives and archives leave in folders, beside names that begin with a dot.
SYSTEM = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information", "lost+found", "icon\r"}
SYSTEM |= {"@eadir", "@recycle", "#recycle", "#snapshot"}
SHOWN = 3


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a system's, no class and no photo: .ipynb_checkpoints, ._x.jpg, Thumbs.db, @eaDir."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_hidden_path(path: str) -> bool:
    """Whether a file lies in such a folder, or is such a file; `./` before a name, as in tars, hides nothing."""
    return any(is_hidden(part) for part in path.split("/") if part not in (".", ".."))


@dataclass
class LeftOut:
    """Files of a tree that are no photos of a class, counted by the reason, with an example of each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        self.counts[reason] += 1
        self.examples.setdefault(reason, path)

    def __str__(self) -> str:
        parts = [f"{count} {reason} (such as {self.examples[reason]})" for reason, count in self.counts.most_common()]
        return "; ".join(parts)


@dataclass(frozen=True)
class ClassFolder:
    """A class: its name, composed (NFC) as every system writes it, and its folder."""

    name: str
    path: Path


def class_folders(folder: Path, left_out: LeftOut | None = None) -> list[ClassFolder]:
    """The classes in `folder` in the order of their labels.

    Raises IntVitError for a name that comes twice, and for one that is no UTF-8.
    """
    found = []
    for entry in _entries(folder):
        if entry.is_dir():
            if any("\udc80" <= letter <= "\udcff" for letter in entry.name):  # bytes as Python's file names hold them
                raise IntVitError(f"{entry.path!r}: a class needs a name in UTF-8, as programs hold it; rename it")
            found.append(ClassFolder(unicodedata.normalize("NFC", entry.name), Path(entry.path)))
        elif left_out is not None:
            left_out.add("files in no class folder", entry.path)
    found.sort(key=lambda one: one.name)
    for one, other in itertools.pairwise(found):
        if one.name == other.name:
            raise IntVitError(f"{one.path}: another folder has the same name, written otherwise; join the two")
    return found


def photos(folder: Path, left_out: LeftOut, stamps: dict[str, int] | None = None) -> Iterator[str]:
    """Paths, relative to `folder`, of the photos at any depth below it; links are followed.

    stamps: gets every folder that was looked into, with the time of the last change of its entries.
    """
    yield from _photos(str(folder), "", (os.path.realpath(folder),), left_out, {} if stamps is None else stamps)


def _photos(
    base: str, below: str, parents: tuple[str, ...], left_out: LeftOut, stamps: dict[str, int]
) -> Iterator[str]:
    here = os.path.join(base, below)
    stamps[here] = os.stat(here).st_mtime_ns
    for entry in _entries(here):
        path = os.path.join(below, entry.name)
        if entry.is_dir():
            inside = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(parents[-1], entry.name)
            if inside in parents:
                left_out.add("links to a folder around them", entry.path)
            else:
                yield from _photos(base, path, (*parents, inside), left_out, stamps)
        elif not entry.is_file():
            left_out.add("links that lead nowhere" if entry.is_symlink() else "no files", entry.path)
        elif entry.name.lower().endswith(ENDINGS):
            yield path
        else:
            left_out.add(os.path.splitext(entry.name)[1].lower() or "files without an ending", entry.path)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)


def split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder, of those that lie in `root` under one of the names in `SPLITS`; `test` stands for no `val`.

    Capitals are as good. Raises IntVitError where two could be meant.
    """
    found = {}
    folders = [Path(entry.path) for entry in _entries(root) if entry.is_dir()]
    for split, names in SPLITS.items():
        there = sorted((p for p in folders if p.name.lower() in names), key=lambda path: names.index(path.name.lower()))
        if len(there) > 1:
            there = [path for path in there if path.name.lower() != "test"]
        if len(there) > 1:
            raise IntVitError(f"{root}: holds {' and '.join(path.name for path in there)}; leave one as the split")
        if there:
            found[split] = there[0]
    return found


def holds_splits(root: Path, found: Mapping[str, Path]) -> bool:
    """Whether what `split_folders` found are splits, and not classes among others, such as a class called train."""
    names = {one.path.name for one in class_folders(root)}
    return bool(found) and (len(found) == 2 or names <= {path.name for path in found.values()})


def tree_folders(root: Path, *, splits: bool) -> dict[str, Path]:
    """The folders whose folders are classes: by split, or with splits=False {"": root} that holds the classes itself.

    Raises IntVitError for a root that is no such tree, with the way out.
    """
    if not root.is_dir():
        raise IntVitError(f"data.root={root}: no such folder; {WANTED}")
    found = split_folders(root)
    names = [one.path.name for one in class_folders(root)]
    if not names:
        shards = "; its tars are shards, read with data=imagenet and its like" if any(root.glob("*.tar")) else ""
        raise IntVitError(f"data.root={root}: holds no folders; {WANTED}{shards}")
    if not splits:
        if holds_splits(root, found):
            raise IntVitError(
                f"data.root={root}: holds {' and '.join(sorted(path.name for path in found.values()))}, which are no "
                f"classes; say data=folder without data.split, or data.root={next(iter(found.values()))}"
            )
        return {"": root}
    if not found:
        raise IntVitError(
            f"data.root={root}: holds {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''} but no train "
            "and no val; if these are the classes, say data.split=0.9, the share to train on (0: none)"
        )
    return found


def tree_classes(root: Path, *, splits: bool) -> list[ClassFolder]:
    """The classes of a tree in the order of their labels: those of train where there is one. Raises IntVitError."""
    folders = tree_folders(root, splits=splits)
    folder = folders.get("train") or next(iter(folders.values()))
    classes = class_folders(folder)
    if not classes:
        raise IntVitError(f"{folder}: holds no class folders; {WANTED}")
    if len(classes) == 1 and any(classes[0].name.lower() in names for names in SPLITS.values()):
        raise IntVitError(
            f"{folder}: its only class is {classes[0].name}, which looks like a split in a folder of its own; move "
            "what it holds one folder up"
        )
    return classes


WANTED = "say data.root=DIR, a folder with train/ and val/ that hold a folder of photos for each class"
