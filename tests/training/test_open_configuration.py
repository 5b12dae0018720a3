"""Callbacks, loggers, optimizers and arguments of the trainer that are not ours, named in a config."""

import csv
import sys
from pathlib import Path

import pytest

from intvit.errors import IntVitError
from intvit.training.entry import train
from intvit.training.run_folder import read_config
from tests.support.tiny_runs import rows, tiny

FLOAT = ["quant=fp32", "schedule.calibrate=null", "schedule.qat=null", "schedule.frozen=null"]
PACKAGE = """
import datetime

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger

class Counts(pl.Callback):
    def __init__(self, path):
        self.path, self.steps = path, 0
    def on_train_batch_end(self, *arguments):
        self.steps += 1
    def on_train_end(self, *arguments):
        open(self.path, "w").write(str(self.steps))

class Keeps(pl.Callback):
    def state_dict(self):
        return {"since": datetime.datetime.now()}

class Mine(CSVLogger):
    pass

class Descent(torch.optim.SGD):
    pass
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "users_training.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path / "package"))
    monkeypatch.delitem(sys.modules, "users_training", raising=False)
    return tmp_path


def test_a_users_package_brings_a_callback_a_logger_and_an_optimizer_in_three_lines(package: Path) -> None:
    conf = package / "conf"
    for group in ("experiment", "optimizer"):
        (conf / group).mkdir(parents=True)
    (conf / "optimizer" / "descent.yaml").write_text(
        "defaults: [base]\ntarget: users_training.Descent\noptions: {momentum: 0.5}\n"
    )
    (conf / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        f"callbacks: {{counts: {{_target_: users_training.Counts, path: {package}/count}}}}\n"
        "logger: {mine: {_target_: users_training.Mine, name: '', version: mine}}\n"
        "defaults: [{override /optimizer: descent}]\n"
    )
    own = [f"hydra.searchpath=[{conf}]", "experiment=mine"]
    train(tiny(*FLOAT, *own), package / "run")
    assert (package / "count").read_text() == "5"
    with (package / "run" / "mine" / "metrics.csv").open(newline="") as file:
        logged = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert logged == pytest.approx([float(row["train/loss"]) for row in rows(package / "run") if row["train/loss"]])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+callbacks.x._target_=no.such.Class", r"callbacks\.x\._target_=no\.such\.Class: .*no"),
        ("+callbacks.x._target_=collections.OrderedDict", r"makes a OrderedDict, expected a Callback"),
        ("+callbacks.x={_target_: pytorch_lightning.callbacks.EarlyStopping}", r"monitor"),
        ("+callbacks.checkpoint_evry=1", r"callbacks\.checkpoint_evry: unknown key; did you mean checkpoint_every"),
        ("+logger.x._target_=pytorch_lightning.callbacks.Timer", r"logger\.x\._target_.* expected a Logger"),
        ("+trainer.limit_trian_batches=2", r"trainer\.limit_trian_batches: unknown key; did you mean limit_train_ba"),
        ("+trainer.max_epochs=2", r"trainer\.max_epochs: the phases of the schedule say how long"),
        ("+trainer.accumulate_grad_batches=2", r"trainer\.accumulate_grad_batches: say optimizer\.accumulate=N"),
        ("+trainer.plugins=x", r"trainer\.plugins: a run has its own"),
        ("trainer.max_time=8h", r"trainer\.max_time=8h: expected days:hours:minutes:seconds, such as 00:08:00:00"),
        ("trainer.limit_train_batches=0.001", r"leaves no batch"),
        ("trainer.strategy=fsdp", r"trainer\.strategy=fsdp: .*ddp"),
        ("trainer.strategy=deepspeed_stage_2", r"trainer\.strategy=deepspeed_stage_2: .*ddp"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(IntVitError, match=message):
        train(tiny(*FLOAT, override), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_callback_whose_state_no_checkpoint_could_be_read_with_is_refused_before_the_first_step(
    package: Path,
) -> None:
    with pytest.raises(IntVitError, match=r"callback Keeps: a checkpoint with its state could not be read again"):
        train(tiny(*FLOAT, "+callbacks.mine._target_=users_training.Keeps"), package / "run")
    assert not (package / "run" / "checkpoints").exists()


def test_a_monitor_that_is_not_measured_yet_ends_the_run_in_one_line_with_the_way_out(tmp_path: Path) -> None:
    stop = "{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: integer/top1}"
    with pytest.raises(IntVitError, match=r"`integer/top1` which is not available.*strict=false waits for them"):
        train(tiny("debug=fast", f"+callbacks.stop={stop}"), tmp_path)


def test_limits_of_lightning_shorten_the_epochs_and_the_timeline_knows(tmp_path: Path) -> None:
    assert train(tiny("trainer.limit_train_batches=2"), tmp_path / "a")["steps"] == 8  # four epochs
    assert train(tiny("trainer.limit_train_batches=0.6", *FLOAT), tmp_path / "b")["steps"] == 3


def test_figures_of_a_part_of_the_validation_set_are_all_of_that_part_and_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = [
        "trainer.limit_val_batches=1",
        "data.eval_batch_size=4",
        "schedule.float=null",
        "schedule.calibrate.measure=true",
    ]
    summary = train(tiny("debug=fast", *part), tmp_path)
    assert (
        "note: all figures are of a part of the validation set, trainer.limit_val_batches=1" in capsys.readouterr().out
    )
    for measured in (*summary["before_qat"].values(), summary["float"], summary["integer"]):
        assert measured["top1"] in (0, 25, 50, 75, 100)  # percent of 4 images


def test_every_debug_preset_runs(tmp_path: Path) -> None:
    assert train(tiny("debug=fast"), tmp_path / "fast")["steps"] == 6
    train(tiny("debug=profile", *FLOAT), tmp_path / "profile")
    summary = train(
        tiny("debug=overfit", "schedule.float.epochs=120", "schedule.float.lr=1e-2", *FLOAT), tmp_path / "o"
    )
    assert summary["steps"] == 120
    losses = [float(row["train/loss"]) for row in rows(tmp_path / "o") if row["train/loss"]]
    assert losses[-1] < 0.3 * losses[0]


def test_a_run_that_early_stopping_ends_says_so(tmp_path: Path) -> None:
    stop = ["callbacks=early_stopping", "callbacks.early_stopping.monitor=float/top1", *FLOAT]
    stop += ["callbacks.early_stopping.patience=1", "schedule.float.lr=0", "schedule.float.epochs=9", *FLOAT]
    summary = train(tiny("callbacks.progress=none", *stop), tmp_path)
    assert summary["steps"] == 10  # two epochs without anything learned
    assert summary["stopped_early"] is True


def test_a_run_that_max_time_ends_goes_on_as_if_it_had_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train(tiny("trainer.max_time=00:00:00:00"), tmp_path / "run")
    assert end.value.code == 0
    assert "stopped after trainer.max_time at step 1; go on with ckpt=last" in capsys.readouterr().out
    assert not (tmp_path / "run" / "summary.json").exists()
    train(tiny("ckpt=last"), tmp_path / "run")
    train(tiny(), tmp_path / "whole")
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_a_config_of_an_earlier_version_is_read_with_the_keys_it_did_not_know(tmp_path: Path) -> None:
    train(tiny(*FLOAT), tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text("".join(x for x in text.splitlines(True) if "wait_minutes" not in x))
    assert read_config(tmp_path)["trainer"]["wait_minutes"] == 10
