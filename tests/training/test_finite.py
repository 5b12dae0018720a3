"""What is not a number ends the run in one line that says where, and leaves nothing that looks like a result."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from intvit.errors import IntVitError
from intvit.tasks.classification.accuracy import Accuracy
from intvit.training.entry import train
from intvit.training.finite import FiniteWatch, where_it_began
from intvit.training.module import TrainingModule
from tests.support.small_models import random_images, small_model
from tests.support.tiny_runs import rows, tiny

FLOAT = ["quant=fp32", "schedule.calibrate=null", "schedule.qat=null", "schedule.frozen=null"]


@pytest.mark.parametrize("rate", ["1e3", "1e10", "1e38"])
def test_a_rate_that_destroys_the_weights_ends_the_run_at_the_step_without_a_figure(rate: str, tmp_path: Path) -> None:
    way = f"smaller schedule.float.lr (now {float(rate):g}) or optimizer.gradient_clip=1"
    message = rf"step \d+, phase float: .*{re.escape(way)}"
    rates = [f"schedule.float.lr={rate}", "schedule.float.warmup=0", "schedule.float.epochs=8"]
    with pytest.raises(IntVitError, match=message):
        train(tiny(*FLOAT, *rates), tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()
    if (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
        held = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in held.values() if value.is_floating_point())


@pytest.mark.parametrize("every", [1, 1000])
def test_a_rate_that_leaves_no_integers_ends_qat_at_the_step_whenever_metrics_are_logged(
    every: int, tmp_path: Path
) -> None:
    rate = ["schedule.qat.lr=1e6", "schedule.qat.warmup=0", f"trainer.log_every_steps={every}"]
    message = r"step [67], phase qat: .*ratio of scales.*is kept; try a smaller schedule\.qat\.lr \(now 1e\+06\)"
    with pytest.raises(IntVitError, match=message):
        train(tiny(*rate), tmp_path)
    assert not (tmp_path / "summary.json").exists()


def broken_at(step: int, what: str) -> Any:
    """A training step that makes what it is told to NaN at one step."""
    original = TrainingModule.training_step

    def training_step(self: TrainingModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == step and what == "weights":
            with torch.no_grad():
                self.model.blocks[0].mlp.fc1.weight[0, 0] = torch.nan
        loss = original(self, batch, batch_idx)
        if self.global_step == step and what == "gradient":
            self.model.blocks[0].norm2.weight.register_hook(lambda gradient: gradient * torch.nan)
            loss = original(self, batch, batch_idx)
        return loss

    return training_step


@pytest.mark.parametrize(
    ("what", "phase", "step", "place"),
    [
        ("weights", "float", 3, r"the weights blocks\.0\.mlp\.fc1\.weight"),
        ("gradient", "float", 3, r"the gradient of blocks\.0\.norm2\.weight"),
        ("gradient", "qat", 7, r"the gradient of blocks\.0\.norm2\.weight"),
    ],
)
def test_the_line_names_step_phase_and_the_first_place(
    what: str, phase: str, step: int, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingModule, "training_step", broken_at(step, what))
    with pytest.raises(
        IntVitError, match=rf"step {step}, phase {phase}: .* first {place}; .*try a smaller schedule.{phase}.lr"
    ):
        train(tiny(), tmp_path)
    assert not (tmp_path / "summary.json").exists()
    assert all(int(row["step"]) <= step for row in rows(tmp_path))
    if step > 5:  # the first epoch was saved
        assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5


def test_a_layer_whose_output_is_not_finite_is_found_by_name() -> None:
    model = small_model("lut8")
    images = random_images(2, 0)
    assert where_it_began(model, images) == "the loss"
    model.blocks[0].attn.proj.register_forward_hook(lambda module, inputs, output: output * torch.inf)
    assert where_it_began(model, images) == "the output of blocks.0.attn.proj"


def test_a_large_gradient_is_still_a_number() -> None:
    watch = FiniteWatch()
    watch.look([torch.full((4,), 1e30)], 3)  # the sum of its squares is no float32 any more
    assert watch.first(wait=True) is None
    watch.look([torch.ones(4), torch.tensor([1.0, torch.nan])], 5)
    assert watch.first(wait=True) == 5


def test_scores_of_nan_are_counted_as_broken_and_never_as_right() -> None:
    accuracy = Accuracy()
    scores = torch.tensor([[torch.nan] * 3, [0.0, torch.inf, 1.0], [3.0, 1.0, 0.0]])
    accuracy.add(scores, torch.tensor([0, 0, 0]))
    assert accuracy.percentages()["top1"] == pytest.approx(100 / 3)
    assert accuracy.broken == 2


def test_weights_of_nan_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TrainingModule.on_validation_epoch_start

    def poisoned(self: TrainingModule) -> None:
        original(self)
        with torch.no_grad():
            self.model.norm.bias[0] = torch.nan

    monkeypatch.setattr(TrainingModule, "on_validation_epoch_start", poisoned)
    with pytest.raises(IntVitError, match=r"45 validation images have no finite score, first the weights norm\.bias"):
        train(tiny(*FLOAT), tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_a_diverging_integer_model_is_warned_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny("schedule.float.epochs=10", "schedule.qat.lr=3", "callbacks.progress=lines"), tmp_path)
    assert capsys.readouterr().out.count("warning: QAT diverges") == 1
