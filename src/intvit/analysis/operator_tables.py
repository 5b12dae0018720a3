"""Errors of every family of softmax, GELU and LayerNorm over settings of their inputs, as rows."""

from __future__ import annotations

from typing import Any

from intvit.analysis import operator_error
from intvit.analysis.operator_error import (
    LAYERNORM_VARIANTS,
    REACHES,
    SPREADS,
    STREAMS,
    OperatorError,
)

SHARES = (0.02, 0.05, 0.1, 0.25)  # standard deviation of a stream's rows over its range


def _row(error: OperatorError, **settings: Any) -> dict[str, Any]:
    return {**settings, "largest": error.largest, "mean": error.mean, "divergence": error.divergence}


def softmax_rows() -> list[dict[str, Any]]:
    """Every family at 8- and 16-bit weights over spreads of the logits."""
    inputs = {spread: operator_error.normal_logits(spread) for spread in SPREADS}
    return [
        _row(operator_error.softmax_error(variant, x, bits), family=name, weights=f"{bits}-bit weights", spread=spread)
        for bits in (8, 16)
        for name, variant in operator_error.softmax_variants().items()
        for spread, x in inputs.items()
    ]


def gelu_rows() -> list[dict[str, Any]]:
    """Every family over ranges of the input."""
    inputs = {reach: operator_error.normal_activations(reach) for reach in REACHES}
    return [
        _row(operator_error.gelu_error(variant, x), family=name, range=reach, operator="GELU, int8 to int8")
        for name, variant in operator_error.gelu_variants().items()
        for reach, x in inputs.items()
    ]


def layernorm_rows() -> list[dict[str, Any]]:
    """Every family over streams and how much of their range rows use."""
    inputs = {(stream, share): operator_error.normal_stream(stream, share) for stream in STREAMS for share in SHARES}
    return [
        _row(operator_error.layernorm_error(variant, x), family=name, stream=stream, share=share)
        for name, variant in LAYERNORM_VARIANTS.items()
        for (stream, share), x in inputs.items()
    ]
