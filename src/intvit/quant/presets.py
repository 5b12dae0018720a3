"""Quantization presets by name, outside a Hydra application."""

from __future__ import annotations

from pathlib import Path

from intvit.config.presets import compose_group
from intvit.config.values import build
from intvit.errors import IntVitError
from intvit.quant import QuantConfig


def compose_quant(preset: str, overrides: list[str] | None = None, directory: Path | None = None) -> QuantConfig:
    """The `quant` group composed as train.py would.

    preset: one of `intvit.presets("quant")`. overrides: parts of it, as on the command line. directory: with further
    presets in its folder quant/, what train.py calls --config-dir.

    Raises IntVitError for a preset, group or key that there is not, and for a value that is not allowed.

    >>> compose_quant("ivit8", ["quant/gelu=lut", "quant.bits.weight=6"]).bits.weight
    6
    """
    search = [] if directory is None else [f"hydra.searchpath=[{directory.resolve()}]"]
    return build(QuantConfig, compose_group([f"+quant={preset}", *(overrides or []), *search], "quant"), "quant")


def quant_config(quant: str | QuantConfig) -> QuantConfig:
    """A config as it is; or that of a preset with overrides after commas, such as ivit8,quant/gelu=lut.

    Raises IntVitError for one that is float.
    """
    if isinstance(quant, str):
        preset, *overrides = quant.split(",")
        quant = compose_quant(preset, overrides)
    if not quant.enabled:
        raise IntVitError(f"quant={quant.name} is float: it has no integer program; choose an integer preset")
    return quant
