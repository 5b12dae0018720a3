"""What a model of a run is measured with: validation, the final evaluation in both modes, calibration, the teacher.

Numbers that are none are refused here, with the place where they began.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from intvit.calibration import Progress, calibrate
from intvit.config.run_files import LAST, UNFINISHED
from intvit.data.data_module import ShardDataModule
from intvit.errors import IntVitError
from intvit.models.base import ImageModel
from intvit.progress import Heartbeat
from intvit.quant import set_mode
from intvit.tasks import task_named
from intvit.tasks.confusion import Confusion, send_picture
from intvit.tasks.task import Metric
from intvit.torchvision_fix import ensure_torchvision
from intvit.training.config import TrainConfig
from intvit.training.finite import NotFinite, where_it_began
from intvit.training.restore import build_teacher
from intvit.training.timeline import PhaseSteps

ensure_torchvision()

import pytorch_lightning as pl  # noqa: E402
from lightning_fabric.utilities.apply_func import move_data_to_device  # noqa: E402

Batch = tuple[Tensor, Any]  # labels are the task's
DIVERGED = 50.0  # percent: an integer model that is right, or of one mind with float, less often is another model


class MeasuringModule(pl.LightningModule):
    """A `model` between the steps that train it.

    phase: what the model is in, None before the first step; calibrated: whether the ranges are fixed; history: what
    every validation measured, the first `carried` of them those of the run that this one extends; before_qat: what was
    measured right after calibration; final_mode: set for the final evaluation in that mode; final: mode -> what it
    measured.
    """

    def __init__(self, model: ImageModel, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        model.managed = True
        self.config = config
        self.phase: PhaseSteps | None = None
        self.calibrated = False
        self.history: list[dict[str, Any]] = []
        self.carried = 0
        self.before_qat: dict[str, Any] | None = None
        self.final_mode: str | None = None
        self.final: dict[str, dict[str, float]] = {}
        self.task = task_named(config.task.name)
        self._metric = self._new_metric()
        self._images: Tensor | None = None  # of the last step, to find out where it went wrong
        self._warned = False
        self._confusion: Confusion | None = None  # in the final evaluation, where a logger shows pictures
        # In a tuple, so that the teacher is no part of state_dict and parameters.
        self._teacher: tuple[nn.Module, ...] = ()
        distillation = config.schedule.loss.distillation
        if distillation.alpha and distillation.weights is not None:
            if distillation.features and config.quant.calibration.reparametrizes:
                raise IntVitError(
                    "schedule.loss.distillation.weights with features: quant.calibration turns and scales what "
                    "LayerNorms give, so that another teacher's are not comparable; set features=0 or weights=null"
                )
            self._teacher = (build_teacher(config.model, config.quant, distillation.weights),)

    @torch.no_grad()
    def calibrate(self) -> None:
        """Fix the ranges from the schedule's number of images, and keep a float copy where it is to teach."""
        schedule = self.config.schedule
        assert schedule.calibrate is not None
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

        unfinished = Path(self.trainer.default_root_dir) / UNFINISHED
        calibrate(self.model, batches(), progress=self._tell_steps(), resume=unfinished)
        if schedule.loss.distillation.alpha and not self._teacher:
            # Its float function is the one from before, its features are those of the parameters as they are now.
            state = {key: value.clone() for key, value in self.model.state_dict().items()}
            self._teacher = (build_teacher(self.config.model, self.config.quant, state),)
        self.calibrated = True

    def _tell_steps(self) -> Progress:
        """A line now and then on the steps of calibration behind the ranges."""
        told: dict[str, Heartbeat] = {}

        def tell(step: str, done: int, total: int) -> None:
            if step not in told:
                told[step] = Heartbeat(self.print, step, "layer", total)
            told[step].beat(done)

        return tell

    @torch.no_grad()
    def measure(self, mode: str) -> dict[str, float]:
        """What the task measures in one mode over the images of a validation, outside Lightning's own."""
        self.model.eval()
        set_mode(self.model, mode)
        metric, loader = self._new_metric(), self._data().val_dataloader()
        batches = self.config.trainer.batches(len(loader), "val")
        heartbeat = Heartbeat(self.print, f"validation before QAT, {mode}", "batch", batches)
        for number, (images, labels) in enumerate(itertools.islice(loader, batches)):
            heartbeat.beat(number, images=len(images))
            self._count(metric, images.to(self.device), move_data_to_device(labels, self.device))
        return self._percentages(metric)

    def _new_metric(self) -> Metric:
        return self.task.metric(self.config.model.num_classes, self.device)

    @property
    def _ranks(self) -> int:
        return self.trainer.world_size

    def _data(self) -> ShardDataModule:
        data = self.trainer.datamodule  # type: ignore[attr-defined] # public in Lightning, but declared nowhere
        assert isinstance(data, ShardDataModule)
        return data

    @torch.no_grad()
    def _teacher_logits(self, images: Tensor) -> Tensor | None:
        return self._teacher[0].to(images.device)(images) if self._teacher else None

    def on_validation_epoch_start(self) -> None:
        """In the final evaluation, choose the mode and make up for phases that no training step entered."""
        self._metric = self._new_metric()
        if self.final_mode is None:
            return
        if self.final_mode == "integer" and not self.calibrated:
            self.calibrate()
        set_mode(self.model, self.final_mode)
        self.model.eval()
        if len(self.trainer.loggers) > 1:  # more than metrics.csv
            self._confusion = Confusion(self.config.model.num_classes, self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count answers in the mode of the phase."""
        self._count(self._metric, *batch)

    def _count(self, metric: Metric, images: Tensor, labels: Any) -> None:
        with self.scales_of_training():
            scores = self.model(images)
        metric.add(scores, labels, self._teacher_logits(images))
        if self._confusion is not None:
            self._confusion.add(*self.task.answers(scores, labels))
        self._images = images

    def _percentages(self, metric: Metric) -> dict[str, float]:
        """Raises NotFinite where an image has a score that is not finite: nothing is measured then."""
        measured = metric.percentages(self._gather)
        if metric.broken:
            assert self._images is not None
            place = where_it_began(self.model, self._images)
            self.refuse(self.global_step, f"{metric.broken} validation images have no finite score, first {place}")
        return measured

    def on_validation_epoch_end(self) -> None:
        """Log the percentages over all ranks, and agreement with the teacher where there is one."""
        measured = self._percentages(self._metric)
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
        figure, title = next(iter(self.task.figures.items()))
        floats = [entry[figure] for entry in self.history if entry["mode"] == "float"]
        if self.before_qat is not None:
            floats.append(self.before_qat["float"][figure])
        kept = measured.get("agreement", 100.0 * measured[figure] / floats[-1] if floats and floats[-1] else 100.0)
        if kept < DIVERGED:
            self._warned = True
            key = "agreement with the teacher" if "agreement" in measured else f"of the float model's {title} is left"
            name = self.phase.name if self.phase else "qat"
            self.print(f"warning: QAT diverges: {kept:.1f} % {key}; a smaller schedule.{name}.lr keeps it nearer")

    def _gather(self, counts: Tensor) -> Tensor:
        """The counts of every rank, one row each."""
        gathered = self.all_gather(counts)
        assert isinstance(gathered, Tensor)
        return gathered

    @contextmanager
    def scales_of_training(self) -> Iterator[None]:
        """Where no integers follow from the weights, once steps of the phase have moved them, say so as for NaN."""
        try:
            yield
        except IntVitError as error:
            if self.phase is None or self.global_step == self.phase.start:
                raise
            self.refuse(self.global_step, str(error))

    def refuse(self, step: int, what: str) -> NoReturn:
        """Raise NotFinite for a step, with the way out."""
        if self.phase is None:
            raise NotFinite(f"before training: {what}; check model.weights and the data")
        last = Path(self.trainer.default_root_dir) / LAST
        kept = f"{last} from before it is kept; " if last.is_file() else ""
        raise NotFinite(
            f"step {step}, phase {self.phase.name}: {what}; {kept}try a smaller "
            f"schedule.{self.phase.name}.lr (now {self.phase.phase.lr:g}) or optimizer.gradient_clip=1"
        )
