"""`intvit shards create SRC DST`: images with classes or masks -> shards with index.json; killed, it goes on."""

from __future__ import annotations

import argparse
from pathlib import Path

from intvit.commands.argument_types import at_least, workers_option
from intvit.commands.shards_index import print_splits
from intvit.data.config import DataError
from intvit.data.index import SPLITS
from intvit.data.shard_tools.create import create, standing_classes
from intvit.data.shard_tools.source_images import find_images
from intvit.data.shard_tools.source_masks import find_masked


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit shards create",
        description="Write train-*.tar and val-*.tar with index.json. SRC holds train/ and val/ (or validation/) with "
        "a folder for each class, or ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar; or photos with masks as "
        "Cityscapes, ADE20K, Pascal VOC and CamVid (train, trainannot, val, valannot) lay them out. Images are copied "
        "as they are, in random order; what is no photo is counted and named. Interrupted, the same command goes on; "
        "it never mixes settings. A second split joins shards of the same classes.",
    )
    parser.add_argument("source", metavar="SRC", type=Path)
    parser.add_argument("target", metavar="DST", type=Path)
    parser.add_argument("--split", choices=SPLITS, help="SRC's folders are the classes of this split")
    parser.add_argument("--val-labels", type=Path, metavar="FILE", help="WordNet ids of ILSVRC's validation images")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the random order (default 0)")
    parser.add_argument("--shard-mb", type=float, default=128, help="largest size of a shard in MB (default 128)")
    workers_option(parser)
    return parser


def main(arguments: list[str]) -> None:
    """Parse the command line and write the shards."""
    options = parser().parse_args(arguments)
    if not 0 < options.shard_mb < 1e9:
        raise DataError(f"--shard-mb {options.shard_mb}: expected more than 0, in MB")
    plain = options.split is None and options.val_labels is None
    images = find_masked(options.source) if plain else None
    if images is None:
        images = find_images(options.source, options.split, options.val_labels, standing_classes(options.target))
    for note in images.notes:
        print(note)
    splits = create(
        images,
        options.target,
        seed=options.seed,
        shard_bytes=int(options.shard_mb * 1e6),
        workers=options.workers,
    )
    if splits is None:
        print(f"{options.target} holds these shards, finished; intvit shards verify {options.target} checks them")
    else:
        print_splits(options.target, splits)
