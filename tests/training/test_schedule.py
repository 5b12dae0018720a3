"""The schedule is a pure function of the step: phases in order, warm-up, cosine, and the paper's numbers."""

import itertools
import math

import pytest

from intvit.config.values import build
from intvit.errors import IntVitError
from intvit.training.config import train_config
from intvit.training.schedule import ScheduleConfig, TrainingPhase
from intvit.training.timeline import lay_out, training_phases
from tests.support.tiny_runs import composed

FLOAT, QAT = {"epochs": 2, "lr": 1e-3}, {"steps": 7, "lr": 1e-4}
PRESET = composed("schedule=calibrate")["schedule"]
PHASE = {"epochs": None, "steps": None, "min_lr_ratio": 0.0, "warmup": 0.0, "weight_decay": 0.0}


def schedule(**phases: object) -> ScheduleConfig:
    filled = {key: {**(PRESET[key] if key == "calibrate" else PHASE), **phase} for key, phase in phases.items()}
    return build(ScheduleConfig, {**PRESET, "calibrate": None, **filled}, "schedule")


def test_phases_follow_each_other_in_steps() -> None:
    timeline = lay_out(
        schedule(float=FLOAT, calibrate={}, qat=QAT, frozen={"epochs": 1, "lr": 1e-5}), 10, quantized=True
    )
    assert [(phase.name, phase.start, phase.stop, phase.mode, phase.frozen) for phase in timeline.phases] == [
        ("float", 0, 20, "float", False),
        ("qat", 20, 27, "integer", False),
        ("frozen", 27, 37, "integer", True),
    ]
    assert (timeline.steps, timeline.epochs) == (37, 4)
    held = [timeline.at(step) for step in (0, 19, 20, 26, 27, 36, 37)]
    assert [phase and phase.name for phase in held] == ["float", "float", "qat", "qat", "frozen", "frozen", None]


def test_without_quantization_every_phase_computes_reals() -> None:
    timeline = lay_out(schedule(float=FLOAT, calibrate={}, qat=QAT), 10, quantized=False)
    assert {(phase.mode, phase.calibrated, phase.frozen) for phase in timeline.phases} == {("float", False, False)}


def test_calibration_alone_takes_no_steps() -> None:
    calibrates = schedule(calibrate={"images": 3})
    assert training_phases(calibrates) == {}
    timeline = lay_out(calibrates, 0, quantized=True)
    assert (timeline.steps, timeline.epochs, timeline.phases) == (0, 0, ())


def test_warm_up_rises_to_lr_and_cosine_falls_to_the_minimum() -> None:
    phase = TrainingPhase(**{**PHASE, "lr": 1.0, "steps": 100, "min_lr_ratio": 0.1, "warmup": 0.1})
    rates = [phase.learning_rate(step, 100) for step in range(100)]
    assert rates[:10] == [(step + 1) / 11 for step in range(10)]
    assert rates[10] == 1.0
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))
    assert 0.1 < rates[-1] < 0.101


def test_the_paper_schedule_has_the_paper_numbers() -> None:
    config = train_config(composed("schedule=ivit", "schedule.qat.lr=2e-6")).schedule
    assert config.float is None
    assert config.frozen is None
    assert config.qat is not None
    assert config.qat.epochs in (30, 60, 90)
    assert config.qat.weight_decay == 1e-4
    assert config.qat.learning_rate(0, 1000) == 2e-6  # no warm-up
    assert math.isclose(config.qat.learning_rate(1000, 1000), 2e-6 / 15)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ({"qat": QAT}, "schedule.calibrate=null"),
        ({"float": {"lr": 1.0}}, "schedule.float: give either epochs or steps"),
        ({"float": {"lr": 1.0, "epochs": 1, "steps": 1}}, "schedule.float: give either epochs or steps"),
        ({"float": {"lr": 1.0, "epochs": 0}}, "schedule.float: a phase lasts at least 1"),
        ({"float": {"lr": -1.0, "epochs": 1}}, "schedule.float.lr=-1.0"),
        ({"float": {"epochs": 1}}, "schedule.float.lr: missing, expected a number"),
        ({"calibrate": {"images": 0}}, "schedule.calibrate.images=0"),
        ({"calibrate": {}, "tail": {}}, "schedule.tail: unknown key"),
    ],
)
def test_a_schedule_that_makes_no_sense_names_its_key(phases: dict, message: str) -> None:
    with pytest.raises(IntVitError) as caught:
        schedule(**phases)
    assert str(caught.value).startswith(message)
