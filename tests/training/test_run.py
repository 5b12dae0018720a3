"""A training run: what its folder holds, that it resumes as if it had not stopped, what repeating it means."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from intvit.config.identity import identity_hash
from intvit.errors import IntVitError
from intvit.progress import Heartbeat
from intvit.training import run_folder
from intvit.training.entry import train
from intvit.training.restore import restore_run
from tests.support.shared import shared_folder
from tests.support.tiny_runs import TINY, rows, state, tiny, train_and_stop

ROOT = Path(__file__).parents[2]
NO_TRAINING = ["schedule.qat=null", "schedule.frozen=null"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "finished", lambda folder: train(tiny(), folder))


def test_the_folder_holds_config_metrics_checkpoint_and_summary(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {"config.yaml", "metrics.csv", "checkpoints", "summary.json"}
    assert [path.name for path in (finished / "checkpoints").iterdir()] == ["best.ckpt", "last.ckpt"]
    assert OmegaConf.to_container(OmegaConf.load(finished / "config.yaml")) == tiny()
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["experiment"] == identity_hash(tiny())
    assert summary["steps"] == 20
    assert [(entry["phase"], entry["mode"]) for entry in summary["history"]] == [
        ("float", "float"),
        ("qat", "integer"),
        ("qat", "integer"),
        ("frozen", "integer"),
    ]
    assert 0 <= summary["float"]["top1"] <= summary["float"]["top5"] <= 100
    assert summary["integer"] == {key: summary["history"][-1][key] for key in ("top1", "top5")}
    losses = [row for row in rows(finished) if row["train/loss"]]
    assert [int(row["step"]) for row in losses] == list(range(20))


def test_the_checkpoint_holds_the_model_that_was_measured(finished: Path) -> None:
    folder, config, model, teacher, kept = restore_run(str(finished))
    assert (folder, teacher, kept["calibrated"], config.model.width) == (finished, None, True, 16)
    assert restore_run(str(finished / "checkpoints" / "last.ckpt"))[0].resolve() == finished.resolve()
    from intvit.data.loading import validation_loader
    from intvit.quant import set_mode

    set_mode(model, "integer")
    right = sum(
        int((model.integer_scores(images).argmax(1) == labels).sum())
        for images, labels in validation_loader(config.data)
    )
    assert 100 * right / 45 == pytest.approx(json.loads((finished / "summary.json").read_text())["integer"]["top1"])


@pytest.mark.parametrize(("step", "ema"), [(3, "null"), (12, "null"), (18, "0.9")])
def test_a_stopped_run_resumes_as_if_it_had_not_stopped(step: int, ema: str, tmp_path: Path, finished: Path) -> None:
    # Steps 3, 12 and 18 lie in float (before the first checkpoint), qat and frozen; each epoch has five.
    overrides = [f"schedule.ema_decay={ema}", "model.drop_path=0.1"] if ema != "null" else []
    whole = finished if ema == "null" else tmp_path / "whole"
    train(tiny(*overrides), whole)
    train_and_stop(step, tiny(*overrides), tmp_path / "stopped")
    train(tiny("ckpt=last", *overrides), tmp_path / "stopped")
    expected, resumed = state(whole), state(tmp_path / "stopped")
    assert expected.keys() == resumed.keys()
    assert [key for key in expected if not torch.equal(expected[key], resumed[key])] == []
    assert rows(tmp_path / "stopped") == rows(whole)
    # What was validated inside training (the average, where there is one) is what remains at its end.
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["integer"] == {key: summary["history"][-1][key] for key in ("top1", "top5")}


def test_a_finished_run_says_so_and_returns_its_summary(finished: Path, capsys: pytest.CaptureFixture) -> None:
    before = (finished / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    for ckpt in ("null", "last"):
        assert train(tiny(f"ckpt={ckpt}"), finished) == json.loads((finished / "summary.json").read_text())
        assert "finished; fresh=true starts it over" in capsys.readouterr().out
    assert (finished / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


def test_an_unfinished_run_is_neither_continued_nor_overwritten_by_accident(
    tmp_path: Path,
) -> None:
    train_and_stop(8, tiny(), tmp_path)
    with pytest.raises(IntVitError, match=r"unfinished run: go on with ckpt=last, or start over with fresh=true$"):
        train(tiny(), tmp_path)
    (tmp_path / "integer.onnx").touch()  # as export=onnx writes it
    (tmp_path / "notes.txt").touch()
    train(tiny("fresh=true"), tmp_path)
    assert not (tmp_path / "integer.onnx").exists()
    assert (tmp_path / "notes.txt").exists()
    assert [int(row["step"]) for row in rows(tmp_path) if row["train/loss"]] == list(range(20))


def test_a_folder_of_another_experiment_is_refused_and_the_difference_named(finished: Path) -> None:
    with pytest.raises(
        IntVitError, match=r"another experiment \(data.seed: 0 -> 1; seed: 0 -> 1\): give another hydra.run.dir"
    ):
        train(tiny("seed=1", "ckpt=last"), finished)


def test_last_without_a_checkpoint_starts(tmp_path: Path) -> None:
    summary = train(tiny("ckpt=last", "schedule.float=null", *NO_TRAINING), tmp_path)
    assert summary["steps"] == 0
    assert summary["integer"] is not None


def test_calibration_alone_changes_no_weight(finished: Path, tmp_path: Path) -> None:
    _, _, trained, _, _ = restore_run(str(finished))
    weights = tmp_path / "weights.pth"
    torch.save(dict(trained.named_parameters()), weights)
    train(tiny("schedule.float=null", *NO_TRAINING, f"model.weights={weights}"), tmp_path / "run")
    _, _, calibrated, _, kept = restore_run(str(tmp_path / "run"))
    assert kept["calibrated"]
    for (name, before), (_, after) in zip(trained.named_parameters(), calibrated.named_parameters(), strict=True):
        assert torch.equal(before, after), name


def test_steps_end_a_phase_inside_an_epoch(tmp_path: Path) -> None:
    summary = train(tiny("schedule.float.epochs=null", "schedule.float.steps=3", *NO_TRAINING), tmp_path)
    assert summary["steps"] == 3


def test_without_quantization_the_summary_has_no_integer_figures(tmp_path: Path) -> None:
    summary = train(tiny("quant=fp32"), tmp_path)
    assert summary["integer"] is None
    assert {entry["mode"] for entry in summary["history"]} == {"float"}


def test_distillation_without_labels_keeps_its_teacher_across_a_resume(
    tmp_path: Path,
) -> None:
    teacher = "schedule.loss.distillation"
    overrides = [f"{teacher}.alpha=1.0", f"{teacher}.features=1.0", "schedule.calibrate.measure=true"]
    train_and_stop(12, tiny(*overrides), tmp_path)
    summary = train(tiny("ckpt=last", *overrides), tmp_path)
    assert {*summary["before_qat"]} == {"float", "integer"}
    assert summary["before_qat"]["float"]["agreement"] == 100.0
    assert 0 <= summary["integer"]["agreement"] <= 100
    assert restore_run(str(tmp_path))[3] is not None


def test_gradients_accumulate_over_batches(tmp_path: Path) -> None:
    summary = train(tiny("optimizer.accumulate=2", "optimizer.gradient_clip=1.0"), tmp_path)
    assert summary["steps"] == 12  # five batches make three steps an epoch


def test_several_devices_without_a_launcher_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IntVitError, match=r"trainer.devices=2 .*: ranks are started by a launcher, not .*: torchrun"):
        train(tiny("trainer=cpu", "trainer.devices=2"), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.depth=2"], "does not fit this run's config"),
        (
            ["schedule.float=null", *NO_TRAINING],
            "this schedule takes no step to go on with; model.weights=FILE takes weights",
        ),
        (["schedule.qat=null", "schedule.frozen=null"], "is of a schedule with more phases"),
    ],
)
def test_a_checkpoint_that_cannot_go_on_is_refused_before_anything_is_written(
    overrides: list[str], message: str, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(IntVitError, match=message):
        train(tiny(f"ckpt={finished}", *overrides), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_of_two_starts_at_once_the_second_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one ends while the second waits for the folder."""
    prepare = run_folder.prepare

    def first_ends_meanwhile(folder: Path, *arguments: Any) -> run_folder.Start:
        start = prepare(folder, *arguments)
        run_folder.write_config(folder, tiny())
        (folder / "summary.json").write_text("{}")
        return start

    monkeypatch.setattr(run_folder, "prepare", first_ends_meanwhile)
    for overrides in ([], ["fresh=true"]):
        with pytest.raises(IntVitError, match="another start of this run was at work in it since this one began"):
            train(tiny(*overrides), tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "summary.json"}


