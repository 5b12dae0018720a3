"""Several ranks train what one rank would: equal traces and ranges, every image counted once, no rank goes astray."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from intvit.errors import IntVitError
from intvit.quant.quantizer import Quantizer
from intvit.tasks.classification.accuracy import Accuracy
from intvit.training.entry import train
from intvit.training.module import TrainingModule
from tests.support.forked_ranks import run_ranks
from tests.support.quick import slow_but
from tests.support.tiny_runs import rows, state, tiny

DDP = ["trainer.strategy=ddp", "trainer.accelerator=cpu"]
# What SLURM tells a task of srun, and a shell of salloc (LaunchParameters=use_interactive_step).
STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NNODES": "2", "SLURM_STEP_NUM_NODES": "2"}
SHELL = {"SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0", "SLURM_NNODES": "1"}
# Float, calibration, five steps of QAT with min-max ranges everywhere; 32 images in every step.
TRACE = [
    "schedule.float.epochs=null",
    "schedule.float.steps=5",
    "schedule.qat.epochs=null",
    "schedule.qat.steps=5",
    "schedule.frozen=null",
    "quant.observer.activation=minmax",
]


def ranked(*overrides: str, ranks: int = 2) -> dict[str, Any]:
    return tiny(*DDP, f"trainer.devices={ranks}", f"data.batch_size={32 // ranks}", *overrides)


def losses(folder: Path) -> list[float]:
    return [float(row["train/loss"]) for row in rows(folder) if row["train/loss"]]


def train_rank(rank: int, config: dict[str, Any], folder: Path) -> None:
    train(config, folder)


def train_and_record(rank: int, config: dict[str, Any], folder: Path) -> None:
    """Train; write the ranges after every step, and how many images each validation counted, into rankN.json."""
    ranges: list[list[list[float]]] = []
    counted: list[int] = []
    percentages = Accuracy.percentages

    def after_step(self: TrainingModule, *_: Any) -> None:
        ranges.append([m.statistic.tolist() for m in self.modules() if isinstance(m, Quantizer)])

    def count(self: Accuracy, gather: Any = None) -> dict[str, float]:
        counts = self._counts if gather is None else gather(self._counts).view(-1, 6).sum(0)
        counted.append(int(counts[3]))
        return percentages(self, gather)

    TrainingModule.on_train_batch_end = after_step
    Accuracy.percentages = count
    train(config, folder)
    (folder.parent / f"rank{rank}.json").write_text(json.dumps({"ranges": ranges, "counted": counted}))


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("preset", slow_but(("ivit8_true8",), ("lut8", "ivit8_true8")))
def test_two_ranks_take_the_steps_of_one_and_share_their_ranges(preset: str, tmp_path: Path) -> None:
    overrides = [*TRACE, f"quant={preset}"]
    log = tmp_path / "log"
    assert run_ranks(train_and_record, ranked(*overrides), tmp_path / "two", log=log) == [0, 0], log.read_text()
    train(ranked(*overrides, ranks=1), tmp_path / "one")
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 10
    assert two == pytest.approx(one, rel=1e-4)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert len(first["ranges"]) == 10
    assert first["ranges"][5:] == second["ranges"][5:]  # as numbers, not nearly
    assert first["ranges"][5] != first["ranges"][9]
    assert first["counted"] == second["counted"] == [45] * len(first["counted"])
    assert len(first["counted"]) >= 3  # an epoch's, then both of the end


def count_collectives(rank: int, config: dict[str, Any], folder: Path) -> None:
    """Train; write how many collectives our code and Lightning's called in each step, DDP's of gradients apart."""
    counts: list[int] = []
    calls = [0]
    for name in ("all_reduce", "all_gather", "all_gather_object", "broadcast", "barrier"):
        original = getattr(torch.distributed, name)

        def counted(*arguments: Any, _original: Any = original, **options: Any) -> Any:
            calls[0] += 1
            return _original(*arguments, **options)

        setattr(torch.distributed, name, counted)
    start, end = TrainingModule.on_train_batch_start, TrainingModule.on_train_batch_end

    def before(self: TrainingModule, *arguments: Any) -> Any:
        result = start(self, *arguments)
        calls[0] = 0
        return result

    def after(self: TrainingModule, *arguments: Any) -> None:
        counts.append(calls[0])
        end(self, *arguments)

    TrainingModule.on_train_batch_start, TrainingModule.on_train_batch_end = before, after
    train(config, folder)
    (folder.parent / f"counts{rank}.json").write_text(json.dumps(counts))


@pytest.mark.xdist_group("ranks")
def test_a_step_of_qat_exchanges_ranges_once_whatever_the_depth(tmp_path: Path) -> None:
    log = tmp_path / "log"
    config = ranked(*TRACE, "model.depth=12")
    assert run_ranks(count_collectives, config, tmp_path / "run", log=log) == [0, 0], log.read_text()
    counts = json.loads((tmp_path / "counts0.json").read_text())
    assert counts[:4] == [2] * 4  # the mean of the loss, and what signals ask for
    assert counts[5:9] == [3] * 4  # and the ranges


# ---------------------------------------------------------------- a rank dies


def die_at(rank: int, config: dict[str, Any], folder: Path, step: int) -> None:
    original = TrainingModule.training_step

    def training_step(self: TrainingModule, *arguments: Any) -> Any:
        if rank == 1 and self.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *arguments)

    TrainingModule.training_step = training_step
    train(config, folder)


@pytest.mark.xdist_group("ranks")
def test_a_killed_rank_ends_the_job_and_the_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    overrides = ["callbacks.checkpoint_every_steps=2"]
    log = tmp_path / "log"
    assert run_ranks(train_rank, ranked(*overrides), tmp_path / "whole", log=log) == [0, 0], log.read_text()
    # Step 13 is the fourth of the third epoch, in QAT; the last checkpoint is that of step 12.
    began = time.monotonic()
    codes = run_ranks(die_at, ranked(*overrides), tmp_path / "killed", 13, log=log)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0
    assert time.monotonic() - began < 50  # not the half hour that collectives wait for
    checkpoint = torch.load(tmp_path / "killed" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 12
    assert run_ranks(train_rank, ranked("ckpt=last", *overrides), tmp_path / "killed", log=log) == [0, 0]
    assert "goes on at step 12" in log.read_text()
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    expected, resumed = state(tmp_path / "whole"), state(tmp_path / "killed")
    assert [key for key in expected if not torch.equal(expected[key], resumed[key])] == []


# ---------------------------------------------------------------- ranks that do not come


def alone(rank: int, config: dict[str, Any], folder: Path, message: str) -> None:
    """The first rank waits for the second, which does nothing but live."""
    if rank == 1:
        time.sleep(4)
        return
    with pytest.raises(IntVitError, match=message):
        train(config, folder)


def alone_until_a_signal(rank: int, config: dict[str, Any], folder: Path) -> None:
    if rank == 1:
        time.sleep(4)
        return
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SystemExit) as end:
        train(config, folder)
    assert end.value.code == 128 + signal.SIGTERM


@pytest.mark.xdist_group("ranks")
def test_waiting_for_a_rank_ends_after_the_time_given_and_names_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    config = ranked("trainer.wait_minutes=0.02")
    message = r"rank 0 of 2 has waited 0.02 minutes for rank 1: look at what they say; trainer.wait_minutes=N"
    assert run_ranks(alone, config, tmp_path / "run", message, log=log) == [0, 0], log.read_text()
    assert not (tmp_path / "run").exists()


@pytest.mark.xdist_group("ranks")
def test_a_signal_ends_the_waiting_for_other_ranks(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run_ranks(alone_until_a_signal, ranked(), tmp_path / "run", log=log) == [0, 0], log.read_text()


def test_one_process_in_a_shell_of_salloc_trains_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {**SHELL, "SLURM_NTASKS": "8", "SLURM_JOB_ID": "3", "SLURM_JOB_NAME": "mine"}.items():
        monkeypatch.setenv(key, value)
    summary = train(tiny("trainer=cpu", "schedule.float=null", "schedule.qat=null", "schedule.frozen=null"), tmp_path)
    assert summary["steps"] == 0


# ---------------------------------------------------------------- ranks that do not fit together


def signalled(rank: int, config: dict[str, Any], folder: Path) -> None:
    original = TrainingModule.training_step

    def training_step(self: TrainingModule, *arguments: Any) -> Any:
        if rank == 1 and self.global_step == 7:
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(self, *arguments)

    TrainingModule.training_step = training_step
    train(config, folder)


@pytest.mark.xdist_group("ranks")
def test_a_signal_to_one_rank_stops_all_of_them_at_the_same_step(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = 128 + signal.SIGTERM
    assert run_ranks(signalled, ranked(), tmp_path / "run", log=log) == [code, code], log.read_text()
    assert "stopped by a signal at step 8; go on with ckpt=last" in log.read_text()
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 8


def differing(rank: int, folder: Path) -> None:
    with pytest.raises(IntVitError, match=r"ranks differ in their config: \w+ on rank 0, \w+ on rank 1; every rank"):
        train(ranked(f"seed={rank}"), folder)


@pytest.mark.xdist_group("ranks")
def test_ranks_with_different_configs_refuse_to_run(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run_ranks(differing, tmp_path / "run", log=log) == [0, 0], log.read_text()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "overrides", "message"),
    [
        ({}, ["trainer.devices=2"], r"trainer.devices=2 trainer.num_nodes=1: ranks are started by a launcher"),
        ({}, ["trainer.devices=auto"], r"trainer.devices=auto: expected an integer"),
        (
            {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"},
            [],
            r"torchrun started 4 ranks, but trainer.devices=1 trainer.num_nodes=1: say trainer=ddp",
        ),
        (
            {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_NNODES": "2"},
            ["trainer.devices=2"],
            r"trainer: You set `--ntasks=2` .* Use `--ntasks-per-node=2` instead",
        ),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "a"}, [], r"2 tasks, but one process was started: srun python"),
        (
            {**SHELL, "SLURM_NTASKS": "8"},
            ["trainer.strategy=ddp"],
            r"8 tasks, but one process was started: srun python",
        ),
        (
            {**STEP, "SLURM_NTASKS": "5", "SLURM_STEP_NUM_TASKS": "5", "SLURM_STEP_TASKS_PER_NODE": "3,2"},
            ["trainer.devices=2", "trainer.num_nodes=2", "trainer.strategy=ddp"],
            r"srun placed 3,2 tasks on 2 nodes; every node needs the same number: --ntasks-per-node=N",
        ),
        (
            {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"},
            ["trainer.devices=3", "trainer.strategy=ddp"],
            r"torchrun started 4 ranks, but trainer.devices=3 trainer.num_nodes=1: leave both out",
        ),
    ],
)
def test_ranks_that_nobody_or_somebody_else_started_are_refused(
    environment: dict[str, str], overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(IntVitError, match=message):
        train(tiny("trainer=cpu", *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (1, 1)),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "16", "GROUP_WORLD_SIZE": "2"}, (8, 2)),
        ({"SLURM_STEP_ID": "0", "SLURM_NTASKS": "12", "SLURM_PROCID": "0", "SLURM_NNODES": "3"}, (4, 3)),
        ({"SLURM_NTASKS": "12", "SLURM_PROCID": "0", "SLURM_NNODES": "3"}, (1, 1)),  # the batch script itself
        ({**SHELL, "SLURM_NTASKS": "8"}, (1, 1)),  # what salloc opens: one process, whatever the job has
        ({**STEP, "SLURM_NTASKS": "12", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}, (2, 2)),
    ],
)
def test_trainer_ddp_takes_what_the_launcher_says(
    environment: dict[str, str], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    trainer = tiny("trainer=ddp_cpu")["trainer"]
    assert (trainer["devices"], trainer["num_nodes"]) == expected
    assert (trainer["strategy"], trainer["accelerator"]) == ("ddp", "cpu")
