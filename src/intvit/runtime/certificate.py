"""The range certificate of a program: what is proven for every image, beside what given ones reached. No torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from intvit.arguments import whole_number
from intvit.program import OperatorBounds, Program, bounds
from intvit.program.certificate import Row, rows
from intvit.program.interval_arithmetic import Range
from intvit.runtime import as_program
from intvit.runtime.images import read_images
from intvit.runtime.observed import observe


@dataclass(frozen=True)
class Certificate:
    """rows: the table. operators: the proof by operator. accumulator: the width in bits that was asked for, or None."""

    rows: list[Row]
    operators: dict[str, OperatorBounds]
    accumulator: int | None

    @property
    def sums(self) -> dict[str, Range]:
        """By operator what the accumulators of linear layers and matrix products may reach, partial sums included."""
        return {name: entry.accumulator for name, entry in self.operators.items() if entry.accumulator}

    @property
    def bits(self) -> int:
        """Width of the narrowest accumulator that is enough for every sum."""
        return max((seen.bits for seen in self.sums.values()), default=0)

    @property
    def wider(self) -> dict[str, Range]:
        """The sums that need more than `accumulator` bits; none where no width was asked for."""
        if self.accumulator is None:
            return {}
        return {name: seen for name, seen in self.sums.items() if seen.bits > self.accumulator}

    @property
    def enough(self) -> bool:
        """Whether accumulators of `accumulator` bits overflow for no image at all."""
        return not self.wider


def certify(
    source: Program | str | os.PathLike[str],
    accumulator: int | None = None,
    *,
    images: np.ndarray | Sequence[str | Path] = (),
    every: bool = False,
) -> Certificate:
    """Prove from the weights alone what every operator may reach, for any uint8 image.

    source: a program, or the folder of an integer checkpoint. accumulator: a width in bits; `enough` of the result says
    whether all sums fit. images: uint8 (B, C, H, W), or files of `read_images`, whose outputs' extremes the rows
    show beside the proven ones. every: a row for each operator, instead of one for those that differ in an index only.

    Raises ProgramError (an IntVitError) for a folder that holds no whole checkpoint and a program that may overflow;
    IntVitError for an accumulator that is no whole number of at least 1.

    >>> certificate = certify(folder, accumulator=24)
    >>> certificate.enough, certificate.bits <= 24, certificate.rows[0].name
    (True, True, 'input')
    """
    if accumulator is not None:
        accumulator = whole_number("accumulator", accumulator)
    program = as_program(source)
    proven = bounds(program)
    given = read_images(program, images)
    reached = observe(program, given) if len(given) else {}
    return Certificate(rows(program, proven, reached, joined=not every), proven, accumulator)
