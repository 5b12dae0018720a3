"""Presets by name, models of them, and their images, outside a Hydra application."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn

from intvit.configuration import build, config_directory
from intvit.data.config import DataConfig
from intvit.errors import IntVitError
from intvit.models import create_model
from intvit.quant import QuantConfig
from intvit.training.config import LoggerConfig


def compose_quant(preset: str, overrides: list[str] | None = None, directory: Path | None = None) -> QuantConfig:
    """The `quant` group composed as train.py would: `compose_quant("ivit8", ["quant/gelu=lut"])`.

    directory: with further presets in its folder quant/, what train.py calls --config-dir.
    """
    search = [] if directory is None else [f"hydra.searchpath=[{directory.resolve()}]"]
    return build(QuantConfig, _compose([f"+quant={preset}", *(overrides or []), *search], "quant"), "quant")


def photo_config() -> DataConfig:
    """The `data=imagenet` preset; the folder is the caller's to set."""
    return build(DataConfig, _compose(["+data=imagenet"], "data"), "data")


def photo_model(name: str, quant: str, data: DataConfig) -> nn.Module:
    """Model `name` for the images of `data`, random weights; `quant`: an integer preset, with overrides after commas.

    Raises IntVitError for a preset that is float.
    """
    preset, *overrides = quant.split(",")
    config = compose_quant(preset, overrides)
    if not config.enabled:
        raise IntVitError(f"--quant {preset} is float: it has no integer program; choose an integer preset")
    return create_model(
        name,
        image_size=data.image_size,
        patch_size=None,
        num_classes=data.num_classes,
        mean=data.mean,
        std=data.std,
        quant=config,
    )


def first_images(loader: Iterable[tuple[Tensor, Tensor]], count: int | None) -> tuple[Tensor, Tensor]:
    """The first `count` (None: all) images of a loader: uint8 (N, C, H, W), and their labels, int64 (N,)."""
    images, labels, seen = [], [], 0
    for batch, target in loader:
        images.append(batch)
        labels.append(target)
        seen += len(batch)
        if count is not None and seen >= count:
            break
    return torch.cat(images)[:count], torch.cat(labels)[:count]


def _compose(overrides: list[str], group: str) -> Any:
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        config = compose(overrides=overrides)
    return OmegaConf.to_container(config[group], resolve=True)


def logger_config(preset: str) -> LoggerConfig:
    """The `logger` group as train.py would compose it, with overrides after commas: wandb,logger.wandb.offline=true."""
    name, *overrides = preset.split(",")
    return build(LoggerConfig, _compose([f"+logger={name}", *overrides], "logger"), "logger")


def preset_names(directory: Path | None = None) -> list[str]:
    """Every preset of the `quant` group, sorted; directory: with further ones in its folder quant/, behind them."""
    folders = [config_directory()] if directory is None else [config_directory(), directory]
    return [name for folder in folders for name in sorted(path.stem for path in (folder / "quant").glob("*.yaml"))]
