"""Which files are shards: options that commands on a folder of shards share."""

from __future__ import annotations

import argparse
from pathlib import Path

from intvit.data.config import DataError
from intvit.data.finding import PATTERNS
from intvit.data.index import SPLITS


def shard_options(parser: argparse.ArgumentParser) -> None:
    """Which files are shards, and where their labels are, as data.train_pattern and its like say it."""
    for split, pattern in zip(SPLITS, PATTERNS, strict=True):
        parser.add_argument(f"--{split}-pattern", default=pattern, metavar="GLOB", help=f"shards (default {pattern})")
    parser.add_argument("--label-field", metavar="NAME", help="of the samples' .json, which holds the label")
    parser.add_argument("--masks", action="store_true", help="labels are masks, a .seg.png beside each image")


def present(folder: Path) -> Path:
    """The folder. Raises DataError where there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    return folder
