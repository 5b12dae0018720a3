"""`intvit shards index DIR`: write index.json for shards that lie there, whoever wrote them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from intvit.commands.argument_types import workers_option
from intvit.commands.shard_options import present, shard_options
from intvit.data.index import SplitIndex
from intvit.data.shard_tools.reindex import reindex


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit shards index",
        description="Read every train-*.tar and val-*.tar of DIR and write index.json with the tables of their "
        "samples, so that training opens them at once, also behind a URL or command.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--class-names", type=Path, metavar="FILE", help="one name a line, in the order of the labels")
    shard_options(parser)
    workers_option(parser)
    return parser


def main(arguments: list[str]) -> None:
    """Parse the command line and write the index."""
    options = parser().parse_args(arguments)
    names, patterns = options.class_names, (options.train_pattern, options.val_pattern)
    print_splits(
        options.folder,
        reindex(present(options.folder), names, options.workers, patterns, options.label_field, masks=options.masks),
    )


def print_splits(folder: Path, splits: Mapping[str, SplitIndex]) -> None:
    """A line for each split."""
    for split, index in splits.items():
        print(f"{folder}: {split} {index.table.shape[1]} samples in {len(index.shards)} shards")
