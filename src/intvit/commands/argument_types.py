"""Types of command-line arguments: numbers too small and places that take no files are refused before any work."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from intvit.errors import IntVitError
from intvit.processors import usable_processors


def at_least(least: int) -> Callable[[str], int]:
    """A `type=` for argparse: decimal digits of a number >= least. Anything else is an error of the command line."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: expected a number of at least {least}")
        return int(text)

    return read


positive = at_least(1)


def image_size(text: str) -> tuple[int, int]:
    """A `type=` for argparse: height and width, of `224` or `160x224`."""
    sides = text.split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text}: expected pixels, such as 224, or HEIGHTxWIDTH, such as 160x224")
    return int(sides[0]), int(sides[-1])


def threads(text: str) -> int:
    """A `type=` for argparse: threads that a process may ask for; far more than CPUs only wait for each other."""
    most = max(64, 4 * (os.cpu_count() or 1))
    if positive(text) > most:
        raise argparse.ArgumentTypeError(f"{text}: expected at most {most}; this machine has {os.cpu_count()} CPUs")
    return int(text)


def name(text: str) -> str:
    """A `type=` for argparse: a name that a folder can have."""
    if not text.strip() or text in (".", "..") or "/" in text:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a name, without /")
    return text


def model_name(text: str) -> str:
    """A `type=` for argparse: one of our models, or one of timm's that ours compute."""
    from intvit.models.registry import size_named

    try:
        size_named(text)
    except IntVitError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def new_file(text: str) -> Path:
    """A `type=` for argparse: where a file can be written, in folders that may yet have to be made."""
    path = Path(text)
    if not path.name or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file")
    _check_place(path.parent)
    return path


def new_folder(text: str) -> Path:
    """A `type=` for argparse: a folder, or where one can be made."""
    _check_place(Path(text))
    return Path(text)


def _check_place(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there} is a file; expected a folder")
    if not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"{there} is a folder that you may not write to")


def image_size_option(parser: argparse.ArgumentParser) -> None:
    """--image-size N or HxW."""
    parser.add_argument(
        "--image-size", type=image_size, default=(224, 224), metavar="N|HxW", help="pixels (default 224)"
    )


def workers_option(parser: argparse.ArgumentParser) -> None:
    """--workers N."""
    count = usable_processors()
    parser.add_argument(
        "--workers", type=positive, default=count, help=f"processes (default {count}, one for each CPU)"
    )
