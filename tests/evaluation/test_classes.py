"""The classes of a folder of photos reach the exported program, and are compared wherever data meets that again."""

import shutil
from pathlib import Path

import pytest

from intvit.analysis.analyzed_model import ModelSource, open_calibrated
from intvit.config.identity import YOUNGER
from intvit.errors import IntVitError
from intvit.evaluation.entry import evaluate
from intvit.program import load_checkpoint
from intvit.training.entry import train
from intvit.training.run_folder import read_config, write_config
from tests.support.photo_trees import write_tree
from tests.support.shared import shared_folder
from tests.support.tiny_runs import composed, tiny

CLASSES = ["Bee, small", "ant", "cät"]
SMALL = ["data.image_size=4", "data.patch_size=2", "data.batch_size=4", "data.eval_batch_size=8", "data.workers=0"]


def photos(folder: Path) -> None:
    for split, count in (("train", 4), ("validation", 2)):
        write_tree(folder / "photos" / split, dict.fromkeys(CLASSES, count))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        photos(folder)
        root = f"data.root={folder / 'photos'}"
        only = ["schedule.float=null", "schedule.qat.epochs=1", "schedule.frozen=null", "schedule.calibrate.images=8"]
        train(tiny("data=folder", "data/train_transform=none", root, *SMALL, *only), folder / "run")

    return shared_folder(tmp_path_factory, "photos", make)


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def evaluated(*overrides: str) -> dict:
    return evaluate(composed(*overrides, config_name="evaluate"))


def test_the_folders_names_reach_the_program_also_where_the_photos_are_gone(folder: Path) -> None:
    root = f"data.root={folder / 'photos'}"
    assert evaluated(f"ckpt={folder / 'run'}", root)["runtimes"]["numpy"]["mismatches"] == 0
    program = load_checkpoint(folder / "run" / "integer")
    assert program.classes == CLASSES
    assert program.provenance["config"]["data"]["orientation"] == "apply"
    (folder / "photos" / "train").rename(folder / "elsewhere")
    assert evaluated(f"integer={folder / 'run' / 'integer'}", root)["images"] == 6


@pytest.mark.parametrize("kind", ["ckpt={}/run", "integer={}/run/integer"])
def test_other_classes_are_refused_in_one_line(folder: Path, kind: str) -> None:
    root = f"data.root={folder / 'photos'}"
    evaluated(f"ckpt={folder / 'run'}", root)
    for split in ("train", "validation"):
        (folder / "photos" / split / "ant").rename(folder / "photos" / split / "ape")
    with pytest.raises(
        IntVitError, match=r"class 1 is 'ape', the model has 'ant' there; give data of the same"
    ) as raised:
        evaluated(kind.format(folder), root)
    assert "\n" not in str(raised.value)
    with pytest.raises(IntVitError, match=r"class 1 is 'ape', .*run has 'ant' there"):
        open_calibrated(
            ModelSource(str(folder / "run"), data=str(folder / "photos"), calibration=str(folder / "photos"))
        )
    shutil.rmtree(folder / "photos" / "train")
    shutil.rmtree(folder / "photos" / "validation" / "ape")
    with pytest.raises(IntVitError, match=r"has 2 class folders, data.num_classes=3; give every class a folder"):
        evaluated(kind.format(folder), root)
    with pytest.raises(IntVitError, match=r"data=folder has 2 classes, the model 3"):
        evaluated(kind.format(folder), "data=folder", root)


def test_a_run_goes_on_with_its_own_classes_alone(folder: Path) -> None:
    config = read_config(folder / "run")
    config["data"]["root"] = str(folder / "photos")
    for split in ("train", "validation"):
        (folder / "photos" / split / "ant").rename(folder / "photos" / split / "ape")
    (folder / "run" / "summary.json").unlink()
    config["ckpt"] = "last"
    with pytest.raises(IntVitError, match=r"class 1 is 'ape', .*last.ckpt has 'ant' there"):
        train(config, folder / "run")


def test_the_folder_of_a_run_older_than_the_keys_of_data_is_read_and_found(folder: Path) -> None:
    config = read_config(folder / "run")
    values = {**config["data"], **YOUNGER["data"], "root": None, "class_names": "indices"}
    write_config(folder / "run", {**config, "data": {k: v for k, v in values.items() if k not in YOUNGER["data"]}})
    assert read_config(folder / "run")["data"] == values
