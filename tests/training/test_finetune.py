"""Weights of one's own float run become integers; a new classifier is trained alone first, then everything."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import intvit
from intvit.config.run_files import LAST, read_config
from intvit.errors import IntVitError
from intvit.models.weights import is_classifier, load_weights
from intvit.training.entry import train
from intvit.training.restore import restore_run
from tests.support.shared import shared_folder
from tests.support.tiny_runs import TINY, composed, state, tiny, train_and_stop

SIZE = [override for override in TINY if not override.startswith("schedule.")]
CALIBRATE = ["schedule=calibrate", "schedule.calibrate.images=64"]


@pytest.fixture(scope="module")
def float_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = ["quant=fp32", "schedule.qat=null", "schedule.frozen=null"]
    return shared_folder(tmp_path_factory, "float_run", lambda folder: train(tiny(*overrides), folder))


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    return train(composed(*SIZE, *overrides), folder)


@pytest.mark.parametrize("given", ["", str(LAST)])
def test_a_float_run_s_weights_become_integers(
    given: str, float_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = run(tmp_path / "run", *CALIBRATE, f"model.weights={float_run / given}")
    assert summary["integer"] is not None
    assert summary["float"] == json.loads((float_run / "summary.json").read_text())["float"]
    before, after = state(float_run), state(tmp_path / "run")
    _, _, model, _, _ = restore_run(str(tmp_path / "run"))
    assert all(torch.equal(before[f"model.{key}"], after[f"model.{key}"]) for key, _ in model.named_parameters())
    experiment = json.loads((float_run / "summary.json").read_text())["experiment"]
    assert summary["weights"]["run"] == {"name": float_run.name, "experiment": experiment}
    assert "left out the ranges; calibration finds them anew" in caplog.text


def test_a_run_s_weights_are_not_read_as_something_else(float_run: Path, tmp_path: Path) -> None:
    cases = {
        "data.mean=[0.5,0.5,0.5]": "its data.mean is [0.3053, 0.3053, 0.3053], the model's [0.5, 0.5, 0.5]",
        "model.heads=4": "it has 2 heads, the model 4: say the same",
        "data.image_size=16": "its image size is 8, the model 16: model.resample=true",
    }
    for override, message in cases.items():
        with pytest.raises(IntVitError) as caught:
            run(tmp_path / "run", *CALIBRATE, f"model.weights={float_run}", override)
        assert "is of a run whose weights mean something else" in str(caught.value)
        assert message in str(caught.value)
    size = {"image_size": 8, "patch_size": 4, "width": 16, "depth": 1, "heads": 2}
    digits = read_config(float_run)["data"]
    model = intvit.create_model("deit_s", num_classes=7, mean=digits["mean"], std=digits["std"], **size)
    with pytest.raises(IntVitError, match=r"it has 10 classes, the model 7: model\.head=fresh"):
        load_weights(model, float_run)
    load_weights(model, float_run, head="fresh")


def test_classes_in_another_order_are_not_those_of_the_run(
    float_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = torch.load(float_run / LAST, weights_only=True)
    names = [f"digit {digit}" for digit in range(10)]
    checkpoint["intvit"]["classes"] = names
    torch.save(checkpoint, tmp_path / "other.ckpt")
    monkeypatch.setattr("intvit.training.entry.class_names", lambda data: names[::-1])
    with pytest.raises(
        IntVitError, match=r"class 0 is 'digit 9', .*other\.ckpt has 'digit 0' there; say model.head=fresh "
    ):
        run(tmp_path / "run", *CALIBRATE, f"model.weights={tmp_path / 'other.ckpt'}")
    capsys.readouterr()
    run(tmp_path / "fresh", *CALIBRATE, f"model.weights={tmp_path / 'other.ckpt'}", "model.head=fresh")
    assert "note: a new classifier (model.head=fresh) that nothing trains" in capsys.readouterr().out


def test_a_checkpoint_that_has_left_its_folder_is_weights_as_well(float_run: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copy(float_run / LAST, tmp_path / "kept.ckpt")
    run(tmp_path / "run", *CALIBRATE, f"model.weights={elsewhere}")
    _, _, model, _, _ = restore_run(str(tmp_path / "run"))
    before = state(float_run)
    assert all(torch.equal(before[f"model.{key}"], value) for key, value in model.named_parameters())


def test_a_run_without_a_checkpoint_says_so(float_run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((float_run / "config.yaml").read_text())
    with pytest.raises(IntVitError, match="this run has not saved a checkpoint yet"):
        run(tmp_path / "run", *CALIBRATE, f"model.weights={tmp_path}")


def test_the_classifier_alone_moves_first_then_everything_also_after_a_stop(float_run: Path, tmp_path: Path) -> None:
    finetune = [f"model.weights={float_run}", "model.head=fresh", "schedule=finetune", "schedule.calibrate.images=64"]
    summary = run(tmp_path / "frozen", *finetune, "schedule.float=null")
    assert [entry["phase"] for entry in summary["history"]] == ["head"]
    before, after = state(float_run), state(tmp_path / "frozen")
    moved = {key.removeprefix("model.") for key in before if not torch.equal(before[key], after[key])}
    _, _, model, _, _ = restore_run(str(tmp_path / "frozen"))
    names = [key for key, _ in model.named_parameters()]
    assert {key for key in names if key in moved} == {key for key in names if is_classifier(key)}
    summary = run(tmp_path / "whole", *finetune, "schedule.float.epochs=1")
    assert [entry["phase"] for entry in summary["history"]] == ["head", "float"]
    assert summary["integer"] is not None
    after = state(tmp_path / "whole")
    assert all(not torch.equal(before[f"model.{key}"], after[f"model.{key}"]) for key in names)
    stopped = [*SIZE, *finetune, "schedule.float.epochs=1"]
    train_and_stop(8, composed(*stopped), tmp_path / "stopped")  # five steps of each phase
    train(composed(*stopped, "ckpt=last"), tmp_path / "stopped")
    resumed = state(tmp_path / "stopped")
    assert [key for key in after if not torch.equal(after[key], resumed[key])] == []


def test_a_run_folder_of_earlier_days_is_read_with_the_keys_that_came_later(float_run: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((float_run / "config.yaml").read_text())
    for key in ("weights_key", "weights_prefix", "head", "resample"):
        del values["model"][key]
    del values["schedule"]["head"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert read_config(tmp_path) == read_config(float_run)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.weights_key=ema", "model.weights_key=ema without model.weights: say which file"),
        ("model.weights_prefix=net", "model.weights_prefix=net without model.weights: say which file"),
        ("model.head=fresh", "change weights that are given: say model.weights=FILE or model.pretrained=true"),
        ("model.resample=true", "change weights that are given: say model.weights=FILE or model.pretrained=true"),
        ("model.head=new", "model.head=new: unknown, expected one of keep, fresh"),
    ],
)
def test_keys_about_weights_without_weights_are_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(IntVitError) as caught:
        run(tmp_path / "run", *CALIBRATE, override)
    assert message in str(caught.value)
