"""The Lightning module: a model that passes through the phases of a timeline, step by step.

Phases, rates and random numbers are functions of the step, so that a resumed run goes on as if it had not stopped.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intvit.config.run_files import STATE
from intvit.models.base import ImageModel
from intvit.models.weights import is_classifier
from intvit.quant import freeze_observers, function_digests, set_mode
from intvit.quant.control import move_ranges
from intvit.quant.features import feature_error, norm_outputs
from intvit.quant.observer import all_reduce
from intvit.torchvision_fix import ensure_torchvision
from intvit.training.config import TrainConfig
from intvit.training.finite import FiniteWatch, all_finite, where_it_began
from intvit.training.measuring import Batch, MeasuringModule
from intvit.training.optimizer import set_rates
from intvit.training.restore import build_teacher
from intvit.training.timeline import PhaseSteps, Timeline

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402


class TrainingModule(MeasuringModule):
    """Trains `model` with `optimizer` along `timeline`. classes: their names, which a checkpoint holds."""

    def __init__(
        self, model: ImageModel, optimizer: torch.optim.Optimizer, timeline: Timeline, config: TrainConfig
    ) -> None:
        super().__init__(model, config)
        self.optimizer = optimizer
        self.timeline = timeline
        model_config = config.model
        form = model_config.num_classes, model_config.mean, model_config.std
        self.loss = self.task.loss(config.schedule.loss, *form)
        self.seconds = 0.0
        self.classes: list[str] = []
        self._started = time.monotonic()
        self._watch = FiniteWatch()

    # ---------------------------------------------------------------- phases

    @property
    def next_phase(self) -> PhaseSteps | None:
        """The phase that the coming step enters; None where it goes on in the same one, or the schedule has ended."""
        phase = self.timeline.at(self.global_step)
        return None if phase == self.phase else phase

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:
        """Enter the phase of this step where a new one begins, then set rates and random numbers."""
        step = self.global_step
        phase = self.timeline.at(step)
        if phase is None:
            return -1  # the schedule ends inside this epoch: Lightning leaves out the rest of it
        if phase != self.phase:
            self._enter(phase)
        set_rates(self.optimizer, phase.phase, phase.learning_rate(step))
        self._seed(batch_idx)
        return None

    def _enter(self, phase: PhaseSteps) -> None:
        if self.phase is not None:
            # Moments of another phase's gradients (float against integer) would misdirect the first steps.
            self.optimizer.state.clear()
        computed = "integers" if phase.mode == "integer" else "reals"
        self.print(f"phase {phase.name}: {phase.stop - phase.start} steps, computing {computed}")
        if phase.calibrated and not self.calibrated:
            self.calibrate()
            if self.config.schedule.calibrate is not None and self.config.schedule.calibrate.measure:
                self.before_qat = {"float": self.measure("float"), "integer": self.measure("integer")}
                key, title = next(iter(self.task.figures.items()))
                values = ", ".join(f"{mode} {measured[key]:.2f} %" for mode, measured in self.before_qat.items())
                self.print(f"before QAT: {title} {values}")
        self._take_up(phase)
        self.model.train()

    def _take_up(self, phase: PhaseSteps) -> None:
        self.phase = phase
        # DDP waits for the gradients of all parameters that had asked for one when it began.
        frozen = phase.head and self.trainer.world_size == 1
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not frozen or is_classifier(name))
        set_mode(self.model, phase.mode)
        freeze_observers(self.model, phase.frozen)

    def _seed(self, batch_idx: int) -> None:
        """Random numbers of one batch on one rank (mixing, erasing, stochastic depth), whatever came before."""
        words = (self.config.seed, self.current_epoch, batch_idx, self.global_rank)
        numbers = np.random.SeedSequence(words).generate_state(3)
        random.seed(int(numbers[0]))
        np.random.seed(int(numbers[1]))
        torch.manual_seed(int(numbers[2]))

    # ---------------------------------------------------------------- training

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer, over the parameters that Lightning has moved in place; rates are set at every step."""
        return self.optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        images, targets = self.loss.change(*batch)
        with self.scales_of_training():
            loss = self._loss(images, targets)
        if self.phase is not None and self.phase.mode == "float":
            # Reals do not depend on learned steps, but DDP waits for a gradient of every parameter.
            for step in self.model.learned_steps():
                loss = loss + 0.0 * step.sum()
        # Lightning's own reduction waits for all ranks twice.
        mean = all_reduce(loss.detach(), "mean")
        self._images = images
        self._watch.look([mean], self.global_step)
        self.check_finite(wait=False)
        self.log("train/loss", mean, on_step=True, on_epoch=False)
        self.log("train/lr", self.optimizer.param_groups[0]["lr"], on_step=True, on_epoch=False)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the ranges follow what all batches of this step had; in phase head, the classifier alone moves.

        The gradients, which all ranks share now, are looked at.
        """
        move_ranges(self.model)
        if self.phase is not None and self.phase.head:
            for name, parameter in self.model.named_parameters():
                if not is_classifier(name):
                    parameter.grad = None  # the optimizer passes by what has none
        if self.config.trainer.precision != "16-mixed":  # whose scaler leaves such steps out
            self._watch.look([p.grad for p in self.parameters() if p.grad is not None], self.global_step)
            self.check_finite(wait=False)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Lightning's; a rate that the optimizer cannot compute with is the user's."""
        try:
            super().optimizer_step(*arguments, **options)
        except (RuntimeError, OverflowError) as error:
            if "overflow" not in str(error):
                raise
            self.refuse(self.global_step, f"the optimizer cannot step ({' '.join(str(error).split())})")

    def check_finite(self, *, wait: bool) -> None:
        """Raise NotFinite where a loss or a gradient was not finite; wait: also where that waits for an accelerator."""
        step = self._watch.first(wait=wait)
        if step is not None:
            assert self._images is not None
            place = where_it_began(self.model, self._images)
            self.refuse(step, f"loss or gradient is not finite any more, first {place}")

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Where metrics are logged, which reads the device anyway, look whether all scales were good."""
        if self.global_step % self.config.trainer.log_every_steps == 0:
            self.check_finite(wait=True)
            with self.scales_of_training():
                self.model.check_scales()

    def _loss(self, images: Tensor, targets: Tensor) -> Tensor:
        if not (self._teacher and self.loss.uses_features):
            return self.loss.loss(self.model(images), targets, self._teacher_logits(images))
        with norm_outputs(self._teacher[0]) as aims:
            teacher_logits = self._teacher_logits(images)
        with norm_outputs(self.model) as outputs:
            logits = self.model(images)
        return self.loss.loss(logits, targets, teacher_logits, feature_error(outputs, aims))

    # ---------------------------------------------------------------- checkpoints

    def elapsed(self) -> float:
        """Seconds of this run so far, those before a resume included."""
        return self.seconds + time.monotonic() - self._started

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add where in the schedule the run is; plain values and tensors only, so that loading runs no code.

        Raises NotFinite where the state is not worth keeping.
        """
        self.check_finite(wait=True)
        with self.scales_of_training():
            self.model.check_scales()
        if self.phase is not None and not all_finite(self.model.parameters()):
            self.refuse(self.global_step, "weights are not finite any more")
        checkpoint[STATE] = {
            "phase": self.timeline.phases.index(self.phase) if self.phase is not None else -1,
            "calibrated": self.calibrated,
            "history": self.history,
            "carried": self.carried,
            "before_qat": self.before_qat,
            "seconds": self.elapsed(),
            "teacher": self._teacher[0].state_dict() if self._teacher else None,
            "functions": function_digests(self.model),
            "classes": self.classes,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go back to where the run was."""
        state = checkpoint[STATE]
        self.history, self.before_qat, self.seconds = state["history"], state["before_qat"], state["seconds"]
        self.carried = state.get("carried", 0)
        folder = Path(self.trainer.default_root_dir)
        if folder.resolve() not in Path(str(self.trainer.ckpt_path)).resolve().parents:
            self.carried = len(self.history)  # their states lie in the folder of the run that is extended
        phase = self.timeline.phases[state["phase"]] if state["phase"] >= 0 else None
        # A calibration for the final evaluation alone is done again at the end of a run that is extended.
        self.calibrated = state["calibrated"] and phase is not None and phase.calibrated
        if state["teacher"] is not None and self.calibrated:
            self._teacher = (build_teacher(self.config.model, self.config.quant, state["teacher"]),)
        if phase is not None:
            self._take_up(phase)


def training_module(pl_module: pl.LightningModule) -> TrainingModule:
    """The module that Lightning hands to a callback's hook, as what it is."""
    assert isinstance(pl_module, TrainingModule)
    return pl_module
