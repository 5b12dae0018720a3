"""`intvit shards info DIR`: what index.json says, as a table."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from intvit.commands.shard_options import present
from intvit.data.config import DataError
from intvit.data.index import INDEX, read_index, read_split


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit shards info", description="Samples, classes and bytes of a folder of shards, from its index.json."
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    return parser


def main(arguments: list[str]) -> None:
    """Parse the command line and print the table."""
    folder = present(parser().parse_args(arguments).folder)
    if not (folder / INDEX).exists():
        raise DataError(f"{folder}: holds no {INDEX}; `intvit shards index {folder}` writes it")
    index = read_index((folder / INDEX).read_bytes(), str(folder / INDEX))
    table = Table("split", "shards", "samples", "bytes", "classes", "samples a class", "samples a shard", "image")
    for split, record in index.splits.items():
        path = folder / record.table
        described = read_split(record, path.read_bytes(), str(path))
        masks, classes = len(described.table) == 5, np.bincount(described.table[2])
        classes = classes[classes > 0]
        shards = [shard.samples for shard in described.shards]
        table.add_row(
            split,
            str(len(shards)),
            str(described.table.shape[1]),
            decimal(sum(shard.bytes for shard in described.shards)),
            "masks" if masks else str(len(classes)),
            "-" if masks else f"{min(classes, default=0)} to {max(classes, default=0)}",
            f"{min(shards, default=0)} to {max(shards, default=0)}",
            decimal(int(np.median(described.table[1]))) if len(classes) else "-",
        )
    Console().print(table)
    settings = index.settings
    print(f"shuffled by intvit shards create, seed {settings['seed']}" if settings else "written by another program")
    if index.classes:
        print(f"{len(index.classes)} class names: {', '.join(index.classes[:3])}, ...")
