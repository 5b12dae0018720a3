"""Runs of task=segmentation: learned, resumed, evaluated to equal integers on every runtime, drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from intvit.commands import main
from intvit.errors import IntVitError
from intvit.evaluation.compare import MismatchError
from intvit.evaluation.entry import evaluate
from intvit.program import load_checkpoint
from intvit.runtime import load
from intvit.runtime.numpy import NumpyRuntime
from intvit.training.entry import train
from tests.support import scenes
from tests.support.shared import shared_folder
from tests.support.tiny_runs import composed, rows, state, train_and_stop

RUNTIMES = "runtimes=[torch,numpy]"


def tiny(root: Path, *overrides: str) -> dict[str, Any]:
    return composed(*scenes.overrides(root), *overrides)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "scenes", scenes.write_scenes)


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(
        tmp_path_factory,
        "segmentation-run",
        lambda folder: train(tiny(root, "schedule.float.epochs=6", "schedule.float.lr=3e-3", "quant=lut8"), folder),
    )


@pytest.fixture(scope="module")
def evaluated(finished: Path) -> dict[str, Any]:
    overrides = [f"ckpt={finished}", RUNTIMES, "dense_scores=true", "overlays=2", "device=cpu"]
    return evaluate(composed(*overrides, config_name="evaluate"))


def test_a_run_learns_and_says_what_the_task_measures(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    for mode in ("float", "integer"):
        assert list(summary[mode]) == ["miou", "pixel_accuracy"]
    assert summary["float"]["miou"] > 60
    assert summary["integer"]["miou"] > summary["float"]["miou"] - 10
    assert "integer/miou" in rows(finished)[-1]
    assert (finished / "checkpoints" / "best.ckpt").is_file()


def test_every_pixel_and_every_score_is_equal_on_every_runtime(evaluated: dict[str, Any], finished: Path) -> None:
    assert set(evaluated["runtimes"]) == {"torch", "numpy"}
    for figures in evaluated["runtimes"].values():
        assert (figures["mismatches"], figures["score_mismatches"]) == (0, 0)
        assert {key: figures[key] for key in evaluated["qat"]} == evaluated["qat"]
    assert list(evaluated["qat"]) == ["miou", "pixel_accuracy", "agreement"]
    summary = json.loads((finished / "summary.json").read_text())
    assert evaluated["qat"]["miou"] == pytest.approx(summary["integer"]["miou"], abs=1e-4)
    assert evaluated["float"]["agreement"] == 100.0
    assert [len(evaluated["classes"][name]) for name in ("float", "qat")] == [3, 3]
    program = load_checkpoint(finished / "integer")
    assert (program.form, program.num_classes) == ("labels", 3)


def test_one_other_pixel_of_a_batch_is_counted(
    evaluated: dict[str, Any], finished: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = NumpyRuntime.__call__

    def nearly(self: NumpyRuntime, images: np.ndarray) -> np.ndarray:
        labels = original(self, images)
        labels[0, 3, 4] = (labels[0, 3, 4] + 1) % 3
        return labels

    monkeypatch.setattr(NumpyRuntime, "__call__", nearly)
    overrides = [f"integer={finished / 'integer'}", f"evaluation.out={tmp_path}", f"data.root={root}"]
    with pytest.raises(MismatchError, match=r"labels differ on 1 pixels of 6 images \(image 0: no operator differs"):
        evaluate(composed(*overrides, RUNTIMES, config_name="evaluate"))


def test_the_page_shows_photo_float_integer_and_difference(evaluated: dict[str, Any], finished: Path) -> None:
    with Image.open(finished / "overlays.png") as page:
        assert page.width == 4 * (48 + 6) + 6
        assert page.height > 2 * 32
        assert len(page.getcolors(1 << 20)) > 20


def test_run_draws_a_mask_with_the_palette_and_an_overlay(
    evaluated: dict[str, Any], finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photo, _ = scenes.scene(99)
    Image.fromarray(photo).save(tmp_path / "street.png")
    (tmp_path / "text.png").write_text("no picture")
    command = ["run", str(finished / "integer"), str(tmp_path / "street.png"), str(tmp_path / "text.png")]
    assert (
        main([*command, "--runtime", "numpy", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "j.json")]) == 1
    )
    assert "text.png: none of" in capsys.readouterr().err
    with Image.open(tmp_path / "out" / "street.mask.png") as mask:
        assert (mask.mode, mask.size) == ("P", (56, 40))
        labels = np.asarray(mask)
        assert mask.getpalette()[:6] == [0, 0, 0, 128, 0, 0]  # Pascal VOC's
    whole = Image.fromarray(photo).resize((48, 32), Image.Resampling.BILINEAR)
    given = load(finished / "integer", "numpy")(np.asarray(whole).transpose(2, 0, 1)[None].copy())[0]
    centre = labels[20, 28]
    assert centre == given[(2 * 20 + 1) * 32 // 80, (2 * 28 + 1) * 48 // 112]
    with Image.open(tmp_path / "out" / "street.overlay.png") as overlay:
        assert (overlay.mode, overlay.size) == ("RGB", (56, 40))
    first, second = json.loads((tmp_path / "j.json").read_text())["images"]
    assert sum(each["percent"] for each in first["classes"]) == pytest.approx(100, abs=0.01)
    assert "error" in second


@pytest.mark.parametrize("step", [2])
def test_a_resumed_run_ends_as_one_that_never_stopped(root: Path, step: int, tmp_path: Path) -> None:
    values = tiny(root, "callbacks.checkpoint_every_steps=1")
    train_and_stop(step, values, tmp_path / "stopped")
    train({**values, "ckpt": "last"}, tmp_path / "stopped")
    train(values, tmp_path / "whole")
    for name, expected in state(tmp_path / "whole").items():
        assert torch.equal(state(tmp_path / "stopped")[name], expected), name


@pytest.mark.parametrize("head", ["multi", "mask"])
def test_other_heads_train_on_integers_and_their_float_copy_teaches(root: Path, head: str, tmp_path: Path) -> None:
    taught = ["schedule.float=null", "schedule.loss.label_smoothing=0", "schedule.loss.distillation.alpha=1.0"]
    taught += ["schedule.loss.distillation.features=10.0", "schedule.calibrate.measure=true"]
    summary = train(tiny(root, f"task.head={head}", "schedule.limit_steps=2", *taught), tmp_path)
    assert set(summary["integer"]) == {"miou", "pixel_accuracy", "agreement"}
    assert set(summary["before_qat"]) == {"float", "integer"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=classification"], "task=classification learns from classes, and data=masks has data.labels=masks"),
        (["schedule.loss.mixup=0.8"], "schedule.loss.mixup=0.8: for images of one label each"),
        (["callbacks.best=float/top1"], "with miou, pixel_accuracy or agreement"),
        (["data.image_size=[32,36]"], "does not divide"),
        (["data.patch_size=null", "data.image_size=[24,48]"], "is not divisible by model.patch_size=16"),
        (["model.dense=multi"], "model.dense=multi but task.head=linear: set task.head alone"),
    ],
)
def test_what_does_not_go_with_the_task_is_refused(
    root: Path, overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(IntVitError, match=message):
        train(tiny(root, *overrides), tmp_path)
    assert not (tmp_path / "config.yaml").exists()
