"""Which presets `intvit bench presets` measures: those that are named, or one with calibration's steps, each added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A preset with overrides such as quant/gelu=lut, and its name in the table."""

    label: str
    name: str
    overrides: tuple[str, ...]

    @property
    def preset(self) -> str:
        """As on a command line: overrides after commas."""
        return ",".join((self.name, *self.overrides))


def named(preset: str) -> Measured:
    """A preset with overrides after commas, as it is."""
    name, *overrides = preset.split(",")
    return Measured(preset, name, tuple(overrides))


def cumulative(preset: str, steps: Sequence[tuple[str, Sequence[str]]]) -> list[Measured]:
    """The preset with the overrides of the first step, of the first two, and so on; a later value of a key counts.

    steps: labels and overrides, as `intvit.calibration.ABLATION` has them.

    >>> [row.preset for row in cumulative("w4a8", [("off", ("a=0", "b=0")), ("b", ("b=1",))])]
    ['w4a8,a=0,b=0', 'w4a8,a=0,b=1']
    """
    base = named(preset)
    values = {text.partition("=")[0]: text for text in base.overrides}
    rows = []
    for label, overrides in steps:
        values |= {text.partition("=")[0]: text for text in overrides}
        rows.append(Measured(label, base.name, tuple(values.values())))
    return rows
