"""Data presets by name, outside a Hydra application."""

from __future__ import annotations

from intvit.config.presets import compose_group
from intvit.config.values import build
from intvit.data.config import DataConfig


def photo_config() -> DataConfig:
    """The `data=imagenet` preset; the folder is the caller's to set."""
    config: DataConfig = build(DataConfig, compose_group(["+data=imagenet"], "data"), "data")
    return config
