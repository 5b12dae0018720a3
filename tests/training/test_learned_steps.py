"""Runs that learn step sizes: they resume exactly, averages included, and several ranks take them."""

import json
from pathlib import Path

import pytest
import torch

from intvit.training.entry import train
from tests.support.forked_ranks import run_ranks
from tests.support.tiny_runs import rows, state, tiny, train_and_stop

LEARNED = ["quant=w4a8", "quant/observer=learned"]


def learned_steps(folder: Path) -> dict[str, torch.Tensor]:
    return {name: step for name, step in state(folder).items() if name.endswith(("proj.clip", "fc1.clip"))}


def test_a_run_with_learned_steps_and_averages_resumes_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    config = [*LEARNED, "schedule.ema_decay=0.9"]
    train(tiny(*config), tmp_path / "whole")
    train_and_stop(18, tiny(*config), tmp_path / "stopped")
    train(tiny("ckpt=last", *config), tmp_path / "stopped")
    expected, resumed = state(tmp_path / "whole"), state(tmp_path / "stopped")
    assert expected.keys() == resumed.keys()
    assert [key for key in expected if not torch.equal(expected[key], resumed[key])] == []
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    # The search for the first clip limits tries 61 shares: learned ones lie between them.
    shares = torch.linspace(1.0, 0.4, 61)
    steps = learned_steps(tmp_path / "whole")
    assert steps
    assert all(((step[:, None] - shares).abs().amin(1) > 0).any() for step in steps.values())
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["integer"]["top1"] == summary["history"][-1]["top1"]


def train_rank(rank: int, config: dict, folder: Path) -> None:
    train(config, folder)


@pytest.mark.xdist_group("ranks")
def test_two_ranks_learn_steps_through_phases_of_reals_and_of_integers(tmp_path: Path) -> None:
    log, folder = tmp_path / "log", tmp_path / "run"
    config = tiny(
        *LEARNED,
        *("trainer.strategy=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=16"),
        *("schedule.float.epochs=null", "schedule.float.steps=3"),
        *("schedule.qat.epochs=null", "schedule.qat.steps=3", "schedule.frozen=null"),
    )
    assert run_ranks(train_rank, config, folder, log=log) == [0, 0], log.read_text()
    assert learned_steps(folder)
