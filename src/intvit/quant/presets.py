"""Quantization presets by name, outside a Hydra application."""

from __future__ import annotations

from pathlib import Path

from intvit.config.presets import compose_group, config_directory
from intvit.config.values import build
from intvit.quant import QuantConfig


def compose_quant(preset: str, overrides: list[str] | None = None, directory: Path | None = None) -> QuantConfig:
    """The `quant` group composed as train.py would: `compose_quant("ivit8", ["quant/gelu=lut"])`.

    directory: with further presets in its folder quant/, what train.py calls --config-dir.
    """
    search = [] if directory is None else [f"hydra.searchpath=[{directory.resolve()}]"]
    return build(QuantConfig, compose_group([f"+quant={preset}", *(overrides or []), *search], "quant"), "quant")


def preset_names(directory: Path | None = None) -> list[str]:
    """Every preset of the `quant` group, sorted; directory: with further ones in its folder quant/, behind them."""
    folders = [config_directory()] if directory is None else [config_directory(), directory]
    files = [sorted(path.stem for path in (folder / "quant").glob("*.yaml")) for folder in folders]
    return [name for names in files for name in names if name != "base"]  # what the others share
