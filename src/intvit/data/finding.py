"""Which files of a folder are shards of which split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from intvit.data.config import DataError
from intvit.data.index import SPLITS
from intvit.photo_folders import is_hidden, split_folders

WANTED = "a folder of webdataset shards train-*.tar and val-*.tar"
PATTERNS = ("train-*.tar", "val-*.tar")  # of those that `intvit shards create` writes


def find_shards(root: Path, split: str, patterns: Sequence[str]) -> list[str]:
    """Names, relative to the folder `root`, of the files that match the pattern of `split`, sorted; at least one.

    patterns: of train and val. Packed ones (.gz) count, too. Raises DataError, with a way out that fits what is there.
    """
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder; say data.root=DIR, {WANTED}")
    found = {name: matching(root, pattern) for name, pattern in zip(SPLITS, patterns, strict=True)}
    if not any(found.values()):
        raise DataError(f"data.root={root}: holds no {patterns[0]} and no {patterns[1]}; {_way_out(root)}")
    if both := sorted(set(found["train"]) & set(found["val"])):
        raise DataError(
            f"data.root={root}: {both[0]} matches data.train_pattern={patterns[0]} and data.val_pattern={patterns[1]}; "
            "a shard is of one split"
        )
    if not found[split]:
        mine, other = patterns if split == "train" else patterns[::-1]
        use = "training and calibration need" if split == "train" else "validation needs"
        raise DataError(f"data.root={root}: has {other} but no {mine}, which {use}; add them there")
    return found[split]


def matching(root: Path, pattern: str) -> list[str]:
    """Names of the files that match, packed or not. Raises DataError where one is there in both forms."""
    paths = [*root.glob(pattern), *root.glob(f"{pattern}.gz")]
    names = sorted({path.relative_to(root).as_posix() for path in paths if not is_hidden(path.name)})
    twice = next((name for name in names if f"{name}.gz" in names), None)
    if twice is not None:
        raise DataError(f"{root}: holds {twice} and {twice}.gz, one shard twice; remove one of them")
    return names


def _way_out(root: Path) -> str:
    """For a folder without the shards that were asked for."""
    if split_folders(root):
        return (
            "photos in class folders are read with data=folder, or data=imagenet_folder where these are called by "
            "WordNet ids, or become shards with `intvit shards create`"
        )
    if matching(root, "imagenet1k-*.tar"):
        return "Hugging Face's shards are read with data=hf"
    if tars := [*matching(root, "*.tar"), *matching(root, "*.tgz")]:
        return (
            f"it holds {tars[0]}: say data.train_pattern=... data.val_pattern=..., globs of which files are of which "
            "split"
        )
    return f"say data.root=DIR, {WANTED}"
