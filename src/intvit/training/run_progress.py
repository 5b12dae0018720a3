"""Progress over the whole run, all phases in one bar with the time left; plain lines where no terminal listens."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID, TextColumn

from intvit.progress import Heartbeat, progress_bar
from intvit.torchvision_fix import ensure_torchvision
from intvit.training.module import TrainingModule, training_module

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402
from pytorch_lightning.callbacks import ProgressBar  # noqa: E402


class RunProgress(ProgressBar):
    """style: `bar` (rich), `lines` (one per epoch) or `none`; `auto` takes the bar in a terminal, else lines.

    What the module prints (`LightningModule.print`) comes here too: above the bar, as a line, or not at all.
    """

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style if style != "auto" else ("bar" if sys.stdout.isatty() else "lines")
        self.is_enabled = True
        self._console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._began = (0, 0.0)
        self._heartbeat: Heartbeat | None = None  # where there is no bar
        self._validation = Heartbeat(self.print, "validation", "batch", 1)

    def disable(self) -> None:
        """Show nothing: Lightning calls it on every rank but the first."""
        self.is_enabled = False

    def enable(self) -> None:
        """Show it again."""
        self.is_enabled = True

    def print(self, *texts: Any, **options: Any) -> None:
        """One line, on the first rank."""
        if not self.is_enabled or self.style == "none":
            return
        if self._bar is not None:
            self._bar.console.print(*texts, **options)
        else:
            print(*texts, **options, flush=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = (trainer.global_step, time.monotonic())
        total = training_module(pl_module).timeline.steps
        self._heartbeat = Heartbeat(self.print, "training", "step", total, trainer.global_step)
        self._open("train", "steps", training_module(pl_module).timeline.steps, trainer.global_step)

    def _open(self, description: str, unit: str, total: float, completed: int = 0) -> None:
        if self.style != "bar" or not self.is_enabled:
            return
        amount = TextColumn("{task.completed}/{task.total} " + unit)
        self._bar = progress_bar(amount, note=True, console=self._console)
        self._task = self._bar.add_task(description, total=total, completed=completed, note="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module, step = training_module(pl_module), trainer.global_step
        if self._bar is None:
            if self._heartbeat is not None:
                images = len(batch[0]) * trainer.world_size * trainer.accumulate_grad_batches
                phase = module.phase.name if module.phase else ""
                self._heartbeat.beat(step, images=images, note=lambda: f", {phase}: loss {float(outputs['loss']):.3f}")
            return
        if step % 5 == 0 or step == module.timeline.steps:
            self._bar.update(self._task, note=f"loss {float(outputs['loss']):.3f}")
        self._bar.update(self._task, description=module.phase.name if module.phase else "train", completed=step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        mode, batches = training_module(pl_module).final_mode, int(sum(trainer.num_val_batches))
        if mode is not None:
            self._open(f"final validation, {mode}", "batches", batches)
        name = "validation" if mode is None else f"final validation, {mode}"
        self._validation = Heartbeat(self.print, name, "batch", batches)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._bar is None:
            self._validation.beat(batch_idx + 1, images=len(batch[0]) * trainer.world_size)
            return
        if training_module(pl_module).final_mode is not None:
            self._bar.update(self._task, completed=batch_idx + 1)
        else:
            self._bar.update(self._task, note=f"validation {batch_idx + 1}/{sum(trainer.num_val_batches)}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = training_module(pl_module)
        if module.final_mode is not None:
            self._stop()
        elif module.history:
            self.print(self._line(trainer, module))
            if self._heartbeat is not None:
                self._heartbeat.quiet()

    def _line(self, trainer: pl.Trainer, module: TrainingModule) -> str:
        last, total = module.history[-1], module.timeline.steps
        first, since = self._began
        done = max(1, trainer.global_step - first)
        left = timedelta(seconds=round((time.monotonic() - since) / done * (total - trainer.global_step)))
        loss = trainer.callback_metrics.get("train/loss")
        figure, title = next(iter(module.task.figures.items()))
        agreement = f", agreement {last['agreement']:.2f} %" if "agreement" in last else ""
        return (
            f"epoch {last['epoch'] + 1}, step {trainer.global_step}/{total}, {last['phase']}: "
            f"loss {float(loss) if loss is not None else float('nan'):.3f}, "
            f"{title} {last[figure]:.2f} % ({last['mode']}){agreement}, {left} left"
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
