"""Progress over the whole run, all phases in one bar with the time left; plain lines where no terminal listens."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from intvit.torchvision_fix import ensure_torchvision
from intvit.training.module import TrainingModule
from intvit.training.schedule import Span

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402
from pytorch_lightning.callbacks import Callback  # noqa: E402
from pytorch_lightning.trainer.states import TrainerFn  # noqa: E402


class RunProgress(Callback):
    """style: `bar` (rich), `lines` (one per epoch) or `none`; `auto` takes the bar in a terminal, else lines."""

    def __init__(self, style: str) -> None:
        self.style = style if style != "auto" else ("bar" if sys.stdout.isatty() else "lines")
        self._console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._note = ""
        self._began = (0, 0.0)

    def on_phase_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, span: Span) -> None:
        """Say which phase begins."""
        if trainer.is_global_zero and self.style != "none":
            steps = span.stop - span.start
            self._print(
                f"phase {span.name}: {steps} steps, computing {'integers' if span.mode == 'integer' else 'reals'}"
            )

    def on_calibration_start(self, trainer: pl.Trainer, pl_module: TrainingModule) -> None:
        """Say from how many images the ranges come."""
        calibrate = pl_module.config.schedule.calibrate
        if trainer.is_global_zero and self.style != "none" and calibrate is not None:
            self._print(f"calibrating on {calibrate.images} images")

    def on_measured(self, trainer: pl.Trainer, pl_module: TrainingModule) -> None:
        """Say what QAT starts from."""
        if trainer.is_global_zero and self.style != "none" and pl_module.before_qat is not None:
            values = ", ".join(f"{mode} {measured['top1']:.2f} %" for mode, measured in pl_module.before_qat.items())
            self._print(f"before QAT: top-1 {values}")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = (trainer.global_step, time.monotonic())
        self._open(trainer, "train", "steps", trainer.global_step)

    def _open(self, trainer: pl.Trainer, description: str, unit: str, completed: int = 0) -> None:
        if self.style != "bar" or not trainer.is_global_zero:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} " + unit),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._task = self._bar.add_task(description, total=None, completed=completed, note="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is None or self._task is None:
            return
        if trainer.global_step % 5 == 0 or trainer.global_step == _steps(pl_module):
            self._note = f"loss {float(outputs['loss']):.3f}"
        span = pl_module.span if isinstance(pl_module, TrainingModule) else None
        name = span.name if span is not None else "train"
        # The module knows the total once its own on_train_start has run, after this callback's.
        self._bar.update(
            self._task, description=name, total=_steps(pl_module), completed=trainer.global_step, note=self._note
        )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is None and isinstance(pl_module, TrainingModule):
            self._open(trainer, f"final validation, {pl_module.final_mode}", "batches")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._bar is None or self._task is None:
            return
        batches = sum(trainer.num_val_batches)
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._bar.update(self._task, total=batches, completed=batch_idx + 1)
        else:
            self._bar.update(self._task, note=f"validation {batch_idx + 1}/{batches}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or self.style == "none" or not isinstance(pl_module, TrainingModule):
            return
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._stop()
        elif pl_module.history:
            self._print(self._line(trainer, pl_module))

    def _line(self, trainer: pl.Trainer, module: TrainingModule) -> str:
        last, total = module.history[-1], _steps(module)
        first, since = self._began
        done = max(1, trainer.global_step - first)
        left = timedelta(seconds=round((time.monotonic() - since) / done * (total - trainer.global_step)))
        loss = trainer.callback_metrics.get("train/loss")
        agreement = f", agreement {last['agreement']:.2f} %" if "agreement" in last else ""
        return (
            f"epoch {last['epoch'] + 1}, step {trainer.global_step}/{total}, {last['phase']}: "
            f"loss {float(loss) if loss is not None else float('nan'):.3f}, "
            f"top-1 {last['top1']:.2f} % ({last['mode']}){agreement}, {left} left"
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            print(text, flush=True)


def _steps(module: pl.LightningModule) -> int:
    plan = module.plan if isinstance(module, TrainingModule) else None
    return plan.steps if plan is not None else 0
