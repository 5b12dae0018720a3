"""Calibration: from a float model to one with integer ranges, without training."""

from intvit.calibration.pipeline import Progress, calibrate
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
    (
        "ranges alone",
        (
            "quant.bits.edges=null",
            "quant.bits.gelu_input=null",
            "quant.calibration.rotation=none",
            "quant.calibration.centering=false",
            "quant.calibration.heads=none",
            "quant.calibration.offsets=false",
            "quant.calibration.equalization=none",
            "quant.calibration.rounding=nearest",
            "quant.calibration.reconstruction=0",
            "quant.observer.bias_correction=false",
        ),
    ),
    ("8 bits at the edges", ("quant.bits.edges=8",)),
    ("8 bits into GELU", ("quant.bits.gelu_input=8",)),
    # Before offsets, which make of weights' rounding errors a shift of the mean.
    ("bias correction", ("quant.observer.bias_correction=true",)),
    ("offsets", ("quant.calibration.offsets=true",)),
    ("centering", ("quant.calibration.centering=true",)),
    ("heads", ("quant.calibration.heads=hadamard",)),
    ("equalization", ("quant.calibration.equalization=search",)),
    ("rotation", ("quant.calibration.rotation=orthogonal",)),
    ("rounding", ("quant.calibration.rounding=gptq",)),
    ("reconstruction", ("quant.calibration.reconstruction=1",)),
)

__all__ = [
    "ABLATION",
    "Known",
    "Progress",
    "adopt_ranges",
    "calibrate",
    "collect_statistics",
    "correct_biases",
    "find_ranges",
    "finish_calibration",
    "wants_correction",
]
