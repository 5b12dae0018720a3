"""Quantization-aware training: config, values, observers, layers, and the verbs on a whole model."""

from intvit.quant.config import QuantConfig, QuantConfigError, SiteConfig
from intvit.quant.control import finish_construction, freeze_observers, function_digests, quant_layers, set_mode, trace
from intvit.quant.tensor import QTensor, Symbol

__all__ = [
    "QTensor",
    "QuantConfig",
    "QuantConfigError",
    "SiteConfig",
    "Symbol",
    "finish_construction",
    "freeze_observers",
    "function_digests",
    "quant_layers",
    "set_mode",
    "trace",
]
