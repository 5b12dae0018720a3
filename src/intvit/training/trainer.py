"""Lightning's trainer for a config: loggers, callbacks, devices."""

from __future__ import annotations

import os
from pathlib import Path

from intvit.config.run_files import LAST
from intvit.errors import IntVitError
from intvit.torchvision_fix import ensure_torchvision
from intvit.training import run_folder
from intvit.training.averaging import PhaseAwareAveraging
from intvit.training.checkpoints import Checkpoints, Interruption, WholeCheckpointIO
from intvit.training.config import TrainConfig, WandbConfig
from intvit.training.metrics_log import MetricsLog
from intvit.training.run_progress import RunProgress

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402
from lightning_fabric.utilities.exceptions import MisconfigurationException  # noqa: E402
from pytorch_lightning.loggers import Logger, WandbLogger  # noqa: E402


def build_trainer(config: TrainConfig, folder: Path, epochs: int, step: int, interruption: Interruption) -> pl.Trainer:
    """epochs: those of the whole run; step: where it (re)starts."""
    metrics = MetricsLog(folder / run_folder.METRICS)
    metrics.resume_at(step)
    loggers: list[Logger] = [metrics]
    if config.logger.wandb is not None:
        loggers.append(_wandb_logger(config.logger.wandb, folder))
    try:
        return pl.Trainer(
            accelerator=config.trainer.accelerator,
            devices=config.trainer.devices,
            num_nodes=config.trainer.num_nodes,
            strategy=config.trainer.strategy,
            precision=config.trainer.precision,
            # Not max_steps: Lightning resumes such runs wrongly at the end of an epoch (its issue 19617). Where the
            # schedule ends inside the last epoch, the module says so.
            max_epochs=epochs,
            gradient_clip_val=config.optimizer.gradient_clip,
            accumulate_grad_batches=config.optimizer.accumulate,
            check_val_every_n_epoch=config.callbacks.validate_every_epochs,
            log_every_n_steps=config.trainer.log_every_steps,
            num_sanity_val_steps=0,
            logger=loggers,
            callbacks=_callbacks(config, folder, step, interruption),
            plugins=[WholeCheckpointIO()],
            default_root_dir=folder,
            use_distributed_sampler=False,  # the data module splits among ranks by itself
            enable_model_summary=False,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise IntVitError(f"trainer: {' '.join(str(error).split())}") from error


def _callbacks(config: TrainConfig, folder: Path, step: int, interruption: Interruption) -> list[pl.Callback]:
    every = config.callbacks
    checkpoints = Checkpoints(
        folder / LAST, interruption, step, every.checkpoint_every_epochs, every.checkpoint_every_steps
    )
    callbacks: list[pl.Callback] = [RunProgress(every.progress), checkpoints]
    if config.schedule.ema_decay is not None:
        # Before the checkpoints, which save the average of the same step.
        callbacks.insert(1, PhaseAwareAveraging(config.schedule.ema_decay))
    return callbacks


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
