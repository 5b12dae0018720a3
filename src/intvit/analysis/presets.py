"""Quantization presets by name, outside a Hydra application."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from intvit.configuration import build, config_directory
from intvit.quant import QuantConfig


def compose_quant(preset: str, overrides: list[str] | None = None) -> QuantConfig:
    """The `quant` group composed as train.py would: `compose_quant("ivit8", ["quant/gelu=lut"])`."""
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = compose(overrides=[f"+quant={preset}", *(overrides or [])])
    return build(QuantConfig, OmegaConf.to_container(config.quant, resolve=True), "quant")


def preset_names() -> list[str]:
    """Every preset of the `quant` group, sorted."""
    return sorted(path.stem for path in (config_directory() / "quant").glob("*.yaml"))
