"""The Lightning module: a model that passes through the phases of a timeline, step by step.

Phases, rates and random numbers are functions of the step, so that a resumed run goes on as if it had not stopped.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from intvit.calibration import calibrate
from intvit.config.run_files import LAST, STATE
from intvit.data.data_module import ShardDataModule
from intvit.errors import IntVitError
from intvit.models.base import ImageModel
from intvit.models.weights import is_classifier
from intvit.progress import Heartbeat
from intvit.quant import freeze_observers, function_digests, set_mode
from intvit.quant.control import move_ranges
from intvit.quant.observer import all_reduce
from intvit.torchvision_fix import ensure_torchvision
from intvit.training.accuracy import Accuracy
from intvit.training.config import TrainConfig
from intvit.training.confusion import Confusion, send_picture
from intvit.training.features import feature_error, norm_outputs
from intvit.training.finite import FiniteWatch, NotFinite, all_finite, where_it_began
from intvit.training.losses import TrainingTask
from intvit.training.optimizer import set_rates
from intvit.training.restore import build_teacher
from intvit.training.timeline import PhaseSteps, Timeline

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402

Batch = tuple[Tensor, Tensor]
DIVERGED = 50.0  # percent: an integer model that is right, or of one mind with float, less often is another model


class TrainingModule(pl.LightningModule):
    """Trains `model` with `optimizer` along `timeline`.

    phase: what the model is in, None before the first step; calibrated: whether the ranges are fixed; history: what
    every validation measured, the first `carried` of them those of the run that this one extends; final_mode: set for
    the final evaluation in that mode; final: mode -> what it measured; classes: their names, which a checkpoint holds.
    """

    def __init__(
        self, model: ImageModel, optimizer: torch.optim.Optimizer, timeline: Timeline, config: TrainConfig
    ) -> None:
        super().__init__()
        self.model = model
        model.managed = True
        self.optimizer = optimizer
        self.timeline = timeline
        self.config = config
        self.task = TrainingTask(config.schedule.loss, config.model.num_classes, config.model.mean, config.model.std)
        self.phase: PhaseSteps | None = None
        self.calibrated = False
        self.history: list[dict[str, Any]] = []
        self.carried = 0
        self.before_qat: dict[str, Any] | None = None
        self.seconds = 0.0
        self.final_mode: str | None = None
        self.final: dict[str, dict[str, float]] = {}
        self.classes: list[str] = []
        self._started = time.monotonic()
        self._accuracy = Accuracy()
        self._watch = FiniteWatch()
        self._images: Tensor | None = None  # of the last step, to find out where it went wrong
        self._warned = False
        self._confusion: Confusion | None = None  # in the final evaluation, where a logger shows pictures
        # In a tuple, so that the teacher is no part of state_dict and parameters.
        self._teacher: tuple[nn.Module, ...] = ()
        distillation = config.schedule.loss.distillation
        if distillation.alpha and distillation.weights is not None:
            self._teacher = (build_teacher(config.model, config.quant, distillation.weights),)

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
                values = ", ".join(f"{mode} {measured['top1']:.2f} %" for mode, measured in self.before_qat.items())
                self.print(f"before QAT: top-1 {values}")
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

    @torch.no_grad()
    def calibrate(self) -> None:
        """Fix the ranges from the schedule's number of images, and keep a float copy where it is to teach."""
        schedule = self.config.schedule
        assert schedule.calibrate is not None
        if schedule.loss.distillation.alpha and not self._teacher:
            state = {key: value.clone() for key, value in self.model.state_dict().items()}
            self._teacher = (build_teacher(self.config.model, self.config.quant, state),)
        self.print(f"calibrating on {schedule.calibrate.images} images")
        # All ranks together see the images that one would see: their number changes no range.
        loader = self._data().calibration_dataloader(schedule.calibrate.images)
        heartbeat = Heartbeat(self.print, "calibrating", "image", -(-schedule.calibrate.images // self._ranks))

        def batches() -> Iterator[Tensor]:
            done = 0
            for images, _ in loader:
                heartbeat.beat(done)
                yield images.to(self.device)
                done += len(images)

        calibrate(self.model, batches())
        self.calibrated = True

    @torch.no_grad()
    def measure(self, mode: str) -> dict[str, float]:
        """Accuracy over the validation set in one mode, outside Lightning's own validation."""
        self.model.eval()
        set_mode(self.model, mode)
        accuracy, loader = Accuracy(self.device), self._data().val_dataloader()
        heartbeat = Heartbeat(self.print, f"validation before QAT, {mode}", "batch", len(loader))
        for number, (images, labels) in enumerate(loader):
            heartbeat.beat(number, images=len(images))
            self._count(accuracy, images.to(self.device), labels.to(self.device))
        return self._percentages(accuracy)

    @property
    def _ranks(self) -> int:
        return self.trainer.world_size

    def _data(self) -> ShardDataModule:
        data = self.trainer.datamodule  # type: ignore[attr-defined] # public in Lightning, but declared nowhere
        assert isinstance(data, ShardDataModule)
        return data

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
        images, targets = self.task.change(*batch)
        with self._scales_of_training():
            loss = self._loss(images, targets)
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
            self._refuse(self.global_step, f"the optimizer cannot step ({' '.join(str(error).split())})")

    def check_finite(self, *, wait: bool) -> None:
        """Raise NotFinite where a loss or a gradient was not finite; wait: also where that waits for an accelerator."""
        step = self._watch.first(wait=wait)
        if step is not None:
            assert self._images is not None
            place = where_it_began(self.model, self._images)
            self._refuse(step, f"loss or gradient is not finite any more, first {place}")

    def _refuse(self, step: int, what: str) -> NoReturn:
        if self.phase is None:
            raise NotFinite(f"before training: {what}; check model.weights and the data")
        last = Path(self.trainer.default_root_dir) / LAST
        kept = f"{last} from before it is kept; " if last.is_file() else ""
        raise NotFinite(
            f"step {step}, phase {self.phase.name}: {what}; {kept}try a smaller "
            f"schedule.{self.phase.name}.lr (now {self.phase.phase.lr:g}) or optimizer.gradient_clip=1"
        )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Where metrics are logged, which reads the device anyway, look whether all scales were good."""
        if self.global_step % self.config.trainer.log_every_steps == 0:
            self.check_finite(wait=True)
            with self._scales_of_training():
                self.model.check_scales()

    @contextlib.contextmanager
    def _scales_of_training(self) -> Iterator[None]:
        """Where no integers follow from the weights, once steps of the phase have moved them, say so as for NaN."""
        try:
            yield
        except IntVitError as error:
            if self.phase is None or self.global_step == self.phase.start:
                raise
            self._refuse(self.global_step, str(error))

    def _loss(self, images: Tensor, targets: Tensor) -> Tensor:
        if not (self._teacher and self.task.uses_features):
            return self.task.loss(self.model(images), targets, self._teacher_logits(images))
        with norm_outputs(self._teacher[0]) as aims:
            teacher_logits = self._teacher_logits(images)
        with norm_outputs(self.model) as outputs:
            logits = self.model(images)
        return self.task.loss(logits, targets, teacher_logits, feature_error(outputs, aims))

    @torch.no_grad()
    def _teacher_logits(self, images: Tensor) -> Tensor | None:
        return self._teacher[0].to(images.device)(images) if self._teacher else None

    # ---------------------------------------------------------------- validation

    def on_validation_epoch_start(self) -> None:
        """In the final evaluation, choose the mode and make up for phases that no training step entered."""
        self._accuracy = Accuracy(self.device)
        if self.final_mode is None:
            return
        if self.final_mode == "integer" and not self.calibrated:
            self.calibrate()
        set_mode(self.model, self.final_mode)
        self.model.eval()
        if len(self.trainer.loggers) > 1:  # more than metrics.csv
            self._confusion = Confusion(self.config.model.num_classes, self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count right answers in the mode of the phase."""
        self._count(self._accuracy, *batch)

    def _count(self, accuracy: Accuracy, images: Tensor, labels: Tensor) -> None:
        with self._scales_of_training():
            scores = self.model(images)
        accuracy.add(scores, labels, self._teacher_logits(images))
        if self._confusion is not None:
            self._confusion.add(scores, labels)
        self._images = images

    def _percentages(self, accuracy: Accuracy) -> dict[str, float]:
        """Raises NotFinite where an image has a score that is not finite: nothing is measured then."""
        measured = accuracy.percentages(self._gather)
        if accuracy.broken:
            assert self._images is not None
            place = where_it_began(self.model, self._images)
            self._refuse(self.global_step, f"{accuracy.broken} validation images have no finite score, first {place}")
        return measured

    def on_validation_epoch_end(self) -> None:
        """Log the percentages over all ranks: top1, top5, and agreement with the teacher where there is one."""
        measured = self._percentages(self._accuracy)
        if self.trainer.sanity_checking:
            return  # some batches before training are no measurement
        phase = self.phase
        mode = self.final_mode or (phase.mode if phase else "float")
        self.log_dict({f"{mode}/{key}": value for key, value in measured.items()}, rank_zero_only=True)
        if self.final_mode is not None:
            self.final[mode] = measured
            if self._confusion is not None and (picture := self._confusion.picture()) and self.trainer.is_global_zero:
                send_picture(self.trainer.loggers, f"final/{mode}/confusion", picture, self.global_step)
            return
        name = phase.name if phase else ""
        where = {"epoch": self.current_epoch, "step": self.global_step, "phase": name, "mode": mode}
        self.history.append({**where, **measured})
        self._warn_of_divergence(mode, measured)

    def _warn_of_divergence(self, mode: str, measured: dict[str, float]) -> None:
        """Once, where the integer model has little to do with the float one any more."""
        if mode != "integer" or self._warned:
            return
        floats = [entry["top1"] for entry in self.history if entry["mode"] == "float"]
        if self.before_qat is not None:
            floats.append(self.before_qat["float"]["top1"])
        kept = measured.get("agreement", 100.0 * measured["top1"] / floats[-1] if floats and floats[-1] else 100.0)
        if kept < DIVERGED:
            self._warned = True
            key = "agreement with the teacher" if "agreement" in measured else "of the float model's top-1 is left"
            name = self.phase.name if self.phase else "qat"
            self.print(f"warning: QAT diverges: {kept:.1f} % {key}; a smaller schedule.{name}.lr keeps it nearer")

    def _gather(self, counts: Tensor) -> Tensor:
        """The counts of every rank, one row each."""
        gathered = self.all_gather(counts)
        assert isinstance(gathered, Tensor)
        return gathered

    # ---------------------------------------------------------------- checkpoints

    def elapsed(self) -> float:
        """Seconds of this run so far, those before a resume included."""
        return self.seconds + time.monotonic() - self._started

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add where in the schedule the run is; plain values and tensors only, so that loading runs no code.

        Raises NotFinite where the state is not worth keeping.
        """
        self.check_finite(wait=True)
        with self._scales_of_training():
            self.model.check_scales()
        if self.phase is not None and not all_finite(self.model.parameters()):
            self._refuse(self.global_step, "weights are not finite any more")
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
