"""Calibration: from a float model to one with integer ranges, without training."""

from intvit.calibration.pipeline import calibrate
from intvit.calibration.ranges import (
    Known,
    adopt_ranges,
    collect_statistics,
    correct_biases,
    find_ranges,
    finish_calibration,
    wants_correction,
)

__all__ = [
    "Known",
    "adopt_ranges",
    "calibrate",
    "collect_statistics",
    "correct_biases",
    "find_ranges",
    "finish_calibration",
    "wants_correction",
]