def test_a_checkpoint_of_elsewhere_overwrites_no_other_run(finished: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    with pytest.raises(IntVitError, match="holds another experiment"):
        train(tiny(f"ckpt={finished}", "seed=1"), other)
    (other / "summary.json").unlink()
    with pytest.raises(IntVitError, match="holds an unfinished run"):
        train(tiny(f"ckpt={finished}"), other)
    train(tiny(f"ckpt={other / 'checkpoints' / 'last.ckpt'}"), other)
    assert json.loads((other / "summary.json").read_text())["steps"] == 20


def test_a_damaged_checkpoint_is_one_line(finished: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes((finished / "checkpoints" / "last.ckpt").read_bytes()[:1000])
    with pytest.raises(IntVitError, match=r"damaged.ckpt is not a readable checkpoint"):
        train(tiny(f"ckpt={damaged}"), tmp_path / "run")


def test_the_command_line_runs_in_outputs_name_hash(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *TINY, "schedule.float=null", *NO_TRAINING]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (folder,) = (tmp_path / "outputs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert folder.name == summary["name"] == f"deit_s-ivit8-digits-demo-{summary['experiment']}"
    assert f"python evaluate.py ckpt=outputs/{folder.name}" in done.stdout


def test_a_log_file_is_never_silent_for_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Heartbeat, "seconds", 0.0)  # every time it could
    measured = ["schedule.calibrate.measure=true", "callbacks.progress=lines", "data.eval_batch_size=15"]
    train(tiny(*measured), tmp_path)
    said = capsys.readouterr().out
    for line in (
        r"training, step 1/20, float: loss \d\.\d{3}, [\d.]+ images/s, 0:00:\d\d left",
        r"validation, batch 2/3, [\d.]+ images/s, 0:00:00 left",
        r"calibrating, image 15/64, [\d.]+ images/s, 0:00:\d\d left",
        r"validation before QAT, integer, batch 2/3, [\d.]+ images/s",
        r"final validation, float, batch 1/3, [\d.]+ images/s",
        r"training, step 17/20, frozen: loss",
    ):
        assert re.search(line, said), line
