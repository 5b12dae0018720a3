"""Checkpoints at any step, on signals, when the disk is full or the process dies while it writes; requeued jobs."""

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from intvit import signals
from intvit.errors import IntVitError
from intvit.training.checkpoints import TERMINATED, WholeCheckpointIO
from intvit.training.entry import train
from intvit.training.module import TrainingModule
from tests.support.quick import slow_but
from tests.support.shared import shared_folder
from tests.support.tiny_runs import rows, state, tiny, train_and_stop

STEPS = [  # five of float, five of QAT, two frozen; with mixing, stochastic depth, an average
    "schedule.qat.epochs=1",
    "schedule.frozen.epochs=null",
    "schedule.frozen.steps=2",
    "schedule.loss.mixup=0.8",
    "schedule.ema_decay=0.9",
    "model.drop_path=0.1",
    "callbacks.checkpoint_every_steps=1",
]


FLOAT = ["schedule.qat=null", "schedule.frozen=null"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "whole", lambda folder: train(tiny(*STEPS), folder))


def assert_same_run(folder: Path, whole: Path) -> None:
    assert rows(folder) == rows(whole)
    expected, resumed = state(whole), state(folder)
    assert [key for key in expected if not torch.equal(expected[key], resumed[key])] == []


def saved_step(folder: Path) -> int:
    return int(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"])


@contextmanager
def signal_at(step: int, number: int = signal.SIGUSR1) -> Iterator[None]:
    """Runs in the block get a signal while they take `step`."""
    original, before = TrainingModule.training_step, signal.getsignal(number)

    def training_step(self: TrainingModule, *arguments: Any) -> Any:
        if self.global_step == step:
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", training_step)
        yield
    assert signal.getsignal(number) is before


def exit_code(config: dict[str, Any], folder: Path) -> int:
    """Of a run that ends early."""
    with pytest.raises(SystemExit) as caught:
        train(config, folder)
    return int(str(caught.value.code))


# ---------------------------------------------------------------- any step


@pytest.mark.parametrize("step", slow_but((3, 5, 8), range(1, 12)))
def test_a_run_resumed_at_any_step_is_the_uninterrupted_one(step: int, tmp_path: Path, whole: Path) -> None:
    train_and_stop(step, tiny(*STEPS), tmp_path)
    assert saved_step(tmp_path) == step
    train(tiny("ckpt=last", *STEPS), tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_checkpoint_from_behind_the_end_of_the_schedule_is_evaluated(tmp_path: Path, whole: Path) -> None:
    shorter = ["schedule.qat.epochs=null", "schedule.qat.steps=1", "schedule.frozen.steps=1"]  # two epochs, not three
    summary = train(tiny(*STEPS, *shorter, f"ckpt={whole}"), tmp_path / "run")
    expected = json.loads((whole / "summary.json").read_text())
    assert summary["steps"] == expected["steps"] == 12
    assert summary["integer"] == expected["integer"]
    trained, evaluated = state(whole), state(tmp_path / "run")
    assert [key for key in trained if not torch.equal(trained[key], evaluated[key])] == []


@pytest.mark.parametrize(("number", "step"), [("SIGUSR1", 7), ("SIGUSR2", 9), ("SIGTERM", 11), ("SIGINT", 6)])
def test_a_signal_saves_the_step_and_ends_the_run(number: str, step: int, tmp_path: Path, whole: Path) -> None:
    # Between two checkpoints, at the end of an epoch, in the last step of all.
    config = [*STEPS[:-1], "callbacks.checkpoint_every_epochs=100"]
    with signal_at(step, getattr(signal, number)):
        assert exit_code(tiny(*config), tmp_path) == (130 if number == "SIGINT" else TERMINATED)
    assert saved_step(tmp_path) == step + 1
    train(tiny("ckpt=last", *config), tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def training_step(self: TrainingModule, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    monkeypatch.setattr(TrainingModule, "training_step", training_step)
    assert exit_code(tiny(*STEPS), tmp_path) == 130
    assert not (tmp_path / "checkpoints").exists()


def test_accumulated_gradients_are_stepped_before_they_are_saved(tmp_path: Path) -> None:
    # Five batches make three steps, the last of one batch.
    overrides = ["optimizer.accumulate=2", "callbacks.checkpoint_every_steps=1", "schedule.float.epochs=2", *FLOAT]
    train(tiny(*overrides), tmp_path / "whole")
    with signal_at(3):
        assert exit_code(tiny(*overrides), tmp_path / "run") == TERMINATED
    assert saved_step(tmp_path / "run") == 4
    train(tiny("ckpt=last", *overrides), tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# ---------------------------------------------------------------- a checkpoint is whole or the previous one


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    io = WholeCheckpointIO()
    io.save_checkpoint({"step": 1, "weights": torch.ones(10_000)}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(IntVitError, match=r"last.ckpt could not be written \(.*File too large.*\); make room"):
            io.save_checkpoint({"step": 2, "weights": torch.ones(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True)["step"] == 1


def test_a_kill_while_writing_leaves_the_previous_checkpoint_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    io = WholeCheckpointIO()
    io.save_checkpoint({"step": 1}, path)
    child = os.fork()
    if child == 0:

        def half(checkpoint: Any, file: Any) -> None:
            file.write(b"PK\3\4")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        torch.save = half
        io.save_checkpoint({"step": 2}, path)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    assert torch.load(path, weights_only=True)["step"] == 1
    io.save_checkpoint({"step": 3}, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True)["step"] == 3


# ---------------------------------------------------------------- started again


def test_a_requeued_job_goes_on_whatever_its_command_says(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_and_stop(8, tiny(*STEPS), tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    train(tiny("fresh=true", *STEPS), tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_signalled_slurm_job_is_requeued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "calls"}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    run = tmp_path / "run"
    with signal_at(3):
        assert exit_code(tiny(), run) == 0
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "15")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    with signal_at(6, signal.SIGUSR2):
        assert exit_code(tiny("ckpt=last"), run) == 0
    with signal_at(7, signal.SIGTERM):  # scancel, or a preemption that SLURM requeues by itself
        assert exit_code(tiny("ckpt=last"), run) == TERMINATED
    assert (tmp_path / "calls").read_text() == "requeue 17\nrequeue 15_2\n"
    scontrol.write_text("#!/bin/sh\necho no such job >&2; exit 1\n")
    with (
        signal_at(8),
        pytest.raises(IntVitError, match=r"requeue 15_2 failed \(no such job\); submit again, with ckpt"),
    ):
        train(tiny("ckpt=last"), run)
    assert saved_step(run) == 9


def test_a_signal_ends_the_final_evaluation_after_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, batches = TrainingModule.validation_step, []

    def validation_step(self: TrainingModule, *arguments: Any) -> Any:
        batches.append(arguments)
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    monkeypatch.setattr(TrainingModule, "validation_step", validation_step)
    assert exit_code(tiny("schedule.float=null", *FLOAT), tmp_path) == TERMINATED
    assert len(batches) == 1


@pytest.mark.parametrize("mode", ["float", "integer"])
def test_a_run_stopped_in_its_final_evaluation_ends_as_the_uninterrupted_one(
    mode: str, tmp_path: Path, whole: Path
) -> None:
    original = TrainingModule.validation_step

    def validation_step(self: TrainingModule, *arguments: Any) -> Any:
        if self.final_mode == mode:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "validation_step", validation_step)
        assert exit_code(tiny(*STEPS), tmp_path) == TERMINATED
    train(tiny("ckpt=last", *STEPS), tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_signal_before_training_code_is_imported_requeues_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "calls"}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    try:
        signals.keep()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert exit_code(tiny(), tmp_path / "run") == 0
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    assert (tmp_path / "calls").read_text() == "requeue 17\n"
    assert saved_step(tmp_path / "run") == 1


def test_starting_over_does_not_delete_the_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    train_and_stop(8, tiny(), tmp_path)
    for ckpt in (tmp_path, tmp_path / "checkpoints" / "last.ckpt"):
        with pytest.raises(IntVitError, match=r"fresh=true deletes .*last\.ckpt, which ckpt= would go on from"):
            train(tiny("fresh=true", f"ckpt={ckpt}"), tmp_path)
    assert saved_step(tmp_path) == 5


def test_a_job_that_did_not_go_on_is_not_requeued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    original = TrainingModule.validation_step

    def validation_step(self: TrainingModule, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        return original(self, *arguments)

    monkeypatch.setattr(TrainingModule, "validation_step", validation_step)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # requeued once already
    with pytest.raises(IntVitError, match=r"at step 0 without having gone on: not requeued; give the job more time"):
        train(tiny("schedule.float=null", *FLOAT), tmp_path)
