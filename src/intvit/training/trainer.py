"""Lightning's trainer for a config: loggers, callbacks, devices."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException

from intvit.config.environment import started_ranks
from intvit.config.run_files import LAST
from intvit.errors import IntVitError
from intvit.tasks import task_named
from intvit.torchvision_fix import ensure_torchvision
from intvit.training import run_folder
from intvit.training.averaging import PhaseAwareAveraging
from intvit.training.checkpoints import Checkpoints, Interruption, WholeCheckpointIO
from intvit.training.config import TrainConfig, TrainerConfig, WandbConfig
from intvit.training.kept_checkpoints import KeptCheckpoints
from intvit.training.metrics_log import MetricsLog
from intvit.training.run_progress import RunProgress

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402
from lightning_fabric.plugins.environments.lightning import LightningEnvironment  # noqa: E402
from lightning_fabric.utilities.exceptions import MisconfigurationException  # noqa: E402
from pytorch_lightning.loggers import Logger, WandbLogger  # noqa: E402

# Of our own keys, those that Lightning's Trainer has by the same name, null for its default.
PASSED = (
    "profiler",
    "limit_train_batches",
    "limit_val_batches",
    "overfit_batches",
    "deterministic",
    "detect_anomaly",
)


def build_trainer(config: TrainConfig, folder: Path, epochs: int, step: int, interruption: Interruption) -> pl.Trainer:
    """epochs: those of the whole run; step: where it (re)starts."""
    metrics = MetricsLog(folder / run_folder.METRICS)
    metrics.resume_at(step)
    loggers: list[Logger] = [metrics]
    if config.logger.wandb is not None:
        loggers.append(_wandb_logger(config.logger.wandb, folder))
    loggers += [_made(entry, f"logger.{name}", Logger, folder) for name, entry in config.logger.others.items()]
    given = {key: getattr(config.trainer, key) for key in PASSED}
    given = {key: value for key, value in given.items() if value is not None} | config.trainer.others
    lightning = inspect.signature(pl.Trainer).parameters
    if unknown := next((key for key in given if key not in lightning), None):
        near = difflib.get_close_matches(unknown, [*(part.name for part in fields(TrainerConfig)), *lightning], 1)
        hint = f"did you mean {near[0]}?" if near else "no argument of Lightning's Trainer either"
        raise IntVitError(f"trainer.{unknown}: unknown key; {hint}")
    callbacks = _callbacks(config, folder, step, interruption)
    try:
        return pl.Trainer(
            accelerator=config.trainer.accelerator,
            devices=config.trainer.devices,
            num_nodes=config.trainer.num_nodes,
            strategy=_strategy(config.trainer.strategy),
            precision=config.trainer.precision,
            # Not max_steps: Lightning resumes such runs wrongly at the end of an epoch (its issue 19617). Where the
            # schedule ends inside the last epoch, the module says so.
            max_epochs=epochs,
            gradient_clip_val=config.optimizer.gradient_clip,
            accumulate_grad_batches=config.optimizer.accumulate,
            check_val_every_n_epoch=config.callbacks.validate_every_epochs,
            log_every_n_steps=config.trainer.log_every_steps,
            logger=loggers,
            callbacks=callbacks,
            plugins=_plugins(),
            default_root_dir=folder,
            use_distributed_sampler=False,  # the data module splits among ranks by itself
            **{"num_sanity_val_steps": 0, "enable_model_summary": False, **given},
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise IntVitError(f"trainer: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def one_line_refusals() -> Iterator[None]:
    """What Lightning and its callbacks refuse while they run is the user's to put right: IntVitError in their words."""
    try:
        yield
    except (MisconfigurationException, RuntimeError) as error:
        missing = "conditioned on metric" in str(error) or "monitored key" in str(error)
        if not missing and not isinstance(error, MisconfigurationException):
            raise
        hint = "; integer/ figures come with phase qat: strict=false waits for them, callbacks.best=FIGURE keeps states"
        raise IntVitError(f"{' '.join(str(error).split())}{hint if missing else ''}") from error


@contextlib.contextmanager
def finished_loggers(trainer: pl.Trainer) -> Iterator[None]:
    """End what W&B has begun: the next run of this process would be logged into it."""
    import wandb

    code = 1
    try:
        yield
        code = 0
    except SystemExit as end:  # to be gone on with
        code = 0 if end.code == 0 else 1
        raise
    finally:
        if trainer.is_global_zero and any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            wandb.finish(exit_code=code)


def _strategy(asked: str) -> str:
    """One rank alone needs no group, and so no port, that a dying start of the same job might still hold."""
    return "auto" if asked.startswith("ddp") and started_ranks().world_size == 1 else asked


def _plugins() -> list[Any]:
    """Without a launcher one process trains, whatever SLURM job is around it: Lightning would wait for its tasks."""
    alone = started_ranks().launcher is None
    return [WholeCheckpointIO(), *([LightningEnvironment()] if alone else [])]


def _callbacks(config: TrainConfig, folder: Path, step: int, interruption: Interruption) -> list[pl.Callback]:
    every = config.callbacks
    last = folder / LAST
    watched = every.watched(config.quant.enabled, tuple(task_named(config.task.name).figures))
    kept = KeptCheckpoints(last.parent, watched, every.keep_best, every.keep_every_epochs)
    checkpoints = Checkpoints(
        last, interruption, step, every.checkpoint_every_epochs, every.checkpoint_every_steps, kept
    )
    others = [_made(entry, f"callbacks.{name}", pl.Callback, folder) for name, entry in every.others.items()]
    callbacks: list[pl.Callback] = [RunProgress(every.progress), *others, checkpoints]
    if config.schedule.ema_decay is not None:
        # Before the checkpoints, which save the average of the same step.
        callbacks.insert(1, PhaseAwareAveraging(config.schedule.ema_decay))
    return callbacks


def _made(entry: Mapping[str, Any], key: str, kind: Any, folder: Path) -> Any:
    """The object that a config describes by `_target_`; loggers save into the run folder unless they are told where.

    Raises IntVitError naming the key for a class that is not there, arguments that it refuses, and another kind.
    """
    target, given = str(entry["_target_"]), dict(entry)
    try:
        with contextlib.suppress(ValueError):  # builtins show no signature
            # not hydra.utils.get_object, which logs what it raises
            make = hydra.utils.instantiate({"_target_": target, "_partial_": True})
            if "save_dir" in inspect.signature(make.func).parameters:
                given = {"save_dir": str(folder), **given}
        made = hydra.utils.instantiate(given)
    except (InstantiationException, ImportError, AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise IntVitError(f"{key}._target_={target}: {reason}") from error
    if not isinstance(made, kind):
        raise IntVitError(f"{key}._target_={target} makes a {type(made).__name__}, expected a {kind.__name__}")
    return made


def _wandb_logger(config: WandbConfig, folder: Path) -> WandbLogger:
    return WandbLogger(
        name=folder.name,
        # The same run again after a resume; the agent of a W&B sweep chooses its own.
        id=None if "WANDB_SWEEP_ID" in os.environ else folder.name,
        save_dir=folder,
        project=config.project,
        entity=config.entity,
        offline=config.offline,
    )
