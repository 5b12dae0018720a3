"""Schedulers of torch as a function of the step."""

from pathlib import Path

import pytest
import torch

from intvit.errors import IntVitError
from intvit.training.entry import train
from intvit.training.scheduler import rate_factors
from tests.support.tiny_runs import rows, state, tiny, train_and_stop

STEP = "{_target_: torch.optim.lr_scheduler.StepLR, step_size: 3, gamma: 0.1}"


def test_the_rates_are_those_that_torch_gives_step_by_step() -> None:
    entry = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 1.0, "total_steps": 21}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=21)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rate_factors(entry, 20) == tuple(expected)


def test_a_scheduler_follows_the_warm_up_of_every_phase_and_resumes(tmp_path: Path) -> None:
    own = [f"+optimizer.scheduler={STEP}", "schedule.float.warmup=0.4", "schedule.float.lr=0.01", "schedule.qat.lr=0.5"]
    own += ["schedule.qat.warmup=0", "schedule.frozen=null", "schedule.qat.epochs=1"]
    train(tiny(*own), tmp_path / "whole")
    rates = [float(row["train/lr"]) for row in rows(tmp_path / "whole") if row["train/lr"]]
    assert rates[:5] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.01, 0.01])
    assert rates[5:] == pytest.approx([0.5, 0.5, 0.5, 0.05, 0.05])
    train_and_stop(7, tiny(*own), tmp_path / "stopped")
    train(tiny("ckpt=last", *own), tmp_path / "stopped")
    expected, resumed = state(tmp_path / "whole"), state(tmp_path / "stopped")
    assert [key for key in expected if not torch.equal(expected[key], resumed[key])] == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{_target_: torch.optim.lr_scheduler.ReduceLROnPlateau}", "metrics"),
        ("{_target_: torch.optim.lr_scheduler.StepLR}", "step_size"),
        ("{_target_: torch.optim.lr_scheduler.Nothing}", "Nothing"),
        (
            "{_target_: torch.optim.lr_scheduler.ExponentialLR, gamma: nan}",
            "multiplies the rate with nan at step 1 of a",
        ),
        ("{_target_: torch.optim.lr_scheduler.ExponentialLR, gamma: -1}", r"multiplies the rate with -1\.0 at step 1"),
    ],
)
def test_a_scheduler_that_is_no_function_of_the_step_is_refused(entry: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(IntVitError, match=rf"optimizer\.scheduler=.*{message}"):
        train(tiny(f"+optimizer.scheduler={entry}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
