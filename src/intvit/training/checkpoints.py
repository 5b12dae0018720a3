"""last.ckpt: when it is written, that it is whole or the previous one, and what a signal makes of it.

A checkpoint is taken at the end of an epoch, of every N steps, and of the step during which a signal came. SLURM sends
SIGUSR1 (submitit SIGUSR2) before the time limit, where the job asks for it: then the job is requeued. SIGTERM, from
preemption, scancel or torchrun, and Ctrl-C end the run.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

import torch

from intvit import signals
from intvit.config.environment import is_restart
from intvit.errors import IntVitError, OutOfTime
from intvit.files import replacing
from intvit.quant.observer import all_reduce
from intvit.torchvision_fix import ensure_torchvision
from intvit.training.kept_checkpoints import KeptCheckpoints
from intvit.training.module import training_module

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402
from pytorch_lightning.callbacks import Checkpoint  # noqa: E402
from pytorch_lightning.plugins.io import TorchCheckpointIO  # noqa: E402

TERMINATED = 128 + signal.SIGTERM  # exit code, as shells give it
# What a signal asks for; the largest of all ranks and signals counts.
NOTHING, LEAVE, REQUEUE = 0, 1, 2
ACTIONS = {signal.SIGINT: LEAVE, signal.SIGTERM: LEAVE, signal.SIGUSR1: REQUEUE, signal.SIGUSR2: REQUEUE}


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the previous checkpoint and renames. Lightning's own writes into /tmp and may copy from there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises IntVitError when the disk does not take it; the previous checkpoint is intact then."""
        check_plain(checkpoint.get("callbacks", {}))
        path = Path(path)
        for abandoned in path.parent.glob(f".{path.name}.*"):  # of killed processes: this one alone works in the folder
            abandoned.unlink()
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error.__context__ or error).split())
            raise IntVitError(
                f"{path} could not be written ({reason}); make room, then go on from the previous one with ckpt=last"
            ) from error


def check_plain(states: Mapping[str, Any]) -> None:
    """Raise IntVitError naming a callback with whose state a checkpoint cannot be read again: reading runs no code."""
    for name, state in states.items():
        file = io.BytesIO()
        try:
            torch.save(state, file)
            file.seek(0)
            torch.load(file, weights_only=True)
        except (pickle.PickleError, TypeError, AttributeError) as error:
            raise IntVitError(
                f"callback {name}: a checkpoint with its state could not be read again; let its state_dict() hold "
                "numbers, texts, lists, dicts and tensors alone"
            ) from error


class Interruption:
    """Remembers signals that ask for an end; inside `with`, they do nothing else. A second Ctrl-C ends at once.

    What came before anything could be saved (`intvit.signals`) counts, too, and so does the end of `max_time`.

    A handler that saved at once, as Lightning's does, would save half a step, and another step on each rank.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self.code = TERMINATED  # of the process that ends without being requeued
        self._action = NOTHING
        self.cause = "stopped by a signal"
        self._deadline = time.monotonic() + seconds
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self._previous = {number: signal.getsignal(number) for number in ACTIONS}
        self.listen()
        for number in signals.taken():
            self._remember(number, None)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Install the handlers, over those that Lightning installs when it starts."""
        if threading.current_thread() is threading.main_thread():
            for number in ACTIONS:
                if self._previous[number] is not signal.SIG_IGN:
                    signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self.code != TERMINATED:
                raise SystemExit(self.code)
            self.code = 128 + number
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping after this step; Ctrl-C again ends at once\n")
        self._action = max(self._action, ACTIONS[signal.Signals(number)])

    @property
    def action(self) -> int:
        """What the signals of this rank, and the clock, ask for."""
        if self._action == NOTHING and time.monotonic() > self._deadline:
            self._action, self.code, self.cause = LEAVE, 0, "stopped after trainer.max_time"
        return self._action

    def end(self, action: int, where: str, *, went_on: bool, speaks: bool) -> NoReturn:
        """End the process as `action` asks, or raise IntVitError where a requeued job would go in circles.

        where: at what it was stopped, in words. went_on: whether this start has got anywhere. speaks: on the first
        rank, which says so and requeues.
        """
        job, where = slurm_job(), f"{self.cause} {where}"
        if action == LEAVE or job is None:
            if speaks:
                print(f"{where}; go on with ckpt=last", flush=True)
            raise SystemExit(self.code) if self.code else OutOfTime(0)
        if not went_on and is_restart():
            raise IntVitError(f"{where} without having gone on: not requeued; give the job more time")
        if speaks:
            print(f"{where}; job {job} is requeued", flush=True)
            _requeue(job)
        raise SystemExit(0)

    def agreed(self) -> int:
        """What the signals of all ranks ask for; every rank calls it at the same point."""
        return int(all_reduce(torch.tensor(self.action), "max"))


class Checkpoints(Checkpoint):
    """Writes `path` and, when a signal came, ends the run by SystemExit: 0 with the job requeued, else TERMINATED.

    first_step: where this process (re)starts; every_steps: optimizer steps between checkpoints inside an epoch, None
    for none. The step that ends an epoch is saved after its validation.
    """

    def __init__(
        self,
        path: Path,
        interruption: Interruption,
        first_step: int,
        every_epochs: int,
        every_steps: int | None,
        kept: KeptCheckpoints,
    ) -> None:
        self.path = path
        self.kept = kept
        self.first_step = first_step
        self.every_epochs = every_epochs
        self.every_steps = every_steps
        self._interruption = interruption
        self._action = NOTHING

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        callbacks = trainer.callbacks  # type: ignore[attr-defined] # public in Lightning, but declared nowhere
        check_plain({callback.state_key: callback.state_dict() for callback in callbacks})
        self._interruption.listen()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._leave(trainer)  # only here has the saved step been logged

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Gradients that accumulate are part of no checkpoint.
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._action = self._interruption.agreed()
        if self._action or (self.every_steps and trainer.global_step % self.every_steps == 0):
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._action = max(self._action, self._interruption.agreed())
        # In this order: a process killed in between goes on from an earlier state, and keeps this one when it is back.
        self._keep(trainer, pl_module, epoch_ended=True)
        if self._action or (trainer.current_epoch + 1) % self.every_epochs == 0:
            trainer.save_checkpoint(self.path)
        self._leave(trainer)

    def _keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, epoch_ended: bool) -> None:
        module = training_module(pl_module)
        self.kept.save(trainer, module.history[module.carried :], epoch_ended=epoch_ended)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._interruption.listen()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.world_size == 1:  # some ranks have one batch more: only at its end do all of them agree
            self._leave_final(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        fitting = training_module(pl_module).final_mode is None and not trainer.sanity_checking
        if fitting and not trainer.is_last_batch:  # trainer.val_check_interval validates inside an epoch, too
            self._keep(trainer, pl_module, epoch_ended=False)
        self._leave_final(trainer, pl_module)

    def _leave_final(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the final evaluation, which a resumed run does again."""
        if training_module(pl_module).final_mode is not None:
            self._action = self._interruption.agreed()
            self._leave(trainer)

    def _leave(self, trainer: pl.Trainer) -> None:
        if self._action == NOTHING:
            return
        self._interruption.end(
            self._action,
            f"at step {trainer.global_step}",
            went_on=trainer.global_step > self.first_step,
            speaks=trainer.is_global_zero,
        )


def _requeue(job: str) -> None:
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = " ".join((getattr(error, "stderr", None) or str(error)).split())
        raise IntVitError(f"scontrol requeue {job} failed ({reason}); submit again, with ckpt=last") from error


def slurm_job() -> str | None:
    """The SLURM job of this process as scontrol names it, array tasks included."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
