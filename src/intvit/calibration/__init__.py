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

# The steps of calibration for an ablation: label, and what is overridden beside the steps before; first, all are off.
ABLATION: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("min-max ranges", ("quant.observer.activation=minmax", "quant.observer.weight=minmax")),
    ("least squared error", ("quant.observer.activation=mse", "quant.observer.weight=mse")),
    ("bias correction", ("quant.observer.bias_correction=true",)),
)

__all__ = [
    "ABLATION",
    "Known",
    "adopt_ranges",
    "calibrate",
    "collect_statistics",
    "correct_biases",
    "find_ranges",
    "finish_calibration",
    "wants_correction",
]
