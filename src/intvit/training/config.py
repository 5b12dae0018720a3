"""The typed training config: what conf/train.yaml composes, checked key by key. The schedule has its own file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from intvit.config.presets import compose_group
from intvit.config.values import build
from intvit.data.config import DataConfig
from intvit.errors import IntVitError
from intvit.quant.config import QuantConfig
from intvit.training.schedule import ScheduleConfig


@dataclass(frozen=True)
class ModelConfig:
    """The `model` group: which architecture at which size, and the weights that it starts from."""

    name: str
    image_size: int
    patch_size: int | None
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    drop_path: float = 0.0
    pretrained: bool = False
    weights: str | None = None
    # Reduced models of tests; null takes the architecture's own.
    width: int | None = None
    depth: int | None = None
    heads: int | None = None

    def __post_init__(self) -> None:
        if self.pretrained and self.weights:
            raise IntVitError(f"model.pretrained=true and model.weights={self.weights}: give one of them")
        if not 0.0 <= self.drop_path < 1.0:
            raise IntVitError(f"model.drop_path={self.drop_path}: expected at least 0, below 1")

    def size(self) -> dict[str, int]:
        """The parts of the architecture's size that the config replaces."""
        return {key: value for key in ("width", "depth", "heads") if (value := getattr(self, key)) is not None}


@dataclass(frozen=True)
class OptimizerConfig:
    """The `optimizer` group: a class of torch or timm and its options; rates stand in the schedule's phases."""

    target: str
    options: dict[str, Any]
    gradient_clip: float | None = None
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise IntVitError(f"optimizer.accumulate={self.accumulate}: expected at least 1")
        if self.gradient_clip is not None and not 0.0 < self.gradient_clip < math.inf:
            raise IntVitError(f"optimizer.gradient_clip={self.gradient_clip}: expected above 0; null for no limit")


PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # of float phases; weights and ranges stay float32 and float64


@dataclass(frozen=True)
class TrainerConfig:
    """The `trainer` group: which devices, and in which precision float parts compute."""

    accelerator: str = "auto"
    devices: int | list[int] = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    log_every_steps: int = 10

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise IntVitError(f"trainer.precision={self.precision}: expected one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases beside metrics.csv."""

    project: str = "intvit"
    entity: str | None = None
    offline: bool = False


@dataclass(frozen=True)
class LoggerConfig:
    """The `logger` group. metrics.csv is always written."""

    wandb: WandbConfig | None = None


@dataclass(frozen=True)
class CallbacksConfig:
    """The `callbacks` group."""

    checkpoint_every_epochs: int = 1
    checkpoint_every_steps: int | None = None
    validate_every_epochs: int = 1
    progress: Literal["auto", "bar", "lines", "none"] = "auto"

    def __post_init__(self) -> None:
        for key in ("checkpoint_every_epochs", "checkpoint_every_steps", "validate_every_epochs"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise IntVitError(f"callbacks.{key}={value}: expected at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """The whole of a composed train.yaml."""

    model: ModelConfig
    quant: QuantConfig
    data: DataConfig
    schedule: ScheduleConfig
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    logger: LoggerConfig
    callbacks: CallbacksConfig
    name: str | None = None
    seed: int = 0
    ckpt: str | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        if self.model.num_classes != self.data.num_classes:
            raise IntVitError(
                f"model.num_classes={self.model.num_classes} but data.num_classes={self.data.num_classes}: "
                "labels would not fit the classifier"
            )
        if self.model.image_size != self.data.image_size:
            raise IntVitError(
                f"model.image_size={self.model.image_size} but data.image_size={self.data.image_size}: "
                "set data.image_size alone"
            )


def train_config(values: Mapping[str, Any]) -> TrainConfig:
    """Check a plain config; raises an IntVitError or ValueError of one line naming the key."""
    return build(TrainConfig, values)


def logger_config(preset: str) -> LoggerConfig:
    """The `logger` group as train.py would compose it, with overrides after commas: wandb,logger.wandb.offline=true."""
    name, *overrides = preset.split(",")
    return build(LoggerConfig, compose_group([f"+logger={name}", *overrides], "logger"), "logger")
