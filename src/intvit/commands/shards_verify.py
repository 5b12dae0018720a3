"""`intvit shards verify DIR`: reads every byte, decodes every image, names everything that is off."""

from __future__ import annotations

import argparse
from pathlib import Path

from intvit.commands.argument_types import positive, workers_option
from intvit.commands.shard_options import present, shard_options
from intvit.data.shard_tools.verify import verify
from intvit.photos import MAX_PIXELS


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit shards verify",
        description="Check every shard of a folder: size and checksum against index.json where there is one, "
        "structure, labels, and that every image decodes. The exit code is 1 when anything is off.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--classes", type=positive, help="labels are below it (default: as many as index.json names)")
    parser.add_argument("--max-pixels", type=positive, default=MAX_PIXELS, help="of an image, at most")
    shard_options(parser)
    workers_option(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Parse the command line, verify, print; 1 where anything is off."""
    options = parser().parse_args(arguments)
    patterns = options.train_pattern, options.val_pattern
    form = options.max_pixels, options.workers, patterns, options.label_field
    verified = verify(present(options.folder), options.classes, *form, masks=options.masks)
    for problem in verified.problems:
        print(problem)
    print(
        f"{options.folder}: {verified.shards} shards, {verified.samples} good samples, "
        f"{len(verified.problems)} problems"
    )
    return 1 if verified.problems else 0
