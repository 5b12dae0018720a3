"""`intvit export hub`: still a checkpoint, with a card and large-file storage, made without network."""

import json
from pathlib import Path

import pytest
import yaml

from intvit.commands import main
from intvit.program import load_checkpoint, save_checkpoint
from tests.support.random_programs import random_program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(random_program(4), tmp_path / "integer")
    return tmp_path / "integer"


def test_the_folder_is_the_checkpoint_with_what_the_hub_reads(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    figures = {"data": "digits", "images": 3, "runtimes": {"numpy": {"top1": 50.0, "top5": 75.0, "mismatches": 0}}}
    (tmp_path / "evaluation.json").write_text(json.dumps(figures))
    out = tmp_path / "the hub"
    options = ["--license", "mit", "--evaluation", str(tmp_path / "evaluation.json")]
    assert main(["export", "hub", str(folder), str(out), *options]) == 0
    assert f"`hf upload USER/NAME '{out}'`" in capsys.readouterr().out
    assert load_checkpoint(out) == load_checkpoint(folder)
    names = {"README.md", "program.json", "weights.safetensors", "bounds.json", ".gitattributes"}
    assert {path.name for path in out.iterdir()} == names
    assert (out / ".gitattributes").read_text().startswith("weights.safetensors filter=lfs")
    said = yaml.safe_load((out / "README.md").read_text().split("\n---\n")[0][4:])
    assert said["license"] == "mit"
    assert said["model-index"][0]["results"][0]["metrics"][0]["value"] == 50.0


def test_what_is_there_is_never_replaced_and_another_file_is_no_evaluation(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pixels = tmp_path / "evaluation.json"
    pixels.write_text(
        json.dumps({"data": "camvid", "images": 3, "runtimes": {"numpy": {"miou": 50.0, "mismatches": 0}}})
    )
    for arguments, message in [
        ([str(folder), str(folder)], "is not empty; give a new folder"),
        ([str(folder), str(tmp_path / "new"), "--evaluation", str(folder / "program.json")], "not an evaluation.json"),
        (
            [str(folder), str(tmp_path / "new"), "--evaluation", str(pixels)],
            "the evaluation has no top1: it is of another",
        ),
        ([str(tmp_path / "nowhere"), str(tmp_path / "new")], "is not a folder"),
    ]:
        with pytest.raises(SystemExit):
            main(["export", "hub", *arguments])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
