"""`train(config)`: from a composed config to a trained model and its summary. train.py calls it."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from intvit.claims import holding
from intvit.config.environment import is_first_rank
from intvit.config.identity import identity_hash, plain
from intvit.config.run_files import LAST, STATE, read_config
from intvit.data.classes import class_names, compare_names
from intvit.data.loading import train_loader
from intvit.data.shards import open_split
from intvit.errors import IntVitError
from intvit.files import write_json
from intvit.models.base import ImageModel
from intvit.tasks import Task, task_named
from intvit.torchvision_fix import ensure_torchvision
from intvit.training import ranks, run_folder
from intvit.training.checkpoints import Interruption
from intvit.training.config import TrainConfig, train_config
from intvit.training.module import TrainingModule
from intvit.training.optimizer import build_optimizer
from intvit.training.restore import build_model, load_state, locate, read_checkpoint
from intvit.training.timeline import Timeline, lay_out, training_phases
from intvit.training.trainer import build_trainer, finished_loggers, one_line_refusals

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402

from intvit.data.data_module import ShardDataModule  # noqa: E402


def train(config: DictConfig | Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """Train as `config` (composed from conf/train.yaml) says, in the run folder `folder`; returns the summary.

    The summary has `float` and `integer` (null without quantization) with the task's figures, such as top1 and top5, in
    percent over the whole validation set, or over what trainer.limit_val_batches leaves of it. A run that has ended
    returns its summary again.
    Raises an IntVitError or another ValueError of one line for anything that the user can put right, before the folder
    holds anything of the run.
    """
    values, folder = plain(config), Path(folder)
    typed = train_config(values)
    world_size = ranks.world_size(typed.trainer)
    before = run_folder.written(folder)
    start = run_folder.prepare(folder, values, typed.ckpt, typed.fresh)
    if start.summary is not None:
        _say(f"{folder} holds this run, finished; fresh=true starts it over")
        _report(folder, start.summary, task_named(typed.task.name))
        return start.summary
    _quiet()
    pl.seed_everything(typed.seed, verbose=False)
    # Before anything is written: what is wrong with shards, weights or optimizer shows here.
    data = ShardDataModule(typed.data)
    timeline = _timeline(typed, world_size)
    model = build_model(typed.model, typed.quant)
    assert isinstance(model, ImageModel)
    module = TrainingModule(model, build_optimizer(model, typed.optimizer, typed.schedule), timeline, typed)
    module.classes = class_names(typed.data)
    fresh = "say model.head=fresh for a new classifier, "
    compare_names(module.classes, str(typed.data.root), model.trained_classes, str(typed.model.weights), fresh)
    step, epoch = (0, 0) if start.checkpoint is None else _position(start.checkpoint, folder, module)
    with Interruption(typed.trainer.seconds()) as interruption:
        # A checkpoint from behind the end of the schedule is evaluated; Lightning refuses fewer epochs than it has.
        trainer = build_trainer(typed, folder, max(timeline.epochs, epoch), step, interruption)
        facts = {"config": identity_hash(values), "callbacks": typed.callbacks, "run folder": str(folder), "step": step}
        meeting = ranks.met_ranks(trainer, facts, interruption, typed.trainer.wait_minutes)
        with meeting, _writing(trainer, folder), finished_loggers(trainer):
            if trainer.is_global_zero:
                if run_folder.written(folder) != before:
                    raise IntVitError(
                        f"{folder}: another start of this run was at work in it since this one began: nothing was "
                        "overwritten; start again, with ckpt=last to go on from it"
                    )
                if start.clear:
                    run_folder.clear(folder)
                run_folder.write_config(folder, values)
                _announce(typed, folder, start, step)
                for logger in trainer.loggers:
                    logger.log_hyperparams({**values, "commit": run_folder.commit()})
            if timeline.phases:
                with one_line_refusals():
                    trainer.fit(module, datamodule=data, ckpt_path=start.checkpoint, weights_only=True)
            return _finish(trainer, module, data, values, folder)


def _timeline(config: TrainConfig, world_size: int) -> Timeline:
    """The schedule over the steps that the data has. Raises DataError for a split that is missing or too small."""
    open_split(config.data, "val")
    steps_per_epoch = 0
    if training_phases(config.schedule):
        batches = config.trainer.batches(len(train_loader(config.data, world_size=world_size)), "train")
        steps_per_epoch = -(-batches // config.optimizer.accumulate)
    elif config.quant.enabled and config.schedule.calibrate is not None:
        open_split(config.data, "train")
    return lay_out(config.schedule, steps_per_epoch, config.quant.enabled, config.optimizer.scheduler)


def _position(path: Path, folder: Path, module: TrainingModule) -> tuple[int, int]:
    """Step and epoch that a checkpoint goes on at.

    Raises IntVitError where it is none of this model, schedule and classes.
    """
    checkpoint, timeline = read_checkpoint(path), module.timeline
    if not timeline.phases:  # calibration alone begins anew
        if path != folder / LAST:
            raise IntVitError(
                f"ckpt={path}: this schedule takes no step to go on with; model.weights=FILE takes weights"
            )
        return 0, 0
    load_state(module.model, checkpoint, path, "this run's config")
    compare_names(module.classes, str(module.config.data.root), checkpoint[STATE].get("classes") or [], str(path))
    if checkpoint[STATE]["phase"] >= len(timeline.phases):
        raise IntVitError(
            f"{path} is of a schedule with more phases than this one; model.weights=FILE takes weights alone"
        )
    if folder.resolve() not in path.resolve().parents and checkpoint["global_step"] < timeline.steps:
        _check_same_steps(path, timeline, int(checkpoint["global_step"]))
    return int(checkpoint["global_step"]), int(checkpoint["epoch"])


def _check_same_steps(path: Path, timeline: Timeline, step: int) -> None:
    """Raise IntVitError where this run would not have taken the steps that lie behind a checkpoint of another one."""
    try:
        earlier, _ = locate(str(path))
        before = train_config(read_config(earlier))
    except IntVitError:  # no run around it: nobody knows
        return
    old = lay_out(before.schedule, timeline.steps_per_epoch, before.quant.enabled, before.optimizer.scheduler)
    way = "model.weights=RUN starts a new run from its weights"
    for number in range(min(step, old.steps)):
        was, now = old.at(number), timeline.at(number)
        taken = [
            None if phase is None else (phase.name, phase.learning_rate(number), phase.phase.weight_decay)
            for phase in (was, now)
        ]
        if taken[0] != taken[1]:
            was_text, now_text = ("no step" if t is None else f"phase {t[0]} at lr {t[1]:.3g}" for t in taken)
            raise IntVitError(
                f"ckpt={path}: step {number} was {was_text}, in this schedule it is {now_text}: a longer run would "
                f"have gone another way; {way}, and min_lr_ratio=1 warmup=0 makes a phase that can be extended"
            )
    if step == old.steps and step % timeline.steps_per_epoch:
        raise IntVitError(
            f"ckpt={path}: that run ended inside an epoch, and the rest of its images is not known; {way}"
        )


def _writing(trainer: pl.Trainer, folder: Path) -> contextlib.AbstractContextManager[None]:
    """The first rank alone writes, and keeps other runs out."""
    return holding(folder) if trainer.is_global_zero else contextlib.nullcontext()


def _announce(config: TrainConfig, folder: Path, start: run_folder.Start, step: int) -> None:
    _say(f"{folder}: {'goes on at step ' + str(step) if start.checkpoint else 'starts'}")
    if config.schedule.float is None and not (config.model.pretrained or config.model.weights or start.checkpoint):
        _say("note: random weights and no float phase; model.pretrained=true or model.weights=FILE gives weights")
    elif config.schedule.head is not None and not (config.model.pretrained or config.model.weights or start.checkpoint):
        _say("note: a phase for the classifier alone, on random weights; model.weights=FILE gives weights")
    if config.model.head == "fresh" and not training_phases(config.schedule):
        _say(
            "note: a new classifier (model.head=fresh) that nothing trains, so scores are random; see schedule=finetune"
        )
    for key in ("limit_val_batches", "overfit_batches"):
        if limit := getattr(config.trainer, key):
            _say(f"note: all figures are of a part of the validation set, trainer.{key}={limit}; evaluate.py takes all")


def _finish(
    trainer: pl.Trainer, module: TrainingModule, data: ShardDataModule, config: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Evaluate in both modes, save the last state, write the summary."""
    modes = ["float", "integer"] if module.config.quant.enabled and module.config.schedule.calibrate else ["float"]
    for mode in modes:
        module.final_mode = mode
        trainer.validate(module, datamodule=data, verbose=False)
    trainer.save_checkpoint(folder / LAST)
    summary = {
        "name": folder.name,
        "experiment": identity_hash(config),
        "commit": run_folder.commit(),
        "steps": trainer.global_step,
        "stopped_early": trainer.global_step < module.timeline.steps,
        "seconds": round(module.elapsed(), 1),
        "float": module.final["float"],
        "integer": module.final.get("integer"),
        "before_qat": module.before_qat,
        "weights": module.model.provenance.get("weights"),
        "history": module.history,
    }
    if trainer.is_global_zero:
        write_json(folder / run_folder.SUMMARY, summary)
        for logger in trainer.loggers:
            logger.log_metrics({f"final/{key}": value for key, value in _figures(summary)}, trainer.global_step)
            logger.save()
        _report(folder, summary, module.task)
    return summary


def _figures(summary: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """`float/top1` and so on, and the seconds."""
    for mode in ("float", "integer"):
        for key, value in (summary[mode] or {}).items():
            yield f"{mode}/{key}", value
    yield "seconds", summary["seconds"]


def _report(folder: Path, summary: Mapping[str, Any], task: Task) -> None:
    for mode in ("float", "integer"):
        if (measured := summary.get(mode)) is not None:
            agreement = f", agreement with the teacher {measured['agreement']:.2f} %" if "agreement" in measured else ""
            figures = ", ".join(f"{title} {measured[key]:.2f} %" for key, title in task.figures.items())
            _say(f"{mode:>8}: {figures}{agreement}")
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
