"""The typed training config: what conf/train.yaml composes, checked key by key. The schedule has its own file.

Defaults and their reasons stand in conf/."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from intvit.arguments import sides_text
from intvit.config.presets import compose_group
from intvit.config.values import Count, Sides, TypedConfig, build
from intvit.data.config import DataConfig
from intvit.errors import IntVitError
from intvit.quant.config import QuantConfig
from intvit.tasks import task_named
from intvit.tasks.config import TaskConfig
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
    weights_key: str
    weights_prefix: str | None
    head: Literal["keep", "fresh"]
    resample: bool
    dense: Literal["linear", "multi", "mask"] | None  # head for every pixel; null: scores of the whole image
    # Reduced models of tests; null takes the architecture's own.
    width: Count | None = None
    depth: Count | None = None
    heads: Count | None = None

    def __post_init__(self) -> None:
        if self.pretrained and self.weights:
            raise IntVitError(f"model.pretrained=true and model.weights={self.weights}: give one of them")
        for key, usual in (("weights_key", "auto"), ("weights_prefix", None)):
            if getattr(self, key) != usual and not self.weights:
                raise IntVitError(f"model.{key}={getattr(self, key)} without model.weights: say which file")
        if (self.head == "fresh" or self.resample) and not (self.weights or self.pretrained):
            raise IntVitError(
                "model.head=fresh and model.resample=true change weights that are given: say model.weights=FILE or "
                "model.pretrained=true"
            )

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
    scheduler: dict[str, Any] | None  # of torch, by _target_; null: the phase's cosine


Limit = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class TrainerConfig(TypedConfig):
    """The `trainer` group: which devices, and in which precision float parts compute."""

    accelerator: str
    devices: int | list[int]
    num_nodes: Count
    strategy: str
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]  # of float phases; weights and ranges stay float32, float64
    log_every_steps: Count
    wait_minutes: Annotated[float, Field(gt=0)]  # for ranks that have not started
    profiler: Literal["simple", "advanced", "pytorch"] | None
    limit_train_batches: Limit | None  # of an epoch: a number, or a share
    limit_val_batches: Limit | None
    overfit_batches: Limit | None  # the same few at every epoch, to see whether a model can learn them by heart
    deterministic: Literal["warn"] | bool | None
    detect_anomaly: bool | None
    max_time: (
        Annotated[str, Field(pattern=r"^\d+(:\d+){3}$", title="days:hours:minutes:seconds, such as 00:08:00:00")] | None
    )
    others: dict[str, Any]  # every other argument of Lightning's Trainer

    def seconds(self) -> float:
        """How long this start of the run may take; infinite where nothing limits it."""
        if self.max_time is None:
            return math.inf
        days, hours, minutes, seconds = map(int, self.max_time.split(":"))
        return ((24 * days + hours) * 60 + minutes) * 60 + seconds

    def batches(self, batches: int, part: Literal["train", "val"]) -> int:
        """How many batches of an epoch are trained with, or of a validation looked at, of so many."""
        for key in (f"limit_{part}_batches", "overfit_batches"):
            limit = getattr(self, key)
            if limit is not None:
                batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        if not batches:
            raise IntVitError(f"trainer.limit_{part}_batches or overfit_batches leaves no batch; say a larger share")
        return batches


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
    others: dict[str, dict[str, Any]]  # any of Lightning's or one's own: name -> _target_


@dataclass(frozen=True)
class CallbacksConfig(TypedConfig):
    """The `callbacks` group."""

    checkpoint_every_epochs: Count
    checkpoint_every_steps: Count | None
    best: str | None  # figure of a validation whose best state is kept, such as integer/top1; auto: of what is exported
    keep_best: Count  # so many of the best, best.ckpt and step-N.ckpt
    keep_every_epochs: Count | None  # step-N.ckpt after every N epochs
    validate_every_epochs: Count
    progress: Literal["auto", "bar", "lines", "none"]
    others: dict[str, dict[str, Any]]  # any of Lightning's or one's own: name -> _target_

    def watched(self, quantized: bool, figures: Sequence[str]) -> tuple[str, str] | None:
        """Mode and figure of a validation that `best` names; None where nothing is kept.

        figures: those of the task, the one of `auto` first.
        """
        if self.best is None:
            return None
        name = f"{'integer' if quantized else 'float'}/{figures[0]}" if self.best == "auto" else self.best
        mode, _, figure = name.partition("/")
        if mode not in ("float", "integer") or figure not in (*figures, "agreement"):
            raise IntVitError(
                f"callbacks.best={self.best}: expected auto, null or float/ or integer/ with {', '.join(figures)} or "
                "agreement"
            )
        return mode, figure


OPEN_GROUPS: dict[str, type[TypedConfig]] = {
    "trainer": TrainerConfig,
    "logger": LoggerConfig,
    "callbacks": CallbacksConfig,
}
# Arguments of Lightning's Trainer that stand elsewhere in a config.
TAKEN = {
    "max_epochs": "the phases of the schedule say how long, such as schedule.qat.epochs=3",
    "min_epochs": "the phases of the schedule say how long, such as schedule.qat.epochs=3",
    "max_steps": "the phases of the schedule say how long, such as schedule.qat.steps=300",
    "min_steps": "the phases of the schedule say how long, such as schedule.qat.steps=300",
    "accumulate_grad_batches": "say optimizer.accumulate=N",
    "gradient_clip_val": "say optimizer.gradient_clip=NORM",
    "check_val_every_n_epoch": "say callbacks.validate_every_epochs=N",
    "log_every_n_steps": "say trainer.log_every_steps=N",
    "default_root_dir": "say hydra.run.dir=FOLDER",
    "logger": "loggers are the group logger, as logger=tensorboard",
    "callbacks": "callbacks are a group of their own: +callbacks.NAME._target_=CLASS",
    "fast_dev_run": "say debug=fast: two batches of everything, checkpoints and evaluation included",
    "plugins": "a run has its own, for whole checkpoints and for the launcher that started it",
    "use_distributed_sampler": "the data module splits images among ranks by itself",
    "reload_dataloaders_every_n_epochs": "every epoch has an order of its own anyway",
    "enable_progress_bar": "say callbacks.progress=none",
    "enable_checkpointing": "runs are always resumable; callbacks.checkpoint_every_epochs=N saves more rarely",
}


@dataclass(frozen=True)
class TrainConfig(TypedConfig):
    """The whole of a composed train.yaml."""

    task: TaskConfig
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
        if self.model.dense != self.task.head:
            raise IntVitError(f"model.dense={self.model.dense} but task.head={self.task.head}: set task.head alone")
        wanted = task_named(self.task.name).labels
        if self.data.labels != wanted:
            raise IntVitError(
                f"task={self.task.name} learns from {wanted}, and data={self.data.name} has data.labels="
                f"{self.data.labels}: choose data and task that fit, such as task=segmentation data=camvid"
            )


def train_config(values: Mapping[str, Any]) -> TrainConfig:
    """Check a plain config; raises an IntVitError or ValueError of one line naming the key."""
    opened = {**values}
    for group, kind in OPEN_GROUPS.items():
        if isinstance(values.get(group), Mapping):
            opened[group] = _opened(values[group], kind, group)
    return build(TrainConfig, opened)


def _opened(values: Mapping[str, Any], kind: type[TypedConfig], group: str) -> dict[str, Any]:
    """A group with what others bring along under `others`: entries with a _target_, arguments of the trainer."""
    own = {part.name for part in fields(typing.cast("Any", kind))} - {"others"}
    foreign = {key: value for key, value in values.items() if key not in own}
    if kind is not TrainerConfig:
        foreign = {key: value for key, value in foreign.items() if isinstance(value, Mapping) and "_target_" in value}
    for key in foreign:
        if reason := TAKEN.get(key) if kind is TrainerConfig else None:
            raise IntVitError(f"{group}.{key}: {reason}")
    return {**{key: value for key, value in values.items() if key not in foreign}, "others": foreign}


def photo_model_config(name: str, weights: str | None = None) -> ModelConfig:
    """The `model` group for images of `data=imagenet`, holding the weights of a file."""
    values = compose_group([f"+model={name}", "+data=imagenet"], "model")
    return build(ModelConfig, {**values, "weights": weights}, "model")


def logger_config(preset: str) -> LoggerConfig:
    """The `logger` group as train.py would compose it, with overrides after commas: wandb,logger.wandb.offline=true."""
    name, *overrides = preset.split(",")
    values = compose_group([f"+logger={name}", *overrides], "logger")
    return build(LoggerConfig, _opened(values, LoggerConfig, "logger"), "logger")
