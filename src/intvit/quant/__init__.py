"""Quantization-aware training: config, values, observers, layers, and the verbs on a whole model."""

from intvit.quant.config import QuantConfig, QuantConfigError, SiteConfig
from intvit.quant.control import (
    adopt_ranges,
    calibrate,
    collect_statistics,
    correct_biases,
    find_ranges,
    finish_calibration,
    finish_construction,
    freeze_observers,
    layers,
    set_mode,
    trace,
)
from intvit.quant.tensor import QTensor, Symbol

__all__ = [
    "QTensor",
    "QuantConfig",
    "QuantConfigError",
    "SiteConfig",
    "Symbol",
    "adopt_ranges",
    "calibrate",
    "collect_statistics",
    "correct_biases",
    "find_ranges",
    "finish_calibration",
    "finish_construction",
    "freeze_observers",
    "layers",
    "set_mode",
    "trace",
]
