"""Types of command-line arguments: a number that is too small is refused where it is read, with the option's name."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def at_least(least: int) -> Callable[[str], int]:
    """A `type=` for argparse: decimal digits of a number >= least. Anything else is an error of the command line."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: expected a number of at least {least}")
        return int(text)

    return read


positive = at_least(1)
