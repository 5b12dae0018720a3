"""`intvit bench data`: images a second of this reader, of plain webdataset and of ImageFolder with DataLoader.

All read the same JPEGs, 500 x 375 as ImageNet's typical photo, with the same random changes, the same number of
workers and the same batches of uint8. Passes over them are interleaved; medians and ratios are reported, because
machines drift, and CPU time beside wall time, because other programs run too. It is that of the workers as well.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from intvit.bench.data import CHANGES, IMAGENET, compare, make_photos, time_plan, variants_of
from intvit.bench.fresh_process import in_fresh_process
from intvit.commands.argument_types import new_file, positive, workers_option
from intvit.data.config import DataError
from intvit.data.presets import photo_config
from intvit.data.shard_tools.create import create
from intvit.data.shard_tools.source_images import find_images
from intvit.files import write_json


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(prog="intvit bench data", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--images", type=positive, default=1024, help="photos of one pass")
    parser.add_argument("--size", type=positive, nargs=2, default=(500, 375), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--quality", type=positive, default=95, help="of the JPEGs")
    parser.add_argument("--batch", type=positive, default=64)
    workers_option(parser)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--json", type=new_file, help="also write the figures to this file")
    return parser


def main(arguments: list[str]) -> None:
    """Make the photos, measure, print the tables, optionally write JSON."""
    options = parser().parse_args(arguments)
    if options.images < 2 * options.batch:
        raise DataError(f"--images {options.images}: at least two batches of {options.batch} are needed")
    torch.set_num_threads(1)  # as in a worker
    with tempfile.TemporaryDirectory(prefix="intvit-bench-") as folder:
        root = Path(folder)
        size = make_photos(root / "photos" / "train", options.images, tuple(options.size), options.quality)
        create(find_images(root / "photos"), root / "shards", seed=0, shard_bytes=2**24, workers=options.workers)
        print(
            f"{options.images} JPEGs of {options.size[0]} x {options.size[1]}, {size / 1e3:.0f} kB on average; batches "
            f"of {options.batch}, {options.workers} workers, {options.rounds} interleaved passes"
        )
        figures: dict[str, Any] = {}
        photos = photo_config()
        for title, augmented in CHANGES.items():
            auto_augment = photos.train_transform.auto_augment if augmented else None
            config = replace(
                photos,
                root=str(root / "shards"),
                num_classes=2,
                class_names="index",
                batch_size=options.batch,
                workers=options.workers,
                train_transform=replace(photos.train_transform, auto_augment=auto_augment, color_jitter=0.0),
            )
            figures[title] = compare(variants_of(config, root / "photos" / "train"), options.rounds, options.batch)
            _print(title, figures[title])
    figures["plan"] = in_fresh_process(time_plan)
    seconds, megabytes = figures["plan"]
    print(f"plan of an epoch, {IMAGENET[0]:,} samples in {IMAGENET[1]:,} shards: {seconds:.2f} s, {megabytes:.0f} MB")
    if options.json is not None:
        write_json(options.json, figures)


def _print(title: str, figures: dict[str, dict[str, float]]) -> None:
    print(f"\n{title:<26}{'images/s':>10}{'ratio':>8}{'CPU ms':>9}{'ratio':>8}")
    for name, row in figures.items():
        print(
            f"{name:<26}{row['images_per_second']:>10.0f}{row['ratio']:>8.2f}{row['cpu_ms']:>9.2f}{row['cpu_ratio']:>8.2f}"
        )
