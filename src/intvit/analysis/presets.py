"""Presets by name, and models of them, outside a Hydra application."""

from __future__ import annotations

from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from intvit.configuration import build, config_directory
from intvit.data.config import DataConfig
from intvit.models import create_model
from intvit.quant import QuantConfig


def compose_quant(preset: str, overrides: list[str] | None = None) -> QuantConfig:
    """The `quant` group composed as train.py would: `compose_quant("ivit8", ["quant/gelu=lut"])`."""
    return build(QuantConfig, _compose([f"+quant={preset}", *(overrides or [])], "quant"), "quant")


def photo_config() -> DataConfig:
    """The `data=imagenet` preset; the folder is the caller's to set."""
    return build(DataConfig, _compose(["+data=imagenet"], "data"), "data")


def photo_model(name: str, quant: str, data: DataConfig) -> nn.Module:
    """Model `name` for the images of `data`, random weights; `quant` has overrides after commas."""
    preset, *overrides = quant.split(",")
    return create_model(
        name,
        image_size=data.image_size,
        patch_size=None,
        num_classes=data.num_classes,
        mean=data.mean,
        std=data.std,
        quant=compose_quant(preset, overrides),
    )


def _compose(overrides: list[str], group: str) -> Any:
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = compose(overrides=overrides)
    return OmegaConf.to_container(config[group], resolve=True)


def preset_names() -> list[str]:
    """Every preset of the `quant` group, sorted."""
    return sorted(path.stem for path in (config_directory() / "quant").glob("*.yaml"))
