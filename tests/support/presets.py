"""Quantization presets, each composed once: Hydra takes as long for one as a small model for an image."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from intvit.quant import QuantConfig
from intvit.quant.presets import compose_quant


def quant_of(preset: str, overrides: Sequence[str] | None = None) -> QuantConfig:
    """As `compose_quant`; a config of its own at every call, because a config counts the sites that asked it."""
    return replace(_composed(preset, tuple(overrides or ())))


@functools.cache
def _composed(preset: str, overrides: tuple[str, ...]) -> QuantConfig:
    return compose_quant(preset, list(overrides))
