"""`train(config)`: from a composed config to a trained model and its summary. train.py calls it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from intvit.config.environment import is_first_rank
from intvit.config.identity import identity_hash, plain
from intvit.data.shards import open_split
from intvit.errors import IntVitError
from intvit.files import holding, write_json
from intvit.torchvision_fix import ensure_torchvision
from intvit.training import ranks, run_folder
from intvit.training.averaging import PhaseAwareAveraging
from intvit.training.checkpoints import Checkpoints, Interruption, WholeCheckpointIO
from intvit.training.config import TrainConfig, train_config
from intvit.training.metrics_log import MetricsLog
from intvit.training.module import TrainingModule
from intvit.training.optimizer import build_optimizer
from intvit.training.restore import STATE, build_model, load_state, read_checkpoint
from intvit.training.run_folder import LAST
from intvit.training.run_progress import RunProgress
from intvit.training.schedule import Plan, plan

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402

from intvit.data.data_module import ShardDataModule  # noqa: E402


def train(config: DictConfig | Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """Train as `config` (composed from conf/train.yaml) says, in the run folder `folder`; returns the summary.

    The summary has `float` and `integer` (null without quantization) with top1 and top5 in percent over the whole
    validation set. A run that has ended returns its summary again. Raises an IntVitError or another ValueError of
    one line for anything that the user can put right, before the folder holds anything of the run.
    """
    values, folder = plain(config), Path(folder)
    typed = train_config(values)
    ranks.check(typed.trainer)
    start = run_folder.prepare(folder, values, typed.ckpt, typed.fresh)
    if start.summary is not None:
        _say(f"{folder} holds this run, finished; fresh=true starts it over")
        _report(folder, start.summary)
        return start.summary
    _quiet()
    pl.seed_everything(typed.seed, verbose=False)
    laid = plan(typed.schedule, 1, typed.quant.enabled)
    data = ShardDataModule(typed.data)
    # Before anything is written: what is wrong with shards, weights or optimizer shows here.
    for split in ("train", "val") if laid.spans or laid.calibrates else ("val",):
        open_split(typed.data, split)
    module = TrainingModule(build_model(typed.model, typed.quant), typed)
    build_optimizer(module.model, typed.optimizer)
    step = 0 if start.checkpoint is None else _step_of(start.checkpoint, folder, module, laid)
    with Interruption() as interruption:
        trainer = build_trainer(typed, folder, step, interruption)
        facts = {"config": identity_hash(values), "callbacks": typed.callbacks, "run folder": str(folder), "step": step}
        with ranks.met_ranks(trainer, facts), _writing(trainer, folder):
            if trainer.is_global_zero:
                if start.clear:
                    run_folder.clear(folder)
                run_folder.write_config(folder, values)
                _announce(typed, folder, start, step)
            if laid.spans:
                trainer.fit(module, datamodule=data, ckpt_path=start.checkpoint, weights_only=True)
            return _finish(trainer, module, data, values, folder)


def _step_of(path: Path, folder: Path, module: TrainingModule, laid: Plan) -> int:
    """The step that a checkpoint goes on at. Raises IntVitError where it is none of this model and schedule."""
    checkpoint = read_checkpoint(path)
    if not laid.spans:  # calibration alone begins anew
        if path != folder / LAST:
            raise IntVitError(
                f"ckpt={path}: this schedule takes no step to go on with; model.weights=FILE takes weights"
            )
        return 0
    load_state(module.model, checkpoint, path, "this run's config")
    if checkpoint[STATE]["phase"] >= len(laid.spans):
        raise IntVitError(
            f"{path} is of a schedule with more phases than this one; model.weights=FILE takes weights alone"
        )
    return int(checkpoint["global_step"])


def _writing(trainer: pl.Trainer, folder: Path) -> contextlib.AbstractContextManager[None]:
    """The first rank alone writes, and keeps other runs out."""
    return holding(folder) if trainer.is_global_zero else contextlib.nullcontext()


def _announce(config: TrainConfig, folder: Path, start: run_folder.Start, step: int) -> None:
    _say(f"{folder}: {'goes on at step ' + str(step) if start.checkpoint else 'starts'}")
    if config.schedule.float is None and not (config.model.pretrained or config.model.weights or start.checkpoint):
        _say("note: random weights and no float phase; model.pretrained=true or model.weights=FILE gives weights")


def build_trainer(config: TrainConfig, folder: Path, step: int, interruption: Interruption) -> pl.Trainer:
    """Lightning's trainer for the config; `step` is where the run (re)starts."""
    metrics = MetricsLog(folder / run_folder.METRICS)
    metrics.resume_at(step)
    loggers: list[Any] = [metrics]
    if config.logger.wandb is not None:
        from pytorch_lightning.loggers import WandbLogger

        wandb = config.logger.wandb
        loggers.append(
            WandbLogger(
                name=folder.name,
                # The same run again after a resume; the agent of a W&B sweep chooses its own.
                id=None if "WANDB_SWEEP_ID" in os.environ else folder.name,
                save_dir=folder,
                project=wandb.project,
                entity=wandb.entity,
                offline=wandb.offline,
            )
        )
    callbacks: list[pl.Callback] = [RunProgress(config.callbacks.progress)]
    if config.schedule.ema_decay is not None:
        callbacks.append(PhaseAwareAveraging(config.schedule.ema_decay))
    every = config.callbacks
    callbacks.append(
        Checkpoints(folder / LAST, interruption, every.checkpoint_every_epochs, every.checkpoint_every_steps)
    )
    try:
        return pl.Trainer(
            accelerator=config.trainer.accelerator,
            devices=config.trainer.devices,
            num_nodes=config.trainer.num_nodes,
            strategy=config.trainer.strategy,
            precision=config.trainer.precision,  # type: ignore[arg-type]
            max_epochs=-1,  # the module stops at the schedule's last step
            gradient_clip_val=config.optimizer.gradient_clip,
            accumulate_grad_batches=config.optimizer.accumulate,
            check_val_every_n_epoch=config.callbacks.validate_every_epochs,
            log_every_n_steps=config.trainer.log_every_steps,
            num_sanity_val_steps=0,
            logger=loggers,
            callbacks=callbacks,
            plugins=[WholeCheckpointIO()],
            default_root_dir=folder,
            use_distributed_sampler=False,  # the data module splits among ranks by itself
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (ValueError, RuntimeError, pl.utilities.exceptions.MisconfigurationException) as error:
        raise IntVitError(f"trainer: {' '.join(str(error).split())}") from error


def _finish(
    trainer: pl.Trainer, module: TrainingModule, data: ShardDataModule, config: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Evaluate in both modes, save the last state, write the summary."""
    modes = ["float", "integer"] if module.config.quant.enabled and module.config.schedule.calibrate else ["float"]
    for module.final_mode in modes:
        trainer.validate(module, datamodule=data, verbose=False)
    trainer.save_checkpoint(folder / LAST)
    summary = {
        "name": folder.name,
        "experiment": identity_hash(config),
        "commit": run_folder.commit(),
        "steps": trainer.global_step,
        "seconds": round(module.elapsed(), 1),
        "float": module.final["float"],
        "integer": module.final.get("integer"),
        "before_qat": module.before_qat,
        "history": module.history,
    }
    if trainer.is_global_zero:
        write_json(folder / run_folder.SUMMARY, summary)
        _report(folder, summary)
    return summary


def _report(folder: Path, summary: Mapping[str, Any]) -> None:
    for mode in ("float", "integer"):
        if (measured := summary.get(mode)) is not None:
            agreement = f", agreement with the teacher {measured['agreement']:.2f} %" if "agreement" in measured else ""
            _say(f"{mode:>8}: top-1 {measured['top1']:.2f} %, top-5 {measured['top5']:.2f} %{agreement}")
    _say(f"{summary['steps']} steps, {summary['seconds']:.0f} s; next: python evaluate.py ckpt={folder}")


def _say(text: str) -> None:
    if is_first_rank():
        print(text, flush=True)


def _quiet() -> None:
    """Lightning's advice about devices, workers and loggers is not for this program's users."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\..*")
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*")
