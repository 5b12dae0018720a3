"""The typed training config: what conf/train.yaml composes, checked key by key. The schedule has its own file.

Defaults and their reasons stand in conf/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from intvit.arguments import sides_text
from intvit.config.presets import compose_group
from intvit.config.values import Count, Sides, TypedConfig, build
from intvit.data.config import DataConfig
from intvit.errors import IntVitError
from intvit.quant.config import QuantConfig
from intvit.training.schedule import ScheduleConfig


@dataclass(frozen=True)
class ModelConfig(TypedConfig):
    """The `model` group: which architecture at which size, and the weights that it starts from."""

    name: str
    image_size: Sides
    patch_size: Count | None
    num_classes: Count
    mean: tuple[float, ...]
    std: tuple[float, ...]
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    pretrained: bool
    weights: str | None
    # Reduced models of tests; null takes the architecture's own.
    width: Count | None = None
    depth: Count | None = None
    heads: Count | None = None

    def __post_init__(self) -> None:
        if self.pretrained and self.weights:
            raise IntVitError(f"model.pretrained=true and model.weights={self.weights}: give one of them")

    def size(self) -> dict[str, int]:
        """The parts of the architecture's size that the config replaces."""
        return {key: value for key in ("width", "depth", "heads") if (value := getattr(self, key)) is not None}


@dataclass(frozen=True)
class OptimizerConfig(TypedConfig):
    """The `optimizer` group: a class of torch or timm and its options; rates stand in the schedule's phases."""

    target: str
    options: dict[str, Any]
    gradient_clip: Annotated[float, Field(gt=0, description="null for no limit")] | None
    accumulate: Count  # batches per step


@dataclass(frozen=True)
class TrainerConfig(TypedConfig):
    """The `trainer` group: which devices, and in which precision float parts compute."""

    accelerator: str
    devices: int | list[int]
    num_nodes: Count
    strategy: str
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]  # of float phases; weights and ranges stay float32, float64
    log_every_steps: Count


@dataclass(frozen=True)
class WandbConfig(TypedConfig):
    """Weights & Biases beside metrics.csv."""

    project: str
    entity: str | None
    offline: bool


@dataclass(frozen=True)
class LoggerConfig(TypedConfig):
    """The `logger` group. metrics.csv is always written."""

    wandb: WandbConfig | None


@dataclass(frozen=True)
class CallbacksConfig(TypedConfig):
    """The `callbacks` group."""

    checkpoint_every_epochs: Count
    checkpoint_every_steps: Count | None
    validate_every_epochs: Count
    progress: Literal["auto", "bar", "lines", "none"]


@dataclass(frozen=True)
class TrainConfig(TypedConfig):
    """The whole of a composed train.yaml."""

    model: ModelConfig
    quant: QuantConfig
    data: DataConfig
    schedule: ScheduleConfig
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    logger: LoggerConfig
    callbacks: CallbacksConfig
    name: str | None
    seed: int
    ckpt: str | None
    fresh: bool

    def __post_init__(self) -> None:
        if self.model.num_classes != self.data.num_classes:
            raise IntVitError(
                f"model.num_classes={self.model.num_classes} but data.num_classes={self.data.num_classes}: "
                "labels would not fit the classifier"
            )
        if self.model.image_size != self.data.image_size:
            raise IntVitError(
                f"model.image_size={sides_text(self.model.image_size)} but "
                f"data.image_size={sides_text(self.data.image_size)}: "
                "set data.image_size alone"
            )


def train_config(values: Mapping[str, Any]) -> TrainConfig:
    """Check a plain config; raises an IntVitError or ValueError of one line naming the key."""
    return build(TrainConfig, values)


def photo_model_config(name: str, weights: str | None = None) -> ModelConfig:
    """The `model` group for images of `data=imagenet`, holding the weights of a file."""
    values = compose_group([f"+model={name}", "+data=imagenet"], "model")
    return build(ModelConfig, {**values, "weights": weights}, "model")


def logger_config(preset: str) -> LoggerConfig:
    """The `logger` group as train.py would compose it, with overrides after commas: wandb,logger.wandb.offline=true."""
    name, *overrides = preset.split(",")
    return build(LoggerConfig, compose_group([f"+logger={name}", *overrides], "logger"), "logger")
