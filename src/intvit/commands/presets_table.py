"""The tables of `intvit bench presets`: a block of lines for each preset, and one for each paired comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intvit.bench.intervals import CONFIDENCE
from intvit.bench.paired import paired

# Of every figure: heading, width of its column, digits.
_COLUMNS = {
    "divergence": ("divergence, bits", 25, 4),
    "agreement": ("agreement, %", 23, 1),
    "top1": ("top-1, %", 23, 1),
}


def print_header(calibration: str) -> None:
    """calibration: on what, in words."""
    print(f"calibrated on {calibration}; in brackets {CONFIDENCE:.0f} % bootstrap intervals over the images")
    columns = "".join(f"{heading:>{width}}" for heading, width, _ in _COLUMNS.values())
    print(f"{'preset':<28}{'images':<20}{'count':>6}{columns}", flush=True)


def print_row(row: Mapping[str, Any]) -> None:
    """A row of intvit.bench.presets: a line for each set and kind of class, and one of what it took."""
    name = row.get("step", row["preset"])
    for images, measured in row["sets"].items():
        _print_line(name, images, measured)
        name = ""
        for kind, part in measured["classes"].items():
            _print_line("", f"  classes {kind}", part)
    if row["preset"] != "float":
        print(
            f"{'':<28}mean change of top-1 {row['mean_change']:+.2f}, mismatches {row['mismatches']}/{row['checked']}, "
            f"calibration {row['calibration_cpu']:.1f} CPU s, {row['seconds'] / 60:.1f} minutes in all",
            flush=True,
        )


def _print_line(name: str, images: str, measured: Mapping[str, Any]) -> None:
    cells = []
    for key, (_, width, digits) in _COLUMNS.items():
        low, high = measured["intervals"][key]
        cells.append(f"{f'{measured[key]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]':>{width}}")
    print(f"{name:<28}{images:<20}{measured['count']:>6}{''.join(cells)}", flush=True)


def print_paired(rows: Sequence[Mapping[str, Any]], against: str, sets: Sequence[str]) -> None:
    """For every set a line for each row: how much better `against` is, with standard errors and p.

    rows: presets of `intvit bench presets`.
    """
    base = next(row for row in rows if row["preset"] == against)
    for name in sets:
        print(f"\n{against} minus another preset on {name}; p of the sign test, and of McNemar's exact test")
        print(f"{'preset':<32}{'divergence':>20}{'p':>9}{'agreement':>16}{'p':>9}{'top-1':>16}{'p':>9}")
        for row in rows:
            if row is base:
                continue
            cells = []
            for key, width, form in (("divergence", 20, "+.4f"), ("agreement", 16, "+.2f"), ("top1", 16, "+.2f")):
                mean, error, p = paired(base["sets"][name], row["sets"][name], key)
                cells.append(f"{f'{mean:{form}} ± {error:{form[1:]}}':>{width}}{p:>9.2g}")
            print(f"{row['preset']:<32}{''.join(cells)}")
