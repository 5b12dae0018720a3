"""Presets by name, outside a Hydra application."""

from __future__ import annotations

from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from intvit.configuration import build, config_directory
from intvit.data.config import DataConfig
from intvit.quant import QuantConfig


def compose_quant(preset: str, overrides: list[str] | None = None) -> QuantConfig:
    """The `quant` group composed as train.py would: `compose_quant("ivit8", ["quant/gelu=lut"])`."""
    return build(QuantConfig, _compose([f"+quant={preset}", *(overrides or [])], "quant"), "quant")


def photo_config() -> DataConfig:
    """The `data=imagenet` preset; the folder is the caller's to set."""
    return build(DataConfig, _compose(["+data=imagenet"], "data"), "data")


def _compose(overrides: list[str], group: str) -> Any:
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = compose(overrides=overrides)
    return OmegaConf.to_container(config[group], resolve=True)


def preset_names() -> list[str]:
    """Every preset of the `quant` group, sorted."""
    return sorted(path.stem for path in (config_directory() / "quant").glob("*.yaml"))
